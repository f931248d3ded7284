"""FCOS: which place belongs to which object, and parity with torchvision's network."""

import re

import pytest
import torch
import torchvision
from torch import Tensor

from pixelwise import build, decode
from pixelwise.losses import loss_parts
from pixelwise.models.fcos import (
    PlaceLogits,
    Scales,
    assign_places,
    centerness,
    distances_to,
    extent_of,
    masks_at_cells,
    middles_of_mass,
    places_of,
)
from pixelwise.types import Batch, Boxes, MaskSet

LEVELS = [(13, 17), (7, 9), (4, 5), (2, 3), (1, 2)]
STRIDES = (8, 16, 32, 64, 128)


def objects(count: int = 12) -> Boxes:
    generator = torch.Generator().manual_seed(3)
    corner = torch.rand(count, 2, generator=generator) * 70
    sides = 8 + torch.rand(count, 2, generator=generator) * 90
    return Boxes.of(torch.cat([corner, corner + sides], 1), torch.arange(count) % 3)


def test_a_place_belongs_to_the_smallest_object_that_fits_it() -> None:
    places, found = places_of(LEVELS, STRIDES, torch.zeros(())), objects()
    ranges = [(0, 64), (64, 128), (128, 256), (256, 512), (512, float("inf"))]
    numbers = assign_places(places, found)
    index = 0
    for (height, width), stride, (least, most) in zip(LEVELS, STRIDES, ranges, strict=True):
        for row in range(height):
            for column in range(width):
                x, y = stride * (column + 0.5), stride * (row + 0.5)
                best = (float("inf"), -1)
                for number, (x1, y1, x2, y2) in enumerate(found.boxes.tolist()):
                    sides = (x - x1, y - y1, x2 - x, y2 - y)
                    off = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2))
                    if min(sides) > 0 and least < max(sides) < most and off < 1.5 * stride:
                        best = min(best, ((x2 - x1) * (y2 - y1), number))
                assert numbers[index] == best[1]
                index += 1
    assert len(set(numbers.tolist())) > 5


def test_nothing_belongs_to_a_crowd_or_to_no_object() -> None:
    places = places_of(LEVELS, STRIDES, torch.zeros(()))
    assert (assign_places(places, objects(0)) == -1).all()
    assert (assign_places(places, Boxes.of(torch.zeros(1, 4), torch.zeros(1).long())) == -1).all()


def test_a_perfect_answer_has_little_loss_and_decodes_to_the_objects() -> None:
    boxes = torch.tensor([[10.0, 12, 60, 50], [70, 20, 120, 100]])
    target = Boxes.of(boxes, torch.tensor([1, 0]))
    places = places_of(LEVELS, STRIDES, torch.zeros(()))
    number = assign_places(places, target)
    own = target.take(number.clamp(min=0))
    scores = torch.full((1, len(number), 2), -12.0)
    scores[0, number >= 0, own.classes[number >= 0]] = 12.0
    distances = distances_to(places.points, own.boxes).clamp(min=0)
    middle = torch.logit(centerness(distances), 1e-6)
    size = (104, 136)
    output = PlaceLogits(scores, distances[None], middle[None], tuple(LEVELS), Scales(size, (size,), (size,)))
    parts = loss_parts(output, Batch.of(torch.zeros(1, 3, *size), [target]))
    assert parts["class"] < 0.01
    assert parts["box"].abs() < 1e-4
    (found,) = decode.boxes(output)
    torch.testing.assert_close(found.boxes[found.classes.argsort(descending=True)], boxes)


def test_cells_see_masks_at_their_middles() -> None:
    mask = torch.zeros(1, 6, 9, dtype=torch.bool)
    mask[0, 2:5, 3:8] = True
    instances = MaskSet.of(mask, torch.zeros(1).long())
    # As large as it is, a cell per pixel; a second row and column of cells lies beyond the image.
    whole = masks_at_cells(instances, (6, 9), (6, 9), (7, 10), (7, 10))
    assert torch.equal(whole[0, :6, :9], mask[0])
    assert not whole[0, 6:].any()
    assert not whole[0, :, 9:].any()
    # Seen twice as large, in cells of four pixels: the middle of each cell is at an even pixel of the mask.
    coarse = masks_at_cells(instances, (6, 9), (12, 18), (3, 4), (12, 16))
    assert torch.equal(coarse[0], mask[0, 1::2, 1::2])
    assert middles_of_mass(instances, (6, 9), (12, 18)).tolist() == [[11.0, 7.0]]
    assert extent_of((12, 16), (6, 9), (12, 18)) == (6, 8)


def torchvision_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names for torchvision's."""
    renames = (
        (r"backbone\.body\.", "encoder.body."),
        (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"pyramid.levels.lateral.\1."),
        (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"pyramid.levels.out.\1."),
        (r"backbone\.fpn\.extra_blocks\.", "pyramid.further."),
        (r"head\.classification_head\.conv\.", "head.class_tower."),
        (r"head\.regression_head\.conv\.", "head.box_tower."),
        (r"head\.classification_head\.cls_logits\.", "head.classes."),
        (r"head\.regression_head\.bbox_reg\.", "head.distances."),
        (r"head\.regression_head\.bbox_ctrness\.", "head.centerness."),
    )
    renamed = {}
    for key, tensor in state.items():
        for theirs, ours in renames:
            key = re.sub(theirs, ours, key)
        renamed[key] = tensor
    return renamed


def test_the_layers_are_those_of_torchvision() -> None:
    with torch.device("meta"):
        theirs = torchvision.models.detection.fcos_resnet50_fpn(weights=None, weights_backbone=None)
        ours = build("fcos_resnet50_fpn", 91)
    state = torchvision_state(theirs.state_dict())
    own = {key: x for key, x in ours.state_dict().items() if "normalize" not in key and key != "head.scales"}
    assert {key: x.shape for key, x in state.items()} == {key: x.shape for key, x in own.items()}


@pytest.mark.slow
def test_what_places_say_is_what_torchvision_says() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.detection.fcos_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=5, trainable_backbone_layers=5
    ).eval()
    for parameter in theirs.head.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    ours = build("fcos_resnet50_fpn", 5, min_size=None).eval()
    missing, unexpected = ours.load_state_dict(torchvision_state(theirs.state_dict()), strict=False)
    assert (set(missing), unexpected) == (
        {"head.scales", "encoder.normalize.mean", "encoder.normalize.std"},
        [],
    )
    image = torch.rand(1, 3, 128, 192)
    with torch.no_grad():
        output = ours(image)
        levels = list(theirs.backbone(ours.encoder.normalize(image)).values())
        expected = theirs.head(levels)
    torch.testing.assert_close(output.class_logits, expected["cls_logits"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.centerness[..., None], expected["bbox_ctrness"], atol=1e-4, rtol=1e-4)
    strides = output.places.stride[:, None]
    torch.testing.assert_close(output.distances / strides, expected["bbox_regression"], atol=1e-4, rtol=1e-4)
