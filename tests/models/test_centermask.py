"""CenterMask: attention, levels by share, and detections that do not depend on the number of images."""

import pytest
import torch

from pixelwise import build
from pixelwise.models.centermask import SpatialAttention, level_by_share, to_learn
from pixelwise.models.fcos import detect_together, detections
from pixelwise.models.mask_scoring import mask_iou
from pixelwise.types import AssignedBoxes, Boxes


def test_attention_weighs_places_by_the_mean_and_maximum_of_their_channels() -> None:
    attention, x = SpatialAttention(), torch.randn(2, 5, 4, 6)
    found = attention(x)
    weight = attention.convolution.weight[0]
    for region in range(2):
        for row in range(4):
            for column in range(6):
                total = torch.zeros(())
                for i in range(3):
                    for j in range(3):
                        y, z = row + i - 1, column + j - 1
                        if 0 <= y < 4 and 0 <= z < 6:
                            place = x[region, :, y, z]
                            total = total + weight[0, i, j] * place.mean() + weight[1, i, j] * place.max()
                torch.testing.assert_close(
                    found[region, :, row, column], x[region, :, row, column] * total.sigmoid()
                )


def test_a_region_comes_from_the_level_of_its_share_of_the_image() -> None:
    sides = torch.tensor([1000.0, 708, 706, 501, 499, 100, 0])
    boxes = torch.stack([torch.zeros(7), torch.zeros(7), sides, sides], 1)
    # Of an image of 1000 x 1000: above a half P5, above a quarter P4, else P3.
    assert level_by_share(boxes, 1_000_000).tolist() == [2, 2, 1, 1, 0, 0, 0]


def test_detections_of_all_images_are_those_of_each() -> None:
    torch.manual_seed(0)
    model = build("fcos", 3, encoder="tiny", width=16, min_size=None).eval()
    torch.nn.init.normal_(model.head.classes.weight, std=0.3)
    torch.nn.init.normal_(model.head.distances.weight, std=0.3)
    images, sizes = torch.rand(2, 3, 120, 160), [(120, 160), (90, 100)]
    with torch.no_grad():
        output = model(images, sizes)
    regions, classes, scores = detect_together(output)
    for number, one in enumerate(detections(output)):
        here = regions.image == number
        assert here.sum() == len(one.objects) > 10
        torch.testing.assert_close(regions.boxes[here], one.objects.boxes)
        torch.testing.assert_close(scores[here], one.objects.scores)
        assert torch.equal(classes[here], one.objects.classes)


def test_detections_that_overlap_an_object_are_learned_from() -> None:
    boxes = torch.tensor([[10.0, 10, 50, 50], [60, 10, 90, 40]])
    targets = [Boxes.of(boxes, torch.tensor([2, 0])), Boxes.of(boxes[:0], torch.zeros(0).long())]
    found = torch.tensor([[12.0, 12, 50, 50], [0, 0, 20, 20], [10, 10, 50, 50]])
    detected = AssignedBoxes(found, torch.tensor([0, 0, 1]), torch.full((3,), -1))
    chosen = to_learn(detected, targets)
    assert chosen.target.tolist() == [0, 1, 0]
    assert chosen.image.tolist() == [0, 0, 0]
    assert torch.equal(chosen.boxes, torch.cat([boxes, found[:1]]))


def test_the_iou_of_a_mask_counts_what_lies_outside_of_its_box() -> None:
    truth, drawn = torch.zeros(3, 4, 4, dtype=torch.bool), torch.zeros(3, 4, 4, dtype=torch.bool)
    truth[:, :2], drawn[:2, :2], drawn[2, 1:3] = True, True, True
    # All of the object in the box; half of it outside; shifted by a row.
    assert mask_iou(drawn, truth, torch.tensor([0.5, 1.0, 0.5])).tolist() == pytest.approx([1, 0.5, 1 / 3])
