"""What the network learns from its anchors, its masks and its semantic branch."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ...losses import NoLoss, loss_parts
from ...ops import encode_boxes, match_boxes, rescale_boxes
from ...ops.objects import assigned, boxes_in, objects_in, objects_of
from ...types import AssignedBoxes, Batch, Boxes, MaskSet
from ..fcos import masks_at_cells
from .decoding import assembled
from .network import BOX_UNITS, PrototypeLogits

POSITIVE_IOU, NEGATIVE_IOU, CROWD_IOU = 0.5, 0.4, 0.7
NEGATIVES = 3  # hardest ones per positive anchor
MASKS_LEARNED = 100  # per image
BOX_WEIGHT, MASK_WEIGHT = 1.5, 6.125


@loss_parts.register
def prototype_losses(output: PrototypeLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Of classes with the hardest negatives, boxes, masks and the semantic branch (Sec. 3.1, 4, 5).

    Raises:
        ValueError: if targets have no masks.
    """
    for target in batch.annotations:
        if not isinstance(target, MaskSet):
            raise ValueError(f"YOLACT learns from MaskSet, got {type(target).__name__}")
    everything = boxes_in(batch.annotations, *output.scales.of(len(batch.annotations)))
    targets = objects_in(everything)
    numbers = [
        match_boxes(output.anchors, objects.boxes, NEGATIVE_IOU, POSITIVE_IOU, keep_best=True)
        for objects in targets
    ]
    for number, objects in zip(numbers, everything, strict=True):
        number[in_crowds(output.anchors, objects) & (number < 0)] = -2
    chosen = assigned([output.anchors] * len(targets), numbers)
    positive, objects = chosen.target >= 0, objects_of(chosen, targets)
    count = positive.sum().clamp(min=1)
    wanted = encode_boxes(objects.boxes, chosen.boxes[positive], BOX_UNITS)
    deltas = output.box_deltas.flatten(0, 1)[positive].float()
    classes = chosen.target.clamp(max=0)  # -2 undecided, -1 background
    classes[positive] = objects.classes + 1
    return {
        "class": class_loss(output.class_logits.float(), classes.view(len(targets), -1)) / count,
        "box": BOX_WEIGHT * F.smooth_l1_loss(deltas, wanted, reduction="sum") / count,
        "mask": MASK_WEIGHT * mask_loss(output, chosen, targets, batch.annotations) / count,
        "segmentation": semantic_loss(output, batch.annotations),
    }


def in_crowds(anchors: Float[Tensor, "n 4"], objects: Boxes) -> Bool[Tensor, " n"]:
    """Whether most of an anchor lies in one crowd."""
    crowds = objects.boxes[objects.is_crowd]
    corner = torch.maximum(anchors[:, None, :2], crowds[:, :2])
    shared = (torch.minimum(anchors[:, None, 2:], crowds[:, 2:]) - corner).clamp(min=0).prod(-1)
    return (shared > CROWD_IOU * (anchors[:, 2:] - anchors[:, :2]).prod(1)[:, None]).any(1)


def class_loss(logits: Float[Tensor, "b n k1"], wanted: Int64[Tensor, "b n"]) -> Float[Tensor, ""]:
    """Sum of the cross-entropy over positive anchors and thrice as many of the hardest negatives.

    Args:
        logits: of background, first, and of the classes.
        wanted: class + 1 of each anchor; -1 where it is background, -2 where nobody knows.
    """
    entropy = F.cross_entropy(logits.flatten(0, 1), wanted.flatten().clamp(min=0), reduction="none")
    entropy, positive = entropy.view_as(wanted), wanted > 0
    hardness = entropy.detach().masked_fill(wanted != -1, -torch.inf)
    rank = hardness.argsort(1, descending=True).argsort(1)
    hard = (rank < NEGATIVES * positive.sum(1, keepdim=True)) & (wanted == -1)
    return entropy[positive | hard].sum()


def mask_loss(
    output: PrototypeLogits, chosen: AssignedBoxes, targets: Sequence[Boxes], instances: Sequence[Any]
) -> Float[Tensor, ""]:
    """Sum of the mean binary cross-entropy in the true box over positive anchors (Sec. 3.1, Eq. 1)."""
    height, width = output.prototypes.shape[-2:]
    old, new = output.scales.of(len(targets))
    total = 0.0 * (output.prototypes.sum() + output.coefficients.sum())
    for number, objects in enumerate(targets):
        own = chosen.target[chosen.image == number]
        anchor = (own >= 0).nonzero()[:, 0]
        picked = anchor[torch.randperm(len(anchor), device=anchor.device)[:MASKS_LEARNED]]
        if not len(picked):
            continue
        drawn = assembled(output.prototypes[number].float(), output.coefficients[number, picked].float())
        used, place = own[picked].unique(return_inverse=True)
        masks = instances[number].take(used.to(instances[number].classes.device))
        canvas = output.scales.canvas
        wanted = masks_at_cells(masks, old[number], new[number], (height, width), canvas)
        boxes = rescale_boxes(objects.boxes[used], canvas, (height, width))
        inside = in_boxes(boxes, height, width, margin=1)[place]
        truth = wanted.to(drawn.device)[place].float()
        entropy = (F.binary_cross_entropy_with_logits(drawn, truth, reduction="none") * inside).sum((1, 2))
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)[place]
        total = total + (entropy / area).sum() * (len(anchor) / len(picked))
    return total


def in_boxes(boxes: Float[Tensor, "n 4"], height: int, width: int, *, margin: float) -> Bool[Tensor, "n h w"]:
    """Whether the cells of a map lie in boxes; `boxes` and `margin` are in cells."""
    low, high = boxes[:, :2] - margin, boxes[:, 2:] + margin
    x, y = torch.arange(width, device=boxes.device), torch.arange(height, device=boxes.device)
    along = (x >= low[:, :1]) & (x < high[:, :1])
    down = (y >= low[:, 1:]) & (y < high[:, 1:])
    return down[:, :, None] & along[:, None]


def semantic_loss(output: PrototypeLogits, instances: Sequence[Any]) -> Float[Tensor, ""]:
    """Mean over images and cells of the binary cross-entropy of which classes are there (Sec. 5)."""
    scores = output.semantic
    if scores is None:
        raise NoLoss
    old, new = output.scales.of(len(instances))
    wanted = torch.zeros_like(scores)
    grid = (scores.shape[2], scores.shape[3])
    for number, one in enumerate(instances):
        masks = masks_at_cells(one, old[number], new[number], grid, output.scales.canvas)
        for label in one.classes.unique().tolist():
            wanted[number, label] = masks[one.classes == label].any(0)
    return F.binary_cross_entropy_with_logits(scores.float(), wanted.float(), reduction="sum") / (
        len(scores) * grid[0] * grid[1]
    )
