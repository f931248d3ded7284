"""k-means against scikit-learn's from the same start, and what it promises on odd images."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.cluster import KMeans

from pixelwise.algorithms.kmeans import kmeans, kmeans_of_points, mini_batch_kmeans
from pixelwise.algorithms.segmentation import Segmentation
from pixelwise.kernels.classical.kmeans import assign

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("n", [5, 256, 1000])
def test_every_point_goes_to_its_nearest_centre(n: int) -> None:
    points, centers = RANDOM.normal(size=(n, 4)), RANDOM.normal(size=(5, 4))
    planes, f32 = np.ascontiguousarray(points.T.astype(np.float32)), centers.astype(np.float32)
    labels, sums, counts = np.empty(n, np.int32), np.empty((5, 4)), np.empty(5, np.int64)
    inertia, farthest = assign(planes, f32, labels, sums, counts)
    squares = ((points[:, None] - centers) ** 2).sum(-1)
    assert (labels == squares.argmin(1)).all()
    assert inertia == pytest.approx(squares.min(1).sum(), rel=1e-5)
    assert farthest == squares.min(1).argmax()
    assert (counts == np.bincount(labels, minlength=5)).all()
    for c in range(5):
        assert np.allclose(sums[c], points[labels == c].sum(0), atol=1e-4)


def test_it_ends_where_scikit_learn_would_not_move_either() -> None:
    points = RANDOM.normal(size=(600, 3)) + RANDOM.integers(0, 4, (600, 1)) * 4
    found = kmeans_of_points(points, 4)
    assert found.converged
    peer = KMeans(4, init=found.centers, n_init=1).fit(points)
    assert np.allclose(peer.cluster_centers_, found.centers, atol=1e-4)
    assert peer.inertia_ == pytest.approx(found.trace[-1], rel=1e-5)
    best = KMeans(4, n_init=10, random_state=0).fit(points).inertia_
    assert found.trace[-1] <= 1.5 * best


def test_the_inertia_never_rises_and_a_seed_repeats_it() -> None:
    image = RANDOM.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    one, same, other = (kmeans(image, 6, seed=seed) for seed in (1, 1, 2))
    assert all(a >= b * (1 - 1e-6) for a, b in zip(one.trace, one.trace[1:], strict=False))
    assert one.objective == "inertia"
    assert one.label_map.labels.equal(same.label_map.labels)
    assert one.trace == same.trace
    assert one.trace != other.trace


def test_position_makes_clusters_compact() -> None:
    image = np.zeros((20, 40), np.uint8)
    apart = kmeans(image, 2, space="rgb", position_weight=1.0).label_map.labels
    assert (apart == apart[:1]).all() or (apart == apart[:, :1]).all()
    assert sorted(apart.unique().tolist()) == [0, 1]
    assert not kmeans(image, 2, space="rgb").label_map.labels.any()


@pytest.mark.parametrize("method", [kmeans, mini_batch_kmeans])
@pytest.mark.parametrize(
    "image", [np.zeros((1, 1, 3)), np.full((4, 5), 40_000, np.uint16), np.ones((3, 4, 5))]
)
def test_odd_images_are_no_trouble(method: Callable[..., Segmentation], image: np.ndarray) -> None:
    labels = method(image, 1, space="rgb").label_map.labels
    assert labels.shape == image.shape[:2]
    assert not labels.any()


def test_mini_batches_find_clear_clusters() -> None:
    truth = RANDOM.integers(0, 3, (30, 30))
    image = (truth * 100 + RANDOM.integers(0, 20, truth.shape)).astype(np.uint8)
    found = mini_batch_kmeans(image, 3, space="rgb", batch_size=200, max_steps=30)
    assert len(set(zip(truth.ravel().tolist(), found.label_map.labels.ravel().tolist(), strict=True))) == 3
    assert len(found.trace) == 30


def test_as_many_clusters_as_pixels_leave_no_distance() -> None:
    image = RANDOM.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    found = kmeans(image, 12)
    assert found.num_segments == 12
    assert found.trace[-1] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("method", [kmeans, mini_batch_kmeans])
def test_more_clusters_than_pixels_are_refused(method: Callable[..., Segmentation]) -> None:
    with pytest.raises(ValueError, match="an image of 4 pixels allows 1 to 4 clusters, got 5"):
        method(np.zeros((2, 2)), 5, space="rgb")
    with pytest.raises(ValueError, match="max_steps"):
        method(np.zeros((2, 2)), 1, space="rgb", max_steps=0)
    with pytest.raises(ValueError, match="position_weight must be at least 0"):
        method(np.zeros((2, 2)), 1, space="rgb", position_weight=-1)
    with pytest.raises(ValueError, match="not finite"):
        method(np.full((2, 2), np.nan), 1, space="rgb")
    with pytest.raises(ValueError, match="rgb or lab"):
        method(np.zeros((2, 2, 3)), 1, space="hsv")
