"""Energies of a grid, maximum flow and what is built on it, against brute force."""

import itertools

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import maximum_flow as general_max_flow

from pixelwise.algorithms.energy import STEPS, GridEnergy, negative_log
from pixelwise.algorithms.max_flow import max_flow
from pixelwise.algorithms.move_making import alpha_beta_swap, alpha_expansion, minimum_cut

RANDOM = np.random.default_rng(0)
METRICS = {
    "potts": 1.0 - np.eye(3),
    "linear": np.abs(np.subtract.outer(np.arange(3.0), np.arange(3.0))),
    "with own costs": np.array([[0.5, 1.0, 1.5], [1.0, 0.5, 1.0], [1.5, 1.0, 0.5]]),
}
SEMI_METRIC = np.array([[0.0, 1.0, 9.0], [1.0, 0.0, 1.0], [9.0, 1.0, 0.0]])


def plain_energy(energy: GridEnergy, labels: np.ndarray) -> float:
    """The definition, pixel by pixel."""
    height, width = labels.shape
    total = 0.0
    for y, x in np.ndindex(height, width):
        total += energy.unary[y, x, labels[y, x]]
        for e, (down, right) in enumerate(STEPS[: len(energy.weights)]):
            if y + down < height and 0 <= x + right < width:
                total += energy.weights[e, y, x] * energy.distance[labels[y, x], labels[y + down, x + right]]
    return total


def all_labelings(energy: GridEnergy) -> list[np.ndarray]:
    shape = energy.unary.shape[:2]
    every = itertools.product(range(energy.num_labels), repeat=shape[0] * shape[1])
    return [np.array(flat).reshape(shape) for flat in every]


def random_energy(k: int, shape: tuple[int, int], edges: int, distance: np.ndarray) -> GridEnergy:
    return GridEnergy(RANDOM.normal(size=(*shape, k)), RANDOM.random((edges, *shape)), distance)


@pytest.mark.parametrize("edges", [2, 4])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 1), (3, 4)])
def test_the_energy_is_the_sum_of_its_definition(edges: int, shape: tuple[int, int]) -> None:
    energy = random_energy(3, shape, edges, METRICS["linear"])
    labels = RANDOM.integers(0, 3, shape)
    assert energy.of(labels) == pytest.approx(plain_energy(energy, labels), abs=1e-12)


def test_contrast_weights_follow_their_formula() -> None:
    image = RANDOM.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    energy = GridEnergy.contrast_potts(np.zeros((5, 6, 2)), image, strength=50.0)
    z = image.astype(float)
    squares = []
    for y, x in np.ndindex(5, 6):
        for down, right in STEPS:
            if y + down < 5 and 0 <= x + right < 6:
                squares.append(((z[y, x] - z[y + down, x + right]) ** 2).sum())
    beta = 1 / (2 * np.mean(squares))
    below_left = ((z[1, 3] - z[2, 2]) ** 2).sum()
    assert energy.weights[3, 1, 3] == pytest.approx(50 * np.exp(-beta * below_left) / np.sqrt(2))
    assert energy.weights[0, 4, 4] == pytest.approx(50 * np.exp(-beta * ((z[4, 4] - z[4, 5]) ** 2).sum()))
    assert (energy.weights[3, :, 0] == 0).all()


def test_a_constant_image_has_full_weights() -> None:
    energy = GridEnergy.contrast_potts(np.zeros((3, 3, 2)), np.full((3, 3), 7, np.uint8), 2.0, neighbours=4)
    assert energy.weights[0, 0, 0] == energy.weights[1, 1, 2] == 2


@pytest.mark.parametrize("edges", [2, 4])
def test_the_flow_is_that_of_a_general_solver_and_the_cut_costs_it(edges: int) -> None:
    for _ in range(20):
        height, width = RANDOM.integers(1, 8, 2)
        source, sink = RANDOM.integers(0, 20, (2, height, width)).astype(float)
        forth, back = RANDOM.integers(0, 12, (2, edges, height, width)).astype(float)
        ids = np.arange(height * width).reshape(height, width)
        s, t = height * width, height * width + 1
        rows, columns, values = [], [], []
        for y, x in np.ndindex(height, width):
            rows += [s, ids[y, x]]
            columns += [ids[y, x], t]
            values += [source[y, x], sink[y, x]]
            for e, (down, right) in enumerate(STEPS[:edges]):
                if y + down < height and 0 <= x + right < width:
                    other = ids[y + down, x + right]
                    rows += [ids[y, x], other]
                    columns += [other, ids[y, x]]
                    values += [forth[e, y, x], back[e, y, x]]
        graph = coo_matrix((values, (rows, columns)), (t + 1, t + 1)).tocsr().astype(np.int32)
        cut = max_flow(source, sink, forth, back)
        assert cut.flow == general_max_flow(graph, s, t).flow_value
        side = np.append(cut.source_side.ravel(), [True, False])
        dense = graph.toarray()
        assert dense[side][:, ~side].sum() == cut.flow


def test_a_flow_of_nothing_is_zero() -> None:
    nothing = np.zeros((2, 3, 3))
    cut = max_flow(nothing[0], nothing[0], nothing)
    assert cut.flow == 0
    assert not cut.source_side.any()


