"""From a recipe to a run directory."""

import hashlib
import json
import logging
import math
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from ..data import (
    Augmented,
    DataSplits,
    SegmentationData,
    class_counts,
    open_data,
    training_transform,
    write_classes_file,
)
from ..encoders import WeightsUnavailable
from ..files import atomic_write, make_folder
from ..losses import Criterion, make_criterion
from ..metrics import Scores
from ..registry import build, may_be_pretrained
from ..types import BuiltBy, ClassTable, DenseModel
from .callbacks import (
    BEST_WEIGHTS,
    CLASSES,
    ENVIRONMENT,
    LAST,
    LAST_WEIGHTS,
    RECIPE,
    REPORT,
    TENSORBOARD,
    Keeper,
    Progress,
    SafeCheckpoints,
    TensorBoard,
    read_progress,
)
from .distributed import launch
from .environment import environment
from .module import TrainingModule
from .optim import Optimization
from .progress import ProgressBar
from .recipe import DEFAULT_EPOCHS, Recipe
from .report import report_run
from .samplers import PartOf, TrainBatches, train_loader, val_loader

Data = str | os.PathLike[str] | DataSplits | tuple[SegmentationData, SegmentationData]

_LIGHTNING_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


@dataclass(frozen=True)
class TrainResult:
    """What a training gave.

    Attributes:
        path: run directory.
        best: weights of the epoch with the best mean IoU on the validation part.
        last: weights of the last epoch.
        scores: of the best weights on the validation part.
        best_epoch: the epoch that gave them, counted from 1.
        history: one row per epoch, as in metrics.csv.
        recipe: the settings.
    """

    path: Path
    best: Path
    last: Path
    scores: Scores
    best_epoch: int
    history: tuple[dict[str, float], ...]
    recipe: Recipe

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / REPORT


def train(data: Data, model: str = "unet", *, progress: bool = True, **changes: Any) -> TrainResult:
    """Train a model.

    Args:
        data: a folder of images and masks, what `open_data` gives, or a training and a validation part.
        model: see `list_models()`.
        progress: whether to show how far it is.
        changes: settings of the `Recipe`, such as `epochs=3` or `out="runs/first"`.

    Raises:
        ValueError: if a setting, the data or the run directory cannot be used, the loss becomes non-finite,
            or a file cannot be written. An interrupted run can be continued with `resume`.
    """
    if isinstance(data, str | os.PathLike):
        return run(Recipe(os.fspath(data)).changed(model=model, **changes), progress=progress)
    about: dict[str, Any] = {}
    if isinstance(data, DataSplits):
        about = {"data": str(data.root)}
        if changes.get("format", "auto") == "auto":
            changes["format"] = data.format
    recipe = Recipe("").changed(**{**about, "model": model, **changes})
    return run(recipe, data=data, progress=progress)


def run(
    recipe: Recipe,
    *,
    resume: bool = False,
    data: Data | None = None,
    progress: bool = True,
    report: bool = True,
) -> TrainResult:
    """Do what a recipe says.

    Args:
        recipe: the settings.
        resume: whether to continue in its run directory, which must otherwise be new or empty.
        data: what to use instead of opening `recipe.data`.
        progress: whether to show how far it is.
        report: whether to write the HTML report and its pictures.

    Raises:
        ValueError: see `train`.
        KeyboardInterrupt: on Ctrl-C; says how to continue.
    """
    if resume:
        if recipe.out is None:
            raise ValueError("to resume, the recipe must name its run directory: out")
        return _run(recipe, Path(recipe.out), data, resumed=True, progress=progress, report=report)
    path = Path(recipe.out) if recipe.out is not None else _free_place(recipe)
    return _run(recipe, path, data, resumed=False, progress=progress, report=report)


def resume(
    path: str | os.PathLike[str], *, data: Data | None = None, progress: bool = True, report: bool = True
) -> TrainResult:
    """Continue an interrupted training, from the end of the last whole epoch.

    The weights become, bit for bit, those of a training that was never interrupted (on a CPU; GPU kernels
    need not be deterministic).

    Args:
        path: run directory.
        data: needed where the training was given data that no folder holds.
        progress: whether to show how far it is.
        report: whether to write the HTML report and its pictures.

    Raises:
        ValueError: if it is no run directory, or the data are not those that it was started with.
    """
    path = Path(path)
    if not (path / RECIPE).is_file():
        raise ValueError(f"{path} is no run directory: it holds no {RECIPE}")
    return _run(Recipe.read(path / RECIPE), path, data, resumed=True, progress=progress, report=report)


