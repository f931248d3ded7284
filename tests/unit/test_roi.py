"""Operators on regions equal torchvision's compiled ones."""

import pytest
import torch
from torchvision import ops as compiled

from pixelwise.ops import (
    box_iou,
    non_maximum_suppression,
    position_sensitive_roi_align,
    roi_align,
    roi_pool,
    sample_bilinear,
)

# In the middle, across every border, smaller than a pixel, and outside.
BOXES = torch.tensor(
    [
        [2.3, 1.7, 9.9, 6.2],
        [-1.5, -2.0, 4.5, 3.5],
        [8.0, 6.0, 15.0, 12.0],
        [3.2, 3.2, 3.4, 3.3],
        [30.0, 30.0, 40.0, 40.0],
    ]
)


def maps() -> torch.Tensor:
    return torch.randn(1, 3, 9, 13)


def with_image(box: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros(1), box])[None]


@pytest.mark.parametrize("box", BOXES, ids=str)
@pytest.mark.parametrize("size", [(2, 2), (3, 5)])
def test_roi_pooling_equals_torchvision(box: torch.Tensor, size: tuple[int, int]) -> None:
    x = maps()
    expected = compiled.roi_pool(x, with_image(box), size)[0]
    assert torch.equal(roi_pool(x[0], box.tolist(), size), expected)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("box", BOXES, ids=str)
@pytest.mark.parametrize("points", [1, 2, 3])
def test_roi_align_equals_torchvision(box: torch.Tensor, points: int, aligned: bool) -> None:
    x = maps()
    expected = compiled.roi_align(x, with_image(box), (3, 2), 1.0, points, aligned)[0]
    found = roi_align(x[0], box.tolist(), (3, 2), points=points, aligned=aligned)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("box", BOXES, ids=str)
@pytest.mark.parametrize("points", [1, 2])
def test_position_sensitive_roi_align_equals_torchvision(box: torch.Tensor, points: int) -> None:
    x = torch.randn(1, 2 * 9, 9, 13)
    expected = compiled.ps_roi_align(x, with_image(box), 3, 1.0, points)[0]
    found = position_sensitive_roi_align(x[0], box.tolist(), (3, 3), points=points)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_worked_region_of_the_lectures() -> None:
    # A bin of 2.083 x 1.510 pixels: samples at 1/4 and 3/4 of it; the fourth is the lectures' number.
    x = torch.zeros(1, 9, 13)
    x[0, 6:8, 10:12] = torch.tensor([[0.2, 0.3], [0.7, 0.2]])
    assert sample_bilinear(x, 10.64, 7.01).item() == pytest.approx(0.42616, abs=1e-5)
    assert sample_bilinear(x, 10.5, 6.5).item() == pytest.approx(0.2)


def test_iou_and_suppression_equal_torchvision() -> None:
    corner = 40 * torch.rand(60, 2)
    boxes = torch.cat([corner, corner + 5 + 20 * torch.rand(60, 2)], 1)
    scores = torch.rand(60)
    torch.testing.assert_close(box_iou(boxes, boxes[:7]), compiled.box_iou(boxes, boxes[:7]))
    for threshold in (0.3, 0.7):
        kept = compiled.nms(boxes, scores, threshold)
        assert 1 < len(kept) < 60
        assert torch.equal(non_maximum_suppression(boxes, scores, threshold), kept)
