"""How far the surface of a prediction lies from that of its target, in two and three dimensions.

Two rules say what a surface is made of; both are standard, and their numbers differ a little:

    "voxels"  the cells of a mask that share a face with background, each counting the same; a percentile
              between two distances is interpolated linearly.
              As MONAI, MedPy and SciPy's Hausdorff distance have it.
    "areas"   the corners between cells inside and outside, each counting with the length or area of the
              surface around it; a percentile is the least distance that this share of the surface does not
              exceed. As DeepMind's surface-distance (Nikolov et al., J. Med. Internet Res. 2021) has it.

Outside of the grid is background. Where a mask is empty there is no surface to be near to: with one of the
two empty, every distance is inf and Dice 0; with both empty, all are nan, for there was nothing to measure.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64
from torch import Tensor

from ...kernels.boundaries.distance import checked_spacing
from ...kernels.boundaries.surface import surface_distances_between
from .areas import element_areas

Elements = Literal["voxels", "areas"]


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances between two surfaces, from which every score follows; made by `surface_distances`.

    Attributes:
        to_target: of each element of the prediction's surface, in the unit of the spacing, rising.
        to_prediction: of each element of the target's surface, rising.
        prediction_sizes: what each element of the prediction's surface counts, in the same order: 1 under the
            rule "voxels", its length or area under "areas".
        target_sizes: likewise of the target's.
        elements: the rule.
    """

    to_target: Float64[np.ndarray, " n"]
    to_prediction: Float64[np.ndarray, " m"]
    prediction_sizes: Float64[np.ndarray, " n"]
    target_sizes: Float64[np.ndarray, " m"]
    elements: Elements

    def hausdorff(self, percentile: float = 100.0) -> float:
        """Hausdorff distance: the larger of both directions' percentiles (95 gives HD95, 100 the maximum).

        Raises:
            ValueError: if the percentile is not in 0..100.
        """
        if not 0 <= percentile <= 100:
            raise ValueError(f"a percentile in 0..100 is expected, got {percentile}")
        if self._undefined is not None:
            return self._undefined
        return max(
            self._percentile(self.to_target, self.prediction_sizes, percentile),
            self._percentile(self.to_prediction, self.target_sizes, percentile),
        )

    @property
    def average(self) -> float:
        """Average symmetric surface distance (ASSD): the mean over all elements of both surfaces."""
        if self._undefined is not None:
            return self._undefined
        total = self.to_target @ self.prediction_sizes + self.to_prediction @ self.target_sizes
        return float(total / (self.prediction_sizes.sum() + self.target_sizes.sum()))

    @property
    def averages(self) -> tuple[float, float]:
        """Mean distance from the prediction to the target, and from the target to the prediction.

        Their mean is what MedPy calls ASSD, and Metrics Reloaded MASD.
        """
        if self._undefined is not None:
            return self._undefined, self._undefined
        return (
            float(self.to_target @ self.prediction_sizes / self.prediction_sizes.sum()),
            float(self.to_prediction @ self.target_sizes / self.target_sizes.sum()),
        )

    def surface_dice(self, tolerance: float) -> float:
        """Normalised surface Dice (NSD): the share of both surfaces within `tolerance` of the other.

        Raises:
            ValueError: if the tolerance is negative or not a number.
        """
        if not tolerance >= 0:
            raise ValueError(f"a tolerance of at least 0 is expected, got {tolerance}")
        total = self.prediction_sizes.sum() + self.target_sizes.sum()
        if total == 0:
            return math.nan
        if self._undefined is not None:
            return 0.0
        near = self.prediction_sizes[: self.to_target.searchsorted(tolerance, "right")].sum()
        near += self.target_sizes[: self.to_prediction.searchsorted(tolerance, "right")].sum()
        return float(near / total)

    @cached_property
    def _undefined(self) -> float | None:
        """The distance that an empty mask gives; None where both surfaces exist."""
        if len(self.to_target) and len(self.to_prediction):
            return None
        return math.inf if len(self.to_target) or len(self.to_prediction) else math.nan

    def _percentile(
        self, distances: Float64[np.ndarray, " n"], sizes: Float64[np.ndarray, " n"], percentile: float
    ) -> float:
        if self.elements == "voxels":
            return float(np.percentile(distances, percentile))
        shares = sizes.cumsum() / sizes.sum()
        return float(distances[min(int(shares.searchsorted(percentile / 100)), len(distances) - 1)])


