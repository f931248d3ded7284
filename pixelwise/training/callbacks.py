"""What a run leaves behind, so that it can be read, used and continued at any moment."""

import csv
import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from .. import checkpoint
from ..files import atomic_write
from ..interruption import heed_sigterm
from ..predict.evaluation import first_column
from ..recipe import Recipe
from ..report.figures import PER_CLASS
from ..types import Report
from .ema import WeightAverage
from .length import Length
from .module import TrainingModule
from .samplers import TrainBatches, seed_of

LAST, BEST_WEIGHTS, LAST_WEIGHTS = "last.ckpt", "best.safetensors", "last.safetensors"
HISTORY = "metrics.csv"
RECIPE, ENVIRONMENT, CLASSES, REPORT = "recipe.json", "environment.json", "classes.json", "report.html"
SCORES = "scores.json"
PLAN = "plan.json"
_KEY = "pixelwise"


@dataclass
class Progress:
    """How far a training is. Kept in `last.ckpt`.

    Attributes:
        data: fingerprint of the data, so that nobody continues on others.
        history: one row per finished epoch.
        best_epoch: number of the best one so far, counted from 1; 0 before the first.
        monitor: the score that decides which epoch is the best.
        best_report: the scores of the best one on the validation part, as JSON knows them.
        finished: whether training is over.
        total_steps: optimiser steps that the training was to have, None before its first epoch ends.
        replans: changes of that number by a clock, see `Length`.
        seconds: wall time that the training had used when its last epoch ended, of all commands together;
            counted where it has a budget.
        slowdown: how much longer than planned things took when this was last measured; likewise.
    """

    data: str
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    monitor: str = "mean_iou"
    best_report: dict[str, Any] | None = None
    finished: bool = False
    total_steps: int | None = None
    replans: list[tuple[int, int]] = field(default_factory=list)
    seconds: float = 0.0
    slowdown: float = 1.0

    @property
    def best(self) -> float:
        """Best score so far; an epoch without one counts as -1."""
        if not self.best_epoch:
            return -math.inf
        score = self.history[self.best_epoch - 1][f"val_{self.monitor}"]
        return -1.0 if math.isnan(score) else score

    def report(self) -> Report:
        """Scores of the best epoch."""
        assert self.best_report is not None
        matrix = self.best_report["confusion"]
        return Report(**{**self.best_report, "confusion": None if matrix is None else torch.tensor(matrix)})


class SafeCheckpoints(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all, and are read without running what they hold."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write beside `path`, then rename."""
        with atomic_write(path) as temporary:
            try:
                torch.save(checkpoint, temporary)
            except RuntimeError as error:  # what torch makes of a full disk
                raise OSError(str(error).splitlines()[0]) from error

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: Any = True
    ) -> dict[str, Any]:
        """Read tensors and plain values only."""
        loaded: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return loaded


def read_progress(path: Path) -> Progress:
    """How far the training is whose `last.ckpt` this is.

    Raises:
        ValueError: if the file is not a whole checkpoint of a training.
    """
    try:
        return Progress(**SafeCheckpoints().load_checkpoint(path)[_KEY])
    except Exception as error:  # a damaged file can fail in many ways inside torch
        raise ValueError(f"{path} is not a whole checkpoint of a training: it cannot be continued") from error


