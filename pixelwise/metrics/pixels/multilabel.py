"""Scores where a pixel may have several classes, or none: one yes or no per class (`exclusive=False`)."""

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor
from torchmetrics import Metric

from ...types import ClassTable
from ..checked import checked_labels
from .confusion import confusion_matrix
from .scores import Absent, PerClass, check_rule


def multilabel_matrices(
    prediction: Integer[Tensor, "b k *grid"] | Float[Tensor, "b k *grid"],
    target: Integer[Tensor, "b k *grid"],
    *,
    ignore: int = 255,
    threshold: float = 0.0,
) -> Int64[Tensor, "k 2 2"]:
    """One confusion matrix of no (0) and yes (1) per class: [[true no, false yes], [false no, true yes]].

    Args:
        prediction: 0 or 1 per class and pixel; or scores, of which those above `threshold` mean yes.
        target: 0, 1 or `ignore` per class and pixel.
        ignore: target of places that do not count.
        threshold: of scores; 0 for logits is 0.5 for probabilities.

    Raises:
        ValueError: if the shapes differ, or a counted place holds another label than 0 and 1; names the
            class.

    >>> target = torch.tensor([[[1, 1, 0], [0, 255, 1]]])  # b k n = 1 2 3
    >>> multilabel_matrices(torch.tensor([[[1, 0, 0], [1, 1, 1]]]), target).tolist()
    [[[1, 0], [1, 1]], [[0, 1], [0, 1]]]
    """
    if prediction.shape != target.shape or target.ndim < 2:
        raise ValueError(
            f"prediction and target must have one shape (b, k, ...), got {tuple(prediction.shape)} and "
            f"{tuple(target.shape)}"
        )
    if not prediction.is_floating_point():
        prediction = checked_labels(prediction, "prediction")
    target = checked_labels(target, "target")
    matrices = []
    for number in range(target.shape[1]):
        found = prediction[:, number]
        found = (found > threshold).view(torch.uint8) if found.is_floating_point() else found
        where = f"class {number}"
        matrices.append(confusion_matrix(found, target[:, number], 2, ignore=ignore, where=where))
    return torch.stack(matrices) if matrices else torch.zeros(0, 2, 2, dtype=torch.long)


class MultilabelScores(PerClass):
    """Scores of each class from its own pixels, by the rules of `Scores`. Frozen.

    Args:
        matrices: one per class, of no and yes; rows are targets.
        classes: the task.
        absent: what a class scores that is neither in target nor in prediction; see `Scores`.

    Raises:
        ValueError: if the matrices do not fit the classes, or the rule is unknown.

    >>> classes = ClassTable(("car", "wheel"), ((0, 0, 0), (9, 9, 9)), exclusive=False)
    >>> scores = MultilabelScores(torch.tensor([[[4, 0], [1, 3]], [[6, 1], [0, 1]]]), classes)
    >>> scores.iou.tolist(), scores.mean_iou
    ([0.75, 0.5], 0.625)
    """

    matrices: Int64[Tensor, "k 2 2"]

    def __init__(
        self, matrices: Int64[Tensor, "k 2 2"], classes: ClassTable, absent: Absent = "exclude"
    ) -> None:
        if tuple(matrices.shape) != (len(classes), 2, 2):
            raise ValueError(
                f"{len(classes)} classes need as many 2 x 2 matrices, got {tuple(matrices.shape)}"
            )
        check_rule(absent)
        self.__dict__.update(matrices=matrices.cpu(), classes=classes, absent=absent)

    @property
    def true_positives(self) -> Int64[Tensor, " k"]:
        """Number of pixels of each class that were predicted as it."""
        return self.matrices[:, 1, 1]

    @property
    def support(self) -> Int64[Tensor, " k"]:
        """Number of pixels of each class in the target."""
        return self.matrices[:, 1].sum(1)

    @property
    def predicted(self) -> Int64[Tensor, " k"]:
        """Number of pixels predicted as each class."""
        return self.matrices[:, :, 1].sum(1)

    @property
    def counted(self) -> int:
        """Number of answers, yes or no, that were counted: one per class and labelled pixel."""
        return int(self.matrices.sum())

    def as_dict(self) -> dict[str, float]:
        """The scores over classes, by name."""
        return {
            "mean_dice": self.mean_dice,
            "mean_iou": self.mean_iou,
            "mean_accuracy": self.mean_accuracy,
        }


class MultilabelMetrics(Metric):
    """One matrix of no and yes per class over everything seen, and its scores.

    Args:
        classes: the task, with `exclusive=False`.
        absent: what a class scores that is neither in target nor in prediction; see `Scores`.
        threshold: scores above it mean yes; 0 for logits is 0.5 for probabilities.

    Raises:
        ValueError: if the classes are exclusive, or the rule is unknown.

    >>> classes = ClassTable(("car", "wheel"), ((0, 0, 0), (9, 9, 9)), exclusive=False)
    >>> metrics = MultilabelMetrics(classes)
    >>> metrics.update(torch.tensor([[[2.0, -1.0], [0.5, -3.0]]]), torch.tensor([[[1, 1], [1, 0]]]))
    >>> metrics.compute().iou.tolist()
    [0.5, 1.0]
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    matrices: Int64[Tensor, "k 2 2"]

    def __init__(self, classes: ClassTable, absent: Absent = "exclude", threshold: float = 0.0) -> None:
        super().__init__()
        if classes.exclusive:
            raise ValueError("these metrics need a table with exclusive=False: use SegmentationMetrics")
        check_rule(absent)
        self.classes, self.absent, self.threshold = classes, absent, threshold
        empty = torch.zeros(len(classes), 2, 2, dtype=torch.long)
        self.add_state("matrices", empty, dist_reduce_fx="sum")

    def update(
        self,
        prediction: Integer[Tensor, "b k *grid"] | Float[Tensor, "b k *grid"],
        target: Integer[Tensor, "b k *grid"],
    ) -> None:
        """Count a batch of images.

        Args:
            prediction: 0 or 1 per class and pixel, or scores.
            target: 0, 1 or the table's `ignore` per class and pixel.

        Raises:
            ValueError: if the shapes differ or do not fit the table, or a counted place holds another label
                than 0 and 1.
        """
        if target.ndim < 2 or target.shape[1] != len(self.classes):
            raise ValueError(
                f"a target of {len(self.classes)} classes must have the shape (b, {len(self.classes)}, ...), "
                f"got {tuple(target.shape)}"
            )
        found = multilabel_matrices(prediction, target, ignore=self.classes.ignore, threshold=self.threshold)
        self.matrices = self.matrices + found

    def compute(self) -> MultilabelScores:
        """Scores of everything seen by all processes."""
        return MultilabelScores(self.matrices, self.classes, self.absent)
