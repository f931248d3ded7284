"""Test-time choices: what makes predictions better on validation images, by more than noise.

Mirror images, thresholds, the smallest component, the CRF and how common classes are at each place cost
something and often change nothing. A choice is taken only if the score of the whole validation part rises by
more than 0.2 points and by more than one standard error of that gain (paired bootstrap over images), and no
class loses more than 0.5 points.
"""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from ..data import SegmentationData
from ..decode import component_sizes
from ..metrics import ImageStates
from ..tasks import Settings, Task
from ..types import Annotation, ClassMasks, LabelMap, Report
from ..wording import score_name
from .evaluation import first_column
from .location_prior import NAME
from .predictor import Predictor

FEWEST = 4  # images: fewer tell no error of a gain
_MOST = 100  # images that are looked at
_MOST_CRF, _CRF_PIXELS = 20, 8_000_000  # images, and pixels of all of them, that a CRF is tried on
_LEAST_GAIN, _LARGEST_LOSS = 0.002, 0.005
_SMALL, _SHARES = 0.01, (0.1, 0.3, 0.9)  # shares of that quantile of true components that are tried as least


class Part(NamedTuple):
    """What settings are tried on.

    Attributes:
        predictor: that has not learnt from the images.
        data: the images.
        location_prior: counted without them, to try one with; None for the one that is kept.
    """

    predictor: Predictor
    data: SegmentationData
    location_prior: Any = None


@dataclass(frozen=True)
class Trial:
    """A setting that was tried.

    Attributes:
        setting: the settings of decoding that differ.
        monitor: name of the score.
        gain: of the score on the validation images; nan where it was not tried.
        error: standard error of the gain; nan where the gain was too small to ask.
        taken: whether it is kept.
    """

    setting: Mapping[str, Any]
    monitor: str
    gain: float
    error: float
    taken: bool

    def __str__(self) -> str:
        """The setting, its gain and what became of it.

        >>> str(Trial({"flip": True}, "mean_iou", 0.0041, 0.0012, True))
        'flip=True: mean IoU +0.0041 (standard error 0.0012), taken'
        """
        named = ", ".join(f"{name}={_shown(value)}" for name, value in self.setting.items())
        if math.isnan(self.gain) and self.taken:
            return f"{named}: taken untried, on so few images"
        sure = "" if math.isnan(self.error) else f" (standard error {self.error:.4f})"
        return (
            f"{named}: {score_name(self.monitor)} {self.gain:+.4f}{sure}, {'taken' if self.taken else 'left'}"
        )


@dataclass(frozen=True)
class Choices:
    """What was tried and what is kept.

    Attributes:
        decoding: the settings of decoding to keep with the weights; empty where nothing helped.
        trials: in the order in which they were tried.
        images: how many they were tried on.
    """

    decoding: Mapping[str, Any]
    trials: tuple[Trial, ...]
    images: int


def choose(
    parts: Sequence[Part | tuple[Predictor, SegmentationData]],
    *,
    patience: float | None = None,
    location_prior: Any = None,
) -> Choices:
    """Try on validation images what may make predictions better.

    One thing after the other: a location prior, mirror images, what the task offers (thresholds), the
    smallest component, and the CRF on some of the images.

    Args:
        parts: predictors, each with the images that it is tried on, which it has not learnt from; of folds
            there are several, whose images count together.
        patience: seconds that it may take: by the time that the first image takes, fewer images are looked
            at, and nothing is tried any more when they are over; None for no limit.
        location_prior: as `predict.location_prior` gives it, where it is expected to help; fewer than 4
            images cannot tell otherwise, so that it is taken untried. Where it was counted over the images
            that it is tried on, parts have their own ones. None to leave it out.

    Raises:
        ValueError: if an image cannot be read or has no annotation.
    """
    given = [Part(*part) for part in parts]
    task = given[0].predictor.task
    known = _thinned([part._replace(data=_annotated(part.data)) for part in given], _MOST)
    metrics = task.metrics(known[0].predictor.classes, task.scoring)
    if not metrics.may_be_drawn or not task.offers:
        return Choices({}, (), _images(known))
    search, enough = _Search(task, known), _images(known) >= FEWEST
    if patience is not None:
        search.limit(patience)
    images = _images(search.parts)
    if images >= FEWEST:
        with suppress(_OutOfTime):
            _try_all(search, location_prior)
    elif location_prior is not None and not enough:
        search.take_untried({NAME: location_prior})
    return Choices(search.taken, tuple(search.trials), images)


def passes(task: Task) -> int:
    """How often `choose` predicts each image where nothing helps; 0 where it tries nothing.

    >>> from pixelwise.tasks import get_task
    >>> passes(get_task("semantic")), passes(get_task("volume")), passes(get_task("instance"))
    (7, 2, 0)
    """
    if not task.offers:
        return 0
    mirrored = "flip" in task.offers
    return 1 + len(task.offers) + mirrored + (task.variants is not None)


