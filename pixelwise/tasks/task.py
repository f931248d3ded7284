"""What a task is: everything that the rest of the package must know about it, in one value."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchmetrics.wrappers.abstract import WrapperMetric

from ..data import SegmentationData
from ..data.dataset import ReadImage
from ..data.datasets import Finder
from ..data.formats.image import IMAGE_SUFFIXES
from ..data.intensity import bounds_of
from ..draw import DARKENED, UNKNOWN, WRONG
from ..losses import PaperCriterion
from ..planning import Planning
from ..types import Annotation, Batch, ClassTable, Color, Model, Report, Sample

Settings = Mapping[str, Any]
Named = tuple[str, Annotation]
Network = Callable[[Float[Tensor, "b c *grid"]], Any]  # images -> output of a model


class TaskMetrics(WrapperMetric):
    """The scores of a task: annotations in, a `Report` out.

    A subclass holds the metrics of `pixelwise.metrics` that it is made of; they accumulate and synchronise.

    Attributes:
        may_be_drawn: whether draws of images are scored quickly from what the metrics know of each image, so
            that a score has an interval; see `metrics.ImageStates`.
    """

    may_be_drawn: ClassVar[bool] = False

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


def unchanged(annotation: Any) -> Any:
    """The annotation itself, for `Writer.prepare` of annotations whose tensors are views of arrays."""
    return annotation


def _same_name(path: Path, classes: ClassTable) -> list[Path]:
    return [path]


@dataclass(frozen=True)
class Writer:
    """How the prediction of one image is saved.

    Attributes:
        write: path, annotation, classes and path of the image ("" where it has none) -> nothing; every file
            appears whole or not at all.
        files: the files that `write` makes for a path.
        prepare: what is done to the annotation first; after it `write` touches NumPy arrays and files only,
            so that another thread may do it. None where that is not so.
    """

    write: Callable[[Path, Any, ClassTable, str], None]
    files: Callable[[Path, ClassTable], list[Path]] = _same_name
    prepare: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Collector:
    """How the predictions of many images are saved together, such as COCO's json of results.

    Attributes:
        write: folder, name and annotation of each image, and classes -> the files written.
        files: the files that `write` makes in a folder for these names.
        compact: an annotation -> one that takes little memory while the others are made.
    """

    write: Callable[[Path, Sequence[Named], ClassTable], list[Path]]
    files: Callable[[Path, Sequence[str]], list[Path]]
    compact: Callable[[Any], Any] = unchanged


def _number_of_classes(classes: ClassTable) -> Settings:
    return {"num_classes": len(classes)}


def _any_classes(classes: ClassTable) -> None:
    pass


def _nothing(settings: Settings) -> Settings:
    return {}


def _as_it_is(data: SegmentationData, settings: Settings) -> Dataset[Sample]:
    return data


@dataclass(frozen=True)
class Task:
    """One way to segment: what is annotated, learnt, predicted, scored, drawn and written.

    `TrainingModule`, `Predictor`, `evaluate`, the report and the command line read this value and know no
    task by name.

    Attributes:
        name: as `pixelwise models` prints it and a checkpoint stores it.
        annotation: what data yield and what a prediction is.
        formats: layouts of data that hold such annotations, in the order in which they are tried.
        criterion: classes and settings of a recipe -> module of (output, batch) -> scalar, with `.parts`.
        decode: output, classes and settings of decoding -> one annotation per image.
        metrics: classes and settings of scoring -> the scores.
        monitor: the score that picks the best weights; higher is better.
        transform: classes and settings of a recipe -> augmentation of a training sample.
        draw: image, annotation and classes -> the image with the annotation on it.
        writers: how the prediction of one image is saved, by suffix; the first one where none is asked for.
        errors: image, prediction, target and classes -> a picture of what is wrong; None without one.
        legend: what the colours in that picture mean.
        collectors: how the predictions of many images are saved together, by name of the format.
        read: a saved prediction, the data and the target -> what was predicted; None where saved predictions
            cannot be scored.
        reading: settings of decoding -> how image files are read where they are not plain images, such as
            volumes; None for plain ones.
        suffixes: of image files, in lower case with the dot.
        find: folder and channels of a model -> the images in it, where one may be a folder or lie in several
            files; None where every file of such a suffix is an image.
        suffix_like: image -> suffix of its prediction where no format is asked for; None for the first of
            `writers`.
        infer: network, sample, classes and settings of decoding -> the annotation of a whole image, where it
            takes more than one forward pass (tiles of a volume, crops of objects); None where it does not.
        forward: model and batch -> output in training, where that takes more than the model's inputs, such as
            clicks that depend on earlier answers; None where it does not.
        prepare: training data and settings of a recipe -> the samples of the training.
        decoding: settings of `decode` and `infer` with their defaults.
        decoding_of: settings of a recipe -> settings of decoding that follow from them, such as the size of
            crops; they are kept with the weights.
        scoring: settings of `metrics` with their defaults.
        finish: annotation of a whole image, classes and settings of decoding -> the annotation to keep, for
            what cannot be done in bands; None where nothing is left to do.
        offers: names of the settings of decoding that are tried on validation images after a training, and
            kept with the weights if they help; see `predict.choices`.
        variants: the report on validation images and the classes -> further settings of `decode` to try;
            None where there are none.
        check: raises a ValueError for classes that do not suit the task.
        model_arguments: classes -> the arguments of a builder that follow from them.
        defaults: settings of a recipe that suit the task better than the recipe's own.
        planning: how a training is planned; None where it is not.
        hub_name: of the task on the Hugging Face hub.
    """

    name: str
    annotation: type[Annotation]
    formats: Mapping[str, Finder]
    criterion: Callable[[ClassTable, Settings], PaperCriterion]
    decode: Callable[[Any, ClassTable, Settings], tuple[Annotation, ...]]
    metrics: Callable[[ClassTable, Settings], TaskMetrics]
    monitor: str
    transform: Callable[[ClassTable, Settings], Callable[[Sample], Sample]]
    draw: Callable[[Float[Tensor, "c *grid"], Any, ClassTable], Image.Image]
    writers: Mapping[str, Writer]
    errors: Callable[[Float[Tensor, "c *grid"], Any, Any, ClassTable], Image.Image] | None = None
    legend: tuple[tuple[Color, str], ...] = (
        (WRONG, "wrong: predicted as another class"),
        (UNKNOWN, "not labelled: does not count"),
        (DARKENED, "right: the image, darkened"),
    )
    collectors: Mapping[str, Collector] = field(default_factory=dict)
    read: Callable[[Path, SegmentationData, Any], Annotation] | None = None
    reading: Callable[[Settings], ReadImage] | None = None
    suffixes: frozenset[str] = IMAGE_SUFFIXES
    find: Callable[[Path, int], list[Path]] | None = None
    suffix_like: Callable[[Path], str] | None = None
    infer: Callable[[Network, Sample, ClassTable, Settings], Annotation] | None = None
    forward: Callable[[Model, Batch], Any] | None = None
    prepare: Callable[[SegmentationData, Settings], Dataset[Sample]] = _as_it_is
    decoding: Settings = field(default_factory=dict)
    decoding_of: Callable[[Settings], Settings] = _nothing
    scoring: Settings = field(default_factory=dict)
    finish: Callable[[Annotation, ClassTable, Settings], Annotation] | None = None
    offers: tuple[str, ...] = ()
    variants: Callable[[Report, ClassTable], Sequence[Settings]] | None = None
    check: Callable[[ClassTable], None] = _any_classes
    model_arguments: Callable[[ClassTable], Settings] = _number_of_classes
    defaults: Settings = field(default_factory=dict)
    planning: Planning | None = None
    hub_name: str = "image-segmentation"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name: other processes know the same tasks."""
        return _by_name, (self.name,)

    @property
    def chosen(self) -> tuple[str, ...]:
        """Names of the settings of decoding that may have been chosen on validation images."""
        return tuple(
            name
            for name in self.decoding
            if name in self.offers or (self.variants is not None and name.startswith("threshold"))
        )

    def decoding_with(self, changes: Settings) -> Settings:
        """The settings of decoding with some changed.

        Raises:
            ValueError: if there is no such setting.
        """
        return _changed(self.decoding, changes, f"decoding for the task {self.name}")

    def scoring_with(self, changes: Settings) -> Settings:
        """The settings of scoring with some changed.

        Raises:
            ValueError: if there is no such setting.
        """
        return _changed(self.scoring, changes, f"scoring for the task {self.name}")


def intensity_of(settings: Settings) -> Settings:
    """The setting of decoding by which images of a prediction are read as those of the training.

    Raises:
        ValueError: if `intensity` is none.
    """
    bounds_of(settings["intensity"])
    return {"intensity": settings["intensity"]}


def _by_name(name: str) -> Task:
    from . import get_task

    return get_task(name)


def _changed(settings: Settings, changes: Settings, what: str) -> Settings:
    for name in changes:
        if name not in settings:
            known = ", ".join(settings) or "none"
            raise ValueError(f"there is no setting {name!r} of {what}: there are {known}")
    return {**settings, **changes}
