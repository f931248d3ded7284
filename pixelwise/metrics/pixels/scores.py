"""Scores of a confusion matrix, as FCN defines them (Long et al., CVPR 2015, Sec. 5).

With n_ij pixels of class i predicted as j, support t_i = sum_j n_ij and predicted p_j = sum_i n_ij:

    IoU_i = n_ii / (t_i + p_i - n_ii)      Dice_i = F1_i = 2 n_ii / (t_i + p_i)
    accuracy_i = recall_i = n_ii / t_i     precision_i = n_ii / p_i

What a class scores where a fraction is 0 / 0 is the rule `absent`:

    support  predicted  score              "exclude"  "zero"  "one"
    0        0          every              left out   0       1       the class is absent
    0        some       IoU, Dice, prec.   0          0       0       an error, under every rule
    0        some       accuracy           left out   0       0       there was nothing to find
    some     0          IoU, Dice, acc.    0          0       0       an error, under every rule
    some     0          precision          left out   0       0       nothing was claimed

Left out means nan for the class and no part in the mean. Without a single counted pixel every score is nan.
"""

import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ...types import ClassTable, Report

Absent = Literal["exclude", "zero", "one"]


class ClassScore(NamedTuple):
    """One row of the table that people print."""

    name: str
    iou: float
    accuracy: float
    dice: float
    support: int


class PerClass(ABC):
    """Scores of each class from three counts, and their means, under one rule for absent classes. Frozen.

    Not a dataclass: torchmetrics takes those apart and puts them together changed.

    Attributes:
        classes: the task.
        absent: what a class scores that is neither in target nor in prediction; see the top of this file.
    """

    classes: ClassTable
    absent: Absent

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"scores are frozen: {name} cannot be set")

    @property
    @abstractmethod
    def true_positives(self) -> Int64[Tensor, " k"]:
        """Number of pixels of each class that were predicted as it."""

    @property
    @abstractmethod
    def support(self) -> Int64[Tensor, " k"]:
        """Number of pixels of each class in the target."""

    @property
    @abstractmethod
    def predicted(self) -> Int64[Tensor, " k"]:
        """Number of pixels predicted as each class."""

    @property
    @abstractmethod
    def counted(self) -> int:
        """Number of pixels that were counted; times the classes where each is asked for at every pixel."""

    # --- per class ------------------------------------------------------------------------------

    @property
    def iou(self) -> Float64[Tensor, " k"]:
        """Intersection over union (Jaccard index)."""
        return self._ratio(self.true_positives, self.support + self.predicted - self.true_positives)

    @property
    def dice(self) -> Float64[Tensor, " k"]:
        """Dice coefficient, the same number as F1."""
        return self._ratio(2 * self.true_positives, self.support + self.predicted)

    @property
    def f1(self) -> Float64[Tensor, " k"]:
        """Harmonic mean of precision and recall, the same number as Dice."""
        return self.dice

    @property
    def accuracy(self) -> Float64[Tensor, " k"]:
        """Share of a class's pixels that were found, the same number as recall."""
        return self._ratio(self.true_positives, self.support)

    @property
    def recall(self) -> Float64[Tensor, " k"]:
        """Share of a class's pixels that were found."""
        return self.accuracy

    @property
    def precision(self) -> Float64[Tensor, " k"]:
        """Share of the pixels predicted as a class that are of it."""
        return self._ratio(self.true_positives, self.predicted)

    # --- over classes -----------------------------------------------------------------------------

    @property
    def mean_accuracy(self) -> float:
        """Mean of `accuracy` over classes."""
        return self._mean(self.accuracy)

    @property
    def mean_iou(self) -> float:
        """Mean of `iou` over classes."""
        return self._mean(self.iou)

    @property
    def mean_dice(self) -> float:
        """Mean of `dice` over classes."""
        return self._mean(self.dice)

    # --- to print ----------------------------------------------------------------------------------

    def rows(self) -> list[ClassScore]:
        """The scores of each class, in the order of the table."""
        columns = zip(
            self.classes.names,
            self.iou.tolist(),
            self.accuracy.tolist(),
            self.dice.tolist(),
            self.support.tolist(),
            strict=True,
        )
        return [ClassScore(*row) for row in columns]

    def report(self) -> Report:
        """The scores as every task reports them."""
        columns = zip(
            self.classes.names,
            self.iou.tolist(),
            self.dice.tolist(),
            self.precision.tolist(),
            self.recall.tolist(),
            self.support.tolist(),
            strict=True,
        )
        names = ("IoU", "Dice", "precision", "recall", "support")
        rule = {"exclude": "left out of the means", "zero": "counted as 0", "one": "counted as 1"}[
            self.absent
        ]
        return Report(
            self.as_dict(),
            {name: dict(zip(names, row, strict=True)) for name, *row in columns},
            note=f"Support in pixels. Classes that are neither in the target nor predicted are {rule}.",
        )

    @abstractmethod
    def as_dict(self) -> dict[str, float]:
        """The scores over classes, by name."""

    def __repr__(self) -> str:
        means = "no pixel counted" if not self.counted else f"mean IoU {self.mean_iou:.4f}"
        name, rule = type(self).__name__, self.absent
        return f"{name}({means}, {len(self.classes)} classes, {self.counted} pixels, absent={rule!r})"

    def _ratio(self, part: Tensor, whole: Tensor) -> Float64[Tensor, " k"]:
        neither = self.support + self.predicted == 0
        if self.absent == "exclude" or not self.counted:
            undefined = torch.full_like(whole, torch.nan, dtype=torch.float64)
        else:
            undefined = (neither & (self.absent == "one")).double()
        return torch.where(whole > 0, part.double() / whole.clamp_min(1), undefined)

    def _mean(self, per_class: Float64[Tensor, " k"]) -> float:
        self._warn_if_empty()
        return float(per_class.nanmean())

    def _warn_if_empty(self) -> None:
        if not self.counted:
            warnings.warn("no labelled pixel was counted: the score is nan", UserWarning, stacklevel=4)


