"""Iterated conditional modes (Besag, Journal of the Royal Statistical Society B, 1986)."""

import numpy as np
from jaxtyping import Integer

from .energy import GridEnergy, start_of
from .segmentation import Progress, Segmentation


def iterated_conditional_modes(
    energy: GridEnergy,
    *,
    start: Integer[np.ndarray, "H W"] | None = None,
    max_sweeps: int = 50,
    progress: Progress | None = None,
) -> Segmentation:
    """Give each pixel in turn the label that is best while all others stay, until none changes.

    The energy never rises, and ends in the nearest place that no change of a single pixel improves: fast, and
    the weakest of the methods. The trace has the energy after each sweep.

    Args:
        energy: any.
        start: a labelling to begin with; None for the best labels without pairs.
        max_sweeps: sweeps over all pixels.
        progress: called after each sweep.

    Raises:
        ValueError: if the start does not fit, or max_sweeps is not positive.
    """
    from ..kernels.classical.grid_fields import icm_sweep

    labels = start_of(energy, start, max_sweeps)
    weights, steps = energy.directed
    trace = [energy.of(labels)]
    changed = 1
    while changed and len(trace) <= max_sweeps:
        changed = icm_sweep(energy.unary, weights, steps, energy.distance, labels)
        trace.append(energy.of(labels))
        if progress is not None:
            progress(len(trace) - 1, max_sweeps)
    return Segmentation.of(labels, trace, "energy", converged=not changed)
