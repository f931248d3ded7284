"""Boundary IoU (Cheng et al., CVPR 2021, Sec. 4): IoU of the pixels of two masks near their contours.

The boundary of a mask is what an erosion takes off: the pixels at most d from the outside, counted as a king
moves on a chess board, with d = 2 % of the image's diagonal, rounded, at least 1. Beyond the image is
outside.
This is what the authors' boundary-iou-api computes.
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, Integer
from torch import Tensor

from ...kernels.boundaries.boundary_region import (
    count_label_boundaries,
    keep_boundary,
    overlap,
    planes_of_bits,
)
from ...rle import RleMasks


def boundary_width(height: int, width: int, dilation_ratio: float = 0.02) -> int:
    """Largest distance d of a boundary's pixel from the outside, in pixels.

    Raises:
        ValueError: if the ratio is not above 0.

    >>> boundary_width(480, 640)
    16
    """
    if not dilation_ratio > 0:
        raise ValueError(f"dilation_ratio must be above 0, got {dilation_ratio}")
    return max(1, round(dilation_ratio * math.sqrt(height**2 + width**2)))


def boundary_iou(
    prediction: Bool[np.ndarray, "*b h w"] | Bool[Tensor, "*b h w"],
    target: Bool[np.ndarray, "*b h w"] | Bool[Tensor, "*b h w"],
    *,
    dilation_ratio: float = 0.02,
) -> Float64[np.ndarray, "*b"]:
    """Boundary IoU of each mask with its partner; nan where both are empty.

    Args:
        prediction: one mask or many of one size.
        target: as many masks of the same size.
        dilation_ratio: d over the diagonal of the image.

    Raises:
        ValueError: if the shapes differ, or the ratio is not above 0.

    >>> mask = np.zeros((20, 20), dtype=bool)
    >>> mask[5:15, 5:15] = True
    >>> boundary_iou(mask, np.roll(mask, 1, 0)).round(3)
    np.float64(0.333)
    """
    predictions, targets = _array(prediction), _array(target)
    if predictions.shape != targets.shape or predictions.ndim < 2:
        raise ValueError(
            f"prediction and target must have one shape (..., h, w), got {predictions.shape} and "
            f"{targets.shape}"
        )
    height, width = predictions.shape[-2:]
    radius = boundary_width(height, width, dilation_ratio)
    scores = []
    for one, other in zip(
        predictions.reshape(-1, height, width), targets.reshape(-1, height, width), strict=True
    ):
        planes, others = planes_of_bits(one), planes_of_bits(other)
        keep_boundary(planes, radius)
        keep_boundary(others, radius)
        both, either = overlap(planes, others)
        scores.append(both / either if either else math.nan)
    return np.array(scores, np.float64).reshape(predictions.shape[:-2])


def rle_boundary_iou(
    prediction: RleMasks, target: RleMasks, *, dilation_ratio: float = 0.02
) -> Float64[np.ndarray, "n m"]:
    """Boundary IoU of every mask with every other, from run lengths; 0 where both are empty.

    Args:
        prediction: n masks.
        target: m masks of the same size.
        dilation_ratio: d over the diagonal of the image.

    >>> mask = np.zeros((1, 20, 20), dtype=bool)
    >>> mask[:, 5:15, 5:15] = True
    >>> rle_boundary_iou(RleMasks.encode(mask), RleMasks.encode(np.roll(mask, 1, 1))).round(3)
    array([[0.333]])
    """
    ratio = dilation_ratio
    return prediction.boundary(dilation_ratio=ratio).iou(target.boundary(dilation_ratio=ratio))


def boundary_counts(
    prediction: Integer[np.ndarray, "h w"] | Integer[Tensor, "h w"],
    target: Integer[np.ndarray, "h w"] | Integer[Tensor, "h w"],
    num_classes: int,
    *,
    ignore: int = 255,
    dilation_ratio: float = 0.02,
) -> Int64[np.ndarray, "k 3"]:
    """Boundary pixels of each class of two label maps: in both, of the prediction, of the target.

    Counts of several images add up to those of a data set. A pixel whose target is `ignore` belongs to no
    class in either map.

    Args:
        prediction: one class per pixel.
        target: one class per pixel, or `ignore`.
        num_classes: k.
        ignore: target of pixels that do not count.
        dilation_ratio: d over the diagonal of the image.

    Raises:
        ValueError: if the shapes differ, or a counted pixel has a class outside 0..k-1.

    >>> target = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]])
    >>> boundary_counts(target, target, 2).tolist()  # all but the pixel in the middle of class 0
    [[8, 8, 8], [3, 3, 3]]
    """
    predictions, targets = _array(prediction), _array(target)
    if predictions.shape != targets.shape:
        raise ValueError(
            f"prediction and target must have one shape, got {predictions.shape} and {targets.shape}"
        )
    height, width = predictions.shape
    radius = boundary_width(height, width, dilation_ratio)
    counts = np.zeros((num_classes, 3), np.int64)
    wrong = count_label_boundaries(predictions, targets, ignore, radius, counts)
    if wrong >= 0:
        place = np.unravel_index(wrong, targets.shape)
        raise ValueError(
            f"labels must be in 0..{num_classes - 1} or {ignore} in the target, got {predictions[place]} in "
            f"the prediction and {targets[place]} in the target at row {place[0]}, column {place[1]}"
        )
    return counts


def boundary_iou_per_class(
    prediction: Integer[np.ndarray, "h w"] | Integer[Tensor, "h w"],
    target: Integer[np.ndarray, "h w"] | Integer[Tensor, "h w"],
    num_classes: int,
    *,
    ignore: int = 255,
    dilation_ratio: float = 0.02,
) -> Float64[np.ndarray, " k"]:
    """Boundary IoU of each class of two label maps; nan for a class in neither. See `boundary_counts`.

    Raises:
        ValueError: if the shapes differ, or a counted pixel has a class outside 0..k-1.

    >>> target = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]])
    >>> boundary_iou_per_class(torch.zeros_like(target), target, 3).round(3)
    array([0.636, 0.   ,   nan])
    """
    counts = boundary_counts(prediction, target, num_classes, ignore=ignore, dilation_ratio=dilation_ratio)
    both, predicted, labelled = counts.T
    either = predicted + labelled - both
    return np.where(either > 0, both / np.maximum(either, 1), np.nan)


def _array(values: np.ndarray | Tensor) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
