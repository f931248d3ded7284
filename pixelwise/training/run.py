"""From a recipe to a run directory."""

import hashlib
import json
import logging
import math
import os
import signal
import sys
import threading
import time
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
    DataSplits,
    SegmentationData,
    class_counts,
    classes_of_images,
    sizes_of_images,
    write_classes_file,
)
from ..data.cache import cache_size, cached
from ..data.intensity import PERCENTILES, bounds_of
from ..data.kinship import fold_numbers
from ..encoders import WeightsUnavailable
from ..files import LOCK, atomic_write, lock_folder, make_folder, remove_temporary
from ..interruption import Terminated, terminable
from ..losses import Criterion, PaperCriterion, paper_criterion
from ..planning import Plan, read_plan
from ..recipe import DEFAULT_EPOCHS, Recipe
from ..reduced import Reduced
from ..registry import build, describe, may_be_pretrained, taken_by
from ..report import write_evaluation_report
from ..tasks import Settings, Task, get_task, open_data, task_of_folder
from ..types import BuiltBy, ClassTable, DenseLogits, Model, Report
from .augmented import augmented_data
from .callbacks import (
    BEST_WEIGHTS,
    CLASSES,
    ENVIRONMENT,
    HISTORY,
    LAST,
    LAST_WEIGHTS,
    PLAN,
    RECIPE,
    REPORT,
    SCORES,
    Keeper,
    Progress,
    SafeCheckpoints,
    read_progress,
)
from .closing import Closing, choose_for, close
from .deadline import Clock, Deadline, Replay
from .distributed import launch
from .ema import WeightAverage
from .environment import environment
from .folds import join
from .gradient_checkpointing import checkpoint_blocks
from .init_from import Taken, take_weights
from .latest import LatestPictures
from .length import Length
from .loggers import LogMetrics, check_logger
from .machines import this_machine
from .module import TrainingModule
from .optim import Optimization
from .parts import Parts, parts_of, without_fold
from .progress import ProgressBar
from .run_report import command_of, report_run
from .samplers import PartOf, TrainBatches, repeat_factors, train_loader, val_loader
from .schedule import factor

Data = str | os.PathLike[str] | DataSplits | tuple[SegmentationData, SegmentationData] | Parts

SMALL_WIDTH = 16  # of the U-Net that is trained where no model is named
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
        remarks: what is said beside the scores: on which images, how sure, what trivial predictions score,
            what was chosen; a sentence each.
        closing: the same as values; None for folds, and without a report.
        folds: the trainings of the folds.
    """

    path: Path
    best: Path
    last: Path
    scores: Report
    best_epoch: int
    history: tuple[dict[str, float], ...]
    recipe: Recipe
    remarks: tuple[str, ...] = ()
    closing: Closing | None = None
    folds: tuple["TrainResult", ...] = ()

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / REPORT


def train(data: Data, model: str | None = None, *, progress: bool = True, **changes: Any) -> TrainResult:
    """Train a model.

    Args:
        data: a folder of images and masks, what `open_data` gives, or a training and a validation part.
        model: see `list_models()`; None for a U-Net that a small machine can train, of width 16.
        progress: whether to show how far it is.
        changes: settings of the `Recipe`, such as `epochs=3` or `out="runs/first"`.

    Raises:
        ValueError: if a setting, the data or the run directory cannot be used, the loss becomes non-finite,
            or a file cannot be written. An interrupted run can be continued with `resume`.
    """
    named = {} if model is None else {"model": model}
    if isinstance(data, str | os.PathLike):
        return run(recipe_of({"data": os.fspath(data), **named, **changes}), progress=progress)
    about: dict[str, Any] = {}
    if isinstance(data, DataSplits):
        about = {"data": str(data.root)}
        if changes.get("format", "auto") == "auto":
            changes["format"] = data.format
    return run(recipe_of({"data": "", **about, **named, **changes}), data=data, progress=progress)


def recipe_of(settings: Mapping[str, Any]) -> Recipe:
    """A recipe with these settings, and for the others the defaults of its task.

    Where no model is named, it is a U-Net that a small machine can train, of width 16 and not 64.

    Raises:
        ValueError: if a setting is unknown or out of its range, or there is no such model or task.
    """
    arguments = settings.get("model_arguments", {})
    if "model" not in settings and isinstance(arguments, dict) and not {"encoder", "width"} & set(arguments):
        settings = {**settings, "model_arguments": {"width": SMALL_WIDTH, **arguments}}
    model = settings.get("model", Recipe("").model)
    name = settings.get("task") or describe(model).tasks[0]
    _check_serves(model, name)
    return Recipe.of({**get_task(name).defaults, **settings})


def _check_serves(model: str, task: str) -> None:
    """A model must serve the task, which must exist."""
    serves = describe(model).tasks
    if get_task(task).name not in serves:
        raise ValueError(f"the model {model!r} serves {', '.join(serves)}, not the task {task}")


def run(
    recipe: Recipe,
    *,
    resume: bool = False,
    data: Data | None = None,
    progress: bool = True,
    report: bool = True,
    plan: Plan | None = None,
    clock: Clock | None = None,
) -> TrainResult:
    """Do what a recipe says.

    Args:
        recipe: the settings.
        resume: whether to continue in its run directory, which must otherwise be new or empty.
        data: what to use instead of opening `recipe.data`.
        progress: whether to show how far it is.
        report: whether to write the HTML report and its pictures.
        plan: what the recipe was decided by, kept in the run directory; see `training.automatic`.
        clock: says when the training must be over; None where its length is that of the recipe.

    Raises:
        ValueError: see `train`.
        KeyboardInterrupt: on Ctrl-C, and as `Terminated` on SIGTERM; says how to continue.
    """
    if resume:
        if recipe.out is None:
            raise ValueError("to resume, the recipe must name its run directory: out")
        return _run(recipe, Path(recipe.out), data, resumed=True, progress=progress, report=report)
    path = Path(recipe.out) if recipe.out is not None else _free_place(recipe)
    return _run(recipe, path, data, resumed=False, progress=progress, report=report, plan=plan, clock=clock)


def resume(
    path: str | os.PathLike[str],
    *,
    epochs: int | None = None,
    data: Data | None = None,
    progress: bool = True,
    report: bool = True,
    started: float | None = None,
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
        started: when the command began, of `time.monotonic()`; what is left of a budget counts from there.

    Raises:
        ValueError: if it is no run directory, another process trains in it, the data are not those that it
            was started with, or it has that many epochs already.
    """
    path = Path(path)
    if not (path / RECIPE).is_file():
        raise ValueError(f"{path} is no run directory: it holds no {RECIPE}")
    recipe = Recipe.read(path / RECIPE)
    clock = _clock_of(path, time.monotonic() if started is None else started)
    return _run(
        recipe, path, data, resumed=True, progress=progress, report=report, epochs=epochs, clock=clock
    )


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
        length: in optimiser steps and epochs.
        rank: number of this process.
        taken: what the model begins with of another run; None where there is no other.
        test_data: on which nothing is chosen; None where there is none.
    """

    recipe: Recipe
    train_data: SegmentationData
    val_data: SegmentationData
    classes: ClassTable
    task: Task
    module: TrainingModule
    batches: TrainBatches
    length: Length
    rank: int = 0
    taken: Taken | None = None
    test_data: SegmentationData | None = None

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
    parts, task = _open(recipe, data)
    classes = parts.train.classes
    task.check(classes)
    model, recipe = _make_model(recipe, task.model_arguments(classes), continued=continued)
    if recipe.reduce > 1:
        model = Reduced(model, recipe.reduce)
    taken = None
    if recipe.init_from is not None and not continued:
        taken = take_weights(model, recipe.init_from, classes.names, reset_head=recipe.reset_head)
    train_data, val_data = (part.with_channels(model.in_channels) for part in parts[:2])
    if task.reading is not None:
        reading = task.reading(task.decoding_with(task.decoding_of(vars(recipe))))
        train_data, val_data = train_data.with_reading(reading), val_data.with_reading(reading)
    elif "intensity" in task.decoding:
        bounds_of(recipe.intensity)
        train_data, val_data = (part.with_intensity(recipe.intensity) for part in (train_data, val_data))
    elif recipe.intensity != PERCENTILES:
        raise ValueError(f"the task {task.name} has no setting of the intensity")
    if recipe.location_prior and not ("location_prior" in task.decoding and model.output is DenseLogits):
        raise ValueError(
            f"location_prior is for one class per pixel and networks that score pixels, not for the task "
            f"{task.name} with {recipe.model!r}"
        )
    if recipe.crop is not None and min(recipe.crop) < model.minimum_size:
        least, given = ([model.minimum_size] * len(recipe.crop), recipe.crop)
        raise ValueError(
            f"crop must be at least {' x '.join(map(str, least))} for {recipe.model!r}, got "
            f"{' x '.join(map(str, given))}"
        )
    weights = class_counts(train_data).weights if recipe.class_weights == "balanced" else recipe.class_weights
    settings = {**vars(recipe), "class_weights": weights}
    if recipe.cache != "none":
        size = cache_size([train_data, val_data], recipe.cache)
        print(f"pixelwise: {size}", file=sys.stderr)
        train_data, val_data = cached(train_data, recipe.cache), cached(val_data, recipe.cache)
    augmented = augmented_data(train_data, task, classes, settings)
    if (recipe.repeat_rare or recipe.group_shapes) and len(augmented) != len(train_data):
        raise ValueError(f"repeat_rare and group_shapes are for whole images, not for the task {task.name}")
    weights_of_images = shapes = None
    if recipe.repeat_rare:
        weights_of_images = repeat_factors(classes_of_images(train_data), recipe.repeat_rare)
    if recipe.group_shapes:
        shapes = [int(width > height) for height, width in sizes_of_images(train_data)]
    batches = TrainBatches(
        augmented,
        recipe.batch_size,
        seed=recipe.seed,
        rank=rank,
        world=recipe.devices,
        images=recipe.images_per_epoch,
        weights=weights_of_images,
        shapes=shapes,
    )
    if min(len(train_data), len(val_data)) < recipe.devices or not len(batches):
        raise ValueError(
            f"{recipe.devices} devices need as many images in each part, got {len(train_data)} for training "
            f"and {len(val_data)} for validation"
        )
    steps_per_epoch = math.ceil(len(batches) / recipe.accumulate)
    length = Length(recipe.steps or (recipe.epochs or DEFAULT_EPOCHS) * steps_per_epoch, steps_per_epoch)
    optimization = Optimization(
        length.first,
        recipe.optimizer,
        recipe.lr,
        recipe.encoder_lr_factor,
        recipe.weight_decay,
        recipe.momentum,
        recipe.schedule,
        recipe.warmup_steps,
        recipe.drops,
        length.replans,
        recipe.layer_decay,
    )
    if recipe.gradient_checkpointing:
        checkpoint_blocks(model)
    module = TrainingModule(
        model,
        _criterion(task, model, classes, settings, recipe),
        task,
        classes,
        optimization,
        decoding=task.decoding_of(settings),
        val_tile=recipe.val_tile,
        frozen=recipe.freeze,
        channels_last=recipe.channels_last,
    )
    optimization.make(module.model)  # what cannot be optimised is told now
    recipe = recipe.changed(task=task.name)
    return Experiment(
        recipe, train_data, val_data, classes, task, module, batches, length, rank, taken, parts.test
    )


def _criterion(
    task: Task, model: Model, classes: ClassTable, settings: Settings, recipe: Recipe
) -> PaperCriterion:
    """The loss of the task, or that of the network's paper where its output has no scores of pixels.

    Raises:
        ValueError: if another one was chosen that would not be used.
    """
    made = task.criterion(classes, settings)
    if isinstance(made, Criterion) and not issubclass(model.output, DenseLogits):
        return paper_criterion(vars(recipe))
    return made


def fit(
    experiment: Experiment,
    path: Path,
    *,
    resumed: bool,
    progress: bool = True,
    clock: Clock | None = None,
    machines: int = 1,
) -> Progress:
    """Train in a run directory that exists.

    Args:
        experiment: what to train.
        path: run directory.
        resumed: whether to go on from its last checkpoint.
        progress: whether to show how far it is.
        clock: says when the training must be over; None where its length is that of the recipe.
        machines: that share the devices of the recipe.

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
    length = experiment.length
    length.replans[:] = [(step, steps) for step, steps in state.replans]
    longer = state.total_steps is not None and length.steps > state.total_steps
    if state.finished and not longer:
        return state
    state.finished = False
    average = WeightAverage(recipe.ema) if recipe.ema is not None else None
    keeper = Keeper(
        path,
        recipe,
        experiment.batches,
        state,
        length=length,
        resumed=resumed,
        average=average,
    )
    pacer = (
        Replay(length, recipe.replans)
        if clock is None
        else Deadline(length, clock, state, val_every=recipe.val_every)
    )
    latest = LatestPictures(path, experiment.val_data, average=average)
    callbacks: list[Callback] = [LogMetrics(recipe, path), pacer, latest, keeper]
    if average is not None:
        callbacks.insert(0, average)
    if progress:
        callbacks.insert(0, ProgressBar(state, length))
    with quiet():
        trainer = lightning.Trainer(
            accelerator=recipe.accelerator,
            devices=recipe.devices // machines,
            num_nodes=machines,
            strategy="ddp" if recipe.devices > 1 else "auto",
            precision=_LIGHTNING_PRECISION[recipe.precision],  # type: ignore[arg-type]
            max_epochs=length.epochs,
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
            f"training ended in epoch {len(state.history) + 1} of {length.epochs}, before its end: "
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
    plan: Plan | None = None,
    clock: Clock | None = None,
) -> TrainResult:
    """Train in `path`, one model or those of all folds."""
    if recipe.devices % (count := this_machine().count):
        raise ValueError(f"{recipe.devices} devices cannot be divided among {count} machines")
    if recipe.folds is not None and recipe.fold is None:
        if epochs is not None:
            raise ValueError(f"{path} holds several folds: resume one with epochs, such as {path}/fold_1")
        if not resumed:
            _check_free(path)
        return _run_folds(recipe, path, data, progress=progress, report=report, plan=plan, clock=clock)
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
                if plan is not None:
                    plan.write(path / PLAN)
            else:
                _sweep(path)
            if epochs is not None:
                recipe.write(path / RECIPE)
                if progress and (remark := _other_schedule(experiment, path)):
                    Console(stderr=True).print(remark, highlight=False)
            try:
                with terminable():
                    return _trained(
                        experiment,
                        path,
                        lock,
                        resumed=resumed,
                        progress=progress,
                        report=report,
                        clock=clock,
                    )
            except KeyboardInterrupt as error:
                what = "Terminated" if isinstance(error, Terminated) else "Interrupted"
                best = ""
                if clock is not None and (path / BEST_WEIGHTS).is_file():
                    best = f", and the best weights so far are {path / BEST_WEIGHTS}"
                raise type(error)(
                    f"{what}. All whole epochs are kept{best}: pixelwise train --resume {path}"
                ) from error


