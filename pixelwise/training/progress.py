"""What a person sees while waiting."""

import math
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn

from ..wording import score_name
from .callbacks import Progress
from .length import Length
from .module import TrainingModule


class ProgressBar(Callback):
    """One bar over the whole training: epoch, loss, best and last score, time left.

    Where the output is no terminal, one line per epoch is printed instead.

    Args:
        progress: holds the rows of finished epochs.
        length: of the training, which may change on the way.
        console: where to; stderr if None.
    """

    def __init__(self, progress: Progress, length: Length, console: Console | None = None) -> None:
        self.progress, self.length = progress, length
        self.console = console or Console(stderr=True)
        self._bar: Bar | None = None
        self._shown = len(progress.history)
        self._loss: float | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the bar."""
        if not (trainer.is_global_zero and self.console.is_terminal):
            return
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn(
                f"loss {{task.fields[loss]}}  {score_name(self.progress.monitor)} {{task.fields[score]}}"
            ),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        rounds = self._train_rounds(trainer) + self._val_rounds(trainer)
        done = trainer.current_epoch * rounds
        self._task = self._bar.add_task(
            "", total=self.length.epochs * rounds, completed=done, loss="-", score=self._score()
        )
        self._bar.start()

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show which epoch it is, and what the one before gave."""
        self._print(trainer)
        self._update(f"epoch {trainer.current_epoch + 1}/{self.length.epochs}")

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any
    ) -> None:
        """Show the loss, smoothed over about 20 steps."""
        assert isinstance(pl_module, TrainingModule)
        loss = pl_module.last_loss
        self._loss = loss if self._loss is None else 0.95 * self._loss + 0.05 * loss
        self._update(advance=1)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Say so."""
        self._update(f"epoch {trainer.current_epoch + 1}/{self.length.epochs} validation")

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Move on."""
        self._update(advance=1)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Print what the last epoch gave."""
        self._print(trainer)

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def _update(self, description: str | None = None, advance: int = 0) -> None:
        if self._bar is not None:
            loss = "-" if self._loss is None else f"{self._loss:.3f}"
            self._bar.update(
                self._task, description=description, advance=advance, loss=loss, score=self._score()
            )

    def _print(self, trainer: lightning.Trainer) -> None:
        """One line per finished epoch, where there is no bar."""
        new, self._shown = self.progress.history[self._shown :], len(self.progress.history)
        if self._bar is None and trainer.is_global_zero:
            for row in new:
                monitor, scores = self.progress.monitor, ""
                if not math.isnan(
                    row["val_loss"]
                ):  # not every epoch has a validation, not every task this loss
                    scores = f"val loss {row['val_loss']:.4f}  "
                if not math.isnan(score := row[f"val_{monitor}"]):
                    scores += f"{score_name(monitor)} {score:.4f}  "
                self.console.print(
                    f"epoch {row['epoch']:.0f}/{self.length.epochs}  loss {row['train_loss']:.4f}  {scores}"
                    f"{row['seconds']:.0f} s",
                    highlight=False,
                )

    def _score(self) -> str:
        scores = [row[f"val_{self.progress.monitor}"] for row in self.progress.history]
        known = [score for score in scores if not math.isnan(score)]
        return f"{known[-1]:.3f} (best {max(self.progress.best, 0):.3f})" if known else "-"

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _train_rounds(self, trainer: lightning.Trainer) -> int:
        return int(trainer.num_training_batches)

    def _val_rounds(self, trainer: lightning.Trainer) -> int:
        return int(sum(trainer.num_val_batches))
