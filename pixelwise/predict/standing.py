"""What a score stands beside: how sure it is, what trivial predictions score, and what speaks against it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..data import SegmentationData
from ..data.kinship import too_close
from ..metrics import Interval
from ..wording import counted, score_name
from .baselines import baseline_scores
from .evaluation import Evaluation

LEVEL = 0.9  # share of the draws inside the interval


@dataclass(frozen=True)
class Standing:
    """What is said beside the primary score.

    Attributes:
        name: of the score.
        score: its value.
        images: how many it is over.
        interval: between which bounds it lies in most draws of the images; None where it has none.
        baselines: the same score of trivial predictions of the same images.
        warnings: what speaks against the score, a sentence each.
    """

    name: str
    score: float
    images: int
    interval: Interval | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def sentences(self) -> list[str]:
        """All of it for people, one sentence each.

        >>> standing = Standing("mean_iou", 0.7, 6, Interval(0.7, 0.65, 0.74), {"commonest class": 0.4})
        >>> standing.sentences
        ['mean IoU 0.700 over 6 images, 90 % interval 0.650 to 0.740.', 'Trivial: commonest class 0.400.']
        >>> Standing("mean_iou", float("nan"), 2).sentences
        ['mean IoU nan over 2 images, in which nothing is labelled.']
        """
        between = ", in which nothing is labelled" if math.isnan(self.score) else ""
        if self.interval is not None:
            between = f", {LEVEL:.0%} interval {self.interval.low:.3f} to {self.interval.high:.3f}"
            between = between.replace("%", " %")
        told = [f"{score_name(self.name)} {self.score:.3f} over {counted(self.images, 'image')}{between}."]
        if self.baselines:
            shown = ", ".join(f"{name} {score:.3f}" for name, score in self.baselines.items())
            told.append(f"Trivial: {shown}.")
            best = max(self.baselines, key=lambda name: self.baselines[name])
            if self.score <= self.baselines[best]:
                told.append(f"Warning: the model is not better than the trivial prediction {best!r}.")
        return told + [f"Warning: {warning}." for warning in self.warnings]

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON knows it."""
        interval = None if self.interval is None else [self.interval.low, self.interval.high]
        return {"interval": interval, "baselines": dict(self.baselines), "warnings": list(self.warnings)}


def standing(
    evaluation: Evaluation,
    data: SegmentationData,
    train: SegmentationData | None,
    *,
    part: str = "validation",
    scoring: Mapping[str, Any] | None = None,
) -> Standing:
    """What is to be said beside the score of a model.

    Args:
        evaluation: what `evaluate_images` gave for `data`.
        data: the images that were scored.
        train: the images that the model learnt from, for trivial predictions and for what is too close to
            them; None where nobody knows.
        part: what to call `data`.
        scoring: settings of the scores that differ from the task's.

    Where a training image cannot be read, this is among the warnings.
    """
    task = evaluation.task
    baselines: dict[str, float] = {}
    warnings: list[str] = []
    if train is not None and len(train):
        try:
            baselines = baseline_scores(train, data, task, task.scoring_with(scoring or {}))
            warnings = too_close(train, data, part)
        except ValueError as error:  # the score itself does not hang on the training images
            warnings = [f"the training images could not be looked at ({error})"]
    return Standing(
        task.monitor,
        evaluation.score,
        len(evaluation.images),
        evaluation.interval(LEVEL),
        baselines,
        tuple(warnings),
    )
