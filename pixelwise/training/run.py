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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from ..data import (
    Augmented,
    DataSplits,
    SegmentationData,
    class_counts,
    write_classes_file,
)
from ..encoders import WeightsUnavailable
from ..files import LOCK, atomic_write, lock_folder, make_folder, remove_temporary
from ..interruption import Terminated, terminable
from ..recipe import DEFAULT_EPOCHS, Recipe
from ..registry import build, describe, may_be_pretrained, taken_by
from ..tasks import Settings, Task, get_task, open_data, task_of_folder
from ..types import BuiltBy, ClassTable, Model, Report
from .callbacks import (
    BEST_WEIGHTS,
    CLASSES,
    ENVIRONMENT,
    HISTORY,
    LAST,
    LAST_WEIGHTS,
    RECIPE,
    REPORT,
    Keeper,
    Progress,
    SafeCheckpoints,
    read_progress,
)
from .distributed import launch
from .ema import WeightAverage
from .environment import environment
from .init_from import Taken, take_weights
from .loggers import LogMetrics, check_logger
from .module import TrainingModule
from .optim import Optimization
from .progress import ProgressBar
from .run_report import report_run
from .samplers import PartOf, TrainBatches, train_loader, val_loader
from .schedule import factor

Data = str | os.PathLike[str] | DataSplits | tuple[SegmentationData, SegmentationData]

_LIGHTNING_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


@dataclass(frozen=True)
class TrainResult:
    """What a training gave.

    Attributes:
        path: run directory.
        best: weights of the epoch with the best score on the validation part.
        last: weights of the last epoch.
        scores: of the best weights on the validation part.
        best_epoch: the epoch that gave them, counted from 1.
        history: one row per epoch, as in metrics.csv.
        recipe: the settings.
    """

    path: Path
    best: Path
    last: Path
    scores: Report
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
        return run(recipe_of({"data": os.fspath(data), "model": model, **changes}), progress=progress)
    about: dict[str, Any] = {}
    if isinstance(data, DataSplits):
        about = {"data": str(data.root)}
        if changes.get("format", "auto") == "auto":
            changes["format"] = data.format
    return run(recipe_of({"data": "", **about, "model": model, **changes}), data=data, progress=progress)


