"""Panoptic quality, as panopticapi defines it (Kirillov et al., CVPR 2019, Sec. 4).

A predicted and a target segment match if they have one class and their IoU is above 0.5, strictly; the void
pixels of the target under the predicted segment are not in the union. Every other target segment is a false
negative unless it is a crowd. Every other predicted segment is a false positive unless more than half of it
lies on void and on the crowd of its class (the last one of the table, where there are several). Per class

    PQ = sum of IoU / (TP + FP / 2 + FN / 2) = SQ RQ
    SQ = sum of IoU / TP
    RQ = TP / (TP + FP / 2 + FN / 2)

and a class that was neither predicted nor there (TP = FP = FN = 0) is nan and has no part in the means.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor
from torchmetrics import Metric

from ...kernels.masks.panoptic import compare_segments, is_sound, overlaps
from ...types import ClassTable
from .panoptic_map import VOID, PanopticMap, SegmentArrays, named


class Quality(NamedTuple):
    """Means over classes, as panopticapi prints them, each in [0, 1].

    Attributes:
        pq: panoptic quality.
        sq: segmentation quality, the mean IoU of matches.
        rq: recognition quality, the F1 of segments.
        num_classes: how many classes the means are over.
    """

    pq: float
    sq: float
    rq: float
    num_classes: int


class PanopticScores:
    """Counts per class, and every score from them. Frozen.

    Args:
        iou: sum of the IoU of matches per class.
        true_positives: matches.
        false_positives: predicted segments without match.
        false_negatives: target segments without match.
        classes: the task; its `things` are those of the means.

    Raises:
        ValueError: if the counts do not fit the classes.

    >>> table = ClassTable.of("sky", "car")
    >>> one, two = torch.tensor([1, 0]), torch.tensor([0, 2])
    >>> PanopticScores(torch.tensor([0.75, 0.0], dtype=torch.float64), one, two, two, table).overall
    Quality(pq=0.375, sq=0.375, rq=0.5, num_classes=2)
    """

    iou: Float64[Tensor, " k"]
    true_positives: Int64[Tensor, " k"]
    false_positives: Int64[Tensor, " k"]
    false_negatives: Int64[Tensor, " k"]
    classes: ClassTable

    def __init__(
        self,
        iou: Float64[Tensor, " k"],
        true_positives: Int64[Tensor, " k"],
        false_positives: Int64[Tensor, " k"],
        false_negatives: Int64[Tensor, " k"],
        classes: ClassTable,
    ) -> None:
        if len(iou) != len(classes):
            raise ValueError(f"{len(classes)} classes need as many counts, got {len(iou)}")
        self.__dict__.update(
            iou=iou.cpu(),
            true_positives=true_positives.cpu(),
            false_positives=false_positives.cpu(),
            false_negatives=false_negatives.cpu(),
            classes=classes,
        )

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"scores are frozen: {name} cannot be set")

    @property
    def pq(self) -> Float64[Tensor, " k"]:
        """Panoptic quality of each class."""
        return torch.where(self._seen, self.iou / self._segments, torch.nan)

    @property
    def sq(self) -> Float64[Tensor, " k"]:
        """Mean IoU of each class's matches; 0 for a class with errors only."""
        return torch.where(self._seen, self.iou / self.true_positives.clamp_min(1), torch.nan)

    @property
    def rq(self) -> Float64[Tensor, " k"]:
        """F1 of each class's segments."""
        return torch.where(self._seen, self.true_positives / self._segments, torch.nan)

    @property
    def overall(self) -> Quality:
        """Means over all classes; nan with a warning if none was seen."""
        return self._mean(range(len(self.classes)))

    @property
    def things(self) -> Quality:
        """Means over the classes that are things."""
        return self._mean(self.classes.things)

    @property
    def stuff(self) -> Quality:
        """Means over the other classes."""
        return self._mean([label for label in range(len(self.classes)) if label not in self.classes.things])

    def __repr__(self) -> str:
        segments = int((self.true_positives + self.false_negatives).sum())
        means = f"PQ {self.overall.pq:.4f}" if self._seen.any() else "no segment counted"
        return f"PanopticScores({means}, {len(self.classes)} classes, {segments} segments)"

    @property
    def _segments(self) -> Float64[Tensor, " k"]:
        return self.true_positives + 0.5 * self.false_positives.double() + 0.5 * self.false_negatives.double()

    @property
    def _seen(self) -> Bool[Tensor, " k"]:
        return self._segments > 0

    def _mean(self, labels: Sequence[int]) -> Quality:
        seen = [label for label in sorted(labels) if self._seen[label]]
        if not seen:
            warnings.warn("no segment of these classes was counted: the score is nan", stacklevel=3)
            return Quality(float("nan"), float("nan"), float("nan"), 0)
        pq, sq, rq = (sum(x[seen].tolist()) / len(seen) for x in (self.pq, self.sq, self.rq))
        return Quality(pq, sq, rq, len(seen))


