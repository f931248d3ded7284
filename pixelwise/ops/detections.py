"""From scores and corrections of regions to objects, as R-CNN and all after it do."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..types import Boxes
from .boxes import clip_boxes, decode_boxes
from .objects import sides_reach


class DetectionLimits(NamedTuple):
    """What is detected.

    Attributes:
        score_threshold: what is not above it is not detected.
        max_iou: of two detections of a class.
        max_detections: per image.
    """

    score_threshold: float = 0.05
    max_iou: float = 0.5
    max_detections: int = 100


@torch.no_grad()
def detections_of(
    class_logits: Float[Tensor, "r k1"],
    box_deltas: Float[Tensor, "r k1 4"],
    regions: Float[Tensor, "r 4"],
    size: tuple[int, int],
    limits: DetectionLimits,
    units: Sequence[float],
) -> Boxes:
    """The objects of one image, best first: each class of each region is a candidate.

    Args:
        class_logits: scores of background, first, and of the classes.
        box_deltas: for each of these, how a better box lies to that of the region, see `encode_boxes`.
        regions: boxes.
        size: height and width of the image, beyond which no box reaches.
        limits: what is detected.
        units: of the corrections.
    """
    from torchvision.ops import batched_nms

    scores = class_logits.float().softmax(1)[:, 1:]
    region, label = (scores > limits.score_threshold).nonzero(as_tuple=True)
    boxes = decode_boxes(box_deltas[region, label + 1], regions[region], units)
    found = Boxes.of(clip_boxes(boxes, size), label, scores[region, label])
    found = found.take(sides_reach(found.boxes, 1e-2))
    kept = batched_nms(found.boxes, found.scores, found.classes, limits.max_iou)
    return found.take(kept[: limits.max_detections])
