"""How far a score might lie elsewhere on other images of the same kind: intervals by the bootstrap.

Pixels of one image are not independent, images are: whole images are drawn with replacement, as many as there
are, and their confusion matrices are added and scored. The quantiles of the scores of many draws bound the
interval (percentile interval; Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
"""

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ..types import ClassTable
from .pixels.scores import Absent, Scores


class Interval(NamedTuple):
    """A score, and the bounds between which it lies in the given share of the draws."""

    score: float
    low: float
    high: float


def mean_iou(scores: Scores) -> float:
    """The score that intervals are about unless another is named.

    >>> mean_iou(Scores(torch.tensor([[1, 0], [0, 1]]), ClassTable.of("sky", "road")))
    1.0
    """
    return scores.mean_iou


def bootstrap_interval(
    matrices: Int64[Tensor, "n k k"],
    classes: ClassTable,
    score: Callable[[Scores], float] = mean_iou,
    *,
    absent: Absent = "exclude",
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """A score of the data set with its confidence interval over images.

    Args:
        matrices: one confusion matrix per image; see `PerImageMetrics`.
        classes: the task.
        score: what is asked of the scores of a draw.
        absent: what a class scores that is neither in target nor in prediction; see `Scores`.
        level: share of the draws inside the interval, between 0 and 1.
        draws: how many.
        seed: the same seed gives the same interval.

    Returns:
        nan bounds, with a warning, where no pixel is labelled. Draws whose score is nan are left out.

    Raises:
        ValueError: if there is no image, or `level` or `draws` make no interval.

    >>> matrices = torch.tensor([[[4, 0], [0, 4]], [[2, 2], [2, 2]], [[3, 1], [0, 4]]])
    >>> interval = bootstrap_interval(matrices, ClassTable.of("sky", "road"), lambda s: s.pixel_accuracy)
    >>> [round(value, 4) for value in interval]
    [0.7917, 0.5, 1.0]
    """
    if not len(matrices):
        raise ValueError("an interval over images needs at least one image, got none")
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval must lie between 0 and 1, got {level}")
    if draws < 1:
        raise ValueError(f"an interval needs at least one draw, got {draws}")
    matrices = matrices.cpu()
    whole = Scores(matrices.sum(0), classes, absent)
    value = float(score(whole))
    if not whole.counted:
        return Interval(value, math.nan, math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a draw of unlabelled images only
        drawn = [score(Scores(matrix, classes, absent)) for matrix in _drawn(matrices, draws, seed)]
    tail = (1 - level) / 2
    bounds = torch.tensor(drawn, dtype=torch.float64).nanquantile(torch.tensor([tail, 1 - tail]).double())
    return Interval(value, float(bounds[0]), float(bounds[1]))


def _drawn(matrices: Int64[Tensor, "n k k"], draws: int, seed: int) -> list[Int64[Tensor, "k k"]]:
    """The matrix of each draw.

    A draw is told by how often it holds each image, so that all are one product of matrices: in float64,
    whose whole numbers are exact up to 2^53 pixels.
    """
    n = len(matrices)
    generator = torch.Generator().manual_seed(seed)
    flat = matrices.reshape(n, -1)
    assert int(flat.sum(1).max()) * n < 2**53
    found: list[Int64[Tensor, "k k"]] = []
    at_once = max(1, min(draws, n))  # the sums of so many draws take the room of the matrices
    while len(found) < draws:
        images = torch.randint(n, (min(at_once, draws - len(found)), n), generator=generator)
        times: Float64[Tensor, "draws n"] = torch.zeros(images.shape, dtype=torch.float64)
        times.scatter_add_(1, images, torch.ones_like(times))
        found += list((times @ flat.double()).long().reshape(-1, *matrices.shape[1:]))
    return found
