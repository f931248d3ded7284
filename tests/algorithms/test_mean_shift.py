"""Mean shift and merging, against plain references and on small images with a known answer."""

import time

import numpy as np
import pytest

from pixelwise.algorithms.mean_shift import mean_shift, mean_shift_filter
from pixelwise.algorithms.merging import merge_regions

RANDOM = np.random.default_rng(0)


def plain_mean_shift(colors: np.ndarray, radius: float, color_radius: float, max_steps: int) -> np.ndarray:
    """The definition: whole positions, colours in 1/16."""
    height, width, _ = colors.shape
    fixed = np.rint(colors * 16)
    rows, columns = np.mgrid[:height, :width]
    modes = np.empty((height, width, 2 + colors.shape[2]))
    for y0, x0 in np.ndindex(height, width):
        y, x, color = y0, x0, fixed[y0, x0]
        for _ in range(max_steps):
            near = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
            near &= ((fixed - color) ** 2).sum(-1) <= (color_radius * 16) ** 2
            if not near.any():
                break
            mean = rows[near].mean(), columns[near].mean()
            old = y, x, color
            y, x = int(np.floor(mean[0] + 0.5)), int(np.floor(mean[1] + 0.5))
            color = np.floor(fixed[near].mean(0) + 0.5)
            modes[y0, x0] = *mean, *(color / 16)
            if (y, x) == old[:2] and (color == old[2]).all():
                break
    return modes


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_every_pixel_goes_where_the_definition_takes_it(channels: int) -> None:
    image = RANDOM.integers(0, 256, (12, 14, channels), dtype=np.uint8)
    found = mean_shift_filter(image, space="rgb", radius=3.5, color_radius=90.0)
    expected = plain_mean_shift(image.astype(float), 3.5, 90.0, 50)
    assert np.allclose(found.positions, expected[..., :2], atol=1e-4)
    assert np.allclose(found.colors, expected[..., 2:])
    assert found.converged


def test_threads_change_nothing() -> None:
    image = RANDOM.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    one, two = (mean_shift_filter(image, threads=n) for n in (1, 2))
    assert (one.positions == two.positions).all()
    assert (one.colors == two.colors).all()


def test_an_edge_stays_where_noise_goes() -> None:
    clean = np.repeat(np.where(np.arange(40) < 20, 60, 180)[None], 30, axis=0)
    noisy = (clean + RANDOM.normal(0, 6, clean.shape)).clip(0, 255).astype(np.uint8)
    found = mean_shift_filter(noisy, space="rgb", radius=5, color_radius=30)
    assert np.abs(found.colors[..., 0] - clean).mean() < 0.4 * np.abs(noisy - clean.astype(float)).mean()
    assert np.abs(found.colors[:, 19, 0] - found.colors[:, 20, 0]).min() > 100
    labels = mean_shift(noisy, space="rgb", radius=5, color_radius=30).label_map.labels
    assert labels.tolist() == (clean == 180).astype(int).tolist()


def test_a_limit_of_steps_is_kept_and_told() -> None:
    image = RANDOM.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    assert not mean_shift_filter(image, space="rgb", color_radius=80, max_steps=1).converged


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (9, 1, 3)])
def test_small_images_are_no_trouble(shape: tuple[int, ...]) -> None:
    labels = mean_shift(np.zeros(shape, np.uint8)).label_map.labels
    assert labels.shape == shape[:2]
    assert not labels.any()


def test_a_constant_image_is_one_region_in_16_bits_too() -> None:
    assert mean_shift(np.full((9, 9, 3), 40_000, np.uint16)).num_segments == 1


def test_wrong_settings_are_refused() -> None:
    image = np.zeros((4, 4, 3))
    with pytest.raises(ValueError, match="radius >= 1"):
        mean_shift(image, radius=0.5)
    with pytest.raises(ValueError, match="color_radius > 0"):
        mean_shift(image, color_radius=0)
    with pytest.raises(ValueError, match="Lab needs an image of 3 channels, got 5"):
        mean_shift(np.zeros((4, 4, 5)))
    with pytest.raises(ValueError, match="not finite"):
        mean_shift(np.full((4, 4, 3), np.nan))
    with pytest.raises(ValueError, match="colours up to"):
        mean_shift(np.full((4, 4, 3), 1e6), space="rgb")


# --- merging --------------------------------------------------------------------------------------


def plain_merging(colors: np.ndarray, labels: np.ndarray, threshold: float) -> np.ndarray:
    """The most similar pair of all, looked for anew each time."""
    labels = labels.copy()
    while True:
        best = None
        for shift in (labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:]):
            for a, b in zip(shift[0].ravel(), shift[1].ravel(), strict=True):
                if a != b:
                    apart = np.linalg.norm(colors[labels == a].mean(0) - colors[labels == b].mean(0))
                    if apart < threshold and (best is None or apart < best[0]):
                        best = apart, a, b
        if best is None:
            return labels
        labels[labels == best[2]] = best[1]


def test_regions_merge_as_if_the_best_pair_were_looked_for_each_time() -> None:
    for _ in range(5):
        colors = RANDOM.normal(size=(5, 6, 2))
        labels = RANDOM.integers(0, 9, (5, 6))
        expected = plain_merging(colors, labels, 1.2)
        found = merge_regions(colors, labels, threshold=1.2)
        pairs = set(zip(expected.ravel().tolist(), found.ravel().tolist(), strict=True))
        assert len(pairs) == len(np.unique(expected)) == len(np.unique(found))


def test_a_ground_with_thousands_of_specks_is_merged_in_moments() -> None:
    colors, labels = np.full((120, 120, 1), 50.0), np.zeros((120, 120), int)
    colors[1::2, 1::2, 0] += RANDOM.uniform(-9, 9, (60, 60))
    colors[1, 1] = 90
    labels[1::2, 1::2] = np.arange(1, 3601).reshape(60, 60)
    start = time.process_time()
    found = merge_regions(colors, labels, threshold=12.0)
    assert time.process_time() - start < 10  # looking at all edges of the ground after each step takes 40
    assert found.sum() == found[1, 1] == 1


def test_small_regions_join_the_neighbour_of_like_colour() -> None:
    colors = np.array([[0.0, 0.0, 0.0, 0.4, 1.0, 1.0, 1.0]])[..., None]
    labels = np.array([[0, 0, 0, 1, 2, 2, 2]])
    assert merge_regions(colors, labels, threshold=0, min_size=2).tolist() == [[0, 0, 0, 0, 1, 1, 1]]
    assert merge_regions(colors, labels, threshold=0, min_size=1).tolist() == [[0, 0, 0, 1, 2, 2, 2]]
    assert merge_regions(colors, labels, threshold=0, min_size=100).tolist() == [[0] * 7]


def test_merging_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="as many labels"):
        merge_regions(np.zeros((2, 2, 1)), np.zeros((2, 3), int), threshold=1)
    with pytest.raises(ValueError, match="threshold must be at least 0"):
        merge_regions(np.zeros((2, 2, 1)), np.zeros((2, 2), int), threshold=-1)
