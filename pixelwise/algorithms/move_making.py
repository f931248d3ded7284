"""Labellings by minimum cuts: two labels exactly, more by alpha-expansion and alpha-beta swap.

The latter two (Boykov, Veksler and Zabih, PAMI 2001) go down from any labelling by moves that change many
pixels at once, each the best of exponentially many, found by one cut. They are deterministic, not Monte Carlo
methods.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Integer

from .energy import GridEnergy
from .segmentation import Progress, Segmentation


def minimum_cut(energy: GridEnergy) -> Segmentation:
    """The labelling with the least energy of two labels, exactly (Greig, Porteous and Seheult, 1989).

    Raises:
        ValueError: if there are not two labels, or two equal labels side by side cost more than different
            ones: then no cut stands for the energy.

    >>> unary = np.array([[[0.0, 2.0], [1.0, 0.9], [0.0, 2.0]]])
    >>> minimum_cut(GridEnergy.potts(unary, strength=0.5)).label_map.labels.tolist()
    [[0, 0, 0]]
    """
    if energy.num_labels != 2:
        raise ValueError(f"a minimum cut is the answer for two labels, the energy has {energy.num_labels}")
    if not energy.is_semi_metric():
        raise ValueError("equal labels side by side cost more than different ones: no cut stands for that")
    start = np.ones(energy.unary.shape[:2], dtype=np.int64)
    found = _descend(energy, [(0, -1)], start, 1, None)  # every pixel keeps 1 or takes 0
    return replace(found, trace=found.trace[-1:], converged=True)


def alpha_expansion(
    energy: GridEnergy,
    *,
    start: Integer[np.ndarray, "H W"] | None = None,
    max_cycles: int = 20,
    progress: Progress | None = None,
) -> Segmentation:
    """Moves in which any pixels may take the label alpha, for each alpha in turn, until none helps.

    The energy found is at most 2 max d(a, b) / min d(a, b) over a != b times the least one (Theorem 6.1), for
    Potts twice. The trace has the energy after each move.

    Args:
        energy: whose distance is a metric.
        start: a labelling to begin with; None for the best labels without pairs.
        max_cycles: cycles over all labels.
        progress: called after each cycle.

    Raises:
        ValueError: if the distance is no metric, or the start does not fit.

    >>> unary = np.array([[[0.0, 2.0, 2.0], [1.0, 0.9, 3.0], [0.0, 2.0, 2.0]]])
    >>> alpha_expansion(GridEnergy.potts(unary, strength=0.5)).label_map.labels.tolist()
    [[0, 0, 0]]
    """
    if not energy.is_metric():
        raise ValueError("alpha-expansion needs a distance that is a metric: try alpha_beta_swap")
    moves = [(alpha, -1) for alpha in range(energy.num_labels)]
    return _descend(energy, moves, start, max_cycles, progress)


def alpha_beta_swap(
    energy: GridEnergy,
    *,
    start: Integer[np.ndarray, "H W"] | None = None,
    max_cycles: int = 20,
    progress: Progress | None = None,
) -> Segmentation:
    """Moves in which pixels of two labels may change them, for each pair of labels in turn, until none helps.

    No bound is known, but the distance needs only be a semi-metric: no triangle inequality.

    Args:
        energy: whose distance is a semi-metric.
        start: a labelling to begin with; None for the best labels without pairs.
        max_cycles: cycles over all pairs of labels.
        progress: called after each cycle.

    Raises:
        ValueError: if the distance is no semi-metric, or the start does not fit.
    """
    if not energy.is_semi_metric():
        raise ValueError("alpha-beta swap needs d(a, a) + d(b, b) <= 2 d(a, b) for all labels")
    k = energy.num_labels
    moves = [(alpha, beta) for alpha in range(k) for beta in range(alpha + 1, k)]
    return _descend(energy, moves, start, max_cycles, progress)


def _descend(
    energy: GridEnergy,
    moves: list[tuple[int, int]],
    start: Integer[np.ndarray, "H W"] | None,
    max_cycles: int,
    progress: Progress | None,
) -> Segmentation:
    from ..kernels.classical.moves import move

    if max_cycles < 1:
        raise ValueError(f"max_cycles must be at least 1, got {max_cycles}")
    labels = energy.unary.argmin(2) if start is None else np.array(start, dtype=np.int64)
    value = energy.of(labels)
    trace = [value]
    height, width = labels.shape
    n = (height + 2) * (width + 2)
    capacity, terminal = np.empty((2 * len(energy.weights), n)), np.empty(n)
    tree = np.empty(n, np.uint8)
    idle = 0  # moves in a row that changed nothing
    for cycle, (alpha, beta) in _in_turn(moves, max_cycles):
        proposed = labels.copy()
        changed = move(
            energy.unary, energy.weights, energy.distance, energy.steps, proposed, alpha, beta,
            capacity, terminal, tree,
        )  # fmt: skip
        better = changed and (found := energy.of(proposed)) < value - 1e-12 * abs(value)
        if better:
            labels, value, idle = proposed, found, 0
        else:
            idle += 1
        trace.append(value)
        if progress is not None and (alpha, beta) == moves[-1]:
            progress(cycle + 1, max_cycles)
        if idle >= len(moves):
            break
    return Segmentation.of(labels, trace, "energy", converged=idle >= len(moves))


def _in_turn(moves: list[tuple[int, int]], cycles: int) -> Iterator[tuple[int, tuple[int, int]]]:
    for cycle in range(cycles):
        for move in moves:
            yield cycle, move