def recipe_of(settings: Mapping[str, Any]) -> Recipe:
    """A recipe with these settings, and for the others the defaults of its task.

    Raises:
        ValueError: if a setting is unknown or out of its range, or there is no such model or task.
    """
    model = settings.get("model", Recipe("").model)
    name = settings.get("task") or describe(model).tasks[0]
    return Recipe.of({**get_task(name).defaults, **settings})


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
        KeyboardInterrupt: on Ctrl-C, and as `Terminated` on SIGTERM; says how to continue.
    """
    if resume:
        if recipe.out is None:
            raise ValueError("to resume, the recipe must name its run directory: out")
        return _run(recipe, Path(recipe.out), data, resumed=True, progress=progress, report=report)
    path = Path(recipe.out) if recipe.out is not None else _free_place(recipe)
    return _run(recipe, path, data, resumed=False, progress=progress, report=report)


def resume(
    path: str | os.PathLike[str],
    *,
    epochs: int | None = None,
    data: Data | None = None,
    progress: bool = True,
    report: bool = True,
) -> TrainResult:
    """Continue an interrupted training, from the end of the last whole epoch, or a finished one for longer.

    The weights become, bit for bit, those of a training that was never interrupted (on a CPU; GPU kernels
    need not be deterministic). With other `epochs` the schedule is that of a training of this length from
    here on; what was learned before, under the old one, stays. So unless the schedule is constant, the
    weights are not those of a training that had this length from its start.

    Args:
        path: run directory.
        epochs: length that the training shall have in all, in place of the one in its recipe.
        data: needed where the training was given data that no folder holds.
        progress: whether to show how far it is.
        report: whether to write the HTML report and its pictures.

    Raises:
        ValueError: if it is no run directory, another process trains in it, the data are not those that it
            was started with, or it has that many epochs already.
    """
    path = Path(path)
    if not (path / RECIPE).is_file():
        raise ValueError(f"{path} is no run directory: it holds no {RECIPE}")
    recipe = Recipe.read(path / RECIPE)
    return _run(recipe, path, data, resumed=True, progress=progress, report=report, epochs=epochs)


@dataclass(frozen=True)
class Experiment:
    """A recipe with its parts made.

    Attributes:
        recipe: the settings.
        train_data: to learn from.
        val_data: to choose by.
        classes: the task.
        task: what is learnt.
        module: model, criterion and optimiser.
        batches: of the training data, for this process.
        total_steps: optimiser steps of the training.
        total_epochs: epochs; the last may be cut short by the steps.
        rank: number of this process.
        taken: what the model begins with of another run; None where there is no other.
    """

    recipe: Recipe
    train_data: SegmentationData
    val_data: SegmentationData
    classes: ClassTable
    task: Task
    module: TrainingModule
    batches: TrainBatches
    total_steps: int
    total_epochs: int
    rank: int = 0
    taken: Taken | None = None

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
    check_logger(recipe.logger)
    if recipe.precision == "16" and not torch.cuda.is_available():
        raise ValueError("precision 16 needs a GPU: take bf16, or 32")
    train_data, val_data, classes, task = _open(recipe, data)
    task.check(classes)
    model, recipe = _make_model(recipe, task.model_arguments(classes), continued=continued)
    taken = None
    if recipe.init_from is not None and not continued:
        taken = take_weights(model, recipe.init_from, classes.names)
    train_data, val_data = (part.with_channels(model.in_channels) for part in (train_data, val_data))
    if recipe.crop is not None and min(recipe.crop) < model.minimum_size:
        least, given = ([model.minimum_size] * len(recipe.crop), recipe.crop)
        raise ValueError(
            f"crop must be at least {' x '.join(map(str, least))} for {recipe.model!r}, got "
            f"{' x '.join(map(str, given))}"
        )
    weights = class_counts(train_data).weights if recipe.class_weights == "balanced" else recipe.class_weights
    settings = {**vars(recipe), "class_weights": weights}
    batches = TrainBatches(
        Augmented(task.prepare(train_data, settings), task.transform(classes, settings), seed=recipe.seed),
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
    module = TrainingModule(
        model,
        task.criterion(classes, settings),
        task,
        classes,
        optimization,
        decoding=task.decoding_of(settings),
        frozen=recipe.freeze,
        channels_last=recipe.channels_last,
    )
    optimization.make(module.model)  # what cannot be optimised is told now
    recipe = recipe.changed(task=task.name)
    return Experiment(
        recipe, train_data, val_data, classes, task, module, batches, total_steps, total_epochs, rank, taken
    )


def fit(experiment: Experiment, path: Path, *, resumed: bool, progress: bool = True) -> Progress:
    """Train in a run directory that exists.

    Raises:
        ValueError: see `train`.
        KeyboardInterrupt: on Ctrl-C.
    """
    recipe = experiment.recipe
    last = path / LAST
    resumed = resumed and last.is_file()
    state = (
        read_progress(last) if resumed else Progress(experiment.fingerprint, monitor=experiment.task.monitor)
    )
    if state.data != experiment.fingerprint:
        raise ValueError(
            f"the data are not those that {path} was started with (other images, parts or classes): give "
            "them with data=..."
        )
    longer = state.total_steps is not None and experiment.total_steps > state.total_steps
    if state.finished and not longer:
        return state
    state.finished = False
    average = WeightAverage(recipe.ema) if recipe.ema is not None else None
    keeper = Keeper(
        path,
        recipe,
        experiment.batches,
        state,
        total_steps=experiment.total_steps,
        total_epochs=experiment.total_epochs,
        resumed=resumed,
        average=average,
    )
    callbacks: list[Callback] = [LogMetrics(recipe, path), keeper]
    if average is not None:
        callbacks.insert(0, average)
    if progress:
        callbacks.insert(0, ProgressBar(state, experiment.total_epochs))
    with quiet():
        trainer = lightning.Trainer(
            accelerator=recipe.accelerator,
            devices=recipe.devices,
            strategy="ddp" if recipe.devices > 1 else "auto",
            precision=_LIGHTNING_PRECISION[recipe.precision],  # type: ignore[arg-type]
            max_epochs=experiment.total_epochs,
            accumulate_grad_batches=recipe.accumulate,
            gradient_clip_val=recipe.clip_norm,
            callbacks=callbacks,
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
            trainer.fit(experiment.module, *loaders, ckpt_path=last if resumed else None)
        except SystemExit as error:
            if keeper.interruption is not None:
                raise keeper.interruption from error
            raise
        except ValueError as error:
            if (sentence := _of_worker(str(error))) != str(error):
                raise ValueError(sentence) from error
            raise
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise ValueError(
                "the memory is too small for this training: a smaller batch_size (now "
                f"{recipe.batch_size}) or crop, or precision bf16, may help"
            ) from error
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise ValueError(
                "a process that loads images was killed, perhaps because memory ran out: fewer workers (now "
                f"{recipe.workers}) or a smaller batch_size may help"
            ) from error
    if not state.finished:
        raise ValueError(
            f"training ended in epoch {len(state.history) + 1} of {experiment.total_epochs}, before its end: "
            f"pixelwise train --resume {path}"
        )
    return state


def _run(
    recipe: Recipe,
    path: Path,
    data: Data | None,
    *,
    resumed: bool,
    progress: bool,
    report: bool,
    epochs: int | None = None,
) -> TrainResult:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), terminable():
        if epochs is not None:
            recipe = _of_other_length(recipe, path, epochs)
        experiment = make_experiment(recipe, data, continued=resumed and (path / LAST).is_file())
        if experiment.taken is not None:
            print(f"pixelwise: {experiment.taken}", file=sys.stderr)
        if recipe.devices > 1 and data is not None:
            _check_reopens(experiment)
        if not resumed:
            _check_free(path)
            make_folder(path)
        with lock_folder(path) as lock:
            if not resumed:
                experiment = replace(experiment, recipe=_claim(experiment, path))
            else:
                _sweep(path)
            if epochs is not None:
                recipe.write(path / RECIPE)
                if progress and (remark := _other_schedule(experiment, path)):
                    Console(stderr=True).print(remark, highlight=False)
            try:
                with terminable():
                    return _trained(experiment, path, lock, resumed=resumed, progress=progress, report=report)
            except KeyboardInterrupt as error:
                what = "Terminated" if isinstance(error, Terminated) else "Interrupted"
                raise type(error)(
                    f"{what}. All whole epochs are kept: pixelwise train --resume {path}"
                ) from error


def _trained(
    experiment: Experiment, path: Path, lock: int, *, resumed: bool, progress: bool, report: bool
) -> TrainResult:
    """Train in a run directory that is ours, and write the report."""
    if experiment.recipe.devices > 1:
        launch(path, experiment.recipe.devices, progress=progress, lock=lock)
        state = read_progress(path / LAST)
    else:
        state = fit(experiment, path, resumed=resumed, progress=progress)
    result = TrainResult(
        path,
        path / BEST_WEIGHTS,
        path / LAST_WEIGHTS,
        state.report(),
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


def _sweep(path: Path) -> None:
    """Remove the temporary files of a training in `path` that was killed."""
    remove_temporary(path, (RECIPE, ENVIRONMENT, CLASSES, HISTORY, LAST, LAST_WEIGHTS, BEST_WEIGHTS, REPORT))


def _of_other_length(recipe: Recipe, path: Path, epochs: int) -> Recipe:
    """The recipe of a run with another number of epochs.

    Raises:
        ValueError: if the run counts steps, or has as many epochs already.
    """
    if recipe.steps is not None:
        raise ValueError(f"{path} was started for {recipe.steps} steps, so epochs cannot lengthen it")
    done = len(read_progress(path / LAST).history) if (path / LAST).is_file() else 0
    if epochs <= done:
        raise ValueError(f"{path} has {done} epochs already: epochs must be more, got {epochs}")
    return recipe.changed(epochs=epochs)


def _other_schedule(experiment: Experiment, path: Path) -> str:
    """What another length means for the learning rate; "" where the length is the old one."""
    recipe = experiment.recipe
    state = read_progress(path / LAST) if (path / LAST).is_file() else Progress("")
    if state.total_steps in (None, experiment.total_steps):
        return ""
    done, row = len(state.history), state.history[-1]
    if recipe.schedule == "constant":
        return f"Epoch {done + 1} to {experiment.total_epochs}, with the learning rate as it was."
    step = int(row["step"])
    lr = recipe.lr * factor(recipe.schedule, experiment.total_steps, recipe.warmup_steps)(step)
    return (
        f"Epoch {done + 1} to {experiment.total_epochs} follow the {recipe.schedule} schedule of "
        f"{experiment.total_epochs} epochs: the learning rate goes from {row['lr']:.3g} to {lr:.3g}. The "
        f"first {done} epochs followed a schedule of another length, so the weights will not be those of a "
        f"training of {experiment.total_epochs} epochs from the start."
    )


def _make_model(recipe: Recipe, given: Settings, *, continued: bool) -> tuple[Model, Recipe]:
    """The model, and the recipe that says whether it starts from published weights.

    Where the recipe leaves it open, it does if there are such weights and they can be fetched.

    Args:
        recipe: names the model and its arguments.
        given: the arguments that follow from the classes.
        continued: whether the weights come from a checkpoint.
    """
    given = taken_by(recipe.model, given)
    arguments = {**given, **recipe.model_arguments}
    pretrained = arguments.pop("pretrained", None)
    torch.manual_seed(recipe.seed)
    if continued:
        model = build(recipe.model, **arguments)
        kept = {**given, **recipe.model_arguments, **model.read_arguments}
        model.built_by = BuiltBy(recipe.model, kept)
        return model, recipe
    begun = recipe.init_from is not None  # another run's weights take the place of published ones
    if pretrained is None and not begun and may_be_pretrained(recipe.model, arguments):
        try:
            model = build(recipe.model, **arguments, pretrained=True)
            return model, recipe.changed(model_arguments={**recipe.model_arguments, "pretrained": True})
        except WeightsUnavailable as error:
            print(f"pixelwise: {error}; training starts from random weights", file=sys.stderr)
            torch.manual_seed(recipe.seed)
            recipe = recipe.changed(model_arguments={**recipe.model_arguments, "pretrained": False})
    if pretrained:
        arguments["pretrained"] = pretrained
    return build(recipe.model, **arguments), recipe


def _open(recipe: Recipe, data: Data | None) -> tuple[SegmentationData, SegmentationData, ClassTable, Task]:
    """The two parts of the data, their classes, and the task that model and data have in common."""
    if data is None:
        if not recipe.data:
            raise ValueError("this recipe was run on data given in memory: give them again with data=...")
        data = recipe.data
    serves = describe(recipe.model).tasks
    if recipe.task is not None:
        task = get_task(recipe.task)
        if task.name not in serves:
            raise ValueError(
                f"the model {recipe.model!r} serves {', '.join(serves)}, not the task {task.name}"
            )
        serves = (task.name,)
    if isinstance(data, str | os.PathLike):
        task = task_of_folder(Path(data), recipe.format, serves)
        data = open_data(
            data,
            task=task.name,
            format=recipe.format,
            classes=recipe.classes,
            val_fraction=recipe.val_fraction,
            seed=recipe.seed,
            mask_rule=recipe.mask_rule,
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
    return (*parts, parts[0].classes, _task_of_data(parts[1], serves))


def _task_of_data(data: SegmentationData, names: Sequence[str]) -> Task:
    """The first of the tasks whose annotations are those of the data.

    Raises:
        ValueError: if there is none.
    """
    tasks = [get_task(name) for name in names]
    labelled = next((i for i, pair in enumerate(data.pairs) if pair.mask is not None), None)
    kind = None if labelled is None else type(data.target(labelled))
    for task in tasks:
        if kind is None or task.annotation is kind:
            return task
    expected = " or ".join(task.annotation.__name__ for task in tasks)
    raise ValueError(
        f"the data are annotated by {kind.__name__ if kind else 'nothing'}, the model needs {expected}"
    )


def _check_reopens(experiment: Experiment) -> None:
    """Several processes must find, by the recipe alone, the data that were given."""
    with_message = "several devices need data that the recipe can open again: give the folder"
    try:
        train_data, val_data, classes, _ = _open(experiment.recipe, None)
    except ValueError as error:
        raise ValueError(with_message) from error
    again = replace(experiment, train_data=train_data, val_data=val_data, classes=classes)
    if again.fingerprint != experiment.fingerprint:
        raise ValueError(with_message)


def _check_free(path: Path) -> None:
    if path.is_dir() and any(inside.name != LOCK for inside in path.iterdir()):
        raise ValueError(f"the run directory {path} is not empty: resume it, or choose another")


def _claim(experiment: Experiment, path: Path) -> Recipe:
    """Write what is known before training into the locked run directory; the recipe with absolute paths."""
    _check_free(path)
    recipe = experiment.recipe
    absolute = {
        name: str(Path(given).resolve())
        for name in ("data", "classes", "init_from", "out")
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
