"""What a model, or a folder of predictions, is worth on annotated images."""

import csv
import math
import os
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor

from .. import checkpoint, export
from ..checkpoint import Checkpoint
from ..data import DataSplits, LabelEncoding, SegmentationData
from ..data.dataset import MaskFiles
from ..data.formats.mask import read_mask_pixels
from ..files import atomic_write
from ..metrics import ImageStates, Interval
from ..tasks import Task, get_task, open_data
from ..types import Annotation, ClassTable, Model, Report, Sample
from .official import Official, Sure, official_scores, watched
from .predictor import Predictor
from .writing import find_images, stem_of

_CONFUSIONS = 20  # that the table of images tells
Evaluated = Model | Predictor | Checkpoint | str | os.PathLike[str]
Data = DataSplits | SegmentationData | str | os.PathLike[str]


@dataclass(frozen=True)
class ImageScores:
    """What the prediction of one image is worth.

    Attributes:
        index: position in the data.
        id: of the sample.
        score: by which images are ranked, the task's monitor; nan where nothing counts.
        report: all scores of this image alone.
    """

    index: int
    id: str
    score: float
    report: Report


@dataclass(frozen=True)
class Evaluation:
    """Scores over all images, and of each image alone.

    Attributes:
        report: over all images.
        images: in the order of the data.
        task: what was asked.
        classes: of the data.
        states: what the scores know of each image, for intervals; None where the task has none.
    """

    report: Report
    images: tuple[ImageScores, ...]
    task: Task
    classes: ClassTable
    states: ImageStates | None = None

    @property
    def score(self) -> float:
        """The primary score, the task's monitor."""
        return self.report[self.task.monitor]

    def interval(self, level: float = 0.9, *, draws: int = 400) -> Interval | None:
        """The primary score with its bootstrap interval over images.

        Args:
            level: share of the draws inside the interval, between 0 and 1.
            draws: how many.

        Returns:
            None where the task scores no draws of images in little time (average precision), there is one
            image, or nothing counts.
        """
        if self.states is None or len(self.states) < 2 or math.isnan(self.score):
            return None
        return self.states.interval(lambda report: report[self.task.monitor], level=level, draws=draws)

    def ranked(self) -> list[ImageScores]:
        """The images with a score, worst first."""
        known = [image for image in self.images if not math.isnan(image.score)]
        return sorted(known, key=lambda image: image.score)

    def write_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write one row per image: its id, each score, and the first column of the table for each class.

        Of the most frequent confusions of classes, up to 20, follows the share of the labelled pixels of the
        image: `confused/road as car` for pixels of road that were predicted as car. A score that does not
        exist (an image without labelled pixels, a class that it does not have) is left empty.

        Args:
            path: of the file; one that exists is replaced.

        Raises:
            ValueError: if the file cannot be written.
        """
        columns = [f"{column}/{name}" for column in self.report.columns[:1] for name in self.report.per_class]
        with (
            atomic_write(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.writer(file)
            confused = self._confused()
            writer.writerow(["id", *self.report.values, *columns, *confused])
            for image in self.images:
                scores = [*image.report.values.values(), *first_column(image.report).values()]
                scores += _shares(image.report, confused.values())
                writer.writerow([image.id, *("" if math.isnan(x) else f"{x:.6f}" for x in scores)])
        return Path(path)

    def _confused(self) -> dict[str, tuple[int, int]]:
        """Columns of the most frequent confusions, with class of the target and of the prediction."""
        matrix, names = self.report.confusion, self.classes.names
        if matrix is None or len(matrix) != len(names):  # of objects it has other rows
            return {}
        wrong = matrix.clone().fill_diagonal_(0).flatten()
        count, order = wrong.sort(descending=True, stable=True)
        places = [divmod(place, len(names)) for place in order[count > 0][:_CONFUSIONS].tolist()]
        return {f"confused/{names[i]} as {names[j]}": (i, j) for i, j in places}


def _shares(report: Report, places: Collection[tuple[int, int]]) -> list[float]:
    """Of the labelled pixels, those of one class that were predicted as another."""
    if report.confusion is None or not (labelled := int(report.confusion.sum())):
        return [math.nan] * len(places)
    return [int(report.confusion[place]) / labelled for place in places]


def first_column(report: Report) -> dict[str, float]:
    """The most telling number of each class."""
    return {name: next(iter(row.values()), math.nan) for name, row in report.per_class.items()}


def evaluate(
    model: Evaluated,
    data: Data,
    *,
    split: str = "val",
    task: str | None = None,
    scoring: Mapping[str, Any] | None = None,
    batch_size: int = 1,
    progress: bool = True,
) -> Report:
    """Score a model or saved predictions; see `evaluate_images`, which tells the scores of each image too."""
    return evaluate_images(
        model,
        data,
        split=split,
        task=task,
        scoring=scoring,
        batch_size=batch_size,
        progress=progress,
        official=True,
    ).report


def evaluate_images(
    model: Evaluated,
    data: Data,
    *,
    split: str = "val",
    task: str | None = None,
    scoring: Mapping[str, Any] | None = None,
    batch_size: int = 1,
    progress: bool = True,
    official: bool = False,
) -> Evaluation:
    """Score a model or saved predictions on annotated images, at the size of the annotations.

    Args:
        model: a model, a predictor, a loaded checkpoint, the path of a checkpoint or run directory; or a
            folder of saved predictions (for one class per pixel pictures as `read_mask` reads them, or .npy),
            which are found by the samples' ids, relative paths or names.
        data: what `open_data` gives, one of its splits, or a path for it.
        split: "train", "val" or "test"; without meaning where `data` is one split.
        task: name of the task; None for that of the model, or one class per pixel for saved predictions.
        scoring: settings of the scores that differ from the task's, such as `{"absent": "zero"}`: what a
            class scores that is neither predicted nor there; see `metrics.Scores`.
        batch_size: images per forward pass; only images of one size go together, so it changes nothing
            but the time taken.
        progress: whether to show a progress bar.
        official: whether to add the official scores of a data set that is known by name, as a further table.

    Raises:
        ValueError: if there is no such split, an image has no annotation, the classes of model and data
            differ, or a prediction is missing or does not fit its target; names the file.
    """
    if isinstance(model, Model) and any(part.training for part in model.modules()):
        modes = [(part, part.training) for part in model.modules()]
        try:
            return evaluate_images(
                model.eval(),
                data,
                split=split,
                task=task,
                scoring=scoring,
                batch_size=batch_size,
                progress=progress,
                official=official,
            )
        finally:  # a training goes on
            for part, training in modes:
                part.training = training
    source = _opened(model)
    if isinstance(source, Checkpoint):
        source = Predictor(source, task=task)
    chosen = _task(source, task)
    classes = source.classes if isinstance(source, Predictor) else None
    labelled = labelled_part(data, split, classes, chosen)
    if not len(labelled):
        raise ValueError(f"there is no image in the {split} split")
    sure: Sure
    if isinstance(source, Path):
        files = _prediction_files(source, labelled, chosen)
        predictions = _from_files(files, labelled, chosen)
        sure = lambda index, sample: _grey(files[index])  # noqa: E731
    else:
        predictor = (
            source if isinstance(source, Predictor) else Predictor(source, labelled.classes, task=task)
        )
        _check_same_classes(predictor, labelled)
        labelled = labelled.with_channels(predictor.model.in_channels)
        predictions = predictions_of(predictor, labelled, batch_size)
        sure = lambda index, sample: predictor.probabilities(sample.image[None])[0, 1]  # noqa: E731
    known = official_scores(labelled, chosen.annotation) if official else None
    if known is not None:
        predictions = watched(predictions, known[1], labelled, sure)
    settings = chosen.scoring_with(scoring or {})
    console = Console(stderr=True)
    rounds = track(predictions, "evaluating", len(labelled), console=console, disable=not progress)
    found = scored(rounds, chosen, labelled.classes, settings)
    return found if known is None else _with_official(found, *known)


def _with_official(evaluation: Evaluation, title: str, official: Official) -> Evaluation:
    """The same scores, and the official ones as a further table."""
    report, rows = evaluation.report, official.rows()
    tables = {**report.tables, title: rows} if rows else report.tables
    note = " ".join(text for text in (report.note, official.remark()) if text)
    return replace(evaluation, report=replace(report, tables=tables, note=note))


def scored(
    pairs: Iterable[tuple[Sample, Annotation]],
    task: Task,
    classes: ClassTable,
    settings: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Score predictions as they come.

    Args:
        pairs: annotated samples, each with what was predicted for it.
        task: says by which scores.
        classes: of the data.
        settings: of the scores; None for the task's own.

    Raises:
        ValueError: if a prediction does not fit its target; names the image.
    """
    settings = task.scoring if settings is None else settings
    total, single = (task.metrics(classes, settings) for _ in range(2))
    states = ImageStates(task.metrics(classes, settings)) if total.may_be_drawn else None
    images = []
    for index, (sample, prediction) in enumerate(pairs):
        assert sample.target is not None
        found = prediction.to("cpu")
        for metrics in (total, single):
            metrics.update([found], [sample.target], [sample.id])
        if states is not None:
            states.note(single)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an image of its own may have nothing that counts
            report = single.compute()
        single.reset()
        images.append(ImageScores(index, sample.id, report[task.monitor], report))
    return Evaluation(total.compute(), tuple(images), task, classes, states)


def _opened(model: Evaluated) -> Model | Predictor | Checkpoint | Path:
    """A path becomes what it means: a checkpoint, or a folder of predictions, which stays a path."""
    if not isinstance(model, str | os.PathLike):
        return model
    path = Path(model)
    return export.load(path) if is_model(path) else path


def is_model(path: Path) -> bool:
    """Whether a path means weights (or a run that has none yet), and not a folder of saved predictions."""
    if not path.is_dir() or (path / "recipe.json").exists():
        return True
    try:
        checkpoint.find_all(path)
    except ValueError:
        return False
    return True


def _task(source: Model | Predictor | Path, name: str | None) -> Task:
    if isinstance(source, Predictor):
        return source.task
    if isinstance(source, Model):
        return get_task(name or source.tasks[0])
    task = get_task(name) if name else get_task()
    if task.read is None:
        raise ValueError(f"saved predictions of the task {task.name} cannot be read back: score the model")
    return task


def labelled_part(data: Data, split: str, classes: ClassTable | None, task: Task) -> SegmentationData:
    """The annotated images, their masks read with the model's classes where they have none of their own.

    Raises:
        ValueError: if there is no such part, or no image in it.
    """
    if isinstance(data, SegmentationData):
        return data
    if isinstance(data, str | os.PathLike):
        data = open_data(data, task=task.name)
    chosen = data.part(split)
    if classes is None or not data.encoding.from_files:
        return chosen
    return _with_classes(chosen, data.encoding, classes)


def _with_classes(data: SegmentationData, encoding: LabelEncoding, classes: ClassTable) -> SegmentationData:
    """The same data with the classes of the model in place of those that were made up from the masks.

    Masks that hold 0, 1, 2, ... (or colours) are read as the model's table says, also where its last classes
    do not occur in them. Other values (0 and 255; 0, 100 and 200) stand for the classes in turn.
    """
    k = len(classes)
    if encoding.values == tuple(range(len(encoding.values))):
        ignored = {classes.ignore, *encoding.ignored} - set(range(k))
        encoding = LabelEncoding(classes, tuple(range(k)), tuple(sorted(ignored)))
    elif len(encoding.values) == k and not classes.names[0].startswith("value "):
        encoding = replace(encoding, classes=classes)
    else:
        return data
    masks = data.read_target
    reading = replace(masks, encoding=encoding) if isinstance(masks, MaskFiles) else MaskFiles(encoding)
    return data.with_classes(classes, reading)


def _check_same_classes(predictor: Predictor, data: SegmentationData) -> None:
    """Numbers of two class tables mean the same only where the tables do."""
    ours, theirs = predictor.classes.names, data.classes.names
    if len(ours) != len(theirs):
        raise ValueError(f"the model has {len(ours)} classes, the data {len(theirs)}")
    for label, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if one != other:
            raise ValueError(f"class {label} is {one!r} for the model, {other!r} in the data")


