"""Constants of 64-bit words: Numba makes floating-point numbers of whole ones beside unsigned integers."""

import numpy as np

ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
ONE = np.uint64(1)
ZERO = np.uint64(0)
