"""One thread that runs a model: waiting images of one shape and one set of options go through it together."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from .limits import Limits
from .problems import Problem

_SMOOTHING = 0.2  # of the time per image, by which clients are told when to come back


@dataclass
class Job:
    """What waits for the model.

    Attributes:
        key: jobs with equal keys may run together; None runs alone.
        work: what it is given to work on.
        run: works on all jobs of a batch at once -> one result for each.
        pixels: what it counts towards the limit on waiting pixels.
        deadline: on the monotonic clock, after which nobody waits for it.
        result: where the answer appears; cancelled where the client has gone.
        entered: when it began to wait.
        started: when the model took it.
    """

    key: Hashable | None
    work: Any
    run: Callable[[Sequence[Any]], Sequence[Any]]
    pixels: int
    deadline: float
    result: "Future[Any]" = field(default_factory=Future)
    entered: float = field(default_factory=time.monotonic)
    started: float = 0.0


class ModelThread:
    """Runs jobs one batch after the other, and never waits for a batch to fill.

    Models set flags and use all cores while they run, so there is one such thread in a process.

    Args:
        limits: of what may wait.
        batch: most jobs that run together.
    """

    def __init__(self, limits: Limits, batch: int = 1) -> None:
        self.limits, self.batch = limits, batch
        self.seconds_per_job = 0.1
        self.batches: deque[int] = deque(maxlen=256)  # sizes of the last ones
        self.observe: Callable[[int], object] | None = None  # is told the size of each
        self._waiting: deque[Job] = deque()
        self._pixels = 0
        self._changed = threading.Condition()
        self._stopping, self._busy = False, 0
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Jobs that nobody has begun."""
        return len(self._waiting)

    def retry_after(self) -> float:
        """Seconds after which the jobs that wait now are done."""
        return (self.waiting + self._busy) * self.seconds_per_job

    def check_room(self, pixels: int = 0) -> None:
        """Refuse what would not fit.

        Raises:
            Problem: if too many jobs or pixels wait, or the server stops.
        """
        if self._stopping:
            raise Problem("draining", "the server is stopping", retry_after=5)
        full = self.waiting >= self.limits.waiting
        if full or (self.waiting and self._pixels + pixels > self.limits.waiting_pixels):
            told = f"{self.waiting} images are waiting already"
            raise Problem("queue-full", told, retry_after=self.retry_after())

    def submit(self, job: Job) -> "Future[Any]":
        """Let a job wait for its turn.

        Raises:
            Problem: as `check_room`.
        """
        with self._changed:
            self.check_room(job.pixels)
            self._waiting.append(job)
            self._pixels += job.pixels
            self._changed.notify()
        return job.result

    def stop(self, seconds: float) -> bool:
        """Take no more jobs and finish those that wait; whether all were finished in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._stopping:
                    self._changed.wait()
                if not self._waiting:
                    return
                jobs = self._taken()
                self._busy = len(jobs)
            if jobs:
                self._run(jobs)
            self._busy = 0

    def _taken(self) -> list[Job]:
        """The oldest job that somebody waits for, and those that may run with it."""
        jobs: list[Job] = []
        kept: deque[Job] = deque()
        while self._waiting:
            job = self._waiting.popleft()
            if jobs and (len(jobs) >= self.batch or job.key is None or job.key != jobs[0].key):
                kept.append(job)
                continue
            self._pixels -= job.pixels
            if time.monotonic() > job.deadline:
                if job.result.set_running_or_notify_cancel():
                    job.result.set_exception(Problem("deadline", "the time was over before it was its turn"))
            elif job.result.set_running_or_notify_cancel():
                jobs.append(job)
                if job.key is None:
                    break
        kept.extend(self._waiting)
        self._waiting = kept
        return jobs

    def _run(self, jobs: list[Job]) -> None:
        began = time.monotonic()
        for job in jobs:
            job.started = began
        try:
            results = jobs[0].run([job.work for job in jobs])
        except BaseException as error:  # the thread outlives whatever one batch does
            if len(jobs) > 1:
                for job in jobs:  # who of them was it?
                    self._alone(job)
            else:
                jobs[0].result.set_exception(error)
        else:
            taken = (time.monotonic() - began) / len(jobs)
            self.seconds_per_job += _SMOOTHING * (taken - self.seconds_per_job)
            self.batches.append(len(jobs))
            if self.observe is not None:
                self.observe(len(jobs))
            for job, result in zip(jobs, results, strict=True):
                job.result.set_result(result)

    def _alone(self, job: Job) -> None:
        try:
            job.result.set_result(job.run([job.work])[0])
        except BaseException as error:
            with contextlib.suppress(Exception):
                job.result.set_exception(error)
