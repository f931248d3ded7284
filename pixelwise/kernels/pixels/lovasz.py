"""The Lovász extension of the Jaccard loss, and its slopes, by an exact sort.

Sorted by error, largest first, a foreground pixel raises the Jaccard loss by 1 / U and a background pixel by
I / (U (U + 1)), where U = G + (background before it), I = G - (foreground before it), and G is the number of
foreground pixels. Only the order needs a sort, and numbers in [0, inf) sort as their bits do.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64, Integer

from ..compiling import kernel, parallel_map

_BLOCK = 2048  # pixels whose scores stay in the cache
_BINS = 1 << 11  # keys of 31 bits are sorted by digits of 10, 10 and 11 bits
_FOREGROUND = 1 << 31  # an item is a key, this bit, and 31 bits of position
_POSITION = _FOREGROUND - 1


def lovasz_jaccard(
    values: Float32[np.ndarray, "b k n"],
    labels: Integer[np.ndarray, "b ..."],
    slopes: Float32[np.ndarray, "b k n"],
    margin: float,
    per_image: bool,
    absent: bool,
    threads: int,
) -> tuple[Float64[np.ndarray, "rows k"], Int64[np.ndarray, "rows k"]]:
    """The extension of each class at its errors.

    Errors are max(0, 1 - value) in the foreground and max(0, margin + value) elsewhere.

    Args:
        values: probabilities (margin 0) or scores (margin 1), C-contiguous.
        labels: int64 `b n`, a class or -1 where nothing counts; or int8 `b k n`, 1, 0 or -1.
        slopes: filled with the slope by each value; may be `values`.
        margin: what a background value must lie below 0.
        per_image: whether each image is a row of the answer; else there is one row.
        absent: whether classes without foreground cost their largest error; else they cost nothing.
        threads: how many classes are treated at once; each takes 24 bytes per pixel.

    Returns:
        The extension, and the number of foreground pixels.
    """
    b, k, n = values.shape
    rows = [(i, i + 1) for i in range(b)] if per_image else [(0, b)]
    losses, counts = np.zeros((len(rows), k)), np.zeros((len(rows), k), np.int64)

    def work(classes: Sequence[int]) -> None:
        size = n if per_image else b * n
        errors, steps = np.empty(size, np.float32), np.empty(size, np.float32)
        items, spare = np.empty(size, np.int64), np.empty(size, np.int64)
        for c in classes:
            own, positive = (labels, c) if labels.ndim == 2 else (labels[:, c].astype(np.int64), 1)
            for row, (first, last) in enumerate(rows):
                images = values[first:last], own[first:last], c, positive
                count = counts[row, c] = _errors(*images, np.float32(margin), errors)
                if count > 0 or absent:
                    _steps(_hardest_first(errors, own[first:last], positive, items, spare), count, steps)
                    losses[row, c] = _slopes(errors, steps, own[first:last], positive, c, slopes[first:last])
                else:
                    slopes[first:last, c] = 0

    threads = max(1, min(threads, k))
    parallel_map(work, [range(start, k, threads) for start in range(threads)], threads)
    return losses, counts


@kernel
def softmax_gradient(p: Any, slopes: Any, factors: Any) -> None:
    """Turn probabilities into the gradient by the scores under them, p_c (s_c - sum_c p_c s_c), in place.

    Args:
        p: float32 `b k n`.
        slopes: float32 `b k n`, to be multiplied with `factors` for s.
        factors: float32 `b k`.
    """
    b, k, n = p.shape
    mean = np.empty(_BLOCK, np.float32)
    for i in range(b):
        for start in range(0, n, _BLOCK):
            stop = min(start + _BLOCK, n)
            mean[:] = 0
            for c in range(k):
                own, slope, factor = p[i, c, start:stop], slopes[i, c, start:stop], factors[i, c]
                for j in range(stop - start):
                    mean[j] += own[j] * factor * slope[j]
            for c in range(k):
                own, slope, factor = p[i, c, start:stop], slopes[i, c, start:stop], factors[i, c]
                for j in range(stop - start):
                    own[j] *= factor * slope[j] - mean[j]


@kernel
def _errors(values: Any, labels: Any, c: int, positive: int, margin: Any, errors: Any) -> Any:
    """Write the errors of class c, 0 where nothing counts; give the number of foreground pixels."""
    b, _, n = values.shape
    count = 0
    for i in range(b):
        value, label, error = values[i, c], labels[i], errors[i * n : (i + 1) * n]
        for j in range(n):
            wrong = np.float32(1) - value[j] if label[j] == positive else margin + value[j]
            error[j] = np.float32(0) if label[j] < 0 else wrong
            count += label[j] == positive
    return count


@kernel
def _hardest_first(errors: Any, labels: Any, positive: int, items: Any, spare: Any) -> Any:
    """Sort the errors above 0 (nan is one), largest first: a radix sort of their bits, inverted."""
    b, n = labels.shape
    bits = errors.view(np.int32)
    places = np.zeros((3, _BINS), np.int64)
    for at in range(b * n):
        if not errors[at] <= 0:
            key = 0x7FFFFFFF - np.int64(bits[at] & 0x7FFFFFFF)
            places[0, key & 0x3FF] += 1
            places[1, (key >> 10) & 0x3FF] += 1
            places[2, key >> 20] += 1
    total = 0
    for digit in range(3):
        total = 0
        for value in range(_BINS):
            count = places[digit, value]
            places[digit, value] = total
            total += count
    for i in range(b):
        label = labels[i]
        for j in range(n):
            at = i * n + j
            if not errors[at] <= 0:
                key = 0x7FFFFFFF - np.int64(bits[at] & 0x7FFFFFFF)
                place = places[0, key & 0x3FF]
                places[0, key & 0x3FF] = place + 1
                spare[place] = (key << 32) | (np.int64(label[j] == positive) << 31) | at
    for item in spare[:total]:
        value = (item >> 42) & 0x3FF
        place = places[1, value]
        places[1, value] = place + 1
        items[place] = item
    for item in items[:total]:
        value = item >> 52
        place = places[2, value]
        places[2, value] = place + 1
        spare[place] = item
    return spare[:total]


@kernel
def _steps(items: Any, foreground: int, steps: Any) -> None:
    """How much each item raises the Jaccard loss when it joins those before it."""
    intersection, union = float(foreground), float(foreground)
    for item in items:
        if item & _FOREGROUND:
            steps[item & _POSITION] = 1 / union
            intersection -= 1
        elif union > 0:
            steps[item & _POSITION] = intersection / (union * (union + 1))
            union += 1
        else:  # the first error of a class that is not there spoils it all
            steps[item & _POSITION] = 1
            union = 1.0


@kernel
def _slopes(errors: Any, steps: Any, labels: Any, positive: int, c: int, slopes: Any) -> Any:
    """Write the slopes by the values of class c; give the sum of steps times errors."""
    b, n = labels.shape
    loss = 0.0
    for i in range(b):
        label, error, step = labels[i], errors[i * n : (i + 1) * n], steps[i * n : (i + 1) * n]
        slope = slopes[i, c]
        for j in range(n):
            if error[j] <= 0:
                slope[j] = 0
            else:
                loss += np.float64(step[j]) * np.float64(error[j])
                slope[j] = -step[j] if label[j] == positive else step[j]
    return loss
