"""Loopy belief propagation, and tree-reweighted message passing with its lower bound."""

from typing import Literal

import numpy as np

from .energy import GridEnergy, checked_sweeps
from .segmentation import BoundedSegmentation, Progress, Segmentation, SoftSegmentation


def belief_propagation(
    energy: GridEnergy,
    *,
    product: Literal["max", "sum"] = "max",
    damping: float = 0.0,
    max_sweeps: int = 50,
    tolerance: float = 1e-6,
    progress: Progress | None = None,
) -> SoftSegmentation:
    """Pixels tell their neighbours what they believe, in reading order and back, until nothing changes.

    In costs (negative logarithms) a pixel i tells j about label l

        m(l) = min_a h(a) + weight distance(a, l),   h = unary_i + all it was told, but by j     (max-product)

    with -log sum exp(- ...) in place of the minimum for sum-product. Exact on trees (a row of pixels); on a
    grid a heuristic that may not settle: damping helps. Max-product gives the labelling of least energy that
    it met, sum-product the most probable label of every pixel for itself. The trace has the energy after each
    sweep.

    Args:
        energy: any.
        product: "max" looks for the best labelling, "sum" for marginal probabilities of exp(-E).
        damping: share in [0, 1) of the old message in the new one.
        max_sweeps: of one pass forth and one back.
        tolerance: the largest change of a message that counts as none.
        progress: called after each sweep.

    Returns:
        Labels; marginals of sum-product, for max-product the (normalised) max-marginals.

    Raises:
        ValueError: on an unknown product, damping outside [0, 1), or max_sweeps that is not positive.
    """
    from ..kernels.classical.grid_fields import belief_sweep

    checked_sweeps(max_sweeps)
    if product not in ("max", "sum"):
        raise ValueError(f"product must be max or sum, got {product!r}")
    if not 0 <= damping < 1:
        raise ValueError(f"damping must be in [0, 1), got {damping}")
    weights, steps = energy.directed
    messages = np.zeros((len(steps), *energy.unary.shape))
    soft, potts = product == "sum", energy.is_potts()
    best, change = (np.inf, energy.unary.argmin(2)), np.inf
    trace: list[float] = []
    belief = energy.unary
    while change > tolerance and len(trace) < max_sweeps:
        change = 0.0
        for backwards in (False, True):
            moved = belief_sweep(
                energy.unary, weights, steps, energy.distance, messages, potts, soft, damping, backwards
            )
            change = max(change, moved)
        belief = energy.unary + messages.sum(0)
        labels = belief.argmin(2)
        trace.append(energy.of(labels))
        if soft or trace[-1] < best[0]:
            best = trace[-1], labels
        if progress is not None:
            progress(len(trace), max_sweeps)
    odds = np.exp(belief.min(2, keepdims=True) - belief)
    found = Segmentation.of(best[1], trace, "energy", converged=change <= tolerance)
    return SoftSegmentation(**vars(found), marginals=odds / odds.sum(2, keepdims=True))


def tree_reweighted(
    energy: GridEnergy,
    *,
    max_sweeps: int = 50,
    tolerance: float = 1e-9,
    progress: Progress | None = None,
) -> BoundedSegmentation:
    """Sequential tree-reweighted message passing, TRW-S (Kolmogorov, PAMI 2006).

    Besides a labelling it gives a lower bound that never falls: no labelling is better than `bounds[-1]`, so
    where the two meet the labelling is the best there is. The trace has the energy after each sweep; the
    labelling is the best that was met.

    Args:
        energy: any.
        max_sweeps: of one pass forth and one back.
        tolerance: stops when bound and energy are that near, or the bound grows by less, relative to both.
        progress: called after each sweep.

    Raises:
        ValueError: if max_sweeps is not positive.
    """
    from ..kernels.classical.grid_fields import reweighted_sweep

    checked_sweeps(max_sweeps)
    weights, steps = energy.directed
    messages, potts = np.zeros((len(steps), *energy.unary.shape)), energy.is_potts()
    labels = energy.unary.argmin(2)
    best, settled = (np.inf, labels), False
    trace: list[float] = []
    bounds: list[float] = []
    while not settled and len(trace) < max_sweeps:
        arguments = (energy.unary, weights, steps, energy.distance, messages, potts)
        reweighted_sweep(*arguments, False, labels)
        bounds.append(reweighted_sweep(*arguments, True, labels))
        trace.append(energy.of(labels))
        if trace[-1] < best[0]:
            best = trace[-1], labels.copy()
        scale = tolerance * max(1.0, abs(best[0]))
        settled = best[0] - bounds[-1] <= scale or (len(bounds) > 1 and bounds[-1] - bounds[-2] <= scale)
        if progress is not None:
            progress(len(trace), max_sweeps)
    found = Segmentation.of(best[1], trace, "energy", converged=settled)
    return BoundedSegmentation(**vars(found), bounds=tuple(bounds))
