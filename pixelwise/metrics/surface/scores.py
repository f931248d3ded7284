"""Surface distances per class, accumulated over images and processes."""

import math
import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float64, Int64, Integer
from torch import Tensor

from ...kernels.boundaries.distance import checked_spacing
from ...types import ClassTable, LabelMap
from ..checked import checked_labels
from ..rows import RowMetric
from .distances import Elements, check_elements, surface_distances, volumetric_dice

_SCORES = ("hausdorff", "hausdorff_percentile", "average_distance", "surface_dice", "volumetric_dice")


class SurfaceScores:
    """Scores of every image and class, and their means over the images where they are defined.

    Args:
        values: per image and class the five scores in the order of the properties below.
        classes: the task.
        missed: the distance that stands for an image in which exactly one of both has the class.

    >>> values = torch.tensor([[[4.0, 3.0, 1.0, 0.5, 0.75]], [[2.0, 2.0, 1.0, 1.0, 0.25]]]).double()
    >>> SurfaceScores(values, ClassTable.of("liver")).hausdorff_percentile.tolist()
    [2.5]
    """

    values: Float64[Tensor, "n k 5"]
    classes: ClassTable
    missed: float

    def __init__(
        self, values: Float64[Tensor, "n k 5"], classes: ClassTable, missed: float = math.inf
    ) -> None:
        self.values, self.classes, self.missed = values.cpu(), classes, missed

    @property
    def hausdorff(self) -> Float64[Tensor, " k"]:
        """Mean Hausdorff distance of each class, in the unit of the spacing."""
        return self._mean(0)

    @property
    def hausdorff_percentile(self) -> Float64[Tensor, " k"]:
        """Mean of the percentile asked for (HD95)."""
        return self._mean(1)

    @property
    def average_distance(self) -> Float64[Tensor, " k"]:
        """Mean average symmetric surface distance (ASSD)."""
        return self._mean(2)

    @property
    def surface_dice(self) -> Float64[Tensor, " k"]:
        """Mean normalised surface Dice (NSD)."""
        return self._mean(3)

    @property
    def volumetric_dice(self) -> Float64[Tensor, " k"]:
        """Mean Dice of the masks."""
        return self._mean(4)

    @property
    def images(self) -> Int64[Tensor, " k"]:
        """In how many images the prediction or the target has each class: the others count nowhere."""
        return (~self.values[..., 0].isnan()).sum(0)

    @property
    def one_empty(self) -> Int64[Tensor, " k"]:
        """In how many images exactly one of both has each class."""
        return self.values[..., 0].isinf().sum(0)

    def as_dict(self) -> dict[str, float]:
        """The scores over classes, by name: means over the classes that have one."""
        if not self.images.any():
            warnings.warn("no class was in any image: the scores are nan", UserWarning, stacklevel=2)
        return {name: float(self._mean(i).nanmean()) for i, name in enumerate(_SCORES)}

    def __repr__(self) -> str:
        images, classes, _ = self.values.shape
        return f"SurfaceScores({images} images, {classes} classes, missed={self.missed})"

    def _mean(self, score: int) -> Float64[Tensor, " k"]:
        values = self.values[..., score]
        return torch.where(values.isinf(), self.missed, values).nanmean(0)


