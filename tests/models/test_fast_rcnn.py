"""R-CNN and Fast R-CNN: regions that are proposed without learning, warped or pooled."""

import pytest
import torch

from pixelwise import build, decode
from pixelwise.losses import NoLoss, loss_parts
from pixelwise.models.fast_rcnn import BoxHead
from pixelwise.models.rcnn import CONTEXT, SIDE, proposals_of, warped
from pixelwise.ops import roi_pool
from pixelwise.types import AssignedBoxes, Batch, Boxes, Model, Sample

SMALL = {
    "rcnn": {"width": 2},
    "fast_rcnn": {"encoder": "tiny", "width": 16, "min_size": None},
}


def built(name: str) -> Model:
    torch.manual_seed(0)
    return build(name, 2, **SMALL[name])


def scene() -> Sample:
    """A red and a green box on a dark wall."""
    image, boxes = 0.2 + 0.02 * torch.rand(3, 96, 128), [[10, 8, 50, 44], [70, 40, 114, 84]]
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        image[i, y1:y2, x1:x2] = 0.9
    return Sample(image, Boxes.of(torch.tensor(boxes).float(), torch.tensor([0, 1])), "scene")


def test_parameters_are_those_of_vgg16_and_alexnet_without_their_classifiers() -> None:
    with torch.device("meta"):
        fast, first = build("fast_rcnn_vgg16", 20), build("rcnn", 20)
    vgg = 14_714_688 + (25_088 + 1) * 4096 + (4096 + 1) * 4096
    assert sum(p.numel() for p in fast.parameters()) == vgg + 4097 * 21 + 4097 * 84
    alexnet = 61_100_840 - 4097 * 1000
    assert sum(p.numel() for p in first.parameters()) == alexnet + 4097 * 21 + 9217 * 84


def test_a_region_is_warped_with_its_context_and_nothing_beside_the_image() -> None:
    image = torch.rand(1, 3, 240, 300)
    inner = SIDE - 2 * CONTEXT
    boxes = torch.tensor([[30.0, 20.0, 30.0 + inner, 20.0 + inner], [-40.0, 0.0, 50.0, 90.0]])
    regions = AssignedBoxes(boxes, torch.zeros(2, dtype=torch.int64), torch.full((2,), -1))
    found = warped(image, regions)
    top, left = 20 - CONTEXT, 30 - CONTEXT
    expected = image[0, :, top : top + SIDE, left : left + SIDE]
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-4)
    assert not found[1, :, :, :60].any()
    assert found[1, :, 120:, 140:].all()


def test_proposals_hold_the_objects_and_the_whole_image_in_pixels_of_the_network() -> None:
    sample = scene()
    padded = torch.zeros(1, 3, 120, 150)
    padded[0, :, :96, :128] = sample.image
    (boxes,) = proposals_of(padded, [(96, 128)], [(192, 256)])
    assert boxes[0].tolist() == [0, 0, 256, 192]
    assert (boxes[:, 2] <= 256).all()
    assert (boxes[:, 3] <= 192).all()
    for box in 2 * sample.target.boxes:
        assert (boxes - box).abs().amax(1).min() <= 6


@pytest.mark.parametrize("name", SMALL)
def test_proposals_may_be_given_and_are_where_the_model_looks(name: str) -> None:
    model, batch = built(name).eval(), Batch.collate([scene()])
    given = [torch.tensor([[4.0, 4.0, 60.0, 50.0], [60.0, 30.0, 120.0, 90.0]])]
    with torch.no_grad():
        output = model(batch.image, proposals=given)
    assert torch.equal(output.regions.regions.boxes, given[0])
    assert output.regions.class_logits.shape == (2, 3)
    with torch.no_grad(), pytest.raises(NoLoss, match="has no loss"):
        loss_parts(output, batch)
    assert len(decode.boxes(output)) == 1


def test_regions_are_pooled_as_the_definition_says() -> None:
    model, batch = built("fast_rcnn").eval(), Batch.collate([scene()])
    box = torch.tensor([[13.0, 9.0, 100.0, 77.0]])
    with torch.no_grad():
        (features,) = model.encoder(batch.image).c4
        pooled = roi_pool(features, (box[0] / 16).tolist(), (BoxHead.SIZE, BoxHead.SIZE))
        expected, _ = model.head(pooled[None])
        found = model(batch.image, proposals=[box]).regions.class_logits
    torch.testing.assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_one_image_is_learned_by_heart(name: str) -> None:
    model, batch = built(name).train(), Batch.collate([scene()])
    if name == "rcnn":
        model = build(name, 2, width=8).train()
    given = [proposals_of(batch.image, [(96, 128)], [(96, 128)])[0]]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(100):
        parts = loss_parts(model(*model.inputs(batch), given), batch)
        optimizer.zero_grad()
        torch.stack(list(parts.values())).sum().backward()
        optimizer.step()
    with torch.no_grad():
        (found,) = decode.boxes(model.eval()(batch.image, proposals=given))
    sure = found.take(found.scores > 0.6)
    assert sorted(set(sure.classes.tolist())) == [0, 1]
    for box, label in zip(sure.boxes, sure.classes, strict=True):
        assert (box - batch.annotations[0].boxes[label]).abs().max() < 12
