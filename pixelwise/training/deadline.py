"""Ending on time: the clock plans, the steps execute.

A schedule that looked at a clock could not be repeated. So the clock only changes, a few times, how many
steps the training is to have; each change is kept as (step, number of steps), and a training that is repeated
follows these without a clock.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from ..kernels.compiling import ANNOUNCER
from .callbacks import Progress
from .length import Length

LOOKS = (0.03, 0.3, 0.6, 0.85, 0.95)  # shares of the steps after which the length is planned again
TOLERANCE = 0.03  # a plan that is off by less stays
_LATEST = 5  # steps that tell the speed of the moment
_MOST = 5.0  # times slower: more is a stall, which passes
_FIRST = 4  # steps before the first look: fewer say little about the speed


@dataclass(frozen=True)
class Clock:
    """What a training knows of its deadline. Times are those of `now`, in seconds.

    Attributes:
        deadline: when everything is to be over, the report included.
        started: when this command began.
        report: what the report takes at the end.
        scoring: what the scores take before that.
        choices: what may be spent on choosing test-time settings before that, after the last validation.
        joining: what the models of all folds take together when they are trained.
        validation: what a validation takes, before one was timed.
        most_steps: more steps are not worth their time; None for no limit.
        before: time that earlier commands used, where a training is continued.
        now: the clock.
    """

    deadline: float
    started: float
    report: float = 0.0
    scoring: float = 0.0
    choices: float = 0.0
    joining: float = 0.0
    validation: float = 0.0
    most_steps: int | None = None
    before: float = 0.0
    now: Callable[[], float] = time.monotonic

    @property
    def spent(self) -> float:
        """Time used so far, by earlier commands too."""
        return self.before + self.now() - self.started

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - self.now()

    def patience(self, slowdown: float = 1.0) -> float:
        """Seconds for choosing test-time settings, so that scores and report still fit.

        Args:
            slowdown: how much longer these take than planned.
        """
        return min(self.choices, self.left - slowdown * (self.scoring + self.report))

    def share(self, trainings: int, *, before: float = 0.0) -> "Clock":
        """The clock of the first of some trainings that divide the time that is left.

        What follows all of them, the report among it, follows none of them.

        Args:
            trainings: their number.
            before: time that earlier commands used for this one.
        """
        now = self.now()
        after = self.joining + self.scoring + self.choices + self.report
        deadline = now + (self.left - after) / trainings
        return replace(
            self,
            deadline=deadline,
            started=now,
            before=before,
            joining=0.0,
            scoring=0.0,
            choices=0.0,
            report=0.0,
        )


class Deadline(Callback):
    """Plans the number of steps again where the measured speed asks for it, and ends training in time.

    What follows the last step is expected to take as much longer than planned as the steps of the moment take
    beside the fastest ones, and as the last validation took beside what was planned for it.

    Args:
        length: of the training; changed in place.
        clock: says when it must be over.
        progress: told the time that was used.
        val_every: epochs between two validations.
    """

    def __init__(self, length: Length, clock: Clock, progress: Progress, *, val_every: int) -> None:
        self.length, self.clock, self.progress = length, clock, progress
        self.validated_every = length.steps_per_epoch * val_every
        self.validation = clock.validation  # seconds, at the usual speed
        self._latest: deque[float] = deque(maxlen=_LATEST)  # seconds of steps
        self._usual = math.inf  # seconds per step, at the fastest
        self.saving = 0.0  # seconds that files take at the end of an epoch, likewise
        self._begun = 0.0  # of a validation
        self._compiled = 0  # kernels before it
        self._noted = math.nan  # when an epoch ended, but for its files
        self._paused = 0.0  # in a validation since the last step
        self._mark: tuple[int, float] | None = None  # step from which the speed is measured, and its end
        self._looks: list[float] = []
        self._start = self._step = -1
        self._ended = 0.0  # of the last step

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Choose the shares of the steps after which to look at the clock."""
        self._start = self._step = trainer.global_step
        self._looks = list(LOOKS)
        _tell(trainer, self.length)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any
    ) -> None:
        """Look at the clock after some of the steps; after each, whether another one still fits."""
        step, now = trainer.global_step, self.clock.now()
        if step == self._step:  # gradients are still being accumulated
            return
        last, self._step, self._ended, paused, self._paused = now - self._ended, step, now, self._paused, 0.0
        if self._mark is None:  # in the first step, processes start and kernels are chosen
            self._mark = (step, now)
            return
        if paused:  # a validation is no part of the speed
            self._mark = (self._mark[0], self._mark[1] + paused)
            last -= paused
        self._latest.append(last)
        seconds = (now - self._mark[1]) / (step - self._mark[0])
        end = self.clock.deadline - self.reserve
        if now + max(seconds, last) > end:
            self._replan(trainer, step, step)
        elif self._looks and step >= self._next_look():
            while self._looks and step >= self._next_look():
                self._looks.pop(0)
            self._usual = min(self._usual, seconds)
            self._replan(trainer, step, self.planned(step, end - now, seconds))
            self._mark = (step, now)  # the next look goes by the speed from here on

    def _next_look(self) -> int:
        share = self._looks[0] * (self.length.steps - self._start)
        return self._start + max(_FIRST, round(share))

    @property
    def slowdown(self) -> float:
        """How much slower the machine is at the moment than it was at its fastest."""
        if math.isinf(self._usual):
            return 1.0
        return min(_MOST, max(1.0, median(self._latest) / self._usual))

    @property
    def reserve(self) -> float:
        """Seconds that everything after the last step takes at the speed of the moment.

        What is chosen then takes what there is.
        """
        clock, off = self.clock, self._off
        after = self.validation + self.saving + off * (clock.scoring + clock.report)
        return self.slowdown * after + clock.choices

    @property
    def _off(self) -> float:
        """How much longer a validation takes than planned, at the usual speed."""
        return max(1.0, self.validation / self.clock.validation) if self.clock.validation else 1.0

    def planned(self, step: int, left: float, seconds: float) -> int:
        """How many steps the training should have.

        Args:
            step: steps made.
            left: seconds until the last validation must begin.
            seconds: per step.
        """
        steps = step + int(left / seconds)
        for _ in range(2):  # validations in between take time too, and their number depends on the length
            between = (steps - 1) // self.validated_every - step // self.validated_every
            steps = step + int(max(0.0, left - max(0, between) * self.validation) / seconds)
        return max(step + 1, min(steps, self.clock.most_steps or steps))

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Time it."""
        self._begun, self._compiled = self.clock.now(), len(ANNOUNCER.compiled)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Time it; where kernels were compiled meanwhile, it tells nothing of the next one."""
        self._paused = self.clock.now() - self._begun
        if len(ANNOUNCER.compiled) == self._compiled:
            self.validation = self._paused / self.slowdown

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note the time that was used, before the checkpoint is written."""
        self.progress.seconds = self.clock.spent
        self.progress.slowdown = self.slowdown * self._off
        self._noted = self.clock.now()

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Time the files of the last epoch."""
        if not math.isnan(self._noted):
            self.saving = (self.clock.now() - self._noted) / self.slowdown

    def _replan(self, trainer: lightning.Trainer, step: int, steps: int) -> None:
        now_planned = self.length.left(step)
        if step == steps or abs(steps - self.length.steps) > TOLERANCE * now_planned:
            self.length.replans.append((step, steps))
            _tell(trainer, self.length)


class Replay(Callback):
    """Changes the length of a training where a clock did when it was first made.

    Args:
        length: of the training; changed in place.
        replans: the changes, in order.
    """

    def __init__(self, length: Length, replans: Sequence[tuple[int, int]]) -> None:
        self.length = length
        self.pending = list(replans[len(length.replans) :])

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Lightning counts epochs."""
        _tell(trainer, self.length)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any
    ) -> None:
        """Do what the clock did."""
        if self.pending and self.pending[0][0] <= trainer.global_step:
            self.length.replans.append(self.pending.pop(0))
            _tell(trainer, self.length)


def _tell(trainer: lightning.Trainer, length: Length) -> None:
    """Lightning counts epochs."""
    trainer.fit_loop.max_epochs = length.epochs
