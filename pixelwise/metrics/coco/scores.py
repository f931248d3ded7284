"""The numbers that COCO reports, from curves of precision and recall."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from .curves import IOU_THRESHOLDS, Curves
from .errors import DetectionErrors
from .shapes import Kind


class ScoreRow(NamedTuple):
    """One line of the table that people print; `value` is nan where no target counts."""

    name: str
    threshold: float | None
    area: str
    max_detections: int
    value: float


class CocoScores:
    """Everything that an evaluation by COCO's rules tells. Frozen.

    Not a dataclass: torchmetrics takes those apart and puts them together changed.

    The official numbers (`rows`, `as_dict`) are AP, AP50, AP75, AP_small, AP_medium, AP_large, AR1, AR10,
    AR100, AR_small, AR_medium, AR_large for boxes, masks and boundaries; AP, AP50, AP75, AP_medium, AP_large,
    AR, AR50, AR75, AR_medium, AR_large for keypoints. Each is a mean over thresholds, recalls and the classes
    that have a target; without any it is nan here and -1 in `stats` and in the arrays, as in pycocotools.
    With other numbers of detections than COCO's, all are at the largest but the AR that names its number
    (pycocotools says -1 for AP then).

    Args:
        kind: what was compared.
        class_names: one per class, or none where classes were pooled.
        curves: precision, recall and scores.
        max_detections: how many detections of an image and class count; the last axis of the curves.
        area_ranges: lowest and highest area by name, the range of all first; the axis before.
        num_targets: how many targets of each class are to be found; none where nobody counted.
        find_errors: tells what kinds of errors cost how much; None where that is not known.
    """

    kind: Kind
    class_names: tuple[str, ...]
    curves: Curves
    max_detections: tuple[int, ...]
    area_ranges: Mapping[str, tuple[float, float]]
    num_targets: tuple[int, ...]
    find_errors: Callable[[], DetectionErrors] | None

    def __init__(
        self,
        kind: Kind,
        class_names: tuple[str, ...],
        curves: Curves,
        max_detections: tuple[int, ...],
        area_ranges: Mapping[str, tuple[float, float]],
        num_targets: tuple[int, ...] = (),
        find_errors: Callable[[], DetectionErrors] | None = None,
    ) -> None:
        self.__dict__.update(
            kind=kind,
            class_names=class_names,
            curves=curves,
            max_detections=max_detections,
            area_ranges=area_ranges,
            num_targets=num_targets,
            find_errors=find_errors,
        )

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"scores are frozen: {name} cannot be set")

    @cached_property
    def errors(self) -> DetectionErrors | None:
        """What kinds of errors cost how much, computed when first asked for; None where that is not known."""
        return None if self.find_errors is None else self.find_errors()

    @property
    def precision(self) -> Float64[np.ndarray, "t r k a m"]:
        """Precision by IoU threshold, recall, class, range of areas and number of detections."""
        return self.curves.precision

    @property
    def recall(self) -> Float64[np.ndarray, "t k a m"]:
        """Highest recall by IoU threshold, class, range of areas and number of detections."""
        return self.curves.recall

    @property
    def scores(self) -> Float64[np.ndarray, "t r k a m"]:
        """Score of the detection at which each recall is reached, laid out as `precision`."""
        return self.curves.scores

    @property
    def ap(self) -> float:
        """COCO's AP: mean over IoU thresholds 0.50:0.05:0.95, 101 recalls and classes."""
        return self.average_precision()

    @property
    def per_class_ap(self) -> Float64[np.ndarray, " k"]:
        """AP of each class; nan without a target."""
        return self.class_average_precision()

    def class_average_precision(self, threshold: float | None = None) -> Float64[np.ndarray, " k"]:
        """AP of each class at one IoU threshold or over all; nan without a target.

        Raises:
            ValueError: on an unknown threshold.
        """
        ap = self.precision[self._threshold(threshold)][:, :, :, 0, -1].mean((0, 1))
        return np.where(ap > -1, ap, np.nan)

    def average_precision(self, threshold: float | None = None, area: str = "") -> float:
        """Mean precision at one IoU threshold or over all, in one range of areas (the first without a name).

        Raises:
            ValueError: on an unknown threshold or range.
        """
        return mean_of_counted(self.precision[self._threshold(threshold)][:, :, :, self._area(area), -1])

    def average_recall(
        self, threshold: float | None = None, area: str = "", max_detections: int | None = None
    ) -> float:
        """Mean of the highest recalls; `max_detections` is the largest number unless given.

        Raises:
            ValueError: on an unknown threshold, range or number.
        """
        m = len(self.max_detections) - 1
        if max_detections is not None:
            m = _position(max_detections, self.max_detections, "number of detections")
        return mean_of_counted(self.recall[self._threshold(threshold)][:, :, self._area(area), m])

    def rows(self) -> list[ScoreRow]:
        """The official numbers in the official order."""
        most = self.max_detections[-1]
        parts = tuple(self.area_ranges)[1:]
        rows = [ScoreRow("AP", None, "", most, self.average_precision())]
        rows += [ScoreRow(f"AP{100 * t:.0f}", t, "", most, self.average_precision(t)) for t in (0.5, 0.75)]
        rows += [ScoreRow(f"AP_{a}", None, a, most, self.average_precision(area=a)) for a in parts]
        if self.kind == "keypoints":
            rows.append(ScoreRow("AR", None, "", most, self.average_recall()))
            rows += [ScoreRow(f"AR{100 * t:.0f}", t, "", most, self.average_recall(t)) for t in (0.5, 0.75)]
        else:
            numbers = self.max_detections
            rows += [ScoreRow(f"AR{m}", None, "", m, self.average_recall(max_detections=m)) for m in numbers]
        rows += [ScoreRow(f"AR_{a}", None, a, most, self.average_recall(area=a)) for a in parts]
        everything = next(iter(self.area_ranges))
        return [row._replace(area=row.area or everything) for row in rows]

    def as_dict(self) -> dict[str, float]:
        """The official numbers by name."""
        return {row.name: row.value for row in self.rows()}

    @property
    def stats(self) -> Float64[np.ndarray, " s"]:
        """The official numbers as pycocotools gives them: -1 where there is no target."""
        return np.nan_to_num(np.array([row.value for row in self.rows()]), nan=-1.0)

    def table(self) -> str:
        """The official numbers as text, one per line."""
        first, last = IOU_THRESHOLDS[0], IOU_THRESHOLDS[-1]
        lines = [f"{'score':<10} {'IoU':>9} {'area':>7} {'max':>4} {'value':>6}"]
        for row in self.rows():
            iou = f"{first:.2f}:{last:.2f}" if row.threshold is None else f"{row.threshold:.2f}"
            lines.append(f"{row.name:<10} {iou:>9} {row.area:>7} {row.max_detections:>4} {row.value:>6.3f}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"CocoScores(AP {self.ap:.4f}, kind={self.kind!r}, {self.precision.shape[2]} classes)"

    def _threshold(self, threshold: float | None) -> slice:
        if threshold is None:
            return slice(None)
        t = _position(threshold, tuple(IOU_THRESHOLDS.round(2).tolist()), "IoU threshold")
        return slice(t, t + 1)

    def _area(self, area: str) -> int:
        return _position(area, tuple(self.area_ranges), "range of areas") if area else 0


def _position(value: Any, values: tuple[Any, ...], name: str) -> int:
    if value not in values:
        raise ValueError(f"the {name} must be one of {', '.join(map(str, values))}, got {value}")
    return values.index(value)


def mean_of_counted(values: Float64[np.ndarray, "..."]) -> float:
    """Mean of the entries that are not -1; nan if all are."""
    values = values[values > -1]
    return float(values.mean()) if values.size else float("nan")
