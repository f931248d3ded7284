"""Semantic segmentation: one class per pixel."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import decode, draw
from ..data import training_transform, write_mask
from ..files import atomic_write
from ..losses import PaperCriterion, make_criterion
from ..metrics import SegmentationMetrics
from ..types import Annotation, ClassTable, DenseLogits, LabelMap, Report, Sample
from .task import Settings, Task, TaskMetrics, Writer


class SemanticMetrics(TaskMetrics):
    """Scores from one confusion matrix; see `SegmentationMetrics`."""

    def __init__(self, classes: ClassTable) -> None:
        super().__init__()
        self.pixels = SegmentationMetrics(classes)

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


def decoded(output: DenseLogits, classes: ClassTable, settings: Settings) -> tuple[LabelMap, ...]:
    """The class with the highest score at every pixel."""
    plain = DenseLogits(output.coarse.float(), output.size, (), output.align_corners)
    return tuple(LabelMap(labels) for labels in decode.semantic(plain).labels.unbind())


def transform(classes: ClassTable, settings: Settings) -> Callable[[Sample], Sample]:
    """Scale and crop, mirror, rotate, deform, recolour."""
    return training_transform(
        settings["crop"],
        scale=settings["scale"],
        flip=settings["flip"],
        color=settings["color"],
        rotation=settings["rotation"],
        elastic=settings["elastic"],
        ignore=classes.ignore,
    )


def errors(image: Tensor, prediction: LabelMap, target: LabelMap, classes: ClassTable) -> Image.Image:
    """Wrong pixels red, ignored ones grey."""
    return draw.error_map(prediction, target, classes, image=image)


def write_png(path: Path, label_map: LabelMap, classes: ClassTable) -> None:
    """Labels as a palette image."""
    write_mask(path, label_map, classes)


def write_npy(path: Path, label_map: LabelMap, classes: ClassTable) -> None:
    """Labels as an int32 array "H W"."""
    with atomic_write(path) as temporary:
        np.save(temporary, label_map.labels.to(torch.int32).numpy())


SEMANTIC = Task(
    name="semantic",
    annotation=LabelMap,
    formats=("voc", "camvid", "pairs", "coco"),
    criterion=criterion,
    decode=decoded,
    metrics=SemanticMetrics,
    monitor="mean_iou",
    transform=transform,
    draw=draw.overlay,
    errors=errors,
    writers={".png": Writer(write_png), ".npy": Writer(write_npy)},
)
