"""Inference on grid energies: every method against brute force over all labelings of a small grid."""

import itertools
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from pixelwise.algorithms.belief_propagation import belief_propagation, tree_reweighted
from pixelwise.algorithms.energy import GridEnergy
from pixelwise.algorithms.grid_mean_field import grid_mean_field
from pixelwise.algorithms.icm import iterated_conditional_modes
from pixelwise.algorithms.sampling import gibbs, metropolis_hastings, simulated_annealing
from pixelwise.algorithms.segmentation import Segmentation, SoftSegmentation
from pixelwise.algorithms.solve import SOLVERS, solve

KINDS: dict[str, Callable[[np.ndarray], GridEnergy]] = {
    "potts": lambda unary: GridEnergy.potts(unary, 0.7),
    "potts, 8 neighbours": lambda unary: GridEnergy.potts(unary, 0.3, 8),
    "truncated linear": lambda unary: GridEnergy.truncated_linear(unary, 0.4, 0.7),
}


def random_energy(
    kind: str = "potts", shape: tuple[int, int] = (3, 4), k: int = 2, seed: int = 0
) -> GridEnergy:
    return KINDS[kind](np.random.default_rng(seed).normal(size=(*shape, k)))


def every(energy: GridEnergy) -> tuple[np.ndarray, np.ndarray]:
    """All labelings and their energies."""
    shape = energy.unary.shape[:2]
    flat = itertools.product(range(energy.num_labels), repeat=shape[0] * shape[1])
    labelings = np.array(list(flat)).reshape(-1, *shape)
    return labelings, np.array([energy.of(labels) for labels in labelings])


@cache
def least(kind: str, seed: int) -> float:
    """The least energy of a grid of 3 x 4 pixels and two labels: 2^12 labelings."""
    return float(every(random_energy(kind, seed=seed))[1].min())


def true_marginals(energy: GridEnergy, temperature: float = 1.0) -> np.ndarray:
    labelings, energies = every(energy)
    p = np.exp((energies.min() - energies) / temperature)
    p /= p.sum()
    one_hot = labelings[..., None] == np.arange(energy.num_labels)
    return (one_hot * p[:, None, None, None]).sum(0)


def value(energy: GridEnergy, found: Segmentation) -> float:
    return energy.of(found.label_map.labels.numpy())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", SOLVERS)
def test_no_method_beats_brute_force_and_none_is_worse_than_the_unaries_alone(kind: str, method: str) -> None:
    for seed in range(3):
        energy, best = random_energy(kind, seed=seed), least(kind, seed)
        found = solve(energy, method)
        assert value(energy, found) >= best - 1e-9
        assert value(energy, found) <= energy.of(energy.unary.argmin(2)) + 1e-9
        assert found.trace
        again = solve(energy, method)
        assert again.label_map.labels.equal(found.label_map.labels)


@pytest.mark.parametrize("method", SOLVERS)
def test_without_pairs_every_method_takes_the_best_label_of_each_pixel(method: str) -> None:
    energy = GridEnergy.potts(np.random.default_rng(0).normal(size=(5, 6, 2)) * 30, 0.0)
    assert solve(energy, method).label_map.labels.numpy().tolist() == energy.unary.argmin(2).tolist()


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1)])
def test_every_method_takes_a_single_pixel_and_a_single_row(method: str, shape: tuple[int, int]) -> None:
    energy = random_energy(shape=shape)
    best = every(energy)[1].min()
    assert value(energy, solve(energy, method)) >= best - 1e-12


def test_icm_never_goes_up_and_ends_where_no_single_pixel_helps() -> None:
    energy = random_energy("truncated linear", (4, 5), 3)
    found = iterated_conditional_modes(energy)
    assert list(found.trace) == sorted(found.trace, reverse=True)
    assert found.converged
    labels = found.label_map.labels.numpy()
    for y, x in np.ndindex(4, 5):
        for label in range(3):
            changed = labels.copy()
            changed[y, x] = label
            assert energy.of(changed) >= found.trace[-1] - 1e-12


@pytest.mark.parametrize("shape", [(1, 7), (7, 1)])
@pytest.mark.parametrize("k", [2, 3])
def test_belief_propagation_is_exact_on_a_chain(shape: tuple[int, int], k: int) -> None:
    for kind in ("potts", "truncated linear"):
        energy = random_energy(kind, shape, k)
        labelings, energies = every(energy)
        found = belief_propagation(energy)
        assert found.converged
        assert found.label_map.labels.numpy().tolist() == labelings[energies.argmin()].tolist()
        soft = belief_propagation(energy, product="sum")
        assert np.allclose(soft.marginals, true_marginals(energy), atol=1e-9)


def test_belief_propagation_comes_near_the_marginals_of_a_grid() -> None:
    energy = GridEnergy.potts(np.random.default_rng(3).normal(size=(3, 4, 2)), 0.2)
    for damping in (0.0, 0.5):
        found = belief_propagation(energy, product="sum", damping=damping)
        assert found.converged
        assert np.abs(found.marginals - true_marginals(energy)).max() < 0.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [2, 3])
