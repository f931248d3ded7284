"""Scores of pixels near the boundaries of the target."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from pixelwise.metrics import SegmentationMetrics
from pixelwise.metrics.pixels.band import BandMetrics, band_scores, boundary_band
from pixelwise.types import ClassTable

CLASSES = ClassTable.of("sky", "road", "car")


def scene() -> Tensor:
    target = torch.zeros(40, 50, dtype=torch.long)
    target[20:] = 1
    target[10:30, 15:35] = 2
    target[:, -3:] = 255
    return target


def test_the_band_of_two_labels_is_that_of_the_distance_transform() -> None:
    mask = torch.zeros(60, 70, dtype=torch.long)
    mask[10:40, 20:50] = 1
    mask[35:50, 45:60] = 1
    inside = ndimage.distance_transform_edt(mask.numpy() == 1)
    outside = ndimage.distance_transform_edt(mask.numpy() == 0)
    for radius in (1, 2, 3.7, 10):
        np.testing.assert_array_equal(boundary_band(mask, radius).numpy(), inside + outside <= radius)


def test_a_wider_band_holds_the_narrower_one_and_at_last_everything() -> None:
    target = scene()
    bands = [boundary_band(target, radius) for radius in (1, 2, 4, 8, 100)]
    for narrow, wide in pairwise(bands):
        assert (narrow <= wide).all()
        assert narrow.sum() < wide.sum()
    assert bands[-1].all()


def test_a_map_of_one_label_has_no_boundary() -> None:
    assert not boundary_band(torch.zeros(9, 9, dtype=torch.uint8), 100).any()


def test_a_batch_is_taken_image_by_image_and_any_type_alike() -> None:
    batch = torch.stack([scene(), scene().flip(0), scene().flip(1)])
    found = boundary_band(batch, 3)
    for image, band in zip(batch, found, strict=True):
        assert torch.equal(boundary_band(image, 3), band)
    assert torch.equal(boundary_band(batch.to(torch.uint8), 3), found)
    assert torch.equal(boundary_band(batch[:, :, ::2], 3)[0], boundary_band(batch[0, :, ::2].contiguous(), 3))


def test_errors_away_from_boundaries_do_not_count() -> None:
    target = scene()
    prediction = torch.where(target == 255, 0, target)
    prediction[2, 2] = 1  # eight pixels away from the box
    assert band_scores(prediction, target, CLASSES, 3).pixel_accuracy == 1
    prediction[9, 20] = 1
    in_band = boundary_band(target, 3) & (target != 255)
    expected = 1 - 1 / in_band.sum().item()
    assert band_scores(prediction, target, CLASSES, 3).pixel_accuracy == pytest.approx(expected)


def test_the_strip_of_ignored_pixels_makes_a_boundary_as_in_voc() -> None:
    target = torch.zeros(9, 30, dtype=torch.long)
    target[:, 15:] = 1
    target[:, 13:17] = 255
    prediction = torch.zeros(9, 30, dtype=torch.long)
    scores = band_scores(prediction, target, CLASSES, 2)
    assert scores.support.tolist() == [18, 18, 0]
    assert scores.pixel_accuracy == 0.5
    assert scores.mean_iou == pytest.approx((0.5 + 0) / 2)


@pytest.mark.parametrize("ignore", [-1, 255, 1000])
def test_any_ignored_label_fits_any_type(ignore: int) -> None:
    table = ClassTable.of("sky", "road", "car", ignore=ignore)
    target = torch.where(scene() == 255, 0, scene()).to(torch.uint8)
    expected = band_scores(target.long(), target.long(), table, 2).matrix
    assert torch.equal(band_scores(target, target, table, 2).matrix, expected)


def test_the_metric_adds_up_images_and_takes_scores() -> None:
    batch = torch.stack([scene(), scene().flip(0)])
    prediction = torch.randint(0, 3, batch.shape)
    metrics = BandMetrics(CLASSES, radius=3)
    for i in range(2):
        metrics.update(prediction[i : i + 1], batch[i : i + 1])
    assert torch.equal(metrics.compute().matrix, band_scores(prediction, batch, CLASSES, 3).matrix)
    logits = torch.nn.functional.one_hot(prediction, 3).movedim(-1, 1).float()
    other = BandMetrics(CLASSES, radius=3)
    other.update(logits, batch)
    assert torch.equal(metrics.compute().matrix, other.compute().matrix)
    everything = SegmentationMetrics(CLASSES)
    everything.update(prediction, batch)
    far = BandMetrics(CLASSES, radius=1000)
    far.update(prediction, batch)
    assert torch.equal(far.compute().matrix, everything.compute().matrix)


def test_bands_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        boundary_band(scene(), 0)
    with pytest.raises(ValueError, match="at least 1 pixel, got nan"):
        BandMetrics(CLASSES, radius=float("nan"))
    with pytest.raises((ValueError, TypeError), match=r"height and width|target"):
        boundary_band(torch.zeros(5, dtype=torch.long), 2)
