"""What UPSNet learns: the parts of Mask R-CNN, the semantic head, the panoptic head (Sec. 3.4)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ...losses import loss_parts
from ...merging import panoptic_scores
from ...types import AssignedBoxes, Batch, MaskSet, PanopticMap
from ..mask_rcnn import instance_losses
from ..panoptic_fpn import things_of
from .decoding import pasted
from .upsnet import STRIDE, UnifiedLogits

SEMANTIC_WEIGHT, PANOPTIC_WEIGHT = 0.2, 0.1
ROI_SIZE = 28  # of the regions in which the semantic head is asked again
VOID_LABEL = -100  # of pixels from which the panoptic head does not learn


@loss_parts.register
def unified_losses(output: UnifiedLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Mask R-CNN's, "segmentation" and "region" of the semantic head, "unified" of the panoptic one."""
    things = [things_of(target, output.things) for target in batch.annotations]
    parts = instance_losses(output.instances, things)
    regions, shown, drawn = output.instances.regions, output.shown, output.shown_masks
    assert shown is not None  # instance_losses refuses outputs of evaluation
    assert drawn is not None
    device, (height, width) = output.semantic.device, output.semantic.shape[-2:]
    stuff = [k for k in range(output.semantic.shape[1]) if k not in output.things]
    every, unified, region = [], [], []
    total = output.semantic.sum() * 0
    for image, (target, own, seen) in enumerate(
        zip(batch.annotations, things, regions.seen_sizes, strict=True)
    ):
        assert isinstance(target, PanopticMap)
        number, labels = _coarse_labels(target, own, seen, (height, width))
        number, labels = number.to(device), labels.to(device)
        every.append(labels)
        here = shown.image == image
        boxes, which = shown.boxes[here] / STRIDE, shown.target[here]
        classes = own.classes.to(device)[which]
        masks, inside = pasted(drawn[here, classes + 1].float(), boxes, (height, width))
        table = torch.tensor(output.things, device=device)
        scores = panoptic_scores(output.semantic[image].float(), masks, inside, table[classes], output.things)
        wanted = _unified_labels(number, labels, which, len(own), stuff)
        unified.append(F.cross_entropy(scores[None], wanted[None], ignore_index=VOID_LABEL, reduction="sum"))
        total = total + (wanted != VOID_LABEL).sum()
        region.append(_region_labels(labels, boxes))
    semantic = F.cross_entropy(output.semantic.float(), torch.stack(every), ignore_index=255, reduction="sum")
    known = sum((labels != 255).sum() for labels in every)
    parts["segmentation"] = SEMANTIC_WEIGHT * semantic / torch.as_tensor(known).clamp_min(1)
    parts["region"] = SEMANTIC_WEIGHT * _region_loss(output.semantic, shown, torch.cat(region))
    parts["unified"] = PANOPTIC_WEIGHT * torch.stack(unified).sum() / total.clamp_min(1)
    return parts


def _coarse_labels(
    target: PanopticMap, things: MaskSet, seen: tuple[int, int], size: tuple[int, int]
) -> tuple[Int64[Tensor, "h w"], Int64[Tensor, "h w"]]:
    """Number of the thing, -1 where there is none, and class, 255 where void, at the cells of a coarse map.

    A cell has what lies at its centre; cells of padding are void.
    """
    height, width = target.id_map.shape
    rows, columns = (
        ((torch.arange(cells) + 0.5) * STRIDE * length / own).long()
        for cells, length, own in ((size[0], height, seen[0]), (size[1], width, seen[1]))
    )
    there = (rows < height)[:, None] & (columns < width)
    device = target.id_map.device
    rows, columns, there = (
        rows.clamp(max=height - 1).to(device),
        columns.clamp(max=width - 1).to(device),
        there.to(device),
    )
    ids = target.id_map[rows][:, columns]
    labels = torch.full_like(ids, 255, dtype=torch.int64)
    for segment, label in zip(target.ids.tolist(), target.classes.tolist(), strict=True):
        labels = torch.where(there & (ids == segment), label, labels)
    number = torch.full_like(labels, -1)
    for i, mask in enumerate(things.dense):
        number = torch.where(
            there & mask.to(device)[rows][:, columns] & ~things.is_crowd[i].to(device), i, number
        )
    return number, labels


def _unified_labels(
    number: Int64[Tensor, "h w"],
    labels: Int64[Tensor, "h w"],
    shown: Int64[Tensor, " m"],
    count: int,
    stuff: Sequence[int],
) -> Int64[Tensor, "h w"]:
    """Index among stuff, shown instances and unknown; things that are hidden, and crowds, are unknown."""
    unknown = len(stuff) + len(shown)
    place = torch.full((count + 1,), unknown, device=number.device)  # the last is that of no thing
    place[shown] = torch.arange(len(stuff), unknown, device=number.device)
    of_label = torch.full((256,), unknown, device=number.device)
    of_label[torch.tensor(stuff, device=number.device, dtype=torch.int64)] = torch.arange(
        len(stuff), device=number.device
    )
    found = torch.where(number >= 0, place[number], of_label[labels])
    return torch.where(labels == 255, VOID_LABEL, found)


def _region_labels(labels: Int64[Tensor, "h w"], boxes: Float[Tensor, "m 4"]) -> Int64[Tensor, "m s s"]:
    """The class at the centre of each bin of each box."""
    at = (torch.arange(ROI_SIZE, device=boxes.device) + 0.5) / ROI_SIZE
    rows = (
        (boxes[:, 1, None] + at * (boxes[:, 3] - boxes[:, 1])[:, None]).long().clamp(0, labels.shape[0] - 1)
    )
    columns = (boxes[:, 0, None] + at * (boxes[:, 2] - boxes[:, 0])[:, None]).long()
    columns = columns.clamp(0, labels.shape[1] - 1)
    return labels[rows[:, :, None], columns[:, None]]


def _region_loss(
    semantic: Float[Tensor, "b k h w"], shown: AssignedBoxes, labels: Int64[Tensor, "m s s"]
) -> Float[Tensor, ""]:
    from torchvision.ops import roi_align

    if not (labels != 255).any():
        return semantic.sum() * 0
    rois = torch.cat([shown.image[:, None].to(shown.boxes), shown.boxes], 1)
    scores = roi_align(semantic.float(), rois, ROI_SIZE, 1 / STRIDE, 2, aligned=True)
    return F.cross_entropy(scores, labels, ignore_index=255)
