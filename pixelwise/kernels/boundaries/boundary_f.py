"""Boundaries of masks as rows of bits, and how many of their pixels lie near another boundary."""

import math

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from ..compiling import kernel
from ..constants import ALL, ONE
from ..intrinsics import lowest_bit


def boundary_bits(mask: Bool[np.ndarray, "h w"]) -> UInt64[np.ndarray, "h words"]:
    """The boundary of a mask, 64 pixels of a row to a word, the leftmost in the lowest bit.

    A pixel is on it where the mask differs from its neighbour to the east, south or south-east (`seg2bmap` of
    the Berkeley segmentation benchmark and of DAVIS). Beyond the image the mask goes on as at its edge.

    >>> boundary_bits(np.array([[0, 0, 0], [0, 1, 1], [0, 1, 1]], dtype=bool)).tolist()
    [[7], [1], [1]]
    """
    height, width = mask.shape
    packed = np.zeros((height, 8 * (width // 64 + 1)), np.uint8)
    if width:
        packed[:, : (width + 7) // 8] = np.packbits(mask, axis=1, bitorder="little")
        packed[:, width // 8] |= mask[:, -1].astype(np.uint8) << (
            width % 8
        )  # the neighbour of the last column
    words = packed.view("<u8").astype(np.uint64, copy=False)
    boundary: UInt64[np.ndarray, "h words"] = np.zeros_like(words)
    mark_boundary(words, width, boundary)
    return boundary


@kernel
def mark_boundary(
    mask: UInt64[np.ndarray, "h words"], width: int, boundary: UInt64[np.ndarray, "h words"]
) -> None:
    """Set the boundary's bits; the mask holds one column more than `width`, a copy of the last."""
    height, words = mask.shape
    for y in range(height):
        below = min(y + 1, height - 1)
        for j in range(words):
            east, south, south_east = mask[y, j] >> ONE, mask[below, j], mask[below, j] >> ONE
            if j + 1 < words:
                east |= mask[y, j + 1] << np.uint64(63)
                south_east |= mask[below, j + 1] << np.uint64(63)
            here = mask[y, j]
            boundary[y, j] = (here ^ east) | (here ^ south) | (here ^ south_east)
        boundary[y, words - 1] &= (ONE << np.uint64(width & 63)) - ONE


def disk_reach(radius: int) -> Int64[np.ndarray, " rows"]:
    """How far a disk of `radius` pixels reaches to either side of its centre, per row from the centre down.

    >>> disk_reach(3).tolist()
    [3, 2, 2, 0]
    """
    return np.array([math.isqrt(radius**2 - dy**2) for dy in range(radius + 1)], np.int64)


@kernel
def count_near(
    boundary: UInt64[np.ndarray, "h words"],
    other: UInt64[np.ndarray, "h words"],
    reach: Int64[np.ndarray, " rows"],
) -> tuple[int, int]:
    """Number of pixels of `boundary`, and of those with a pixel of `other` in the disk around them.

    The same pixels as those of `boundary` under a dilation of `other` by the disk; but boundaries are thin
    and mostly near each other, so looking around every pixel takes less time than to dilate.
    """
    count, near = 0, 0
    height, words = boundary.shape
    for y in range(height):
        for j in range(words):
            word = boundary[y, j]
            while word:
                count += 1
                near += _is_near(other, y, 64 * j + lowest_bit(word), reach)
                word &= word - ONE
    return count, near


@kernel
def _is_near(other: UInt64[np.ndarray, "h words"], y: int, x: int, reach: Int64[np.ndarray, " rows"]) -> bool:
    height, words = other.shape
    for dy in range(len(reach)):
        left, right = max(x - reach[dy], 0), min(x + reach[dy], 64 * words - 1)
        from_left = ALL << np.uint64(left & 63)
        to_right = ALL >> np.uint64(63 - (right & 63))
        for row in (y - dy, y + dy):
            if 0 <= row < height:
                for j in range(left >> 6, (right >> 6) + 1):
                    word = other[row, j]
                    if j == left >> 6:
                        word &= from_left
                    if j == right >> 6:
                        word &= to_right
                    if word:
                        return True
    return False
