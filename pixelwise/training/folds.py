"""Cross-validation: k trainings, each without one part of the images, scores over all images, one ensemble.

The weights of the last epoch count, as nothing may be chosen on the images that a fold is scored on. What is
chosen on them afterwards (mirror images, thresholds, ...) is not in the scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from .. import checkpoint
from ..data import SegmentationData
from ..predict import Evaluation, Predictor, evaluate_images
from ..predict.baselines import baseline_scores
from ..predict.choices import Choices, Part, choose
from ..predict.evaluation import predictions_of, scored
from ..predict.location_prior import MOST, prior_of, shares_of_places
from ..predict.standing import LEVEL, Standing, standing
from ..recipe import Recipe
from ..wording import counted
from .callbacks import BEST_WEIGHTS, LAST_WEIGHTS
from .closing import chosen_before, scored_in, scored_part
from .deadline import Clock


@dataclass(frozen=True)
class Folded:
    """What is known of the models of all folds.

    Attributes:
        evaluation: over all images, each predicted by the model that has not learnt from it.
        remarks: what is said beside it, a sentence each.
        choices: what was tried on these images.
        weights: the ensemble of the models; where its outputs have no average, None.
    """

    evaluation: Evaluation
    remarks: tuple[str, ...]
    choices: Choices
    weights: Path | None


def join(
    path: Path,
    recipe: Recipe,
    folds: Sequence[tuple[Path, SegmentationData]],
    test: SegmentationData | None,
    *,
    clock: Clock | None = None,
) -> Folded:
    """Score all images out of fold, and write the ensemble of the models to the run directory.

    Args:
        path: run directory of all folds.
        recipe: of the training.
        folds: of each the run directory, and the images that it was trained without.
        test: images that no fold has seen, or None; the ensemble is scored on them too.
        clock: says when all must be over; None for as long as it takes.

    Raises:
        ValueError: if a file cannot be read or written.
    """
    device = "cpu" if recipe.accelerator == "cpu" else "auto"
    weights = [folder / LAST_WEIGHTS for folder, _ in folds]
    parts = [
        (predictor, data.with_channels(predictor.model.in_channels))
        for one, (_, data) in zip(weights, folds, strict=True)
        for predictor in [Predictor(one, device=device, plain=True)]
    ]
    task, classes = parts[0][0].task, parts[0][0].classes
    evaluation = scored(chain.from_iterable(predictions_of(*part, 1) for part in parts), task, classes)
    patience = None if clock is None else clock.patience()
    before = None if clock is None else chosen_before(path / BEST_WEIGHTS)
    tried = before is None and recipe.choose and (patience is None or patience > 0)
    choices = before or Choices({}, (), 0)
    if tried:
        prior, priors = _location_priors(recipe, [data for _, data in folds])
        known = [Part(predictor, data, one) for (predictor, data), one in zip(parts, priors, strict=True)]
        choices = choose(known, patience=patience, location_prior=prior)
    remarks = _out_of_fold(evaluation, [data for _, data in folds])
    remarks += [f"Kept with the weights: {trial}." for trial in choices.trials if trial.taken]
    target = path / BEST_WEIGHTS
    try:
        ensemble = checkpoint.ensemble(weights)
    except ValueError as error:
        return Folded(evaluation, (*remarks, f"The folds make no ensemble: {error}."), choices, None)
    notes = {"folds": str(len(folds)), task.monitor: f"{evaluation.score:.6f}", "data": recipe.data}
    decoding = {**ensemble.decoding, **choices.decoding}
    checkpoint.save(ensemble.model, target, classes, task=task.name, decoding=decoding, notes=notes)
    if test is not None and scored_part(test, test)[0] == "test":
        left = None if clock is None else clock.left - clock.report
        remarks += _on_test(Predictor(target, device=device), test, [data for _, data in folds], left)
    return Folded(evaluation, tuple(remarks), choices, target)


def _location_priors(recipe: Recipe, folds: Sequence[SegmentationData]) -> tuple[Any, Sequence[Any]]:
    """That of all images, for the ensemble, and for each fold that of the others, which it learnt from."""
    if not recipe.location_prior:
        return None, [None] * len(folds)
    shares = [shares_of_places(data, max(1, MOST // len(folds))) for data in folds]
    every = torch.stack(shares).sum(0)
    return prior_of(every), [prior_of(every - one) for one in shares]


def _out_of_fold(evaluation: Evaluation, parts: Sequence[SegmentationData]) -> list[str]:
    every = _all(parts)
    beside = Standing(
        evaluation.task.monitor,
        evaluation.score,
        len(evaluation.images),
        evaluation.interval(LEVEL),
        baseline_scores(every, every, evaluation.task),
    )
    told, *others = beside.sentences
    models = counted(len(parts), "model")
    return [f"Out of fold, by {models} at the end of their training, nothing chosen: {told}", *others]


def _on_test(
    predictor: Predictor, test: SegmentationData, parts: Sequence[SegmentationData], patience: float | None
) -> list[str]:
    _, data = scored_part(test, test)
    if patience is not None:
        data = scored_in(predictor, data, patience)
    evaluation = evaluate_images(predictor, data, progress=False)
    told, *others = standing(evaluation, data, _all(parts), part="test").sentences
    return [f"The ensemble on test images, on which nothing was chosen: {told}", *others]


def _all(parts: Sequence[SegmentationData]) -> SegmentationData:
    every = parts[0]
    for part in parts[1:]:
        every = every.joined(part)
    return every
