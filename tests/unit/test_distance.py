"""Distances are exact: those of a search over all cells, and of SciPy."""

import numpy as np
import pytest
from scipy import ndimage

from pixelwise.kernels.boundaries.distance import distance_to, squared_distance_to

GRIDS = [(11,), (9, 13), (1, 7), (7, 1), (2, 300), (4, 5, 6), (3, 1, 9), (1, 1, 5), (12, 11, 13)]


def by_search(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Plain reference: from every cell to every True cell."""
    cells = np.stack(np.indices(mask.shape), -1).reshape(-1, 1, mask.ndim)
    apart = (cells - np.argwhere(mask)[None]) * np.array(spacing)
    return np.sqrt((apart**2).sum(-1)).min(1, initial=np.inf).reshape(mask.shape)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("density", [0.02, 0.3, 0.9])
def test_distances_are_those_of_a_search_over_all_cells(grid: tuple[int, ...], density: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        mask = rng.random(grid) < density
        spacing = tuple(rng.uniform(0.2, 3, len(grid)))
        assert np.array_equal(distance_to(mask), by_search(mask, (1.0,) * len(grid)))
        np.testing.assert_allclose(distance_to(mask, spacing), by_search(mask, spacing), rtol=1e-13)


@pytest.mark.parametrize("grid", [(150, 170), (40, 50, 45)])
@pytest.mark.parametrize("density", [1e-4, 1e-2, 0.5])
def test_distances_are_those_of_scipy(grid: tuple[int, ...], density: float) -> None:
    mask = np.random.default_rng(1).random(grid) < density
    mask.flat[7] = True
    assert np.array_equal(distance_to(mask), ndimage.distance_transform_edt(~mask))
    spacing = (0.7, 1.3, 2.1)[: len(grid)]
    expected = ndimage.distance_transform_edt(~mask, sampling=spacing)
    np.testing.assert_allclose(distance_to(mask, spacing), expected, rtol=1e-13)


def test_squares_are_whole_numbers() -> None:
    mask = np.zeros((300, 400), bool)
    mask[0, 0] = True
    squares = squared_distance_to(mask)
    assert squares[299, 399] == 299**2 + 399**2
    assert np.array_equal(squares, np.round(squares))


@pytest.mark.parametrize("grid", [(5,), (4, 6), (3, 4, 5)])
def test_without_a_true_cell_every_distance_is_infinite(grid: tuple[int, ...]) -> None:
    assert np.isposinf(distance_to(np.zeros(grid, bool))).all()
    assert not distance_to(np.ones(grid, bool)).any()


def test_a_grid_without_cells_has_no_distances() -> None:
    assert distance_to(np.zeros((0, 4), bool)).shape == (0, 4)
    assert distance_to(np.zeros((4, 0, 3), bool)).shape == (4, 0, 3)


@pytest.mark.parametrize("grid", [(3,), (70, 600), (9, 20, 31)])
def test_several_threads_give_the_same(grid: tuple[int, ...]) -> None:
    mask = np.random.default_rng(2).random(grid) < 0.05
    assert np.array_equal(distance_to(mask, threads=3), distance_to(mask))


def test_views_give_the_same_as_their_copies() -> None:
    mask = np.random.default_rng(3).random((20, 30)) < 0.1
    for view in (mask.T, mask[::2, ::-3]):
        assert np.array_equal(distance_to(view), distance_to(view.copy()))
    assert mask.flags.writeable
    mask.flags.writeable = False
    assert np.array_equal(distance_to(mask), distance_to(mask.copy()))


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, float("nan")), (1.0, 1.0, 1.0)])
def test_a_spacing_that_does_not_fit_is_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="spacing must be 2 positive numbers"):
        distance_to(np.zeros((3, 3), bool), spacing)


def test_a_grid_of_four_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="one, two or three axes"):
        distance_to(np.zeros((2, 2, 2, 2), bool))
