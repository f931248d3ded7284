"""The class with the highest score at every pixel, without ever holding all scores at the size of the image.

Where scores have to be resized first, most of the work is not done at all. Between four neighbours of the
coarse map the interpolated scores are weighted means of theirs: a class that leads at all four leads
everywhere between them. Only cells whose corners disagree are interpolated, and only for the classes that can
win there.
"""

import numpy as np
from jaxtyping import Float32, Int32, Int64

from ..compiling import kernel, parallel_map
from ..intrinsics import multiply_add
from .resizing import TILE, Axis, interpolate_row, resized_axis

BLOCK = 2048  # pixels whose best score and class stay in the first-level cache
ROWS = 8  # rows of the fine map that are interpolated together

OPEN = -1  # the class of a coarse pixel where rounding may change the winner
# Two interpolated scores differ from their exact values by at most 2^-22 of the corners' size together.
SLACK = np.float32(2.0**-20)
TINY = np.float32(1e-37)
LOWEST = np.float32(-3.4028235e38)
FEW = 1 << 16  # numbers for which a second thread is not worth its start
FEW_CLASSES = 12  # up to which a loop over the classes is unrolled


def argmax(scores: Float32[np.ndarray, "k pixels"], start: int, stop: int) -> Int32[np.ndarray, " found"]:
    """The first class with the highest score at pixels start..stop-1; NaN counts as the highest, as in torch.

    >>> argmax(np.array([[0, 5], [1, 5]], np.float32), 0, 2)
    array([1, 0], dtype=int32)
    """
    found = np.empty(stop - start, np.int32)
    fill_argmax(scores, start, found)
    return found


def resized_argmax(
    scores: Float32[np.ndarray, "k h w"],
    labels: Int64[np.ndarray, "H W"],
    align_corners: bool,
    threads: int = 1,
) -> bool:
    """Fill `labels` with the first class of the highest score after bilinear resizing to their size.

    Returns:
        False if a score is not finite; the labels then mean nothing.

    >>> labels = np.empty((1, 4), np.int64)
    >>> resized_argmax(np.array([[[1, 0]], [[0, 1]]], np.float32), labels, False), labels.tolist()
    (True, [[0, 0, 1, 1]])
    """
    k, h, w = scores.shape
    threads = threads if scores.size > FEW else 1
    settled = np.empty(h * w, np.int32)
    flat = scores.reshape(k, h * w)
    finite = parallel_map(
        lambda span: settle(flat, span[0], settled[span[0] : span[1]]), spans(h * w, threads), threads
    )
    if not all(finite):
        return False
    rows, columns = (resized_axis(*sizes, align_corners) for sizes in zip((h, w), labels.shape, strict=True))
    plane = settled.reshape(h, w)
    parallel_map(
        lambda span: fill_labels(scores, plane, rows, columns, span[0], labels[span[0] : span[1]]),
        spans(len(labels), threads),
        threads,
    )
    return True


