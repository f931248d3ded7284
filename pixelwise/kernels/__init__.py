"""Loops that NumPy and torch cannot make fast, compiled by Numba; a folder per subject.

A kernel takes and gives NumPy arrays and plain numbers, and knows neither torch nor `pixelwise.types`.
The tests hold a plain NumPy reference beside each.
"""

from .compiling import inlined as inlined, kernel as kernel, parallel_map as parallel_map
