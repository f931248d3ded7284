"""Pasted masks beside torchvision and pycocotools, and beside NumPy."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from pixelwise.rle import RleMasks, paste_masks, resize_masks


def some_scores(random: np.random.Generator, n: int, side: int) -> np.ndarray:
    """Noise, smooth blobs, and scores that meet the threshold in many pixels or within a rounding of it."""
    scores = random.random((n, side, side)).astype(np.float32)
    kind = random.integers(4)
    if kind == 0:
        return np.round(2 * scores) / 2
    if kind == 1:
        steps = random.integers(-3, 4, scores.shape).astype(np.float32)
        return np.float32(0.5) + steps * np.float32(6e-8)
    if kind == 2:
        coarse = torch.from_numpy(random.standard_normal((n, 1, 3, 3)).astype(np.float32))
        return F.interpolate(coarse, (side, side), mode="bicubic")[:, 0].sigmoid().numpy()
    return scores


def some_boxes(random: np.random.Generator, n: int, height: int, width: int) -> np.ndarray:
    """Boxes of all sizes that meet the image."""
    sides = np.exp(random.uniform(0, np.log(3 * max(height, width, 2)), (n, 2)))
    centers = random.uniform(0, 1, (n, 2)) * (width, height)
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], 1).astype(np.float32)
    return np.round(boxes) if random.random() < 0.3 else boxes


@pytest.mark.parametrize("seed", range(60))
def test_pasted_masks_are_those_of_torchvision_to_the_last_pixel(seed) -> None:
    random = np.random.default_rng(seed)
    side = int(random.choice([1, 2, 5, 14, 28]))
    height, width = random.integers(1, 250, 2).tolist()
    scores, boxes = some_scores(random, 4, side), some_boxes(random, 4, height, width)
    images = paste_masks_in_image(
        torch.from_numpy(scores)[:, None], torch.from_numpy(boxes), (height, width), padding=1
    )
    assert paste_masks(scores, boxes, height, width) == RleMasks.encode(images[:, 0] > 0.5)
    pasted = paste_masks(torch.from_numpy(scores), torch.from_numpy(boxes), height, width, threshold=0.3)
    assert pasted == RleMasks.encode(images[:, 0] > 0.3)


def test_scores_that_are_not_finite_are_pasted_as_torchvision_does() -> None:
    random = np.random.default_rng(0)
    scores = random.random((6, 14, 14)).astype(np.float32)
    scores[random.random(scores.shape) < 0.03] = np.nan
    scores[random.random(scores.shape) < 0.03] = np.inf
    scores[random.random(scores.shape) < 0.03] = -np.inf
    boxes = some_boxes(random, 6, 90, 120)
    images = paste_masks_in_image(
        torch.from_numpy(scores)[:, None], torch.from_numpy(boxes), (90, 120), padding=1
    )
    assert paste_masks(scores, boxes, 90, 120) == RleMasks.encode(images[:, 0] > 0.5)


def test_pasted_masks_are_those_of_a_plain_interpolation() -> None:
    random = np.random.default_rng(1)
    scores = random.random((3, 7, 7))
    boxes = np.array([[10.0, 20, 60, 90], [-20, -30, 150, 40], [70, 70, 71, 95]])
    height, width = 100, 120
    dense = paste_masks(scores, boxes, height, width).decode()
    for mask, box, given in zip(scores, boxes, dense, strict=True):
        padded = np.pad(mask, 1)
        half = (box[2:] - box[:2]) / 2 * 9 / 7
        center = (box[2:] + box[:2]) / 2
        (left, top), (right, bottom) = np.trunc(center - half), np.trunc(center + half)
        y = ((np.arange(height) - top + 0.5) * 9 / (bottom - top + 1) - 0.5).clip(0, 8)
        x = ((np.arange(width) - left + 0.5) * 9 / (right - left + 1) - 0.5).clip(0, 8)
        low_y, low_x = y.astype(int), x.astype(int)
        high_y, high_x = np.minimum(low_y + 1, 8), np.minimum(low_x + 1, 8)
        across = padded[:, low_x] * (1 - x + low_x) + padded[:, high_x] * (x - low_x)
        value = across[low_y] * (1 - y + low_y)[:, None] + across[high_y] * (y - low_y)[:, None]
        inside_y = (np.arange(height) >= top) & (np.arange(height) <= bottom)
        inside_x = (np.arange(width) >= left) & (np.arange(width) <= right)
        clear = np.abs(value - 0.5) > 1e-5  # float32 may differ nearer to the threshold
        expected = (value > 0.5) & inside_y[:, None] & inside_x
        assert np.array_equal(given[clear], expected[clear])
        assert clear.mean() > 0.99


def test_boxes_off_the_image_and_upside_down_give_empty_masks() -> None:
    boxes = np.array([[-50.0, 0, -40, 10], [200, 200, 300, 300], [30, 30, 10, 10], [1e9, 1e9, 2e9, 2e9]])
    pasted = paste_masks(np.ones((4, 5, 5), np.float32), boxes, 60, 60)
    assert pasted.area.tolist() == [0, 0, 0, 0]


def test_a_huge_box_costs_only_what_is_seen_of_it() -> None:
    boxes = np.array([[-1e9, -1e9, 1e9, 1e9]])
    assert paste_masks(np.ones((1, 28, 28), np.float32), boxes, 60, 70).area.tolist() == [4200]


def test_no_masks_give_no_masks() -> None:
    pasted = paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), 50, 60)
    assert pasted.decode().shape == (0, 50, 60)


def test_boxes_that_do_not_fit_the_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="got one that does not"):
        paste_masks(np.ones((1, 5, 5), np.float32), np.array([[0, 0, np.nan, 3]]), 9, 9)
    with pytest.raises(ValueError, match="n m m with boxes n 4"):
        paste_masks(np.ones((1, 0, 5), np.float32), np.array([[0.0, 0, 2, 3]]), 9, 9)


@pytest.mark.compile  # the shape checker refuses this first
def test_there_is_one_box_per_mask() -> None:
    with pytest.raises(ValueError, match="n m m with boxes n 4"):
        paste_masks(np.ones((2, 5, 5), np.float32), np.zeros((1, 4)), 9, 9)


@pytest.mark.parametrize("seed", range(20))
def test_coarse_scores_of_an_image_are_resized_as_torch_does(seed) -> None:
    random = np.random.default_rng(seed)
    rows, columns = random.integers(1, 40, 2).tolist()
    scores = random.random((3, rows, columns)).astype(np.float32)
    extent = random.integers(60, 300, 2).tolist()
    height, width = extent[0] - int(random.integers(9)), extent[1] - int(random.integers(9))
    images = F.interpolate(torch.from_numpy(scores)[None], extent, mode="bilinear")[0, :, :height, :width]
    assert resize_masks(scores, (extent[0], extent[1]), height, width) == RleMasks.encode(images > 0.5)


def test_scores_without_rows_are_refused_and_no_masks_are_none() -> None:
    assert len(resize_masks(np.zeros((0, 4, 4)), (9, 9), 9, 9)) == 0
    with pytest.raises(ValueError, match="scores must be n h w"):
        resize_masks(np.zeros((2, 0, 4)), (9, 9), 9, 9)