def spans(size: int, pieces: int) -> list[tuple[int, int]]:
    """0..size-1 in equal spans."""
    step = max(1, -(-size // pieces))
    return [(start, min(start + step, size)) for start in range(0, size, step)]


@kernel
def fill_argmax(
    scores: Float32[np.ndarray, "k pixels"], start: int, found: Int32[np.ndarray, " found"]
) -> None:
    """`argmax` of as many pixels as `found` has room for, from `start` on."""
    best = np.empty(BLOCK, np.float32)
    for begin in range(0, found.size, BLOCK):
        arg = found[begin : begin + BLOCK]
        first = scores[0, start + begin :]
        for i in range(arg.size):
            best[i], arg[i] = first[i], 0
        for c in range(1, len(scores)):
            row = scores[c, start + begin :]
            for i in range(arg.size):
                new, old = row[i], best[i]
                higher = (new > old) | ((new != new) & (old == old))
                best[i] = new if higher else old
                arg[i] = c if higher else arg[i]


def argmax_of_pixels(rows: Float32[np.ndarray, "H numbers"], k: int, found: Int64[np.ndarray, "H W"]) -> None:
    """Fill `found` with the `argmax` of scores whose classes lie side by side, as in channels-last memory.

    Args:
        rows: the scores of the classes of one pixel follow those of the pixel before.
        k: classes.
        found: of as many pixels; like `rows` it may be a part of a larger array.

    >>> found = np.empty((1, 2), np.int64)
    >>> argmax_of_pixels(np.array([[0, 1, 5, 5]], np.float32), 2, found), found.tolist()
    (None, [[1, 0]])
    """
    if k <= FEW_CLASSES:
        fill_argmax_of_few(rows, (0,) * k, found)
    else:
        fill_argmax_of_many(rows, k, found)


@kernel
def fill_argmax_of_few(
    rows: Float32[np.ndarray, "H numbers"], classes: tuple[int, ...], found: Int64[np.ndarray, "H W"]
) -> None:
    """`argmax_of_pixels`, compiled for each number of classes: that of the numbers in `classes`."""
    k = len(classes)
    for y in range(len(found)):
        numbers, labels = rows[y], found[y]
        for x in range(labels.size):
            best, arg = numbers[x * k], np.int32(0)
            for c in range(1, k):
                new = numbers[x * k + c]
                higher = (new > best) | ((new != new) & (best == best))
                best = new if higher else best
                arg = np.int32(c) if higher else arg
            labels[x] = arg


@kernel
def fill_argmax_of_many(
    rows: Float32[np.ndarray, "H numbers"], k: int, found: Int64[np.ndarray, "H W"]
) -> None:
    """`argmax_of_pixels`: some pixels at a time become rows of one class, which stay in the nearest cache."""
    step = max(16, 2 * BLOCK // k)
    turned, labels = np.empty((k, step), np.float32), np.empty(step, np.int32)
    for y in range(len(found)):
        for begin in range(0, found.shape[1], step):
            numbers, part = rows[y, begin * k :], found[y, begin : begin + step]
            for c in range(k):
                row = turned[c]
                for x in range(part.size):
                    row[x] = numbers[x * k + c]
            fill_argmax(turned, 0, labels[: part.size])
            for x in range(part.size):
                part[x] = labels[x]


@kernel
def settle(scores: Float32[np.ndarray, "k pixels"], start: int, found: Int32[np.ndarray, " found"]) -> bool:
    """`fill_argmax`, but OPEN where an earlier class comes so close that rounding may give it the lead.

    Later classes may come as close as they like: rounding is monotone, so that they reach a tie at most, and
    the first of equal scores wins.
    """
    best, before = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    strange = False
    for begin in range(0, found.size, BLOCK):
        arg = found[begin : begin + BLOCK]
        first = scores[0, start + begin :]
        for i in range(arg.size):
            best[i], before[i], arg[i] = first[i], LOWEST, 0
            strange |= not (abs(first[i]) < np.inf)
        for c in range(1, len(scores)):
            row = scores[c, start + begin :]
            for i in range(arg.size):
                new, old = row[i], best[i]
                higher = new > old
                before[i] = old if higher else before[i]  # the best of all earlier classes
                best[i] = new if higher else old
                arg[i] = c if higher else arg[i]
                strange |= not (abs(new) < np.inf)
        for i in range(arg.size):
            needed = SLACK * (abs(best[i]) + abs(before[i])) + TINY
            arg[i] = arg[i] if (arg[i] == 0) | (best[i] - before[i] > needed) else OPEN
    return not strange


@kernel
def fill_labels(
    scores: Float32[np.ndarray, "k h w"],
    settled: Int32[np.ndarray, "h w"],
    rows: Axis,
    columns: Axis,
    top: int,
    labels: Int64[np.ndarray, "found W"],
) -> None:
    """Labels of the fine rows from `top` on, from the classes of the coarse pixels where those agree."""
    width = labels.shape[1]
    best, arg = np.empty((ROWS, TILE), np.float32), np.empty((ROWS, TILE), np.int32)
    between, fine = np.empty((2, TILE), np.float32), np.empty(TILE, np.float32)
    corners, bound = np.empty(scores.shape[2] + 1, np.float32), np.empty(scores.shape[2], np.float32)
    y = 0
    while y < len(labels):
        a, b = rows.first[top + y], rows.second[top + y]
        end = y + 1
        while end < len(labels) and rows.first[top + end] == a:
            end += 1
        x = 0
        while x < width:  # spans of one class, or of cells that are open
            label = _label_of_cell(settled, a, b, columns.first[x], columns.second[x])
            stop = x + 1
            while stop < width:
                same = columns.first[stop] == columns.first[stop - 1]
                if not same and label != _label_of_cell(
                    settled, a, b, columns.first[stop], columns.second[stop]
                ):
                    break
                stop += 1
            if label == OPEN:
                for begin in range(x, stop, TILE):
                    for line in range(y, end, ROWS):
                        last, right = min(line + ROWS, end), min(begin + TILE, stop)
                        _contest(
                            scores, rows, columns, top + line, begin, last - line, right - begin,
                            corners, bound, between, fine, best, arg,
                        )  # fmt: skip
                        for y_in in range(last - line):
                            for x_in in range(right - begin):
                                labels[line + y_in, begin + x_in] = arg[y_in, x_in]
            else:
                for line in range(y, end):
                    for position in range(x, stop):
                        labels[line, position] = label
            x = stop
        y = end


@kernel
def _label_of_cell(settled: Int32[np.ndarray, "h w"], a: int, b: int, left: int, right: int) -> int:
    """The class on which the four corners agree, or OPEN."""
    label = settled[a, left]
    agree = (label == settled[a, right]) & (label == settled[b, left]) & (label == settled[b, right])
    return label if agree else OPEN


@kernel
def _contest(
    scores: Float32[np.ndarray, "k h w"],
    rows: Axis,
    columns: Axis,
    top: int,
    left: int,
    height: int,
    width: int,
    corners: Float32[np.ndarray, " w_and_one"],
    bound: Float32[np.ndarray, " w"],
    between: Float32[np.ndarray, "2 tile"],
    fine: Float32[np.ndarray, " tile"],
    best: Float32[np.ndarray, "rows tile"],
    arg: Int32[np.ndarray, "rows tile"],
) -> None:
    """Fill `arg` with the classes of a patch of the fine map whose rows lie between the same two coarse rows.

    A class is interpolated only if, in some cell, its best corner reaches the highest of all worst corners.
    The last six arguments are room to work in.
    """
    a, b = rows.first[top], rows.second[top]
    start, stop = columns.first[left], columns.second[left + width - 1] + 1
    cells = columns.first[left + width - 1] + 1 - start
    for i in range(cells):
        bound[i] = LOWEST
    for c in range(len(scores)):
        one, other = scores[c, a, start:stop], scores[c, b, start:stop]
        for i in range(one.size):
            corners[i] = one[i] if one[i] < other[i] else other[i]
        corners[one.size] = corners[one.size - 1]
        for i in range(cells):
            low = corners[i] if corners[i] < corners[i + 1] else corners[i + 1]
            bound[i] = low if low > bound[i] else bound[i]
    for y in range(height):
        for x in range(width):
            best[y, x] = -np.inf
    for c in range(len(scores)):
        one, other = scores[c, a, start:stop], scores[c, b, start:stop]
        for i in range(one.size):
            corners[i] = one[i] if one[i] > other[i] else other[i]
        corners[one.size] = corners[one.size - 1]
        may_win = False
        for i in range(cells):
            high = corners[i] if corners[i] > corners[i + 1] else corners[i + 1]
            may_win |= high >= bound[i] - (SLACK * (abs(high) + abs(bound[i])) + TINY)
        if not may_win:
            continue
        interpolate_row(one, columns, start, left, between[0, :width])
        interpolate_row(other, columns, start, left, between[1, :width])
        for y in range(height):
            of_first, of_second = rows.weight_of_first[top + y], rows.weight_of_second[top + y]
            take_lead(c, between[0], between[1], of_first, of_second, fine[:width], best[y], arg[y])


@kernel
def take_lead(
    c: int,
    upper: Float32[np.ndarray, " tile"],
    lower: Float32[np.ndarray, " tile"],
    of_upper: float,
    of_lower: float,
    fine: Float32[np.ndarray, " width"],
    best: Float32[np.ndarray, " tile"],
    arg: Int32[np.ndarray, " tile"],
) -> None:
    """Fill `fine` with class c between two rows, rounded as they are; it leads where it beats the best."""
    for x in range(fine.size):
        score = multiply_add(upper[x], of_upper, lower[x] * of_lower)
        higher = score > best[x]
        fine[x] = score
        best[x] = score if higher else best[x]
        arg[x] = c if higher else arg[x]
