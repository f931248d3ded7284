"""AP and AR of instances, accumulated over images and processes."""

from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64, Int32, Int64, UInt8
from torch import Tensor

from ...rle import RleMasks, run_lengths
from ...types import ClassTable, MaskSet
from ..rows import RowMetric
from .curves import Detections, Targets, evaluate
from .errors import detection_errors
from .evaluate import AREA_RANGES
from .scores import CocoScores
from .shapes import Boxes, Masks, Shapes

InstanceKind = Literal["mask", "box", "boundary"]


class InstanceMetrics(RowMetric):
    """COCO's AP and AR of masks, of the boxes around them, or of masks and their boundaries.

    Masks are kept as run lengths, so that memory follows their outlines. The area of a target is its number
    of pixels; that of a detection too, or the area of its box for kind "box". With the names of all images,
    they are ordered by name, whatever process saw them, and an image that was seen twice counts once (a
    distributed sampler fills up with doubles).

    Args:
        classes: the task; the classes of predictions and targets are labels of this table.
        kind: what is compared; see `coco_evaluate`.
        max_detections: how many detections of an image and class count, best first.

    Raises:
        ValueError: on an unknown kind or a number of detections below 1.

    >>> masks = torch.zeros(1, 20, 20, dtype=torch.bool)
    >>> masks[:, 5:15, 5:15] = True
    >>> metrics = InstanceMetrics(ClassTable.of("background", "cell"))
    >>> metrics.update(MaskSet.of(masks, torch.tensor([1])), MaskSet.of(masks, torch.tensor([1])))
    >>> round(metrics.compute().ap, 6)
    1.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    images: list[Int64[Tensor, "i 5"]]
    instances: list[Float64[Tensor, "n 4"]]
    runs: list[Int32[Tensor, " r"]]
    names: list[UInt8[Tensor, " c"]]

    def __init__(
        self,
        classes: ClassTable,
        kind: InstanceKind = "mask",
        max_detections: tuple[int, ...] = (1, 10, 100),
    ) -> None:
        super().__init__()
        if kind not in ("mask", "box", "boundary"):
            raise ValueError(f"kind must be mask, box or boundary, got {kind!r}")
        if not max_detections or min(max_detections) < 1:
            raise ValueError(f"max_detections must be at least 1, got {max_detections}")
        self.classes, self.kind, self.max_detections = classes, kind, tuple(sorted(max_detections))
        self.add_rows("images", 5, dtype=torch.int64)  # height, width, found, there, letters
        self.add_rows("instances", 4, dtype=torch.float64)  # class, score, crowd, runs
        self.add_rows("runs", dtype=torch.int32)
        self.add_rows("names", dtype=torch.uint8)

    def update(self, prediction: MaskSet, target: MaskSet, name: str = "") -> None:
        """Keep one image.

        Args:
            prediction: what was found, with scores.
            target: what is there; crowds are neither right nor wrong to find.
            name: of the image, for a fixed order and against doubles; all images have one or none.

        Raises:
            ValueError: if the masks have not one size, or a class lies outside the table.
        """
        where = f" in {name}" if name else ""
        if prediction.size != target.size:
            raise ValueError(
                f"prediction and target must have masks of one size, got {prediction.size} "
                f"and {target.size}{where}"
            )
        for what, labels in (("prediction", prediction.classes), ("target", target.classes)):
            wrong = labels[(labels < 0) | (labels >= len(self.classes))]
            if len(wrong):
                raise ValueError(
                    f"{what} holds the class {int(wrong[0])}{where}, outside the table of "
                    f"{len(self.classes)} classes"
                )
        height, width = target.size
        letters = torch.tensor(list(name.encode()), dtype=torch.uint8)
        size = torch.tensor([[height, width, len(prediction), len(target), len(letters)]])
        instances, runs = [], []
        for one in (prediction, target):
            masks = run_lengths(one)
            lengths = torch.from_numpy(np.diff(masks.offsets)).to(one.scores.device)
            columns = (one.classes, one.scores, one.is_crowd, lengths)
            instances.append(torch.stack([column.double() for column in columns], 1))
            runs.append(torch.from_numpy(masks.counts.view(np.int32)))
        self.images.append(size.to(self.device))
        self.instances.append(torch.cat(instances).to(self.device))
        self.runs.append(torch.cat(runs).to(self.device))
        self.names.append(letters.to(self.device))

    def compute(self) -> CocoScores:
        """Scores of everything seen by all processes.

        Raises:
            ValueError: if some images have a name and others have none.
        """
        height, width, found, there, letters = self.rows("images").cpu().numpy().T
        instances = self.rows("instances").cpu().numpy()
        order = order_of_images(self.rows("names").cpu().numpy().tobytes(), letters)
        shapes, area = self._shapes(instances[:, 3].astype(np.int64), found + there, height, width)
        mask_area = area
        if isinstance(shapes, Boxes):
            area = shapes.xywh[:, 2] * shapes.xywh[:, 3]
        image = np.repeat(order, found + there)
        is_target = np.repeat(np.tile([False, True], len(found)), np.stack([found, there], 1).ravel())
        d, t = np.flatnonzero(~is_target & (image >= 0)), np.flatnonzero(is_target & (image >= 0))
        label, is_crowd = instances[:, 0].astype(np.int64), instances[:, 2] > 0
        targets = Targets(image[t], label[t], mask_area[t], is_crowd[t], is_crowd[t], shapes.take(t))
        ignored_alone = np.zeros(len(d), bool)
        detections = Detections(image[d], label[d], area[d], instances[d, 1], ignored_alone, shapes.take(d))
        ranges = tuple(AREA_RANGES.values())
        curves = evaluate(targets, detections, len(self.classes), self.max_detections, ranges)
        wanted = np.bincount(label[t][~is_crowd[t]], minlength=len(self.classes))
        errors = None
        if self.kind != "boundary":
            most = self.max_detections[-1]
            errors = partial(detection_errors, targets, detections, len(self.classes), most)
        counts = tuple(wanted.tolist())
        return CocoScores(
            self.kind, self.classes.names, curves, self.max_detections, AREA_RANGES, counts, errors
        )

    def _shapes(
        self,
        runs: Int64[np.ndarray, " n"],
        sizes: Int64[np.ndarray, " i"],
        height: Int64[np.ndarray, " i"],
        width: Int64[np.ndarray, " i"],
    ) -> tuple[Shapes, Float64[np.ndarray, " n"]]:
        """What is compared, and the areas of the masks."""
        counts = self.rows("runs").cpu().numpy().view(np.uint32)
        offsets = np.concatenate([[0], np.cumsum(runs)])
        first = np.concatenate([[0], np.cumsum(sizes)])
        parts = []
        for i, (a, b) in enumerate(pairwise(first)):
            own = counts[offsets[a] : offsets[b]]
            one = RleMasks(own, offsets[a : b + 1] - offsets[a], int(height[i]), int(width[i]))
            parts.append((np.arange(a, b), one))
        masks = Masks.of(parts, 0.02 if self.kind == "boundary" else None)
        return masks.boxes() if self.kind == "box" else masks, masks.area


def order_of_images(names: bytes, letters: Int64[np.ndarray, " i"]) -> Int64[np.ndarray, " i"]:
    """Number of each image, by name where they have one; -1 for one whose name came before."""
    if not letters.any():
        return np.arange(len(letters))
    if not letters.all():
        raise ValueError("all images must have a name or none, got some of both")
    ends = np.cumsum(letters).tolist()
    spelled = [names[end - n : end] for end, n in zip(ends, letters.tolist(), strict=True)]
    rank = {name: number for number, name in enumerate(sorted(set(spelled)))}
    first = {name: place for place, name in reversed(list(enumerate(spelled)))}
    return np.array(
        [rank[name] if first[name] == place else -1 for place, name in enumerate(spelled)], np.int64
    )
