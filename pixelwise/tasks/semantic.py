"""Semantic segmentation: one class per pixel."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import decode, draw
from ..data import SegmentationData, read_mask, write_mask
from ..data.dataset import MaskFiles
from ..data.datasets import FORMATS
from ..data.formats.geojson_regions import write_geojson_regions
from ..data.formats.mask import read_mask_pixels
from ..data.formats.raster import has_rasterio, is_geotiff, write_raster
from ..data.intensity import PERCENTILES
from ..files import atomic_write
from ..losses import PaperCriterion, make_criterion
from ..metrics import SegmentationMetrics
from ..planning import DataFacts, MachineFacts, Planning, Rung, rules
from ..rle import RleMasks
from ..types import Annotation, ClassTable, DenseLogits, LabelMap, MaskSet, Report, Sample
from . import instance
from .changes import random_changes
from .task import Collector, Settings, Task, TaskMetrics, Writer, intensity_of, unchanged


class SemanticMetrics(TaskMetrics):
    """Scores from one confusion matrix; see `SegmentationMetrics`."""

    may_be_drawn = True

    def __init__(self, classes: ClassTable, settings: Settings) -> None:
        super().__init__()
        self.pixels = SegmentationMetrics(classes, settings["absent"])

    def update(
        self, predictions: Sequence[Annotation], targets: Sequence[Annotation], ids: Sequence[str]
    ) -> None:
        """Count images; see `TaskMetrics`."""
        for prediction, target, name in zip(predictions, targets, ids, strict=True):
            assert isinstance(prediction, LabelMap)
            assert isinstance(target, LabelMap)
            labels = prediction.labels.to(target.labels.device)
            self.pixels.update(labels[None], target.labels[None], (name,))

    def compute(self) -> Report:
        """Mean IoU and its kin."""
        return self.pixels.compute().report()


def criterion(classes: ClassTable, settings: Settings) -> PaperCriterion:
    """A loss, or a sum of losses, on every pixel."""
    weights = settings["class_weights"]
    return make_criterion(
        settings["loss"],
        classes,
        class_weights=None if isinstance(weights, str) else weights,
        label_smoothing=settings["label_smoothing"],
        aux_weight=settings["aux_weight"],
    )


def decoded(output: Any, classes: ClassTable, settings: Settings) -> tuple[LabelMap, ...]:
    """The class with the highest score at every pixel.

    Args:
        output: of a network.
        classes: exclusive.
        settings: `threshold`, of two classes the probability from which a pixel is of the second one; None
            for the higher of both.

    Raises:
        ValueError: if there is a threshold and more than two classes, or it is not between 0 and 1.
    """
    threshold = settings["threshold"]
    if isinstance(output, DenseLogits):
        coarse = output.coarse.float()
        if threshold is not None:
            coarse = _shifted(coarse, threshold)
        output = DenseLogits(coarse, output.size, (), output.align_corners)
    elif threshold is not None:
        raise ValueError(f"threshold is for scores of pixels, this model gives {type(output).__name__}")
    return tuple(LabelMap(labels) for labels in decode.labels(output).labels.unbind())


def _shifted(scores: Tensor, threshold: float) -> Tensor:
    """The scores of two classes, such that the second one is the higher from that probability on."""
    if scores.shape[1] != 2 or not isinstance(threshold, int | float) or not 0 < threshold < 1:
        raise ValueError(
            f"threshold must lie between 0 and 1 and is for two classes, got {threshold!r:.40} for "
            f"{scores.shape[1]}"
        )
    return scores - scores.new_tensor([0.0, math.log(threshold / (1 - threshold))]).view(
        1, 2, *[1] * (scores.ndim - 2)
    )


def finished(annotation: Annotation, classes: ClassTable, settings: Settings) -> LabelMap:
    """Without components smaller than `min_component`, see `decode.without_small_components`.

    Raises:
        ValueError: if that is no number of pixels.
    """
    assert isinstance(annotation, LabelMap)
    least = least_of(settings)
    if least < 2:
        return annotation
    return LabelMap(decode.without_small_components(annotation.labels, least), annotation.spacing)


def least_of(settings: Settings) -> int:
    """The setting `min_component`.

    Raises:
        ValueError: if it is no number of pixels.
    """
    least = settings["min_component"]
    if not isinstance(least, int) or isinstance(least, bool) or least < 0:
        raise ValueError(f"min_component must be a number of pixels, got {least!r:.40}")
    return least


def variants(report: Report, classes: ClassTable) -> list[Settings]:
    """Other thresholds, for two classes."""
    return [{"threshold": threshold} for threshold in (0.3, 0.4, 0.6, 0.7)] if len(classes) == 2 else []


def transform(classes: ClassTable, settings: Settings) -> Callable[[Sample], Sample]:
    """Scale and crop, mirror, rotate, deform, recolour, and what else is asked for."""
    return random_changes(settings, ignore=classes.ignore, flip_pairs=classes.flip_pairs)


def errors(image: Tensor, prediction: LabelMap, target: LabelMap, classes: ClassTable) -> Image.Image:
    """Wrong pixels red, ignored ones grey."""
    return draw.error_map(prediction, target, classes, image=image)


def write_png(path: Path, label_map: LabelMap, classes: ClassTable, image: str) -> None:
    """Labels as a palette image."""
    write_mask(path, label_map, classes)


def write_npy(path: Path, label_map: LabelMap, classes: ClassTable, image: str) -> None:
    """Labels as an int32 array "H W"."""
    with atomic_write(path) as temporary:
        np.save(temporary, label_map.labels.numpy().astype(np.int32))


def write_tiff(path: Path, label_map: LabelMap, classes: ClassTable, image: str) -> None:
    """Labels as grey values of 8 bits, or of 16 where a label needs them; of a GeoTIFF, in its place."""
    labels = label_map.labels.numpy()
    kind = np.uint8 if labels.max(initial=0) < 256 else np.uint16
    if image and is_geotiff(image) and has_rasterio():
        colors = {label: (*color, 255) for label, color in enumerate(classes.colors)}
        write_raster(path, labels.astype(kind), Path(image), classes.ignore, colors)
        return
    with atomic_write(path) as temporary:
        Image.fromarray(labels.astype(kind)).save(temporary, compression="tiff_deflate")


def regions(label_map: LabelMap) -> MaskSet:
    """The pixels of each class that is there, as run lengths with the score 1."""
    labels = label_map.labels.numpy()
    present = np.unique(labels)
    masks = RleMasks.from_map(labels, present.tolist())
    return MaskSet.of(masks, torch.from_numpy(present.astype(np.int64)))


def read(path: Path, data: SegmentationData, target: LabelMap) -> LabelMap:
    """Predicted labels from a palette image, an image of the classes' colours, or .npy.

    Where the masks of the data are read by a rule ("above-127"), so are the predictions, unless they hold
    nothing but the labels 0 and 1, as the files that pixelwise writes do.

    Raises:
        ValueError: if the file cannot be read, has another size than its target, or holds a label outside the
            table or the ignore label where the target has a class; names the file.
    """
    encoding = data.read_target.encoding if isinstance(data.read_target, MaskFiles) else None
    if encoding is None or encoding.above is None:
        labels = read_mask(path, data.classes)
    else:
        pixels = read_mask_pixels(path)
        plain = pixels.ndim == 2 and 0 <= pixels.min(initial=0) <= pixels.max(initial=0) <= 1
        labels = torch.from_numpy(pixels.astype(np.int64)) if plain else read_mask(path, encoding)
    ignore = data.classes.ignore
    if labels.shape != target.labels.shape:
        given, wanted = (" x ".join(map(str, x.shape)) for x in (labels, target.labels))
        raise ValueError(f"{path} has {given} pixels, its target {wanted}")
    if ((labels == ignore) & (target.labels != ignore)).any():
        raise ValueError(f"{path} holds {ignore} (ignore) where its target has a class")
    return LabelMap(labels)


FINE = 16.0  # pixels: thinner classes need full resolution


def ladder(data: DataFacts, machine: MachineFacts) -> tuple[Rung, ...]:
    """The networks to choose from, small to large."""
    plain = tuple(Rung(f"unet, width {w}", "unet", {"width": w}) for w in (8, 16, 24, 32, 48, 64))
    if len(data.classes) <= 3 and data.thinnest < FINE:
        return plain
    encoders = ("resnet18", "resnet34", "resnet50")
    return (
        *plain[:2],
        *(Rung(f"unet on {name}", "unet", {"encoder": name}) for name in encoders),
        Rung("deeplabv3plus on resnet50", "deeplabv3plus", {"encoder": "resnet50"}),
    )


LADDER = (
    "Up to three classes of which one is thinner than 16 pixels: U-Net of width 8, 16, 24, 32, 48, 64, at "
    "full resolution. Else U-Net of width 8 and 16, U-Net on resnet18, resnet34, resnet50, then DeepLabV3+ "
    "on resnet50."
)
PLANNING = Planning(
    ladder,
    LADDER,
    (
        rules.MASKS,
        rules.SPLIT,
        rules.REDUCE,
        rules.CROP,
        rules.LOSS,
        rules.CLASS_WEIGHTS,
        rules.RARE_CROPS,
        rules.SCALE,
        rules.FLIPS,
        rules.LOCATION_PRIOR,
        rules.VAL_TILE,
        rules.PRECISION,
        rules.MODEL,
        rules.REDUCE_MORE,
        rules.SMALLER_CROP,
        rules.BATCH_SIZE,
        rules.LR,
        rules.RANGE_TEST,
        rules.VALIDATION,
        rules.LENGTH,
        rules.EMA,
        rules.COLOR,
        rules.WORKERS,
    ),
)

SEMANTIC = Task(
    name="semantic",
    annotation=LabelMap,
    formats=FORMATS,
    criterion=criterion,
    decode=decoded,
    metrics=SemanticMetrics,
    monitor="mean_iou",
    transform=transform,
    draw=draw.overlay,
    errors=errors,
    read=read,
    scoring={"absent": "exclude"},
    writers={
        ".png": Writer(write_png, prepare=unchanged),
        ".npy": Writer(write_npy, prepare=unchanged),
        ".tif": Writer(write_tiff, prepare=unchanged),
        ".geojson": Writer(write_geojson_regions, prepare=regions),
    },
    collectors={"coco": Collector(instance.collect, instance.collected_files, regions)},
    decoding={
        "threshold": None,
        "flip": False,
        "min_component": 0,
        "crf": False,
        "location_prior": None,
        "intensity": PERCENTILES,
    },
    decoding_of=intensity_of,
    finish=finished,
    offers=("location_prior", "flip", "min_component", "crf"),
    variants=variants,
    planning=PLANNING,
)
