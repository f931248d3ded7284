"""What a run leaves behind, so that it can be read, used and continued at any moment."""

import csv
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint

from .. import checkpoint
from ..files import atomic_write
from ..metrics import Scores
from ..report.figures import CLASS_IOU
from ..types import ClassTable, DenseModel
from .module import TrainingModule
from .recipe import Recipe
from .samplers import TrainBatches, seed_of

LAST, BEST_WEIGHTS, LAST_WEIGHTS = "last.ckpt", "best.safetensors", "last.safetensors"
HISTORY, TENSORBOARD = "metrics.csv", "tensorboard"
RECIPE, ENVIRONMENT, CLASSES, REPORT = "recipe.json", "environment.json", "classes.json", "report.html"
_KEY = "pixelwise"


@dataclass
class Progress:
    """How far a training is. Kept in `last.ckpt`.

    Attributes:
        data: fingerprint of the data, so that nobody continues on others.
        history: one row per finished epoch.
        best_epoch: number of the best one so far, counted from 1; 0 before the first.
        best_matrix: its confusion matrix on the validation part.
        finished: whether training is over.
    """

    data: str
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_matrix: torch.Tensor | None = None
    finished: bool = False

    @property
    def best(self) -> float:
        """Best mean IoU so far; an epoch without a labelled pixel counts as -1."""
        if not self.best_epoch:
            return -math.inf
        mean_iou = self.history[self.best_epoch - 1]["val_mean_iou"]
        return -1.0 if math.isnan(mean_iou) else mean_iou

    def scores(self, classes: ClassTable) -> Scores:
        """Scores of the best epoch."""
        assert self.best_matrix is not None
        return Scores(self.best_matrix, classes)


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
        total_steps: optimiser steps of the training.
        total_epochs: epochs of the training; the last may be cut short by `total_steps`.
        resumed: whether the training goes on from a checkpoint.
    """

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        batches: TrainBatches,
        progress: Progress,
        *,
        total_steps: int,
        total_epochs: int,
        resumed: bool,
    ) -> None:
        self.path, self.recipe, self.batches, self.progress = path, recipe, batches, progress
        self.total_steps, self.total_epochs, self.resumed = total_steps, total_epochs, resumed
        self.interrupted = False
        self._started = time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Make sure that a run that ends in its first epoch can be continued."""
        if not self.resumed:
            trainer.save_checkpoint(self.path / LAST)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Let order, augmentation and dropout depend on seed and epoch alone."""
        self._started = time.monotonic()
        self.batches.set_epoch(trainer.current_epoch)
        torch.manual_seed(seed_of(self.recipe.seed, trainer.current_epoch, trainer.global_rank))

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Stop where the steps are used up; a validation follows."""
        if trainer.global_step >= self.total_steps:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write everything. `last.ckpt` comes last: until then, an interrupted run repeats the epoch."""
        assert isinstance(pl_module, TrainingModule)
        assert pl_module.scores is not None
        progress, scores = self.progress, pl_module.scores
        better = self._note(trainer, pl_module, scores)
        patience = self.recipe.early_stopping
        epoch = len(progress.history)
        stopped = patience is not None and epoch - progress.best_epoch >= patience
        progress.finished = stopped or epoch >= self.total_epochs or trainer.global_step >= self.total_steps
        if stopped:
            trainer.should_stop = True
        if trainer.is_global_zero:
            write_history(self.path / HISTORY, progress.history)
            self._save(pl_module, LAST_WEIGHTS)
            if better:
                self._save(pl_module, BEST_WEIGHTS)
        trainer.save_checkpoint(self.path / LAST)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Remember Ctrl-C, which Lightning turns into an exit."""
        self.interrupted = isinstance(exception, KeyboardInterrupt)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the progress into the checkpoint."""
        checkpoint[_KEY] = dict(vars(self.progress))

    def _note(self, trainer: lightning.Trainer, task: TrainingModule, scores: Scores) -> bool:
        """Add a row for the epoch; whether it is the best so far."""
        progress = self.progress
        per_class = zip(task.classes.names, scores.iou.tolist(), strict=True)
        row = {
            "epoch": float(len(progress.history) + 1),
            "step": float(trainer.global_step),
            "lr": self._lr,
            "train_loss": task.train_loss,
            "val_loss": task.val_loss,
            **{f"val_{name}": score for name, score in scores.as_dict().items()},
            **{f"{CLASS_IOU}{name}": iou for name, iou in per_class},
            "seconds": time.monotonic() - self._started,
        }
        before = progress.best
        progress.history.append(row)
        mean_iou = row["val_mean_iou"]
        better = (-1.0 if math.isnan(mean_iou) else mean_iou) > before
        if better:
            progress.best_epoch, progress.best_matrix = len(progress.history), scores.matrix
        return better

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: Any
    ) -> None:
        """Remember the learning rate that is used."""
        self._lr = float(optimizer.param_groups[-1]["lr"])

    def _save(self, task: TrainingModule, name: str) -> None:
        model = task.model
        assert isinstance(model, DenseModel)
        row = self.progress.history[-1]
        notes = {
            "epoch": f"{row['epoch']:.0f}",
            "val_mean_iou": f"{row['val_mean_iou']:.6f}",
            "model": self.recipe.model,
            "data": self.recipe.data,
        }
        checkpoint.save(model, self.path / name, task.classes, notes=notes)


class TensorBoard(Callback):
    """Writes loss, learning rate and scores for TensorBoard.

    Args:
        folder: where to.
        progress: holds the rows of finished epochs.
        every: optimiser steps between two values of the training loss.
    """

    def __init__(self, folder: Path, progress: Progress, every: int = 10) -> None:
        self.folder, self.progress, self.every = folder, progress, every
        self.writer: Any = None
        self._written = -1

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Open the file; what an interrupted epoch wrote is void."""
        if trainer.is_global_zero:
            from torch.utils.tensorboard import SummaryWriter

            try:
                self.writer = SummaryWriter(str(self.folder), purge_step=trainer.global_step)
            except OSError as error:
                raise ValueError(f"cannot write to {self.folder}: {error.strerror or error}") from error

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any
    ) -> None:
        """Write the loss of the step."""
        assert isinstance(pl_module, TrainingModule)
        step = trainer.global_step
        if step % self.every == 0 and step != self._written:
            self._written = step
            self._add({"train/loss": pl_module.last_loss, "train/lr": pl_module.lr}, step)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the scores of the epoch."""
        assert isinstance(pl_module, TrainingModule)
        if pl_module.scores is not None:
            values = {f"val/{name}": value for name, value in pl_module.scores.as_dict().items()}
            self._add({"val/loss": pl_module.val_loss, **values}, trainer.global_step)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Close the file."""
        if self.writer is not None:
            writer, self.writer = self.writer, None
            try:
                writer.close()
            except OSError as error:
                raise ValueError(f"cannot write to {self.folder}: {error.strerror or error}") from error

    def _add(self, values: dict[str, float], step: int) -> None:
        if self.writer is None:
            return
        try:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)
        except OSError as error:
            raise ValueError(f"cannot write to {self.folder}: {error.strerror or error}") from error


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """One line per epoch as CSV.

    Raises:
        ValueError: if the file cannot be written.
    """
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        names = list(dict.fromkeys(name for row in history for name in row))
        writer = csv.DictWriter(file, names or ["epoch"])
        writer.writeheader()
        for row in history:
            writer.writerow({name: f"{value:.8g}" for name, value in row.items()})