class SurfaceMetrics(RowMetric):
    """Hausdorff distances, average surface distance, surface and volumetric Dice of every class.

    Cells whose target is the table's `ignore` belong to no class, in the prediction as in the target.

    Args:
        classes: the task.
        spacing: length of a cell along each axis; as many numbers as an image has axes (two or three).
        tolerance: of the surface Dice, in the unit of the spacing: one for all classes, or one for each.
        percentile: of the second Hausdorff distance.
        elements: what a surface is made of; see `pixelwise.metrics.surface.distances`.
        missed: the distance that stands for an image in which exactly one of both has the class: inf, a
        length
            such as the diagonal of the image, or nan to leave it out.

    Raises:
        ValueError: if the classes are not exclusive, or an argument is not as told above.

    >>> metrics = SurfaceMetrics(ClassTable.of("background", "liver"))
    >>> target = torch.zeros(8, 8, dtype=torch.long)
    >>> target[2:5, 2:5] = 1
    >>> metrics.update(target.roll(1, 0), target)
    >>> metrics.compute().hausdorff.tolist()
    [1.0, 1.0]
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    values: list[Tensor]

    def __init__(
        self,
        classes: ClassTable,
        spacing: tuple[float, ...] = (1.0, 1.0),
        tolerance: float | tuple[float, ...] = 1.0,
        percentile: float = 95.0,
        elements: Elements = "voxels",
        missed: float = math.inf,
    ) -> None:
        super().__init__()
        if not classes.exclusive:
            raise ValueError(
                "these metrics need exclusive classes (one per pixel), this table has exclusive=False"
            )
        if len(spacing) not in (2, 3):
            raise ValueError(f"spacing must be two or three numbers, one for each axis, got {spacing}")
        tolerances = tolerance if isinstance(tolerance, tuple) else (tolerance,) * len(classes)
        if len(tolerances) != len(classes) or not all(one >= 0 for one in tolerances):
            raise ValueError(
                f"tolerance must be one number of at least 0, or one for each of {len(classes)} classes, "
                f"got {tolerance}"
            )
        if not 0 <= percentile <= 100:
            raise ValueError(f"a percentile in 0..100 is expected, got {percentile}")
        check_elements(elements)
        self.classes, self.tolerances, self.percentile = classes, tolerances, percentile
        self.spacing, self.elements, self.missed = checked_spacing(spacing, len(spacing)), elements, missed
        self.add_rows("values", len(classes), 5, dtype=torch.float64)

    def update(
        self,
        prediction: LabelMap | Integer[Tensor, "..."],
        target: LabelMap | Integer[Tensor, "..."],
        ids: Sequence[str] = (),
        *,
        spacing: tuple[float, ...] | None = None,
    ) -> None:
        """Measure one image, or a batch of them along one more axis before those of the spacing.

        Args:
            prediction: one class per cell.
            target: one class per cell, or the table's `ignore`.
            ids: names of the images, for the message of an error.
            spacing: of these images where it differs from the metric's own.

        Raises:
            ValueError: if the shapes differ or do not fit the spacing, or a cell that counts has a class
                outside the table.
        """
        prediction = prediction.labels if isinstance(prediction, LabelMap) else prediction
        target = target.labels if isinstance(target, LabelMap) else target
        prediction, target = checked_labels(prediction, "prediction"), checked_labels(target, "target")
        axes = len(self.spacing)
        own = self.spacing if spacing is None else checked_spacing(spacing, axes)
        if prediction.shape != target.shape:
            raise ValueError(
                f"prediction and target must have one shape, got {tuple(prediction.shape)} and "
                f"{tuple(target.shape)}"
            )
        if target.ndim not in (axes, axes + 1):
            raise ValueError(
                f"prediction and target must have {axes} axes (as spacing has) or be a batch of such, "
                f"got shape {tuple(target.shape)}"
            )
        if target.ndim == axes:
            prediction, target = prediction[None], target[None]
        rows = []
        for i, (one, other) in enumerate(zip(prediction, target, strict=True)):
            where = f" in {ids[i]}" if len(ids) == len(target) else ""
            rows.append(self._scores(one, other, own, where))
        if rows:
            self.values.append(torch.stack(rows).to(self.device))

    def compute(self) -> SurfaceScores:
        """Scores of everything seen by all processes."""
        return SurfaceScores(self.rows("values"), self.classes, self.missed)

    def _scores(
        self, prediction: Tensor, target: Tensor, spacing: tuple[float, ...], where: str
    ) -> Float64[Tensor, "k 5"]:
        counted = target != self.classes.ignore
        for name, labels in (("prediction", prediction[counted]), ("target", target[counted])):
            if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
                wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
                raise ValueError(
                    f"{name} holds the label {wrong}{where}, outside the table of {len(self.classes)} classes"
                )
        rows = []
        for label, tolerance in enumerate(self.tolerances):
            masks = (prediction == label) & counted, target == label
            distances = surface_distances(*masks, spacing=spacing, elements=self.elements)
            rows.append(
                (
                    distances.hausdorff(),
                    distances.hausdorff(self.percentile),
                    distances.average,
                    distances.surface_dice(tolerance),
                    volumetric_dice(*masks),
                )
            )
        return torch.tensor(rows, dtype=torch.float64)