def _run_folds(
    recipe: Recipe,
    path: Path,
    data: Data | None,
    *,
    progress: bool,
    report: bool,
    plan: Plan | None = None,
    clock: Clock | None = None,
) -> TrainResult:
    """One training after the other, in `fold_1`, `fold_2`, ...; those that are there are continued.

    Each takes an equal part of the time that is left when it begins; with a clock, only all together have a
    report.
    """
    folds = recipe.folds
    assert folds is not None
    parts, task = _open(recipe, data)
    pooled = parts.train.joined(parts.val)
    fold_of_each = fold_numbers(pooled, folds, recipe.seed)
    make_folder(path)
    recipe = _with_absolute_paths(recipe, path).changed(task=task.name)
    recipe.write(path / RECIPE)
    if plan is not None:
        plan.write(path / PLAN)
    results, held = [], []
    for number in range(1, folds + 1):
        folder = path / f"fold_{number}"
        one = recipe.changed(fold=number, out=str(folder), choose=False)
        part = Parts(*without_fold(pooled, fold_of_each, number))
        if progress:
            counts = f"{len(part.train)} images, without {len(part.val)} others"
            Console(stderr=True).print(f"fold {number} of {folds}: {counts}", highlight=False)
        started = (folder / RECIPE).is_file()
        timed = None if clock is None else clock.share(folds + 1 - number, before=_seconds_of(folder))
        try:
            results.append(
                _run(
                    one,
                    folder,
                    part,
                    resumed=started,
                    progress=progress,
                    report=report and clock is None,
                    clock=timed,
                )
            )
        except KeyboardInterrupt as error:
            what = str(error).partition(".")[0]
            raise type(error)(f"{what}. What is done is kept: pixelwise train --resume {path}") from error
        held.append((folder, part.val))
    folded = join(path, recipe, held, parts.test, clock=clock)
    if report:
        write_evaluation_report(
            path / REPORT,
            recipe.name or path.resolve().name,
            folded.evaluation,
            held[0][1],
            None,
            settings=recipe.as_dict(),
            environment=environment(),
            command=command_of(recipe),
            remark=" ".join(folded.remarks),
        )
    weights = folded.weights or results[0].last
    return TrainResult(
        path,
        weights,
        weights,
        folded.evaluation.report,
        0,
        (),
        recipe,
        folded.remarks,
        None,
        tuple(results),
    )


