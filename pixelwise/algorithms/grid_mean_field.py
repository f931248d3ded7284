"""Mean field on a grid: the nearest distribution whose pixels know nothing of each other."""

import numpy as np
from jaxtyping import Float64

from .energy import GridEnergy, checked_sweeps, pair_slices
from .segmentation import Progress, Segmentation, SoftSegmentation


def grid_mean_field(
    energy: GridEnergy,
    *,
    max_sweeps: int = 50,
    tolerance: float = 1e-6,
    progress: Progress | None = None,
) -> SoftSegmentation:
    """Q_i(l) ~ exp(-unary_i(l) - sum_j weight_ij sum_a Q_j(a) distance(l, a)), one pixel after the other.

    One at a time, so that KL(Q || P), P = exp(-E) / Z, never rises (all at once it may swing). The trace has
    that divergence less log Z, a number that is known: sum Q E + sum Q log Q. (The fully connected kind is
    `dense_crf`.)

    Args:
        energy: any.
        max_sweeps: sweeps over all pixels.
        tolerance: the largest change of a probability that counts as none.
        progress: called after each sweep.

    Raises:
        ValueError: if max_sweeps is not positive.
    """
    from ..kernels.classical.grid_fields import mean_field_sweep

    checked_sweeps(max_sweeps)
    weights, steps = energy.directed
    q = np.exp(energy.unary.min(2, keepdims=True) - energy.unary)
    q /= q.sum(2, keepdims=True)
    trace, change = [_free_energy(energy, q)], np.inf
    while change > tolerance and len(trace) <= max_sweeps:
        change = mean_field_sweep(energy.unary, weights, steps, energy.distance, q)
        trace.append(_free_energy(energy, q))
        if progress is not None:
            progress(len(trace) - 1, max_sweeps)
    found = Segmentation.of(q.argmax(2), trace, "free energy", converged=change <= tolerance)
    return SoftSegmentation(**vars(found), marginals=q)


def _free_energy(energy: GridEnergy, q: Float64[np.ndarray, "H W k"]) -> float:
    height, width = q.shape[:2]
    total = (q * energy.unary).sum() + (q * np.log(np.maximum(q, 1e-300))).sum()
    for weight, (down, right) in zip(energy.weights, energy.steps.tolist(), strict=True):
        first, second = pair_slices(height, width, (down, right))
        total += (weight[first] * ((q[first] @ energy.distance) * q[second]).sum(-1)).sum()
    return float(total)
