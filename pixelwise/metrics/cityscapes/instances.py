"""Cityscapes' average precision of instances, as its evalInstanceLevelSemanticLabeling.

At each IoU threshold 0.5, 0.55, ... 0.95 (strictly above counts) and for each class:

- of the predictions on one object the surest is right, the others are wrong; an object without any is a
  false negative;
- objects of fewer than 100 pixels and groups (values below 1000) are no targets;
- a prediction on no object is wrong unless it is ignored: if more than the threshold's share of it lies on
  ignored ids, on groups of its class and on small objects of its class (a small group counts twice there).

Precision over recall is integrated in steps, each as wide as half the distance between its neighbours; AP is
the mean over thresholds and classes, AP50 that at 0.5. There is no limit on the number of predictions. As in
the official tool the objects of ignored classes (a caravan, a trailer) excuse nothing; only their groups do.
Where every prediction of a class is ignored its AP is 0; the official tool fails there.
"""

import math
import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, Integer
from torch import Tensor

from ...kernels.masks.panoptic import overlaps
from ...types import MaskSet
from ..checked import checked_labels
from ..rows import RowMetric
from .pixels import FIRST_INSTANCE, LABELS, THINGS, label_of

THRESHOLDS = np.arange(0.5, 1.0, 0.05)
MIN_SIZE = 100
WRONG, RIGHT, IGNORED = 0, 1, -1


class CityscapesInstanceScores:
    """Average precision by class and IoU threshold; nan for a class without target. Frozen.

    Args:
        ap: one row per class of `THINGS`, one column per threshold.
    """

    ap: Float64[np.ndarray, "8 10"]

    def __init__(self, ap: Float64[np.ndarray, "8 10"]) -> None:
        self.__dict__.update(ap=ap)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"scores are frozen: {name} cannot be set")

    @property
    def class_ap(self) -> dict[str, float]:
        """AP of each class: mean over thresholds."""
        return {LABELS[label].name: float(row.mean()) for label, row in zip(THINGS, self.ap, strict=True)}

    @property
    def class_ap50(self) -> dict[str, float]:
        """AP of each class at an IoU of 0.5."""
        return {LABELS[label].name: float(row[0]) for label, row in zip(THINGS, self.ap, strict=True)}

    @property
    def mean_ap(self) -> float:
        """AP: mean over classes and thresholds; nan with a warning without any target."""
        return _mean(self.ap)

    @property
    def mean_ap50(self) -> float:
        """AP50: mean over classes at an IoU of 0.5; nan with a warning without any target."""
        return _mean(self.ap[:, :1])

    def __repr__(self) -> str:
        means = (
            "no target" if np.isnan(self.ap).all() else f"AP {self.mean_ap:.4f}, AP50 {self.mean_ap50:.4f}"
        )
        return f"CityscapesInstanceScores({means})"


