"""Faster and Mask R-CNN: sizes, what they do without objects, and whether they learn."""

import pytest
import torch
from torch import nn
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from pixelwise import build, decode, describe
from pixelwise.checkpoint import load, save
from pixelwise.losses import loss_parts
from pixelwise.models.feature_pyramid import P6P7, level_of, subsampled
from pixelwise.types import AssignedBoxes, Batch, Boxes, ClassTable, LabelMap, MaskSet, Model, Sample

CLASSES = 3
TINY = {"encoder": "tiny", "width": 16, "min_size": None}
# torchvision counts those of COCO with background: 90 objects.
PUBLISHED = {
    "faster_rcnn_resnet50_fpn": 41_808_406,
    "faster_rcnn_resnet50_fpn_v2": 43_712_278,
    "mask_rcnn_resnet50_fpn": 44_454_513,
    "mask_rcnn_resnet50_fpn_v2": 46_359_409,
    "keypoint_rcnn_resnet50_fpn": 59_190_378,
}


def scene(height: int = 96, width: int = 128) -> Sample:
    """Bright boxes of three colours on a dark wall, as instances."""
    image = 0.2 + 0.05 * torch.rand(3, height, width)
    masks = torch.zeros(CLASSES, height, width, dtype=torch.bool)
    for i, (top, left) in enumerate([(8, 10), (40, 70), (50, 12)]):
        masks[i, top : top + 36, left : left + 44] = True
        image[i, masks[i]] = 0.9
    return Sample(image, MaskSet.of(masks, torch.arange(CLASSES)), "scene")


def as_boxes(sample: Sample) -> Sample:
    return Sample(sample.image, sample.target.boxes, sample.id)


def nothing(height: int = 70, width: int = 90) -> Sample:
    none = MaskSet.of(torch.zeros(0, height, width, dtype=torch.bool), torch.zeros(0, dtype=torch.long))
    return Sample(torch.rand(3, height, width), none, "nothing")


