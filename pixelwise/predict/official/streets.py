"""Cityscapes, and KITTI, which has its classes."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...data.dataset import Pair
from ...data.formats.mask import read_mask_pixels
from ...metrics import CityscapesInstanceMetrics, CityscapesMetrics
from ...metrics.cityscapes.pixels import LABELS
from ...types import Annotation, ClassTable, LabelMap, MaskSet, Sample
from ...wording import counted
from .kind import Rows


class Streets:
    """Cityscapes' instance-level IoU (iIoU) and categories; needs the maps of instances beside the masks."""

    def __init__(self, classes: ClassTable) -> None:
        self.metrics, self.missing, self.seen = CityscapesMetrics(), 0, 0
        self.ids = _cityscapes_ids(classes)

    def update(self, pair: Pair, sample: Sample, prediction: Annotation, sure: Callable[[], Tensor]) -> None:
        """Count an image; see `Official`."""
        assert isinstance(prediction, LabelMap)
        instances = _instance_map(pair)
        if instances is None or self.ids is None:
            self.missing += 1
            return
        self.seen += 1
        self.metrics.update(self.ids[prediction.labels], instances, pair.id)

    def rows(self) -> Rows:
        """Classes, then categories, then the means."""
        if not self.seen or self.missing:
            return {}
        scores = self.metrics.compute()
        rows = {
            name: {"IoU": iou, "iIoU": scores.iiou.get(name, math.nan)} for name, iou in scores.iou.items()
        }
        rows |= {
            f"category {name}": {"IoU": iou, "iIoU": scores.category_iiou.get(name, math.nan)}
            for name, iou in scores.category_iou.items()
        }
        rows["mean of classes"] = {"IoU": scores.mean_iou, "iIoU": scores.mean_iiou}
        rows["mean of categories"] = {"IoU": scores.mean_category_iou, "iIoU": scores.mean_category_iiou}
        return rows

    def remark(self) -> str:
        """What is missing."""
        if self.ids is None:
            return "The official scores need the 19 classes of Cityscapes by their names."
        if self.missing:
            return (
                f"The official scores need the maps of instances: {counted(self.missing, 'image')} of "
                f"{self.missing + self.seen} have none (*_instanceIds.png, KITTI's training/instance/)."
            )
        return ""


class StreetObjects:
    """Cityscapes' average precision of instances."""

    def __init__(self, classes: ClassTable) -> None:
        self.metrics, self.missing, self.seen = CityscapesInstanceMetrics(), 0, 0
        self.ids = _cityscapes_ids(classes)

    def update(self, pair: Pair, sample: Sample, prediction: Annotation, sure: Callable[[], Tensor]) -> None:
        """Count an image; see `Official`."""
        assert isinstance(prediction, MaskSet)
        instances = _instance_map(pair)
        if instances is None or self.ids is None:
            self.missing += 1
            return
        self.seen += 1
        scored = MaskSet.of(prediction.masks, self.ids[prediction.classes], prediction.scores)
        self.metrics.update(scored, instances, pair.id)

    def rows(self) -> Rows:
        """The mean over classes."""
        if not self.seen or self.missing:
            return {}
        scores = self.metrics.compute()
        return {"mean of classes": {"AP": scores.mean_ap, "AP50": scores.mean_ap50}}

    def remark(self) -> str:
        """What is missing."""
        return "The official scores need the maps of instances." if self.missing else ""


def _cityscapes_ids(classes: ClassTable) -> Tensor | None:
    """The id of each class; None where one is none of Cityscapes."""
    known = {label.name: number for number, label in enumerate(LABELS)}
    if any(name not in known for name in classes.names):
        return None
    return torch.tensor([known[name] for name in classes.names])


_KITTI_CLASSES, _KITTI_OBJECTS = Path("training/semantic"), Path("training/instance")


def _instance_map(pair: Pair) -> Tensor | None:
    """The map of instances beside a mask: 1000 times the id plus a number for objects; None without one."""
    if pair.mask is None:
        return None
    name, folder = pair.mask.name, pair.mask.parent
    for kind in ("labelIds", "labelTrainIds", "instanceIds"):
        path = pair.mask.with_name(name.replace(f"_{kind}.png", "_instanceIds.png"))
        if name.endswith(f"_{kind}.png") and path.is_file():
            return torch.from_numpy(read_mask_pixels(path).astype(np.int64))
    path = folder.parent / _KITTI_OBJECTS.name / name  # 256 times the id plus a number, 0 for stuff
    if folder.name != _KITTI_CLASSES.name or not path.is_file():
        return None
    values = read_mask_pixels(path).astype(np.int64)
    labels, numbers = values >> 8, values & 255
    labels = np.where(labels < len(LABELS), labels, 0)
    return torch.from_numpy(np.where(numbers > 0, 1000 * labels + numbers, labels))
