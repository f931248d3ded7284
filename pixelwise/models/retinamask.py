"""RetinaMask: RetinaNet with the mask branch of Mask R-CNN on its final boxes (Fig. 1).

A detector of one stage learns better boxes when it also learns masks, and gives masks where they are asked
for (Sec. 3.1). Boxes are learned with a smooth L1 loss whose corner follows the errors: it is where their
running mean exceeds their running variance (Sec. 3.2, "Self-Adjusting Smooth L1 Loss"). Every object has its
best anchor, however little they overlap (Sec. 3.3).

In training, masks are drawn in the best detections and in the boxes of the objects, as far as they belong to
an object; afterwards in the best detections. Regions are pooled from P3 to P5.

Departures: 50 detections per image in training too; losses of anchors are divided image by image, as in
RetinaNet.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .. import decode
from ..encoders import Encoder, StemPolicy, make_encoder
from ..losses import loss_parts
from ..ops import assigned, boxes_in, encode_boxes, match_boxes, objects_in, sides_reach
from ..types import (
    Annotation,
    AssignedBoxes,
    Batch,
    Boxes,
    MaskSet,
    Model,
    Paper,
    Value,
    value,
)
from .feature_pyramid import RegionPooling
from .mask_rcnn import MaskHead, mask_loss, pasted, with_object
from .retinanet import (
    NEGATIVE_IOU,
    POSITIVE_IOU,
    STAGES,
    AnchorLogits,
    RetinaNet,
    losses_of_anchors,
)

PAPER = Paper(
    "RetinaMask: Learning to predict masks improves state-of-the-art single-shot detection for free",
    "Fu, Shvets, Berg",
    "arXiv",
    2019,
    "https://arxiv.org/abs/1901.03353",
)

LARGEST_CORNER, SMALLEST_CORNER = 0.11, 1e-3
MOMENTUM = 0.9  # of running mean and variance
POOLED = 3  # levels that regions are pooled from


@value
class RetinaMaskLogits(Value):
    """Anchors, and masks within boxes.

    Attributes:
        anchors: what RetinaNet says.
        places: the boxes of all images in which masks were drawn.
        mask_logits: scores of background, which is not used, and of the k classes within these boxes.
        corner: where the loss of each of the four corrections passes from quadratic to linear.
    """

    anchors: AnchorLogits
    places: AssignedBoxes
    mask_logits: Float[Tensor, "m k1 s s"]
    corner: Float[Tensor, "4"]


class SelfAdjustment(nn.Module):
    """Running mean and variance of the absolute errors of the four corrections (Eq. 4 to 6)."""

    mean: Tensor
    variance: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((4,), LARGEST_CORNER))
        self.register_buffer("variance", torch.zeros(4))

    @torch.no_grad()
    def see(self, errors: Float[Tensor, "n 4"]) -> None:
        """Learn from the errors of a batch; fewer than two have no variance and are left out."""
        if len(errors) > 1:
            errors = errors.abs().float()
            self.mean.lerp_(errors.mean(0), 1 - MOMENTUM)
            self.variance.lerp_(errors.var(0), 1 - MOMENTUM)

    def corner(self) -> Float[Tensor, "4"]:
        """Mean less variance, within bounds."""
        return (self.mean - self.variance).clamp(SMALLEST_CORNER, LARGEST_CORNER)


class RetinaMask(Model):
    """RetinaNet and the mask head.

    Args:
        detector: finds boxes.
        mask_head: draws in them.

    Attributes:
        positive_iou: from it on, masks are learned in a detection.
    """

    tasks = ("instance",)
    output = RetinaMaskLogits
    encoder_parts = ("detector.encoder",)

    def __init__(self, detector: RetinaNet, mask_head: MaskHead) -> None:
        super().__init__()
        self.num_classes, self.in_channels = detector.num_classes, detector.in_channels
        self.positive_iou = 0.5
        self.detector, self.mask_head = detector, mask_head
        self.pooling = RegionPooling(MaskHead.SIZE, finest=3)
        self.adjustment = SelfAdjustment()

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Images, targets, and the size of each image."""
        return self.detector.inputs(batch)

    def forward(
        self,
        image: Float[Tensor, "b c H W"],
        targets: Sequence[Annotation] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> RetinaMaskLogits:
        """Look for instances; the arguments are those of `FasterRCNN.forward`, the targets `MaskSet`s."""
        seen = self.detector.prepare(image, sizes)
        levels, anchors = self.detector.look(seen, detect=True)
        if self.training:
            objects = objects_in(boxes_in(targets, seen.image_sizes, seen.seen_sizes))
            self.adjustment.see(errors_of_boxes(anchors, objects))
            places = self.learned(anchors.detections, objects)
        else:
            found = [one.boxes for one in anchors.detections]
            places = assigned(found, [torch.full_like(one[:, 0], -1).long() for one in found])
        drawn = self.mask_head(self.pooling(levels[:POOLED], places))
        return RetinaMaskLogits(anchors, places, drawn, self.adjustment.corner())

    @torch.no_grad()
    def learned(self, detections: Sequence[Boxes], objects: Sequence[Boxes]) -> AssignedBoxes:
        """The detections that belong to an object, and the objects' own boxes."""
        boxes, matched = [], []
        for found, own in zip(detections, objects, strict=True):
            regions = torch.cat([found.boxes, own.boxes])
            regions = regions[sides_reach(regions, 1e-2)]
            boxes.append(regions)
            matched.append(match_boxes(regions, own.boxes, self.positive_iou, self.positive_iou))
        return with_object(assigned(boxes, matched))


@torch.no_grad()
def errors_of_boxes(output: AnchorLogits, objects: Sequence[Boxes]) -> Float[Tensor, "n 4"]:
    """The errors of the corrections of all anchors that belong to an object."""
    errors = []
    for deltas, own in zip(output.box_deltas, objects, strict=True):
        matched = match_boxes(output.anchors, own.boxes, NEGATIVE_IOU, POSITIVE_IOU, keep_best=True)
        positive = matched >= 0
        wanted = encode_boxes(own.boxes[matched[positive]], output.anchors[positive])
        errors.append(deltas[positive].float() - wanted)
    return torch.cat(errors)


def smooth_l1_with(
    corner: Float[Tensor, "4"], deltas: Float[Tensor, "n 4"], wanted: Float[Tensor, "n 4"]
) -> Float[Tensor, ""]:
    """The sum over all numbers, quadratic up to the corner of each column (Eq. 3).

    >>> corner = torch.full((4,), 0.5)
    >>> smooth_l1_with(corner, torch.tensor([[0.5, 1.0, 0.0, 0.0]]), torch.zeros(1, 4)).item()
    1.0
    """
    error = (deltas - wanted).abs()
    return torch.where(error < corner, 0.5 * error**2 / corner, error - 0.5 * corner).sum()


# --- loss and decoding ----------------------------------------------------------------------------


@loss_parts.register
def retinamask_losses(output: RetinaMaskLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """RetinaNet's with the adjusted smooth L1, and "mask" of Mask R-CNN (Sec. 3)."""
    parts = losses_of_anchors(output.anchors, batch.annotations, partial(smooth_l1_with, output.corner))
    seen_sizes = output.anchors.seen_sizes
    return parts | {"mask": mask_loss(output.mask_logits, output.places, batch.annotations, seen_sizes)}


@decode.boxes.register
def boxes_of_retinamask(output: RetinaMaskLogits) -> tuple[Boxes, ...]:
    """The detections in pixels of the image."""
    return decode.boxes(output.anchors)


@decode.instances.register
def instances_of_retinamask(output: RetinaMaskLogits) -> tuple[MaskSet, ...]:
    """The mask of the class of each detection, pasted into its box."""
    return pasted(decode.boxes(output), output.mask_logits, output.anchors.image_sizes)


# --- builders -------------------------------------------------------------------------------------


def retinamask(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    min_size: int | None = 800,
    max_size: int = 1333,
) -> RetinaMask:
    """RetinaMask on any encoder; the arguments are those of `faster_rcnn`."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    detector = RetinaNet(made, num_classes, width=width, min_size=min_size, max_size=max_size)
    detector.max_detections = 50
    return RetinaMask(detector, MaskHead(width, num_classes))


def retinamask_resnet50(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> RetinaMask:
    """The paper's RetinaMask on ResNet-50."""
    return retinamask(
        num_classes,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )


def retinamask_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> RetinaMask:
    """The paper's RetinaMask on ResNet-101."""
    return retinamask(
        num_classes,
        encoder="resnet101",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )
