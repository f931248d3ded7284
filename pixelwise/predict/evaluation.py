"""What a model, or a folder of predicted masks, is worth on labelled images."""

import csv
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Float64, Integer
from rich.console import Console
from rich.progress import track
from torch import Tensor

from .. import checkpoint
from ..checkpoint import Checkpoint
from ..data import DataSplits, LabelEncoding, SegmentationData, open_data, read_mask
from ..data.dataset import MaskFiles
from ..data.formats.mask import read_mask_pixels
from ..files import atomic_write
from ..metrics import Absent, Scores, confusion_matrix
from ..types import ClassTable, DenseModel, Sample
from .predictor import Predictor
from .writing import find_images

Evaluated = DenseModel | Predictor | Checkpoint | str | os.PathLike[str]
Data = DataSplits | SegmentationData | str | os.PathLike[str]


@dataclass(frozen=True)
class ImageScores:
    """What the prediction of one image is worth.

    Attributes:
        index: position in the data.
        id: of the sample.
        mean_iou: over the classes that occur in it, by the rule for absent ones; nan without labelled pixels.
        pixel_accuracy: share of the labelled pixels that are right; nan without labelled pixels.
        iou: one per class.
    """

    index: int
    id: str
    mean_iou: float
    pixel_accuracy: float
    iou: Float64[Tensor, " k"]