@dataclass(frozen=True)
class Experiment:
    """A recipe with its parts made.

    Attributes:
        recipe: the settings.
        train_data: to learn from.
        val_data: to choose by.
        classes: the task.
        task: model, criterion and optimiser.
        batches: of the training data, for this process.
        total_steps: optimiser steps of the training.
        total_epochs: epochs; the last may be cut short by the steps.
        rank: number of this process.
    """

    recipe: Recipe
    train_data: SegmentationData
    val_data: SegmentationData
    classes: ClassTable
    task: TrainingModule
    batches: TrainBatches
    total_steps: int
    total_epochs: int
    rank: int = 0

    @property
    def fingerprint(self) -> str:
        """Tells two data sets apart by their samples' names and classes."""
        names = [[pair.id for pair in data.pairs] for data in (self.train_data, self.val_data)]
        text = json.dumps([names, self.classes.names, self.classes.ignore])
        return hashlib.sha256(text.encode()).hexdigest()


def make_experiment(
    recipe: Recipe, data: Data | None = None, *, rank: int = 0, continued: bool = False
) -> Experiment:
    """Open the data and build the parts of a training; nothing is written. Seeds the random numbers.

    Args:
        recipe: the settings.
        data: what to use instead of opening `recipe.data`.
        rank: number of this process.
        continued: whether weights come from a checkpoint later, so that none need to be fetched.

    Raises:
        ValueError: if something in the recipe cannot be used.
    """
    if recipe.precision == "16" and not torch.cuda.is_available():
        raise ValueError("precision 16 needs a GPU: take bf16, or 32")
    train_data, val_data, classes = _open(recipe, data)
    model, recipe = _make_model(recipe, len(classes), continued=continued)
    train_data, val_data = (_with_channels(part, model.in_channels) for part in (train_data, val_data))
    if recipe.crop is not None and min(recipe.crop) < model.minimum_size:
        raise ValueError(
            f"crop must be at least {model.minimum_size} x {model.minimum_size} for {recipe.model!r}, got "
            f"{recipe.crop[0]} x {recipe.crop[1]}"
        )
    transform = training_transform(
        recipe.crop,
        scale=recipe.scale,
        flip=recipe.flip,
        color=recipe.color,
        rotation=recipe.rotation,
        elastic=recipe.elastic,
        ignore=classes.ignore,
    )
    batches = TrainBatches(
        Augmented(train_data, transform, seed=recipe.seed),
        recipe.batch_size,
        seed=recipe.seed,
        rank=rank,
        world=recipe.devices,
    )
    if min(len(train_data), len(val_data)) < recipe.devices or not len(batches):
        raise ValueError(
            f"{recipe.devices} devices need as many images in each part, got {len(train_data)} for training "
            f"and {len(val_data)} for validation"
        )
    steps_per_epoch = math.ceil(len(batches) / recipe.accumulate)
    total_epochs = recipe.epochs or (
        math.ceil(recipe.steps / steps_per_epoch) if recipe.steps else DEFAULT_EPOCHS
    )
    total_steps = recipe.steps or total_epochs * steps_per_epoch
    optimization = Optimization(
        total_steps,
        recipe.optimizer,
        recipe.lr,
        recipe.encoder_lr_factor,
        recipe.weight_decay,
        recipe.momentum,
        recipe.schedule,
        recipe.warmup_steps,
    )
    task = TrainingModule(
        model,
        _criterion(recipe, classes, train_data),
        classes,
        optimization,
        frozen=recipe.freeze,
        channels_last=recipe.channels_last,
    )
    optimization.make(task.model)  # what cannot be optimised is told now
    return Experiment(recipe, train_data, val_data, classes, task, batches, total_steps, total_epochs, rank)


