"""The report of an evaluation, on any part of a data set."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data import SegmentationData
from ..predict import Evaluation, Predictor
from .examples import Example, best_and_worst
from .figures import History
from .page import write_report


def write_evaluation_report(
    path: str | os.PathLike[str],
    title: str,
    evaluation: Evaluation,
    data: SegmentationData,
    predictor: Predictor | None,
    *,
    examples: int = 3,
    history: History = (),
    settings: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    command: str = "",
    remark: str = "",
) -> Path:
    """Write scores, those of each image, and the best and the worst predictions.

    Args:
        path: of the HTML file.
        title: its heading.
        evaluation: what `evaluate_images` gave for `data`.
        data: the images that were scored.
        predictor: predicts the examples again; None for a report without pictures.
        examples: how many of the best and of the worst; fewer where there are few images.
        history: of the training, for the curves.
        settings: of the training.
        defaults: of the settings.
        environment: where it ran.
        command: the command line that does the same again.
        remark: a sentence below the heading.

    Raises:
        ValueError: if the file cannot be written.
    """
    ranked = evaluation.ranked()
    best: list[Example] = []
    worst: list[Example] = []
    if predictor is not None:
        best, worst = best_and_worst(predictor, data, ranked, examples)
    return write_report(
        path,
        title,
        evaluation.report,
        evaluation.classes,
        history=history,
        images=ranked,
        best=best,
        worst=worst,
        settings=settings,
        defaults=defaults,
        environment=environment,
        command=command,
        remark=remark,
    )