class PanopticMetrics(Metric):
    """Panoptic quality over everything seen by all processes.

    Args:
        classes: the task; `things` splits the means.

    >>> metrics = PanopticMetrics(ClassTable.of("sky", "car"))
    >>> target = PanopticMap.of(torch.tensor([[1, 1, 2]]), torch.tensor([1, 2]), torch.tensor([0, 1]))
    >>> prediction = PanopticMap.of(torch.tensor([[7, 7, 7]]), torch.tensor([7]), torch.tensor([0]))
    >>> metrics.update(prediction, target)
    >>> metrics.compute().pq.tolist()
    [0.6666666666666666, 0.0]
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    iou: Float64[Tensor, " k"]
    true_positives: Int64[Tensor, " k"]
    false_positives: Int64[Tensor, " k"]
    false_negatives: Int64[Tensor, " k"]

    def __init__(self, classes: ClassTable) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("iou", torch.zeros(len(classes), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("true_positives", "false_positives", "false_negatives"):
            self.add_state(name, torch.zeros(len(classes), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        prediction: PanopticMap | Sequence[PanopticMap],
        target: PanopticMap | Sequence[PanopticMap],
        ids: Sequence[str] = (),
    ) -> None:
        """Count one image or several.

        Args:
            prediction: the predicted segments of each image.
            target: those that are there.
            ids: names of the images, for the message of an error.

        Raises:
            ValueError: if numbers of images or sizes differ, a table does not fit its map (a predicted id
                stands in one of them only, an id twice, void as an id), or a label is outside the classes.
        """
        predictions = [prediction] if isinstance(prediction, PanopticMap) else list(prediction)
        targets = [target] if isinstance(target, PanopticMap) else list(target)
        if len(predictions) != len(targets):
            raise ValueError(f"{len(targets)} targets need as many predictions, got {len(predictions)}")
        names = ids if len(ids) == len(targets) else [""] * len(targets)
        images = zip(predictions, targets, names, strict=True)
        self.add(
            [
                count_segments(SegmentArrays.of(one), SegmentArrays.of(other), self.classes, name)
                for one, other, name in images
            ]
        )

    def add(self, counted: Sequence["Counted"]) -> None:
        """Add what `count_segments` counted in some images."""
        if not counted:
            return
        matched, iou_of_match, false_positives, false_negatives = (
            np.concatenate(parts) for parts in zip(*counted, strict=True)
        )
        iou = self.iou.cpu().numpy().copy()
        np.add.at(iou, matched, iou_of_match)  # one by one, in the order in which panopticapi adds
        self.iou = torch.from_numpy(iou).to(self.iou.device)
        self.true_positives = self.true_positives + self._per_class(matched)
        self.false_positives = self.false_positives + self._per_class(false_positives)
        self.false_negatives = self.false_negatives + self._per_class(false_negatives)

    def compute(self) -> PanopticScores:
        """Scores of everything seen by all processes."""
        return PanopticScores(
            self.iou, self.true_positives, self.false_positives, self.false_negatives, self.classes
        )

    def _per_class(self, labels: Int64[np.ndarray, " n"]) -> Int64[Tensor, " k"]:
        return torch.from_numpy(np.bincount(labels, minlength=len(self.classes))).to(self.iou.device)


def panoptic_quality(
    prediction: PanopticMap | Sequence[PanopticMap],
    target: PanopticMap | Sequence[PanopticMap],
    classes: ClassTable,
    ids: Sequence[str] = (),
) -> PanopticScores:
    """Panoptic quality of one image or several; see `PanopticMetrics.update`."""
    metrics = PanopticMetrics(classes)
    metrics.update(prediction, target, ids)
    scores: PanopticScores = metrics.compute()
    return scores


# --- one image ------------------------------------------------------------------------------------


class Counted(NamedTuple):
    """What one image adds to the counts.

    Attributes:
        matched: label of each match, in ascending order of the target's ids.
        iou: its IoU.
        false_positives: labels of the false positives.
        false_negatives: labels of the false negatives.
    """

    matched: Int64[np.ndarray, " tp"]
    iou: Float64[np.ndarray, " tp"]
    false_positives: Int64[np.ndarray, " fp"]
    false_negatives: Int64[np.ndarray, " fn"]


def count_segments(
    prediction: SegmentArrays, target: SegmentArrays, classes: ClassTable, where: str = ""
) -> Counted:
    """Match the segments of one image; the rules stand at the top of this file.

    Ids in the target's map that its table lacks are neither void nor a segment, and segments of its table
    that lie nowhere are false negatives, both as in panopticapi.

    Raises:
        ValueError: as `PanopticMetrics.update` says.
    """
    if prediction.id_map.shape != target.id_map.shape:
        raise ValueError(
            f"prediction and target must have one shape, got {tuple(prediction.id_map.shape)} and "
            f"{tuple(target.id_map.shape)}{named(where)}"
        )
    p = _table(prediction, "predicted", classes, where)
    t = _table(target, "target", classes, where)
    rows = overlaps(target.id_map, prediction.id_map)
    crowd_of = np.full(len(classes), -1)
    for crowd in sorted(t.is_crowd.nonzero()[0], key=t.rows.__getitem__):
        crowd_of[t.labels[crowd]] = crowd  # of several the last of the table remains
    places, iou, area, ignored, unknown = compare_segments(
        rows, t.ids, t.labels, t.is_crowd, t.areas, p.ids, p.labels, crowd_of
    )
    if unknown:
        lost = rows[(places[:, 1] < 0) & (rows[:, 1] != VOID), 1].min()
        raise ValueError(f"the predicted segment {lost}{named(where)} is in the map, but not in the table")
    if not area.all():
        raise ValueError(
            f"the predicted segment {p.ids[area == 0][0]}{named(where)} is in the table, but not in the map"
        )
    hit = (iou > 0.5).nonzero()[0]
    hit = hit[(places[hit, 0] * len(p.ids) + places[hit, 1]).argsort()]  # by ids: target, then prediction
    found, right = places[hit].T
    false_negatives, false_positives = ~t.is_crowd, ignored / area <= 0.5
    false_negatives[found] = false_positives[right] = False
    return Counted(t.labels[found], iou[hit], p.labels[false_positives], t.labels[false_negatives])


class _Table(NamedTuple):
    """The columns of a table by ascending ids, areas -1 where unknown, and the row where each stood."""

    ids: Int64[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]
    is_crowd: Bool[np.ndarray, " n"]
    areas: Int64[np.ndarray, " n"]
    rows: Int64[np.ndarray, " n"]


def _table(segments: SegmentArrays, name: str, classes: ClassTable, where: str) -> _Table:
    """The checked columns of a table."""
    ids = segments.ids.astype(np.int64, copy=False)
    rows = ids.argsort()
    ids, labels = ids[rows], segments.classes[rows].astype(np.int64, copy=False)
    if not is_sound(ids, labels, len(classes)):
        raise _fault(ids, labels, name, len(classes), where)
    areas = np.full(len(ids), -1)
    if segments.areas is not None:
        areas = segments.areas.astype(np.int64)[rows]
    return _Table(ids, labels, segments.is_crowd[rows], areas, rows)


def _fault(
    ids: Int64[np.ndarray, " n"], labels: Int64[np.ndarray, " n"], name: str, num_classes: int, where: str
) -> ValueError:
    """What is wrong with a table."""
    if (repeated := ids[1:][ids[1:] == ids[:-1]]).size:
        return ValueError(f"the {name} segment {repeated[0]}{named(where)} stands in the table twice")
    if (ids == VOID).any():
        return ValueError(f"the {name} table{named(where)} has a segment {VOID}, but that id means void")
    wrong = (labels < 0) | (labels >= num_classes)
    return ValueError(
        f"the {name} segment {ids[wrong][0]}{named(where)} has the unknown label {labels[wrong][0]}, "
        f"expected 0..{num_classes - 1}"
    )
