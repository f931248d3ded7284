"""The two-label energies that alpha-expansion and alpha-beta swap minimise by a cut.

In a move every pixel that takes part chooses y = 0 (take alpha) or y = 1 (keep its label; beta in a swap).
With A, B, C, D the cost of a pair for (0, 0), (0, 1), (1, 0), (1, 1) (Kolmogorov and Zabih, PAMI 2004):

    A + (C - A) y_i + (D - C) y_j + (B + C - A - D) (1 - y_i) y_j

so a pair adds to both pixels' own costs and an edge from i to j that is cut when i is on the side of the
source (y = 0) and j on that of the sink. The grid has the frame of `max_flow`.
"""

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from ..compiling import kernel
from .max_flow import SOURCE, max_flow


@kernel
def move(
    unary: Float64[np.ndarray, "H W k"],
    weights: Float64[np.ndarray, "e H W"],
    distance: Float64[np.ndarray, "k k"],
    pairs: Int64[np.ndarray, "e 2"],
    labels: Int64[np.ndarray, "H W"],
    alpha: int,
    beta: int,
    capacity: Float64[np.ndarray, "d n"],
    terminal: Float64[np.ndarray, " n"],
    tree: UInt8[np.ndarray, " n"],
) -> int:
    """The best expansion of alpha (beta < 0) or swap of alpha and beta, written into `labels`.

    The last three arguments are room to work in, with n = (H + 2) (W + 2) and d = 2 e.

    Returns:
        Number of pixels that changed.
    """
    height, width = labels.shape
    row = width + 2
    capacity[:] = 0
    terminal[:] = 0
    for y in range(height):
        for x in range(width):
            i = (y + 1) * row + x + 1
            here = labels[y, x]
            if beta >= 0:
                moves = here == alpha or here == beta
                here = beta if moves else here
            else:
                moves = True
            if moves:
                terminal[i] += unary[y, x, here] - unary[y, x, alpha]
            for e in range(len(pairs)):
                w = weights[e, y, x]
                if w == 0:
                    continue
                there = labels[y + pairs[e, 0], x + pairs[e, 1]]
                if beta >= 0:
                    other_moves = there == alpha or there == beta
                    there = beta if other_moves else there
                else:
                    other_moves = True
                j = i + pairs[e, 0] * row + pairs[e, 1]
                if moves and other_moves:
                    a, b = distance[alpha, alpha], distance[alpha, there]
                    c, d = distance[here, alpha], distance[here, there]
                    terminal[i] += w * (c - a)
                    terminal[j] += w * (d - c)
                    capacity[2 * e, i] = max(0.0, w * (b + c - a - d))
                elif moves:
                    terminal[i] += w * (distance[here, there] - distance[alpha, there])
                elif other_moves:
                    terminal[j] += w * (distance[here, there] - distance[here, alpha])
    steps = np.empty(2 * len(pairs), np.int64)
    for e in range(len(pairs)):
        steps[2 * e] = pairs[e, 0] * row + pairs[e, 1]
        steps[2 * e + 1] = -steps[2 * e]
    max_flow(capacity, terminal, steps, tree)
    changed = 0
    for y in range(height):
        for x in range(width):
            here = labels[y, x]
            if beta >= 0 and here != alpha and here != beta:
                continue
            if tree[(y + 1) * row + x + 1] == SOURCE:
                new = alpha
            else:
                new = beta if beta >= 0 else here
            if new != here:
                labels[y, x] = new
                changed += 1
    return changed
