"""Loops that NumPy and torch cannot make fast, compiled by Numba; one folder per subject.

A kernel takes and gives NumPy arrays and plain numbers, and knows neither torch nor the types of this
package. The tests hold a plain NumPy reference beside each.
"""

from .compiling import inlined as inlined, kernel as kernel, parallel_map as parallel_map