class CityscapesInstanceMetrics(RowMetric):
    """AP of instances over everything seen by all processes.

    >>> instance_map = torch.full((20, 20), 7)
    >>> instance_map[:10] = 26000
    >>> prediction = MaskSet.of(instance_map[None] == 26000, torch.tensor([26]), torch.tensor([0.9]))
    >>> metrics = CityscapesInstanceMetrics()
    >>> metrics.update(prediction, instance_map)
    >>> metrics.compute()
    CityscapesInstanceScores(AP 1.0000, AP50 1.0000)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    predictions: list[Tensor]
    targets: Int64[Tensor, "8"]
    false_negatives: Int64[Tensor, "8 10"]

    def __init__(self) -> None:
        super().__init__()
        # One row per prediction: place of its class in THINGS, score, outcome at each threshold.
        self.add_rows("predictions", 2 + len(THRESHOLDS), dtype=torch.float64)
        self.add_state("targets", torch.zeros(len(THINGS), dtype=torch.int64), dist_reduce_fx="sum")
        false_negatives = torch.zeros(len(THINGS), len(THRESHOLDS), dtype=torch.int64)
        self.add_state("false_negatives", false_negatives, dist_reduce_fx="sum")

    def update(self, prediction: MaskSet, instance_map: Integer[Tensor, "H W"], where: str = "") -> None:
        """Match the predictions of one image.

        Args:
            prediction: masks, which may overlap; their classes are ids of Cityscapes. Empty masks and those
                of classes without instances are not looked at.
            instance_map: the target as `*_gtFine_instanceIds.png` has it.
            where: name of the image, for the message of an error.

        Raises:
            ValueError: if the shapes differ, or an id is none of Cityscapes.
        """
        place = f" in {where}" if where else ""
        instance_map = checked_labels(instance_map, "instance_map", place)
        if prediction.size != tuple(instance_map.shape):
            raise ValueError(
                f"prediction and instance_map must have one shape, got "
                f"{prediction.size} and {tuple(instance_map.shape)}{place}"
            )
        instances = instance_map.cpu().numpy()
        ids, area = _areas(instances, np.ones_like(instances, dtype=bool))
        classes = prediction.classes.cpu().numpy()
        for name, labels in (("instance_map", label_of(ids)), ("prediction", classes)):
            if ((labels < 0) | (labels >= len(LABELS))).any():
                wrong = labels[(labels < 0) | (labels >= len(LABELS))][0]
                raise ValueError(f"the {name} holds the id {wrong}{place}, expected 0..{len(LABELS) - 1}")
        masks, scores = prediction.dense.cpu().numpy(), prediction.scores.cpu().numpy().astype(np.float64)
        targets, false_negatives = torch.zeros_like(self.targets), torch.zeros_like(self.false_negatives)
        for k, label in enumerate(THINGS):
            mine = [i for i in np.flatnonzero(classes == label) if masks[i].any()]
            own = label_of(ids) == label
            shared = np.zeros((len(mine), len(ids)), np.int64)
            for row, i in enumerate(mine):
                found, pixels = _areas(instances, masks[i])
                shared[row, np.searchsorted(ids, found)] = pixels
            outcome, valid, left = _match(ids, area, own, shared, scores[mine])
            rows = np.column_stack([np.full(len(mine), float(k)), scores[mine], outcome])
            self.predictions.append(torch.from_numpy(rows).to(self.device))
            targets[k] += valid
            false_negatives[k] += torch.from_numpy(left).to(self.device)
        self.targets, self.false_negatives = self.targets + targets, self.false_negatives + false_negatives

    def compute(self) -> CityscapesInstanceScores:
        """Scores of everything seen by all processes."""
        ap = np.full((len(THINGS), len(THRESHOLDS)), np.nan)
        rows = self.rows("predictions").cpu().numpy()
        false_negatives, targets = self.false_negatives.cpu().numpy(), self.targets.cpu().numpy()
        for k in np.flatnonzero(targets):
            own = rows[rows[:, 0] == k]
            for o in range(len(THRESHOLDS)):
                counted = own[own[:, 2 + o] != IGNORED]
                ap[k, o] = _average_precision(
                    counted[:, 2 + o] == RIGHT, counted[:, 1], int(false_negatives[k, o])
                )
        return CityscapesInstanceScores(ap)


def _areas(
    instances: Integer[np.ndarray, "H W"], mask: Bool[np.ndarray, "H W"]
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """The values of the instance map under a mask, in ascending order, and their pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    found = overlaps(instances[box], mask[box])
    found = found[found[:, 1] == 1]
    found = found[found[:, 0].argsort()]
    return found[:, 0], found[:, 2]


def _match(
    ids: Int64[np.ndarray, " g"],
    area: Int64[np.ndarray, " g"],
    own: Bool[np.ndarray, " g"],
    shared: Int64[np.ndarray, "p g"],
    scores: Float64[np.ndarray, " p"],
) -> tuple[Int64[np.ndarray, "p 10"], int, Int64[np.ndarray, "10"]]:
    """Outcomes of the predictions of one class in one image, its number of targets, its false negatives.

    Args:
        ids: values of the instance map.
        area: their pixels.
        own: which of them have the class.
        shared: pixels of each under each prediction; no prediction is empty.
        scores: of the predictions.
    """
    size = shared.sum(1)
    void = np.array([i < FIRST_INSTANCE and LABELS[i].ignored for i in ids.tolist()], bool)
    group, small = ids < FIRST_INSTANCE, area < MIN_SIZE
    ignored = shared[:, void].sum(1) + shared[:, own & group].sum(1) + shared[:, own & small].sum(1)
    iou = shared / (size[:, None] + area - shared)
    outcome = np.full((len(size), len(THRESHOLDS)), IGNORED)
    targets = np.flatnonzero(own & ~group & ~small)
    false_negatives = np.zeros(len(THRESHOLDS), np.int64)
    for o, threshold in enumerate(THRESHOLDS):
        near = iou > threshold
        for target in targets:
            candidates = np.flatnonzero(near[:, target])
            outcome[candidates, o] = WRONG
            if len(candidates):
                outcome[candidates[scores[candidates].argmax()], o] = RIGHT
            false_negatives[o] += not len(candidates)
        outcome[~near[:, own].any(1) & (ignored / size <= threshold), o] = WRONG
    return outcome, len(targets), false_negatives


def _average_precision(
    right: Bool[np.ndarray, " n"], score: Float64[np.ndarray, " n"], false_negatives: int
) -> float:
    """Area under the steps of precision over recall, from the highest recall down to the point (1, 0)."""
    order = score.argsort(kind="stable")
    _, first = np.unique(score[order], return_index=True)
    below = np.concatenate([[0], right[order].cumsum()])[first]  # right ones that each threshold leaves out
    true_positives = right.sum() - below
    precision = np.append(true_positives / (len(right) - first), 1.0)
    recall = np.append(true_positives / (right.sum() + false_negatives), 0.0)
    widths = np.convolve(np.concatenate([recall[:1], recall, [0.0]]), [-0.5, 0, 0.5], "valid")
    return float(np.dot(precision, widths))


def _mean(ap: Float64[np.ndarray, "k t"]) -> float:
    if np.isnan(ap).all():
        warnings.warn("no target was seen: the score is nan", stacklevel=3)
        return math.nan
    return float(np.nanmean(ap))