class Keeper(Checkpoint):
    """Writes checkpoints, weights and the table of metrics after every epoch; ends the training early.

    Args:
        path: run directory.
        recipe: settings of the run.
        batches: told the epoch before each one.
        progress: how far the training is; changed in place.
        length: of the training; looked at anew in every step.
        resumed: whether the training goes on from a checkpoint.
        average: holds the averaged weights, which are saved in place of the model's; None for no average.
    """

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        batches: TrainBatches,
        progress: Progress,
        *,
        length: Length,
        resumed: bool,
        average: WeightAverage | None = None,
    ) -> None:
        self.path, self.recipe, self.batches, self.progress = path, recipe, batches, progress
        self.length, self.resumed = length, resumed
        self.average = average
        self.interruption: KeyboardInterrupt | None = None
        self._started = time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Make sure that a run that ends in its first epoch can be continued; heed SIGTERM."""
        if threading.current_thread() is threading.main_thread():
            heed_sigterm()  # Lightning's own handler lets training end as if all were well
        if not self.resumed:
            trainer.save_checkpoint(self.path / LAST)
            return
        # A checkpoint holds the next learning rate; the schedule may be another since, of more epochs.
        scheduler: Any = trainer.lr_scheduler_configs[0].scheduler
        parts = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        for group, base, factor in parts:
            group["lr"] = base * factor(scheduler.last_epoch)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Let order, augmentation and dropout depend on seed and epoch alone; choose who is validated."""
        self._started = time.monotonic()
        epoch = trainer.current_epoch + 1
        due = self.length.validates(epoch, trainer.global_step, self.recipe.val_every)
        trainer.check_val_every_n_epoch = 1 if due else epoch + 1
        self.batches.set_epoch(trainer.current_epoch)
        torch.manual_seed(seed_of(self.recipe.seed, trainer.current_epoch, trainer.global_rank))

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Stop where the steps are used up; a validation follows."""
        if trainer.global_step >= self.length.steps:
            trainer.should_stop = True
            trainer.check_val_every_n_epoch = 1

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write everything. `last.ckpt` comes last: until then, an interrupted run repeats the epoch."""
        assert isinstance(pl_module, TrainingModule)
        progress = self.progress
        better = self._note(trainer, pl_module)
        patience = self.recipe.early_stopping
        epoch = len(progress.history)
        validated = pl_module.report is not None
        stopped = validated and patience is not None and epoch - progress.best_epoch >= patience
        progress.total_steps, progress.replans = self.length.steps, list(self.length.replans)
        progress.finished = stopped or epoch >= self.length.epochs or trainer.global_step >= self.length.steps
        if stopped:
            trainer.should_stop = True
        if trainer.is_global_zero:
            write_history(self.path / HISTORY, progress.history)
            with self.average.inside(pl_module.model) if self.average is not None else nullcontext():
                self._save(pl_module, LAST_WEIGHTS)
                if better:
                    self._save(pl_module, BEST_WEIGHTS)
        trainer.save_checkpoint(self.path / LAST)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Remember Ctrl-C and SIGTERM, which Lightning turns into an exit."""
        if isinstance(exception, KeyboardInterrupt):
            self.interruption = exception

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the progress into the checkpoint."""
        checkpoint[_KEY] = dict(vars(self.progress))

    def _note(self, trainer: lightning.Trainer, module: TrainingModule) -> bool:
        """Add a row for the epoch; whether it is the best so far. Without a validation its scores are nan."""
        progress, report = self.progress, module.report
        key = f"val_{progress.monitor}"
        val = {"val_loss": math.nan, key: math.nan}
        if report is not None:
            val |= module.val_losses | {f"val_{name}": score for name, score in report.values.items()}
            val |= {f"{PER_CLASS}{name}": score for name, score in first_column(report).items()}
        row = {
            "epoch": float(len(progress.history) + 1),
            "step": float(trainer.global_step),
            "lr": self._lr,
            **module.train_losses,
            **val,
            "seconds": time.monotonic() - self._started,
        }
        before = progress.best
        progress.history.append(row)
        if report is None:
            return False
        better = (-1.0 if math.isnan(row[key]) else row[key]) > before
        if better:
            progress.best_epoch = len(progress.history)
            matrix = None if report.confusion is None else report.confusion.tolist()
            progress.best_report = {
                "values": dict(report.values),
                "per_class": _plain(report.per_class),
                "confusion": matrix,
                "note": report.note,
                "tables": _plain(report.tables),
                "curves": _plain(report.curves),
            }
        return better

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: Any
    ) -> None:
        """Remember the learning rate that is used."""
        self._lr = float(optimizer.param_groups[-1]["lr"])

    def _save(self, module: TrainingModule, name: str) -> None:
        row, monitor = self.progress.history[-1], f"val_{self.progress.monitor}"
        notes = {
            "epoch": f"{row['epoch']:.0f}",
            monitor: f"{row[monitor]:.6f}",
            "model": self.recipe.model,
            "data": self.recipe.data,
        }
        task = module.task
        changed = {key: value for key, value in module.decoding.items() if value != task.decoding[key]}
        checkpoint.save(
            module.model,
            self.path / name,
            module.classes,
            task=task.name,
            decoding=changed,
            notes=notes,
        )


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """One line per epoch as CSV.

    Raises:
        ValueError: if the file cannot be written.
    """
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        # An epoch without a validation has fewer numbers.
        columns = list(dict.fromkeys(name for row in history for name in row)) or ["epoch"]
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in history:
            writer.writerow({name: f"{value:.8g}" for name, value in row.items()})


def _plain(tree: Any) -> Any:
    """Mappings and sequences as JSON knows them."""
    if isinstance(tree, Mapping):
        return {name: _plain(value) for name, value in tree.items()}
    return list(tree) if isinstance(tree, Sequence) and not isinstance(tree, str) else tree
