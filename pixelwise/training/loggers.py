"""Where the curves of a training go beside metrics.csv."""

import hashlib
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning
from lightning.pytorch import loggers
from lightning.pytorch.callbacks import Callback

from ..recipe import Recipe
from .callbacks import ENVIRONMENT
from .module import TrainingModule

TENSORBOARD, MLFLOW_RUN = "tensorboard", "mlflow_run.txt"
_PACKAGES = {"wandb": "wandb", "mlflow": "mlflow"}


@runtime_checkable
class Writer(Protocol):
    """Takes numbers by name."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write the numbers of an optimiser step."""

    def close(self) -> None:
        """Write what is still to be written."""


class _TensorBoard:
    """Files for TensorBoard; what an interrupted epoch wrote after `step` is void."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _OfLightning:
    """Any logger of Lightning's."""

    def __init__(self, logger: loggers.Logger, settings: Mapping[str, Any]) -> None:
        self.logger = logger
        logger.log_hyperparams(dict(settings))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.logger.log_metrics(dict(values), step)

    def close(self) -> None:
        self.logger.finalize("success")


def check_logger(name: str) -> None:
    """Refuse a logger whose package is missing.

    Raises:
        ValueError: says how to install it.
    """
    package = _PACKAGES.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise ValueError(f"the logger {name} needs the package {package}: pip install {package}")


def open_writer(recipe: Recipe, path: Path, step: int) -> Writer | None:
    """What the recipe's logger writes with, for the run directory `path`; None for csv.

    A run that is continued goes on in the same run of wandb or mlflow. These are found as their own variables
    (WANDB_..., MLFLOW_TRACKING_URI) say; without them mlflow writes to a folder in the run directory.

    Args:
        recipe: the settings; they are noted.
        path: run directory.
        step: optimiser steps that are already made.
    """
    name = recipe.name or path.resolve().name
    if recipe.logger == "csv":
        return None
    if recipe.logger == "tensorboard":
        return _TensorBoard(path / TENSORBOARD, step)
    if recipe.logger == "wandb":
        identity = hashlib.sha256((path / ENVIRONMENT).read_bytes()).hexdigest()[:12]
        wandb = loggers.WandbLogger(
            name=name, save_dir=path, project="pixelwise", id=identity, resume="allow"
        )
        return _OfLightning(wandb, recipe.as_dict())
    note = path / MLFLOW_RUN
    mlflow = loggers.MLFlowLogger(
        experiment_name="pixelwise",
        run_name=name,
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI"),
        save_dir=str(path / "mlruns"),
        run_id=note.read_text().strip() if note.is_file() else None,
    )
    note.write_text(f"{mlflow.run_id}\n")
    return _OfLightning(mlflow, recipe.as_dict())


class LogMetrics(Callback):
    """Sends loss, its parts, learning rate and scores to the recipe's logger.

    Args:
        recipe: the settings.
        path: run directory.
        every: optimiser steps between two values of the training loss.
    """

    def __init__(self, recipe: Recipe, path: Path, every: int = 10) -> None:
        self.recipe, self.path, self.every = recipe, path, every
        self.writer: Writer | None = None
        self._written = -1

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Open the writer."""
        if trainer.is_global_zero:
            try:
                self.writer = open_writer(self.recipe, self.path, trainer.global_step)
            except OSError as error:
                raise self._cannot(error) from error

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any
    ) -> None:
        """Write the loss of the step."""
        assert isinstance(pl_module, TrainingModule)
        step = trainer.global_step
        if step % self.every == 0 and step != self._written:
            self._written = step
            parts = {f"train/loss_{name}": part for name, part in pl_module.last_parts.items()}
            self._log({"train/loss": pl_module.last_loss, **parts, "train/lr": pl_module.lr}, step)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write loss and scores of the epoch."""
        assert isinstance(pl_module, TrainingModule)
        if pl_module.report is not None:
            losses = {name.replace("val_", "val/", 1): loss for name, loss in pl_module.val_losses.items()}
            scores = {f"val/{name}": value for name, value in pl_module.report.values.items()}
            self._log({**losses, **scores}, trainer.global_step)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Close the writer."""
        if self.writer is not None:
            writer, self.writer = self.writer, None
            try:
                writer.close()
            except OSError as error:
                raise self._cannot(error) from error

    def _log(self, values: Mapping[str, float], step: int) -> None:
        if self.writer is None:
            return
        try:
            self.writer.log(values, step)
        except OSError as error:
            raise self._cannot(error) from error

    def _cannot(self, error: OSError) -> ValueError:
        where = self.path / TENSORBOARD if self.recipe.logger == "tensorboard" else self.recipe.logger
        return ValueError(f"cannot write to {where}: {error.strerror or error}")
