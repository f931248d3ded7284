"""Average precision of pixels, and the threshold with the highest Dice, for classes that are not exclusive.

With the pixels of a class sorted by falling probability, precision and recall after the first n of them give
AP = sum over n of (recall_n - recall_(n-1)) precision_n (step-wise, without interpolation; scikit-learn's
`average_precision_score`). Probabilities are counted in 1,000 bins of equal width, so pixels in one bin count
as tied, and AP is that of probabilities rounded down to 0.001.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor
from torchmetrics import Metric

from ...types import ClassTable
from ..checked import checked_labels

BINS = 1000


class PixelCurves(NamedTuple):
    """Precision and recall of each class over the thresholds 0, 0.001, ..., 0.999; nan without a target.

    Attributes:
        precision: share of the pixels at or above the threshold that are of the class; 1 where there is none.
        recall: share of the class's pixels that are at or above it.
        dice: at each threshold.
        average_precision: per class.
        best_thresholds: per class, the lowest one with the highest Dice; 0.5 without a target.
    """

    precision: Float64[Tensor, "k t"]
    recall: Float64[Tensor, "k t"]
    dice: Float64[Tensor, "k t"]
    average_precision: Float64[Tensor, " k"]
    best_thresholds: Float64[Tensor, " k"]


class PixelPrecisionRecall(Metric):
    """Precision-recall curves of probabilities, accumulated over images and processes.

    Args:
        classes: the task, with `exclusive=False`.

    >>> classes = ClassTable(("car",), ((0, 0, 9),), exclusive=False)
    >>> curves = PixelPrecisionRecall(classes)
    >>> curves.update(torch.tensor([[0.9, 0.8, 0.2, 0.1]]), torch.tensor([[1, 0, 1, 0]]))
    >>> found = curves.compute()
    >>> round(found.average_precision.item(), 4), round(found.best_thresholds.item(), 3)
    (0.8333, 0.101)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    counts: Int64[Tensor, "k 2 t"]

    def __init__(self, classes: ClassTable) -> None:
        super().__init__()
        self.classes = classes
        empty = torch.zeros(len(classes), 2, BINS, dtype=torch.long)
        self.add_state("counts", empty, dist_reduce_fx="sum")

    def update(self, probabilities: Float[Tensor, "k *grid"], target: Integer[Tensor, "k *grid"]) -> None:
        """Count one image.

        Args:
            probabilities: of each class at each pixel, in [0, 1].
            target: 0, 1 or the table's `ignore`.

        Raises:
            ValueError: if the shapes differ or do not fit the table, a probability lies outside [0, 1], or a
                target is none of these three; names the class.
        """
        target = checked_labels(target, "target")
        if not probabilities.is_floating_point():
            raise ValueError(f"probabilities must be floating-point numbers, got {probabilities.dtype}")
        if probabilities.shape != target.shape or len(target) != len(self.classes):
            raise ValueError(
                f"probabilities and target of {len(self.classes)} classes must have one shape, got "
                f"{tuple(probabilities.shape)} and {tuple(target.shape)}"
            )
        counts = []
        for number, (found, labels) in enumerate(zip(probabilities.detach(), target, strict=True)):
            if not ((found >= 0) & (found <= 1)).all():
                raise ValueError(f"probabilities of class {number} must lie in [0, 1]: give no logits")
            if not ((labels == 0) | (labels == 1) | (labels == self.classes.ignore)).all():
                raise ValueError(f"target of class {number} must hold 0, 1 or {self.classes.ignore} (ignore)")
            place = (found.double() * BINS).long().clamp_(max=BINS - 1)
            each = [place[labels == label].bincount(minlength=BINS) for label in (0, 1)]
            counts.append(torch.stack(each))
        self.counts = self.counts + torch.stack(counts)

    def compute(self) -> PixelCurves:
        """Curves of everything seen by all processes."""
        above = self.counts.double().flip(-1).cumsum(-1).flip(-1)  # at or above each threshold
        false_positives, true_positives = above[:, 0], above[:, 1]
        support = true_positives[:, :1]
        precision = torch.where(
            true_positives + false_positives > 0, true_positives / (true_positives + false_positives), 1.0
        )
        nothing = torch.where(support > 0, 1.0, torch.nan)
        recall = true_positives / support.clamp_min(1) * nothing
        dice = 2 * true_positives / (support + true_positives + false_positives).clamp_min(1) * nothing
        steps = recall - torch.nn.functional.pad(recall[:, 1:], (0, 1))
        best = torch.where(support[:, 0] > 0, dice.nan_to_num().argmax(1).double() / BINS, 0.5)
        return PixelCurves(precision, recall, dice, (steps * precision).sum(1), best)
