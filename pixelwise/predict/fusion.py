"""Objects that were found several times, in several views, as one: weighted fusion of boxes and masks.

Objects of one class whose IoU is high enough are taken for the same (Solovyev et al. 2021, Weighted boxes
fusion, Sec. 3): the box is the mean of their boxes, weighted by their scores, a mask is where the weighted
mean of their masks is at least a half, and the score is the sum of their scores over the number of views, so
that what only one of many views shows counts little.
"""

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..ops import box_iou
from ..rle import RleMasks, run_lengths
from ..types import Annotation, Boxes, ClassMasks, ClassTable, Keypoints, LabelMap, MaskSet, PanopticMap

SAME = 0.55  # IoU from which two objects are one (the paper's)
_LEAST_FREE = 0.5  # share of a thing that must be left by surer ones


@singledispatch
def fused(first: Annotation, views: Sequence[Any], classes: ClassTable) -> Annotation:
    """The annotations of several views of an image as one.

    Args:
        first: of the first view.
        views: of all views, in pixels of the image.
        classes: what the labels mean.

    Raises:
        ValueError: if such annotations are not fused.
    """
    raise ValueError(f"{type(first).__name__} of several views cannot be fused")


@fused.register
def _(first: LabelMap, views: Sequence[LabelMap], classes: ClassTable) -> LabelMap:
    """The class that most views give to a pixel; of equally many the first."""
    votes = _most_votes([view.labels for view in views], range(len(classes)), classes.ignore)
    return LabelMap(votes, first.spacing)


@fused.register
def _(first: ClassMasks, views: Sequence[ClassMasks], classes: ClassTable) -> ClassMasks:
    """The classes that at least half of the views give to a pixel."""
    masks = torch.stack([view.masks.float() for view in views]).mean(0) >= 0.5
    return ClassMasks(masks.long())


@fused.register
def _(first: Boxes, views: Sequence[Boxes], classes: ClassTable) -> Boxes:
    boxes, labels, scores = (
        torch.cat([getattr(view, name) for view in views]).cpu() for name in ("boxes", "classes", "scores")
    )
    groups = _groups(box_iou(boxes, boxes), labels, scores, _numbers(views))
    return Boxes.of(
        _stacked([_mean(boxes[group], scores[group]) for group in groups], boxes),
        labels[[int(group[0]) for group in groups]],
        _stacked([scores[group].sum() / len(views) for group in groups], scores),
    )


@fused.register
def _(first: MaskSet, views: Sequence[MaskSet], classes: ClassTable) -> MaskSet:
    sets = [run_lengths(view) for view in views]
    masks = RleMasks.concatenate(sets)
    labels, scores = (
        torch.cat([getattr(view, name) for view in views]).cpu() for name in ("classes", "scores")
    )
    groups = _groups(torch.from_numpy(masks.iou(masks)).float(), labels, scores, _numbers(views))
    made = [_mean_mask(masks[group.numpy()], scores[group].numpy()) for group in groups]
    kept = [number for number, mask in enumerate(made) if mask.area[0]]
    found = [groups[number] for number in kept]
    return MaskSet.of(
        RleMasks.concatenate([made[number] for number in kept]) if kept else masks[:0],
        labels[[int(group[0]) for group in found]],
        _stacked([scores[group].sum() / len(views) for group in found], scores),
    )


@fused.register
def _(first: Keypoints, views: Sequence[Keypoints], classes: ClassTable) -> Keypoints:
    names = ("points", "visible", "scores", "areas", "boxes")
    points, visible, scores, areas, boxes = (
        torch.cat([getattr(view, name) for view in views]).cpu() for name in names
    )
    labels = torch.zeros(len(scores), dtype=torch.int64)
    groups = _groups(box_iou(boxes, boxes), labels, scores, _numbers(views))
    trust = [(scores[group, None] * visible[group]).clamp_min(1e-9) for group in groups]
    joints = [
        (points[group] * weight[..., None]).sum(0) / weight.sum(0)[:, None]
        for group, weight in zip(groups, trust, strict=True)
    ]
    return Keypoints(
        _stacked(joints, points),
        _stacked([_mean(visible[group], scores[group]) for group in groups], visible),
        _stacked([scores[group].sum() / len(views) for group in groups], scores),
        _stacked([_mean(areas[group], scores[group]) for group in groups], areas),
        _stacked([_mean(boxes[group], scores[group]) for group in groups], boxes),
        torch.zeros(len(groups), dtype=torch.bool),
    )


