"""YOLACT: anchors, hard negatives, prototypes, its quick decoding, and the authors' names of weights."""

import re

import pytest
import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from pixelwise import build, decode
from pixelwise.models import from_yolact
from pixelwise.models.fcos import Scales
from pixelwise.models.yolact import (
    PrototypeLogits,
    assembled,
    candidates,
    class_loss,
    detect,
    in_boxes,
    in_crowds,
)
from pixelwise.ops import box_iou, decode_boxes
from pixelwise.types import Boxes


def random_output(anchors: int = 300, classes: int = 4) -> PrototypeLogits:
    torch.manual_seed(0)
    corner = torch.rand(anchors, 2) * 90
    boxes = torch.cat([corner, corner + 10 + torch.rand(anchors, 2) * 40], 1)
    size = (120, 140)
    return PrototypeLogits(
        2 * torch.randn(1, anchors, classes + 1),
        0.5 * torch.randn(1, anchors, 4),
        torch.randn(1, anchors, 8).tanh(),
        torch.rand(1, 8, 30, 35),
        boxes,
        Scales(size, (size,), (size,)),
    )


def test_there_are_19248_square_anchors_in_an_image_of_550() -> None:
    model = build("yolact", 3, encoder="tiny", width=8).eval()
    with torch.no_grad():
        output = model(torch.rand(1, 3, 70, 90))
    anchors = output.anchors
    assert output.prototypes.shape == (1, 32, 138, 138)
    assert len(anchors) == 3 * (69**2 + 35**2 + 18**2 + 9**2 + 5**2) == 19_248
    sides = anchors[:, 2:] - anchors[:, :2]
    torch.testing.assert_close(sides[:, 0], sides[:, 1], atol=1e-3, rtol=0)
    assert sides[:3, 0].tolist() == pytest.approx([24, 24 / 2**0.5, 24 * 2**0.5], abs=1e-4)
    middles = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert middles[3].tolist() == pytest.approx([1.5 * 550 / 69, 0.5 * 550 / 69], abs=1e-4)
    assert sides[-1, 0].item() == pytest.approx(384 * 2**0.5, abs=1e-3)


def test_the_hardest_negatives_are_learned_from_three_for_each_positive() -> None:
    torch.manual_seed(0)
    logits, wanted = torch.randn(2, 40, 4), torch.full((2, 40), -1)
    wanted[0, :3], wanted[0, 3:9], wanted[1, :2] = torch.tensor([1, 3, 2]), -2, 1
    expected = torch.zeros(())
    for scores, labels in zip(logits, wanted, strict=True):
        background = -scores.log_softmax(1)[:, 0]
        hard = sorted(background[labels == -1].tolist(), reverse=True)
        positive = labels > 0
        expected = expected + F.cross_entropy(scores[positive], labels[positive], reduction="sum")
        expected = expected + sum(hard[: 3 * int(positive.sum())])
    torch.testing.assert_close(class_loss(logits, wanted), expected)


def test_anchors_in_crowds_are_neither_positive_nor_negative() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [8, 0, 18, 10], [50, 50, 60, 60]])
    boxes = torch.tensor([[0.0, 0, 12, 40], [50, 50, 60, 60]])
    objects = Boxes.of(boxes, torch.zeros(2).long(), is_crowd=torch.tensor([True, False]))
    assert in_crowds(anchors, objects).tolist() == [True, False, False]


def test_masks_are_sums_of_prototypes_cropped_to_boxes() -> None:
    prototypes, factors = torch.rand(3, 4, 5), torch.randn(2, 3)
    found = assembled(prototypes, factors)
    expected = sum(factors[1, i] * prototypes[i] for i in range(3))
    torch.testing.assert_close(found[1], expected)
    inside = in_boxes(torch.tensor([[2.0, 1, 4, 2]]), 4, 5, margin=1)
    assert inside[0].int().tolist() == [[0, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]]


def test_candidates_are_all_above_the_threshold_best_first() -> None:
    logits = 3 * torch.randn(500, 7)
    anchor, label, score = candidates(logits)
    scores = logits.softmax(1)[:, 1:]
    assert len(anchor) == (scores > 0.05).sum()
    torch.testing.assert_close(score, scores[anchor, label])
    assert (score.diff() <= 0).all()