def _trained(
    experiment: Experiment,
    path: Path,
    lock: int,
    *,
    resumed: bool,
    progress: bool,
    report: bool,
    clock: Clock | None,
) -> TrainResult:
    """Train in a run directory that is ours, and write the report."""
    if experiment.recipe.devices > 1:
        launch(path, experiment.recipe.devices, progress=progress, lock=lock, machine=this_machine())
        state = read_progress(path / LAST)
    else:
        state = fit(experiment, path, resumed=resumed, progress=progress, clock=clock)
    if clock is not None:  # whoever repeats this training needs no clock
        experiment = replace(experiment, recipe=experiment.recipe.changed(replans=state.replans))
        experiment.recipe.write(path / RECIPE)
    best = path / BEST_WEIGHTS
    patience = None if clock is None else clock.patience(state.slowdown)
    parts = Parts(experiment.train_data, experiment.val_data, experiment.test_data)
    choices = choose_for(best, experiment.recipe, parts, patience)
    closing = None
    if report:
        left = None if clock is None else clock.left - state.slowdown * clock.report
        closing = close(best, experiment.recipe, parts, choices, left)
    result = TrainResult(
        path,
        path / BEST_WEIGHTS,
        path / LAST_WEIGHTS,
        state.report(),
        state.best_epoch,
        tuple(state.history),
        experiment.recipe,
        tuple(closing.remarks) if closing is not None else (),
        closing,
    )
    if report:
        report_run(
            path,
            result.recipe,
            result.scores,
            result.history,
            experiment.val_data,
            best_epoch=result.best_epoch,
            closing=closing,
        )
    return result


