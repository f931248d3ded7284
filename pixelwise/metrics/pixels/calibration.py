"""Whether a model knows how sure it may be: its confidence against how often it is right.

Pixels are put into bins of equal width by the probability of the predicted class. Where a model is well
calibrated, the mean confidence of every bin is the share of its pixels that are right (Guo et al.,
"On Calibration of Modern Neural Networks", ICML 2017, Sec. 2).
"""

import math
import warnings
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor
from torchmetrics import Metric

from ..checked import checked_labels

_AT_ONCE = 1 << 20  # pixels that are binned together: the memory for it does not grow with the map


class Bin(NamedTuple):
    """One row of the reliability table: confidences above `low`, up to `high`; nan without pixels."""

    low: float
    high: float
    pixels: int
    confidence: float
    accuracy: float


class Calibration:
    """The reliability table and its errors; tables of several images add up by their three counts.

    Args:
        pixels: in each bin.
        right: those of them whose predicted class is the target.
        confidence: sum over the pixels of each bin.

    >>> table = Calibration(torch.tensor([1, 3]), torch.tensor([1, 2]), torch.tensor([0.5, 2.4]).double())
    >>> round(table.expected_error, 4), round(table.maximum_error, 4)
    (0.225, 0.5)
    """

    pixels: Int64[Tensor, " bins"]
    right: Int64[Tensor, " bins"]
    confidence: Float64[Tensor, " bins"]

    def __init__(
        self,
        pixels: Int64[Tensor, " bins"],
        right: Int64[Tensor, " bins"],
        confidence: Float64[Tensor, " bins"],
    ) -> None:
        self.pixels, self.right, self.confidence = pixels.cpu(), right.cpu(), confidence.cpu()

    @property
    def gaps(self) -> Float64[Tensor, " bins"]:
        """Distance between accuracy and mean confidence of each bin; nan without pixels."""
        return (self.right.double() - self.confidence).abs() / self.pixels

    @property
    def expected_error(self) -> float:
        """Mean of the gaps, each weighted by its share of the pixels (ECE, Guo et al., Eq. 3)."""
        return self._or_nan(float((self.right.double() - self.confidence).abs().sum()) / max(1, self.counted))

    @property
    def maximum_error(self) -> float:
        """Largest gap of a bin that has pixels (MCE, Guo et al., Eq. 5)."""
        return self._or_nan(float(self.gaps.nan_to_num(0.0).max()))

    @property
    def counted(self) -> int:
        """Number of labelled pixels."""
        return int(self.pixels.sum())

    def rows(self) -> list[Bin]:
        """The reliability table, least sure first.

        >>> Calibration(torch.tensor([2]), torch.tensor([1]), torch.tensor([1.5]).double()).rows()
        [Bin(low=0.0, high=1.0, pixels=2, confidence=0.75, accuracy=0.5)]
        """
        bins = len(self.pixels)
        means = (self.confidence / self.pixels).tolist()
        shares = (self.right.double() / self.pixels).tolist()
        return [Bin(i / bins, (i + 1) / bins, int(self.pixels[i]), means[i], shares[i]) for i in range(bins)]

    def _or_nan(self, value: float) -> float:
        if self.counted:
            return value
        warnings.warn("no labelled pixel was counted: the error is nan", UserWarning, stacklevel=3)
        return math.nan


def calibration(
    confidence: Float[Tensor, "*grid"],
    prediction: Integer[Tensor, "*grid"],
    target: Integer[Tensor, "*grid"],
    *,
    bins: int = 15,
    ignore: int = 255,
) -> Calibration:
    """The reliability table of a prediction.

    Bin m of M holds confidences in ((m - 1) / M, m / M], as in the paper; a confidence of 0 is in the first.

    Args:
        confidence: probability of the predicted class, in [0, 1], as `decode.confidence` gives it.
        prediction: one class per pixel.
        target: one class per pixel, or `ignore`.
        bins: M; 15 in the paper.
        ignore: target of pixels that do not count.

    Raises:
        ValueError: if the shapes differ, there is no bin, or a counted confidence lies outside [0, 1].

    >>> confidence, prediction = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 0, 0])
    >>> round(calibration(confidence, prediction, torch.tensor([1, 0, 1]), bins=2).expected_error, 4)
    0.1333
    """
    if not confidence.is_floating_point():
        raise ValueError(f"confidence must hold probabilities in [0, 1], got {confidence.dtype}")
    prediction = checked_labels(prediction, "prediction")
    target = checked_labels(target, "target")
    if not confidence.shape == prediction.shape == target.shape:
        raise ValueError(
            f"confidence, prediction and target must have one shape, got {tuple(confidence.shape)}, "
            f"{tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    if bins < 1:
        raise ValueError(f"calibration needs at least one bin, got {bins}")
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=confidence.device)
    pixels, right = (torch.zeros(bins, dtype=torch.long, device=confidence.device) for _ in range(2))
    total = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    maps = (each.detach().flatten().split(_AT_ONCE) for each in (confidence, prediction, target))
    for sure, found, wanted in zip(*maps, strict=True):
        counted = wanted != ignore
        sure, hit = sure[counted].double(), (found == wanted)[counted]
        if not ((sure >= 0) & (sure <= 1)).all():
            raise ValueError("confidence must lie in [0, 1]: give probabilities, not logits")
        place = (torch.bucketize(sure, edges) - 1).clamp_(0, bins - 1)
        pixels += place.bincount(minlength=bins)
        right += place[hit].bincount(minlength=bins)
        total += place.bincount(weights=sure, minlength=bins)
    return Calibration(pixels, right, total)


class CalibrationMetrics(Metric):
    """The reliability table over everything seen.

    Args:
        bins: of equal width.
        ignore: target of pixels that do not count.

    Raises:
        ValueError: if there is no bin.

    >>> metrics = CalibrationMetrics(bins=10)
    >>> metrics.update(torch.tensor([0.9, 0.9]), torch.tensor([1, 0]), torch.tensor([1, 1]))
    >>> round(metrics.compute().expected_error, 4)
    0.4
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    pixels: Int64[Tensor, " bins"]
    right: Int64[Tensor, " bins"]
    confidence: Float64[Tensor, " bins"]

    def __init__(self, bins: int = 15, ignore: int = 255) -> None:
        super().__init__()
        if bins < 1:
            raise ValueError(f"calibration needs at least one bin, got {bins}")
        self.bins, self.ignore = bins, ignore
        self.add_state("pixels", torch.zeros(bins, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("right", torch.zeros(bins, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("confidence", torch.zeros(bins, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        confidence: Float[Tensor, "*grid"],
        prediction: Integer[Tensor, "*grid"],
        target: Integer[Tensor, "*grid"],
    ) -> None:
        """Add the pixels of one image or a batch; arguments and errors as in `calibration`."""
        found = calibration(confidence, prediction, target, bins=self.bins, ignore=self.ignore)
        self.pixels = self.pixels + found.pixels.to(self.pixels.device)
        self.right = self.right + found.right.to(self.right.device)
        self.confidence = self.confidence + found.confidence.to(self.confidence.device)

    def compute(self) -> Calibration:
        """The table of everything seen by all processes."""
        return Calibration(self.pixels, self.right, self.confidence)
