"""A learning-rate range test: a few steps at rising rates, before a training, to see where the loss turns.

Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, Sec. 3.3. There the test chooses
the rate; here a rule has chosen it, and the test may only lower it (`planning.rules.range_test`). The recipe
keeps the rate, so whoever repeats the training needs no test.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..data import DataSplits
from ..planning import RangeTest
from ..planning.rules import RANGE_STEPS
from ..recipe import Recipe
from ..types import Batch
from .probing import autocast, device_of
from .run import Experiment, make_experiment

LOWEST, HIGHEST = 1 / 8, 16.0  # times the planned rate
_KEPT = 0.9  # of the running mean of the loss, from one step to the next


def range_test(
    recipe: Recipe,
    data: DataSplits,
    *,
    seconds: float,
    now: Callable[[], float] = time.monotonic,
) -> RangeTest:
    """Train for a few steps, the rate rising from an eighth of the planned one to 16 times it.

    Nothing is kept.

    Args:
        recipe: model, crop, batch, precision, augmentation and the planned rate.
        data: to take samples from.
        seconds: that it may take; if they do not suffice, nothing is concluded.
        now: the clock.

    Raises:
        ValueError: if something in the recipe cannot be used.
    """
    began = now()
    experiment = make_experiment(recipe.changed(cache="none"), data)  # a few images are read
    device = device_of(recipe)
    module = experiment.module.to(device)
    optimizer, _ = module.optimization.make(module.model)
    usual = [group["lr"] / recipe.lr for group in optimizer.param_groups]
    rates = [float(rate) for rate in recipe.lr * np.geomspace(LOWEST, HIGHEST, RANGE_STEPS)]
    losses: list[float] = []
    module.train()
    try:
        for rate, batch in zip(rates, _batches(experiment, device), strict=False):
            if now() - began > seconds:
                reason = f"the time was over after {len(losses)} of {RANGE_STEPS} steps"
                return RangeTest(skipped=reason, seconds=now() - began)
            for group, share in zip(optimizer.param_groups, usual, strict=True):
                group["lr"] = rate * share
            with autocast(recipe, device):
                parts = module.criterion.parts(module(batch), batch)
            loss = torch.stack(list(parts.values())).sum()
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                break
            optimizer.zero_grad()
            loss.backward()
            if recipe.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(module.model.parameters(), recipe.clip_norm)
            optimizer.step()
    except (torch.OutOfMemoryError, MemoryError):
        return RangeTest(skipped="the memory was too small", seconds=now() - began)
    turn = turning_point(rates, losses)
    return RangeTest(turn, rates[len(losses) - 1], len(losses), now() - began)


def turning_point(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate at which the running mean of the loss is lowest, if it rises clearly later; else infinity.

    Clearly is by more than 1 % and than the standard deviation of the single losses about their running mean.
    A loss that is not finite is such a rise.

    Args:
        rates: of the steps, rising.
        losses: of the first of these steps.

    >>> turning_point([1, 2, 4, 8], [3.0, 2.0, 1.0, math.inf])
    4
    >>> turning_point([1, 2, 4, 8], [3.0, 2.0, 1.0, 0.5])
    inf
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        return rates[0]
    mean, means = 0.0, []
    for step, loss in enumerate(finite, 1):
        mean = _KEPT * mean + (1 - _KEPT) * loss
        means.append(mean / (1 - _KEPT**step))
    lowest = int(np.argmin(means))
    rise = max(means[lowest:]) - means[lowest] if len(finite) == len(losses) else math.inf
    noise = float(np.std(np.subtract(finite, means)))
    return rates[lowest] if rise > max(noise, 0.01 * abs(means[lowest])) else math.inf


def _batches(experiment: Experiment, device: torch.device) -> Iterator[Batch]:
    """Training batches without end, epoch after epoch."""
    views: Any = experiment.batches.data
    epoch = 0
    while True:
        experiment.batches.set_epoch(epoch)
        for indices in experiment.batches:
            yield Batch.collate([views[i] for i in indices], experiment.classes.ignore).to(device)
        epoch += 1