class Scores(PerClass):
    """Everything that one confusion matrix tells. Frozen.

    Args:
        matrix: rows are targets, columns predictions.
        classes: the task.
        absent: what a class scores that is neither in target nor in prediction; see the top of this file.

    Raises:
        ValueError: if the matrix does not fit the classes, or the rule is unknown.

    >>> scores = Scores(torch.tensor([[3, 1], [0, 4]]), ClassTable.of("sky", "road"))
    >>> scores.iou.tolist(), scores.pixel_accuracy, scores.kappa
    ([0.75, 0.8], 0.875, 0.75)
    """

    matrix: Int64[Tensor, "k k"]

    def __init__(self, matrix: Int64[Tensor, "k k"], classes: ClassTable, absent: Absent = "exclude") -> None:
        if tuple(matrix.shape) != (len(classes), len(classes)):
            raise ValueError(
                f"{len(classes)} classes need a square matrix of that side, got {tuple(matrix.shape)}"
            )
        check_rule(absent)
        self.__dict__.update(matrix=matrix.cpu(), classes=classes, absent=absent)

    @property
    def true_positives(self) -> Int64[Tensor, " k"]:
        """Number of pixels of each class that were predicted as it."""
        return self.matrix.diagonal()

    @property
    def support(self) -> Int64[Tensor, " k"]:
        """Number of pixels of each class in the target."""
        return self.matrix.sum(1)

    @property
    def predicted(self) -> Int64[Tensor, " k"]:
        """Number of pixels predicted as each class."""
        return self.matrix.sum(0)

    @property
    def counted(self) -> int:
        """Number of pixels that were counted."""
        return int(self.matrix.sum())

    @property
    def pixel_accuracy(self) -> float:
        """Share of the counted pixels that are right."""
        return self._of_pixels(self.true_positives.double())

    @property
    def frequency_weighted_iou(self) -> float:
        """Sum over classes of support times IoU, over the number of counted pixels."""
        return self._of_pixels(torch.where(self.support > 0, self.support * self.iou, 0.0))

    @property
    def kappa(self) -> float:
        """Cohen's kappa: agreement beyond chance, at most 1, below 0 where chance agrees more often.

        (p_o - p_e) / (1 - p_e) with p_o the share of right pixels and p_e the share that maps with the same
        frequencies of classes, but nothing else in common, would get right (Cohen, Educational and
        Psychological Measurement 1960). nan where both maps hold one class only, the same: 0 / 0.
        """
        self._warn_if_empty()
        pixels = self.counted
        pairs = zip(self.support.tolist(), self.predicted.tolist(), strict=True)
        chance = sum(annotated * found for annotated, found in pairs)  # whole numbers, as large as they get
        if chance == pixels**2:
            return math.nan
        return (int(self.true_positives.sum()) * pixels - chance) / (pixels**2 - chance)

    def as_dict(self) -> dict[str, float]:
        """The scores over classes, by name."""
        return {
            "mean_iou": self.mean_iou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "frequency_weighted_iou": self.frequency_weighted_iou,
            "mean_dice": self.mean_dice,
        }

    def report(self) -> Report:
        """The scores as every task reports them, with the confusion matrix."""
        return replace(super().report(), confusion=self.matrix)

    def _of_pixels(self, per_class: Float64[Tensor, " k"]) -> float:
        self._warn_if_empty()
        return float(per_class.sum()) / self.counted if self.counted else math.nan


def check_rule(absent: str) -> None:
    """Refuse a rule for absent classes that there is not.

    Raises:
        ValueError: with the rules that there are.

    >>> check_rule("one")
    """
    if absent not in ("exclude", "zero", "one"):
        raise ValueError(f"absent must be exclude, zero or one, got {absent!r}")
