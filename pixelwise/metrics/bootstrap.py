"""How far a score might lie elsewhere on other images of the same kind: intervals by the bootstrap.

Pixels of one image are not independent, images are: whole images are drawn with replacement, as many as there
are, and their confusion matrices are added and scored. The quantiles of the scores of many draws bound the
interval (percentile interval; Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

`bootstrap_interval` is about confusion matrices. `ImageStates` does the same for any metric whose states are
sums or rows of images, and tells how sure the gain of one way to predict over another is: both are scored on
the same draws, so what is hard about an image counts for both.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from torchmetrics import Metric

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
    return _between(value, drawn, level)


def _between(value: float, drawn: list[float], level: float) -> Interval:
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


class Gain(NamedTuple):
    """What another way to predict gains on the same images, and the standard error of that gain."""

    mean: float
    error: float


class ImageStates:
    """What a metric knows of each image alone, so that any draw of images can be scored.

    Args:
        metric: whose states are sums over images, or rows of images (`RowMetric`); it may hold others, as
            the scores of a task do. It is used to compute the scores of draws.

    >>> from pixelwise.metrics import SegmentationMetrics
    >>> metric, draws = (SegmentationMetrics(ClassTable.of("sky", "road")) for _ in range(2))
    >>> states = ImageStates(draws)
    >>> for target in ([0, 0, 1], [0, 1, 1], [1, 1, 1]):
    ...     metric.reset()
    ...     metric.update(torch.tensor([0, 0, 1]), torch.tensor(target))
    ...     states.note(metric)
    >>> interval = states.interval(lambda scores: scores.pixel_accuracy)
    >>> [round(value, 4) for value in interval]
    [0.6667, 0.4444, 0.8889]
    """

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._parts = _parts(metric)
        self._names = [(i, name) for i, part in enumerate(self._parts) for name in part.metric_state]
        self._images: list[list[Tensor]] = []
        self._is_rows: list[bool] = []

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def note(self, metric: Metric) -> None:
        """Remember what a metric of the same kind knows that has seen one image."""
        parts = _parts(metric)
        found = [parts[i].metric_state[name] for i, name in self._names]
        self._is_rows = [isinstance(state, list) for state in found]
        self._images.append(
            [
                (torch.cat(state) if state else torch.empty(0)) if isinstance(state, list) else state
                for state in found
            ]
        )

    def of_draw(self, times: Int64[Tensor, " n"]) -> Any:
        """What the metric computes from a draw of the images.

        Args:
            times: how often each image is in it.
        """
        self.metric.reset()
        for column, (i, name) in enumerate(self._names):
            images = [image[column] for image in self._images]
            if self._is_rows[column]:
                value: Any = [
                    rows for rows, count in zip(images, times.tolist(), strict=True) for _ in range(count)
                ]
                value = [rows for rows in value if len(rows)]
            else:
                stacked = torch.stack(images)
                value = torch.einsum("n,n...->...", times.to(stacked.dtype), stacked)
            setattr(self._parts[i], name, value)
        with _without_warnings():
            return self.metric.compute()

    def drawn(self, score: Callable[[Any], float], draws: int, seed: int = 0) -> list[float]:
        """The scores of so many draws of as many images as there are.

        Raises:
            ValueError: if there is no image, or no draw.
        """
        if not self._images:
            raise ValueError("an interval over images needs at least one image, got none")
        if draws < 1:
            raise ValueError(f"an interval needs at least one draw, got {draws}")
        n = len(self)
        generator = torch.Generator().manual_seed(seed)
        return [
            float(score(self.of_draw(torch.bincount(images, minlength=n))))
            for images in torch.randint(n, (draws, n), generator=generator)
        ]

    def interval(
        self, score: Callable[[Any], float], *, level: float = 0.9, draws: int = 1000, seed: int = 0
    ) -> Interval:
        """The score of all images with its confidence interval.

        Args:
            score: what the metric computes -> a number.
            level: share of the draws inside the interval, between 0 and 1.
            draws: how many; those whose score is nan are left out.
            seed: the same seed gives the same interval.

        Raises:
            ValueError: if there is no image, or `level` or `draws` make no interval.
        """
        if not 0 < level < 1:
            raise ValueError(f"the level of an interval must lie between 0 and 1, got {level}")
        drawn = self.drawn(score, draws, seed)
        value = float(score(self.of_draw(torch.ones(len(self), dtype=torch.int64))))
        return _between(value, drawn, level)

    def gain_over(
        self, other: "ImageStates", score: Callable[[Any], float], *, draws: int = 200, seed: int = 0
    ) -> Gain:
        """How much higher the score is than that of other predictions of the same images.

        Args:
            other: of the same images in the same order.
            score: what the metric computes -> a number.
            draws: how many draws of images the standard error is of.
            seed: the same seed gives the same error.

        Raises:
            ValueError: if the other has another number of images, or there is none.
        """
        if len(self) != len(other):
            raise ValueError(f"a gain is one on the same images, got {len(self)} and {len(other)}")
        pairs = zip(self.drawn(score, draws, seed), other.drawn(score, draws, seed), strict=True)
        gains = torch.tensor([one - another for one, another in pairs], dtype=torch.float64)
        gains = gains[~gains.isnan()]
        every = torch.ones(len(self), dtype=torch.int64)
        mean = float(score(self.of_draw(every))) - float(score(other.of_draw(every)))
        return Gain(mean, float(gains.std()) if len(gains) > 1 else math.nan)

    def difference_from(
        self,
        other: "ImageStates",
        score: Callable[[Any], float],
        *,
        level: float = 0.95,
        draws: int = 400,
        seed: int = 0,
    ) -> Interval:
        """How much higher the score is than that of other predictions of the same images, with its interval.

        Args:
            other: of the same images in the same order; both are scored on the same draws.
            score: what the metric computes -> a number.
            level: share of the draws inside the interval, between 0 and 1.
            draws: how many; those whose difference is nan are left out.
            seed: the same seed gives the same interval.

        Raises:
            ValueError: if the other has another number of images, there is none, or `level` or `draws` make
                no interval.
        """
        if len(self) != len(other):
            raise ValueError(f"a difference is one on the same images, got {len(self)} and {len(other)}")
        if not 0 < level < 1:
            raise ValueError(f"the level of an interval must lie between 0 and 1, got {level}")
        pairs = zip(self.drawn(score, draws, seed), other.drawn(score, draws, seed), strict=True)
        every = torch.ones(len(self), dtype=torch.int64)
        value = float(score(self.of_draw(every))) - float(score(other.of_draw(every)))
        return _between(value, [one - another for one, another in pairs], level)


def _parts(metric: Metric) -> list[Metric]:
    """The metric and those that it holds."""
    return [part for part in metric.modules() if isinstance(part, Metric)]


@contextmanager
def _without_warnings() -> Iterator[None]:
    """A draw may hold nothing that counts, and torchmetrics misses the updates that were made elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
