"""Semantic segmentation scores, accumulated over images and processes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor
from torchmetrics import Metric

from ...types import ClassTable, LabelMap
from ..checked import checked_labels
from .confusion import confusion_from_logits, confusion_matrix
from .scores import Absent, Scores, check_rule


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
        check_exclusive(classes)
        check_rule(absent)  # now, not after an epoch
        self.classes, self.absent = classes, absent
        empty = torch.zeros(len(classes), len(classes), dtype=torch.long)
        self.add_state("matrix", empty, dist_reduce_fx="sum")

    def update(
        self,
        prediction: LabelMap | Integer[Tensor, "..."] | Float[Tensor, "b k *grid"],
        target: LabelMap | Integer[Tensor, "..."],
        ids: Sequence[str] = (),
    ) -> None:
        """Count one image or a batch of them.

        Args:
            prediction: one class per pixel; or scores "b k *grid" at the size of the target, of which the
                highest counts (faster than `argmax` and without its memory).
            target: one class per pixel, or the table's `ignore`.
            ids: names of the samples along the first axis, for the message of an error.

        Raises:
            ValueError: if the shapes differ, or a counted pixel has a class outside the table; names the
                sample where `ids` are given.
        """
        self.matrix = self.matrix + counts(prediction, target, self.classes, ids)

    def compute(self) -> Scores:
        """Scores of everything seen by all processes."""
        return Scores(self.matrix, self.classes, self.absent)


def counts(
    prediction: LabelMap | Integer[Tensor, "..."] | Float[Tensor, "b k *grid"],
    target: LabelMap | Integer[Tensor, "..."],
    classes: ClassTable,
    ids: Sequence[str] = (),
) -> Int64[Tensor, "k k"]:
    """The confusion matrix of a batch of labels or scores.

    Args:
        prediction: one class per pixel, or scores "b k *grid".
        target: one class per pixel, or the table's `ignore`.
        classes: the task.
        ids: names of the samples along the first axis, for the message of an error.

    Raises:
        ValueError: as `SegmentationMetrics.update`.

    >>> counts(torch.tensor([[0, 1]]), torch.tensor([[0, 0]]), ClassTable.of("sky", "road"))
    tensor([[1, 1],
            [0, 0]])
    """
    prediction = prediction.labels if isinstance(prediction, LabelMap) else prediction
    target = target.labels if isinstance(target, LabelMap) else target
    try:
        return _counts(prediction, target, classes)
    except ValueError:
        if prediction.ndim and target.ndim and len(prediction) == len(ids) == len(target):
            for name, one, other in zip(ids, prediction.split(1), target.split(1), strict=True):
                _counts(one, other, classes, name)
        raise


def check_exclusive(classes: ClassTable) -> None:
    """Refuse a table whose classes overlap, for metrics of one class per pixel.

    Raises:
        ValueError: with the metrics to use instead.

    >>> check_exclusive(ClassTable.of("sky", "road"))
    """
    if not classes.exclusive:
        raise ValueError(
            "these metrics need exclusive classes (one per pixel), this table has exclusive=False: "
            "use MultilabelMetrics"
        )


def _counts(prediction: Tensor, target: Tensor, classes: ClassTable, where: str = "") -> Int64[Tensor, "k k"]:
    if not prediction.is_floating_point():
        return confusion_matrix(prediction, target, len(classes), ignore=classes.ignore, where=where)
    target = checked_labels(target, "target")
    if prediction.ndim < 2 or prediction.shape[1] != len(classes):
        raise ValueError(
            f"prediction: scores of {len(classes)} classes must have the shape (b, {len(classes)}, ...), "
            f"got {tuple(prediction.shape)}"
        )
    return confusion_from_logits(prediction, target, ignore=classes.ignore, where=where)
