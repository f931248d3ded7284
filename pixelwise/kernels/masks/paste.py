"""Small masks pasted into an image, straight to run lengths: no image of scores is ever made.

Between two rows of the small mask, bilinear interpolation is linear in the row, so that there a column of the
image crosses the threshold at most once, up to rounding. Only the rows so near to the crossing that rounding
could matter, mostly one or two, are computed, exactly as PyTorch's `interpolate` computes them on a CPU with
fused multiply-add: horizontally and then vertically for large boxes, as a sum of four for small ones.
"""

import numpy as np
from jaxtyping import Float32, Int64

from ..compiling import kernel
from .rle import Places, Runs, with_end, with_room, with_run, with_space

Score = np.float32

SMALL = 128  # height + width up to which PyTorch sums four products
ROUNDING = 2e-6  # more than the error of any of these sums, as a fraction of the largest score


@kernel
def _fused(a: Score, b: Score, c: Score) -> Score:
    """The float32 a * b + c, rounded once, at the end."""
    return np.float32(np.float64(a) * np.float64(b) + np.float64(c))


@kernel
def _blend(a: Score, b: Score, weight: Score) -> Score:
    return _fused(a, np.float32(1) - weight, b * weight)


@kernel
def _sum_of_four(
    mask: Float32[np.ndarray, "m m2"],
    k: int,
    next_k: int,
    weight_y: Score,
    j: int,
    next_j: int,
    weight_x: Score,
) -> Score:
    other_y, other_x = np.float32(1) - weight_y, np.float32(1) - weight_x
    score = _fused(mask[k, j], other_y * other_x, mask[k, next_j] * (other_y * weight_x))
    score = _fused(mask[next_k, j], weight_y * other_x, score)
    return _fused(mask[next_k, next_j], weight_y * weight_x, score)


@kernel
def _sources(
    old: int, new: int, first: int, last: int, small: bool
) -> tuple[Places, Float32[np.ndarray, " _"]]:
    """For pixels first..last of `new` in place of `old`: the old one before each, the weight of the next."""
    before, weight = np.empty(max(last - first, 0), np.int64), np.empty(max(last - first, 0), np.float32)
    scale, half = np.float32(old) / np.float32(new), np.float32(0.5)
    for k in range(before.size):
        center = np.float32(first + k) + half
        place = max(_fused(scale, center, -half) if small else scale * center - half, np.float32(0))
        before[k] = min(int(place), old - 1)
        weight[k] = place - np.float32(before[k])
    return before, weight


@kernel
def _doubtful(
    upper: Score,
    lower: Score,
    margin: Score,
    weight: Float32[np.ndarray, " _"],
    start: int,
    stop: int,
    guess: int,
) -> tuple[int, int]:
    """The rows first..last of start..stop, around `guess`, whose side of 0 is doubtful.

    The rows before them lie on the side of `upper`, those behind on the side of `lower`.
    """
    first = last = min(max(guess, start), stop)
    if abs(upper) <= margin:
        first = start
    while first > start:
        score = upper + (lower - upper) * weight[first - 1]
        if abs(score) > margin and (score > 0) == (upper > 0):
            break
        first -= 1
    if abs(lower) <= margin:
        last = stop
    while last < stop:
        score = upper + (lower - upper) * weight[last]
        if abs(score) > margin and (score > 0) == (lower > 0):
            break
        last += 1
    return first, last


@kernel
def paste(
    masks: Float32[np.ndarray, "n m m2"],
    boxes: Int64[np.ndarray, "n 4"],
    height: int,
    width: int,
    threshold: Score,
    largest: Float32[np.ndarray, " n"],
) -> Runs:
    """Counts and offsets of masks (n, rows, columns) resized to boxes, set where above the threshold.

    Args:
        masks: float32, with their margin of zeros.
        boxes: first column, first row, last column, last row of each in the image; they may stick out.
        height: of the image.
        width: of the image.
        threshold: above which a pixel is set.
        largest: bound on each mask's scores and the threshold; where it is NaN, every row is computed.
    """
    n, small_rows, small_columns = masks.shape
    counts, used = np.empty(4096, np.uint32), 0
    offsets = np.zeros(n + 1, np.int64)
    switches = np.empty(4096, np.int64)  # positions where a run starts or ends
    column = np.empty(small_rows + 1, np.float32)
    part_of = np.empty(small_rows + 1, np.int64)
    highest = np.empty(small_columns, np.float32)  # of each column of the small mask
    for i in range(n):
        mask, left, top = masks[i], boxes[i, 0], boxes[i, 1]
        columns, rows = max(boxes[i, 2] - left + 1, 1), max(boxes[i, 3] - top + 1, 1)
        first_x, last_x = max(left, 0), min(boxes[i, 2] + 1, width)
        first_y, last_y = max(top, 0), min(boxes[i, 3] + 1, height)
        small = rows + columns <= SMALL
        before_x, weight_x = _sources(small_columns, columns, first_x - left, last_x - left, small)
        before_y, weight_y = _sources(small_rows, rows, first_y - top, last_y - top, small)
        margin = np.float32(ROUNDING) * largest[i]
        # The rows that lie behind row k of the small mask start at part_of[k].
        y = 0
        for k in range(small_rows + 1):
            while y < before_y.size and before_y[y] < k:
                y += 1
            part_of[k] = y
        for j in range(small_columns):
            highest[j] = mask[0, j]
            for k in range(1, small_rows):
                highest[j] = max(highest[j], mask[k, j])
        switched = 0
        for x in range(before_x.size):
            j = before_x[x]
            next_j = min(j + 1, small_columns - 1)
            if max(highest[j], highest[next_j]) - threshold < -margin:
                continue
            switches = with_space(switches, switched, before_y.size + 2)
            for k in range(small_rows):
                column[k] = _blend(mask[k, j], mask[k, next_j], weight_x[x])
            column[small_rows] = column[small_rows - 1]
            position, inside = (first_x + x) * height + first_y, False
            for k in range(small_rows):
                start, stop = part_of[k], part_of[k + 1]
                upper, lower = column[k] - threshold, column[k + 1] - threshold
                if start == stop or (inside and min(upper, lower) > margin):
                    continue
                if not inside and max(upper, lower) < -margin:
                    continue
                share = upper / (upper - lower) if upper != lower else np.float32(0)
                guess = start + int((min(max(share, 0), 1) - weight_y[start]) * rows / small_rows)
                first, last = _doubtful(upper, lower, margin, weight_y, start, stop, guess)
                if first > start and inside != (upper > 0):
                    inside = not inside
                    switches[switched] = position + start
                    switched += 1
                for y in range(first, last):
                    if small:
                        next_k = min(k + 1, small_rows - 1)
                        score = _sum_of_four(mask, k, next_k, weight_y[y], j, next_j, weight_x[x])
                    else:
                        score = _blend(column[k], column[k + 1], weight_y[y])
                    if inside != (score > threshold):
                        inside = not inside
                        switches[switched] = position + y
                        switched += 1
                if last < stop and inside != (lower > 0):
                    inside = not inside
                    switches[switched] = position + last
                    switched += 1
            if inside:
                switches[switched] = position + before_y.size
                switched += 1
        counts = with_room(counts, used, switched + 2)
        first, last = used, 0
        for k in range(0, switched, 2):
            used, last = with_run(counts, first, used, last, switches[k], switches[k + 1])
        used = with_end(counts, first, used, last, height * width)
        offsets[i + 1] = used
    return counts[:used].copy(), offsets
