"""Exact Euclidean distance to the nearest cell of a set, in one to three dimensions.

One axis after another (Felzenszwalb and Huttenlocher, Theory of Computing 2012): the first axis by two
sweeps, each other one as the lower envelope of parabolas, compared without a division. With unit spacing
every number is a whole one below 2^53, so nothing is rounded.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ..compiling import kernel, parallel_map

_STRIP = 256  # columns swept together: a thousand rows of them fit a second-level cache


def distance_to(
    mask: Bool[np.ndarray, "*grid"], spacing: tuple[float, ...] | None = None, threads: int = 1
) -> Float64[np.ndarray, "*grid"]:
    """Distance of every cell to the nearest True cell: 0 on True cells, inf where there is none.

    Args:
        mask: the set, on a grid of one, two or three axes.
        spacing: length of a cell along each axis, in any unit; 1 without it.
        threads: how many work at once.

    Returns:
        Distances in the unit of `spacing`.

    Raises:
        ValueError: if the mask has other than one to three axes, or the spacing does not fit it.

    >>> distance_to(np.array([[False, False, True]]), spacing=(1.0, 0.5))
    array([[1. , 0.5, 0. ]])
    """
    return _distances(mask, spacing, threads, True)


def squared_distance_to(
    mask: Bool[np.ndarray, "*grid"], spacing: tuple[float, ...] | None = None, threads: int = 1
) -> Float64[np.ndarray, "*grid"]:
    """Square of `distance_to`: whole numbers, not rounded, where there is no spacing.

    Raises:
        ValueError: as `distance_to`.

    >>> squared_distance_to(np.array([[False, False, True]]))
    array([[4., 1., 0.]])
    """
    return _distances(mask, spacing, threads, False)


def checked_spacing(spacing: tuple[float, ...] | None, axes: int) -> tuple[float, ...]:
    """One length per axis; 1 without spacing.

    Raises:
        ValueError: if the spacing is not one positive, finite number for each axis.

    >>> checked_spacing(None, 2)
    (1.0, 1.0)
    """
    if spacing is None:
        return (1.0,) * axes
    if len(spacing) != axes or not all(0 < length < np.inf for length in spacing):
        raise ValueError(f"spacing must be {axes} positive numbers, one for each axis, got {spacing}")
    return tuple(float(length) for length in spacing)


def _distances(
    mask: Bool[np.ndarray, "*grid"], spacing: tuple[float, ...] | None, threads: int, root: bool
) -> Float64[np.ndarray, "*grid"]:
    if not 1 <= mask.ndim <= 3:
        raise ValueError(f"a mask of one, two or three axes is expected, got {mask.ndim}")
    step = checked_spacing(spacing, mask.ndim)
    squares = np.empty(mask.shape, np.float64)
    if not squares.size:
        return squares
    length = mask.shape[0]
    columns = np.ascontiguousarray(mask).reshape(length, -1)
    strips = range(0, columns.shape[1], _STRIP)
    sweep = squares.reshape(length, -1)
    parallel_map(
        lambda x: _sweep(columns[:, x : x + _STRIP], step[0], sweep[:, x : x + _STRIP]), strips, threads
    )
    if mask.ndim == 3:
        parallel_map(lambda plane: lower_envelope_of_columns(plane, step[1]), list(squares), threads)
    rows = squares.reshape(-1, mask.shape[-1])
    if mask.ndim > 1:
        parallel_map(
            lambda part: lower_envelope_of_rows(part, step[-1], root), np.array_split(rows, threads), threads
        )
    elif root:
        np.sqrt(squares, out=squares)
    return squares


@kernel
def _sweep(mask: Bool[np.ndarray, "h w"], step: float, squares: Float64[np.ndarray, "h w"]) -> None:
    """Squared distances along the first axis."""
    height, width = mask.shape
    for x in range(width):
        squares[0, x] = 0.0 if mask[0, x] else np.inf
    for y in range(1, height):
        for x in range(width):
            squares[y, x] = 0.0 if mask[y, x] else squares[y - 1, x] + 1.0
    for y in range(height - 2, -1, -1):
        for x in range(width):
            below = squares[y + 1, x]
            squares[y, x] = min(squares[y, x], below + 1.0)
            squares[y + 1, x] = (below * step) * (below * step)
    for x in range(width):
        squares[0, x] = (squares[0, x] * step) * (squares[0, x] * step)


@kernel
def lower_envelope_of_rows(squares: Float64[np.ndarray, "h w"], step: float, root: bool) -> None:
    """Lower envelope along the last axis, in place; its square root if `root`."""
    height, width = squares.shape
    foot, low = np.empty(width, np.int64), np.empty(width, np.float64)
    for y in range(height):
        row = squares[y]
        lower_envelope(row, step, foot, low)
        if root:
            for x in range(width):
                row[x] = np.sqrt(row[x])


@kernel
def lower_envelope_of_columns(squares: Float64[np.ndarray, "h w"], step: float) -> None:
    """Lower envelope along the first axis, in place."""
    height, width = squares.shape
    foot, low = np.empty(height, np.int64), np.empty(height, np.float64)
    lines = np.empty((8, height), np.float64)  # eight columns share a cache line
    for left in range(0, width, 8):
        count = min(8, width - left)
        for y in range(height):
            for x in range(count):
                lines[x, y] = squares[y, left + x]
        for x in range(count):
            lower_envelope(lines[x], step, foot, low)
        for y in range(height):
            for x in range(count):
                squares[y, left + x] = lines[x, y]


@kernel
def lower_envelope(
    line: Float64[np.ndarray, " n"],
    step: float,
    foot: Int64[np.ndarray, " n"],
    low: Float64[np.ndarray, " n"],
) -> None:
    """Replace line[x] by the least line[q] + (step (x - q))^2 over all q.

    The parabolas of the envelope stand at foot[0..last] with heights low[0..last]. One of height 0 hides
    what is behind it, so the line is settled up to there and the envelope starts anew: it stays short and
    in the cache.
    """
    width = len(line)
    last, start = -1, 0
    for q in range(width):
        height = line[q]
        if height == np.inf:
            continue
        if height == 0.0 and q == start and last == 0 and low[0] == 0.0:
            foot[0], start = q, q + 1
            continue
        while (
            last >= 1
        ):  # the last one is hidden if the new one passes below its crossing with the one before
            before, after = float(foot[last] - foot[last - 1]), float(q - foot[last])
            bend = step * step * before * after * (before + after)
            if (height - low[last]) * before - (low[last] - low[last - 1]) * after + bend > 0.0:
                break
            last -= 1
        last += 1
        foot[last], low[last] = q, height
        if height == 0.0:
            _settle(line, start, q, step, foot, low, last)
            foot[0], low[0], last, start = q, 0.0, 0, q + 1
    if last >= 0:
        _settle(line, start, width, step, foot, low, last)


@kernel
def _settle(
    line: Float64[np.ndarray, " n"],
    start: int,
    stop: int,
    step: float,
    foot: Int64[np.ndarray, " n"],
    low: Float64[np.ndarray, " n"],
    last: int,
) -> None:
    """Write the envelope over start..stop."""
    k = 0
    for x in range(start, stop):
        offset = step * (x - foot[k])
        least = low[k] + offset * offset
        while k < last:
            offset = step * (x - foot[k + 1])
            following = low[k + 1] + offset * offset
            if following > least:
                break
            least, k = following, k + 1
        line[x] = least