def test_quick_decoding_finds_what_the_plain_steps_find() -> None:
    output = random_output()
    scores = output.class_logits[0].softmax(1)[:, 1:]
    boxes = decode_boxes(output.box_deltas[0], output.anchors, (0.1, 0.1, 0.2, 0.2))
    boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([140.0, 120, 140, 120]))
    expected = []
    for label in range(4):
        order = scores[:, label].argsort(descending=True)[:200]
        iou = box_iou(boxes[order], boxes[order])
        for rank, anchor in enumerate(order.tolist()):
            if scores[anchor, label] > 0.05 and (iou[:rank, rank] <= 0.5).all():
                expected.append((scores[anchor, label].item(), label, anchor))
    expected = sorted(expected, reverse=True)[:100]
    objects, factors = detect(output, 0, (120, 140))
    assert objects.classes.tolist() == [label for _, label, _ in expected]
    assert objects.scores.tolist() == pytest.approx([score for score, _, _ in expected])
    index = torch.tensor([anchor for _, _, anchor in expected])
    torch.testing.assert_close(objects.boxes, boxes[index])
    torch.testing.assert_close(factors, output.coefficients[0, index])
    (found,) = decode.instances(output)
    drawn = assembled(output.prototypes[0], factors).sigmoid()
    drawn = drawn * in_boxes(objects.boxes / 4, 30, 35, margin=1)
    masks = F.interpolate(drawn[None], (120, 140), mode="bilinear")[0] > 0.5
    kept = masks.flatten(1).any(1)
    assert len(found) == kept.sum()
    assert (found.dense != masks[kept]).float().mean() < 1e-4


def authors_state(layers: int, classes: int = 80) -> dict[str, Tensor]:
    """Weights under the names of the authors' code, with what it leaves over from earlier versions."""
    builder = {50: torchvision.models.resnet50, 101: torchvision.models.resnet101}[layers]
    with torch.device("meta"):
        body = builder().state_dict()
    state = {}
    for key, tensor in body.items():
        if not key.startswith("fc."):
            name = re.sub(r"^layer(\d)", lambda found: f"layers.{int(found[1]) - 1}", key)
            state[f"backbone.{name}"] = tensor
    state["backbone.layer1.0.conv1.weight"] = state["backbone.layers.0.0.conv1.weight"]
    convolutions = {
        **{f"fpn.lat_layers.{i}": (256, c, 1) for i, c in enumerate((2048, 1024, 512))},
        **{f"fpn.pred_layers.{i}": (256, 256, 3) for i in range(3)},
        **{f"fpn.downsample_layers.{i}": (256, 256, 3) for i in range(4)},
        **{f"proto_net.{i}": (256, 256, 3) for i in (0, 2, 4, 8)},
        "proto_net.10": (32, 256, 1),
        "prediction_layers.0.upfeature.0": (256, 256, 3),
        "prediction_layers.0.bbox_layer": (12, 256, 3),
        "prediction_layers.0.conf_layer": (3 * (classes + 1), 256, 3),
        "prediction_layers.0.mask_layer": (96, 256, 3),
        "semantic_seg_conv": (classes, 256, 1),
    }
    for key, (c_out, c_in, kernel) in convolutions.items():
        state[f"{key}.weight"] = torch.empty(c_out, c_in, kernel, kernel, device="meta")
        state[f"{key}.bias"] = torch.empty(c_out, device="meta")
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.zeros((), dtype=torch.long)
        if "tracked" in key
        else torch.rand(x.shape, generator=generator)
        for key, x in state.items()
    }


@pytest.mark.parametrize("layers", [50, pytest.param(101, marks=pytest.mark.slow)])
def test_weights_of_the_authors_are_taken(layers: int) -> None:
    state = authors_state(layers)
    model = from_yolact(state)
    assert model.built_by.builder == f"yolact_resnet{layers}"
    assert torch.equal(model.pyramid.lateral[0].weight, state["fpn.lat_layers.2.weight"])
    assert torch.equal(model.protonet.fine.bias, state["proto_net.8.bias"])
    assert torch.equal(model.head.classes.weight, state["prediction_layers.0.conf_layer.weight"])
    block = model.encoder.body.layer4[2].conv3
    assert torch.equal(block.weight, state["backbone.layers.3.2.conv3.weight"])
    assert model.encoder.normalize.mean.flatten().tolist() == pytest.approx([0.485, 0.458, 0.4076], abs=1e-3)
    with pytest.raises(ValueError, match="not that of a YOLACT of its authors"):
        from_yolact({key: x for key, x in state.items() if "proto_net" not in key})
