"""Cityscapes' pixel scores, as its evalPixelLevelSemanticLabeling (Cordts et al., CVPR 2016, Sec. 4.1).

Beside the IoU there is the instance-level IoU, in which each object counts as much as any other of its class:

    iIoU = iTP / (iTP + FP + iFN)

where the pixels of an object weigh the average size of its class over its own size; false positives belong
to no object and weigh 1. Labels are the ids of Cityscapes (0..33), not the 19 train ids: `COUNTED` gives the
id of each train id. Pixels with an ignored label do not count. A class or category that is nowhere is nan and
has no part in the means.
"""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64, Integer
from torch import Tensor
from torchmetrics import Metric

from ...kernels.masks.panoptic import overlaps
from ..checked import checked_labels


class CityscapesLabel(NamedTuple):
    """One id of Cityscapes.

    Attributes:
        name: as in the data set.
        category: the group that it is in.
        ignored: whether it does not count.
        mean_size: average size in pixels of an object; 0 for stuff.
    """

    name: str
    category: str
    ignored: bool = False
    mean_size: float = 0.0


LABELS = (
    CityscapesLabel("unlabeled", "void", True),
    CityscapesLabel("ego vehicle", "void", True),
    CityscapesLabel("rectification border", "void", True),
    CityscapesLabel("out of roi", "void", True),
    CityscapesLabel("static", "void", True),
    CityscapesLabel("dynamic", "void", True),
    CityscapesLabel("ground", "void", True),
    CityscapesLabel("road", "flat"),
    CityscapesLabel("sidewalk", "flat"),
    CityscapesLabel("parking", "flat", True),
    CityscapesLabel("rail track", "flat", True),
    CityscapesLabel("building", "construction"),
    CityscapesLabel("wall", "construction"),
    CityscapesLabel("fence", "construction"),
    CityscapesLabel("guard rail", "construction", True),
    CityscapesLabel("bridge", "construction", True),
    CityscapesLabel("tunnel", "construction", True),
    CityscapesLabel("pole", "object"),
    CityscapesLabel("polegroup", "object", True),
    CityscapesLabel("traffic light", "object"),
    CityscapesLabel("traffic sign", "object"),
    CityscapesLabel("vegetation", "nature"),
    CityscapesLabel("terrain", "nature"),
    CityscapesLabel("sky", "sky"),
    CityscapesLabel("person", "human", mean_size=3462.4756337644),
    CityscapesLabel("rider", "human", mean_size=3930.4788056518),
    CityscapesLabel("car", "vehicle", mean_size=12794.0202738185),
    CityscapesLabel("truck", "vehicle", mean_size=27855.1264367816),
    CityscapesLabel("bus", "vehicle", mean_size=35732.1511111111),
    CityscapesLabel("caravan", "vehicle", True, 36771.8241758242),
    CityscapesLabel("trailer", "vehicle", True, 16926.9763313609),
    CityscapesLabel("train", "vehicle", mean_size=67583.7075812274),
    CityscapesLabel("motorcycle", "vehicle", mean_size=6298.7200839748),
    CityscapesLabel("bicycle", "vehicle", mean_size=4672.3249222261),
)
COUNTED = tuple(number for number, label in enumerate(LABELS) if not label.ignored)
THINGS = tuple(number for number in COUNTED if LABELS[number].mean_size)
CATEGORIES = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
THING_CATEGORIES = ("human", "vehicle")
FIRST_INSTANCE = 1000  # smaller values of an instance map are labels: stuff, or groups of objects