def _clock_of(path: Path, started: float) -> Clock | None:
    """The clock of a run that has a budget, with what is left of it; None where it has none."""
    if not (path / PLAN).is_file():
        return None
    plan = read_plan(path / PLAN)
    if plan.get("budget") is None:
        return None
    before = sum(map(_seconds_of, (path, *path.glob("fold_*"))))
    return Clock(deadline=started + plan["budget"] - before, started=started, before=before, **plan["times"])


def _seconds_of(path: Path) -> float:
    """What a training with a clock took so far."""
    return read_progress(path / LAST).seconds if (path / LAST).is_file() else 0.0


def _sweep(path: Path) -> None:
    """Remove the temporary files of a training in `path` that was killed."""
    remove_temporary(
        path, (RECIPE, PLAN, ENVIRONMENT, CLASSES, HISTORY, LAST, LAST_WEIGHTS, BEST_WEIGHTS, REPORT, SCORES)
    )


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
    length = experiment.length
    if state.total_steps in (None, length.steps):
        return ""
    done, row = len(state.history), state.history[-1]
    if recipe.schedule == "constant":
        return f"Epoch {done + 1} to {length.epochs}, with the learning rate as it was."
    step = int(row["step"])
    lr = recipe.lr * factor(recipe.schedule, length.steps, recipe.warmup_steps, recipe.drops)(step)
    return (
        f"Epoch {done + 1} to {length.epochs} follow the {recipe.schedule} schedule of "
        f"{length.epochs} epochs: the learning rate goes from {row['lr']:.3g} to {lr:.3g}. The "
        f"first {done} epochs followed a schedule of another length, so the weights will not be those of a "
        f"training of {length.epochs} epochs from the start."
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


def open_data_of(recipe: Recipe, root: str | os.PathLike[str], task: Task) -> DataSplits:
    """A folder of images and annotations, read and cut as a training by this recipe does.

    Raises:
        ValueError: as `pixelwise.data.open_data`.
    """
    return open_data(
        root,
        task=task.name,
        format=recipe.format,
        classes=recipe.classes,
        val_fraction=recipe.val_fraction,
        test_fraction=recipe.test_fraction,
        seed=recipe.seed,
        mask_rule=recipe.mask_rule,
    )


def _open(recipe: Recipe, data: Data | None) -> tuple[Parts, Task]:
    """The parts of the data and the task of model and data."""
    if data is None:
        if not recipe.data:
            raise ValueError("this recipe was run on data given in memory: give them again with data=...")
        data = recipe.data
    serves = describe(recipe.model).tasks
    if recipe.task is not None:
        _check_serves(recipe.model, recipe.task)
        serves = (recipe.task,)
    if isinstance(data, str | os.PathLike):
        task = task_of_folder(Path(data), recipe.format, serves)
        serves = (task.name, *(name for name in serves if name != task.name))
        data = open_data_of(recipe, data, task)
    where = f"{data.root}: " if isinstance(data, DataSplits) else ""
    parts = parts_of(recipe, data)
    cut_later = recipe.folds is not None and recipe.fold is None
    for name, part in (("training", parts.train), ("validation", parts.val)):
        if not len(part) and not (cut_later and part is parts.val):
            raise ValueError(f"{where}there is no {name} image")
    if parts.train.classes != parts.val.classes:
        raise ValueError(f"{where}the training and the validation part differ in their classes")
    return parts, _task_of_data(parts.val if len(parts.val) else parts.train, serves)


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
        (train_data, val_data, _), _ = _open(experiment.recipe, None)
    except ValueError as error:
        raise ValueError(with_message) from error
    again = replace(experiment, train_data=train_data, val_data=val_data, classes=train_data.classes)
    if again.fingerprint != experiment.fingerprint:
        raise ValueError(with_message)


def _check_free(path: Path) -> None:
    if path.is_dir() and any(inside.name != LOCK for inside in path.iterdir()):
        raise ValueError(f"the run directory {path} is not empty: resume it, or choose another")


def _claim(experiment: Experiment, path: Path) -> Recipe:
    """Write what is known before training into the locked run directory; the recipe with absolute paths."""
    _check_free(path)
    recipe = _with_absolute_paths(experiment.recipe, path)
    with atomic_write(path / ENVIRONMENT) as temporary:
        temporary.write_text(json.dumps(environment() | {"seed": recipe.seed}, indent=2) + "\n")
    write_classes_file(path / CLASSES, experiment.classes)
    recipe.write(path / RECIPE)
    return recipe


def _with_absolute_paths(recipe: Recipe, path: Path) -> Recipe:
    absolute = {
        name: str(Path(given).resolve())
        for name in ("data", "classes", "init_from", "out")
        if (given := getattr(recipe, name))
    }
    return recipe.changed(**{"out": str(path.resolve()), **absolute})


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
