"""Resizing, cropping, erosion and boundaries of masks beside NumPy, PyTorch and OpenCV."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import ndimage
from torch.nn import functional as F

from pixelwise.rle import RleMasks

few = settings(max_examples=80, deadline=None)
seeds, sides = st.integers(0, 2**32 - 1), st.integers(1, 150)


@few
@given(seed=seeds, height=sides, width=sides, new_height=st.integers(0, 200), new_width=st.integers(0, 200))
def test_resizing_takes_the_old_pixel_under_each_new_centre(
    some_masks, seed, height, width, new_height, new_width
) -> None:
    dense = some_masks(seed, 2, height, width)
    columns = [(2 * x + 1) * width // (2 * new_width) for x in range(new_width)]
    rows = [(2 * y + 1) * height // (2 * new_height) for y in range(new_height)]
    expected = dense[:, np.array(rows, int)][:, :, np.array(columns, int)]
    resized = RleMasks.encode(dense).resize(new_height, new_width)
    assert resized == RleMasks.encode(expected)


@pytest.mark.parametrize("size", [(37, 80), (74, 160), (9, 11), (100, 20)])
def test_resizing_is_the_nearest_exact_of_pytorch(some_masks, size) -> None:
    dense = some_masks(2, 3, 37, 80)
    expected = F.interpolate(torch.from_numpy(dense).float()[None], size, mode="nearest-exact")[0] > 0
    assert RleMasks.encode(dense).resize(*size) == RleMasks.encode(expected)


def test_pixels_cannot_be_made_of_nothing() -> None:
    with pytest.raises(ValueError, match="cannot resize masks of 0 x 3 to 2 x 3"):
        RleMasks.encode(np.zeros((1, 0, 3), bool)).resize(2, 3)
    with pytest.raises(ValueError, match="cannot resize"):
        RleMasks.encode(np.zeros((1, 2, 3), bool)).resize(-1, 3)


@few
@given(seed=seeds, height=sides, width=sides, data=st.data())
def test_cropping_is_slicing(some_masks, seed, height, width, data) -> None:
    dense = some_masks(seed, 2, height, width)
    x, y = data.draw(st.integers(0, width)), data.draw(st.integers(0, height))
    across, down = data.draw(st.integers(0, width - x)), data.draw(st.integers(0, height - y))
    expected = RleMasks.encode(dense[:, y : y + down, x : x + across])
    assert RleMasks.encode(dense).crop(x, y, across, down) == expected


@pytest.mark.parametrize("window", [(-1, 0, 2, 2), (0, 0, 5, 2), (3, 2, 1, 2), (0, 0, -1, 1)])
def test_a_window_must_lie_in_the_image(window) -> None:
    with pytest.raises(ValueError, match="leaves the image of 4 x 3"):
        RleMasks.encode(np.ones((1, 3, 4), bool)).crop(*window)


@few
@given(seed=seeds, height=sides, width=sides, radius=st.integers(0, 40))
def test_erosion_is_that_of_a_square_with_nothing_outside(some_masks, seed, height, width, radius) -> None:
    dense = some_masks(seed, 2, height, width)
    masks = RleMasks.encode(dense)
    square = np.ones((1, 2 * radius + 1, 2 * radius + 1), bool)
    small = radius <= 4  # SciPy is slow on large squares
    eroded = (
        ndimage.binary_erosion(dense, square) if small else np.stack([in_opencv(m, radius) for m in dense])
    )
    assert masks.erode(radius) == RleMasks.encode(eroded)
    assert masks.boundary(radius=radius) == RleMasks.encode(dense & ~eroded)


def in_opencv(mask: np.ndarray, radius: int) -> np.ndarray:
    padded = np.pad(mask.astype(np.uint8), 1)
    return cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=radius)[1:-1, 1:-1] > 0


@pytest.mark.parametrize("shape", [(20, 30), (333, 500), (427, 640), (25, 0), (1, 1)])
def test_the_band_of_a_boundary_follows_the_diagonal(some_masks, shape) -> None:
    dense = some_masks(2, 2, *shape)
    # round(0.02 * diagonal), at least one pixel, as mask_to_boundary of boundary-iou-api.
    radius = max(1, round(0.02 * np.sqrt(shape[0] ** 2 + shape[1] ** 2)))
    assert RleMasks.encode(dense).boundary() == RleMasks.encode(dense).boundary(radius=radius)
    expected = np.zeros(dense.shape, bool)
    for i in range(len(dense)):
        if dense.size:
            expected[i] = dense[i] & ~in_opencv(dense[i], radius)
    assert np.array_equal(RleMasks.encode(dense).boundary(0.02).decode(), expected)


def test_a_radius_beyond_the_image_takes_all() -> None:
    masks = RleMasks.encode(np.ones((1, 30, 40), bool))
    assert masks.erode(10**12).area.tolist() == [0]
    assert masks.boundary(radius=10**12) == masks
    assert masks.erode(15).area.tolist() == [0]
    assert masks.erode(14).boxes.tolist() == [[14, 14, 12, 2]]


def test_negative_widths_are_refused() -> None:
    masks = RleMasks.encode(np.ones((1, 3, 4), bool))
    with pytest.raises(ValueError, match="at least 0 pixels, got -1"):
        masks.erode(-1)
    with pytest.raises(ValueError, match="at least 0 pixels, got -2"):
        masks.boundary(radius=-2)
    with pytest.raises(ValueError, match="dilation_ratio"):
        masks.boundary(-0.1)
    with pytest.raises(ValueError, match="dilation_ratio"):
        masks.boundary(float("nan"))
