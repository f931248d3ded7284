"""Normalised cuts against brute force over all cuts of small graphs."""

import itertools

import numpy as np
import pytest
from scipy.sparse import csr_array

from pixelwise.algorithms.normalized_cuts import (
    best_cut,
    eigenvectors,
    ncut,
    normalized_cuts,
    pixel_affinity,
    recursive_cut,
    region_affinity,
    simultaneous_cut,
)

RANDOM = np.random.default_rng(0)


def random_graph(n: int) -> csr_array:
    weights = RANDOM.random((n, n)) * (RANDOM.random((n, n)) < 0.6)
    return csr_array(weights + weights.T + np.eye(n))


def plain_ncut(weights: np.ndarray, side: np.ndarray) -> float:
    cut = weights[side][:, ~side].sum()
    return cut / weights[side].sum() + cut / weights[~side].sum()


def groups(sizes: list[int], between: float = 0.01) -> tuple[csr_array, np.ndarray]:
    """Cliques with weak edges between them, nodes shuffled."""
    truth = RANDOM.permutation(np.repeat(np.arange(len(sizes)), sizes))
    weights = np.where(truth[:, None] == truth, 1.0, between)
    return csr_array(weights), truth


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = set(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    return len(pairs) == len(np.unique(a)) == len(np.unique(b))


def test_the_cost_of_a_cut_is_its_definition_and_its_bound_is_the_eigenvalue() -> None:
    for _ in range(5):
        graph = random_graph(9)
        dense = graph.toarray()
        costs = []
        for bits in itertools.product([False, True], repeat=8):
            side = np.array([False, *bits])
            if side.any():
                costs.append(ncut(graph, side))
                assert costs[-1] == pytest.approx(plain_ncut(dense, side))
        values, _ = eigenvectors(graph, 2)
        assert values[0] == pytest.approx(0, abs=1e-9)
        found = best_cut(graph, num_thresholds=50)
        assert values[1] - 1e-9 <= min(costs) <= found[1] + 1e-12
        assert found[1] <= 1.3 * min(costs)


def test_a_side_that_is_empty_costs_infinitely_much() -> None:
    assert ncut(random_graph(4), np.zeros(4, bool)) == float("inf")


@pytest.mark.parametrize("n", [30, 600])
def test_the_eigenvectors_solve_their_equation(n: int) -> None:
    graph = random_graph(n)
    values, vectors = eigenvectors(graph, 3)
    degree = np.diag(graph.sum(1))
    left = (degree - graph.toarray()) @ vectors
    assert np.allclose(left, degree @ vectors * values, atol=1e-3)
    assert (np.diff(values) >= -1e-9).all()


def test_clear_groups_are_found_both_ways() -> None:
    graph, truth = groups([5, 8, 7, 4])
    assert same_partition(recursive_cut(graph, 0.5), truth)
    assert same_partition(simultaneous_cut(graph, 4), truth)


def test_groups_without_any_edge_between_them_are_found() -> None:
    graph, truth = groups([5, 6], between=0.0)
    assert same_partition(recursive_cut(graph, 0.5), truth)
    assert same_partition(simultaneous_cut(graph, 2), truth)


def test_pixel_affinities_are_those_of_the_paper() -> None:
    colors = RANDOM.normal(size=(4, 5, 2))
    found = pixel_affinity(colors, 2.0, 1.5, 3.0).toarray()
    for a, b in itertools.product(np.ndindex(4, 5), repeat=2):
        apart = (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2
        expected = 0.0
        if apart <= 4:
            expected = np.exp(-((colors[a] - colors[b]) ** 2).sum() / 1.5**2 - apart / 3.0**2)
        assert found[a[0] * 5 + a[1], b[0] * 5 + b[1]] == pytest.approx(expected)


def test_region_affinities_are_those_of_regions_that_touch() -> None:
    labels = np.array([[0, 0, 1], [0, 2, 1], [3, 3, 3]])
    colors = RANDOM.normal(size=(3, 3, 3))
    found = region_affinity(colors, labels, 2.0).toarray()
    means = np.array([colors[labels == i].mean(0) for i in range(4)])
    expected = np.exp(-((means[:, None] - means) ** 2).sum(-1) / 4.0)
    assert np.allclose(found, expected)  # all four touch, 1 and 3 at a corner
    apart = region_affinity(np.zeros((1, 3, 1)), np.array([[0, 1, 2]]), 1.0).toarray()
    assert apart.tolist() == [[1, 1, 0], [1, 1, 1], [0, 1, 1]]


@pytest.mark.parametrize("nodes", ["regions", "pixels"])
@pytest.mark.parametrize("num_segments", [None, 2])
def test_an_image_of_two_halves_falls_into_them(nodes: str, num_segments: int | None) -> None:
    image = np.full((40, 48, 3), 80, np.uint8)
    image[:, 22:] = [200, 180, 40]
    image += RANDOM.integers(0, 8, image.shape, dtype=np.uint8)
    found = normalized_cuts(image, num_segments, nodes=nodes, num_regions=40, threshold=0.01)
    truth = np.repeat((np.arange(48) >= 22)[None], 40, axis=0)
    labels = found.label_map.labels.numpy()
    assert found.num_segments == 2
    agreement = (labels == (labels[0, -1] if labels[0, 0] == 0 else 0)) == truth
    assert max(agreement.mean(), 1 - agreement.mean()) > (0.95 if nodes == "regions" else 0.999)


@pytest.mark.parametrize("nodes", ["regions", "pixels"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 5)])
def test_constant_and_tiny_images_are_no_trouble(nodes: str, shape: tuple[int, int]) -> None:
    labels = normalized_cuts(np.zeros((*shape, 3)), nodes=nodes, threshold=0.01).label_map.labels
    assert labels.shape == shape


def test_settings_out_of_range_are_refused() -> None:
    image = np.zeros((4, 4, 3))
    with pytest.raises(ValueError, match="threshold of Ncut"):
        normalized_cuts(image, threshold=3.0)
    with pytest.raises(ValueError, match="a graph of 16 nodes allows 1 to 16 segments, got 17"):
        normalized_cuts(image, 17, nodes="pixels")
    with pytest.raises(ValueError, match="regions or pixels"):
        normalized_cuts(image, nodes="edges")
    with pytest.raises(ValueError, match="color_scale"):
        normalized_cuts(image, color_scale=0)
    with pytest.raises(ValueError, match="not finite"):
        normalized_cuts(np.full((4, 4, 3), np.nan))
