"""Connected components of a label map, by runs of equal labels (Rosenfeld and Pfaltz, J. ACM 1966)."""

import itertools

import numpy as np
from jaxtyping import Int32, Int64, Integer, UInt

from ..compiling import kernel


def label_components(
    labels: Integer[np.ndarray, "*grid"], connectivity: int = 1, background: int | None = 0
) -> tuple[Int32[np.ndarray, "*grid"], int]:
    """Number the connected regions of equal labels.

    Args:
        labels: one label per cell, on a grid of one to three axes; any integer type, no copy is made of it.
        connectivity: along how many axes at once neighbours may differ: 1 joins cells that share a face, the
            number of axes also those that share an edge or a corner (as scikit-image counts it).
        background: the label that belongs to no region; None where every label counts.

    Returns:
        Number of the region of each cell, 1, 2, ... in raster order of the first cell, 0 for background; and
        how many regions there are.

    Raises:
        ValueError: if the map has other than one to three axes, or the connectivity does not fit it.

    >>> numbers, count = label_components(np.array([[7, 7, 0], [0, 0, 7], [2, 0, 7]]))
    >>> numbers.tolist(), count
    ([[1, 1, 0], [0, 0, 2], [3, 0, 2]], 3)
    """
    axes = labels.ndim
    if not 1 <= axes <= 3:
        raise ValueError(f"a label map of one, two or three axes is expected, got {axes}")
    if not 1 <= connectivity <= axes:
        raise ValueError(f"connectivity must be 1 to {axes} on {axes} axes, got {connectivity}")
    numbers = np.empty(labels.shape, np.int32)
    if not labels.size:
        return numbers, 0
    known = np.iinfo(labels.dtype)
    has_background = background is not None and known.min <= background <= known.max
    unsigned = np.dtype(f"u{labels.dtype.itemsize}")  # half as many types to compile; equal stays equal
    blank = np.array([background if has_background else 0]).astype(labels.dtype).view(unsigned)
    volume = (1,) * (3 - axes) + labels.shape
    count = _label(
        np.ascontiguousarray(labels).view(unsigned).reshape(volume),
        _lines_before(connectivity),
        has_background,
        blank[0],
        numbers.reshape(volume),
    )
    return numbers, count


def _lines_before(connectivity: int) -> Int64[np.ndarray, "n 3"]:
    """Neighbouring lines that come before a line: offset in z and in y, and whether corners of runs touch."""
    lines = [
        (z, y, abs(z) + abs(y) < connectivity)
        for z, y in itertools.product((-1, 0, 1), repeat=2)
        if (z, y) < (0, 0) and abs(z) + abs(y) <= connectivity
    ]
    return np.array(lines, np.int64).reshape(-1, 3)


@kernel
def _label(
    labels: UInt[np.ndarray, "d h w"],
    lines_before: Int64[np.ndarray, "n 3"],
    has_background: bool,
    background: int,
    numbers: Int32[np.ndarray, "d h w"],
) -> int:
    """Write the number of each cell's region; returns how many there are."""
    depth, height, width = labels.shape
    lines = labels.reshape(-1, width)
    first, starts = _find_runs(lines)
    parent = np.arange(first[-1]).astype(np.int32)
    for z in range(depth):
        for y in range(height):
            for offset in range(len(lines_before)):
                above, left, corners = lines_before[offset]
                if 0 <= z + above and 0 <= y + left < height:
                    line = z * height + y
                    before = line + above * height + left
                    _join(lines, first, starts, before, line, corners, has_background, background, parent)
    regions = _number(lines, first, starts, has_background, background, parent)
    _write(lines, first, starts, parent, numbers.reshape(-1))
    return regions


