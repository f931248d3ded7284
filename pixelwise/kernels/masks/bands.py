"""Outlines of the regions of a label map that is read in bands of rows.

An edge is a side of a pixel (0 above, 1 right, 2 below, 3 left), walked with its pixel on the right, as in
`polygons.trace`: which edge comes next follows from the two pixels ahead. Where that is an edge of a pixel of
another band, an outline is cut; it goes on with the piece that begins there.
"""

import numpy as np
from jaxtyping import Int32, Int64

from ..compiling import kernel
from .rle import Offsets

_DOWN = np.array([0, 1, 0, -1])  # where the walk along each side leads
_ACROSS = np.array([1, 0, -1, 0])


@kernel
def _comes_from_outside(rows: Int32[np.ndarray, "h w"], y: int, x: int, side: int) -> bool:
    """Whether the edge before this one is that of a pixel above the first or below the last row."""
    label, last = rows[y, x], rows.shape[0] - 2
    behind_y, behind_x = y - _DOWN[side], x - _ACROSS[side]
    if rows[behind_y, behind_x] != label:
        return False
    outside = (side + 3) % 4
    aside_y, aside_x = behind_y + _DOWN[outside], behind_x + _ACROSS[outside]
    if rows[aside_y, aside_x] == label:
        return aside_y < 1 or aside_y > last
    return behind_y < 1 or behind_y > last


@kernel
def trace_band(
    rows: Int32[np.ndarray, "h w"],
) -> tuple[Int64[np.ndarray, "c 2"], Offsets, Int64[np.ndarray, "n 8"]]:
    """The outlines of all regions of equal labels in a band, or the pieces of outlines that it has.

    Args:
        rows: labels, -1 for none, with the row above and the row below the band (of -1 where there is none)
            and a column of -1 on both sides.

    Returns:
        Corners (x, y) from the corner of the band; where each outline or piece starts among them; and of each
        whether it is a piece, its first edge (y, x, side), the edge behind its last one (y, x, side; that of
        pieces lies in another band), and its signed area where it is none. Whole outlines begin with the
        topmost, then leftmost of their edges that go right.
    """
    height, width = rows.shape[0] - 2, rows.shape[1] - 2
    walked = np.zeros(rows.shape, np.uint8)  # a bit for each side
    corners, used = np.empty((4096, 2), np.int64), 0
    starts, rings = np.zeros(1025, np.int64), 0
    told = np.empty((1024, 8), np.int64)
    for of_pieces in (True, False):
        for start_y in range(1, height + 1):
            if of_pieces and 1 < start_y < height:
                continue
            for start_x in range(1, width + 1):
                label = rows[start_y, start_x]
                if label < 0:
                    continue
                for start_side in range(4 if of_pieces else 1):
                    outside = (start_side + 3) % 4
                    if rows[start_y + _DOWN[outside], start_x + _ACROSS[outside]] == label:
                        continue  # no edge
                    if of_pieces:
                        if not _comes_from_outside(rows, start_y, start_x, start_side):
                            continue
                    elif walked[start_y, start_x] & 1:
                        continue
                    if rings + 1 == len(starts):
                        more = np.zeros(2 * len(starts) - 1, np.int64)
                        more[: len(starts)] = starts
                        starts = more
                        longer = np.empty((2 * len(told), 8), np.int64)
                        longer[: len(told)] = told
                        told = longer
                    y, x, side, area = start_y, start_x, start_side, 0
                    first = used
                    if not of_pieces:
                        used += 1  # for the corner where it begins, which is found last
                    while True:
                        walked[y, x] |= 1 << side
                        if side == 0:
                            area -= y
                        elif side == 2:
                            area += y + 1
                        # The two pixels ahead.
                        right_y, right_x = y + _DOWN[side], x + _ACROSS[side]
                        outside = (side + 3) % 4
                        left_y, left_x = right_y + _DOWN[outside], right_x + _ACROSS[outside]
                        if rows[right_y, right_x] == label and rows[left_y, left_x] != label:
                            y, x = right_y, right_x
                        else:
                            if used + 2 > len(corners):
                                wider = np.empty((2 * len(corners), 2), np.int64)
                                wider[:used] = corners[:used]
                                corners = wider
                            corners[used, 0] = x - 1 + (side < 2)
                            corners[used, 1] = y - 1 + (side == 1 or side == 2)
                            used += 1
                            if rows[right_y, right_x] != label:
                                side = (side + 1) % 4
                            else:
                                y, x, side = left_y, left_x, outside
                        if y < 1 or y > height or (y == start_y and x == start_x and side == start_side):
                            break
                    if not of_pieces:
                        used -= 1
                        corners[first, 0], corners[first, 1] = corners[used, 0], corners[used, 1]
                    told[rings, 0] = of_pieces
                    told[rings, 1], told[rings, 2], told[rings, 3] = start_y - 1, start_x - 1, start_side
                    told[rings, 4], told[rings, 5], told[rings, 6] = y - 1, x - 1, side
                    told[rings, 7] = area
                    rings += 1
                    starts[rings] = used
    return corners[:used].copy(), starts[: rings + 1].copy(), told[:rings].copy()
