"""What the energy of a fully connected CRF is made of: unary energies, and Gaussian kernels over features.

E(x) = sum_i U_i(x_i) + sum_{i<j} sum_m w_m mu_m(x_i, x_j) exp(-|f_m,i - f_m,j|^2 / 2)
(Kraehenbuehl and Koltun, NIPS 2011, Eq. 1-3), with the features f in units of their standard deviations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Float32, Integer, Shaped
from torch import Tensor

Normalization = Literal["none", "before", "after", "symmetric"]
Scale = float | tuple[float, ...]

_LARGEST_WEIGHT = 1e30


@dataclass(frozen=True, eq=False)
class PairwiseTerm:
    """A Gaussian kernel over any features of the pixels, and what it says about pairs of labels.

    Attributes:
        features: coordinates of each pixel divided by their standard deviations, any number of them.
        weight: w, which multiplies the kernel.
        compatibility: None for Potts, where a pixel is drawn to the labels of pixels with like features; one
            factor per class for Potts with a strength of its own for each class (pydensecrf's vector with
            the sign changed); or the matrix mu, what each pair of labels costs, made symmetric.
        normalization: how sums over the kernel are scaled by the sums n_i of its rows: "symmetric" divides
            by sqrt(n_i n_j), "before" by n_j, "after" by n_i, "none" not at all.
    """

    features: Float[np.ndarray, "d *grid"]
    weight: float = 1.0
    compatibility: Float[np.ndarray, " k"] | Float[np.ndarray, "k k"] | None = None
    normalization: Normalization = "symmetric"

    def __post_init__(self) -> None:
        """Look at the numbers that do not depend on an image.

        Raises:
            ValueError: on a weight or compatibility that is not finite or above 1e30, or an unknown
                normalization.
        """
        if not abs(self.weight) <= _LARGEST_WEIGHT:
            raise ValueError(f"the weight of a kernel must be a number within 1e30, got {self.weight}")
        mu = self.compatibility
        if mu is not None and not (np.abs(mu * self.weight) <= _LARGEST_WEIGHT).all():
            raise ValueError("compatibilities times the weight must be numbers within 1e30")
        if self.normalization not in get_args(Normalization):
            raise ValueError(
                f"the normalization must be one of {', '.join(get_args(Normalization))}, "
                f"got {self.normalization!r}"
            )


@dataclass(frozen=True)
class PairwiseKernel:
    """A Gaussian kernel over position and colour, before an image is known.

    Attributes:
        weight: w, which multiplies the kernel.
        position: standard deviation in pixels, one for all axes or one per axis of the grid (rows, columns).
        color: standard deviation in steps of an 8-bit image (1/255 of the range), one for all channels or
            one per channel; None for a kernel that does not look at the image.
        compatibility: see `PairwiseTerm`, as a tuple of numbers or of rows.
        normalization: see `PairwiseTerm`.
    """

    weight: float
    position: Scale
    color: Scale | None = None
    compatibility: tuple[float, ...] | tuple[tuple[float, ...], ...] | None = None
    normalization: Normalization = "symmetric"

    def __post_init__(self) -> None:
        """Look at the standard deviations.

        Raises:
            ValueError: if one is not above 0.
        """
        for name, scale in (("position", self.position), ("color", self.color)):
            for number in scale if isinstance(scale, tuple) else (scale,):
                if number is not None and not 0 < number < float("inf"):
                    raise ValueError(f"the scale of the {name} must be above 0, got {number}")

    def term(self, image: Float32[np.ndarray, "c *grid"]) -> PairwiseTerm:
        """The kernel over the pixels of an image (see `in_steps`).

        Raises:
            ValueError: if there is not one scale per axis or channel.
        """
        if self.color is None:
            features = position_features(image.shape[1:], self.position)
        else:
            features = bilateral_features(image, self.position, self.color)
        mu = None if self.compatibility is None else np.asarray(self.compatibility, np.float64)
        return PairwiseTerm(features, self.weight, mu, self.normalization)


# As in pydensecrf's examples.
SMOOTHNESS = PairwiseKernel(weight=3.0, position=3.0)
APPEARANCE = PairwiseKernel(weight=10.0, position=80.0, color=13.0)


def in_steps(
    image: Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."], axes: int
) -> Float32[np.ndarray, "c *grid"]:
    """The channels of an image in steps of 8 bits: 255 is white whatever the type.

    Args:
        image: tensor "c *grid", or array "*grid c"; "*grid" for a single channel. Integers are divided by the
            largest number of their type, floating-point numbers are taken to have the range [0, 1].
        axes: number of axes of the grid.

    Raises:
        ValueError: if the image has another number of axes, no real numbers, or a value that is not finite.

    >>> in_steps(np.array([[0, 65535]], np.uint16), axes=2).tolist()
    [[[0.0, 255.0]]]
    """
    given = tuple(image.shape)
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        array = (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    else:
        array = np.moveaxis(image, -1, 0) if image.ndim == axes + 1 else image
    if array.ndim == axes:
        array = array[None]
    if array.ndim != axes + 1 or array.dtype.kind not in "buif":
        raise ValueError(
            f"a grid of {axes} axes needs an image of real numbers with {axes} axes or {axes + 1}, "
            f"got {array.dtype} of shape {given}"
        )
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array, np.float32)
    largest = 1.0 if array.dtype.kind in "bf" else float(np.iinfo(array.dtype.name).max)
    steps: Float32[np.ndarray, "c *grid"] = np.multiply(array, 255 / largest, dtype=np.float64).astype(
        np.float32
    )
    if not np.isfinite(steps).all():
        raise ValueError("the image holds values that are not finite (nan or infinity)")
    return np.ascontiguousarray(steps)


def position_features(grid: Sequence[int], position: Scale) -> Float32[np.ndarray, "d *grid"]:
    """Coordinates of every pixel over their standard deviations, the last axis of the grid first (x, y).

    Args:
        grid: size of every axis.
        position: standard deviation in pixels, one for all axes or one per axis in their order.

    Raises:
        ValueError: if there is not one scale per axis.

    >>> position_features((1, 3), 2.0).tolist()
    [[[0.0, 0.5, 1.0]], [[0.0, 0.0, 0.0]]]
    """
    axes = len(grid)
    scales = _one_each(position, axes, "axis of the grid")
    features = np.empty((axes, *grid), np.float32)
    for axis, (size, scale) in enumerate(zip(grid, scales, strict=True)):
        shape = [1] * axes
        shape[axis] = size
        features[axes - 1 - axis] = (np.arange(size, dtype=np.float32) / np.float32(scale)).reshape(shape)
    return features


def bilateral_features(
    image: Float32[np.ndarray, "c *grid"], position: Scale, color: Scale
) -> Float32[np.ndarray, "d *grid"]:
    """Coordinates as in `position_features`, then the channels of the image over their standard deviations.

    Args:
        image: channels in the units of `color`; see `in_steps`.
        position: standard deviation in pixels, one for all axes or one per axis in their order.
        color: standard deviation of the channels, one for all or one per channel.

    Raises:
        ValueError: if there is not one scale per axis or channel.
    """
    channels, axes = image.shape[0], image.ndim - 1
    scales = np.array(_one_each(color, channels, "channel of the image"), np.float32)
    features = np.empty((axes + channels, *image.shape[1:]), np.float32)
    features[:axes] = position_features(image.shape[1:], position)
    np.divide(image, scales.reshape(-1, *[1] * axes), out=features[axes:])
    return features


def unary_from_labels(
    labels: Integer[np.ndarray, "*grid"] | Integer[Tensor, "*grid"],
    num_classes: int,
    *,
    certainty: float,
    unknown: int | None = None,
) -> Float32[np.ndarray, "k *grid"]:
    """Unary energies of labels that are right with a probability of `certainty`.

    A pixel's own label costs -log(certainty), every other -log((1 - certainty) / (k - 1)); a pixel of unknown
    label costs log(k) whatever the label (pydensecrf's `unary_from_labels`, whose label 0 is unknown).

    Args:
        labels: one class per pixel in 0..k-1.
        num_classes: k.
        certainty: in (0, 1).
        unknown: label of pixels about which nothing is known.

    Raises:
        ValueError: on a certainty outside (0, 1) or a label that is no class.

    >>> unary_from_labels(np.array([0, 255]), 2, certainty=0.75, unknown=255).round(2)
    array([[0.29, 0.69],
           [1.39, 0.69]], dtype=float32)
    """
    if not 0 < certainty < 1:
        raise ValueError(f"the certainty must be between 0 and 1, got {certainty}")
    if num_classes < 1:
        raise ValueError(f"there must be at least one class, got {num_classes}")
    array = np.asarray(labels)
    known = np.ones(array.shape, bool) if unknown is None else array != unknown
    inside = array[known]
    if inside.size and not 0 <= inside.min() <= inside.max() < num_classes:
        raise ValueError(f"labels must be in 0..{num_classes - 1}, got {inside.min()} to {inside.max()}")
    other = -np.log((1 - certainty) / max(num_classes - 1, 1))
    unary = np.where(known, np.float32(other), np.float32(np.log(num_classes)))
    unary = np.repeat(unary[None], num_classes, axis=0)
    unary[(array[known], *np.nonzero(known))] = -np.log(certainty)
    return unary


def unary_from_probabilities(
    probabilities: Float[np.ndarray, "k *grid"] | Float[Tensor, "k *grid"],
    *,
    certainty: float | None = None,
    floor: float = 1e-5,
) -> Float32[np.ndarray, "k *grid"]:
    """-log of probabilities (pydensecrf's `unary_from_softmax`).

    Args:
        probabilities: of every class and pixel, in [0, 1].
        certainty: if given, how far they are trusted: they are mixed with 1 - certainty of the uniform
            distribution.
        floor: smaller probabilities are raised to it, so that no label is impossible.

    Raises:
        ValueError: on probabilities that are nan or outside [0, 1], or arguments outside (0, 1].

    >>> unary_from_probabilities(np.array([[0.5], [0.0]])).round(2)
    array([[ 0.69],
           [11.51]], dtype=float32)
    """
    if not 0 < floor <= 1:
        raise ValueError(f"the floor must be in (0, 1], got {floor}")
    if certainty is not None and not 0 < certainty <= 1:
        raise ValueError(f"the certainty must be in (0, 1], got {certainty}")
    if isinstance(probabilities, Tensor):
        probabilities = probabilities.detach().cpu().float().numpy()
    if not probabilities.size:
        raise ValueError(f"there must be at least one class and pixel, got shape {probabilities.shape}")
    low, high = float(probabilities.min()), float(probabilities.max())
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # also catches nan
        raise ValueError(f"probabilities must be in [0, 1], got {low:g} to {high:g}")
    if certainty is not None:
        probabilities = certainty * probabilities + (1 - certainty) / len(probabilities)
    clipped = np.clip(probabilities, floor, 1)
    unary: Float32[np.ndarray, "k *grid"] = np.log(clipped, out=clipped).astype(np.float32, copy=False)
    return np.negative(unary, out=unary)


def _one_each(scale: Scale, count: int, what: str) -> tuple[float, ...]:
    scales = scale if isinstance(scale, tuple) else (scale,) * count
    if len(scales) != count:
        raise ValueError(f"there must be one scale per {what}, {count} in all, got {len(scales)}")
    return scales
