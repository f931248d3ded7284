"""Kernels that run over scores or labels of single pixels."""
