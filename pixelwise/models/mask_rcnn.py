"""Mask R-CNN: Faster R-CNN with a branch that draws a mask within each box (Fig. 1).

The branch is a small fully convolutional network on features of each region, taken with RoIAlign instead of
rounded bins (Sec. 3). It draws one mask per class; which of them counts says the box head, so that classes do
not compete for pixels. In training masks are drawn in regions that belong to objects, afterwards only in the
final boxes (Sec. 3.1, "Inference").

`mask_rcnn_resnet50_fpn` and `..._v2` are the networks that torchvision has weights for; `mask_rcnn` takes any
encoder. See `faster_rcnn.py` for what is decided there: sizes of images, numbers of classes.

Departures: the mask that a region is to learn is that of its object, resized and pooled as torchvision does.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .. import decode
from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import ConvNormAct, FittedImages
from ..losses import loss_parts
from ..rle import paste_masks
from ..types import (
    Annotation,
    AssignedBoxes,
    Batch,
    Boxes,
    BuiltBy,
    MaskSet,
    Model,
    Paper,
    RegionLogits,
    Value,
    value,
)
from .faster_rcnn import STAGES, FasterRCNN, assemble, detection_losses, rename_torchvision
from .feature_pyramid import RegionPooling

PAPER = Paper(
    "Mask R-CNN", "He, Gkioxari, Dollár, Girshick", "ICCV", 2017, "https://arxiv.org/abs/1703.06870"
)

INSIDE = 0.5  # a pixel whose probability is above it belongs to the instance


@value
class MaskRegionLogits(Value):
    """Regions with masks within boxes.

    Attributes:
        regions: what Faster R-CNN says.
        mask_logits: scores of background, which is not used, and of the k classes within boxes of all images:
            in training of the regions that belong to objects, in evaluation of the detections.
    """

    regions: RegionLogits
    mask_logits: Float[Tensor, "m k1 s s"]


class MaskHead(nn.Module):
    """Draws a mask per class in each region (Fig. 4, right).

    Args:
        width: channels of the levels, and of the head.
        num_classes: number of classes k of objects.
        norm: whether batch norms follow the convolutions (torchvision's v2).
    """

    SIZE = 14

    def __init__(self, width: int, num_classes: int, *, norm: bool = False) -> None:
        super().__init__()
        convolutions = (
            ConvNormAct(width, width)
            if norm
            else nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
            for _ in range(4)
        )
        self.convolutions = nn.Sequential(*convolutions)
        self.upsample = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.logits = nn.Conv2d(width, num_classes + 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "m c 14 14"]) -> Float[Tensor, "m k1 28 28"]:
        """Scores within the boxes."""
        scores: Tensor = self.logits(F.relu(self.upsample(self.convolutions(x))))
        return scores


class MaskRCNN(Model):
    """Faster R-CNN and the mask head.

    Args:
        detector: finds boxes.
        mask_head: draws in them.
    """

    tasks = ("instance",)
    output = MaskRegionLogits
    encoder_parts = ("detector.encoder",)

    def __init__(self, detector: FasterRCNN, mask_head: MaskHead) -> None:
        super().__init__()
        self.num_classes, self.in_channels = detector.num_classes, detector.in_channels
        self.detector, self.mask_head = detector, mask_head
        self.pooling = RegionPooling(MaskHead.SIZE)

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Images, targets, and the size of each image."""
        return self.detector.inputs(batch)

    def forward(
        self,
        image: Float[Tensor, "b c H W"],
        targets: Sequence[Annotation] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> MaskRegionLogits:
        """Look for instances; the arguments are those of `FasterRCNN.forward`, the targets `MaskSet`s."""
        return self.look(self.detector.prepare(image, sizes), targets)[1]

    def look(
        self, seen: FittedImages, targets: Sequence[Annotation] | None = None
    ) -> tuple[list[Tensor], MaskRegionLogits]:
        """The levels P2 to P5 of the pyramid, for further heads, and what was found in them."""
        levels, regions = self.detector.look(seen, targets)
        places = with_object(regions.regions) if self.training else final_places(regions)
        return levels, MaskRegionLogits(regions, self.mask_head(self.pooling(levels, places)))


def with_object(regions: AssignedBoxes) -> AssignedBoxes:
    """The regions that belong to an object."""
    positive = regions.target >= 0
    return AssignedBoxes(regions.boxes[positive], regions.image[positive], regions.target[positive])


def final_places(output: RegionLogits) -> AssignedBoxes:
    """The boxes of the detections of all images."""
    boxes = torch.cat([one.boxes for one in output.detections])
    counts = torch.tensor([len(one) for one in output.detections], device=boxes.device)
    image = torch.arange(len(counts), device=boxes.device).repeat_interleave(counts)
    return AssignedBoxes(boxes, image, torch.full_like(image, -1))


# --- loss and decoding ----------------------------------------------------------------------------


@loss_parts.register
def mask_region_losses(output: MaskRegionLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Faster R-CNN's, and "mask" (Sec. 3)."""
    return instance_losses(output, batch.annotations)


def instance_losses(
    output: MaskRegionLogits, annotations: Sequence[Annotation]
) -> dict[str, Float[Tensor, ""]]:
    """The same for annotations that are not those of a batch."""
    parts, regions = detection_losses(output.regions, annotations), output.regions
    places = with_object(regions.regions)
    return parts | {"mask": mask_loss(output.mask_logits, places, annotations, regions.seen_sizes)}


def mask_loss(
    logits: Float[Tensor, "m k1 s s"],
    places: AssignedBoxes,
    annotations: Sequence[Annotation],
    seen_sizes: Sequence[tuple[int, int]],
) -> Float[Tensor, ""]:
    """Mean binary cross-entropy of the mask of the true class, in regions that belong to objects.

    Args:
        logits: of background, which is not used, and of each class.
        places: the regions.
        annotations: of each image.
        seen_sizes: of each image as the network sees it.

    Raises:
        ValueError: if targets have no masks.
    """
    if not len(places):
        return 0.0 * logits.sum()
    wanted, classes = [], []
    for number, (target, size) in enumerate(zip(annotations, seen_sizes, strict=True)):
        if not isinstance(target, MaskSet):
            raise ValueError(f"masks are learned from MaskSet, got {type(target).__name__}")
        here = places.image == number
        wanted.append(masks_in_boxes(target, places.boxes[here], places.target[here], size, logits.shape[-1]))
        classes.append(target.classes[places.target[here]])
    label = torch.cat(classes).to(logits.device).long() + 1
    drawn = logits[torch.arange(len(logits), device=logits.device), label]
    return F.binary_cross_entropy_with_logits(drawn.float(), torch.cat(wanted))


def masks_in_boxes(
    instances: MaskSet, boxes: Float[Tensor, "m 4"], which: Tensor, size: tuple[int, int], side: int
) -> Float[Tensor, "m side side"]:
    """What a region is to draw: the part of its instance in its box.

    Args:
        instances: of one image.
        boxes: as the network sees them.
        which: number of the instance of each box.
        size: height and width of the image as the network sees it.
        side: of the result.
    """
    from torchvision.ops import roi_align

    used, number = which.unique(return_inverse=True)
    masks = instances.take(used.to(instances.classes.device)).dense.to(boxes.device)
    seen = F.interpolate(masks[:, None].to(torch.uint8), size).to(boxes.dtype)
    return roi_align(seen, torch.cat([number[:, None].to(boxes), boxes], 1), side)[:, 0]


@decode.boxes.register
def boxes_of_instances(output: MaskRegionLogits) -> tuple[Boxes, ...]:
    """The detections in pixels of the image."""
    return decode.boxes(output.regions)


@decode.instances.register
def instances_of(output: MaskRegionLogits) -> tuple[MaskSet, ...]:
    """The mask of the class of each detection, pasted into its box."""
    return pasted(decode.boxes(output), output.mask_logits, output.regions.image_sizes)


def pasted(
    detections: Sequence[Boxes],
    mask_logits: Float[Tensor, "m k1 s s"],
    image_sizes: Sequence[tuple[int, int]],
    inside: float = INSIDE,
) -> tuple[MaskSet, ...]:
    """The mask of the class of each detection of all images, in pixels of the image."""
    label = torch.cat([one.classes for one in detections]) + 1
    masks = mask_logits[torch.arange(len(label), device=label.device), label].float().sigmoid()
    parts = masks.split([len(one) for one in detections])
    found = []
    for one, drawn, (height, width) in zip(detections, parts, image_sizes, strict=True):
        masks_found = paste_masks(drawn, one.boxes, height, width, inside)
        found.append(MaskSet(masks_found, one.classes, one.scores, one.is_crowd))
    return tuple(found)


# --- builders -------------------------------------------------------------------------------------


def mask_rcnn(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    min_size: int | None = 800,
    max_size: int = 1333,
) -> MaskRCNN:
    """Mask R-CNN with a feature pyramid on any encoder; the arguments are those of `faster_rcnn`."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    detector = assemble(made, num_classes, width=width, min_size=min_size, max_size=max_size)
    return MaskRCNN(detector, MaskHead(width, num_classes))


def mask_rcnn_resnet50_fpn(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> MaskRCNN:
    """Mask R-CNN on ResNet-50 with a feature pyramid, as torchvision's first version."""
    return mask_rcnn(
        num_classes,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )


def mask_rcnn_resnet101_fpn(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> MaskRCNN:
    """Mask R-CNN on ResNet-101 with a feature pyramid."""
    return mask_rcnn(
        num_classes,
        encoder="resnet101",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )


def mask_rcnn_resnet50_fpn_v2(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> MaskRCNN:
    """Mask R-CNN on ResNet-50 with more convolutions and batch norms, as torchvision's second version."""
    made = make_encoder("resnet50", in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    detector = assemble(made, num_classes, improved=True, min_size=min_size, max_size=max_size)
    return MaskRCNN(detector, MaskHead(256, num_classes, norm=True))


# --- weights of torchvision -------------------------------------------------------------------------


def from_torchvision_mask_rcnn(state_dict: dict[str, Tensor], *, frozen_epsilon: float = 0.0) -> MaskRCNN:
    """Weights of torchvision's `maskrcnn_resnet50_fpn` or `..._v2` in our model, in eval mode.

    Args:
        state_dict: of either, as published or trained further; background is its first class.
        frozen_epsilon: see `from_torchvision_faster_rcnn`.

    Raises:
        ValueError: if it is none of these.
    """
    weights, version = rename_mask_rcnn(state_dict, frozen_epsilon)
    deep = "detector.encoder.body.layer3.22.conv1.weight" in weights
    builder: Callable[..., MaskRCNN] = mask_rcnn_resnet101_fpn if deep else mask_rcnn_resnet50_fpn
    if version == 2:
        builder = mask_rcnn_resnet50_fpn_v2
    try:
        arguments: dict[str, Any] = {"num_classes": len(weights["mask_head.logits.bias"]) - 1}
        model = builder(**arguments)
        own = {key: x for key, x in model.state_dict().items() if "encoder.normalize." in key}
        model.load_state_dict(weights | own)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of a Mask R-CNN from torchvision: {error}") from error
    model.built_by = BuiltBy(builder.__name__, arguments)
    return model.eval()


_RENAMES = (
    (r"roi_heads\.mask_head\.mask_fcn(\d)", lambda found: f"mask_head.convolutions.{int(found[1]) - 1}.0"),
    (r"roi_heads\.mask_head\.", "mask_head.convolutions."),
    (r"roi_heads\.mask_predictor\.conv5_mask\.", "mask_head.upsample."),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.", "mask_head.logits."),
)


def rename_mask_rcnn(state_dict: dict[str, Tensor], frozen_epsilon: float) -> tuple[dict[str, Tensor], int]:
    """Weights under our names, and torchvision's version of the network: 1 or 2."""
    weights, version = rename_torchvision(state_dict, frozen_epsilon)
    renamed = {}
    for key, tensor in weights.items():
        for theirs, ours in _RENAMES:
            key = re.sub(theirs, ours, key)
        renamed[key if key.startswith("mask_head.") else f"detector.{key}"] = tensor
    return renamed, version
