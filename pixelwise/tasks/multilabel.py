"""Multilabel segmentation: any number of classes per pixel, each with a threshold of its own."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .. import decode, draw
from ..data.datasets import class_folders, data_sets, layers
from ..data.formats.geojson_regions import write_geojson_regions
from ..data.intensity import PERCENTILES
from ..files import atomic_write
from ..metrics import MultilabelMetrics
from ..metrics.pixels.precision_recall import PixelPrecisionRecall
from ..rle import RleMasks
from ..types import Annotation, ClassMasks, ClassTable, DenseLogits, MaskSet, Report
from . import instance, semantic
from .task import Collector, Settings, Task, TaskMetrics, Writer, intensity_of, unchanged


class ClassMaskMetrics(TaskMetrics):
    """IoU and Dice of each class at its threshold, and average precision over all thresholds."""

    may_be_drawn = True

    def __init__(self, classes: ClassTable, settings: Settings) -> None:
        super().__init__()
        self.masks = MultilabelMetrics(classes, settings["absent"])
        self.curves = PixelPrecisionRecall(classes)

    def update(
        self, predictions: Sequence[Annotation], targets: Sequence[Annotation], ids: Sequence[str]
    ) -> None:
        """Count images; see `TaskMetrics`."""
        for prediction, target, name in zip(predictions, targets, ids, strict=True):
            assert isinstance(prediction, ClassMasks)
            assert isinstance(target, ClassMasks)
            if prediction.masks.shape != target.masks.shape:
                given, wanted = (" x ".join(map(str, x.masks.shape)) for x in (prediction, target))
                raise ValueError(f"{name}: the prediction has the shape {given}, the target {wanted}")
            prediction = prediction.to(target.masks.device)
            self.masks.update(prediction.masks[None], target.masks[None])
            if prediction.probabilities is not None:
                self.curves.update(prediction.probabilities, target.masks)

    def compute(self) -> Report:
        """Mean Dice and its kin; columns of AP and of the best threshold where probabilities were there."""
        report, curves = self.masks.compute().report(), self.curves.compute()
        # torchmetrics makes a number of a vector of one class.
        columns = curves.average_precision.reshape(-1), curves.best_thresholds.reshape(-1)
        rows = zip(report.per_class.items(), *columns, strict=True)
        per_class = {
            name: {**row, "AP": float(ap), "best threshold": float(t)} for (name, row), ap, t in rows
        }
        values = {**report.values, "mean_ap": float(curves.average_precision.nanmean())}
        return Report(values, per_class, note=report.note)


def decoded(output: DenseLogits, classes: ClassTable, settings: Settings) -> tuple[ClassMasks, ...]:
    """The classes whose probability reaches their threshold.

    Args:
        output: of a network with a sigmoid per class.
        classes: with `exclusive=False`.
        settings: `thresholds`, one for all classes or one for each.

    Raises:
        ValueError: if there are not as many thresholds, or one is outside [0, 1].
    """
    thresholds = settings["thresholds"]
    each = (thresholds,) * len(classes) if isinstance(thresholds, int | float) else tuple(thresholds)
    if len(each) != len(classes) or not all(0 <= threshold <= 1 for threshold in each):
        raise ValueError(
            f"thresholds must be one number in [0, 1], or one for each of {len(classes)} classes, "
            f"got {thresholds}"
        )
    probabilities = output.logits.float().sigmoid()
    limits = torch.tensor(each, device=probabilities.device).view(-1, *[1] * len(output.size))
    return tuple(ClassMasks((image >= limits).long(), image) for image in probabilities)


def finished(annotation: Annotation, classes: ClassTable, settings: Settings) -> ClassMasks:
    """Without components, and holes, smaller than `min_component`."""
    assert isinstance(annotation, ClassMasks)
    least = semantic.least_of(settings)
    if least < 2:
        return annotation
    masks = [decode.without_small_components(mask, least) for mask in annotation.masks]
    return ClassMasks(torch.stack(masks), annotation.probabilities)


def variants(report: Report, classes: ClassTable) -> list[Settings]:
    """The thresholds with the highest Dice on the data that were scored; 0.5 where a class has none."""
    best = [row["best threshold"] for row in report.per_class.values()]
    return [{"thresholds": [0.5 if math.isnan(threshold) else threshold for threshold in best]}]


def class_files(path: Path, classes: ClassTable) -> list[Path]:
    """a/b.png -> a/CLASS/b.png for each class: the layout of folders per class, which can be read again."""
    return [path.parent / _file_name(name) / path.name for name in classes.names]


def write_pngs(path: Path, class_masks: ClassMasks, classes: ClassTable, image: str) -> None:
    """One black and white image per class, in a folder of its name."""
    for file, mask in zip(class_files(path, classes), class_masks.masks.cpu().numpy(), strict=True):
        with atomic_write(file) as temporary:
            Image.fromarray((mask == 1).astype(np.uint8) * 255).save(temporary)


def write_tiff(path: Path, class_masks: ClassMasks, classes: ClassTable, image: str) -> None:
    """One file with a page per class."""
    pages = [Image.fromarray((mask == 1).astype(np.uint8) * 255) for mask in class_masks.masks.cpu().numpy()]
    with atomic_write(path) as temporary:
        pages[0].save(temporary, save_all=True, append_images=pages[1:], compression="tiff_deflate")


def write_npy(path: Path, class_masks: ClassMasks, classes: ClassTable, image: str) -> None:
    """An array "k H W" of 0 and 1, uint8."""
    with atomic_write(path) as temporary:
        np.save(temporary, class_masks.masks.numpy().astype(np.uint8))


def regions(class_masks: ClassMasks) -> MaskSet:
    """The pixels of each class, as run lengths with the score 1."""
    masks = RleMasks.encode(class_masks.masks.numpy() == 1)
    return MaskSet.of(masks, torch.arange(len(masks)))


def _file_name(name: str) -> str:
    return (
        "".join(letter if letter.isalnum() or letter in "-_. " else "_" for letter in name).strip(". ") or "_"
    )


MULTILABEL = Task(
    name="multilabel",
    annotation=ClassMasks,
    formats={**data_sets("multilabel"), "class_folders": class_folders, "layers": layers},
    criterion=semantic.criterion,
    decode=decoded,
    metrics=ClassMaskMetrics,
    monitor="mean_dice",
    transform=semantic.transform,
    draw=draw.class_masks,
    errors=draw.class_mask_errors,
    writers={
        ".png": Writer(write_pngs, class_files, unchanged),
        ".tif": Writer(write_tiff, prepare=unchanged),
        ".npy": Writer(write_npy, prepare=unchanged),
        ".geojson": Writer(write_geojson_regions, prepare=regions),
    },
    collectors={"coco": Collector(instance.collect, instance.collected_files, regions)},
    decoding={"thresholds": 0.5, "flip": False, "min_component": 0, "intensity": PERCENTILES},
    decoding_of=intensity_of,
    scoring={"absent": "exclude"},
    finish=finished,
    offers=("flip", "min_component"),
    variants=variants,
    planning=semantic.PLANNING,
)
