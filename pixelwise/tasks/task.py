"""What a task is: everything that the rest of the package must know about it, in one value."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchmetrics.wrappers.abstract import WrapperMetric

from ..losses import PaperCriterion
from ..types import Annotation, ClassTable, Report, Sample

Picture = Image.Image
Settings = Mapping[str, Any]
Named = tuple[str, Annotation]


class TaskMetrics(WrapperMetric):
    """The scores of a task: annotations in, a `Report` out.

    A subclass holds the metrics of `pixelwise.metrics` that it is made of; they accumulate and synchronise.
    """

    def update(
        self, predictions: Sequence[Annotation], targets: Sequence[Annotation], ids: Sequence[str]
    ) -> None:
        """Count images.

        Args:
            predictions: one per image.
            targets: one per image.
            ids: names of the images.

        Raises:
            ValueError: if a prediction does not fit its target; names the image.
        """
        raise NotImplementedError

    def compute(self) -> Report:
        """Scores of everything seen by all processes."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        for part in self.children():
            part.reset()  # type: ignore[operator]


def _same_name(path: Path, classes: ClassTable) -> list[Path]:
    return [path]


@dataclass(frozen=True)
class Writer:
    """How the prediction of one image is saved.

    Attributes:
        write: path, annotation and classes; every file appears whole or not at all.
        files: the files that `write` makes for a path.
    """

    write: Callable[[Path, Any, ClassTable], None]
    files: Callable[[Path, ClassTable], list[Path]] = _same_name


@dataclass(frozen=True)
class Collector:
    """How the predictions of many images are saved together, such as COCO's json of results.

    Attributes:
        write: folder, name and annotation of each image, and classes; gives the files written.
        files: the files that `write` makes in a folder for these names.
    """

    write: Callable[[Path, Sequence[Named], ClassTable], list[Path]]
    files: Callable[[Path, Sequence[str]], list[Path]]


@dataclass(frozen=True)
class Task:
    """One way to segment: what is annotated, learnt, predicted, scored, drawn and written.

    `TrainingModule`, `Predictor`, `evaluate`, the report and the command line read this value and know no
    task by name.

    Attributes:
        name: as `pixelwise models` prints it and a checkpoint stores it.
        annotation: what data yield and what a prediction is.
        formats: layouts of data that hold such annotations (see `pixelwise.data.FORMATS`), in the order in
            which they are tried.
        criterion: classes and settings of a recipe -> module of (output, batch) -> scalar, with `.parts`.
        decode: output, classes and settings of decoding -> one annotation per image.
        metrics: classes -> the scores.
        monitor: the score that picks the best weights; higher is better.
        transform: classes and settings of a recipe -> augmentation of a training sample.
        draw: image, annotation and classes -> the image with the annotation on it.
        writers: how the prediction of one image is saved, by suffix; the first one where none is asked for.
        errors: image, prediction, target and classes -> a picture of what is wrong; None without one.
        collectors: how the predictions of many images are saved together, by name of the format.
        decoding: settings of `decode` with their defaults.
        tune: the report on validation data -> better settings of `decode`, kept with the best weights; None
            where there is nothing to tune.
        defaults: settings of a recipe that suit the task better than the recipe's own.
    """

    name: str
    annotation: type[Annotation]
    formats: tuple[str, ...]
    criterion: Callable[[ClassTable, Settings], PaperCriterion]
    decode: Callable[[Any, ClassTable, Settings], tuple[Annotation, ...]]
    metrics: Callable[[ClassTable], TaskMetrics]
    monitor: str
    transform: Callable[[ClassTable, Settings], Callable[[Sample], Sample]]
    draw: Callable[[Float[Tensor, "c *grid"], Any, ClassTable], Picture]
    writers: Mapping[str, Writer]
    errors: Callable[[Float[Tensor, "c *grid"], Any, Any, ClassTable], Picture] | None = None
    collectors: Mapping[str, Collector] = field(default_factory=dict)
    decoding: Settings = field(default_factory=dict)
    tune: Callable[[Report], Settings] | None = None
    defaults: Settings = field(default_factory=dict)
