"""The HTML report of an evaluation, on any part of a data set."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .data import SegmentationData
from .predict import Evaluation, ImageScores, Predictor
from .training import Example, write_report


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
    ranked = evaluation.ranked() if predictor is not None else []
    count = min(examples, len(ranked) // 2) or len(ranked)
    return write_report(
        path,
        title,
        evaluation.scores,
        history=history,
        best=[_example(predictor, data, image) for image in ranked[::-1][:count] if len(ranked) > 1],
        worst=[_example(predictor, data, image) for image in ranked[:count]],
        settings=settings,
        remark=remark,
    )


def _example(predictor: Predictor | None, data: SegmentationData, image: ImageScores) -> Example:
    sample = data[image.index]
    assert predictor is not None
    assert sample.target is not None
    label_map = predictor(sample.image).label_map
    return Example(image.id, image.mean_iou, sample.image, sample.target, label_map)