def predictions_of(
    predictor: Predictor, data: SegmentationData, batch_size: int
) -> Iterator[tuple[Sample, Annotation]]:
    """Samples with what the model says of them; those of one size that follow each other share a batch."""
    if predictor.task.reading is not None:
        data = data.with_reading(predictor.task.reading(predictor.decoding))
    else:
        data = data.with_intensity(predictor.intensity)
    waiting: list[Sample] = []
    for i in range(len(data)):
        sample = _labelled(data, i)
        if waiting and (len(waiting) == batch_size or waiting[0].image.shape != sample.image.shape):
            yield from _predicted(predictor, waiting)
            waiting = []
        waiting.append(sample)
    yield from _predicted(predictor, waiting)


def _predicted(predictor: Predictor, samples: list[Sample]) -> Iterator[tuple[Sample, Annotation]]:
    try:
        found = predictor.annotations(samples)
    except ValueError as error:
        raise ValueError(f"{samples[0].id}: {error}") from error
    yield from zip(samples, found, strict=True)


def _prediction_files(folder: Path, data: SegmentationData, task: Task) -> list[Path]:
    """The file that was saved for each image.

    Raises:
        ValueError: if there is none, or several.
    """
    files: dict[str, list[Path]] = {}
    for path in find_images(folder, suffixes=task.suffixes | frozenset(task.writers)):
        relative = path.relative_to(folder).with_name(stem_of(path))
        for key in {relative.as_posix(), relative.name}:
            files.setdefault(key, []).append(path)
    return [_prediction_of(pair.id, files, folder) for pair in data.pairs]


def _from_files(files: list[Path], data: SegmentationData, task: Task) -> Iterator[tuple[Sample, Annotation]]:
    """Samples with the predictions that were saved for them."""
    assert task.read is not None
    for i, path in enumerate(files):
        sample = _labelled(data, i)
        yield sample, task.read(path, data, sample.target)


def _grey(path: Path) -> Float[Tensor, "H W"]:
    """A saved map in [0, 1]: grey values, or the labels 0 and 1."""
    pixels = read_mask_pixels(path)
    grey = (pixels.max(-1) if pixels.ndim == 3 else pixels).astype(np.float32)
    whole = 255.0 if grey.max(initial=0) <= 255 else 65535.0
    return torch.from_numpy(grey / (1.0 if grey.max(initial=0) <= 1 else whole))


def _prediction_of(id: str, files: dict[str, list[Path]], folder: Path) -> Path:
    """The file for a sample: by its whole relative path, or the longest end of it that is known."""
    parts = PurePosixPath(id).parts
    for i in range(len(parts)):
        end = PurePosixPath(*parts[i:])
        for key in (str(end), str(end.with_name(stem_of(Path(end))))):
            if len(found := files.get(key, [])) > 1:
                raise ValueError(f"{found[0]} and {found[1]} may both be the prediction for {id}")
            if found:
                return found[0]
    raise ValueError(f"{folder} holds no prediction for {id}")


def _labelled(data: SegmentationData, index: int) -> Sample:
    sample = data[index]
    if sample.target is None:
        raise ValueError(f"{sample.id} has no mask: only labelled images can be scored")
    return sample
