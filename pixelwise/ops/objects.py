"""Regions of the images of a batch, and the objects that they are to find."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ..types import Annotation, AssignedBoxes, Boxes, Keypoints, MaskSet
from .boxes import match_boxes, rescale_boxes, sample_matched

Sizes = Sequence[tuple[int, int]]


def boxes_in(targets: Sequence[Annotation] | None, sizes: Sizes, seen: Sizes) -> list[Boxes]:
    """The targets of each image, with boxes as the network sees them; `Keypoints` are all of one class.

    Args:
        targets: of each image.
        sizes: height and width of each image.
        seen: the same as the network sees it.

    Raises:
        ValueError: without targets, or if they have no boxes.
    """
    if targets is None:
        raise ValueError("training needs targets: call model(*model.inputs(batch))")
    found = []
    for target, old, new in zip(targets, sizes, seen, strict=True):
        boxes = target.boxes if isinstance(target, MaskSet) else target
        if isinstance(target, Keypoints):
            only_class = torch.zeros(len(target), dtype=torch.int64, device=target.boxes.device)
            boxes = Boxes(target.boxes, only_class, target.scores, target.is_crowd)
        if not isinstance(boxes, Boxes):
            raise ValueError(f"the targets must be Boxes or a MaskSet, got {type(target).__name__}")
        found.append(rescaled(boxes, old, new))
    return found


def rescaled(boxes: Boxes, old: tuple[int, int], new: tuple[int, int]) -> Boxes:
    """The objects of an image after it was resized from `old` to `new` height and width."""
    # Boxes of masks in run lengths are on the CPU, wherever the classes are.
    corners = rescale_boxes(boxes.boxes.float(), old, new).to(boxes.classes.device)
    return Boxes(corners, boxes.classes.long(), boxes.scores, boxes.is_crowd)


def objects_in(targets: Sequence[Boxes]) -> list[Boxes]:
    """What is to be found: the same targets, but crowds have no area, so that nothing belongs to them."""
    return [
        Boxes(one.boxes * ~one.is_crowd[:, None], one.classes, one.scores, one.is_crowd) for one in targets
    ]


def assigned(boxes: Sequence[Float[Tensor, "_ 4"]], matched: Sequence[Int64[Tensor, " _"]]) -> AssignedBoxes:
    """The boxes of all images with the numbers of their objects."""
    image = [torch.full_like(one, number) for number, one in enumerate(matched)]
    return AssignedBoxes(torch.cat(list(boxes)), torch.cat(image), torch.cat(list(matched)))


def pool_by_level(
    levels: Sequence[Float[Tensor, "b c _ _"]],
    strides: Sequence[int],
    regions: AssignedBoxes,
    level: Int64[Tensor, " r"],
    size: int,
    samples: int,
) -> Float[Tensor, "r c size size"]:
    """RoIAlign, with the centres of pixels at halves, of each region in its level.

    Args:
        levels: of a pyramid.
        strides: of each level, in pixels of the image.
        regions: where to look.
        level: that each region is pooled from, 0 being the first.
        size: side of the result.
        samples: along each axis of a bin.
    """
    from torchvision.ops import roi_align

    rois = torch.cat([regions.image[:, None].to(regions.boxes), regions.boxes], 1)
    pooled = levels[0].new_zeros(rois.shape[0], levels[0].shape[1], size, size)
    for number, (map, stride) in enumerate(zip(levels, strides, strict=True)):
        here = (level == number).nonzero()[:, 0]
        part = roi_align(map.float(), rois[here], size, 1 / stride, samples, aligned=True)
        pooled = pooled.index_copy(0, here, part.to(pooled.dtype))
    return pooled


def objects_of(boxes: AssignedBoxes, targets: Sequence[Boxes]) -> Boxes:
    """The objects of those boxes that have one, in their order."""
    positive = boxes.target >= 0
    first = torch.tensor([0, *(len(one) for one in targets)], device=positive.device).cumsum(0)
    index = first[boxes.image[positive]] + boxes.target[positive]
    parts = ((one.boxes, one.classes, one.scores, one.is_crowd) for one in targets)
    return Boxes(*(torch.cat(same) for same in zip(*parts, strict=True))).take(index)


def sides_reach(boxes: Float[Tensor, "n 4"], least: float) -> Bool[Tensor, " n"]:
    """Whether both sides of each box are at least that long."""
    return ((boxes[:, 2:] - boxes[:, :2]) >= least).all(1)


@torch.no_grad()
def sample_regions(
    proposed: Sequence[Float[Tensor, "_ 4"]],
    objects: Sequence[Boxes],
    positive_iou: float,
    count: int,
    share: float,
) -> AssignedBoxes:
    """Regions of all images to learn from; the objects' own boxes are among them.

    Args:
        proposed: of each image.
        objects: of each image, see `objects_in`.
        positive_iou: from it on a region belongs to an object; below it, the region is background.
        count: regions per image.
        share: the most of them that belong to objects.
    """
    boxes, matched = [], []
    for one, own in zip(proposed, objects, strict=True):
        regions = torch.cat([one, own.boxes[sides_reach(own.boxes, 1e-3)]])
        number = match_boxes(regions, own.boxes, positive_iou, positive_iou)
        index = sample_matched(number, count, share)
        boxes.append(regions[index])
        matched.append(number[index])
    return assigned(boxes, matched)
