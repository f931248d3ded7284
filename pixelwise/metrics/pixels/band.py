"""Scores of the pixels near the boundaries of the target, where segmentations differ most.

Kohli, Ladicky and Torr (IJCV 2009) count errors in a "trimap", a narrow band along the boundaries of the
target; Kraehenbuehl and Koltun (NIPS 2011) and Chen et al. (DeepLab, TPAMI 2018) plot them over its width.
PASCAL VOC draws a strip of ignored pixels along every boundary: the band then lies on either side of it.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from ...kernels.boundaries.band import near_another_label
from ...types import ClassTable, LabelMap
from ..checked import checked_labels
from .confusion import confusion_matrix
from .scores import Absent, Scores
from .segmentation import SegmentationMetrics


def boundary_band(target: Integer[Tensor, "*b H W"], radius: int | float) -> Bool[Tensor, "*b H W"]:
    """True on pixels at most `radius` away from a pixel with another label.

    Distances are Euclidean, in pixels, between centres: a radius of 1 is the pixel on either side of a
    boundary. Ignored pixels have a label like any other, so a boundary with them is one too; the border of
    the image is none.

    Args:
        target: one label per pixel.
        radius: half the width of the band in pixels.

    Raises:
        ValueError: if the radius is below 1 or the target has no height and width.

    >>> boundary_band(torch.tensor([[0, 0, 0, 1, 1]]), 1)
    tensor([[False, False,  True,  True, False]])
    """
    target = checked_labels(target, "target")
    if not radius >= 1:
        raise ValueError(f"the radius of a band must be at least 1 pixel, got {radius}")
    if target.ndim < 2:
        raise ValueError(f"a band needs a target with height and width, got shape {tuple(target.shape)}")
    band = torch.empty(target.shape, dtype=torch.bool)
    if not target.numel():
        return band.to(target.device)
    images = target.detach().cpu().reshape(-1, *target.shape[-2:])
    for image, found in zip(images, band.view(-1, *target.shape[-2:]), strict=True):
        found.copy_(torch.from_numpy(near_another_label(image.numpy(), float(radius))))
    return band.to(target.device)


def band_scores(
    prediction: Integer[Tensor, "*b H W"],
    target: Integer[Tensor, "*b H W"],
    classes: ClassTable,
    radius: int | float,
    absent: Absent = "exclude",
) -> Scores:
    """Scores of the labelled pixels at most `radius` away from a boundary of the target.

    `pixel_accuracy` is the share of right pixels of Kohli's trimap, `mean_iou` the figure of DeepLab.

    Args:
        prediction: one class per pixel.
        target: one class per pixel, or the table's `ignore`.
        classes: the task.
        radius: half the width of the band in pixels, at least 1.
        absent: what a class scores that is neither in target nor in prediction; see `Scores`.

    Raises:
        ValueError: if the shapes differ, the radius is below 1, or a counted pixel has a class outside the
            table.

    >>> target, prediction = torch.tensor([[0, 0, 0, 1, 1]]), torch.tensor([[1, 0, 0, 0, 1]])
    >>> band_scores(prediction, target, ClassTable.of("sky", "road"), radius=1).pixel_accuracy
    0.5
    """
    target = _in_band(target, radius, classes.ignore)
    matrix = confusion_matrix(prediction, target, len(classes), ignore=classes.ignore)
    return Scores(matrix, classes, absent)


class BandMetrics(SegmentationMetrics):
    """`SegmentationMetrics` of the pixels at most `radius` away from a boundary of the target.

    Args:
        classes: the task.
        radius: half the width of the band in pixels, at least 1.
        absent: what a class scores that is neither in target nor in prediction; see `Scores`.

    Raises:
        ValueError: if the classes are not exclusive, the rule is unknown or the radius is below 1.

    >>> metrics = BandMetrics(ClassTable.of("sky", "road"), radius=1)
    >>> metrics.update(torch.tensor([[1, 0, 0, 0, 1]]), torch.tensor([[0, 0, 0, 1, 1]]))
    >>> metrics.compute().pixel_accuracy
    0.5
    """

    def __init__(self, classes: ClassTable, radius: int | float, absent: Absent = "exclude") -> None:
        super().__init__(classes, absent)
        if not radius >= 1:
            raise ValueError(f"the radius of a band must be at least 1 pixel, got {radius}")
        self.radius = radius

    def update(
        self,
        prediction: LabelMap | Integer[Tensor, "..."] | Float[Tensor, "b k *grid"],
        target: LabelMap | Integer[Tensor, "..."],
        ids: Sequence[str] = (),
    ) -> None:
        """Count one image or a batch of them; arguments and errors as in `SegmentationMetrics.update`."""
        target = target.labels if isinstance(target, LabelMap) else target
        super().update(prediction, _in_band(target, self.radius, self.classes.ignore), ids)


def _in_band(
    target: Integer[Tensor, "*b H W"], radius: int | float, ignore: int
) -> Integer[Tensor, "*b H W"]:
    """The target with every pixel ignored that lies outside the band."""
    target = checked_labels(target, "target")
    limits = torch.iinfo(target.dtype)
    outside = ~boundary_band(target, radius)
    if not limits.min <= ignore <= limits.max:
        target = target.long()
    return target.masked_fill(outside, ignore)
