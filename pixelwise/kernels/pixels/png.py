"""The filters of PNG, undone."""

import numpy as np
from jaxtyping import UInt8

from ..compiling import kernel


@kernel
def unfilter(rows: UInt8[np.ndarray, "H n1"], pixel: int, out: UInt8[np.ndarray, "H n"]) -> bool:
    """Undo the filters of all rows.

    Args:
        rows: a byte that names the filter (0 none, 1 left, 2 above, 3 mean of both, 4 Paeth), and the bytes
            of the pixels.
        pixel: bytes of a pixel.
        out: receives the bytes of the pixels.

    Returns:
        Whether all filters are known.
    """
    count = out.shape[1]
    none = np.zeros(count, np.uint8)
    for y in range(rows.shape[0]):
        kind, coded, row = rows[y, 0], rows[y, 1:], out[y]
        above = out[y - 1] if y else none
        if kind == 0:
            row[:] = coded
        elif kind == 1:
            row[:pixel] = coded[:pixel]
            for x in range(pixel, count):
                row[x] = coded[x] + row[x - pixel]
        elif kind == 2:
            for x in range(count):
                row[x] = coded[x] + above[x]
        elif kind == 3:
            for x in range(count):
                left = int(row[x - pixel]) if x >= pixel else 0
                row[x] = int(coded[x]) + (left + int(above[x])) // 2
        elif kind == 4:
            for x in range(count):
                left = int(row[x - pixel]) if x >= pixel else 0
                corner = int(above[x - pixel]) if x >= pixel else 0
                up = int(above[x])
                by_left, by_above = abs(up - corner), abs(left - corner)
                by_corner = abs(left + up - 2 * corner)
                guess = corner
                if by_left <= by_above and by_left <= by_corner:
                    guess = left
                elif by_above <= by_corner:
                    guess = up
                row[x] = int(coded[x]) + guess
        else:
            return False
    return True
