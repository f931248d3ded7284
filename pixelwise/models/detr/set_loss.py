"""How DETR learns a set (Sec. 3.1), and how its answers become boxes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ... import decode
from ...losses import assign, class_loss, loss_parts, mean_over_processes
from ...ops import generalized_box_iou
from ...types import Annotation, Batch, Boxes, MaskSet
from .network import SetOfBoxes

CLASS_WEIGHT, BOX_WEIGHT, GIOU_WEIGHT, NO_OBJECT = 1.0, 5.0, 2.0, 0.1  # supplement A.4


class Match(NamedTuple):
    """Which query stands for which object of an image."""

    queries: Tensor
    objects: Tensor


@loss_parts.register
def detr_losses(output: SetOfBoxes, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Cross-entropy of classes, L1 and generalised IoU of boxes (Eq. 2), and those of earlier layers."""
    sizes = output.image_sizes
    targets = [objects_of(target, size) for target, size in zip(batch.annotations, sizes, strict=True)]
    return set_losses(output, targets)[0]


def set_losses(
    output: SetOfBoxes, targets: Sequence[Boxes]
) -> tuple[dict[str, Float[Tensor, ""]], list[Match], Float[Tensor, ""]]:
    """The parts of the loss, weights applied, the matching of the last layer, and the number of objects.

    Args:
        output: of training or evaluation.
        targets: of `objects_of`.
    """
    count = mean_over_processes(output.boxes.new_tensor(float(sum(map(len, targets))))).clamp_min(1)
    matches = match_queries(output, targets)
    parts = _layer_losses(output, targets, matches, count)
    if output.aux:
        earlier = [_layer_losses(one, targets, match_queries(one, targets), count) for one in output.aux]
        parts["aux"] = torch.stack([part for one in earlier for part in one.values()]).sum()
    return parts, matches, count


def objects_of(target: Annotation, size: tuple[int, int]) -> Boxes:
    """The objects of an image of that size, boxes as `SetOfBoxes` has them; no crowds, nothing without area.

    Raises:
        ValueError: if the target has no boxes.
    """
    boxes = target.boxes if isinstance(target, MaskSet) else target
    if not isinstance(boxes, Boxes):
        raise ValueError(f"DETR learns from Boxes or a MaskSet, got {type(target).__name__}")
    corners = boxes.boxes.float().to(boxes.classes.device)
    sides = corners[:, 2:] - corners[:, :2]
    kept = ~boxes.is_crowd & (sides > 0).all(1)
    height, width = size
    shares = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, sides], 1)
    shares = shares / shares.new_tensor([width, height, width, height])
    return Boxes(shares, boxes.classes.long(), boxes.scores, boxes.is_crowd).take(kept)


@torch.no_grad()
def match_queries(output: SetOfBoxes, targets: Sequence[Boxes]) -> list[Match]:
    """The cheapest pairs of each image (Eq. 1); the class counts with its probability."""
    matches = []
    for logits, boxes, target in zip(output.class_logits, output.boxes, targets, strict=True):
        probability = logits.float().softmax(-1)[:, target.classes]
        distance = torch.cdist(boxes.float(), target.boxes, p=1)
        overlap = generalized_box_iou(corners_of(boxes.float()), corners_of(target.boxes))
        cost = BOX_WEIGHT * distance - CLASS_WEIGHT * probability - GIOU_WEIGHT * overlap
        matches.append(Match(*assign(cost)))
    return matches


def _layer_losses(
    output: SetOfBoxes, targets: Sequence[Boxes], matches: Sequence[Match], count: Float[Tensor, ""]
) -> dict[str, Float[Tensor, ""]]:
    none = output.class_logits.shape[-1] - 1
    classes = torch.full(output.class_logits.shape[:2], none, device=output.boxes.device)
    found, wanted = [], []
    for image, (target, match) in enumerate(zip(targets, matches, strict=True)):
        classes[image, match.queries] = target.classes[match.objects]
        found.append(output.boxes[image, match.queries].float())
        wanted.append(target.boxes[match.objects])
    boxes, true = torch.cat(found), torch.cat(wanted)
    overlap = generalized_box_iou(corners_of(boxes), corners_of(true)).diagonal()
    return {
        "class": CLASS_WEIGHT * class_loss(output.class_logits, classes, no_object=NO_OBJECT),
        "box": BOX_WEIGHT * (boxes - true).abs().sum() / count,
        "giou": GIOU_WEIGHT * (1 - overlap).sum() / count,
    }


def corners_of(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Centre, width and height as x1 y1 x2 y2."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([center - half, center + half], -1)


@decode.boxes.register
def boxes_of(output: SetOfBoxes) -> tuple[Boxes, ...]:
    """The most probable class of each query and its box in pixels, best first; "no object" is no class."""
    found = []
    each = zip(output.class_logits.detach(), output.boxes.detach(), output.image_sizes, strict=True)
    for logits, boxes, (height, width) in each:
        scores, labels = logits.float().softmax(-1)[:, :-1].max(-1)
        corners = corners_of(boxes.float()) * boxes.new_tensor([width, height, width, height])
        found.append(Boxes.of(corners, labels, scores).take(scores.argsort(descending=True, stable=True)))
    return tuple(found)