@pytest.fixture(params=["faster_rcnn", "mask_rcnn"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def detector(model: Model) -> nn.Module:
    return getattr(model, "detector", model)


@pytest.mark.parametrize("name, count", PUBLISHED.items())
def test_parameters_are_those_of_torchvision(name: str, count: int) -> None:
    with torch.device("meta"):
        model = build(name, *(() if name.startswith("keypoint") else (90,)))
    assert sum(p.numel() for p in model.parameters()) == count


def test_the_cards_tell_the_tasks() -> None:
    assert describe("faster_rcnn").tasks == ("detection",)
    assert describe("mask_rcnn_resnet50_fpn").tasks == ("instance",)
    assert describe("unet").tasks == ("semantic", "multilabel", "volume_slices")


@pytest.mark.parametrize(
    "samples", [[scene()], [scene(), nothing()], [nothing()]], ids=["one", "two", "none"]
)
def test_every_parameter_gets_a_finite_gradient(name: str, samples: list[Sample]) -> None:
    model = build(name, CLASSES, **TINY).train()
    batch = Batch.collate(samples)
    parts = loss_parts(model(*model.inputs(batch)), batch)
    assert all(part.isfinite() for part in parts.values())
    torch.stack(list(parts.values())).sum().backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    if len(samples[0].target):
        assert not [key for key, p in model.named_parameters() if not p.grad.any()]


def test_an_image_without_detections_decodes_to_nothing(name: str) -> None:
    model = build(name, CLASSES, **TINY).eval()
    detector(model).head.score_threshold = 1.0
    with torch.no_grad():
        output = model(torch.rand(2, 3, 65, 97))
    assert [len(one) for one in decode.boxes(output)] == [0, 0]
    if name == "mask_rcnn":
        assert [(len(one), one.size) for one in decode.instances(output)] == [(0, (65, 97))] * 2


def test_boxes_come_back_in_pixels_of_the_image_whatever_size_the_network_sees(name: str) -> None:
    model = build(name, CLASSES, **{**TINY, "min_size": 200, "max_size": 230}).eval()
    detector(model).head.score_threshold = 0.0
    batch = Batch.collate([scene(), nothing()])
    with torch.no_grad():
        output = model(batch.image, sizes=batch.sizes)
    if name == "mask_rcnn":
        assert [one.size for one in decode.instances(output)] == [(96, 128), (70, 90)]
        output = output.regions
    assert output.seen_sizes == ((172, 230), (178, 229))  # torchvision rounds down what floats make of 230
    for found, (height, width) in zip(decode.boxes(output), batch.sizes, strict=True):
        assert len(found) == 100
        assert found.boxes[:, 2].max() > 0.8 * width
        assert (found.boxes >= 0).all()
        assert (found.boxes <= torch.tensor([width, height, width, height]) + 1e-3).all()


def test_crowds_are_neither_found_nor_proposed_as_objects() -> None:
    model = build("faster_rcnn", CLASSES, **TINY).train()
    sample = as_boxes(scene())
    crowd = Boxes.of(sample.target.boxes, sample.target.classes, is_crowd=torch.tensor([True, False, False]))
    output = model(sample.image[None], (crowd,))
    for assigned in (output.anchors, output.regions):
        assert set(assigned.target.tolist()) == {-1, 1, 2}


def test_training_needs_targets_with_boxes() -> None:
    model = build("mask_rcnn", CLASSES, **TINY).train()
    image = torch.rand(1, 3, 64, 64)
    with pytest.raises(ValueError, match="training needs targets"):
        model(image)
    with pytest.raises(ValueError, match="must be Boxes or a MaskSet, got LabelMap"):
        model(image, (LabelMap(torch.zeros(64, 64)),))
    boxes = Batch.collate([as_boxes(scene())])
    with pytest.raises(ValueError, match="learned from MaskSet, got Boxes"):
        loss_parts(model(*model.inputs(boxes)), boxes)
    with pytest.raises(ValueError, match="has no detections"):
        decode.boxes(model(*model.inputs(boxes)))
    with torch.no_grad(), pytest.raises(ValueError, match="has no loss"):
        loss_parts(model.eval()(image), boxes)
    with pytest.raises(ValueError, match="at least 32 x 32"):
        model(torch.rand(1, 3, 31, 64))


def test_a_saved_model_comes_back_as_it_was(name: str, tmp_path) -> None:
    model = build(name, CLASSES, **TINY).eval()
    save(model, tmp_path / "model.safetensors", ClassTable.of(*"abc"))
    again = load(tmp_path / "model.safetensors").model
    detector(model).head.score_threshold = detector(again).head.score_threshold = 0.0
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        first, second = decode.boxes(model(image))[0], decode.boxes(again(image))[0]
    assert torch.equal(first.boxes, second.boxes)


def test_levels_and_further_levels_are_those_of_the_papers() -> None:
    # Eq. 1 of FPN: 224 pixels belong to P4, half as many to P3.
    sides = torch.tensor([20.0, 111.0, 112.0, 223.0, 224.0, 449.0, 2000.0])
    boxes = torch.stack([torch.zeros(7), torch.zeros(7), sides, sides], 1)
    assert level_of(boxes, 4).tolist() == [0, 0, 1, 1, 2, 3, 3]
    assert subsampled(torch.arange(5.0).view(1, 1, 1, 5)).tolist() == [[[[0, 2, 4]]]]
    ours, theirs = P6P7(8, 16), LastLevelP6P7(8, 16)
    ours.load_state_dict(theirs.state_dict())
    c5 = torch.rand(1, 8, 9, 7)
    expected, _ = theirs([torch.rand(1, 16, 9, 7)], [c5], [])
    for found, wanted in zip(ours(c5), expected[1:], strict=True):
        assert torch.equal(found, wanted)


def learned(model: Model, batch: Batch, steps: int) -> Model:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        loss = torch.stack(list(loss_parts(model(*model.inputs(batch)), batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.slow
def test_mask_rcnn_learns_one_image_by_heart() -> None:
    batch = Batch.collate([scene()])
    model = learned(build("mask_rcnn", CLASSES, **{**TINY, "width": 32}), batch, 150)
    with torch.no_grad():
        (found,) = decode.instances(model(batch.image))
    sure = found.take(found.scores > 0.5)
    assert sorted(sure.classes.tolist()) == [0, 1, 2]
    for mask, label in zip(sure.dense, sure.classes, strict=True):
        wanted = batch.annotations[0].masks[label]
        assert (mask & wanted).sum() / (mask | wanted).sum() > 0.8


def test_assigned_boxes_move_and_count() -> None:
    none = AssignedBoxes(
        torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    )
    assert len(none.to(torch.device("cpu"))) == 0
