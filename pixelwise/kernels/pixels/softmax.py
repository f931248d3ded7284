"""The most probable class and its probability at every pixel, from scores that are resized on the way."""

import numpy as np
from jaxtyping import Float32, Int64

from ..compiling import kernel, parallel_map
from ..intrinsics import from_bits, multiply_add
from .argmax import FEW, settle, spans, take_lead
from .resizing import TILE, Axis, interpolate_row, resized_axis


def resized_confidence(
    scores: Float32[np.ndarray, "k h w"],
    labels: Int64[np.ndarray, "H W"],
    probability: Float32[np.ndarray, "H W"],
    align_corners: bool,
    threads: int = 1,
) -> bool:
    """Fill `labels` as `resized_argmax` does, and `probability` with the softmax of that class.

    Returns:
        False if a score is not finite; what was filled in then means nothing.

    >>> labels, probability = np.empty((1, 1), np.int64), np.empty((1, 1), np.float32)
    >>> resized_confidence(np.zeros((4, 1, 1), np.float32), labels, probability, False), probability.tolist()
    (True, [[0.25]])
    """
    h, w = scores.shape[1:]
    if not settle(scores.reshape(len(scores), h * w), 0, np.empty(h * w, np.int32)):
        return False
    rows, columns = (resized_axis(*sizes, align_corners) for sizes in zip((h, w), labels.shape, strict=True))
    parallel_map(
        lambda span: fill_confidence(
            scores, rows, columns, span[0], labels[span[0] : span[1]], probability[span[0] : span[1]]
        ),
        spans(len(labels), threads if labels.size > FEW else 1),
        threads,
    )
    return True


@kernel
def fill_confidence(
    scores: Float32[np.ndarray, "k h w"],
    rows: Axis,
    columns: Axis,
    top: int,
    labels: Int64[np.ndarray, "found W"],
    probability: Float32[np.ndarray, "found W"],
) -> None:
    """Labels and the softmax of each for the fine rows from `top` on."""
    k, width = len(scores), labels.shape[1]
    between = np.empty((k, 2, TILE), np.float32)
    fine = np.empty((k, TILE), np.float32)
    best, total, arg = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.int32)
    for left in range(0, width, TILE):
        tile = min(TILE, width - left)
        start, stop = columns.first[left], columns.second[left + tile - 1] + 1
        held = np.array([-1, -1])
        for y in range(len(labels)):
            a, b = rows.first[top + y], rows.second[top + y]
            for row in (a, b):  # the second one becomes the first of the next rows: it keeps its place
                if held[row % 2] != row:
                    held[row % 2] = row
                    for c in range(k):
                        coarse = scores[c, row, start:stop]
                        interpolate_row(coarse, columns, start, left, between[c, row % 2, :tile])
            of_first, of_second = rows.weight_of_first[top + y], rows.weight_of_second[top + y]
            best[:] = -np.inf
            for c in range(k):
                upper, lower = between[c, a % 2], between[c, b % 2]
                take_lead(c, upper, lower, of_first, of_second, fine[c, :tile], best, arg)
            total[:] = 0
            for c in range(k):
                _add_exponentials(fine[c, :tile], best, total)
            for x in range(tile):
                labels[y, left + x] = arg[x]
                probability[y, left + x] = np.float32(1) / total[x]


@kernel
def _add_exponentials(
    fine: Float32[np.ndarray, " width"],
    best: Float32[np.ndarray, " tile"],
    total: Float32[np.ndarray, " tile"],
) -> None:
    """Add exp(fine - best) to `total`."""
    for x in range(fine.size):
        total[x] += _exponential(fine[x] - best[x])


@kernel
def _exponential(x: float) -> float:
    """exp(x) for x <= 0 to about one unit in the last place, for the compiler to run on many numbers at once.

    exp(x) = 2^n exp(r) with n whole and |r| <= ln(2) / 2; a polynomial (Cephes' expf) gives exp(r).
    """
    bounded = x if x > np.float32(-87) else np.float32(-87)
    shift = np.float32(12582912)  # adding and taking away 1.5 * 2^23 leaves a float32 without a fraction
    n = multiply_add(bounded, np.float32(1.4426950408889634), shift) - shift
    r = multiply_add(n, np.float32(-0.693359375), bounded)  # ln(2) in two parts: the first is exact
    r = multiply_add(n, np.float32(2.12194440e-4), r)
    p = multiply_add(np.float32(1.9875691500e-4), r, np.float32(1.3981999507e-3))
    p = multiply_add(p, r, np.float32(8.3334519073e-3))
    p = multiply_add(p, r, np.float32(4.1665795894e-2))
    p = multiply_add(p, r, np.float32(1.6666665459e-1))
    p = multiply_add(p, r, np.float32(5.0000001201e-1))
    p = multiply_add(p, r * r, r) + np.float32(1)
    return p * from_bits((np.int32(n) + np.int32(127)) << np.int32(23))
