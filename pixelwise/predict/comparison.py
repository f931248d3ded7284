"""Where two models differ on the same annotated images."""

import csv
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data import SegmentationData
from ..files import atomic_write
from ..metrics import Interval
from ..tasks import Task
from ..wording import score_name
from .evaluation import Evaluation, evaluate_images, first_column
from .predictor import Predictor

LEVEL, DRAWS = 0.95, 400


@dataclass(frozen=True)
class Comparison:
    """Two evaluations of the same images.

    Attributes:
        first: of one model.
        second: of the other.
        difference: the task's monitor of the second less that of the first, with its bootstrap interval: both
            are scored on the same draws of images. Where a score of draws takes too long (average precision),
            it is the mean over images of the difference of their own scores. None below two images.
        of_images: whether it is that mean.
    """

    first: Evaluation
    second: Evaluation
    difference: Interval | None
    of_images: bool

    @property
    def task(self) -> Task:
        """What was asked of both."""
        return self.first.task

    @property
    def ranked(self) -> list[int]:
        """Images by how much their scores differ, most first; those without a score are left out."""
        gaps = self.gaps
        known = np.flatnonzero(~np.isnan(gaps))
        order = known[np.argsort(-np.abs(gaps[known]), kind="stable")]
        return [int(index) for index in order]

    @property
    def gaps(self) -> np.ndarray:
        """Score of each image alone, of the second less that of the first; nan where there is none."""
        pairs = zip(self.first.images, self.second.images, strict=True)
        return np.array([second.score - first.score for first, second in pairs])

    def rows(self) -> dict[str, dict[str, float]]:
        """Every score, and the most telling one of each class: of both models, and the difference."""
        one, other = self.first.report, self.second.report
        columns = one.columns[:1]
        pairs = {
            score_name(name): (one.values[name], other.values.get(name, math.nan)) for name in one.values
        }
        of_classes = first_column(other)
        for name, value in first_column(one).items():
            pairs[f"{columns[0]} of {name}"] = (value, of_classes.get(name, math.nan))
        return {name: {"first": a, "second": b, "difference": b - a} for name, (a, b) in pairs.items()}

    def sentence(self) -> str:
        """What can be said of the two."""
        name = score_name(self.task.monitor)
        told = f"{name}: {self.first.score:.4f} and {self.second.score:.4f}"
        if self.difference is None or math.isnan(self.difference.low):
            return f"{told}; there are too few images for an interval."
        gap, low, high = self.difference
        what = f"mean difference of the images' {name}" if self.of_images else "difference"
        interval = f"{what} {gap:+.4f}, {LEVEL:.0%} interval over images {low:+.4f} to {high:+.4f}"
        if low > 0:
            return f"{told}; {interval}: the second is better."
        if high < 0:
            return f"{told}; {interval}: the first is better."
        return f"{told}; {interval}: these images do not tell which is better."

    def write_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write one row per image: id, both scores, their difference; most different first.

        Raises:
            ValueError: if the file cannot be written.
        """
        with (
            atomic_write(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["id", "first", "second", "difference"])
            for index in self.ranked:
                first, second = self.first.images[index], self.second.images[index]
                scores = (first.score, second.score, second.score - first.score)
                writer.writerow([first.id, *(f"{score:.6f}" for score in scores)])
        return Path(path)


def compare(
    first: Predictor, second: Predictor, data: SegmentationData, *, progress: bool = True
) -> Comparison:
    """Score two models on the same annotated images.

    Args:
        first: one model.
        second: another of the same task and classes.
        data: one part of a data set.
        progress: whether to show progress bars.

    Raises:
        ValueError: if the tasks differ, or as `evaluate_images`.
    """
    if first.task.name != second.task.name:
        raise ValueError(
            f"two models of one task are compared, got {first.task.name} and {second.task.name} (--task)"
        )
    one, other = (evaluate_images(model, data, progress=progress) for model in (first, second))
    if one.states is not None and other.states is not None and len(one.images) > 1:
        monitor = one.task.monitor
        found = other.states.difference_from(
            one.states, lambda report: report[monitor], level=LEVEL, draws=DRAWS
        )
        return Comparison(one, other, found, of_images=False)
    return Comparison(one, other, _mean_difference(one, other), of_images=True)


def _mean_difference(one: Evaluation, other: Evaluation) -> Interval | None:
    """Of the scores of single images, with the percentile interval over draws of images."""
    gaps = np.array([b.score - a.score for a, b in zip(one.images, other.images, strict=True)])
    gaps = gaps[~np.isnan(gaps)]
    if len(gaps) < 2:
        return None
    drawn = np.random.default_rng(0).choice(gaps, (DRAWS, len(gaps))).mean(1)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(gaps.mean()), float(low), float(high))
