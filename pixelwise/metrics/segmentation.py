"""Semantic segmentation scores, accumulated over images and processes."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64, Integer
from torch import Tensor
from torchmetrics import Metric

from ..types import ClassTable, LabelMap
from .confusion import confusion_matrix
from .scores import Absent, Scores


class SegmentationMetrics(Metric):
    """One integer confusion matrix over everything seen, and its scores.

    Args:
        classes: the task.
        absent: what a class scores that is neither in target nor in prediction; see `Scores`.

    Raises:
        ValueError: if the classes are not exclusive, or the rule is unknown.

    >>> metrics = SegmentationMetrics(ClassTable.of("sky", "road"))
    >>> metrics.update(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))
    >>> metrics.compute().mean_iou
    0.5
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    matrix: Int64[Tensor, "k k"]

    def __init__(self, classes: ClassTable, absent: Absent = "exclude") -> None:
        super().__init__()
        if not classes.exclusive:
            raise ValueError(
                "these metrics need exclusive classes (one per pixel), this table has exclusive=False"
            )
        empty = torch.zeros(len(classes), len(classes), dtype=torch.long)
        Scores(empty, classes, absent)  # an unknown rule is told now, not after an epoch
        self.classes, self.absent = classes, absent
        self.add_state("matrix", empty, dist_reduce_fx="sum")

    def update(
        self,
        prediction: LabelMap | Integer[Tensor, "..."],
        target: LabelMap | Integer[Tensor, "..."],
        ids: Sequence[str] = (),
    ) -> None:
        """Count one image or a batch of them.

        Args:
            prediction: one class per pixel.
            target: one class per pixel, or the table's `ignore`.
            ids: names of the samples along the first axis, for the message of an error.

        Raises:
            ValueError: if the shapes differ, or a counted pixel has a class outside the table; names the
                sample where `ids` are given.
        """
        prediction = prediction.labels if isinstance(prediction, LabelMap) else prediction
        target = target.labels if isinstance(target, LabelMap) else target
        try:
            self.matrix = self.matrix + self._counts(prediction, target)
        except ValueError:
            if prediction.shape == target.shape and len(ids) == len(target):
                for name, one, other in zip(ids, prediction, target, strict=True):
                    self._counts(one, other, name)
            raise

    def compute(self) -> Scores:
        """Scores of everything seen by all processes."""
        return Scores(self.matrix, self.classes, self.absent)

    def _counts(self, prediction: Tensor, target: Tensor, where: str = "") -> Int64[Tensor, "k k"]:
        return confusion_matrix(
            prediction, target, len(self.classes), ignore=self.classes.ignore, where=where
        )
