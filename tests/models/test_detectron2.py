"""Detectron2's networks: every weight under its names finds its place, and its habits are kept."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from pixelwise import build
from pixelwise.models import from_detectron2_mask_rcnn, from_detectron2_panoptic_fpn
from pixelwise.ops import make_anchors
from pixelwise.types import AssignedBoxes

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def keys(depth: int, things: int, stuff: int = 0) -> dict[str, Tensor]:
    """Names and shapes of the weights in Detectron2's files."""
    found: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int, norm: str = "") -> None:
        found[f"{name}.weight"] = shape
        if norm:
            for part in ("weight", "bias", *(("running_mean", "running_var") if norm == "frozen" else ())):
                found[f"{name}.norm.{part}"] = (shape[0],)
        else:
            found[f"{name}.bias"] = (shape[0],)

    layer("backbone.bottom_up.stem.conv1", 64, 3, 7, 7, norm="frozen")
    c_in = 64
    for stage, blocks in enumerate(BLOCKS[depth], 2):
        width = 64 * 2 ** (stage - 2)
        for i in range(blocks):
            name = f"backbone.bottom_up.res{stage}.{i}"
            if i == 0:
                layer(f"{name}.shortcut", 4 * width, c_in, 1, 1, norm="frozen")
            layer(f"{name}.conv1", width, c_in, 1, 1, norm="frozen")
            layer(f"{name}.conv2", width, width, 3, 3, norm="frozen")
            layer(f"{name}.conv3", 4 * width, width, 1, 1, norm="frozen")
            c_in = 4 * width
        layer(f"backbone.fpn_lateral{stage}", 256, c_in, 1, 1)
        layer(f"backbone.fpn_output{stage}", 256, 256, 3, 3)
    layer("proposal_generator.rpn_head.conv", 256, 256, 3, 3)
    layer("proposal_generator.rpn_head.objectness_logits", 3, 256, 1, 1)
    layer("proposal_generator.rpn_head.anchor_deltas", 12, 256, 1, 1)
    layer("roi_heads.box_head.fc1", 1024, 256 * 49)
    layer("roi_heads.box_head.fc2", 1024, 1024)
    layer("roi_heads.box_predictor.cls_score", things + 1, 1024)
    layer("roi_heads.box_predictor.bbox_pred", 4 * things, 1024)
    for i in range(1, 5):
        layer(f"roi_heads.mask_head.mask_fcn{i}", 256, 256, 3, 3)
    found["roi_heads.mask_head.deconv.weight"] = (256, 256, 2, 2)
    found["roi_heads.mask_head.deconv.bias"] = (256,)
    layer("roi_heads.mask_head.predictor", things, 256, 1, 1)
    if stuff:
        for level, steps in ((2, 1), (3, 1), (4, 2), (5, 3)):
            for i in range(steps):
                layer(f"sem_seg_head.p{level}.{2 * i}", 128, 128 if i else 256, 3, 3, norm="group")
        layer("sem_seg_head.predictor", stuff + 1, 128, 1, 1)
    found["pixel_mean"] = found["pixel_std"] = (3, 1, 1)
    return {key: torch.empty(shape) for key, shape in found.items()}


@pytest.mark.parametrize("depth", [50, pytest.param(101, marks=pytest.mark.slow)])
def test_every_weight_of_mask_rcnn_finds_its_place(depth: int) -> None:
    with torch.device("meta"):
        model = from_detectron2_mask_rcnn(keys(depth, 80))
        again = build(model.built_by.builder, **model.built_by.arguments)
    assert model.num_classes == 80
    assert model.built_by.arguments["depth"] == depth
    assert again.state_dict().keys() == model.state_dict().keys()


def test_every_weight_of_panoptic_fpn_finds_its_place_and_others_are_refused() -> None:
    with torch.device("meta"):
        model = from_detectron2_panoptic_fpn(keys(50, 80, 53))
        assert (model.num_classes, model.things) == (133, tuple(range(80)))
        chosen = from_detectron2_panoptic_fpn(keys(50, 2, 3), things=[1, 4])
        assert chosen.things == (1, 4)
        with pytest.raises(ValueError, match="knows 2 things, got 1 labels"):
            from_detectron2_panoptic_fpn(keys(50, 2, 3), things=[1])
        with pytest.raises(ValueError, match="has no semantic branch"):
            from_detectron2_panoptic_fpn(keys(50, 2))
        lacking = keys(50, 2)
        del lacking["backbone.fpn_lateral2.weight"]
        with pytest.raises(ValueError, match="state_dict is not that of a Detectron2 network"):
            from_detectron2_mask_rcnn(lacking)
        with pytest.raises(ValueError, match="box head from Detectron2"):
            from_detectron2_mask_rcnn({"a": torch.zeros(1)})


