"""From what the network says to boxes and masks."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ... import decode
from ...ops import clip_boxes, decode_boxes, fast_nms, rescale_boxes
from ...ops.objects import rescaled
from ...rle import resize_masks
from ...types import Boxes, MaskSet
from ..fcos import extent_of
from .network import BOX_UNITS, PrototypeLogits

MIN_SCORE, MAX_IOU, PER_CLASS, MOST = 0.05, 0.5, 200, 100
INSIDE = 0.5


def assembled(
    prototypes: Float[Tensor, "p h w"], coefficients: Float[Tensor, "n p"]
) -> Float[Tensor, "n h w"]:
    """Scores of masks: the prototypes, added with the factors of each (Eq. 1 before its sigmoid)."""
    return (coefficients @ prototypes.flatten(1)).unflatten(1, prototypes.shape[1:])


def candidates(
    class_logits: Float[Tensor, "n k1"],
) -> tuple[Int64[Tensor, " m"], Int64[Tensor, " m"], Float[Tensor, " m"]]:
    """Anchor, class and score of all that is above `MIN_SCORE`, best first."""
    # No class is more probable than against background alone: few anchors need a softmax.
    rivals = class_logits[:, 1:].amax(1) - class_logits[:, 0]
    near = (rivals > math.log(MIN_SCORE / (1 - MIN_SCORE)) - 1e-3).nonzero()[:, 0]
    scores = class_logits[near].softmax(1)[:, 1:]
    row, label = (scores > MIN_SCORE).nonzero(as_tuple=True)
    score, order = scores[row, label].sort(descending=True, stable=True)
    return near[row[order]], label[order], score


def detect(output: PrototypeLogits, number: int, size: tuple[int, int]) -> tuple[Boxes, Tensor]:
    """The objects of one image as the network sees them, best first, and their factors (Sec. 3.3)."""
    anchor, label, score = candidates(output.class_logits[number].float())
    boxes = decode_boxes(output.box_deltas[number, anchor].float(), output.anchors[anchor], BOX_UNITS)
    boxes, kept = clip_boxes(boxes, size), []
    for one in label.unique():
        own = (label == one).nonzero()[:PER_CLASS, 0]
        kept.append(own[fast_nms(boxes[own], score[own], threshold=MAX_IOU)])
    best = torch.cat([anchor[:0], *kept]).sort().values[:MOST]
    return Boxes.of(boxes[best], label[best], score[best]), output.coefficients[number, anchor[best]]


@decode.boxes.register
@torch.no_grad()
def detected_boxes(output: PrototypeLogits) -> tuple[Boxes, ...]:
    """The detections in pixels of the image."""
    old, new = output.scales.of(len(output.class_logits))
    each = enumerate(zip(new, old, strict=True))
    return tuple(rescaled(detect(output, number, seen)[0], seen, size) for number, (seen, size) in each)


def drawn_masks(
    output: PrototypeLogits, number: int, objects: Boxes, factors: Float[Tensor, "n p"]
) -> Float[Tensor, "n h w"]:
    """Probabilities of the masks of some objects of one image, 0 outside of their boxes (Eq. 1).

    Only what lies in a box, or at most a cell from it, is computed.
    """
    prototypes = output.prototypes[number].float()
    height, width = prototypes.shape[1:]
    boxes = rescale_boxes(objects.boxes, output.scales.canvas, (height, width))
    low, high = (boxes[:, :2] - 1).ceil().clamp(min=0).long(), (boxes[:, 2:] + 1).ceil().long()
    drawn = prototypes.new_zeros(len(objects), height, width)
    for mask, own, (left, top), (right, bottom) in zip(
        drawn, factors.float(), low.tolist(), high.tolist(), strict=True
    ):
        part = assembled(prototypes[:, top:bottom, left:right], own[None])[0]
        mask[top:bottom, left:right] = part.sigmoid()
    return drawn


@decode.instances.register
@torch.no_grad()
def instances_of(output: PrototypeLogits) -> tuple[MaskSet, ...]:
    """The mask of each detection, cropped to its box; those without a pixel are left out."""
    canvas, found = output.scales.canvas, []
    for number, (old, new) in enumerate(zip(*output.scales.of(len(output.prototypes)), strict=True)):
        objects, factors = detect(output, number, new)
        drawn = drawn_masks(output, number, objects, factors)
        masks = resize_masks(drawn, extent_of(canvas, old, new), *old, INSIDE)
        kept = torch.from_numpy(masks.area > 0).to(objects.classes.device)
        found.append(MaskSet(masks, objects.classes, objects.scores, objects.is_crowd).take(kept))
    return tuple(found)
