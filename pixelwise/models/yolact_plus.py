"""YOLACT++: YOLACT with more anchors and a small network that tells how good a mask is (Sec. 6).

The score of a detection is that of its class, which says little of its mask. Six strided convolutions look at
the mask alone, cropped to its box, and expect its IoU for each class (Sec. 6.1, Fast Mask Re-Scoring); scores
are multiplied with it. Anchors have three sizes per level (Sec. 6.3).

Departures: convolutions of the encoder are not deformable (Sec. 6.2). The small network learns from
detections that overlap an object, instead of from positive anchors, and its convolutions are padded, so any
image size works. Its last layer has no ReLU: a class whose answer was below 0 for all masks would get no
gradient, and its detections would keep a score of 0. Detections are the same with it and without.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .. import decode
from ..encoders import Encoder, StemPolicy, make_encoder
from ..losses import loss_parts
from ..ops import match_boxes
from ..ops.objects import boxes_in, objects_in, rescaled, sides_reach
from ..rle import resize_masks
from ..types import Batch, Boxes, MaskSet, Model, Paper, Value, value
from .fcos import extent_of, masks_at_cells
from .yolact import STAGES, YOLACT, PrototypeLogits, detect, drawn_masks

PAPER = Paper(
    "YOLACT++: Better Real-time Instance Segmentation",
    "Bolya, Zhou, Xiao, Lee",
    "TPAMI",
    2020,
    "https://arxiv.org/abs/1912.06218",
)

GROWTHS = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
WIDTHS = (8, 16, 32, 64, 128)  # channels of the convolutions that look at masks
IOU_WEIGHT, POSITIVE_IOU, INSIDE = 25.0, 0.5, 0.5


@value
class RescoredLogits(Value):
    """What YOLACT says, its detections, and how good their masks should be.

    Attributes:
        prototypes: what YOLACT says.
        objects: detections of each image as the network sees them.
        masks: the probabilities of their masks, without gradient.
        mask_iou: the IoU that is expected of each, were it of each class.
    """

    prototypes: PrototypeLogits
    objects: tuple[Boxes, ...]
    masks: tuple[Float[Tensor, "_ h w"], ...]
    mask_iou: tuple[Float[Tensor, "_ k"], ...]


class MaskScoring(nn.Sequential):
    """Expects the IoU of a mask for each class (Fig. 9); what is below 0 counts as 0 in detections."""

    def __init__(self, num_classes: int) -> None:
        layers: list[nn.Module] = []
        for c_in, c_out in zip((1, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(WIDTHS[-1], num_classes, 1))

    def forward(self, masks: Float[Tensor, "n h w"]) -> Float[Tensor, "n k"]:
        """The largest answer of any place."""
        return super().forward(masks[:, None]).amax((2, 3))


class YOLACTPlus(Model):
    """YOLACT and the network that looks at its masks.

    Args:
        detector: finds objects and draws their masks.
    """

    tasks = ("instance",)
    output = RescoredLogits
    encoder_parts = ("detector.encoder",)

    def __init__(self, detector: YOLACT, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, detector.in_channels
        self.detector, self.scoring = detector, MaskScoring(num_classes)

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Images, and the size of each."""
        return self.detector.inputs(batch)

    def forward(
        self, image: Float[Tensor, "b c H W"], sizes: Sequence[tuple[int, int]] | None = None
    ) -> RescoredLogits:
        """Look for instances; the arguments are those of `YOLACT.forward`."""
        output = self.detector(image, sizes)
        objects, masks = [], []
        with torch.no_grad():
            for number, size in enumerate(output.scales.of(len(image))[1]):
                found, factors = detect(output, number, size)
                objects.append(found)
                masks.append(drawn_masks(output, number, found, factors))
        expected = tuple(self.scoring(one) for one in masks)
        return RescoredLogits(output, tuple(objects), tuple(masks), expected)


# --- loss and decoding ----------------------------------------------------------------------------


@loss_parts.register
def rescored_losses(output: RescoredLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """YOLACT's, and "mask_iou": smooth L1 of the IoU of detections that overlap an object (Sec. 6.1)."""
    parts = loss_parts(output.prototypes, batch)
    scales = output.prototypes.scales
    old, new = scales.of(len(batch.annotations))
    targets = objects_in(boxes_in(batch.annotations, old, new))
    expected, achieved = [], []
    for number, (target, objects) in enumerate(zip(batch.annotations, targets, strict=True)):
        assert isinstance(target, MaskSet)
        boxes = output.objects[number].boxes
        own = match_boxes(boxes, objects.boxes, POSITIVE_IOU, POSITIVE_IOU)
        found = ((own >= 0) & sides_reach(boxes, 1e-3)).nonzero()[:, 0]
        drawn = output.masks[number][found] > INSIDE
        expected.append(output.mask_iou[number][found, objects.classes[own[found]]])
        grid = (output.masks[number].shape[1], output.masks[number].shape[2])
        masks = target.take(own[found].to(target.classes.device))
        truth = masks_at_cells(masks, old[number], new[number], grid, scales.canvas).to(drawn.device)
        shared, either = (x.flatten(1).sum(1) for x in (drawn & truth, drawn | truth))
        achieved.append(shared / either.clamp(min=1))
    told = torch.cat(expected).float()
    error = F.smooth_l1_loss(told, torch.cat(achieved), reduction="sum") / max(len(told), 1)
    nothing = 0.0 * sum((one.sum() for one in output.mask_iou), error.new_zeros(()))
    return parts | {"mask_iou": IOU_WEIGHT * error + nothing}


def _rescored(output: RescoredLogits, number: int) -> tuple[Boxes, Tensor]:
    """The objects of one image, best first by the score with that of the mask, and the order of its masks."""
    one, iou = output.objects[number], output.mask_iou[number].detach()
    scores = one.scores * iou[torch.arange(len(one), device=iou.device), one.classes].clamp(0, 1)
    order = scores.argsort(descending=True, stable=True)
    return Boxes.of(one.boxes, one.classes, scores).take(order), order


@decode.boxes.register
def detected_boxes(output: RescoredLogits) -> tuple[Boxes, ...]:
    """The detections in pixels of the image."""
    sizes = enumerate(zip(*output.prototypes.scales.of(len(output.objects)), strict=True))
    return tuple(rescaled(_rescored(output, number)[0], new, old) for number, (old, new) in sizes)


@decode.instances.register
def instances_of(output: RescoredLogits) -> tuple[MaskSet, ...]:
    """The mask of each detection, cropped to its box; those without a pixel are left out."""
    scales, found = output.prototypes.scales, []
    for number, (old, new) in enumerate(zip(*scales.of(len(output.objects)), strict=True)):
        objects, order = _rescored(output, number)
        drawn = output.masks[number][order]
        masks = resize_masks(drawn, extent_of(scales.canvas, old, new), *old, INSIDE)
        kept = torch.from_numpy(masks.area > 0).to(objects.classes.device)
        found.append(MaskSet(masks, objects.classes, objects.scores, objects.is_crowd).take(kept))
    return tuple(found)


# --- builders -------------------------------------------------------------------------------------


def yolact_plus(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet101",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    size: int | None = 550,
) -> YOLACTPlus:
    """YOLACT++ on any encoder; the arguments are those of `yolact`."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return YOLACTPlus(YOLACT(made, num_classes, width=width, size=size, growths=GROWTHS), num_classes)


def yolact_plus_resnet50(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    size: int | None = 550,
) -> YOLACTPlus:
    """YOLACT++ on ResNet-50."""
    return yolact_plus(
        num_classes,
        encoder="resnet50",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        size=size,
    )
