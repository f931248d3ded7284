"""Lloyd's algorithm on points that are stored channel by channel, in blocks that stay in the cache."""

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64

from ..compiling import kernel

BLOCK = 256  # points


@kernel
def assign(
    planes: Float32[np.ndarray, "d n"],
    centers: Float32[np.ndarray, "k d"],
    labels: Int32[np.ndarray, " n"],
    sums: Float64[np.ndarray, "k d"],
    counts: Int64[np.ndarray, " k"],
) -> tuple[float, int]:
    """The nearest centre of every point, and sum and number of the points of each.

    Returns:
        The sum of squared distances, and the point that is farthest from its centre.
    """
    d, n = planes.shape
    nearest = np.empty(BLOCK, np.float32)
    away, which = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int32)
    inertia, farthest, record = 0.0, 0, -1.0
    sums[:] = 0
    counts[:] = 0
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        nearest[:] = np.inf
        which[:] = 0
        for c in range(len(centers)):
            for j in range(BLOCK):
                away[j] = 0
            for i in range(d):
                line, middle = planes[i, start : start + m], centers[c, i]
                for j in range(m):
                    difference = line[j] - middle
                    away[j] += difference * difference
            for j in range(BLOCK):
                closer = away[j] < nearest[j]
                nearest[j] = away[j] if closer else nearest[j]
                which[j] = np.int32(c) if closer else which[j]
        for j in range(m):
            c = which[j]
            labels[start + j] = c
            counts[c] += 1
            inertia += nearest[j]
            if nearest[j] > record:
                farthest, record = start + j, nearest[j]
            for i in range(d):
                sums[c, i] += planes[i, start + j]
    return inertia, farthest


@kernel
def shorten(
    planes: Float32[np.ndarray, "d n"], center: Float32[np.ndarray, " d"], squares: Float64[np.ndarray, " n"]
) -> None:
    """Lower each point's squared distance to the nearest centre by a new centre."""
    d, n = planes.shape
    for j in range(n):
        away = 0.0
        for i in range(d):
            difference = planes[i, j] - center[i]
            away += difference * difference
        squares[j] = min(squares[j], away)