def surface_distances(
    prediction: Bool[Tensor, "*grid"],
    target: Bool[Tensor, "*grid"],
    *,
    spacing: tuple[float, ...] | None = None,
    elements: Elements = "voxels",
) -> SurfaceDistances:
    """Measure both surfaces once, for several scores.

    Args:
        prediction: a mask on a grid of two or three axes.
        target: a mask on the same grid.
        spacing: length of a cell along each axis, for example in mm; 1 without it.
        elements: the rule; see the top of this file.

    Raises:
        ValueError: if the shapes differ, the grid has other than two or three axes, the spacing does not fit
            it, or the rule is unknown.

    >>> import torch
    >>> prediction, target = torch.zeros(2, 6, 6, dtype=torch.bool)
    >>> prediction[1:4, 1:4], target[1:4, 2:5] = True, True
    >>> distances = surface_distances(prediction, target, spacing=(1.0, 0.5))
    >>> distances.hausdorff(), distances.average, distances.surface_dice(0.2)
    (0.5, 0.25, 0.5)
    """
    check_elements(elements)
    masks = [mask.detach().cpu().numpy() for mask in (prediction, target)]
    areas = elements == "areas"
    found = surface_distances_between(masks[0], masks[1], spacing, corners=areas)
    sorted_pairs = []
    for distances, codes in found:
        if areas:
            sizes = element_areas(checked_spacing(spacing, prediction.ndim))[codes]
            order = distances.argsort()
            sorted_pairs.append((distances[order], sizes[order]))
        else:
            sorted_pairs.append((np.sort(distances), np.ones(len(distances))))
    (to_target, prediction_sizes), (to_prediction, target_sizes) = sorted_pairs
    return SurfaceDistances(to_target, to_prediction, prediction_sizes, target_sizes, elements)


def hausdorff_distance(
    prediction: Bool[Tensor, "*grid"],
    target: Bool[Tensor, "*grid"],
    percentile: float = 100.0,
    *,
    spacing: tuple[float, ...] | None = None,
    elements: Elements = "voxels",
) -> float:
    """Hausdorff distance, or with a percentile of 95 HD95; see `SurfaceDistances.hausdorff`.

    Raises:
        ValueError: as `surface_distances`, or if the percentile is not in 0..100.

    >>> import torch
    >>> prediction, target = torch.zeros(2, 6, 6, dtype=torch.bool)
    >>> prediction[1:4, 1:4], target[1:4, 1:6] = True, True
    >>> hausdorff_distance(prediction, target)
    2.0
    """
    return surface_distances(prediction, target, spacing=spacing, elements=elements).hausdorff(percentile)


def average_surface_distance(
    prediction: Bool[Tensor, "*grid"],
    target: Bool[Tensor, "*grid"],
    *,
    spacing: tuple[float, ...] | None = None,
    elements: Elements = "voxels",
) -> float:
    """Average symmetric surface distance; see `SurfaceDistances.average`.

    Raises:
        ValueError: as `surface_distances`.
    """
    return surface_distances(prediction, target, spacing=spacing, elements=elements).average


def surface_dice(
    prediction: Bool[Tensor, "*grid"],
    target: Bool[Tensor, "*grid"],
    tolerance: float,
    *,
    spacing: tuple[float, ...] | None = None,
    elements: Elements = "voxels",
) -> float:
    """Normalised surface Dice; see `SurfaceDistances.surface_dice`.

    Raises:
        ValueError: as `surface_distances`, or if the tolerance is negative.
    """
    return surface_distances(prediction, target, spacing=spacing, elements=elements).surface_dice(tolerance)


def volumetric_dice(prediction: Bool[Tensor, "*grid"], target: Bool[Tensor, "*grid"]) -> float:
    """Twice the common cells over the sum of both masks' cells; nan where both are empty.

    Raises:
        ValueError: if the shapes differ.

    >>> import torch
    >>> volumetric_dice(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
    0.6666666666666666
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"both masks must have one shape, got {tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    both = int(prediction.count_nonzero()) + int(target.count_nonzero())
    return 2 * int((prediction & target).count_nonzero()) / both if both else math.nan


def check_elements(elements: str) -> None:
    """Refuse a rule that is not one.

    Raises:
        ValueError: if it is neither "voxels" nor "areas".
    """
    if elements not in ("voxels", "areas"):
        raise ValueError(f"elements must be voxels or areas, got {elements!r}")
