"""Mask R-CNN and Panoptic FPN as the library Detectron2 has them, for those who have its weights.

They are `mask_rcnn` and `panoptic_fpn` with other habits: the ResNets of the papers' authors, which stride in
the first convolution of a block and have seen colours from 0 to 255 less a mean; RoIAlign with shifted
corners and about one sample per pixel; anchors whose sides are not rounded. Names of weights and the order of
classes differ too: background is the last class there.

Departures: colours are red, green, blue (the first filters are turned around); masks are drawn into the image
as for torchvision's weights, by whole pixels.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from ..encoders import fold_frozen_norms, stride_in_first
from ..types import BuiltBy, Model, Paper
from .faster_rcnn import FasterRCNN
from .mask_rcnn import MaskRCNN, mask_rcnn
from .panoptic_fpn import PanopticFPN, panoptic_fpn

PAPER = Paper(
    "Detectron2",
    "Wu, Kirillov, Massa, Lo, Girshick",
    "GitHub",
    2019,
    "https://github.com/facebookresearch/detectron2",
)

MEAN = (123.675, 116.28, 103.53)  # red, green, blue, from 0 to 255
Depth = Literal[50, 101]
M = TypeVar("M", bound=Model)


def detectron2_mask_rcnn(
    num_classes: int, *, depth: Depth = 50, min_size: int | None = 800, max_size: int = 1333
) -> MaskRCNN:
    """Detectron2's Mask R-CNN on ResNet-50 or ResNet-101 with a feature pyramid.

    Args:
        num_classes: number of classes k of objects, background not among them.
        depth: of the ResNet.
        min_size: see `FasterRCNN`.
        max_size: see `FasterRCNN`.
    """
    model = mask_rcnn(num_classes, encoder=f"resnet{depth}", min_size=min_size, max_size=max_size)
    _take_habits(model)
    return model


def detectron2_panoptic_fpn(
    num_classes: int,
    *,
    things: Sequence[int] = (),
    depth: Depth = 50,
    min_size: int | None = 800,
    max_size: int = 1333,
) -> PanopticFPN:
    """Detectron2's Panoptic FPN on ResNet-50 or ResNet-101.

    Args:
        num_classes: number of all classes, things and stuff.
        things: labels of the things; all classes without it.
        depth: of the ResNet.
        min_size: see `FasterRCNN`.
        max_size: see `FasterRCNN`.
    """
    encoder = f"resnet{depth}"
    model = panoptic_fpn(num_classes, things=things, encoder=encoder, min_size=min_size, max_size=max_size)
    _take_habits(model.instances)
    return model


def _take_habits(model: MaskRCNN) -> None:
    """Change what differs from torchvision, in place."""
    detector: FasterRCNN = model.detector
    stride_in_first(detector.encoder)
    normalize = detector.encoder.normalize
    normalize.mean.copy_(torch.tensor(MEAN).view(1, 3, 1, 1) / 255)
    normalize.std.fill_(1 / 255)
    detector.make_anchors = partial(detector.make_anchors, rounded=False)
    for pooling in (detector.pooling, model.pooling):
        pooling.aligned, pooling.samples = True, 0


# --- weights --------------------------------------------------------------------------------------


def from_detectron2_mask_rcnn(state_dict: Mapping[str, Tensor]) -> MaskRCNN:
    """Weights of Detectron2's `mask_rcnn_R_50_FPN` or `..._R_101_FPN` in our model, in eval mode.

    Args:
        state_dict: what is called "model" in its files, as tensors.

    Raises:
        ValueError: if it is none of these.
    """
    weights = rename_detectron2(state_dict)
    arguments: dict[str, Any] = {"num_classes": _num_objects(weights), "depth": _depth(weights)}
    return _loaded(detectron2_mask_rcnn, arguments, weights)


def from_detectron2_panoptic_fpn(
    state_dict: Mapping[str, Tensor], things: Sequence[int] | None = None
) -> PanopticFPN:
    """Weights of Detectron2's `panoptic_fpn_R_50` or `..._R_101` in our model, in eval mode.

    Args:
        state_dict: what is called "model" in its files, as tensors.
        things: labels of the things among all classes; the first ones without it.

    Raises:
        ValueError: if it is none of these, or there are not as many things.
    """
    weights = {
        key if key.startswith("semantic.") else f"instances.{key}": x
        for key, x in rename_detectron2(state_dict).items()
    }
    objects = _num_objects(weights)
    if "semantic.head.bias" not in weights:
        raise ValueError("state_dict is not that of Detectron2's Panoptic FPN: it has no semantic branch")
    chosen = range(objects) if things is None else things
    if len(chosen) != objects:
        raise ValueError(f"the network knows {objects} things, got {len(chosen)} labels of things")
    count = objects + len(weights["semantic.head.bias"]) - 1
    arguments = {"num_classes": count, "things": list(chosen), "depth": _depth(weights)}
    return _loaded(detectron2_panoptic_fpn, arguments, weights)


def _loaded(builder: Callable[..., M], arguments: dict[str, Any], weights: Mapping[str, Tensor]) -> M:
    model = builder(**arguments)
    own = {key: x for key, x in model.state_dict().items() if "encoder.normalize." in key}
    try:
        model.load_state_dict({**weights, **own})
    except RuntimeError as error:
        raise ValueError(f"state_dict is not that of a {PAPER.title} network: {error}") from error
    model.built_by = BuiltBy(builder.__name__, arguments)
    return model.eval()


def _num_objects(weights: Mapping[str, Tensor]) -> int:
    for prefix in ("", "instances."):
        if (key := f"{prefix}detector.head.classes.bias") in weights:
            return len(weights[key]) - 1
    raise ValueError("state_dict is not that of a network with a box head from Detectron2")


def _depth(weights: Mapping[str, Tensor]) -> int:
    return 101 if any(".body.layer3.22." in key for key in weights) else 50


# Detectron2's names on the left. Its levels have the numbers of their strides, P2 is the first. Between the
# convolutions of the semantic branch lie upsamplings, which count.
_BODY = r"backbone\.bottom_up\.res(\d)\.(\d+)\."
_RENAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"backbone\.bottom_up\.stem\.conv1\.norm\.", "detector.encoder.body.bn1."),
    (r"backbone\.bottom_up\.stem\.conv1\.", "detector.encoder.body.conv1."),
    (_BODY + r"shortcut\.norm\.", lambda found: f"{_block(found)}.downsample.1."),
    (_BODY + r"shortcut\.", lambda found: f"{_block(found)}.downsample.0."),
    (_BODY + r"conv(\d)\.norm\.", lambda found: f"{_block(found)}.bn{found[3]}."),
    (_BODY + r"conv(\d)\.", lambda found: f"{_block(found)}.conv{found[3]}."),
    (r"backbone\.fpn_lateral(\d)\.", lambda found: f"detector.pyramid.lateral.{int(found[1]) - 2}."),
    (r"backbone\.fpn_output(\d)\.", lambda found: f"detector.pyramid.out.{int(found[1]) - 2}."),
    (r"proposal_generator\.rpn_head\.conv\.", "detector.proposals.convolutions.0.0."),
    (r"proposal_generator\.rpn_head\.objectness_logits\.", "detector.proposals.objectness."),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.", "detector.proposals.deltas."),
    (r"roi_heads\.box_head\.fc1\.", "detector.head.features.1."),
    (r"roi_heads\.box_head\.fc2\.", "detector.head.features.3."),
    (r"roi_heads\.box_predictor\.cls_score\.", "detector.head.classes."),
    (r"roi_heads\.box_predictor\.bbox_pred\.", "detector.head.boxes."),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.", lambda found: f"mask_head.convolutions.{int(found[1]) - 1}.0."),
    (r"roi_heads\.mask_head\.deconv\.", "mask_head.upsample."),
    (r"roi_heads\.mask_head\.predictor\.", "mask_head.logits."),
    (r"sem_seg_head\.p(\d)\.(\d)\.norm\.", lambda found: f"{_step(found)}.1."),
    (r"sem_seg_head\.p(\d)\.(\d)\.", lambda found: f"{_step(found)}.0."),
    (r"sem_seg_head\.predictor\.", "semantic.head."),
)
_IGNORED = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.")


def _block(found: re.Match[str]) -> str:
    return f"detector.encoder.body.layer{int(found[1]) - 1}.{found[2]}"


def _step(found: re.Match[str]) -> str:
    return f"semantic.levels.{int(found[1]) - 2}.convolutions.{int(found[2]) // 2}"


def rename_detectron2(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names, with background first and colours red, green, blue."""
    weights = {}
    for key, tensor in state_dict.items():
        if not key.startswith(_IGNORED):
            for theirs, ours in _RENAMES:
                key = re.sub(f"^{theirs}", ours, key)
            weights[key] = _rearranged(key, tensor)
    return fold_frozen_norms(weights, 1e-5)


def _rearranged(key: str, tensor: Tensor) -> Tensor:
    """One tensor: background in front, colours turned around."""
    if key == "detector.encoder.body.conv1.weight":
        return tensor.flip(1)
    if key.startswith("detector.head.classes."):
        return tensor.roll(1, 0)
    rows = {"detector.head.boxes.": 4, "mask_head.logits.": 1}  # of a class
    for prefix, count in rows.items():
        if key.startswith(prefix):
            return torch.cat([tensor.new_zeros(count, *tensor.shape[1:]), tensor])
    return tensor