@kernel
def _find_runs(
    lines: UInt[np.ndarray, "n w"],
) -> tuple[Int64[np.ndarray, " n_plus_1"], Int32[np.ndarray, " runs"]]:
    """First run of each line, with one more that closes the last; and where each run starts in its line."""
    count, width = lines.shape
    first = np.empty(count + 1, np.int64)
    starts = np.empty(count * width // 16 + 2 * width + 8, np.int32)
    changes = np.zeros((width + 7) // 8 * 8, np.uint8)
    eights = changes.view(np.uint64)
    run = 0
    for line in range(count):
        first[line] = run
        if run + width + 8 > len(starts):
            more = np.empty(2 * len(starts), np.int32)
            more[:run] = starts[:run]
            starts = more
        row = lines[line]
        changes[0] = 1
        for x in range(1, width):
            changes[x] = row[x] != row[x - 1]
        for eight in range(len(eights)):
            if eights[eight] != 0:
                for x in range(8 * eight, 8 * eight + 8):
                    starts[run] = x  # overwritten unless a run starts here: no branch to guess
                    run += changes[x]
    first[count] = run
    return first, starts[:run]


@kernel
def _join(
    lines: UInt[np.ndarray, "n w"],
    first: Int64[np.ndarray, " n_plus_1"],
    starts: Int32[np.ndarray, " runs"],
    before: int,
    line: int,
    corners: int,
    has_background: bool,
    background: int,
    parent: Int32[np.ndarray, " runs"],
) -> None:
    """Join the runs of two neighbouring lines that have one label and touch."""
    width = lines.shape[1]
    upper, lower = lines[before], lines[line]
    i, i_end, j, j_end = first[before], first[before + 1], first[line], first[line + 1]
    x = 0
    while x < width:
        above, label = upper[x], lower[x]
        i_stop = starts[i + 1] if i + 1 < i_end else width
        j_stop = starts[j + 1] if j + 1 < j_end else width
        if above == label and not (has_background and label == background):
            _unite(parent, i, j)
        if corners and i_stop == j_stop < width:
            if lower[j_stop] == above and not (has_background and above == background):
                _unite(parent, i, j + 1)
            if upper[i_stop] == label and not (has_background and label == background):
                _unite(parent, i + 1, j)
        x = min(i_stop, j_stop)
        i += i_stop == x
        j += j_stop == x


@kernel
def _unite(parent: Int32[np.ndarray, " runs"], one: int, other: int) -> None:
    """The earlier root becomes the root of both, so that a region's root is its first run."""
    while parent[one] != one:
        parent[one] = parent[parent[one]]
        one = parent[one]
    while parent[other] != other:
        parent[other] = parent[parent[other]]
        other = parent[other]
    if one < other:
        parent[other] = one
    else:
        parent[one] = other


@kernel
def _number(
    lines: UInt[np.ndarray, "n w"],
    first: Int64[np.ndarray, " n_plus_1"],
    starts: Int32[np.ndarray, " runs"],
    has_background: bool,
    background: int,
    parent: Int32[np.ndarray, " runs"],
) -> int:
    """Put the number of each run's region in the place of its parent, which comes before it."""
    regions = 0
    for line in range(len(lines)):
        for run in range(first[line], first[line + 1]):
            if has_background and lines[line, starts[run]] == background:
                parent[run] = 0
            elif parent[run] == run:
                regions += 1
                parent[run] = regions
            else:
                parent[run] = parent[parent[run]]
    return regions


@kernel
def _write(
    lines: UInt[np.ndarray, "n w"],
    first: Int64[np.ndarray, " n_plus_1"],
    starts: Int32[np.ndarray, " runs"],
    number: Int32[np.ndarray, " runs"],
    cells: Int32[np.ndarray, " n_times_w"],
) -> None:
    """Fill the runs with their numbers, in the way that suits their length."""
    count, width = lines.shape
    for line in range(count):
        row, left = lines[line], line * width
        run, end = first[line], first[line + 1]
        if (end - run) * 24 > width or left + width + 16 > len(cells):
            cells[left] = number[run]
            for x in range(1, width):
                run += row[x] != row[x - 1]
                cells[left + x] = number[run]
            continue
        for run in range(first[line], end):
            cell, value = left + starts[run], number[run]
            stop = left + (starts[run + 1] if run + 1 < end else width)
            while cell < stop:  # sixteen at once: the runs that follow mend what is too much
                block = cells[cell : cell + 16]
                for k in range(16):
                    block[k] = value
                cell += 16