class CityscapesScores:
    """Counts of pixels and every score from them, each in [0, 1]. Frozen.

    Args:
        matrix: pixels per id in the target (rows) and in the prediction (columns).
        true_positives: weighted pixels of objects that were predicted right: with their class, for each of
            `THINGS`, then with any class of their category, for each of `THING_CATEGORIES`.
        false_negatives: the other weighted pixels of objects, likewise.
    """

    matrix: Int64[Tensor, "34 34"]
    true_positives: Float64[Tensor, "10"]
    false_negatives: Float64[Tensor, "10"]

    def __init__(
        self,
        matrix: Int64[Tensor, "34 34"],
        true_positives: Float64[Tensor, "10"],
        false_negatives: Float64[Tensor, "10"],
    ) -> None:
        self.__dict__.update(
            matrix=matrix.cpu(), true_positives=true_positives.cpu(), false_negatives=false_negatives.cpu()
        )

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"scores are frozen: {name} cannot be set")

    @property
    def iou(self) -> dict[str, float]:
        """IoU of each class that counts."""
        return {LABELS[label].name: self._iou([label]) for label in COUNTED}

    @property
    def category_iou(self) -> dict[str, float]:
        """IoU of each category: its classes may be taken for each other."""
        return {category: self._iou(_ids(category, ignored=False)) for category in CATEGORIES}

    @property
    def iiou(self) -> dict[str, float]:
        """Instance-level IoU of each class that has instances."""
        return {LABELS[label].name: self._iiou([label], i) for i, label in enumerate(THINGS)}

    @property
    def category_iiou(self) -> dict[str, float]:
        """Instance-level IoU of each category whose classes all have instances."""
        # What is taken for a caravan or trailer counts as a false positive, though these two are ignored.
        return {
            category: self._iiou(_ids(category, ignored=True), len(THINGS) + i)
            for i, category in enumerate(THING_CATEGORIES)
        }

    @property
    def mean_iou(self) -> float:
        """Mean of `iou` over classes."""
        return _mean(self.iou)

    @property
    def mean_category_iou(self) -> float:
        """Mean of `category_iou` over categories."""
        return _mean(self.category_iou)

    @property
    def mean_iiou(self) -> float:
        """Mean of `iiou` over classes."""
        return _mean(self.iiou)

    @property
    def mean_category_iiou(self) -> float:
        """Mean of `category_iiou` over categories."""
        return _mean(self.category_iiou)

    def __repr__(self) -> str:
        pixels = int(self.matrix[list(COUNTED)].sum())
        means = f"mean IoU {self.mean_iou:.4f}" if pixels else "no pixel counted"
        return f"CityscapesScores({means}, {pixels} pixels)"

    def _iou(self, ids: list[int]) -> float:
        correct = int(self.matrix[ids][:, ids].sum())
        whole = int(self.matrix[ids].sum()) + self._false_positives(ids)
        return correct / whole if whole else math.nan

    def _iiou(self, ids: list[int], group: int) -> float:
        true_positives = float(self.true_positives[group])
        false_negatives = float(self.false_negatives[group])
        whole = true_positives + self._false_positives(ids) + false_negatives
        return true_positives / whole if whole else math.nan

    def _false_positives(self, ids: list[int]) -> int:
        """Pixels predicted as one of `ids` where the target counts and is none of them."""
        elsewhere = [label for label in COUNTED if label not in ids]
        return int(self.matrix[elsewhere][:, ids].sum())


