"""Collapsed Gibbs sampling of a Dirichlet-process mixture of Gaussians (Neal 2000, Algorithm 3).

The prior of a cluster's mean and covariance is normal-inverse-Wishart with mean `center`, `strength` (kappa),
`freedom` (nu) and diagonal `scale` (Psi). Integrated over, a point follows Student's t given the others of
its cluster (Murphy 2007, Sec. 9):

    t_{nu_n - d + 1}(x | mu_n, Psi_n (kappa_n + 1) / (kappa_n (nu_n - d + 1)))
"""

import math

import numpy as np
from jaxtyping import Float64, Int64

from ..compiling import inlined, kernel


@inlined
def _refresh(
    c: int,
    center: Float64[np.ndarray, " d"],
    strength: float,
    freedom: float,
    scale: Float64[np.ndarray, " d"],
    counts: Int64[np.ndarray, " k"],
    sums: Float64[np.ndarray, "k d"],
    squares: Float64[np.ndarray, "k d d"],
    means: Float64[np.ndarray, "k d"],
    factors: Float64[np.ndarray, "k d d"],
    constants: Float64[np.ndarray, " k"],
) -> None:
    """Mean, Cholesky factor of Psi_n and constant of the predictive density of cluster c."""
    d = len(center)
    n = counts[c]
    kappa, nu = strength + n, freedom + n
    for i in range(d):
        means[c, i] = (strength * center[i] + sums[c, i]) / kappa
    for i in range(d):
        for j in range(i + 1):
            value = squares[c, i, j] + strength * center[i] * center[j] - kappa * means[c, i] * means[c, j]
            if i == j:
                value += scale[i]
            for m in range(j):
                value -= factors[c, i, m] * factors[c, j, m]
            if i == j:
                factors[c, i, i] = math.sqrt(max(value, 1e-12 * scale[i]))
            else:
                factors[c, i, j] = value / factors[c, j, j]
    log_det = 0.0
    for i in range(d):
        log_det += 2 * math.log(factors[c, i, i])
    constants[c] = (
        math.lgamma((nu + 1) / 2)
        - math.lgamma((nu - d + 1) / 2)
        - 0.5 * log_det
        - 0.5 * d * math.log(math.pi * (kappa + 1) / kappa)
    )


@inlined
def _log_density(
    x: Float64[np.ndarray, " d"],
    c: int,
    strength: float,
    freedom: float,
    counts: Int64[np.ndarray, " k"],
    means: Float64[np.ndarray, "k d"],
    factors: Float64[np.ndarray, "k d d"],
    constants: Float64[np.ndarray, " k"],
    solved: Float64[np.ndarray, " d"],
) -> float:
    """Log p(x | the points of cluster c)."""
    d = len(x)
    kappa, nu = strength + counts[c], freedom + counts[c]
    length = 0.0
    for i in range(d):
        value = x[i] - means[c, i]
        for m in range(i):
            value -= factors[c, i, m] * solved[m]
        solved[i] = value / factors[c, i, i]
        length += solved[i] * solved[i]
    return constants[c] - 0.5 * (nu + 1) * math.log1p(length * kappa / (kappa + 1))


@kernel
def dirichlet_sweep(
    points: Float64[np.ndarray, "n d"],
    order: Int64[np.ndarray, " n"],
    random: Float64[np.ndarray, " n"],
    concentration: float,
    center: Float64[np.ndarray, " d"],
    strength: float,
    freedom: float,
    scale: Float64[np.ndarray, " d"],
    labels: Int64[np.ndarray, " n"],
    most: int,
) -> int:
    """Draw the cluster of every point given all others; labels are -1 where none was drawn yet.

    Args:
        points: to be clustered.
        order: in which they are drawn.
        random: even numbers in [0, 1), one per point.
        concentration: alpha; a new cluster opens in proportion to it.
        center: of the prior, like the next three.
        strength: kappa.
        freedom: nu, above d - 1.
        scale: the diagonal of Psi.
        labels: changed; clusters are numbered without gaps at the end.
        most: clusters there may be; none opens beyond.

    Returns:
        Number of clusters.
    """
    n, d = points.shape
    counts = np.zeros(most + 1, np.int64)  # one more: the next new cluster, always empty
    sums, squares = np.zeros((most + 1, d)), np.zeros((most + 1, d, d))
    for i in range(n):
        c = labels[i]
        if c >= 0:
            _add(points[i], 1, c, counts, sums, squares)
    means, factors = np.empty((most + 1, d)), np.zeros((most + 1, d, d))
    constants, log_weights, solved = np.empty(most + 1), np.empty(most + 1), np.empty(d)
    used = 0  # clusters 0:used have been opened; some may have run empty
    for c in range(most + 1):
        _refresh(c, center, strength, freedom, scale, counts, sums, squares, means, factors, constants)
        if counts[c]:
            used = c + 1
    for at in range(n):
        i = order[at]
        x, old = points[i], labels[i]
        if old >= 0:
            _add(x, -1, old, counts, sums, squares)
            if counts[old] == 0:  # leave no rounding behind
                sums[old] = 0
                squares[old] = 0
            _refresh(old, center, strength, freedom, scale, counts, sums, squares, means, factors, constants)
        fresh = 0  # the first empty cluster is where a new one would open
        while fresh < used and counts[fresh] > 0:
            fresh += 1
        top = -np.inf
        last = max(used, fresh + 1)
        for c in range(last):
            if counts[c] == 0 and (c != fresh or fresh >= most):
                log_weights[c] = -np.inf
                continue
            prior = math.log(float(counts[c])) if counts[c] else math.log(concentration)
            density = _log_density(x, c, strength, freedom, counts, means, factors, constants, solved)
            log_weights[c] = prior + density
            top = max(top, log_weights[c])
        total = 0.0
        for c in range(last):
            log_weights[c] = math.exp(log_weights[c] - top)
            total += log_weights[c]
        left, drawn = random[i] * total, -1
        for c in range(last):
            if log_weights[c] > 0:
                drawn = c
                left -= log_weights[c]
                if left < 0:
                    break
        labels[i] = drawn
        used = max(used, drawn + 1)
        _add(x, 1, drawn, counts, sums, squares)
        _refresh(drawn, center, strength, freedom, scale, counts, sums, squares, means, factors, constants)
    names, number = np.full(most + 1, -1, np.int64), 0
    for i in range(n):
        c = labels[i]
        if names[c] < 0:
            names[c] = number
            number += 1
        labels[i] = names[c]
    return number


@inlined
def _add(
    x: Float64[np.ndarray, " d"],
    sign: int,
    c: int,
    counts: Int64[np.ndarray, " k"],
    sums: Float64[np.ndarray, "k d"],
    squares: Float64[np.ndarray, "k d d"],
) -> None:
    """Put a point into cluster c, or take it out."""
    counts[c] += sign
    for i in range(len(x)):
        sums[c, i] += sign * x[i]
        for j in range(i + 1):
            squares[c, i, j] += sign * x[i] * x[j]