class TheirBottleneck(nn.Module):
    """A block whose first convolution strides."""

    def __init__(self, weights: dict[str, Tensor], name: str, stride: int) -> None:
        super().__init__()
        self.weights, self.name, self.stride = weights, name, stride

    def convolved(self, x: Tensor, layer: str, stride: int = 1) -> Tensor:
        weight = self.weights[f"{self.name}.{layer}.weight"]
        mean, variance, scale, bias = (
            self.weights[f"{self.name}.{layer}.norm.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = nn.functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        return nn.functional.batch_norm(x, mean, variance, scale, bias, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolved(x, "conv1", self.stride).relu()
        y = self.convolved(self.convolved(y, "conv2").relu(), "conv3")
        return (y + self.convolved(x, "shortcut", self.stride)).relu()


@pytest.mark.slow
def test_the_network_sees_and_says_what_detectron2s_would() -> None:
    torch.manual_seed(0)
    weights = {key: 0.02 * torch.randn_like(x) for key, x in keys(50, 2).items()}
    for key, x in weights.items():
        if key.endswith("running_var") or key.endswith("norm.weight"):
            x.uniform_(0.5, 1.5)
    model = from_detectron2_mask_rcnn(weights)
    image = torch.rand(1, 3, 64, 96)
    # Blue, green, red from 0 to 255 less the mean.
    seen = 255 * image.flip(1) - torch.tensor([103.53, 116.28, 123.675]).view(1, 3, 1, 1)
    stem = TheirBottleneck(weights, "backbone.bottom_up.stem", 2)
    expected = nn.functional.max_pool2d(stem.convolved(seen, "conv1", 2).relu(), 3, 2, 1)
    with torch.no_grad():
        body = model.detector.encoder.body
        found = body.maxpool(body.act1(body.bn1(body.conv1(model.detector.encoder.normalize(image)))))
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
        x = torch.rand(1, 256, 15, 22)
        block = TheirBottleneck(weights, "backbone.bottom_up.res3.0", 2)
        torch.testing.assert_close(body.layer2[0](x), block(x), atol=1e-4, rtol=1e-4)
        # Background is their last class and our first; boxes and masks have none there.
        pooled = torch.rand(5, 256, 7, 7)
        scores, boxes = model.detector.head(pooled)
        w = {key.removeprefix("roi_heads."): x for key, x in weights.items()}
        x = pooled.flatten(1)
        for layer in ("fc1", "fc2"):
            x = nn.functional.linear(x, w[f"box_head.{layer}.weight"], w[f"box_head.{layer}.bias"]).relu()
        theirs = {
            name: nn.functional.linear(x, w[f"box_predictor.{name}.weight"], w[f"box_predictor.{name}.bias"])
            for name in ("cls_score", "bbox_pred")
        }
        torch.testing.assert_close(scores, theirs["cls_score"][:, [2, 0, 1]])
        torch.testing.assert_close(boxes[:, 1:].flatten(1), theirs["bbox_pred"])
        masks = model.mask_head(torch.rand(2, 256, 14, 14))
        assert not masks[:, 0].any()
        assert masks[:, 1:].any()


def test_habits_of_detectron2_are_kept() -> None:
    with torch.device("meta"):
        model = build("detectron2_mask_rcnn", 3)
        plain = build("mask_rcnn", 3)
    strides = [block.conv1.stride for block in (model.detector.encoder.body.layer2[0],)]
    assert strides == [(2, 2)]
    assert plain.detector.encoder.body.layer2[0].conv1.stride == (1, 1)
    levels = [torch.rand(1, 2, 32 >> i, 48 >> i) for i in range(4)]
    boxes = torch.tensor([[10.0, 20.0, 30.0, 44.0]])
    regions = AssignedBoxes(boxes, torch.tensor([0]), torch.tensor([-1]))
    rois = torch.cat([torch.zeros(1, 1), boxes], 1)
    assert torch.equal(model.detector.pooling(levels, regions), roi_align(levels[0], rois, 7, 0.25, 0, True))
    like = torch.zeros(())
    given = [(1, 1)] * 5
    anchors = model.detector.make_anchors(given, (32, 32), like=like)
    assert anchors[0][0].tolist() == pytest.approx([-(2**9.5) / 32, -8 * 2**0.5, 2**9.5 / 32, 8 * 2**0.5])
    (rounded,) = make_anchors([(1, 1)], (32, 32), [32], [0.5], like)
    assert rounded[0].tolist() == [-23, -11, 23, 11]
