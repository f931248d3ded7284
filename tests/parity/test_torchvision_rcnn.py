"""torchvision's R-CNNs with random weights propose, detect and lose the same here."""

import re
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator, RPNHead
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from pixelwise import build, decode
from pixelwise.encoders import Tiny, fold_frozen_norms
from pixelwise.losses import loss_parts
from pixelwise.models import (
    from_torchvision_faster_rcnn,
    from_torchvision_keypoint_rcnn,
    from_torchvision_mask_rcnn,
)
from pixelwise.models.faster_rcnn import STAGES, FasterRCNN, assemble, rename_torchvision
from pixelwise.models.keypoint_rcnn import KeypointHead, KeypointRCNN, rename_keypoint_rcnn
from pixelwise.models.mask_rcnn import MaskHead, MaskRCNN, rename_mask_rcnn
from pixelwise.types import Batch, Boxes, Keypoints, MaskSet, Sample

WIDTH, CLASSES = 16, 5
SIZES = [(65, 97), (120, 88)]
LOSSES = {
    "loss_objectness": "rpn_objectness",
    "loss_rpn_box_reg": "rpn_box",
    "loss_classifier": "class",
    "loss_box_reg": "box",
}


class TinyBackbone(nn.Module):
    """The tiny encoder and a feature pyramid, under torchvision's names."""

    out_channels = WIDTH

    def __init__(self, norm: bool) -> None:
        super().__init__()
        encoder = Tiny(stages=STAGES)
        self.body = encoder.body
        self.fpn = FeaturePyramidNetwork(
            list(encoder.channels[1:]), WIDTH, LastLevelMaxPool(), nn.BatchNorm2d if norm else None
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = OrderedDict()
        for stage, convolution in self.body.items():
            x = convolution(x)
            if stage in STAGES:
                maps[stage] = x
        pyramid = self.fpn(maps)
        return OrderedDict((str(i), level) for i, level in enumerate(pyramid.values()))


def parts(improved: bool, **further: object) -> dict[str, object]:
    """Arguments of torchvision's R-CNNs for a small network at about the size of the image."""
    hidden = 4 * WIDTH
    head = (
        FastRCNNConvFCHead((WIDTH, 7, 7), [WIDTH] * 4, [hidden], nn.BatchNorm2d)
        if improved
        else TwoMLPHead(WIDTH * 49, hidden)
    )
    return {
        "backbone": TinyBackbone(improved),
        "min_size": 80,
        "max_size": 150,
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
        "rpn_anchor_generator": AnchorGenerator(
            ((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5
        ),
        "rpn_head": RPNHead(WIDTH, 3, 2 if improved else 1),
        "box_head": head,
        "box_predictor": FastRCNNPredictor(hidden, CLASSES + 1),
        **further,
    }


def stir(model: nn.Module) -> None:
    """Draw what starts at zero or nearly so, and the statistics of batch norms."""
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.2)
            nn.init.uniform_(module.bias, -0.2, 0.2)
        elif re.search(r"rpn|predictor", name) and isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=0.5 / module.weight[0].numel() ** 0.5)
            nn.init.normal_(module.bias, std=0.1)


def carried(theirs: nn.Module, model: nn.Module, prefix: str = "") -> None:
    """The weights of torchvision's model into ours."""
    weights, _ = rename_torchvision(theirs.state_dict(), 1e-5)
    own = {key: x for key, x in model.state_dict().items() if "normalize" in key}
    model.load_state_dict({prefix + key: x for key, x in weights.items()} | own)


def pair(improved: bool) -> tuple[nn.Module, FasterRCNN]:
    theirs = detection.FasterRCNN(**parts(improved))
    stir(theirs)
    ours = assemble(Tiny(stages=STAGES), CLASSES, improved=improved, width=WIDTH, min_size=80, max_size=150)
    carried(theirs, ours)
    return theirs, ours


def samples() -> list[Sample]:
    """Two images of different sizes, with objects."""
    found = []
    for i, (height, width) in enumerate(SIZES):
        corner = torch.rand(4, 2) * torch.tensor([width - 30.0, height - 30.0])
        boxes = torch.cat([corner, corner + 10 + 20 * torch.rand(4, 2)], 1)
        classes = torch.randint(0, CLASSES, (4,))
        found.append(Sample(torch.rand(3, height, width), Boxes.of(boxes, classes), str(i)))
    return found


def watched(theirs: nn.Module) -> list[list[Tensor]]:
    """The regions that torchvision's network proposes are noted here."""
    proposed: list[list[Tensor]] = []
    theirs.rpn.register_forward_hook(lambda _module, _given, output: proposed.append(output[0]))
    return proposed


def differ(ours: Tensor, theirs: Tensor) -> float:
    """Largest distance of a row to the nearest one of the other: rounding may swap what is equally good."""
    assert ours.shape == theirs.shape
    distance = torch.cdist(ours.double(), theirs.double(), p=float("inf"))
    return max(distance.amin(0).max().item(), distance.amin(1).max().item())


def rows(found: Boxes) -> Tensor:
    return torch.cat([found.boxes, found.scores[:, None], found.classes[:, None]], 1)


def rows_of(found: dict[str, Tensor]) -> Tensor:
    return torch.cat([found["boxes"], found["scores"][:, None], found["labels"][:, None] - 1], 1)


@pytest.mark.parametrize("improved", [False, True], ids=["v1", "v2"])
def test_regions_and_detections_equal_those_of_torchvision(improved: bool) -> None:
    theirs, ours = pair(improved)
    proposed = watched(theirs.eval())
    batch = Batch.collate(samples())
    with torch.no_grad():
        expected = theirs([one.image for one in samples_again(batch)])
        output = ours.eval()(batch.image, sizes=batch.sizes)
    for number, boxes in enumerate(proposed[0]):
        regions = output.regions.boxes[output.regions.image == number]
        assert len(boxes) > 50
        assert differ(regions, boxes) <= 1e-4
    for found, theirs_found in zip(decode.boxes(output), expected, strict=True):
        assert len(found) > 20
        assert differ(rows(found), rows_of(theirs_found)) <= 1e-4
        torch.testing.assert_close(found.scores, theirs_found["scores"], atol=1e-4, rtol=0)


def samples_again(batch: Batch) -> list[Sample]:
    """The samples of a batch without their padding."""
    return [
        Sample(image[:, :height, :width], target, "")
        for image, target, (height, width) in zip(batch.image, batch.annotations, batch.sizes, strict=True)
    ]


@pytest.mark.parametrize("improved", [False, True], ids=["v1", "v2"])
def test_each_loss_equals_that_of_torchvision(improved: bool) -> None:
    theirs, ours = pair(improved)
    batch = Batch.collate(samples())
    targets = [{"boxes": one.boxes, "labels": one.classes + 1} for one in batch.annotations]
    # Before, torchvision draws one of its sizes, of which there is one.
    theirs.rpn.register_forward_pre_hook(lambda _module, _given: torch.manual_seed(3) and None)
    expected = theirs.train()([one.image for one in samples_again(batch)], targets)
    torch.manual_seed(3)
    found = loss_parts(ours.train()(*ours.inputs(batch)), batch)
    assert set(found) == set(LOSSES.values())
    for name, value in expected.items():
        assert value > 1e-3
        assert abs(found[LOSSES[name]] - value) <= 1e-4, name


# --- Mask R-CNN -----------------------------------------------------------------------------------


def mask_pair(improved: bool) -> tuple[nn.Module, MaskRCNN]:
    norm = nn.BatchNorm2d if improved else None
    theirs = detection.MaskRCNN(
        **parts(
            improved,
            mask_head=MaskRCNNHeads(WIDTH, [WIDTH] * 4, 1, norm),
            mask_predictor=MaskRCNNPredictor(WIDTH, WIDTH, CLASSES + 1),
        )
    )
    stir(theirs)
    detector = assemble(
        Tiny(stages=STAGES), CLASSES, improved=improved, width=WIDTH, min_size=80, max_size=150
    )
    ours = MaskRCNN(detector, MaskHead(WIDTH, CLASSES, norm=improved))
    weights, version = rename_mask_rcnn(theirs.state_dict(), 1e-5)
    assert version == (2 if improved else 1)
    own = {key: x for key, x in ours.state_dict().items() if "normalize" in key}
    ours.load_state_dict(weights | own)
    return theirs, ours


def mask_batch() -> Batch:
    """Boxes and discs within the boxes of `samples`."""
    found = []
    for sample in samples():
        height, width = sample.image.shape[-2:]
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        masks = []
        for number, (x1, y1, x2, y2) in enumerate(sample.target.boxes):
            u, v = (2 * x - x1 - x2) / (x2 - x1), (2 * y - y1 - y2) / (y2 - y1)
            inside = u**2 + v**2 if number % 2 else torch.maximum(u.abs(), v.abs())
            masks.append(inside < 1)
        target = MaskSet.of(torch.stack(masks), sample.target.classes)
        found.append(Sample(sample.image, target, sample.id))
    return Batch.collate(found)


@pytest.mark.parametrize("improved", [False, True], ids=["v1", "v2"])
def test_masks_equal_those_of_torchvision(improved: bool) -> None:
    theirs, ours = mask_pair(improved)
    batch = mask_batch()
    with torch.no_grad():
        expected = theirs.eval()([one.image for one in samples_again(batch)])
        output = ours.eval()(batch.image, sizes=batch.sizes)
    for found, boxes, theirs_found in zip(
        decode.instances(output), decode.boxes(output), expected, strict=True
    ):
        assert len(found) > 20
        assert differ(rows(boxes), rows_of(theirs_found)) <= 1e-4
        # Rounding may swap detections of equal scores, and move an outline by a pixel.
        order = torch.cdist(rows_of(theirs_found), rows(boxes)).argmin(1)
        wrong = (theirs_found["masks"][:, 0] > 0.5) ^ found.take(order).dense
        assert found.dense.any()
        assert wrong.float().mean() < 1e-4


def test_scores_within_boxes_equal_those_of_torchvision() -> None:
    theirs, ours = mask_pair(improved=False)
    drawn: list[Tensor] = []
    theirs.roi_heads.mask_predictor.register_forward_hook(lambda _module, _given, out: drawn.append(out))
    batch = mask_batch()
    with torch.no_grad():
        theirs.eval()([one.image for one in samples_again(batch)])
        output = ours.eval()(batch.image, sizes=batch.sizes)
    assert drawn[0].abs().mean() > 1e-2
    assert differ(output.mask_logits.flatten(1), drawn[0].flatten(1)) <= 1e-4


@pytest.mark.parametrize("improved", [False, True], ids=["v1", "v2"])
def test_the_loss_of_the_masks_equals_that_of_torchvision(improved: bool) -> None:
    theirs, ours = mask_pair(improved)
    batch = mask_batch()
    targets = [
        {"boxes": one.boxes.boxes, "labels": one.classes + 1, "masks": one.dense.to(torch.uint8)}
        for one in batch.annotations
    ]
    theirs.rpn.register_forward_pre_hook(lambda _module, _given: torch.manual_seed(3) and None)
    expected = theirs.train()([one.image for one in samples_again(batch)], targets)
    torch.manual_seed(3)
    found = loss_parts(ours.train()(*ours.inputs(batch)), batch)
    assert set(found) == {*LOSSES.values(), "mask"}
    for name, value in expected.items():
        assert value > 1e-3
        assert abs(found[LOSSES.get(name, "mask")] - value) <= 1e-4 * max(1, value), name


# --- Keypoint R-CNN -------------------------------------------------------------------------------

JOINTS = 4


def keypoint_pair() -> tuple[nn.Module, KeypointRCNN]:
    theirs = detection.KeypointRCNN(
        **parts(
            False,
            box_predictor=FastRCNNPredictor(4 * WIDTH, 2),
            keypoint_head=KeypointRCNNHeads(WIDTH, (2 * WIDTH,) * 8),
            keypoint_predictor=KeypointRCNNPredictor(2 * WIDTH, JOINTS),
            box_score_thresh=0.01,
        )
    )
    stir(theirs)
    detector = assemble(Tiny(stages=STAGES), 1, width=WIDTH, min_size=80, max_size=150)
    detector.head.score_threshold = 0.01
    ours = KeypointRCNN(detector, KeypointHead(WIDTH, JOINTS, width=2 * WIDTH), JOINTS)
    own = {key: x for key, x in ours.state_dict().items() if "normalize" in key}
    ours.load_state_dict(rename_keypoint_rcnn(theirs.state_dict(), 1e-5) | own)
    return theirs, ours


def keypoint_batch() -> Batch:
    """Joints in the boxes of `samples` and a little around them; some are not annotated, some at the edge."""
    found = []
    for sample in samples():
        boxes = sample.target.boxes
        points = boxes[:, None, :2] + (boxes[:, 2:] - boxes[:, :2])[:, None] * (
            1.2 * torch.rand(4, JOINTS, 2) - 0.1
        )
        points[0, 0], points[1, 1] = boxes[0, 2:], boxes[1, :2]
        visible = torch.randint(0, 3, (4, JOINTS)).float()
        visible[0, 0] = visible[1, 1] = 2
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        target = Keypoints(points, visible, torch.ones(4), areas, boxes, torch.zeros(4, dtype=torch.bool))
        found.append(Sample(sample.image, target, sample.id))
    return Batch.collate(found)


def test_joints_equal_those_of_torchvision() -> None:
    theirs, ours = keypoint_pair()
    batch = keypoint_batch()
    with torch.no_grad():
        expected = theirs.eval()([one.image for one in samples_again(batch)])
        output = ours.eval()(batch.image, sizes=batch.sizes)
    for found, theirs_found in zip(decode.keypoints(output), expected, strict=True):
        assert len(found) > 20
        # Rounding may swap detections of equal scores.
        order = torch.cdist(theirs_found["boxes"], found.boxes).argmin(1)
        assert differ(found.boxes, theirs_found["boxes"]) <= 1e-4
        moved = (found.points[order] - theirs_found["keypoints"][..., :2]).norm(dim=-1) > 1e-2
        assert moved.float().mean() < 0.01
        assert found.points.std() > 5
        assert ((found.visible > 0) & (found.visible <= 1)).all()


def test_the_loss_of_the_joints_equals_that_of_torchvision() -> None:
    theirs, ours = keypoint_pair()
    batch = keypoint_batch()
    targets = [
        {
            "boxes": one.boxes,
            "labels": torch.ones(len(one), dtype=torch.int64),
            "keypoints": torch.cat([one.points, one.visible[..., None]], -1),
        }
        for one in batch.annotations
    ]
    theirs.rpn.register_forward_pre_hook(lambda _module, _given: torch.manual_seed(3) and None)
    expected = theirs.train()([one.image for one in samples_again(batch)], targets)
    torch.manual_seed(3)
    found = loss_parts(ours.train()(*ours.inputs(batch)), batch)
    assert set(found) == {*LOSSES.values(), "keypoint"}
    for name, value in expected.items():
        assert value > 1e-3
        assert abs(found[LOSSES.get(name, "keypoint")] - value) <= 1e-4 * max(1, value), name


# --- whole networks -------------------------------------------------------------------------------

CONVERTERS = {
    "fasterrcnn_resnet50_fpn": from_torchvision_faster_rcnn,
    "fasterrcnn_resnet50_fpn_v2": from_torchvision_faster_rcnn,
    "keypointrcnn_resnet50_fpn": from_torchvision_keypoint_rcnn,
    "maskrcnn_resnet50_fpn": from_torchvision_mask_rcnn,
    "maskrcnn_resnet50_fpn_v2": from_torchvision_mask_rcnn,
}


def whole(name: str) -> nn.Module:
    classes = 2 if name.startswith("keypoint") else CLASSES + 1
    return getattr(detection, name)(
        weights=None, weights_backbone=None, num_classes=classes, min_size=160, max_size=240
    )


def of_2019(key: str) -> str:
    """torchvision's names in the files of its first release."""
    key = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2.", key)
    key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    return re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", key)


@pytest.mark.parametrize(
    "name",
    [
        "fasterrcnn_resnet50_fpn_v2",
        "keypointrcnn_resnet50_fpn",
        "maskrcnn_resnet50_fpn",
        pytest.param("fasterrcnn_resnet50_fpn", marks=pytest.mark.slow),
        pytest.param("maskrcnn_resnet50_fpn_v2", marks=pytest.mark.slow),
    ],
)
def test_every_weight_of_torchvision_finds_its_place(name: str) -> None:
    with torch.device("meta"):
        weights = whole(name).state_dict()
        model = CONVERTERS[name](weights)
        if not name.endswith("v2"):
            old = {of_2019(key): x for key, x in weights.items()}
            assert old.keys() != weights.keys()
            assert CONVERTERS[name](old).state_dict().keys() == model.state_dict().keys()
        again = build(model.built_by.builder, **model.built_by.arguments)
    assert model.num_classes == (None if name.startswith("keypoint") else CLASSES)
    assert again.state_dict().keys() == model.state_dict().keys()
    other = from_torchvision_mask_rcnn if name.startswith("faster") else from_torchvision_faster_rcnn
    with pytest.raises(ValueError, match="state_dict is not that of a"):
        other(weights)


def test_frozen_norms_are_folded() -> None:
    frozen = FrozenBatchNorm2d(4, eps=0.0)
    stirred = {"weight": torch.rand(4) + 0.5, "bias": torch.rand(4), "running_mean": torch.rand(4)}
    frozen.load_state_dict({**stirred, "running_var": torch.tensor([1e-6, 1e-4, 0.1, 2.0])})
    ours = nn.BatchNorm2d(4).eval()
    ours.load_state_dict(fold_frozen_norms(frozen.state_dict(), 0.0))
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(ours(x), frozen(x), atol=1e-4, rtol=1e-5)
    learned = nn.BatchNorm2d(4).state_dict()
    assert all(torch.equal(x, learned[key]) for key, x in fold_frozen_norms(learned, 0.0).items())


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVERTERS)
def test_whole_networks_detect_the_same(name: str) -> None:
    theirs = whole(name)
    stir(theirs)
    for lateral in theirs.backbone.fpn.inner_blocks:
        lateral[0].weight.data.mul_(0.01)  # random ones give features, and so boxes, that are far too large
    proposed = watched(theirs.eval())
    ours = CONVERTERS[name](theirs.state_dict())
    inner = getattr(ours, "detector", ours)
    inner.min_size, inner.max_size = 160, 240
    for size in [(97, 131), (200, 90)]:
        image = torch.rand(3, *size)
        with torch.no_grad():
            (expected,), output = theirs([image]), ours(image[None])
        regions = output if inner is ours else output.regions
        assert differ(regions.regions.boxes, proposed[-1][0]) <= 1e-4
        (found,) = decode.boxes(output)
        assert len(found) > 20
        assert differ(rows(found), rows_of(expected)) <= 1e-4
        torch.testing.assert_close(found.scores, expected["scores"], atol=1e-4, rtol=0)
