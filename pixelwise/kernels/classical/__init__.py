"""Kernels of the classical algorithms."""