def test_the_bound_never_falls_and_never_exceeds_the_least_energy(kind: str, k: int) -> None:
    for seed in range(4):
        energy = random_energy(kind, (2, 4), k, seed)
        best = every(energy)[1].min()
        found = tree_reweighted(energy)
        assert all(a <= b + 1e-9 for a, b in itertools.pairwise(found.bounds))
        assert found.bounds[-1] <= best + 1e-9
        assert value(energy, found) >= best - 1e-9


def test_the_bound_is_tight_for_two_labels_that_attract() -> None:
    for seed in range(4):
        energy = random_energy("potts", (3, 4), 2, seed)
        best = every(energy)[1].min()
        found = tree_reweighted(energy, max_sweeps=2000, tolerance=1e-12)
        assert found.bounds[-1] == pytest.approx(best, abs=1e-3)
        assert value(energy, found) == pytest.approx(best)


def test_a_tree_is_solved_with_proof() -> None:
    energy = random_energy("truncated linear", (1, 7), 3)
    found = tree_reweighted(energy)
    assert found.bounds[-1] == pytest.approx(every(energy)[1].min())
    assert value(energy, found) == pytest.approx(found.bounds[-1])


@pytest.mark.parametrize("sampler", [gibbs, metropolis_hastings])
@pytest.mark.parametrize("temperature", [2.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_samples_follow_the_distribution(
    sampler: Callable[..., SoftSegmentation], temperature: float
) -> None:
    energy = random_energy("truncated linear", (2, 3), 3, seed=5)
    found = sampler(energy, sweeps=40_000, burn_in=100, temperature=temperature)
    assert np.abs(found.marginals - true_marginals(energy, temperature)).max() < 0.02
    assert value(energy, found) == pytest.approx(every(energy)[1].min())  # it was visited
    assert len(found.trace) == 40_000


def test_annealing_finds_the_least_energy_of_a_small_grid() -> None:
    for seed in range(3):
        energy = random_energy("potts, 8 neighbours", (3, 4), 2, seed)
        assert value(energy, simulated_annealing(energy)) == pytest.approx(every(energy)[1].min())


def test_mean_field_never_goes_up_and_ends_in_a_fixed_point() -> None:
    energy = random_energy("truncated linear", (3, 4), 3)
    found = grid_mean_field(energy, max_sweeps=500, tolerance=1e-12)
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(found.trace))
    assert found.converged
    q, (weights, steps) = found.marginals, energy.directed
    for y, x in np.ndindex(3, 4):
        field = energy.unary[y, x].copy()
        for d, (down, right) in enumerate(steps):
            if weights[d, y, x]:
                field += weights[d, y, x] * energy.distance @ q[y + down, x + right]
        expected = np.exp(-field) / np.exp(-field).sum()
        assert np.allclose(q[y, x], expected, atol=1e-9)


def test_the_divergence_of_mean_field_is_that_of_its_distribution() -> None:
    energy = random_energy(shape=(2, 3))
    found = grid_mean_field(energy)
    labelings, energies = every(energy)
    q = np.prod(np.take_along_axis(found.marginals[None], labelings[..., None], 3), axis=(1, 2, 3))
    expected = (q * (energies + np.log(q))).sum()
    assert found.trace[-1] == pytest.approx(expected)
    assert expected >= -np.log(np.exp(-energies).sum())  # KL is not negative


def test_another_seed_gives_another_chain() -> None:
    energy = random_energy(shape=(6, 6))
    assert gibbs(energy, seed=1).trace != gibbs(energy, seed=2).trace


def test_progress_is_told() -> None:
    steps: list[tuple[int, int]] = []
    gibbs(random_energy(), sweeps=3, burn_in=0, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda e: solve(e, "alpha_expand"), "did you mean alpha_expansion"),
        (lambda e: iterated_conditional_modes(e, max_sweeps=0), "at least 1 sweep"),
        (lambda e: iterated_conditional_modes(e, start=np.full((3, 4), 2)), "labels must be in 0..1"),
        (lambda e: iterated_conditional_modes(e, start=np.zeros((2, 2), int)), "the labels \\(2, 2\\)"),
        (lambda e: belief_propagation(e, damping=1.0), "damping must be in"),
        (lambda e: belief_propagation(e, max_sweeps=0), "at least 1 sweep"),
        (lambda e: tree_reweighted(e, max_sweeps=0), "at least 1 sweep"),
        (lambda e: gibbs(e, temperature=0.0), "temperature must be above 0"),
        (lambda e: gibbs(e, sweeps=0), "sweeps must be at least 1"),
        (lambda e: gibbs(e, sweeps=5, burn_in=5), "burn_in must be in 0..4"),
        (lambda e: simulated_annealing(e, hottest=1.0, coldest=2.0), "coldest <= hottest"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    call: Callable[[GridEnergy], Segmentation], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(random_energy())
