"""torchvision's RetinaNets with random weights find and lose the same here."""

import re
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.retinanet import RetinaNetHead, _default_anchorgen
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from pixelwise import build, decode
from pixelwise.encoders import Tiny
from pixelwise.losses import loss_parts
from pixelwise.models import from_torchvision_retinanet
from pixelwise.models.retinanet import STAGES, RetinaNet, rename_retinanet
from pixelwise.types import Batch, Boxes, Sample

WIDTH, CLASSES = 32, 5
SIZES = [(65, 97), (120, 88)]
VERSIONS = pytest.mark.parametrize("improved", [False, True], ids=["v1", "v2"])


class TinyBackbone(nn.Module):
    """The tiny encoder and a feature pyramid, under torchvision's names."""

    out_channels = WIDTH

    def __init__(self, improved: bool) -> None:
        super().__init__()
        encoder = Tiny(stages=STAGES)
        self.body = encoder.body
        last = LastLevelP6P7(encoder.channels.c5 if improved else WIDTH, WIDTH)
        self.fpn = FeaturePyramidNetwork(list(encoder.channels[2:]), WIDTH, last)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {}
        for stage, convolution in self.body.items():
            x = convolution(x)
            if stage in STAGES:
                maps[stage] = x
        return self.fpn(maps)


def stir(model: nn.Module) -> None:
    """Draw what starts at zero or nearly so, and the norms; the heads are sure."""
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.2)
            nn.init.uniform_(module.bias, -0.2, 0.2)
        elif name.startswith("head") and isinstance(module, nn.Conv2d):
            gain = 4.0 if "logits" in name else 1.4
            nn.init.normal_(module.weight, std=gain / module.weight[0].numel() ** 0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, -2.0 if "logits" in name else 0.0, 0.1)


def pair(improved: bool) -> tuple[nn.Module, RetinaNet]:
    anchors = _default_anchorgen()
    norm = partial(nn.GroupNorm, 32) if improved else None
    head = RetinaNetHead(WIDTH, 9, CLASSES, norm_layer=norm)
    theirs = detection.RetinaNet(
        TinyBackbone(improved),
        CLASSES,
        min_size=80,
        max_size=150,
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
        anchor_generator=anchors,
        head=head,
        score_thresh=0.2,
    )
    if improved:
        head.regression_head._loss_type = "giou"
    stir(theirs)
    tiny = Tiny(stages=STAGES)
    ours = RetinaNet(tiny, CLASSES, width=WIDTH, improved=improved, min_size=80, max_size=150)
    ours.score_threshold = 0.2
    own = {key: x for key, x in ours.state_dict().items() if "normalize" in key}
    ours.load_state_dict(rename_retinanet(theirs.state_dict(), 1e-5) | own)
    return theirs, ours


def samples() -> list[Sample]:
    """Two images of different sizes; the last has an object, and one that no anchor overlaps much."""
    found = []
    for i, (height, width) in enumerate(SIZES):
        corner = torch.rand(4, 2) * torch.tensor([width - 50.0, height - 50.0])
        boxes = torch.cat([corner, corner + 8 + 40 * torch.rand(4, 2)], 1)
        found.append(
            Sample(torch.rand(3, height, width), Boxes.of(boxes, torch.randint(0, CLASSES, (4,))), str(i))
        )
    return found


def differ(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    distance = torch.cdist(ours.double(), theirs.double(), p=float("inf"))
    return max(distance.amin(0).max().item(), distance.amin(1).max().item())


@VERSIONS
def test_detections_equal_those_of_torchvision(improved: bool) -> None:
    theirs, ours = pair(improved)
    given = samples()
    batch = Batch.collate(given)
    with torch.no_grad():
        expected = theirs.eval()([one.image for one in given])
        found = decode.boxes(ours.eval()(batch.image, sizes=batch.sizes))
    for own, wanted in zip(found, expected, strict=True):
        assert len(own) > 20
        rows = torch.cat([own.boxes, own.scores[:, None], own.classes[:, None]], 1)
        theirs_rows = torch.cat([wanted["boxes"], wanted["scores"][:, None], wanted["labels"][:, None]], 1)
        assert differ(rows, theirs_rows) <= 1e-3
        torch.testing.assert_close(own.scores, wanted["scores"], atol=1e-4, rtol=0)


@VERSIONS
def test_each_loss_equals_that_of_torchvision(improved: bool) -> None:
    theirs, ours = pair(improved)
    given = samples()
    batch = Batch.collate(given)
    targets = [{"boxes": one.target.boxes, "labels": one.target.classes} for one in given]
    expected = theirs.train()([one.image for one in given], targets)
    found = loss_parts(ours.train()(*ours.inputs(batch)), batch)
    for ours_name, name in (("class", "classification"), ("box", "bbox_regression")):
        assert expected[name] > 1e-2
        torch.testing.assert_close(found[ours_name], expected[name], atol=1e-4, rtol=1e-4)


def of_2019(key: str) -> str:
    """torchvision's names in the files of its first release."""
    key = re.sub(r"(head\.\w+\.conv)\.(\d)\.0\.", lambda found: f"{found[1]}.{2 * int(found[2])}.", key)
    return re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2.", key)


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"])
def test_every_weight_of_torchvision_finds_its_place(name: str) -> None:
    with torch.device("meta"):
        weights = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=91).state_dict()
        model = from_torchvision_retinanet(weights)
        if not name.endswith("v2"):
            old = {of_2019(key): x for key, x in weights.items()}
            assert old.keys() != weights.keys()
            assert from_torchvision_retinanet(old).state_dict().keys() == model.state_dict().keys()
        again = build(model.built_by.builder, **model.built_by.arguments)
    assert (model.num_classes, model.built_by.builder) == (90, name)
    assert again.state_dict().keys() == model.state_dict().keys()
    with pytest.raises(ValueError, match="state_dict is not that of a RetinaNet"):
        from_torchvision_retinanet({"head.weight": torch.zeros(1)})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"])
def test_whole_networks_detect_the_same_and_background_is_left_out(name: str) -> None:
    theirs = getattr(detection, name)(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, min_size=160, max_size=240
    )
    stir(theirs)
    for lateral in theirs.backbone.fpn.inner_blocks:
        lateral[0].weight.data.mul_(0.01)
    head = theirs.head.classification_head.cls_logits
    head.bias.data.view(9, -1)[:, 0] = -30.0  # torchvision's networks never name the background
    head.weight.data.unflatten(0, (9, -1))[:, 0] = 0.0
    ours = from_torchvision_retinanet(theirs.state_dict())
    ours.min_size, ours.max_size = 160, 240
    image = torch.rand(3, 97, 131)
    with torch.no_grad():
        (expected,), (found,) = theirs.eval()([image]), decode.boxes(ours(image[None]))
    assert len(found) > 20
    torch.testing.assert_close(found.scores, expected["scores"], atol=1e-4, rtol=0)
    assert differ(found.boxes, expected["boxes"]) <= 1e-3
