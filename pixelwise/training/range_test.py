"""A learning-rate range test: a few steps at rising rates, before a training, to see where the loss turns.

Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, Sec. 3.3. There the test chooses
the rate; here a rule has chosen it, and the test may only lower it (`planning.rules.range_test`). The recipe
keeps the rate, so whoever repeats the training needs no test.

Losses of different crops differ by more than a few steps change them. So each rate is tried on the same few
batches, and what is compared is the loss of the same batch at two rates.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from ..data import DataSplits
from ..planning import RangeTest
from ..planning.rules import RANGE_BATCHES, RANGE_PASSES, RANGE_STEPS
from ..recipe import Recipe
from ..types import Batch
from .probing import autocast, device_of
from .run import Experiment, make_experiment

LOWEST, HIGHEST = 1 / 8, 16.0  # times the planned rate
_LAST = 2  # passes in the end whose losses are compared
_RISE = 0.1  # of what the loss fell before that, from which a rise is one


def range_test(
    recipe: Recipe,
    data: DataSplits,
    *,
    seconds: float,
    now: Callable[[], float] = time.monotonic,
) -> RangeTest:
    """Train on a few batches again and again, at a rate of 0 and from an eighth to 16 times the planned one.

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
    rising = recipe.lr * np.geomspace(LOWEST, HIGHEST, RANGE_PASSES - 1)
    rates = [0.0, *map(float, rising)]  # what the losses are before the first step, too
    losses: list[float] = []
    module.train()
    try:
        batches = list(islice(_batches(experiment, device), RANGE_BATCHES))
        for step in range(RANGE_STEPS):
            if now() - began > seconds:
                reason = f"the time was over after {len(losses)} of {RANGE_STEPS} steps"
                return RangeTest(skipped=reason, seconds=now() - began)
            batch, rate = batches[step % RANGE_BATCHES], rates[step // RANGE_BATCHES]
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
    by_pass = [losses[i : i + RANGE_BATCHES] for i in range(0, len(losses), RANGE_BATCHES)]
    return RangeTest(turning_point(rates, by_pass), rates[len(by_pass) - 1], len(losses), now() - began)


def turning_point(rates: Sequence[float], losses: Sequence[Sequence[float]]) -> float:
    """The rate at which the mean loss is lowest, if it is clearly higher in the end; else infinity.

    Clearly is, in the mean of the last two passes, for every batch, and on average by more than 1 % and a
    tenth of what it fell before that. A loss that is not finite is such a rise.

    Args:
        rates: of the passes over the batches, rising from 0; of that, the next one is given.
        losses: of the batches in the first of these passes, in order; the last pass may have ended early.

    >>> turning_point([0, 1, 2, 4], [[3.0, 3.2], [1.0, 1.2], [1.9, 2.1], [2.9, 3.1]])
    1
    >>> turning_point([0, 1, 2, 4], [[3.0, 3.2], [2.0, 2.2], [1.0, 1.2], [0.5, 0.7]])
    inf
    """
    whole = [one for one in losses if len(one) == len(losses[0]) and all(map(math.isfinite, one))]
    if not whole:
        return rates[1]
    table = np.array(whole)
    means = table.mean(1)
    lowest = int(np.argmin(means))
    turn = rates[lowest] or rates[1]
    if len(whole) < len(losses):
        return turn
    later = table[max(lowest + 1, len(table) - _LAST) :]
    if not len(later):
        return math.inf
    rises = later.mean(0) - table[lowest]
    least = max(0.01 * abs(means[lowest]), _RISE * (means[0] - means[lowest]))
    return turn if rises.min() > 0 and rises.mean() > least else math.inf


def _batches(experiment: Experiment, device: torch.device) -> Iterator[Batch]:
    """Training batches without end, epoch after epoch."""
    views: Any = experiment.batches.data
    epoch = 0
    while True:
        experiment.batches.set_epoch(epoch)
        for indices in experiment.batches:
            yield Batch.collate([views[i] for i in indices], experiment.classes.ignore).to(device)
        epoch += 1
