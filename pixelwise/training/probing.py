"""Real training steps, timed: what a network takes on this machine, for these data."""

import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch

from ..data import DataSplits
from ..kernels.compiling import ANNOUNCER
from ..planning import Probe
from ..recipe import Recipe
from ..types import Batch, ClassMasks, LabelMap, Sample
from .run import Experiment, make_experiment

TIMED_CPU, TIMED_GPU, WARM_GPU = 2, 5, 3
KERNELS = 5.0  # seconds that loading kernels may take
CORNER = 1024  # pixels of large validation images that are predicted

T = TypeVar("T")


def probe(
    recipe: Recipe,
    data: DataSplits,
    rung: str,
    *,
    patience: float = math.inf,
    now: Callable[[], float] = time.monotonic,
) -> Probe:
    """Make a few steps of a recipe and one validation, and time them. Nothing is kept.

    Args:
        recipe: model, crop, batch, precision and augmentation.
        data: to take samples from.
        rung: name of the rung of the ladder.
        patience: seconds; where the first step takes a third of them, it is the only one, and likewise the
            first validation, to which 5 seconds are granted in any case as it loads kernels.
        now: the clock.

    Raises:
        ValueError: if something in the recipe cannot be used.
        torch.OutOfMemoryError: if the step does not fit the memory.
    """
    started = now()
    experiment = make_experiment(recipe.changed(cache="none"), data)  # a few images are read
    device = device_of(recipe)
    module, classes = experiment.module.to(device), experiment.classes
    optimizer, _ = module.optimization.make(module.model)
    views: Any = experiment.batches.data
    samples, loading = _timed(lambda: [views[index] for index in range(recipe.batch_size)], now)
    loading /= recipe.batch_size
    batch = Batch.collate(samples, classes.ignore).to(device)
    before = _peak(device)

    def steps(count: int) -> None:
        for _ in range(count):
            with autocast(recipe, device):
                parts = module.criterion.parts(module(batch), batch)
            loss = torch.stack(list(parts.values())).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        _wait(device)

    warm, timed = (WARM_GPU, TIMED_GPU) if device.type == "cuda" else (1, TIMED_CPU)
    module.train()
    seconds = _timed(lambda: steps(warm), now)[1] / warm
    if seconds < patience / 3:
        seconds = _timed(lambda: steps(timed), now)[1] / timed
    memory = max(0, _peak(device) - before)
    return Probe(
        rung,
        tuple(recipe.crop or ()),
        recipe.batch_size,
        recipe.precision,
        max(seconds, 1e-6),
        loading,
        _validation(experiment, recipe, device, now, patience - (now() - started)),
        memory,
        recipe.reduce,
    )


def device_of(recipe: Recipe) -> torch.device:
    """Where Lightning will train."""
    if recipe.accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return torch.device("cuda")
    if recipe.accelerator in ("auto", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _validation(
    experiment: Experiment,
    recipe: Recipe,
    device: torch.device,
    now: Callable[[], float],
    patience: float,
) -> float:
    """Seconds that one validation image takes, its reading included; of a large one, by a part of it."""
    module = experiment.module
    module.eval()
    whole, reading = _timed(lambda: experiment.val_data[len(experiment.val_data) // 2], now)
    sample = _corner(whole) if recipe.val_tile is not None else whole
    parts = whole.image[0].numel() / sample.image[0].numel()
    batch = Batch.collate([sample], experiment.classes.ignore).to(device)

    def validate() -> None:
        with torch.no_grad(), autocast(recipe, device):
            module.validation_step(batch, 0)
        _wait(device)

    _, seconds = _timed(validate, now)
    if seconds <= max(patience / 3, KERNELS):  # the first pass loads kernels
        _, seconds = _timed(validate, now)
    return reading + parts * seconds


def _timed(work: Callable[[], T], now: Callable[[], float]) -> tuple[T, float]:
    """What some work gives, and its seconds; work in which kernels were compiled is done and timed again."""
    compiled = len(ANNOUNCER.compiled)
    begun = now()
    done = work()
    if len(ANNOUNCER.compiled) > compiled:
        begun = now()
        done = work()
    return done, now() - begun


def _corner(sample: Sample) -> Sample:
    """The upper left corner of an image of classes, of at most `CORNER` x `CORNER` pixels."""
    here = (slice(CORNER), slice(CORNER))
    image, target = sample.image[:, *here].contiguous(), sample.target
    if isinstance(target, LabelMap):
        return replace(sample, image=image, target=LabelMap(target.labels[here].contiguous()))
    if isinstance(target, ClassMasks):
        return replace(sample, image=image, target=ClassMasks(target.masks[:, *here].contiguous()))
    return sample


def autocast(recipe: Recipe, device: torch.device) -> Any:
    """The precision of a recipe, as a context."""
    kind = {"bf16": torch.bfloat16, "16": torch.float16}.get(recipe.precision, torch.float32)
    return torch.autocast(device.type, kind, enabled=recipe.precision != "32")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _peak(device: torch.device) -> int:
    """Bytes at the highest moment so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
