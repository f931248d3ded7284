"""The kernels that make training images, beside NumPy, torch and SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from pixelwise.kernels.images.resampling import (
    blurred,
    fill_nearest,
    moved_bilinearly,
    moved_nearest,
    resampled,
    resampled_bytes,
    triangle_taps,
)
from pixelwise.kernels.images.values import looked_up, recolour, unit_planes

CHANCE = np.random.default_rng(3)
WINDOWS = [(0, 40, 0, 50, 17, 23), (3, 9, 4, 40, 30, 31), (5, 6, 7, 8, 9, 1), (0, 40, 2, 4, 40, 64)]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_bytes_become_what_a_division_makes_of_them(channels: int) -> None:
    pixels = CHANCE.integers(0, 256, (9, 31, channels), np.uint8)
    expected = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    assert np.array_equal(unit_planes(pixels), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64, np.uint64])
def test_values_outside_of_a_table_have_its_last_entry(dtype: type) -> None:
    values = CHANCE.integers(0, 12, (7, 9)).astype(dtype)
    if np.iinfo(dtype).max > 255:
        values[0, 0] = np.iinfo(dtype).max
    if np.iinfo(dtype).min < 0:
        values[0, 1] = -1
    table = np.array([4, 0, 255, 3, 3, 7, -9])
    expected = [[int(table[v]) if 0 <= v < 6 else -9 for v in map(int, row)] for row in values]
    assert looked_up(values, table).tolist() == expected


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_window_is_resampled_as_torch_does_it(window: tuple[int, ...], channels: int) -> None:
    top, bottom, left, right, height, width = window
    pixels = CHANCE.integers(0, 256, (40, 50, channels), np.uint8)
    planes = unit_planes(pixels)
    part = torch.from_numpy(planes)[None, :, top:bottom, left:right]
    expected = F.interpolate(part, (height, width), mode="bilinear", antialias=True)[0].numpy()
    rows, columns = triangle_taps(top, bottom, height), triangle_taps(left, right, width)
    of_floats, of_bytes = np.zeros((2, channels, height + 3, width + 4), np.float32)
    resampled(planes, rows, columns, of_floats, 2, 1)
    resampled_bytes(pixels, rows, columns, of_bytes, 2, 1)
    for out in (of_floats, of_bytes):
        np.testing.assert_allclose(out[:, 2:-1, 1:-3], expected, atol=2e-6)
        out[:, 2:-1, 1:-3] = 0
        assert not out.any()


def test_channels_side_by_side_or_one_behind_the_other_give_the_same_numbers() -> None:
    pixels = CHANCE.integers(0, 256, (60, 70, 3), np.uint8)
    rows, columns = triangle_taps(0, 60, 17), triangle_taps(3, 70, 90)
    together, apart = np.empty((2, 3, 17, 90), np.float32)
    resampled_bytes(pixels, rows, columns, together, 0, 0)
    for c in range(3):
        resampled_bytes(np.ascontiguousarray(pixels[..., c : c + 1]), rows, columns, apart[c : c + 1], 0, 0)
    assert np.array_equal(together, apart)


def test_a_window_of_its_own_size_keeps_every_bit() -> None:
    pixels = CHANCE.integers(0, 256, (20, 30, 3), np.uint8)
    out = np.empty((3, 20, 30), np.float32)
    resampled_bytes(pixels, triangle_taps(0, 20, 20), triangle_taps(0, 30, 30), out, 0, 0)
    assert np.array_equal(out, unit_planes(pixels))


def test_nearest_pixels_are_those_of_the_indices() -> None:
    planes = CHANCE.integers(0, 9, (2, 12, 15))
    rows, columns = np.array([0, 0, 5, 11]), np.array([14, 3, 3])
    out = np.full((2, 6, 5), -1)
    fill_nearest(planes, rows, columns, out, 1, 2)
    assert np.array_equal(out[:, 1:5, 2:], planes[:, rows][:, :, columns])
    assert (out == -1).sum() == 2 * (30 - 12)


@pytest.mark.parametrize("size", [(33, 48), (1, 9), (9, 1), (2, 2)])
@pytest.mark.parametrize("angle", [0.0, 7.0, -31.0, 90.0, 175.0])
def test_a_rotation_is_that_of_torchvision(size: tuple[int, int], angle: float) -> None:
    height, width = size
    planes = CHANCE.random((3, height, width), np.float32)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = np.array([[cos, -sin], [sin, cos]])
    middle = np.array([width - 1, height - 1]) / 2
    back = np.column_stack([turn, middle - turn @ middle])
    expected = tvf.rotate_image(torch.from_numpy(planes), angle, InterpolationMode.BILINEAR).numpy()
    np.testing.assert_allclose(moved_bilinearly(planes, back), expected, atol=2e-4)
    labels = CHANCE.integers(0, 5, (1, height, width))
    expected = tvf.rotate_mask(torch.from_numpy(labels), angle, fill=7).numpy()
    assert (moved_nearest(labels, back, 7) != expected).mean() <= (0.02 if angle % 90 else 0.5)


def test_what_a_map_takes_from_outside_is_0_in_images_and_the_fill_in_labels() -> None:
    back = np.array([[1.0, 0.0, 100.0], [0.0, 1.0, 0.0]])
    assert not moved_bilinearly(np.ones((2, 5, 6), np.float32), back).any()
    assert (moved_nearest(np.ones((2, 5, 6), np.uint8), back, 9) == 9).all()


@pytest.mark.parametrize("size", [(20, 31), (1, 5), (3, 2)])
def test_blur_is_that_of_scipy_with_the_nearest_pixels_beyond_the_border(size: tuple[int, int]) -> None:
    planes, weights = CHANCE.random((2, *size), np.float32), CHANCE.random(9).astype(np.float32)
    expected = [ndimage.correlate1d(plane, weights, 0, mode="nearest") for plane in planes]
    expected = [ndimage.correlate1d(plane, weights, 1, mode="nearest") for plane in expected]
    np.testing.assert_allclose(blurred(planes, weights), np.stack(expected), rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_recolouring_is_the_formula(channels: int) -> None:
    planes = CHANCE.random((channels, 5000), np.float32)
    luma = np.full(channels, 1 / channels, np.float32)
    mixed = 1.3 * planes + (1 - 1.3) * (luma @ planes)
    mean = float((luma @ planes).mean())
    expected = np.clip(0.9 * (0.8 * mixed + 0.2 * mean), 0, 1)
    recolour(planes, luma, 1.3, 0.8, 0.9)
    np.testing.assert_allclose(planes, expected, atol=1e-5)