@fused.register
def _(first: PanopticMap, views: Sequence[PanopticMap], classes: ClassTable) -> PanopticMap:
    """Things are fused as masks are, the surest in front; other pixels take most views' class of stuff."""
    views = [view.to("cpu") for view in views]
    things = torch.tensor(classes.things)
    stuff = [label for label in range(len(classes)) if label not in classes.things]
    best = _most_votes([_labels_of(view, classes.ignore) for view in views], stuff, classes.ignore)
    sets = []
    for view in views:
        own = view.ids[torch.isin(view.classes, things)]
        masks = view.id_map == own[:, None, None]
        sets.append(MaskSet.of(masks, view.classes[torch.isin(view.classes, things)]))
    objects = fused(sets[0], sets, classes)
    assert isinstance(objects, MaskSet)
    free = torch.ones(first.id_map.shape, dtype=torch.bool)
    kept, numbers = [], []
    for number in (objects.scores >= 0.5).nonzero()[:, 0].tolist():  # in at least half of the views
        mask = objects.take(torch.tensor([number])).dense[0]
        left = mask & free
        if left.sum() >= _LEAST_FREE * mask.sum():
            kept.append(left)
            numbers.append(number)
            free = free & ~mask
    masks = torch.stack(kept) if kept else torch.zeros(0, *free.shape, dtype=torch.bool)
    chosen = MaskSet.of(masks, objects.classes[numbers])
    return PanopticMap.of_things(LabelMap(best), chosen, classes)


def _most_votes(maps: Sequence[Tensor], labels: Sequence[int], ignore: int) -> Tensor:
    """The label that most maps have at each pixel, of some labels; `ignore` where none has one of them."""
    best, most = torch.full_like(maps[0], ignore), torch.zeros(maps[0].shape, dtype=torch.int64)
    for label in labels:
        votes = torch.stack([one == label for one in maps]).sum(0)
        best, most = torch.where(votes > most, label, best), torch.maximum(votes, most)
    return best


def _labels_of(view: PanopticMap, ignore: int) -> Tensor:
    """The class of each pixel."""
    labels = torch.full_like(view.id_map, ignore, dtype=torch.int64)
    for number, label in zip(view.ids.tolist(), view.classes.tolist(), strict=True):
        labels[view.id_map == number] = label
    return labels


def _numbers(views: Sequence[Any]) -> Tensor:
    """The view of each object."""
    return torch.cat([torch.full((len(view.scores),), number) for number, view in enumerate(views)])


def _groups(
    iou: Float[Tensor, "n n"], labels: Tensor, scores: Float[Tensor, " n"], view: Tensor
) -> list[Tensor]:
    """Numbers of the objects that are one, at most one of each view, the surest first; so the groups."""
    heads: list[int] = []
    members: list[list[int]] = []
    for number in scores.argsort(descending=True, stable=True).tolist():
        fits = [
            group
            for group, head in enumerate(heads)
            if labels[head] == labels[number]
            and iou[head, number] >= SAME
            and all(view[member] != view[number] for member in members[group])
        ]
        if fits:
            members[max(fits, key=lambda group: float(iou[heads[group], number]))].append(number)
        else:
            heads.append(number)
            members.append([number])
    groups = [torch.tensor(group) for group in members]
    return sorted(groups, key=lambda group: -float(scores[group].sum()))


def _mean(values: Float[Tensor, "n *_"], weights: Float[Tensor, " n"]) -> Float[Tensor, "*_"]:
    weights = weights.clamp_min(1e-9).view(-1, *[1] * (values.ndim - 1))
    return (values * weights).sum(0) / weights.sum()


def _mean_mask(masks: RleMasks, scores: np.ndarray) -> RleMasks:
    """Where masks that hold at least half of the scores lie."""
    if len(masks) == 1:
        return masks
    total = sum(score * mask.decode()[0] for score, mask in zip(scores, masks, strict=True))
    return RleMasks.encode((total >= scores.sum() / 2 - 1e-9)[None])


def _stacked(rows: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.stack(list(rows)) if rows else like[:0]