class CityscapesMetrics(Metric):
    """IoU and iIoU of classes and categories over everything seen by all processes.

    >>> metrics = CityscapesMetrics()
    >>> road, car = 7, 26
    >>> metrics.update(torch.tensor([[road, road, car]]), torch.tensor([[road, 26000, 26000]]))
    >>> metrics.compute().iou["car"], metrics.compute().iiou["car"], metrics.compute().iou["road"]
    (0.5, 0.5, 0.5)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    matrix: Int64[Tensor, "34 34"]
    true_positives: Float64[Tensor, "10"]
    false_negatives: Float64[Tensor, "10"]

    def __init__(self) -> None:
        super().__init__()
        empty = torch.zeros(len(LABELS), len(LABELS), dtype=torch.int64)
        groups = torch.zeros(len(THINGS) + len(THING_CATEGORIES), dtype=torch.float64)
        self.add_state("matrix", empty, dist_reduce_fx="sum")
        self.add_state("true_positives", groups, dist_reduce_fx="sum")
        self.add_state("false_negatives", groups.clone(), dist_reduce_fx="sum")

    def update(
        self, prediction: Integer[Tensor, "H W"], instance_map: Integer[Tensor, "H W"], where: str = ""
    ) -> None:
        """Count one image.

        Args:
            prediction: the id of each pixel.
            instance_map: the target as `*_gtFine_instanceIds.png` has it: 1000 times the id plus a number for
                the pixels of an object, the id alone for stuff and for groups of objects.
            where: name of the image, for the message of an error.

        Raises:
            ValueError: if the shapes differ, or an id is none of Cityscapes.
        """
        place = f" in {where}" if where else ""
        prediction = checked_labels(prediction, "prediction", place)
        instance_map = checked_labels(instance_map, "instance_map", place)
        if prediction.shape != instance_map.shape or instance_map.ndim != 2:
            raise ValueError(
                f"prediction and instance_map must be maps (H, W) of one shape, got "
                f"{tuple(prediction.shape)} and {tuple(instance_map.shape)}{place}"
            )
        instance, claimed, area = overlaps(instance_map.cpu().numpy(), prediction.cpu().numpy()).T
        target = label_of(instance)
        for name, ids in (("instance_map", target), ("prediction", claimed)):
            if ((ids < 0) | (ids >= len(LABELS))).any():
                wrong = ids[(ids < 0) | (ids >= len(LABELS))][0]
                raise ValueError(f"the {name} holds the id {wrong}{place}, expected 0..{len(LABELS) - 1}")
        matrix = np.zeros((len(LABELS), len(LABELS)), np.int64)
        np.add.at(matrix, (target, claimed), area)
        true_positives = self.true_positives.cpu().numpy().copy()
        false_negatives = self.false_negatives.cpu().numpy().copy()
        for number in np.unique(instance[instance > FIRST_INSTANCE]):  # in the order of the official sums
            label = LABELS[number // FIRST_INSTANCE]
            if label.ignored:
                continue
            if not label.mean_size:
                raise ValueError(f"the target has the object {number}{place}, but {label.name} is no thing")
            pixels = instance == number
            size = int(area[pixels].sum())
            weight = label.mean_size / size
            hit_class = claimed == number // FIRST_INSTANCE
            hit_category = np.isin(claimed, _ids(label.category, ignored=True))
            groups = (
                THINGS.index(number // FIRST_INSTANCE),
                len(THINGS) + THING_CATEGORIES.index(label.category),
            )
            for group, hit in zip(groups, (hit_class, hit_category), strict=True):
                right = int(area[pixels & hit].sum())
                true_positives[group] += right * weight
                false_negatives[group] += (size - right) * weight
        device = self.matrix.device
        self.matrix = self.matrix + torch.from_numpy(matrix).to(device)
        self.true_positives = torch.from_numpy(true_positives).to(device)
        self.false_negatives = torch.from_numpy(false_negatives).to(device)

    def compute(self) -> CityscapesScores:
        """Scores of everything seen by all processes."""
        return CityscapesScores(self.matrix, self.true_positives, self.false_negatives)


def label_of(instance: Int64[np.ndarray, "*grid"]) -> Int64[np.ndarray, "*grid"]:
    """The ids of values of an instance map."""
    return np.where(instance < FIRST_INSTANCE, instance, instance // FIRST_INSTANCE)


def _ids(category: str, *, ignored: bool) -> list[int]:
    """The ids of a category, with or without the ignored ones."""
    return [
        i for i, label in enumerate(LABELS) if label.category == category and (ignored or not label.ignored)
    ]


def _mean(scores: dict[str, float]) -> float:
    seen = [score for score in scores.values() if not math.isnan(score)]
    if not seen:
        warnings.warn("nothing that counts was seen: the score is nan", stacklevel=3)
        return math.nan
    return sum(seen) / len(seen)
