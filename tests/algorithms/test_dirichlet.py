"""Dirichlet-process mixtures: the sampler against the exact posterior over all partitions of a few points."""

import math
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from scipy.stats import multivariate_t

from pixelwise.algorithms.dirichlet import dirichlet_gibbs, dirichlet_variational, log_joint
from pixelwise.algorithms.segmentation import Segmentation
from pixelwise.kernels.classical.dirichlet import dirichlet_sweep

RANDOM = np.random.default_rng(0)
METHODS = [dirichlet_gibbs, dirichlet_variational]


def partitions(n: int) -> Iterator[tuple[int, ...]]:
    """All ways to cluster n points, labels numbered by first use."""

    def grow(prefix: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(prefix) == n:
            yield prefix
            return
        for label in range(max(prefix, default=-1) + 2):
            yield from grow((*prefix, label))

    return grow(())


def test_the_joint_probability_is_the_product_of_predictions() -> None:
    points, labels = RANDOM.normal(size=(6, 2)), np.array([0, 1, 0, 0, 1, 2])
    center, kappa, nu, scale, alpha = np.array([0.3, -0.2]), 0.5, 4.0, np.array([1.0, 2.0]), 0.7
    expected = 0.0
    for i in range(6):
        same = points[:i][labels[:i] == labels[i]]
        m = len(same)
        expected += math.log((m or alpha) / (i + alpha))
        k, v = kappa + m, nu + m
        mean = (kappa * center + same.sum(0)) / k
        psi = np.diag(scale) + same.T @ same + kappa * np.outer(center, center) - k * np.outer(mean, mean)
        shape = psi * (k + 1) / (k * (v - 2 + 1))
        expected += multivariate_t(mean, shape, df=v - 2 + 1).logpdf(points[i])
    assert log_joint(points, labels, alpha, center, kappa, nu, scale) == pytest.approx(expected)


def test_the_sampler_visits_partitions_as_often_as_the_posterior_says() -> None:
    points = np.array([[0.0, 0.0], [0.5, 0.2], [3.0, 3.0], [3.2, 2.5]])
    prior = (0.8, np.zeros(2), 0.2, 4.0, np.array([0.5, 0.5]))
    every = list(partitions(4))
    logs = np.array([log_joint(points, np.array(p), *prior) for p in every])
    exact = np.exp(logs - logs.max())
    exact /= exact.sum()
    random = np.random.default_rng(1)
    labels, seen, sweeps = np.full(4, -1), Counter(), 20_000
    for _ in range(sweeps):
        count = dirichlet_sweep(points, random.permutation(4), random.random(4), *prior, labels, 8)
        assert count == labels.max() + 1
        seen[tuple(labels.tolist())] += 1
    for partition, probability in zip(every, exact, strict=True):
        assert seen[partition] / sweeps == pytest.approx(probability, abs=0.02)


def test_the_number_of_clusters_may_be_limited() -> None:
    points, labels = RANDOM.normal(size=(50, 1)) * 100, np.full(50, -1)
    arguments = 50.0, np.zeros(1), 0.01, 3.0, np.ones(1), labels, 3
    assert dirichlet_sweep(points, np.arange(50), RANDOM.random(50), *arguments) <= 3


@pytest.mark.parametrize("method", METHODS)
def test_clear_colours_are_found_without_their_number(method: Callable[..., Segmentation]) -> None:
    truth = np.kron(np.array([[0, 1], [2, 0]]), np.ones((12, 12), int))
    colors = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 220]])
    image = (colors[truth] + RANDOM.normal(0, 5, (24, 24, 3))).clip(0, 255).astype(np.uint8)
    found = method(image, concentration=0.1)
    pairs = Counter(zip(truth.ravel().tolist(), found.label_map.labels.ravel().tolist(), strict=True))
    assert sum(count for _, count in pairs.most_common(3)) > 0.97 * truth.size
    assert len({label for (_, label), _ in pairs.most_common(3)}) == 3
    assert found.trace[-1] >= found.trace[0]
    again = method(image, concentration=0.1)
    assert again.label_map.labels.equal(found.label_map.labels)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "image", [np.zeros((1, 1, 3)), np.full((4, 5), 40_000, np.uint16), np.ones((3, 4, 5))]
)
def test_constant_images_are_one_cluster(method: Callable[..., Segmentation], image: np.ndarray) -> None:
    assert method(image, space="rgb", concentration=1e-6).num_segments == 1


def test_position_separates_what_colour_does_not() -> None:
    image = np.zeros((6, 60), np.uint8)
    image[:, 20:40] = 255
    assert dirichlet_gibbs(image, space="rgb", concentration=0.01).num_segments == 2
    found = dirichlet_gibbs(image, space="rgb", position_weight=5, spread=0.15, concentration=0.01, sweeps=40)
    labels = found.label_map.labels
    assert labels[0, 0] != labels[0, 59]


@pytest.mark.parametrize("method", METHODS)
def test_settings_out_of_range_are_refused(method: Callable[..., Segmentation]) -> None:
    image = np.zeros((4, 4, 3))
    with pytest.raises(ValueError, match="concentration must be above 0"):
        method(image, concentration=0)
    with pytest.raises(ValueError, match="not finite"):
        method(np.full((4, 4, 3), np.inf))
    with pytest.raises(ValueError, match="position_weight"):
        method(image, position_weight=-1)
    with pytest.raises(ValueError, match="at least 1"):
        method(image, **({"sweeps": 0} if method is dirichlet_gibbs else {"max_steps": 0}))