def fit(experiment: Experiment, path: Path, *, resumed: bool, progress: bool = True) -> Progress:
    """Train in a run directory that exists.

    Raises:
        ValueError: see `train`.
        KeyboardInterrupt: on Ctrl-C.
    """
    recipe = experiment.recipe
    last = path / LAST
    resumed = resumed and last.is_file()
    state = read_progress(last) if resumed else Progress(experiment.fingerprint)
    if state.data != experiment.fingerprint:
        raise ValueError(
            f"the data are not those that {path} was started with (other images, parts or classes): give "
            "them with data=..."
        )
    if state.finished:
        return state
    keeper = Keeper(
        path,
        recipe,
        experiment.batches,
        state,
        total_steps=experiment.total_steps,
        total_epochs=experiment.total_epochs,
        resumed=resumed,
    )
    shown = [ProgressBar(state, experiment.total_epochs)] if progress else []
    with quiet():
        trainer = lightning.Trainer(
            accelerator=recipe.accelerator,
            devices=recipe.devices,
            strategy="ddp" if recipe.devices > 1 else "auto",
            precision=_LIGHTNING_PRECISION[recipe.precision],  # type: ignore[arg-type]
            max_epochs=experiment.total_epochs,
            accumulate_grad_batches=recipe.accumulate,
            gradient_clip_val=recipe.clip_norm,
            callbacks=[*shown, TensorBoard(path / TENSORBOARD, state), keeper],
            plugins=[LightningEnvironment(), SafeCheckpoints()],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            default_root_dir=path,
        )
        pin = recipe.accelerator != "cpu" and torch.cuda.is_available()
        workers, classes = recipe.workers, experiment.classes
        experiment.batches.set_epoch(len(state.history))  # Lightning starts to load before the epoch starts
        part = PartOf(len(experiment.val_data), rank=experiment.rank, world=recipe.devices)
        loaders = (
            train_loader(experiment.batches, classes, workers=workers, pin=pin),
            val_loader(
                experiment.val_data, part, classes, batch_size=recipe.val_batch_size, workers=workers, pin=pin
            ),
        )
        try:
            trainer.fit(experiment.task, *loaders, ckpt_path=last if resumed else None)
        except SystemExit as error:
            if keeper.interrupted:
                raise KeyboardInterrupt from error
            raise
        except ValueError as error:
            if (sentence := _of_worker(str(error))) != str(error):
                raise ValueError(sentence) from error
            raise
    return state


def _run(
    recipe: Recipe, path: Path, data: Data | None, *, resumed: bool, progress: bool, report: bool
) -> TrainResult:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        return _with_own_random_numbers(recipe, path, data, resumed, progress, report)


def _with_own_random_numbers(
    recipe: Recipe, path: Path, data: Data | None, resumed: bool, progress: bool, report: bool
) -> TrainResult:
    experiment = make_experiment(recipe, data, continued=resumed and (path / LAST).is_file())
    if recipe.devices > 1 and data is not None:
        _check_reopens(experiment)
    if not resumed:
        experiment = replace(experiment, recipe=_claim(experiment, path))
    try:
        if recipe.devices > 1:
            launch(path, recipe.devices, progress=progress)
            state = read_progress(path / LAST)
        else:
            state = fit(experiment, path, resumed=resumed, progress=progress)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"Interrupted. All whole epochs are kept: pixelwise train --resume {path}"
        ) from error
    result = TrainResult(
        path,
        path / BEST_WEIGHTS,
        path / LAST_WEIGHTS,
        state.scores(experiment.classes),
        state.best_epoch,
        tuple(state.history),
        experiment.recipe,
    )
    if report:
        report_run(
            path,
            result.recipe,
            result.scores,
            result.history,
            experiment.val_data,
            best_epoch=result.best_epoch,
        )
    return result


def _make_model(recipe: Recipe, num_classes: int, *, continued: bool) -> tuple[DenseModel, Recipe]:
    """The model, and the recipe that says whether it starts from published weights.

    Where the recipe leaves it open, it does if there are such weights and they can be fetched.
    """
    arguments = dict(recipe.model_arguments)
    pretrained = arguments.pop("pretrained", None)
    torch.manual_seed(recipe.seed)
    if continued:
        model = build(recipe.model, num_classes, **arguments)
        model.built_by = BuiltBy(recipe.model, {"num_classes": num_classes, **recipe.model_arguments})
        return model, recipe
    if pretrained is None and may_be_pretrained(recipe.model, arguments):
        try:
            model = build(recipe.model, num_classes, **arguments, pretrained=True)
            return model, recipe.changed(model_arguments={**arguments, "pretrained": True})
        except WeightsUnavailable as error:
            print(f"pixelwise: {error}; training starts from random weights", file=sys.stderr)
            torch.manual_seed(recipe.seed)
            recipe = recipe.changed(model_arguments={**arguments, "pretrained": False})
    if pretrained:
        arguments["pretrained"] = pretrained
    return build(recipe.model, num_classes, **arguments), recipe


