"""Boxes x1 y1 x2 y2: overlap, suppression, coding, matching."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

BACKGROUND, UNDECIDED = -1, -2
LARGEST_GROWTH = math.log(1000 / 16)


def box_iou(first: Float[Tensor, "n 4"], second: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Area of the intersection over area of the union of each box with each other.

    >>> box_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
    tensor([[0.3333]])
    """
    corner = torch.maximum(first[:, None, :2], second[None, :, :2])
    opposite = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = (opposite - corner).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    areas = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1] - shared)


def generalized_box_iou(first: Float[Tensor, "n 4"], second: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """IoU, less the share of the box around both that neither covers (Rezatofighi et al. 2019, Algorithm 1).

    It lies in (-1, 1] and tells how far apart boxes are that do not meet.

    >>> generalized_box_iou(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[3.0, 0.0, 4.0, 1.0]]))
    tensor([[-0.5000]])
    """
    corner = torch.maximum(first[:, None, :2], second[None, :, :2])
    opposite = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (opposite - corner).clamp(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1] - shared
    outer = torch.maximum(first[:, None, 2:], second[None, :, 2:])
    around = (outer - torch.minimum(first[:, None, :2], second[None, :, :2])).prod(2)
    return shared / union - (around - union) / around


def non_maximum_suppression(
    boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], threshold: float
) -> Int64[Tensor, " kept"]:
    """Indices of boxes, best first: one is dropped if its IoU with a kept better one is above `threshold`.

    >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    >>> non_maximum_suppression(boxes, torch.tensor([0.8, 0.9, 0.1]), 0.5)
    tensor([1, 2])
    """
    iou = box_iou(boxes, boxes)
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if not (iou[i, kept] > threshold).any():
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64, device=boxes.device)


def encode_boxes(
    boxes: Float[Tensor, "n 4"], anchors: Float[Tensor, "n 4"], units: Sequence[float] = (1, 1, 1, 1)
) -> Float[Tensor, "n 4"]:
    """How boxes lie to anchors: shift over the size of the anchor, and logarithm of the growth.

    As in R-CNN (Girshick et al. 2014, App. C), in `units`.
    """
    size, wanted = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    shift = (boxes[:, :2] + 0.5 * wanted - anchors[:, :2] - 0.5 * size) / size
    return torch.cat([shift, (wanted / size).log()], 1) / boxes.new_tensor(units)


def decode_boxes(
    deltas: Float[Tensor, "*n 4"], anchors: Float[Tensor, "*n 4"], units: Sequence[float] = (1, 1, 1, 1)
) -> Float[Tensor, "*n 4"]:
    """The boxes that `encode_boxes` tells of. Growth is bounded, so that nothing overflows."""
    deltas = deltas.to(anchors.dtype) * anchors.new_tensor(units)
    size = anchors[..., 2:] - anchors[..., :2]
    center = anchors[..., :2] + 0.5 * size + deltas[..., :2] * size
    half = 0.5 * size * deltas[..., 2:].clamp(max=LARGEST_GROWTH).exp()
    return torch.cat([center - half, center + half], -1)


def make_anchors(
    level_sizes: Sequence[tuple[int, int]],
    image_size: tuple[int, int],
    box_sizes: Sequence[float | Sequence[float]],
    ratios: Sequence[float],
    like: Tensor,
    *,
    rounded: bool = True,
) -> list[Float[Tensor, "_ 4"]]:
    """Boxes of fixed size and shape around every place of every level, row by row, in pixels of the image.

    Args:
        level_sizes: height and width of each level.
        image_size: height and width of the image.
        box_sizes: of each level, the root of the area of its boxes in pixels; several for more boxes at each
            place, in the order of the ratios.
        ratios: height over width of the boxes of a place.
        like: tells type and device.
        rounded: whether half the width and half the height are whole pixels (torchvision).

    >>> make_anchors([(1, 2)], (8, 16), [4], [1.0], torch.zeros(()))
    [tensor([[-2., -2.,  2.,  2.],
            [ 6., -2., 10.,  2.]])]
    """
    roots = like.new_tensor(ratios).sqrt()[:, None]
    anchors = []
    for size, (height, width) in zip(box_sizes, level_sizes, strict=True):
        sizes = like.new_tensor(size).view(1, -1)
        half_width, half_height = (sizes / roots).flatten() / 2, (sizes * roots).flatten() / 2
        shapes = torch.stack([-half_width, -half_height, half_width, half_height], 1)
        shapes = shapes.round() if rounded else shapes
        # Not the stride of the level: what torchvision's weights were trained with where it does not divide.
        down = torch.arange(height, device=like.device) * (image_size[0] // height)
        along = torch.arange(width, device=like.device) * (image_size[1] // width)
        y, x = torch.meshgrid(down, along, indexing="ij")
        anchors.append((torch.stack([x, y, x, y], -1)[:, :, None] + shapes).view(-1, 4))
    return anchors


def match_boxes(
    boxes: Float[Tensor, "n 4"],
    objects: Float[Tensor, "m 4"],
    low: float,
    high: float,
    *,
    keep_best: bool = False,
) -> Int64[Tensor, " n"]:
    """Number of the object that each box overlaps most; BACKGROUND (-1) below an IoU of `low`.

    Args:
        boxes: anchors or regions.
        objects: boxes of the objects.
        low: below it a box is background.
        high: from it on a box belongs to its object; between the two it is UNDECIDED (-2).
        keep_best: whether the boxes that overlap an object most belong to one in any case.
    """
    if not len(objects):
        return torch.full((len(boxes),), BACKGROUND, device=boxes.device)
    iou = box_iou(objects, boxes)
    most, number = iou.max(0)
    matched = number.masked_fill(most < high, UNDECIDED).masked_fill(most < low, BACKGROUND)
    if keep_best:
        best = ((iou == iou.amax(1, keepdim=True)) & (iou > 0)).any(0)
        matched = torch.where(best, number, matched)
    return matched


def sample_matched(matched: Int64[Tensor, " n"], count: int, share: float) -> Int64[Tensor, " s"]:
    """At most `count` boxes at random, positive ones first, which are at most that share of `count`."""
    positive = (matched >= 0).nonzero()[:, 0]
    negative = (matched == BACKGROUND).nonzero()[:, 0]
    positive = positive[torch.randperm(len(positive), device=matched.device)[: int(count * share)]]
    rest = count - len(positive)
    return torch.cat([positive, negative[torch.randperm(len(negative), device=matched.device)[:rest]]])


def clip_boxes(boxes: Float[Tensor, "n 4"], size: tuple[int, int]) -> Float[Tensor, "n 4"]:
    """The part of boxes that lies in an image of that height and width."""
    return torch.stack([boxes[:, 0::2].clamp(0, size[1]), boxes[:, 1::2].clamp(0, size[0])], 2).flatten(1)


def rescale_boxes(
    boxes: Float[Tensor, "n 4"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "n 4"]:
    """Boxes of an image after it was resized from `old` to `new` height and width."""
    ratio = boxes.new_tensor(new) / boxes.new_tensor(old)
    return boxes * ratio[[1, 0, 1, 0]]
