"""Distances between the surfaces of two masks, worked out only where a surface is.

A surface is a set of elements on a grid: border cells, or the corners between cells that differ. Both masks
are cropped to the box that holds them; the first axis is swept; then every element of the one surface looks
around itself for the other, as far as the best found so far allows.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer, UInt8

from ..compiling import kernel
from .distance import checked_spacing, lower_envelope_of_columns, lower_envelope_of_rows

Elements = tuple[Float64[np.ndarray, "_"], UInt8[np.ndarray, "_"]]  # distances and codes


def surface_distances_between(
    one: Bool[np.ndarray, "*grid"],
    other: Bool[np.ndarray, "*grid"],
    spacing: tuple[float, ...] | None = None,
    corners: bool = False,
) -> tuple[Elements, Elements]:
    """Distance of each element of the one surface to the nearest of the other, and the other way round.

    Args:
        one: a mask on a grid of two or three axes; outside of the grid is background.
        other: a mask on the same grid.
        spacing: length of a cell along each axis, in any unit; 1 without it.
        corners: False: the elements are the cells of a mask that share a face with background. True: they are
            the corners of cells where cells inside and outside meet.

    Returns:
        For each mask the distances of its elements in raster order (inf where the other mask is empty), and
        their codes: 1 for a border cell; for a corner one bit per cell around it, the highest for the first
        of them in raster order.

    Raises:
        ValueError: if the shapes differ, the grid has other than two or three axes, or the spacing does not
            fit it.

    >>> one, other = np.zeros((2, 5, 5), bool)
    >>> one[2, 1] = other[2, 3] = other[2, 4] = True
    >>> (distances, _), (back, _) = surface_distances_between(one, other, spacing=(1.0, 0.5))
    >>> distances.tolist(), back.tolist()
    ([1.0], [1.0, 1.5])
    """
    if one.shape != other.shape:
        raise ValueError(f"both masks must have one shape, got {one.shape} and {other.shape}")
    axes = one.ndim
    if axes not in (2, 3):
        raise ValueError(f"masks of two or three axes are expected, got {axes}")
    steps = checked_spacing(spacing, axes)
    if axes == 2:  # the axis that is swept stays first
        one, other, steps = one[:, None], other[:, None], (steps[0], 1.0, steps[1])
    volumes = [np.ascontiguousarray(mask).view(np.uint8) for mask in (one, other)]
    box = _box_of_both(*volumes)
    if box[0, 1] < box[0, 0]:
        return _nothing(), _nothing()
    find = _find_corners if corners else _find_border
    first, second = (find(volume, box, axes == 2) for volume in volumes)
    depth = len(first)
    down, across, along = (
        (step * np.arange(2 * size)) ** 2 for step, size in zip(steps, first.shape, strict=True)
    )
    down[depth:] = np.inf
    swept = np.empty(first.shape, np.int16 if 2 * depth < 2**15 else np.int32)
    from_one = _look_around(first, second, swept, down, across, along, steps[1], steps[2])
    from_other = _look_around(second, first, swept, down, across, along, steps[1], steps[2])
    return from_one, from_other


def _nothing() -> Elements:
    return np.zeros(0), np.zeros(0, np.uint8)


@kernel
def _box_of_both(
    one: UInt8[np.ndarray, "d h w"], other: UInt8[np.ndarray, "d h w"]
) -> Int64[np.ndarray, "3 2"]:
    """First and last index along each axis of the cells that are in a mask."""
    depth, height, width = one.shape
    columns = np.zeros(width, np.uint8)
    box = np.array([[depth, -1], [height, -1], [width, -1]])
    for z in range(depth):
        for y in range(height):
            a, b = one[z, y], other[z, y]
            some = np.uint8(0)
            for x in range(width):
                some |= a[x] | b[x]
            if some:
                for x in range(width):
                    columns[x] |= a[x] | b[x]
                box[0, 0], box[0, 1] = min(box[0, 0], z), z
                box[1, 0], box[1, 1] = min(box[1, 0], y), max(box[1, 1], y)
    for x in range(width):
        if columns[x]:
            box[2, 0], box[2, 1] = min(box[2, 0], x), x
    return box


@kernel
def _line(
    mask: UInt8[np.ndarray, "d h w"],
    box: Int64[np.ndarray, "3 2"],
    z: int,
    y: int,
    line: UInt8[np.ndarray, " n"],
) -> None:
    """Copy a line of the box, between two zeros; zeros for a line outside of it."""
    if box[0, 0] <= z <= box[0, 1] and box[1, 0] <= y <= box[1, 1]:
        row = mask[z, y, box[2, 0] : box[2, 1] + 1]
        for x in range(len(row)):
            line[x + 1] = row[x]
        line[0] = line[-1] = 0
    else:
        line[:] = 0


@kernel
def _find_border(
    mask: UInt8[np.ndarray, "d h w"], box: Int64[np.ndarray, "3 2"], flat: bool
) -> UInt8[np.ndarray, "D H W"]:
    """1 on the cells of the mask that share a face with a cell outside."""
    depth, height, width = box[:, 1] - box[:, 0] + 1
    border = np.empty((depth, height, width), np.uint8)
    here, before, after, above, below = np.ones((5, width + 2), np.uint8)
    for z in range(depth):
        for y in range(height):
            row, column = z + box[0, 0], y + box[1, 0]
            _line(mask, box, row, column, here)
            _line(mask, box, row - 1, column, before)
            _line(mask, box, row + 1, column, after)
            if not flat:
                _line(mask, box, row, column - 1, above)
                _line(mask, box, row, column + 1, below)
            out = border[z, y]
            for x in range(width):
                inner = before[x + 1] & after[x + 1] & above[x + 1] & below[x + 1] & here[x] & here[x + 2]
                out[x] = here[x + 1] & (inner ^ 1)
    return border


@kernel
def _find_corners(
    mask: UInt8[np.ndarray, "d h w"], box: Int64[np.ndarray, "3 2"], flat: bool
) -> UInt8[np.ndarray, "D H W"]:
    """Code of the cells around each corner of a cell; 0 where all are inside, too."""
    depth, height, width = box[:, 1] - box[:, 0] + 2
    full = np.uint8(15 if flat else 255)
    if flat:
        height = 1
    codes = np.empty((depth, height, width), np.uint8)
    a, b, c, d = np.zeros((4, width + 1), np.uint8)
    for z in range(depth):
        for y in range(height):
            row, column, out = z + box[0, 0], y + box[1, 0], codes[z, y]
            if flat:
                _line(mask, box, row - 1, column, c)
                _line(mask, box, row, column, d)
            else:
                _line(mask, box, row - 1, column - 1, a)
                _line(mask, box, row - 1, column, b)
                _line(mask, box, row, column - 1, c)
                _line(mask, box, row, column, d)
            for x in range(width):
                high = (a[x] << 7) | (a[x + 1] << 6) | (b[x] << 5) | (b[x + 1] << 4)
                low = (c[x] << 3) | (c[x + 1] << 2) | (d[x] << 1) | d[x + 1]
                code = np.uint8(high | low)
                out[x] = 0 if code == full else code
    return codes


@kernel
def _look_around(
    elements: UInt8[np.ndarray, "d h w"],
    others: UInt8[np.ndarray, "d h w"],
    swept: Integer[np.ndarray, "d h w"],
    squares: Float64[np.ndarray, " twice_d"],
    squares_across: Float64[np.ndarray, " twice_h"],
    squares_along: Float64[np.ndarray, " twice_w"],
    step_across: float,
    step_along: float,
) -> tuple[Float64[np.ndarray, " n"], UInt8[np.ndarray, " n"]]:
    """Distance of each element to the nearest of the others, and its code."""
    depth, height, width = elements.shape
    first = np.zeros(depth + 1, np.int64)
    for z in range(depth):
        plane = elements[z].reshape(-1)
        found = 0
        for x in range(len(plane)):
            found += plane[x] != 0
        first[z + 1] = first[z] + found
    distances, codes = np.empty(first[-1], np.float64), np.empty(first[-1], np.uint8)
    _sweep_steps(others.reshape(depth, -1), swept.reshape(depth, -1))
    heights = np.empty((height, width), np.float64)
    for z in range(depth):
        n, visited, dense = first[z], 0.0, False
        if n == first[z + 1]:
            continue
        for y in range(height):
            for x in range(width):
                heights[y, x] = squares[swept[z, y, x]]
        for y in range(height):
            line = elements[z, y]
            for x in range(width):
                if line[x] == 0:
                    continue
                if not dense and visited > 16.0 * height * width:
                    dense = True  # from here on the whole plane costs less than its elements one by one
                    if height > 1:
                        lower_envelope_of_columns(heights, step_across)
                    lower_envelope_of_rows(heights, step_along, False)
                if dense:
                    distance = np.sqrt(heights[y, x])
                else:
                    distance = np.sqrt(_nearest(heights, y, x, squares_across, squares_along))
                    lines = min(2.0 * distance / step_across + 1.0, height)
                    visited += lines * min(2.0 * distance / step_along + 1.0, width)
                distances[n], codes[n] = distance, line[x]
                n += 1
    return distances, codes


@kernel
def _sweep_steps(others: UInt8[np.ndarray, "d n"], swept: Integer[np.ndarray, "d n"]) -> None:
    """Steps along the first axis to the nearest element; more than there are planes where there is none."""
    depth, count = others.shape
    for left in range(0, count, 1024):  # so many columns stay in the cache between the two sweeps
        right = min(left + 1024, count)
        here, marks = swept[0, left:right], others[0, left:right]
        for x in range(len(here)):
            here[x] = 0 if marks[x] else depth
        for z in range(1, depth):
            before, here, marks = here, swept[z, left:right], others[z, left:right]
            for x in range(len(here)):
                here[x] = 0 if marks[x] else before[x] + 1
        for z in range(depth - 2, -1, -1):
            after, here = here, swept[z, left:right]
            for x in range(len(here)):
                here[x] = after[x] + 1 if after[x] < here[x] else here[x]


@kernel
def _nearest(
    heights: Float64[np.ndarray, "h w"],
    y: int,
    x: int,
    squares_across: Float64[np.ndarray, " twice_h"],
    squares_along: Float64[np.ndarray, " twice_w"],
) -> float:
    """Least square over a plane, looked for line by line, outwards; `heights` are the squares across it."""
    height = len(heights)
    best = heights[y, x]
    for j in range(max(y + 1, height - y)):
        across = squares_across[j]
        if across >= best:
            break
        if j <= y:
            best = _nearest_in_line(heights[y - j], x, across, squares_along, best)
        if 0 < j < height - y:
            best = _nearest_in_line(heights[y + j], x, across, squares_along, best)
    return best


@kernel
def _nearest_in_line(
    line: Float64[np.ndarray, " w"],
    x: int,
    across: float,
    squares_along: Float64[np.ndarray, " twice_w"],
    best: float,
) -> float:
    right = len(line) - 1 - x
    best = min(best, line[x] + across)
    near = min(x, right) + 1
    for k in range(1, near):
        along = squares_along[k]
        if across + along >= best:
            return best
        best = min(best, min(line[x - k], line[x + k]) + across + along)
    for k in range(near, max(x, right) + 1):
        along = squares_along[k]
        if across + along >= best:
            return best
        best = min(best, line[x - k if k <= x else x + k] + across + along)
    return best