def _open(recipe: Recipe, data: Data | None) -> tuple[SegmentationData, SegmentationData, ClassTable]:
    """The two parts of the data and their classes."""
    if data is None:
        if not recipe.data:
            raise ValueError("this recipe was run on data given in memory: give them again with data=...")
        data = recipe.data
    if isinstance(data, str | os.PathLike):
        data = open_data(
            data,
            format=recipe.format,
            classes=recipe.classes,
            val_fraction=recipe.val_fraction,
            seed=recipe.seed,
        )
    if isinstance(data, DataSplits):
        where, parts = f"{data.root}: ", (data.train, data.val)
    else:
        where, parts = "", data
    for name, part in zip(("training", "validation"), parts, strict=True):
        if not len(part):
            raise ValueError(f"{where}there is no {name} image")
    if parts[0].classes != parts[1].classes:
        raise ValueError(f"{where}the training and the validation part differ in their classes")
    return (*parts, parts[0].classes)


def _with_channels(data: SegmentationData, channels: int) -> SegmentationData:
    """The same files, read with as many channels as the model takes."""
    if data.channels == channels:
        return data
    return SegmentationData(data.pairs, data.classes, read_labels=data.read_labels, channels=channels)


def _criterion(recipe: Recipe, classes: ClassTable, data: SegmentationData) -> Criterion:
    weights = recipe.class_weights
    if weights == "balanced":
        weights = class_counts(data).weights
    return make_criterion(
        recipe.loss,
        classes,
        class_weights=None if isinstance(weights, str) else weights,
        label_smoothing=recipe.label_smoothing,
        aux_weight=recipe.aux_weight,
    )


def _check_reopens(experiment: Experiment) -> None:
    """Several processes must find, by the recipe alone, the data that were given."""
    with_message = "several devices need data that the recipe can open again: give the folder"
    try:
        train_data, val_data, classes = _open(experiment.recipe, None)
    except ValueError as error:
        raise ValueError(with_message) from error
    again = replace(experiment, train_data=train_data, val_data=val_data, classes=classes)
    if again.fingerprint != experiment.fingerprint:
        raise ValueError(with_message)


def _claim(experiment: Experiment, path: Path) -> Recipe:
    """Make the run directory and write what is known before training; the recipe with absolute paths."""
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(f"the run directory {path} is not empty: resume it, or choose another")
    make_folder(path)
    recipe = experiment.recipe
    absolute = {
        name: str(Path(given).resolve())
        for name in ("data", "classes", "out")
        if (given := getattr(recipe, name))
    }
    recipe = recipe.changed(**{"out": str(path.resolve()), **absolute})
    with atomic_write(path / ENVIRONMENT) as temporary:
        temporary.write_text(json.dumps(environment() | {"seed": recipe.seed}, indent=2) + "\n")
    write_classes_file(path / CLASSES, experiment.classes)
    recipe.write(path / RECIPE)
    return recipe


def _free_place(recipe: Recipe) -> Path:
    """runs/DATA-MODEL, or the first of it with a number that is not taken."""
    stem = recipe.name or f"{Path(recipe.data).resolve().stem if recipe.data else 'data'}-{recipe.model}"
    place, number = Path("runs") / stem, 1
    while place.exists() and (not place.is_dir() or any(place.iterdir())):
        number += 1
        place = Path("runs") / f"{stem}-{number}"
    return place


def _of_worker(message: str) -> str:
    """The sentence in what a loading process raised, without its traceback."""
    if "Original Traceback" not in message:
        return message
    return message.strip().splitlines()[-1].partition(": ")[2] or message


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning's advice is for programmers; and what it does to Ctrl-C is undone."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    main = threading.current_thread() is threading.main_thread()
    on_interrupt = signal.getsignal(signal.SIGINT) if main else None
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*in eval mode at the start of training.*",
            ".*is smaller than the logging interval.*",
            ".*Grad strides do not match bucket view strides.*",
            ".*lr_scheduler.step.. before .optimizer.step.*",
            ".*Trying to infer the `batch_size`.*",
            ".*exists and is not empty.*",
            ".*GPU available but not used.*",
            ".*isinstance.treespec, LeafSpec.*",
            ".*You defined a `validation_step` but have no.*",
        ):
            warnings.filterwarnings("ignore", message)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if main and on_interrupt is not None:
                signal.signal(signal.SIGINT, on_interrupt)
