"""What follows the last step of a training: test-time choices, and the scores with what stands beside."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import checkpoint
from ..data import SegmentationData
from ..predict import Evaluation, Predictor, evaluate_images
from ..predict.choices import Choices, choose
from ..predict.location_prior import location_prior
from ..predict.standing import Standing, standing
from ..recipe import Recipe
from ..tasks import get_task
from .parts import Parts

MOST_IMAGES = 200  # of a part that are scored and looked at for the best and worst predictions
LEAST_IMAGES = 8  # that are scored, however little time there is


@dataclass(frozen=True)
class Closing:
    """What is known of the weights of a finished training.

    Attributes:
        part: "test", or "validation" where there is no test part.
        data: the images of it that were scored.
        evaluation: their scores, under what was chosen.
        standing: what is said beside them.
        choices: what was tried on validation images.
    """

    part: str
    data: SegmentationData
    evaluation: Evaluation
    standing: Standing
    choices: Choices

    @property
    def remarks(self) -> list[str]:
        """All of it for people, a sentence each."""
        told, *others = self.standing.sentences
        if self.part == "test":
            first = f"Test images, on which nothing was chosen: {told}"
        else:
            chosen = "epoch and test-time settings were" if self.choices.decoding else "the epoch was"
            first = f"Validation images: {told} The score is a little too high, as {chosen} chosen on them."
        taken = [str(trial) for trial in self.choices.trials if trial.taken]
        if taken:
            others.append(f"Kept with the weights, chosen on validation images: {'; '.join(taken)}.")
        elif self.choices.trials:
            tried = ", ".join(dict.fromkeys(name for trial in self.choices.trials for name in trial.setting))
            others.append(f"Tried on validation images, of no use: {tried}.")
        return [first, *others]


def choose_for(weights: Path, recipe: Recipe, parts: Parts, patience: float | None) -> Choices:
    """Choose test-time settings, and keep them with the weights.

    Where time is short, what an earlier command has chosen for these weights stays.

    Args:
        weights: the best ones; the file is replaced where something was chosen.
        recipe: of the training; `choose` says whether anything is tried, `location_prior` whether that is.
        parts: of the data; what is chosen by is the validation part.
        patience: seconds that it may take; None for as long as it needs.

    Raises:
        ValueError: if a file cannot be read or written.
    """
    if patience is not None and (before := chosen_before(weights)) is not None:
        return before
    if not recipe.choose or (patience is not None and patience <= 0):
        return Choices({}, (), 0)
    predictor = Predictor(weights, device=_device(recipe), plain=True)
    prior = location_prior(parts.train) if recipe.location_prior else None
    choices = choose([(predictor, parts.val)], patience=patience, location_prior=prior)
    keep(weights, choices.decoding)
    return choices


def close(
    weights: Path, recipe: Recipe, parts: Parts, choices: Choices, patience: float | None = None
) -> Closing:
    """Score the weights of a finished training: on the test part, or the validation part where there is none.

    Args:
        weights: the best ones, with what was chosen for them.
        recipe: of the training.
        parts: of the data.
        choices: what `choose_for` gave.
        patience: seconds that the scores may take, on fewer images if need be; None for as long as they need.

    Raises:
        ValueError: if a file cannot be read.
    """
    part, data = scored_part(parts.val, parts.test)
    predictor = Predictor(weights, device=_device(recipe))
    if patience is not None:
        data = scored_in(predictor, data, patience)
    evaluation = evaluate_images(predictor, data, progress=False)
    return Closing(part, data, evaluation, standing(evaluation, data, parts.train, part=part), choices)


def _device(recipe: Recipe) -> str:
    return "cpu" if recipe.accelerator == "cpu" else "auto"


def chosen_before(weights: Path) -> Choices | None:
    """What an earlier command has chosen for weights that are finished; None where it has chosen nothing.

    Raises:
        ValueError: if the file cannot be read.
    """
    if not weights.is_file():
        return None
    known = checkpoint.load(weights)
    names = get_task(known.task).chosen
    chosen = {name: value for name, value in known.decoding.items() if name in names}
    return Choices(chosen, (), 0) if chosen else None


def keep(weights: Path, decoding: Mapping[str, object]) -> None:
    """Write what was chosen into a checkpoint, in place of what was chosen before."""
    known = checkpoint.load(weights)
    task = Predictor(known, device="cpu").task
    others = {name: value for name, value in known.decoding.items() if name not in task.chosen}
    if (wanted := {**others, **decoding}) != known.decoding:
        checkpoint.save(
            known.model, weights, known.classes, task=known.task, decoding=wanted, notes=known.notes
        )


def scored_part(val: SegmentationData, test: SegmentationData | None) -> tuple[str, SegmentationData]:
    """The part to report on and its images, at most `MOST_IMAGES` in even steps: annotated test images."""
    name, data = "validation", val
    if test is not None:
        annotated = [i for i, pair in enumerate(test.pairs) if pair.mask is not None]
        if annotated:
            name, data = "test", test.take(annotated)
    return name, _thinned(data, MOST_IMAGES)


def scored_in(predictor: Predictor, data: SegmentationData, seconds: float) -> SegmentationData:
    """As many of these images, in even steps, as are scored in this time, by the time that one takes.

    Mirror images and the like, which were not planned for, take their time too.
    """
    if len(data) <= LEAST_IMAGES:
        return data
    for index in (0, 1):  # the first one alone waits for kernels
        began = time.monotonic()
        evaluate_images(predictor, data.take([index]), progress=False)
    each = time.monotonic() - began
    return _thinned(data, max(LEAST_IMAGES, int(seconds / each) - 2))


def _thinned(data: SegmentationData, most: int) -> SegmentationData:
    """At most so many images, evenly spread."""
    count = len(data)
    return data if count <= most else data.take([i * count // most for i in range(most)])
