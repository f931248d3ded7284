"""What a page shows of scores. The page knows this type only; another task fills it in its own way."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..metrics import Scores
from ..types import ClassTable

_ABSENT = {"exclude": "left out of the means", "zero": "counted as 0", "one": "counted as 1"}


@dataclass(frozen=True)
class ReportTable:
    """Numbers by name, and columns of numbers with one row per class.

    Attributes:
        classes: names and colours of the rows.
        values: headline numbers, the most important first.
        per_class: columns by name, the most important first; nan where a class has no score.
        support: number of pixels of each class in the truth.
        remarks: sentences below the table.
    """

    classes: ClassTable
    values: Mapping[str, float]
    per_class: Mapping[str, tuple[float, ...]]
    support: tuple[int, ...]
    remarks: tuple[str, ...] = ()

    @classmethod
    def of_scores(cls, scores: Scores) -> "ReportTable":
        """The scores of label maps."""
        return cls(
            scores.classes,
            {
                "mean IoU": scores.mean_iou,
                "pixel accuracy": scores.pixel_accuracy,
                "mean recall": scores.mean_accuracy,
                "mean Dice": scores.mean_dice,
                "weighted IoU": scores.frequency_weighted_iou,
            },
            {
                "IoU": tuple(scores.iou.tolist()),
                "precision": tuple(scores.precision.tolist()),
                "recall": tuple(scores.recall.tolist()),
                "Dice": tuple(scores.dice.tolist()),
            },
            tuple(scores.support.tolist()),
            (
                "Precision: of the pixels predicted as a class, the share that is of it. Recall, also called "
                "accuracy: of the pixels of a class, the share that was found.",
                f"Classes that are neither in the truth nor predicted are {_ABSENT[scores.absent]}.",
            ),
        )

    def mean(self, column: str) -> float:
        """Mean over the classes that have a score."""
        known = [value for value in self.per_class[column] if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan
