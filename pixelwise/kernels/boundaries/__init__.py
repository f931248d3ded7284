"""Kernels on boundaries and surfaces, and the distances to them."""
