"""Keypoint R-CNN: Mask R-CNN whose branch marks, for each joint of a person, one pixel in the box (Sec. 5).

The branch draws one map per joint. In a map, all pixels compete for the joint (a softmax over the pixels),
so each map is learned as a choice among 56 x 56 places. Persons are the only class of objects. See
`faster_rcnn.py` for what is decided there.

`keypoint_rcnn_resnet50_fpn` is the network that torchvision has weights for; `keypoint_rcnn` takes any
encoder. Departure: the confidence of a joint is its probability among the 56 x 56 places, as in Detectron2;
torchvision gives the score before the softmax.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from .. import decode
from ..encoders import Encoder, StemPolicy, make_encoder
from ..heatmaps import Refine, quarter_offset
from ..layers import enlarge
from ..losses import loss_parts
from ..ops import rescale_boxes
from ..types import (
    Annotation,
    Batch,
    Boxes,
    BuiltBy,
    Keypoints,
    Model,
    Paper,
    RegionLogits,
    Value,
    value,
)
from .faster_rcnn import STAGES, FasterRCNN, assemble, detection_losses, rename_torchvision
from .feature_pyramid import RegionPooling
from .mask_rcnn import final_places, with_object

PAPER = Paper(
    "Mask R-CNN", "He, Gkioxari, Dollár, Girshick", "ICCV", 2017, "https://arxiv.org/abs/1703.06870"
)

COCO_JOINTS = 17


@value
class KeypointRegionLogits(Value):
    """Regions with a map of each joint within boxes.

    Attributes:
        regions: what Faster R-CNN says.
        joint_logits: scores of each joint at each place of a box, in boxes of all images: in training of the
            regions that belong to objects, in evaluation of the detections.
    """

    regions: RegionLogits
    joint_logits: Float[Tensor, "m j s s"]


class KeypointHead(nn.Module):
    """Draws a map per joint in each region (Sec. 5, "Human Keypoint Detection").

    Args:
        c_in: channels of the levels.
        num_joints: number of joints j.
        width: channels of the eight convolutions.
    """

    SIZE = 14

    def __init__(self, c_in: int, num_joints: int, *, width: int = 512) -> None:
        super().__init__()
        channels = [c_in, *[width] * 8]
        layers = (
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(inplace=True)) for a, b in pairwise(channels)
        )
        self.convolutions = nn.Sequential(*layers)
        self.upsample = nn.ConvTranspose2d(width, num_joints, 4, stride=2, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "m c 14 14"]) -> Float[Tensor, "m j 56 56"]:
        """Scores within the boxes."""
        return enlarge(self.upsample(self.convolutions(x)), 2)


class KeypointRCNN(Model):
    """Faster R-CNN and the head of joints.

    Args:
        detector: finds persons.
        keypoint_head: marks their joints.
        num_joints: number of joints j.
    """

    tasks = ("keypoint_detection",)
    output = KeypointRegionLogits
    encoder_parts = ("detector.encoder",)

    def __init__(self, detector: FasterRCNN, keypoint_head: KeypointHead, num_joints: int) -> None:
        super().__init__()
        self.in_channels, self.num_joints = detector.in_channels, num_joints
        self.detector, self.keypoint_head = detector, keypoint_head
        self.pooling = RegionPooling(KeypointHead.SIZE)

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Images, targets, and the size of each image."""
        return self.detector.inputs(batch)

    def forward(
        self,
        image: Float[Tensor, "b c H W"],
        targets: Sequence[Annotation] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> KeypointRegionLogits:
        """Look for persons; the arguments are those of `FasterRCNN.forward`, the targets `Keypoints`."""
        levels, regions = self.detector.look(self.detector.prepare(image, sizes), targets)
        places = with_object(regions.regions) if self.training else final_places(regions)
        return KeypointRegionLogits(regions, self.keypoint_head(self.pooling(levels, places)))


# --- loss and decoding ----------------------------------------------------------------------------


@loss_parts.register
def keypoint_region_losses(output: KeypointRegionLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Faster R-CNN's, and "keypoint": mean cross-entropy of the place of each annotated joint (Sec. 5).

    Raises:
        ValueError: if targets are not key points.
    """
    parts, regions = detection_losses(output.regions, batch.annotations), output.regions
    places, logits = with_object(regions.regions), output.joint_logits
    cells, known = [], []
    zipped = zip(batch.annotations, regions.image_sizes, regions.seen_sizes, strict=True)
    for number, (target, old, new) in enumerate(zipped):
        if not isinstance(target, Keypoints):
            raise ValueError(f"Keypoint R-CNN learns from Keypoints, got {type(target).__name__}")
        here = places.image == number
        which = places.target[here].to(target.points.device)
        points = rescale_boxes(target.points.repeat(1, 1, 2).flatten(0, 1), old, new)[:, :2]
        points = points.view_as(target.points)[which].to(logits.device)
        cell, inside = cells_of(points, places.boxes[here], logits.shape[-1])
        cells.append(cell)
        known.append(inside & (target.visible[which].to(logits.device) > 0))
    learned = torch.cat(known)
    if not learned.any():
        return parts | {"keypoint": 0.0 * logits.sum()}
    entropy = F.cross_entropy(logits.flatten(2)[learned].float(), torch.cat(cells)[learned])
    return parts | {"keypoint": entropy}


def cells_of(
    points: Float[Tensor, "m j 2"], boxes: Float[Tensor, "m 4"], side: int
) -> tuple[Int64[Tensor, "m j"], Bool[Tensor, "m j"]]:
    """The cell of a map of `side` x `side` over its box that each point lies in, and whether it lies in any.

    Args:
        points: x y of each joint.
        boxes: of each object.
        side: of the map.
    """
    corner, opposite = boxes[:, None, :2], boxes[:, None, 2:]
    cell = ((points - corner) * (side / (opposite - corner))).floor().long()
    cell = torch.where(points == opposite, side - 1, cell)
    inside = ((cell >= 0) & (cell < side)).all(-1)
    return (cell[..., 1] * side + cell[..., 0]) * inside, inside


@decode.boxes.register
def boxes_of_persons(output: KeypointRegionLogits) -> tuple[Boxes, ...]:
    """The detections in pixels of the image."""
    return decode.boxes(output.regions)


@decode.keypoints.register
def keypoints_of(output: KeypointRegionLogits, refine: Refine = quarter_offset) -> tuple[Keypoints, ...]:
    """The maximum of each map, resized to whole pixels of its box by cubic interpolation.

    Args:
        output: of evaluation.
        refine: not used; a map that is resized needs none.
    """
    regions, found = output.regions, []
    maps = output.joint_logits.detach().float().split([len(one) for one in regions.detections])
    zipped = zip(regions.detections, decode.boxes(regions), maps, strict=True)
    for image, (seen, boxes, drawn) in enumerate(zipped):
        points, confidence = highest_in_boxes(drawn, seen.boxes)
        old, new = regions.seen_sizes[image], regions.image_sizes[image]
        points = rescale_boxes(points.repeat(1, 1, 2).flatten(0, 1), old, new)[:, :2].view_as(points)
        areas = (boxes.boxes[:, 2:] - boxes.boxes[:, :2]).prod(1)
        found.append(Keypoints(points, confidence, boxes.scores, areas, boxes.boxes, boxes.is_crowd))
    return tuple(found)


def highest_in_boxes(
    maps: Float[Tensor, "m j s s"], boxes: Float[Tensor, "m 4"]
) -> tuple[Float[Tensor, "m j 2"], Float[Tensor, "m j"]]:
    """The place of the maximum of each map in pixels, and its probability among the cells.

    Args:
        maps: scores over each box.
        boxes: of the objects.
    """
    joints = maps.shape[1]
    points, confidence = maps.new_zeros(len(maps), joints, 2), maps.new_zeros(len(maps), joints)
    total = maps.flatten(2).logsumexp(2)
    for i in range(len(maps)):
        corner, sides = boxes[i, :2], (boxes[i, 2:] - boxes[i, :2]).clamp(min=1)
        width, height = (int(side) for side in sides.ceil())
        resized = F.interpolate(maps[i : i + 1], (height, width), mode="bicubic", align_corners=False)
        peak = resized[0].flatten(1).max(1)
        place = torch.stack([peak.indices % width, peak.indices // width], 1) + 0.5
        points[i] = place * sides / sides.ceil() + corner
        confidence[i] = (peak.values - total[i]).exp().clamp(max=1)
    return points, confidence


# --- builders -------------------------------------------------------------------------------------


def keypoint_rcnn(
    num_joints: int = COCO_JOINTS,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    min_size: int | None = 800,
    max_size: int = 1333,
) -> KeypointRCNN:
    """Keypoint R-CNN with a feature pyramid on any encoder.

    Args:
        num_joints: number of joints j.
        encoder: see `faster_rcnn`.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: how pretrained filters take an image that is not RGB, see `TimmEncoder`.
        width: channels of the pyramid; the head has twice as many.
        min_size: see `FasterRCNN`.
        max_size: see `FasterRCNN`.
    """
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    detector = assemble(made, 1, width=width, min_size=min_size, max_size=max_size)
    return KeypointRCNN(detector, KeypointHead(width, num_joints, width=2 * width), num_joints)


def keypoint_rcnn_resnet50_fpn(
    num_joints: int = COCO_JOINTS,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> KeypointRCNN:
    """Keypoint R-CNN on ResNet-50 with a feature pyramid, as torchvision's."""
    return keypoint_rcnn(
        num_joints,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )


# --- weights of torchvision -------------------------------------------------------------------------

_RENAMES = (
    (
        r"roi_heads\.keypoint_head\.(\d+)\.",
        lambda found: f"keypoint_head.convolutions.{int(found[1]) // 2}.0.",
    ),
    (r"roi_heads\.keypoint_predictor\.kps_score_lowres\.", "keypoint_head.upsample."),
)


def from_torchvision_keypoint_rcnn(
    state_dict: dict[str, Tensor], *, frozen_epsilon: float = 0.0
) -> KeypointRCNN:
    """Weights of torchvision's `keypointrcnn_resnet50_fpn` in our model, in eval mode.

    Args:
        state_dict: as published or trained further.
        frozen_epsilon: see `from_torchvision_faster_rcnn`.

    Raises:
        ValueError: if it is none of these.
    """
    weights = rename_keypoint_rcnn(state_dict, frozen_epsilon)
    try:
        arguments: dict[str, Any] = {"num_joints": len(weights["keypoint_head.upsample.bias"])}
        model = keypoint_rcnn_resnet50_fpn(**arguments)
        own = {key: x for key, x in model.state_dict().items() if "encoder.normalize." in key}
        model.load_state_dict(weights | own)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of a Keypoint R-CNN from torchvision: {error}") from error
    model.built_by = BuiltBy("keypoint_rcnn_resnet50_fpn", arguments)
    return model.eval()


def rename_keypoint_rcnn(state_dict: dict[str, Tensor], frozen_epsilon: float) -> dict[str, Tensor]:
    """Weights under our names."""
    renamed = {}
    for key, tensor in rename_torchvision(state_dict, frozen_epsilon)[0].items():
        for theirs, ours in _RENAMES:
            key = re.sub(theirs, ours, key)
        renamed[key if key.startswith("keypoint_head.") else f"detector.{key}"] = tensor
    return renamed
