"""Connected components: those of a flood fill, and of scikit-image."""

import itertools

import numpy as np
import pytest
from skimage.measure import label

from pixelwise.kernels.masks.components import label_components


def by_flood(labels: np.ndarray, connectivity: int, background: int | None) -> tuple[np.ndarray, int]:
    """Plain reference: fill every region from its first cell on."""
    steps = [step for step in itertools.product((-1, 0, 1), repeat=labels.ndim) if 0 < np.abs(step).sum()]
    steps = [step for step in steps if np.abs(step).sum() <= connectivity]
    numbers, count = np.zeros(labels.shape, int), 0
    for start in np.ndindex(*labels.shape):
        if numbers[start] or labels[start] == background:
            continue
        count += 1
        numbers[start], todo = count, [start]
        while todo:
            cell = todo.pop()
            for step in steps:
                near = tuple(np.add(cell, step))
                if all(0 <= i < n for i, n in zip(near, labels.shape, strict=True)) and not numbers[near]:
                    if labels[near] == labels[start]:
                        numbers[near] = count
                        todo.append(near)
    return numbers, count


@pytest.mark.parametrize("grid", [(9,), (6, 7), (1, 8), (8, 1), (3, 4, 5), (2, 1, 6)])
@pytest.mark.parametrize("background", [0, 2, None])
def test_regions_are_those_of_a_flood_fill(grid: tuple[int, ...], background: int | None) -> None:
    rng = np.random.default_rng(0)
    for connectivity, kinds in itertools.product(range(1, len(grid) + 1), (2, 4)):
        for _ in range(4):
            labels = rng.integers(0, kinds, grid)
            numbers, count = label_components(labels, connectivity, background)
            expected, expected_count = by_flood(labels, connectivity, background)
            assert count == expected_count
            assert np.array_equal(numbers, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32, np.int64])
def test_any_integer_type_gives_the_regions_of_scikit_image(dtype: type) -> None:
    rng = np.random.default_rng(1)
    for connectivity in (1, 2):
        coarse = rng.integers(0, 4, (12, 20)).astype(dtype)
        labels = coarse.repeat(7, 0).repeat(9, 1)
        labels[rng.random(labels.shape) < 0.02] = 3
        numbers, count = label_components(labels, connectivity)
        expected, expected_count = label(labels.astype(int), connectivity=connectivity, return_num=True)
        assert numbers.dtype == np.int32
        assert count == expected_count
        assert np.array_equal(numbers, expected)


def test_regions_of_a_volume_are_those_of_scikit_image() -> None:
    labels = np.random.default_rng(2).integers(0, 3, (14, 25, 40)).astype(np.uint8)
    for connectivity in (1, 2, 3):
        expected, count = label(labels.astype(int), connectivity=connectivity, return_num=True)
        numbers, found = label_components(labels, connectivity)
        assert found == count
        assert np.array_equal(numbers, expected)


def test_a_spiral_is_one_region() -> None:
    spiral = np.zeros((41, 41), np.uint8)
    for i in range(0, 20, 2):
        spiral[i, i : 41 - i] = spiral[i : 41 - i, 40 - i] = spiral[40 - i, i : 41 - i] = 1
        spiral[i + 2 : 41 - i, i] = spiral[i + 2, i : i + 3] = 1
    numbers, count = label_components(spiral)
    assert count == 1
    assert np.array_equal(numbers, spiral)


def test_numbers_do_not_depend_on_what_the_labels_are_called() -> None:
    labels = np.random.default_rng(3).integers(1, 5, (30, 30))
    renamed = np.array([0, 77, -5, 1000, 9])[labels]
    assert np.array_equal(label_components(labels)[0], label_components(renamed)[0])


def test_a_background_that_no_label_can_be_hides_nothing() -> None:
    labels = np.zeros((3, 4), np.uint8)
    for background in (-1, 256, None):
        assert label_components(labels, background=background)[1] == 1
    assert label_components(labels)[1] == 0


def test_views_and_empty_maps_work() -> None:
    labels = np.random.default_rng(4).integers(0, 3, (20, 30))
    for view in (labels.T, labels[::2, ::-1]):
        assert np.array_equal(label_components(view)[0], label_components(view.copy())[0])
    numbers, count = label_components(np.zeros((0, 5), int))
    assert numbers.shape == (0, 5)
    assert count == 0


@pytest.mark.parametrize("connectivity", [0, 3, 8])
def test_a_connectivity_that_does_not_fit_is_refused(connectivity: int) -> None:
    with pytest.raises(ValueError, match="connectivity must be 1 to 2"):
        label_components(np.zeros((3, 3), int), connectivity)


def test_a_map_of_four_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="one, two or three axes"):
        label_components(np.zeros((2, 2, 2, 2), int))
