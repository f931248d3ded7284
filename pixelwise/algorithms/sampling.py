"""Markov chain Monte Carlo on a grid energy: Metropolis-Hastings, Gibbs, simulated annealing.

Samples are drawn from exp(-E(x) / temperature). (Metropolis et al. 1953; Hastings 1970; Geman and Geman, PAMI
1984.)
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64, Integer

from .energy import GridEnergy, start_of
from .segmentation import Progress, Segmentation, SoftSegmentation

Sweep = Callable[[Int64[np.ndarray, "H W"], float], None]


def metropolis_hastings(
    energy: GridEnergy,
    *,
    sweeps: int = 200,
    burn_in: int = 50,
    temperature: float = 1.0,
    start: Integer[np.ndarray, "H W"] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> SoftSegmentation:
    """Offer each pixel in turn a label drawn evenly; take it with probability min(1, exp(-dE / temperature)).

    Args:
        energy: any.
        sweeps: over all pixels, those of the burn-in included.
        burn_in: sweeps before samples count.
        temperature: above 0.
        start: a labelling to begin with; None for the best labels without pairs.
        seed: of the random numbers.
        progress: called after each sweep.

    Returns:
        The labelling of least energy that was visited, the share of samples of each label at every pixel, and
        the energy after each sweep as trace.

    Raises:
        ValueError: if the start does not fit, or a number is out of range.
    """
    from ..kernels.classical.grid_fields import metropolis_sweep

    random = np.random.default_rng(seed)
    weights, steps = energy.directed
    k = energy.num_labels

    def sweep(labels: Int64[np.ndarray, "H W"], temperature: float) -> None:
        proposals = random.integers(0, k, labels.shape)
        uniform = random.random(labels.shape)
        metropolis_sweep(
            energy.unary, weights, steps, energy.distance, labels, temperature, proposals, uniform
        )

    return _sampled(energy, sweep, _constant(temperature, sweeps), burn_in, start, progress)


def gibbs(
    energy: GridEnergy,
    *,
    sweeps: int = 200,
    burn_in: int = 50,
    temperature: float = 1.0,
    start: Integer[np.ndarray, "H W"] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> SoftSegmentation:
    """Draw the label of every pixel in turn from its distribution given all others (Geman and Geman 1984).

    Arguments, result and errors are those of `metropolis_hastings`.
    """
    sweep = _gibbs(energy, seed)
    return _sampled(energy, sweep, _constant(temperature, sweeps), burn_in, start, progress)


def simulated_annealing(
    energy: GridEnergy,
    *,
    sweeps: int = 200,
    hottest: float = 4.0,
    coldest: float = 0.05,
    start: Integer[np.ndarray, "H W"] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Segmentation:
    """Gibbs sampling while the temperature falls from `hottest` to `coldest` by a constant factor per sweep.

    (A fall as slow as 1 / log would find the least energy for sure, Geman and Geman 1984; nobody waits for
    it.) The labelling is the best that was visited, the trace has the energy after each sweep.

    Raises:
        ValueError: if the start does not fit, or a number is out of range.
    """
    if not 0 < coldest <= hottest:
        raise ValueError(f"temperatures must be 0 < coldest <= hottest, got {coldest} and {hottest}")
    temperatures = np.geomspace(hottest, coldest, _positive(sweeps))
    found = _sampled(energy, _gibbs(energy, seed), temperatures, sweeps - 1, start, progress)
    return Segmentation(found.label_map, found.trace, found.objective, found.converged)


def _gibbs(energy: GridEnergy, seed: int) -> Sweep:
    from ..kernels.classical.grid_fields import gibbs_sweep

    random = np.random.default_rng(seed)
    weights, steps = energy.directed

    def sweep(labels: Int64[np.ndarray, "H W"], temperature: float) -> None:
        uniform = random.random(labels.shape)
        gibbs_sweep(energy.unary, weights, steps, energy.distance, labels, temperature, uniform)

    return sweep


def _sampled(
    energy: GridEnergy,
    sweep: Sweep,
    temperatures: Float64[np.ndarray, " n"],
    burn_in: int,
    start: Integer[np.ndarray, "H W"] | None,
    progress: Progress | None,
) -> SoftSegmentation:
    if not 0 <= burn_in < len(temperatures):
        raise ValueError(
            f"burn_in must be in 0..{len(temperatures) - 1} of {len(temperatures)} sweeps, got {burn_in}"
        )
    labels = start_of(energy, start, len(temperatures))
    best = energy.of(labels), labels.copy()
    trace: list[float] = []
    counts = np.zeros(energy.unary.shape)
    rows, columns = np.ogrid[: labels.shape[0], : labels.shape[1]]
    for done, temperature in enumerate(temperatures, 1):
        sweep(labels, float(temperature))
        trace.append(energy.of(labels))
        if trace[-1] < best[0]:
            best = trace[-1], labels.copy()
        if done > burn_in:
            counts[rows, columns, labels] += 1
        if progress is not None:
            progress(done, len(temperatures))
    found = Segmentation.of(best[1], trace, "energy")
    return SoftSegmentation(**vars(found), marginals=counts / counts.sum(2, keepdims=True))


def _constant(temperature: float, sweeps: int) -> Float64[np.ndarray, " n"]:
    if not 0 < temperature < np.inf:
        raise ValueError(f"the temperature must be above 0, got {temperature}")
    return np.full(_positive(sweeps), float(temperature))


def _positive(sweeps: int) -> int:
    if sweeps < 1:
        raise ValueError(f"sweeps must be at least 1, got {sweeps}")
    return sweeps
