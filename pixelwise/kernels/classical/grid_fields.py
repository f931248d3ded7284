"""Sweeps over the pixels of a grid energy, one pixel after the other.

Every kernel reads unary[y, x, l], weights[d, y, x] of the pair of a pixel and its neighbour in direction d (0
where there is none), steps[d] to that neighbour (d ^ 1 goes back) and distance[a, b]. messages[d, y, x, l] is
what the neighbour in direction d tells pixel (y, x) about label l. Sums over directions that are 0 never read
outside.
"""

import numpy as np
from jaxtyping import Float64, Int64

from ..compiling import inlined, kernel


@inlined
def _local_costs(
    y: int,
    x: int,
    unary: Float64[np.ndarray, "H W k"],
    weights: Float64[np.ndarray, "d H W"],
    steps: Int64[np.ndarray, "d 2"],
    distance: Float64[np.ndarray, "k k"],
    labels: Int64[np.ndarray, "H W"],
    costs: Float64[np.ndarray, " k"],
) -> None:
    """Cost of every label at one pixel while all others stay as they are."""
    costs[:] = unary[y, x]
    for d in range(len(steps)):
        w = weights[d, y, x]
        if w != 0:
            there = labels[y + steps[d, 0], x + steps[d, 1]]
            for label in range(len(costs)):
                costs[label] += w * distance[label, there]


@kernel
def icm_sweep(
    unary: Float64[np.ndarray, "H W k"],
    weights: Float64[np.ndarray, "d H W"],
    steps: Int64[np.ndarray, "d 2"],
    distance: Float64[np.ndarray, "k k"],
    labels: Int64[np.ndarray, "H W"],
) -> int:
    """Give every pixel in turn its cheapest label. Gives the number of pixels that changed."""
    costs = np.empty(unary.shape[2])
    changed = 0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            _local_costs(y, x, unary, weights, steps, distance, labels, costs)
            best = labels[y, x]
            for label in range(len(costs)):
                if costs[label] < costs[best]:
                    best = label
            if best != labels[y, x]:
                labels[y, x] = best
                changed += 1
    return changed


@kernel
def gibbs_sweep(
    unary: Float64[np.ndarray, "H W k"],
    weights: Float64[np.ndarray, "d H W"],
    steps: Int64[np.ndarray, "d 2"],
    distance: Float64[np.ndarray, "k k"],
    labels: Int64[np.ndarray, "H W"],
    temperature: float,
    random: Float64[np.ndarray, "H W"],
) -> None:
    """Draw the label of every pixel in turn from exp(-cost / temperature), given all others."""
    k = unary.shape[2]
    costs = np.empty(k)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            _local_costs(y, x, unary, weights, steps, distance, labels, costs)
            least, total = costs.min(), 0.0
            for label in range(k):
                costs[label] = np.exp((least - costs[label]) / temperature)
                total += costs[label]
            left, drawn = random[y, x] * total, 0
            while drawn < k - 1 and left >= costs[drawn]:
                left -= costs[drawn]
                drawn += 1
            labels[y, x] = drawn


@kernel
def metropolis_sweep(
    unary: Float64[np.ndarray, "H W k"],
    weights: Float64[np.ndarray, "d H W"],
    steps: Int64[np.ndarray, "d 2"],
    distance: Float64[np.ndarray, "k k"],
    labels: Int64[np.ndarray, "H W"],
    temperature: float,
    proposals: Int64[np.ndarray, "H W"],
    random: Float64[np.ndarray, "H W"],
) -> int:
    """Offer every pixel in turn another label; it is taken with probability min(1, exp(-dE / temperature)).

    Returns:
        Number of pixels that took it.
    """
    taken = 0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            old, new = labels[y, x], proposals[y, x]
            change = unary[y, x, new] - unary[y, x, old]
            for d in range(len(steps)):
                w = weights[d, y, x]
                if w != 0:
                    there = labels[y + steps[d, 0], x + steps[d, 1]]
                    change += w * (distance[new, there] - distance[old, there])
            if change <= 0 or random[y, x] < np.exp(-change / temperature):
                labels[y, x] = new
                taken += 1
    return taken


@kernel
def mean_field_sweep(
    unary: Float64[np.ndarray, "H W k"],
    weights: Float64[np.ndarray, "d H W"],
    steps: Int64[np.ndarray, "d 2"],
    distance: Float64[np.ndarray, "k k"],
    q: Float64[np.ndarray, "H W k"],
) -> float:
    """Set q of every pixel in turn to the best for the others' q. Gives the largest change."""
    k = unary.shape[2]
    new = np.empty(k)
    largest = 0.0
    for y in range(unary.shape[0]):
        for x in range(unary.shape[1]):
            new[:] = unary[y, x]
            for d in range(len(steps)):
                w = weights[d, y, x]
                if w != 0:
                    there = q[y + steps[d, 0], x + steps[d, 1]]
                    for a in range(k):
                        for b in range(k):
                            new[a] += w * distance[a, b] * there[b]
            least, total = new.min(), 0.0
            for a in range(k):
                new[a] = np.exp(least - new[a])
                total += new[a]
            for a in range(k):
                largest = max(largest, abs(new[a] / total - q[y, x, a]))
                q[y, x, a] = new[a] / total
    return largest