@pytest.mark.parametrize("edges", [2, 4])
def test_a_minimum_cut_is_the_best_of_all_labelings(edges: int) -> None:
    for _ in range(5):
        energy = random_energy(2, (3, 4), edges, 1.0 - np.eye(2))
        found = minimum_cut(energy)
        best = min(energy.of(labels) for labels in all_labelings(energy))  # 2^12
        assert found.trace == pytest.approx((best,))
        assert energy.of(found.label_map.labels.numpy()) == pytest.approx(best)


@pytest.mark.parametrize("name", METRICS)
def test_expansion_stays_under_its_bound_and_never_goes_up(name: str) -> None:
    distance = METRICS[name]
    for _ in range(4):
        # The bound is for unaries and distances that are not negative.
        energy = GridEnergy(RANDOM.random((2, 4, 3)) * 2, RANDOM.random((4, 2, 4)), distance)
        best = min(energy.of(labels) for labels in all_labelings(energy))  # 3^8
        found = alpha_expansion(energy)
        between = distance[~np.eye(3, dtype=bool)]
        value = energy.of(found.label_map.labels.numpy())
        assert best - 1e-9 <= value <= 2 * between.max() / between.min() * best
        assert found.converged
        assert list(found.trace) == sorted(found.trace, reverse=True)
        assert found.trace[-1] == pytest.approx(value)


def test_every_expansion_move_is_the_best_of_all_expansions() -> None:
    from pixelwise.kernels.classical.moves import move

    for _ in range(10):
        energy = random_energy(3, (2, 4), 4, METRICS["linear"])
        labels = RANDOM.integers(0, 3, (2, 4))
        masks = itertools.product([False, True], repeat=8)
        best = min(energy.of(np.where(np.reshape(mask, (2, 4)), 1, labels)) for mask in masks)
        room = np.empty((8, 24)), np.empty(24), np.empty(24, np.uint8)
        moved = labels.copy()
        move(energy.unary, energy.weights, energy.distance, energy.steps, moved, 1, -1, *room)
        assert energy.of(moved) == pytest.approx(best)


def test_every_swap_move_is_the_best_of_all_swaps_of_a_semi_metric() -> None:
    from pixelwise.kernels.classical.moves import move

    for _ in range(10):
        energy = random_energy(3, (2, 4), 4, SEMI_METRIC)
        labels = RANDOM.integers(0, 3, (2, 4))
        takes_part = labels != 1
        masks = itertools.product([0, 2], repeat=8)
        best = min(energy.of(np.where(takes_part, np.reshape(mask, (2, 4)), labels)) for mask in masks)
        room = np.empty((8, 24)), np.empty(24), np.empty(24, np.uint8)
        moved = labels.copy()
        move(energy.unary, energy.weights, energy.distance, energy.steps, moved, 0, 2, *room)
        assert energy.of(moved) == pytest.approx(best)


def test_expansion_refuses_a_semi_metric_that_swap_takes() -> None:
    energy = random_energy(3, (2, 4), 2, SEMI_METRIC)
    with pytest.raises(ValueError, match="needs a distance that is a metric"):
        alpha_expansion(energy)
    found = alpha_beta_swap(energy)
    assert list(found.trace) == sorted(found.trace, reverse=True)
    best = min(energy.of(labels) for labels in all_labelings(energy))
    assert energy.of(found.label_map.labels.numpy()) >= best - 1e-9


def test_swap_refuses_what_no_cut_stands_for() -> None:
    with pytest.raises(ValueError, match="alpha-beta swap needs"):
        alpha_beta_swap(random_energy(2, (2, 2), 2, np.eye(2)))
    with pytest.raises(ValueError, match="no cut stands for that"):
        minimum_cut(random_energy(2, (2, 2), 2, np.eye(2)))
    with pytest.raises(ValueError, match="for two labels, the energy has 3"):
        minimum_cut(random_energy(3, (2, 2), 2, METRICS["potts"]))


def test_one_label_and_one_pixel_are_no_trouble() -> None:
    assert alpha_expansion(GridEnergy.potts(np.ones((1, 1, 1)), 1.0)).label_map.labels.tolist() == [[0]]
    assert alpha_beta_swap(GridEnergy.potts(np.ones((1, 1, 1)), 1.0)).label_map.labels.tolist() == [[0]]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"unary": np.full((2, 2, 2), np.nan)}, "unary of an energy must be finite"),
        ({"weights": np.full((2, 2, 2), -1.0)}, "at least 0, got -1"),
        ({"weights": np.zeros((3, 2, 2))}, "needs weights of shape"),
        ({"distance": np.array([[0.0, 1.0], [2.0, 0.0]])}, "symmetric"),
        ({"distance": np.zeros((3, 3))}, "2 labels need a distance"),
        ({"unary": np.zeros((0, 2, 2))}, "with a pixel and a label"),
    ],
)
def test_an_energy_that_is_none_is_refused(change: dict[str, np.ndarray], message: str) -> None:
    parts = {"unary": np.zeros((2, 2, 2)), "weights": np.zeros((2, 2, 2)), "distance": 1 - np.eye(2)}
    with pytest.raises(ValueError, match=message):
        GridEnergy(**{**parts, **change})


def test_capacities_below_zero_are_refused() -> None:
    plane = np.zeros((2, 2))
    with pytest.raises(ValueError, match="capacities sink must be finite and at least 0"):
        max_flow(plane, plane - 1, np.zeros((2, 2, 2)))


def test_impossible_probabilities_have_a_finite_cost() -> None:
    assert negative_log(np.array([[[0.0, 1.0]]])).tolist() == [[[pytest.approx(23.026, abs=1e-3), 0.0]]]
