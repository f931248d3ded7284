"""The HTML report of an evaluation, on any part of a data set."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .data import SegmentationData
from .predict import Evaluation, Predictor
from .training import Example, example_of, write_report


def write_evaluation_report(
    path: str | os.PathLike[str],
    title: str,
    evaluation: Evaluation,
    data: SegmentationData,
    predictor: Predictor | None,
    *,
    examples: int = 3,
    history: Sequence[Mapping[str, float]] = (),
    settings: Mapping[str, Any] | None = None,
    remark: str = "",
) -> Path:
    """Write scores, and the best and the worst predictions.

    Args:
        path: of the HTML file.
        title: its heading.
        evaluation: what `evaluate_images` gave for `data`.
        data: the images that were scored.
        predictor: predicts the examples again; None for a report without pictures.
        examples: how many of the best and of the worst; fewer where there are few images.
        history: of the training, for the curves.
        settings: of the training.
        remark: a sentence below the heading.

    Raises:
        ValueError: if the file cannot be written.
    """
    best: list[Example] = []
    worst: list[Example] = []
    if predictor is not None:
        ranked = evaluation.ranked()
        count = min(examples, len(ranked) // 2) or len(ranked)
        worst = [example_of(predictor, data, image) for image in ranked[:count]]
        if len(ranked) > 1:
            best = [example_of(predictor, data, image) for image in ranked[::-1][:count]]
    return write_report(
        path,
        title,
        evaluation.scores,
        history=history,
        best=best,
        worst=worst,
        settings=settings,
        remark=remark,
    )