@inlined
def _send(
    h: Float64[np.ndarray, " k"],
    w: float,
    distance: Float64[np.ndarray, "k k"],
    potts: bool,
    soft: bool,
    message: Float64[np.ndarray, " k"],
) -> float:
    """message(l) = min_a h(a) + w distance(a, l), or -log sum exp(-...) where `soft`; the least is 0.

    Returns:
        What was taken off to make it so.
    """
    k = len(h)
    if potts and not soft:
        least = h.min()
        for label in range(k):
            message[label] = min(h[label] - least, w)
        return least
    for label in range(k):
        least = np.inf
        for a in range(k):
            least = min(least, h[a] + w * distance[a, label])
        if soft:
            total = 0.0
            for a in range(k):
                total += np.exp(least - h[a] - w * distance[a, label])
            least -= np.log(total)
        message[label] = least
    least = message.min()
    for label in range(k):
        message[label] -= least
    return least


@kernel
def belief_sweep(
    unary: Float64[np.ndarray, "H W k"],
    weights: Float64[np.ndarray, "d H W"],
    steps: Int64[np.ndarray, "d 2"],
    distance: Float64[np.ndarray, "k k"],
    messages: Float64[np.ndarray, "d H W k"],
    potts: bool,
    soft: bool,
    damping: float,
    backwards: bool,
) -> float:
    """Every pixel in turn tells the neighbours that come after it what it believes.

    The order is that of reading, or its reverse. Gives the largest change of a message.
    """
    height, width, k = unary.shape
    h, belief, message = np.empty(k), np.empty(k), np.empty(k)
    largest = 0.0
    for place in range(height * width):
        at = height * width - 1 - place if backwards else place
        y, x = at // width, at % width
        belief[:] = unary[y, x]
        for d in range(len(steps)):
            if weights[d, y, x] != 0:
                belief += messages[d, y, x]
        for d in range(len(steps)):
            w = weights[d, y, x]
            if w == 0 or (d & 1 == 1) != backwards:
                continue
            for a in range(k):
                h[a] = belief[a] - messages[d, y, x, a]
            _send(h, w, distance, potts, soft, message)
            told = messages[d ^ 1, y + steps[d, 0], x + steps[d, 1]]
            for a in range(k):
                new = (1 - damping) * message[a] + damping * told[a]
                largest = max(largest, abs(new - told[a]))
                told[a] = new
    return largest


@kernel
def reweighted_sweep(
    unary: Float64[np.ndarray, "H W k"],
    weights: Float64[np.ndarray, "d H W"],
    steps: Int64[np.ndarray, "d 2"],
    distance: Float64[np.ndarray, "k k"],
    messages: Float64[np.ndarray, "d H W k"],
    potts: bool,
    backwards: bool,
    labels: Int64[np.ndarray, "H W"],
) -> float:
    """One pass of TRW-S (Kolmogorov, PAMI 2006, Fig. 3) in the order of reading, or its reverse.

    The forward pass also writes labels: each the best for the labels before it and the messages from behind.

    Returns:
        The lower bound on the energy; it holds for the backward pass.
    """
    height, width, k = unary.shape
    h, belief, message = np.empty(k), np.empty(k), np.empty(k)
    bound = 0.0
    for place in range(height * width):
        at = height * width - 1 - place if backwards else place
        y, x = at // width, at % width
        belief[:] = unary[y, x]
        before = after = 0
        for d in range(len(steps)):
            if weights[d, y, x] != 0:
                belief += messages[d, y, x]
                if d & 1:
                    before += 1
                else:
                    after += 1
        share = 1.0 / max(1, before, after)
        if backwards:
            least = belief.min()
            belief -= least
            bound += least
        else:
            h[:] = unary[y, x]
            for d in range(len(steps)):
                w = weights[d, y, x]
                if w == 0:
                    continue
                if d & 1:
                    there = labels[y + steps[d, 0], x + steps[d, 1]]
                    for a in range(k):
                        h[a] += w * distance[a, there]
                else:
                    h += messages[d, y, x]
            labels[y, x] = h.argmin()
        for d in range(len(steps)):
            w = weights[d, y, x]
            if w == 0 or (d & 1 == 1) != backwards:
                continue
            for a in range(k):
                h[a] = share * belief[a] - messages[d, y, x, a]
            bound += _send(h, w, distance, potts, False, message)
            messages[d ^ 1, y + steps[d, 0], x + steps[d, 1]] = message
    return bound
