"""Texture-layout features by integral images, and the search for the stump that classes share best."""

import numpy as np
from jaxtyping import Float32, Float64, Int16, Int32, Int64

from ..compiling import kernel


@kernel
def count_texton(maps: Int16[np.ndarray, "n H W"], texton: int, total: Int32[np.ndarray, "n h w"]) -> None:
    """Integral images: total[i, y, x] pixels of the texton lie above and left of (y, x) in map i."""
    n, height, width = maps.shape
    for i in range(n):
        for y in range(height):
            row = 0
            for x in range(width):
                row += maps[i, y, x] == texton
                total[i, y + 1, x + 1] = total[i, y, x + 1] + row


@kernel
def fractions(
    total: Int32[np.ndarray, "n h w"],
    places: Int64[np.ndarray, "m 3"],
    rectangle: Int64[np.ndarray, "4"],
    values: Float32[np.ndarray, " m"],
) -> None:
    """Share of a rectangle beside each place (image, row, column) that one texton covers.

    The rectangle is top, left, bottom, right from the place; what lies outside the image is not covered.
    """
    height, width = total.shape[1] - 1, total.shape[2] - 1
    top, left, bottom, right = rectangle
    area = (bottom - top) * (right - left)
    for j in range(len(places)):
        i, y, x = places[j]
        y0, y1 = min(max(y + top, 0), height), min(max(y + bottom, 0), height)
        x0, x1 = min(max(x + left, 0), width), min(max(x + right, 0), width)
        count = total[i, y1, x1] - total[i, y0, x1] - total[i, y1, x0] + total[i, y0, x0]
        values[j] = count / area


@kernel
def best_stump(
    values: Float32[np.ndarray, " m"],
    labels: Int64[np.ndarray, " m"],
    weights: Float32[np.ndarray, "m k"],
    thresholds: Float64[np.ndarray, " t"],
    shared: Int64[np.ndarray, " k"],
) -> tuple[float, int, float, float]:
    """The threshold and the classes whose shared stump fits best (Torralba et al., PAMI 2007, Sec. 2.3).

    A stump says above where value > threshold and below elsewhere for the classes that share it, a constant
    for each other class. Targets z are 1 for a place's own class and -1 for the others; the squared error sum
    w (z - h)^2 falls by what is called gain here. The set grows by the class that helps most.

    Args:
        values: of the feature.
        labels: class of each place.
        weights: of each place for each class.
        thresholds: in ascending order.
        shared: filled: 1 for the classes that share the stump.

    Returns:
        Gain, position of the threshold, value above and value below.
    """
    m, k = weights.shape
    bins = len(thresholds) + 1
    weight, signed = np.zeros((bins, k)), np.zeros((bins, k))
    for j in range(m):
        b = np.searchsorted(thresholds, values[j])  # thresholds before it are below the value
        for c in range(k):
            w = weights[j, c]
            weight[b, c] += w
            signed[b, c] += w if labels[j] == c else -w
    all_weight, all_signed = weight.sum(0), signed.sum(0)
    alone = np.zeros(k)  # gain of a class that has a constant
    for c in range(k):
        alone[c] = all_signed[c] ** 2 / max(all_weight[c], 1e-30)
    best_gain, best_at, best_above, best_below = -1.0, 0, 0.0, 0.0
    low_weight, low_signed = np.zeros(k), np.zeros(k)
    member = np.empty(k, np.int64)
    for t in range(len(thresholds)):
        low_weight += weight[t]
        low_signed += signed[t]
        member[:] = 0
        w0 = w1 = s0 = s1 = 0.0
        others = alone.sum()
        for _ in range(k):
            chosen, top = -1, -1.0
            for c in range(k):
                if member[c]:
                    continue
                new_w0, new_s0 = w0 + low_weight[c], s0 + low_signed[c]
                new_w1 = w1 + all_weight[c] - low_weight[c]
                new_s1 = s1 + all_signed[c] - low_signed[c]
                gain = new_s0**2 / max(new_w0, 1e-30) + new_s1**2 / max(new_w1, 1e-30) + others - alone[c]
                if gain > top:
                    chosen, top = c, gain
            member[chosen] = 1
            others -= alone[chosen]
            w0, s0 = w0 + low_weight[chosen], s0 + low_signed[chosen]
            w1 += all_weight[chosen] - low_weight[chosen]
            s1 += all_signed[chosen] - low_signed[chosen]
            if top > best_gain:
                best_gain, best_at = top, t
                best_above, best_below = s1 / max(w1, 1e-30), s0 / max(w0, 1e-30)
                shared[:] = member
    return best_gain, best_at, best_above, best_below