@dataclass(frozen=True)
class Evaluation:
    """Scores over all pixels, and of each image alone.

    Attributes:
        scores: from the sum of all images' confusion matrices.
        images: in the order of the data.
    """

    scores: Scores
    images: tuple[ImageScores, ...]

    def ranked(self) -> list[ImageScores]:
        """The images with labelled pixels, worst mean IoU first."""
        known = [image for image in self.images if not math.isnan(image.mean_iou)]
        return sorted(known, key=lambda image: image.mean_iou)

    def write_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write one row per image: id, mean_iou, pixel_accuracy and iou/CLASS for each class.

        A score that does not exist (an image without labelled pixels, a class that it does not have) is
        left empty.

        Args:
            path: of the file; one that was written so before is replaced.

        Raises:
            ValueError: if the file cannot be written, or another file is there.
        """
        with (
            atomic_write(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(
                ["id", "mean_iou", "pixel_accuracy", *(f"iou/{name}" for name in self.scores.classes.names)]
            )
            for image in self.images:
                scores = (image.mean_iou, image.pixel_accuracy, *image.iou.tolist())
                writer.writerow([image.id, *("" if math.isnan(x) else f"{x:.6f}" for x in scores)])
        return Path(path)


def evaluate(
    model: Evaluated,
    data: Data,
    *,
    split: str = "val",
    absent: Absent = "exclude",
    batch_size: int = 1,
    progress: bool = True,
) -> Scores:
    """Score a model or saved predictions; see `evaluate_images`, which tells the scores of each image too."""
    return evaluate_images(
        model, data, split=split, absent=absent, batch_size=batch_size, progress=progress
    ).scores


def evaluate_images(
    model: Evaluated,
    data: Data,
    *,
    split: str = "val",
    absent: Absent = "exclude",
    batch_size: int = 1,
    progress: bool = True,
) -> Evaluation:
    """Score a model or saved predictions on labelled images, at the size of the labels.

    Args:
        model: a model, a predictor, a loaded checkpoint, the path of a checkpoint or run directory; or a
            folder of predicted masks (pictures as `read_mask` reads them, or .npy), which are found by the
            samples' ids, relative paths or names.
        data: what `open_data` gives, one of its splits, or a path for it.
        split: "train", "val" or "test"; without meaning where `data` is one split.
        absent: what a class scores that is neither predicted nor there; see `Scores`.
        batch_size: images per forward pass; only images of one size go together, so it changes nothing
            but the time taken.
        progress: whether to show a progress bar.

    Raises:
        ValueError: if there is no such split, an image has no mask, the classes of model and data differ,
            or a prediction is missing, has another size or holds a label outside the table; names the file.
    """
    if isinstance(model, DenseModel) and any(part.training for part in model.modules()):
        modes = [(part, part.training) for part in model.modules()]
        try:
            return evaluate_images(
                model.eval(), data, split=split, absent=absent, batch_size=batch_size, progress=progress
            )
        finally:  # a training goes on
            for part, training in modes:
                part.training = training
    source = _opened(model)
    classes = source.classes if isinstance(source, Predictor | Checkpoint) else None
    labelled = labelled_part(data, split, classes)
    if not len(labelled):
        raise ValueError(f"there is no image in the {split} split")
    if isinstance(source, Path):
        predictions = _from_folder(source, labelled)
    else:
        predictor = source if isinstance(source, Predictor) else _predictor(source, labelled.classes)
        _check_same_task(predictor, labelled)
        labelled = _with_channels(labelled, predictor.model.in_channels)
        predictions = _from_model(predictor, labelled, batch_size)
    classes = labelled.classes
    k = len(classes)
    total = torch.zeros(k, k, dtype=torch.long)
    images = []
    console = Console(stderr=True)
    rounds = track(predictions, "evaluating", len(labelled), console=console, disable=not progress)
    for index, (sample, labels) in enumerate(rounds):
        assert sample.target is not None
        target = sample.target.labels.to(labels.device)
        matrix = confusion_matrix(labels, target, k, ignore=classes.ignore, where=sample.id).cpu()
        total += matrix
        images.append(_of_image(index, sample.id, Scores(matrix, classes, absent)))
    return Evaluation(Scores(total, classes, absent), tuple(images))


def _of_image(index: int, id: str, scores: Scores) -> ImageScores:
    if not scores.matrix.any():  # nothing is labelled
        return ImageScores(index, id, math.nan, math.nan, scores.iou)
    return ImageScores(index, id, scores.mean_iou, scores.pixel_accuracy, scores.iou)


def _opened(model: Evaluated) -> DenseModel | Predictor | Checkpoint | Path:
    """A path becomes what it means: a checkpoint, or a folder of predictions, which stays a path."""
    if not isinstance(model, str | os.PathLike):
        return model
    path = Path(model)
    if path.is_dir() and not any((path / name).exists() for name in (*checkpoint.IN_A_RUN, "recipe.json")):
        return path
    return checkpoint.load(path)


def _predictor(model: DenseModel | Checkpoint, classes: ClassTable) -> Predictor:
    if isinstance(model, Checkpoint):
        return Predictor(model)
    if model.num_classes != len(classes):
        raise ValueError(f"the model has {model.num_classes} classes, the data {len(classes)}")
    return Predictor(model, classes)


def labelled_part(data: Data, split: str, classes: ClassTable | None) -> SegmentationData:
    """The labelled images, their masks read with the model's classes where they have none of their own.

    Raises:
        ValueError: if there is no such part, or no image in it.
    """
    if isinstance(data, SegmentationData):
        return data
    if isinstance(data, str | os.PathLike):
        data = open_data(data)
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
    return SegmentationData(data.pairs, classes, read_target=MaskFiles(encoding), channels=data.channels)


def _check_same_task(predictor: Predictor, data: SegmentationData) -> None:
    """Numbers of two class tables mean the same only where the tables do."""
    ours, theirs = predictor.classes.names, data.classes.names
    if len(ours) != len(theirs):
        raise ValueError(f"the model has {len(ours)} classes, the data {len(theirs)}")
    for label, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if one != other:
            raise ValueError(f"class {label} is {one!r} for the model, {other!r} in the data")


def _with_channels(data: SegmentationData, channels: int) -> SegmentationData:
    """The same data, its images read with as many channels as the model takes."""
    if data.channels == channels:
        return data
    return SegmentationData(data.pairs, data.classes, read_target=data.read_target, channels=channels)


def _from_model(
    predictor: Predictor, data: SegmentationData, batch_size: int
) -> Iterator[tuple[Sample, Integer[Tensor, "H W"]]]:
    """Samples with what the model says of them; those of one size that follow each other share a batch."""
    waiting: list[Sample] = []
    for i in range(len(data)):
        sample = _labelled(data, i)
        if waiting and (len(waiting) == batch_size or waiting[0].image.shape != sample.image.shape):
            yield from _labels(predictor, waiting)
            waiting = []
        waiting.append(sample)
    yield from _labels(predictor, waiting)


def _labels(predictor: Predictor, samples: list[Sample]) -> Iterator[tuple[Sample, Integer[Tensor, "H W"]]]:
    try:
        found = predictor.labels(torch.stack([sample.image for sample in samples])).labels
    except ValueError as error:
        raise ValueError(f"{samples[0].id}: {error}") from error
    yield from zip(samples, found, strict=True)


def _from_folder(folder: Path, data: SegmentationData) -> Iterator[tuple[Sample, Integer[Tensor, "H W"]]]:
    """Samples with the masks that were predicted for them."""
    files: dict[str, list[Path]] = {}
    for path in find_images(folder):
        relative = path.relative_to(folder).with_suffix("")
        for key in {relative.as_posix(), relative.name}:
            files.setdefault(key, []).append(path)
    for i in range(len(data)):
        path = _prediction_of(data.pairs[i].id, files, folder)
        sample = _labelled(data, i)
        assert sample.target is not None
        target, ignore = sample.target.labels, data.classes.ignore
        labels = _predicted(path, data)
        if labels.shape != target.shape:
            given, wanted = (" x ".join(map(str, x.shape)) for x in (labels, target))
            raise ValueError(f"{path} has {given} pixels, its target {wanted}")
        if ((labels == ignore) & (target != ignore)).any():
            raise ValueError(f"{path} holds {ignore} (ignore) where its target has a class")
        yield sample, labels


def _predicted(path: Path, data: SegmentationData) -> Integer[Tensor, "H W"]:
    """The labels in a file of predictions.

    Under a mask rule they are read like the masks of the data, unless they hold nothing but the labels 0
    and 1, as the files that pixelwise writes do.
    """
    encoding = data.read_target.encoding if isinstance(data.read_target, MaskFiles) else None
    if encoding is None or encoding.above is None:
        return read_mask(path, data.classes)
    pixels = read_mask_pixels(path)
    if pixels.ndim == 2 and pixels.max(initial=0) <= 1 and pixels.min(initial=0) >= 0:
        return torch.from_numpy(pixels.astype(np.int64))
    return read_mask(path, encoding)


def _prediction_of(id: str, files: dict[str, list[Path]], folder: Path) -> Path:
    """The file for a sample: by its whole relative path, or the longest end of it that is known."""
    parts = PurePosixPath(id).parts
    for i in range(len(parts)):
        end = PurePosixPath(*parts[i:])
        for key in (str(end), str(end.with_suffix(""))):
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
