"""Scores of each image beside those of the data set.

The mean IoU of a data set is that of its pixels: large objects and large images weigh most. Means over images
weigh every image, or every image in which a class occurs, alike (Wang et al., "Revisiting Evaluation Metrics
for Semantic Segmentation", NeurIPS 2023).
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from ...types import ClassTable, LabelMap
from ..rows import RowMetric
from .scores import Absent, Scores, check_rule
from .segmentation import check_exclusive, counts


class PerImageScores:
    """One confusion matrix per image, and what they tell together.

    Args:
        matrices: rows are targets, columns predictions.
        classes: the task.
        absent: what a class scores that is neither in target nor in prediction of an image; see `Scores`.

    Raises:
        ValueError: if the matrices do not fit the classes, or the rule is unknown.

    >>> matrices = torch.tensor([[[4, 0], [0, 4]], [[0, 2], [0, 2]]])
    >>> scores = PerImageScores(matrices, ClassTable.of("sky", "road"))
    >>> scores.image_mean_iou, scores.class_mean_iou
    (0.625, 0.625)
    >>> [image.mean_iou for image in scores.images]
    [1.0, 0.25]
    """

    matrices: Int64[Tensor, "n k k"]
    classes: ClassTable
    absent: Absent

    def __init__(
        self, matrices: Int64[Tensor, "n k k"], classes: ClassTable, absent: Absent = "exclude"
    ) -> None:
        k = len(classes)
        if tuple(matrices.shape[1:]) != (k, k):
            raise ValueError(f"{k} classes need matrices of {k} x {k}, got {tuple(matrices.shape)}")
        check_rule(absent)
        self.matrices, self.classes, self.absent = matrices.cpu(), classes, absent

    @property
    def data_set(self) -> Scores:
        """Scores over the pixels of all images."""
        return Scores(self.matrices.sum(0), self.classes, self.absent)

    @property
    def images(self) -> list[Scores]:
        """Scores of each image, in the order in which they were seen."""
        return [Scores(matrix, self.classes, self.absent) for matrix in self.matrices]

    @property
    def iou(self) -> Float64[Tensor, "n k"]:
        """IoU of each class in each image; nan where the rule leaves it out."""
        return torch.stack([image.iou for image in self.images]) if len(self.matrices) else _no_iou(self)

    @property
    def image_mean_iou(self) -> float:
        """Mean over images of their mean IoU; images without a labelled pixel are left out."""
        return float(self.iou.nanmean(1).nanmean())

    @property
    def class_mean_iou(self) -> float:
        """Mean over classes of their mean IoU over the images that the rule does not leave out."""
        return float(self.iou.nanmean(0).nanmean())

    def of_each(self, score: Callable[[Scores], float]) -> Float64[Tensor, " n"]:
        """One score of every image; nan for images without a labelled pixel.

        >>> scores = PerImageScores(torch.tensor([[[1, 1], [0, 0]]]), ClassTable.of("sky", "road"))
        >>> scores.of_each(lambda image: image.pixel_accuracy)
        tensor([0.5000], dtype=torch.float64)
        """
        values = [score(image) if image.counted else math.nan for image in self.images]
        return torch.tensor(values, dtype=torch.float64)


class PerImageMetrics(RowMetric):
    """One confusion matrix per image over everything seen by all processes, processes in turn.

    Args:
        classes: the task.
        absent: what a class scores that is neither in target nor in prediction of an image; see `Scores`.

    Raises:
        ValueError: if the classes are not exclusive, or the rule is unknown.

    >>> metrics = PerImageMetrics(ClassTable.of("sky", "road"))
    >>> metrics.update(torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 0], [1, 1]]))
    >>> [image.pixel_accuracy for image in metrics.compute().images]
    [0.5, 1.0]
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    matrices: list[Int64[Tensor, "b k k"]]

    def __init__(self, classes: ClassTable, absent: Absent = "exclude") -> None:
        super().__init__()
        check_exclusive(classes)
        check_rule(absent)
        self.classes, self.absent = classes, absent
        self.add_rows("matrices", len(classes), len(classes), dtype=torch.int64)

    def update(
        self,
        prediction: LabelMap | Integer[Tensor, "b *grid"] | Float[Tensor, "b k *grid"],
        target: LabelMap | Integer[Tensor, "b *grid"],
        ids: Sequence[str] = (),
    ) -> None:
        """Count a batch of images.

        Args:
            prediction: one class per pixel; or scores at the size of the target.
            target: one class per pixel, or the table's `ignore`.
            ids: names of the samples, for the message of an error.

        Raises:
            ValueError: as `SegmentationMetrics.update`; and if prediction and target are not as many images.
        """
        prediction = prediction.labels if isinstance(prediction, LabelMap) else prediction
        target = target.labels if isinstance(target, LabelMap) else target
        for name, labels in ("prediction", prediction), ("target", target):
            if labels.ndim == 0:
                raise ValueError(f"{name} must be a batch of maps, got a single number")
        if len(prediction) != len(target):
            raise ValueError(f"{len(target)} targets need as many predictions, got {len(prediction)}")
        if not len(target):
            return
        names = ids if len(ids) == len(target) else [""] * len(target)
        pairs = zip(prediction.split(1), target.split(1), names, strict=True)
        found = [counts(one, other, self.classes, (name,)) for one, other, name in pairs]
        if found:
            self.matrices.append(torch.stack(found))

    def compute(self) -> PerImageScores:
        """Scores of every image seen by all processes."""
        return PerImageScores(self.rows("matrices"), self.classes, self.absent)


def _no_iou(scores: PerImageScores) -> Float64[Tensor, "0 k"]:
    return torch.zeros(0, len(scores.classes), dtype=torch.float64)
