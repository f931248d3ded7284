"""Polygons to run lengths, by COCO's rule, and the outlines of masks.

COCO's rule: the outline is drawn on a grid of fifths of a pixel; it crosses a column of pixels where it steps
over the column's centre line, from fifth 5 x + 2 to 5 x + 3, at the smaller of the two heights; the crossings
of a column, in order, switch the mask on and off. COCO walks all fifths; here each edge is solved once per
column.
"""

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from ..compiling import kernel
from .rle import Offsets, Places, Runs, with_end, with_room, with_run, with_space


@kernel
def _row_of_crossing(fifth: float, height: int) -> int:
    """The first row whose pixel lies under a crossing at that height."""
    row = np.ceil((fifth + 0.5) / 5 - 0.5)
    return int(min(max(row, 0.0), float(height)))


@kernel
def _crossings_of_edge(
    x_start: int,
    y_start: int,
    x_end: int,
    y_end: int,
    height: int,
    width: int,
    columns: Places,
    rows: Places,
    used: int,
) -> int:
    """Append columns and rows of the crossings of an edge, given in fifths; gives the new `used`."""
    x_length, y_length = abs(x_end - x_start), abs(y_end - y_start)
    flat = x_length >= y_length
    if (x_start > x_end) if flat else (y_start > y_end):
        x_start, y_start, x_end, y_end = x_end, y_end, x_start, y_start
    left, right = min(x_start, x_end), max(x_start, x_end)
    first = max((left + 2) // 5, 0)  # the first column with 5 x + 2 >= left
    last = min((right - 3) // 5, width - 1)  # the last one with 5 x + 3 <= right
    if flat:
        for x in range(first, last + 1):
            slope = (y_end - y_start) / x_length
            t = 5 * x + 2 - x_start
            before, behind = int(y_start + slope * t + 0.5), int(y_start + slope * (t + 1) + 0.5)
            columns[used], rows[used] = x, _row_of_crossing(min(before, behind), height)
            used += 1
    else:
        for x in range(first, last + 1):
            slope = (x_end - x_start) / y_length
            # The step t that leads over the centre line, to which the straight line is a near guess.
            t = min(max(int((5 * x + 2.5 - x_start) / slope), 0), y_length - 1)
            if slope > 0:
                while t > 0 and int(x_start + slope * t + 0.5) > 5 * x + 2:
                    t -= 1
                while int(x_start + slope * (t + 1) + 0.5) <= 5 * x + 2:
                    t += 1
            else:
                while t > 0 and int(x_start + slope * t + 0.5) <= 5 * x + 2:
                    t -= 1
                while int(x_start + slope * (t + 1) + 0.5) > 5 * x + 2:
                    t += 1
            columns[used], rows[used] = x, _row_of_crossing(y_start + t, height)
            used += 1
    return used


@kernel
def _sort_crossings(
    columns: Places, rows: Places, used: int, width: int, start_of: Places, sorted_rows: Places
) -> None:
    """Sort the rows of crossings column by column and within; those of column x start at `start_of[x]`."""
    start_of[:] = 0
    for k in range(used):
        start_of[columns[k] + 1] += 1
    for x in range(width):
        start_of[x + 1] += start_of[x]
    end_of = start_of.copy()
    for k in range(used):
        x, row = columns[k], rows[k]
        place = end_of[x]
        while place > start_of[x] and sorted_rows[place - 1] > row:
            sorted_rows[place] = sorted_rows[place - 1]
            place -= 1
        sorted_rows[place] = row
        end_of[x] += 1


@kernel
def rasterise(
    points: Float64[np.ndarray, "p 2"], rings: Offsets, groups: Offsets, height: int, width: int
) -> Runs:
    """Counts and offsets of masks: one per group of rings, set where an odd number of rings lies around.

    Args:
        points: x and y in pixels, of all rings one after the other.
        rings: where each ring starts in `points`, and the end.
        groups: where each group starts in `rings`, and the end.
        height: of the masks.
        width: of the masks.
    """
    counts, used = np.empty(4096, np.uint32), 0
    offsets = np.zeros(groups.size, np.int64)
    columns, rows = np.empty(1024, np.int64), np.empty(1024, np.int64)
    sorted_rows = np.empty(1024, np.int64)
    start_of = np.empty(width + 1, np.int64)
    for g in range(groups.size - 1):
        found = 0
        for r in range(groups[g], groups[g + 1]):
            end = rings[r + 1] - 1
            x, y = int(5 * points[end, 0] + 0.5), int(5 * points[end, 1] + 0.5)
            for p in range(rings[r], rings[r + 1]):
                columns, rows = with_space(columns, found, width), with_space(rows, found, width)
                next_x, next_y = int(5 * points[p, 0] + 0.5), int(5 * points[p, 1] + 0.5)
                found = _crossings_of_edge(x, y, next_x, next_y, height, width, columns, rows, found)
                x, y = next_x, next_y
        sorted_rows = with_space(sorted_rows, 0, found)
        _sort_crossings(columns, rows, found, width, start_of, sorted_rows)
        counts = with_room(counts, used, found + 2)
        first, last = used, 0
        for x in range(width):
            for k in range(start_of[x], start_of[x + 1] - 1, 2):
                start, stop = x * height + sorted_rows[k], x * height + sorted_rows[k + 1]
                used, last = with_run(counts, first, used, last, start, stop)
        used = with_end(counts, first, used, last, height * width)
        offsets[g + 1] = used
    return counts[:used].copy(), offsets


@kernel
def _count_corners(mask: UInt8[np.ndarray, "h w"]) -> int:
    """Corners of all outlines: where four pixels meet of which one or three are set, or two across."""
    corners = 0
    for y in range(1, mask.shape[0]):
        for x in range(1, mask.shape[1]):
            a, b, c, d = mask[y - 1, x - 1], mask[y - 1, x], mask[y, x - 1], mask[y, x]
            if (a + b + c + d) & 1:
                corners += 1
            elif a == d and b == c and a != b:
                corners += 2
    return corners


@kernel
def trace(mask: UInt8[np.ndarray, "h w"]) -> tuple[Int64[np.ndarray, "c 2"], Offsets, Places]:
    """The outlines of a mask with a margin of zeros, along the edges of its pixels.

    Each outline is walked with the mask on the right, outer ones clockwise, holes the other way round. Where
    two set pixels touch at a corner only, the walk turns right and so stays at its pixel.

    Returns:
        Corners (x, y), where each ring starts among them, and its outer ring (-1: it is one itself).
    """
    height, width = mask.shape
    corners, used = np.empty((_count_corners(mask), 2), np.int64), 0
    most_rings = len(corners) // 4
    starts, parents, rings = np.zeros(most_rings + 1, np.int64), np.empty(most_rings, np.int64), 0
    leftmost = np.empty((most_rings, 2), np.int64)  # a corner as far left as any, from where a ring goes down
    walked = np.zeros((height, width), np.bool_)  # the top of each pixel
    ring_left_of = np.zeros((height, width), np.int64)  # the ring that goes up at the left of each pixel
    for start_y in range(1, height):
        for start_x in range(1, width):
            if not mask[start_y, start_x] or mask[start_y - 1, start_x] or walked[start_y, start_x]:
                continue
            x, y, step_x, step_y = start_x, start_y, 1, 0
            leftmost[rings, 0] = width
            turned, area = True, 0
            while True:
                if turned:
                    corners[used, 0], corners[used, 1] = x, y
                    used += 1
                # One edge.
                if step_x == 1:
                    walked[y, x] = True
                elif step_y == -1:
                    ring_left_of[y - 1, x] = rings
                elif step_y == 1 and x < leftmost[rings, 0]:
                    leftmost[rings, 0], leftmost[rings, 1] = x, y
                area -= step_x * y
                x, y = x + step_x, y + step_y
                # The two pixels ahead.
                left = mask[y - (step_x > step_y), x - (step_x + step_y < 0)]
                right = mask[y - (step_x + step_y < 0), x - (step_x < step_y)]
                turned = not right or left
                if not right:
                    step_x, step_y = -step_y, step_x
                elif left:
                    step_x, step_y = step_y, -step_x
                if x == start_x and y == start_y and step_x == 1:
                    break
            parents[rings] = -1 if area > 0 else rings
            rings += 1
            starts[rings] = used
    for ring in range(rings):
        outer = ring
        while parents[outer] >= 0:  # a hole: at its left lies an outline that reaches further left
            x, y = leftmost[outer, 0] - 1, leftmost[outer, 1]
            while mask[y, x - 1]:
                x -= 1
            outer = ring_left_of[y, x]
        if outer != ring:
            parents[ring] = outer
    return corners, starts[: rings + 1].copy(), parents[:rings].copy()