def _try_all(search: "_Search", location_prior: Any) -> None:
    task, parts = search.task, search.parts
    if location_prior is not None:
        search.consider([{NAME: location_prior}])
    if "flip" in task.offers:
        search.consider([{"flip": True}])
    if task.variants is not None:
        search.consider(task.variants(search.report, parts[0].predictor.classes))
    if "min_component" in task.offers:
        search.consider([{"min_component": size} for size in _sizes(parts)])
    if "crf" in task.offers:
        pixels = parts[0].data[0].image[0].numel()
        few = _thinned(parts, min(_MOST_CRF, _CRF_PIXELS // pixels))
        if _images(few) >= FEWEST:
            search.parts, search.states = few, None
            search.consider([{"crf": True}])


class _OutOfTime(Exception):
    """The search has used its time."""


class _Search:
    """The settings that were taken so far, and what the scores know of each image under them."""

    def __init__(self, task: Task, parts: Sequence[Part]) -> None:
        self.task, self.parts = task, parts
        self.end = math.inf
        self.taken: dict[str, Any] = {}
        self.trials: list[Trial] = []
        self.states: ImageStates | None = None

    def limit(self, seconds: float) -> None:
        """Look at so many images as can be looked at in this time, by the time that one takes."""
        began, parts = time.monotonic(), self.parts
        first = next((part for part in parts if len(part.data)), None)
        if first is not None:
            self.parts = [first._replace(data=first.data.take([0]))]
            self._scored([{}])
        images = seconds / max(1e-6, time.monotonic() - began) / passes(self.task)
        self.parts, self.end = _thinned(parts, int(images)), began + seconds

    @property
    def report(self) -> Report:
        """The scores under what was taken so far."""
        return _whole(self.present())

    def present(self) -> ImageStates:
        """What the scores know of each image under what was taken so far."""
        if self.states is None:
            (self.states,) = self._scored([{}])
        return self.states

    def take_untried(self, setting: Settings) -> None:
        """Take what cannot be tried."""
        self.trials.append(Trial(setting, self.task.monitor, math.nan, math.nan, True))
        self.taken.update(setting)

    def consider(self, settings: Sequence[Settings]) -> None:
        """Try several values of a setting; take the best one if it helps by more than noise."""
        if not settings:
            return
        before = self.present()
        found = self._scored(settings)
        scores = [_whole(states)[self.task.monitor] for states in found]
        best = max(range(len(settings)), key=lambda i: -math.inf if math.isnan(scores[i]) else scores[i])
        trial = self._judged(settings[best], before, found[best])
        self.trials.append(trial)
        if trial.taken:
            self.taken.update(trial.setting)
            self.states = found[best]

    def _judged(self, setting: Settings, before: ImageStates, after: ImageStates) -> Trial:
        monitor = self.task.monitor
        reports = _whole(before), _whole(after)
        gain = reports[1][monitor] - reports[0][monitor]
        if not gain > _LEAST_GAIN:
            return Trial(setting, monitor, gain, math.nan, False)
        error = after.gain_over(before, lambda report: float(report[monitor])).error
        pairs = zip(*(first_column(report).values() for report in reports), strict=True)
        loses = any(old - new > _LARGEST_LOSS for old, new in pairs)
        return Trial(setting, monitor, gain, error, bool(gain > error) and not loses)

    def _scored(self, settings: Sequence[Settings]) -> list[ImageStates]:
        """What the scores know of each image under each of some settings."""
        classes = self.parts[0].predictor.classes
        single = self.task.metrics(classes, self.task.scoring)
        found = [ImageStates(self.task.metrics(classes, self.task.scoring)) for _ in settings]
        for predictor, data, prior in self.parts:
            ways = [{**self.taken, **one} for one in settings]
            if prior is not None:
                ways = [way | {NAME: prior} if NAME in way else way for way in ways]
            for sample in data.with_channels(predictor.model.in_channels):
                assert sample.target is not None
                if time.monotonic() > self.end:
                    raise _OutOfTime
                for states, annotation in zip(found, predictor.in_ways(sample, ways), strict=True):
                    single.reset()
                    single.update([annotation.to("cpu")], [sample.target], [sample.id])
                    states.note(single)
        return found


def _whole(states: ImageStates) -> Report:
    report: Report = states.of_draw(torch.ones(len(states), dtype=torch.int64))
    return report


def _annotated(data: SegmentationData) -> SegmentationData:
    return data.take([i for i, pair in enumerate(data.pairs) if pair.mask is not None])


def _images(parts: Sequence[Part]) -> int:
    return sum(len(part.data) for part in parts)


def _thinned(parts: Sequence[Part], most: int) -> list[Part]:
    """At most about so many images, in even steps."""
    step = max(1, -(-_images(parts) // max(1, most)))
    return [part._replace(data=part.data.take(range(0, len(part.data), step))) for part in parts]


def _sizes(parts: Sequence[Part]) -> list[int]:
    """Sizes below nearly every true component."""
    sizes = [
        component_sizes(labels)
        for part in parts
        for i in range(len(part.data))
        for labels in _maps(part.data.target(i))
    ]
    every = np.concatenate(sizes) if sizes else np.zeros(0)
    if not every.size:
        return []
    small = float(np.quantile(every, _SMALL))
    return sorted({int(share * small) for share in _SHARES if share * small >= 2})


def _maps(target: Annotation) -> list[torch.Tensor]:
    if isinstance(target, LabelMap):
        return [target.labels]
    return list(target.masks) if isinstance(target, ClassMasks) else []


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        if np.ndim(value) > 1:
            return "x".join(map(str, np.shape(value)))
        return "[" + ", ".join(f"{one:.2f}" for one in value) + "]"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
