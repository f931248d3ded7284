"""The filters of PNG, undone: for pictures of 16 bits per channel, of which Pillow keeps the upper 8."""

import numpy as np
from jaxtyping import UInt8

from ..compiling import kernel


@kernel
def unfilter(rows: UInt8[np.ndarray, "H n"], pixel: int) -> bool:
    """Undo the filters of all rows in place.

    Args:
        rows: a byte that names the filter (0 none, 1 left, 2 above, 3 mean of both, 4 Paeth), and the bytes
            of the pixels.
        pixel: bytes of a pixel.

    Returns:
        Whether all filters are known.
    """
    for y in range(rows.shape[0]):
        kind = rows[y, 0]
        if kind > 4:
            return False
        for x in range(1, rows.shape[1]):
            left = int(rows[y, x - pixel]) if x > pixel else 0
            above = int(rows[y - 1, x]) if y else 0
            corner = int(rows[y - 1, x - pixel]) if y and x > pixel else 0
            guess = 0
            if kind == 1:
                guess = left
            elif kind == 2:
                guess = above
            elif kind == 3:
                guess = (left + above) // 2
            elif kind == 4:
                estimate = left + above - corner
                by_left, by_above = abs(estimate - left), abs(estimate - above)
                by_corner = abs(estimate - corner)
                if by_left <= by_above and by_left <= by_corner:
                    guess = left
                elif by_above <= by_corner:
                    guess = above
                else:
                    guess = corner
            rows[y, x] = np.uint8((int(rows[y, x]) + guess) & 255)
    return True
