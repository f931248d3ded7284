"""AP and AR of key points, accumulated over images and processes."""

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from ...types import ClassTable, Keypoints
from ..rows import RowMetric
from . import shapes as coco_shapes
from .curves import Detections, Targets, evaluate
from .evaluate import KEYPOINT_AREA_RANGES
from .instance import order_of_images
from .scores import CocoScores

SIGMA = 0.05
"""Of every joint of a skeleton that does not say its sigmas."""

_COLUMNS = 7  # score, area, crowd, x, y, width, height; then x and y of the joints, then their visibility


class KeypointMetrics(RowMetric):
    """COCO's AP and AR by object keypoint similarity (OKS).

    Targets that stand for several objects, or have no annotated joint, are neither right nor wrong to find.
    The area of a prediction is that of the box around its joints, as where COCO results name no box. With the
    names of all images, they are ordered by name, whatever process saw them, and an image that was seen twice
    counts once.

    Args:
        classes: the task; its skeleton says the number of joints and their sigmas (0.05 each where it does
            not say). Objects of all classes are compared with each other.
        max_detections: how many objects of an image count, best first.

    Raises:
        ValueError: if the table has no skeleton, or on a number of detections below 1.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    images: list[Int64[Tensor, "i 3"]]
    objects: list[Float64[Tensor, "n _"]]
    names: list[UInt8[Tensor, " c"]]

    def __init__(self, classes: ClassTable, max_detections: int = 20) -> None:
        super().__init__()
        if classes.skeleton is None:
            raise ValueError("key points need a class table with a skeleton")
        if max_detections < 1:
            raise ValueError(f"max_detections must be at least 1, got {max_detections}")
        self.classes, self.max_detections = classes, max_detections
        self.joints = len(classes.skeleton)
        self.sigmas = classes.skeleton.sigmas or (SIGMA,) * self.joints
        self.add_rows("images", 3, dtype=torch.int64)  # found, there, letters
        self.add_rows("objects", _COLUMNS + 3 * self.joints, dtype=torch.float64)
        self.add_rows("names", dtype=torch.uint8)

    def update(self, prediction: Keypoints, target: Keypoints, name: str = "") -> None:
        """Keep one image.

        Args:
            prediction: what was found, with scores, in pixels of the image.
            target: what is there.
            name: of the image, for a fixed order and against doubles; all images have one or none.

        Raises:
            ValueError: if the number of joints is not that of the skeleton.
        """
        for what, found in (("prediction", prediction), ("target", target)):
            if found.points.shape[1] != self.joints:
                raise ValueError(
                    f"{what} has {found.points.shape[1]} joints, the skeleton {self.joints}"
                    + (f", in {name}" if name else "")
                )
        letters = torch.tensor(list(name.encode()), dtype=torch.uint8)
        counts = torch.tensor([[len(prediction), len(target), len(letters)]])
        self.images.append(counts.to(self.device))
        self.objects.append(torch.cat([_rows(prediction), _rows(target)]).to(self.device))
        self.names.append(letters.to(self.device))

    def compute(self) -> CocoScores:
        """Scores of everything seen by all processes.

        Raises:
            ValueError: if some images have a name and others have none.
        """
        found, there, letters = self.rows("images").cpu().numpy().T
        objects = self.rows("objects").cpu().numpy()
        order = order_of_images(self.rows("names").cpu().numpy().tobytes(), letters)
        image = np.repeat(order, found + there)
        is_target = np.repeat(np.tile([False, True], len(found)), np.stack([found, there], 1).ravel())
        score, area, crowd = objects[:, :3].T
        points = objects[:, _COLUMNS : _COLUMNS + 2 * self.joints].reshape(-1, self.joints, 2)
        visible = objects[:, _COLUMNS + 2 * self.joints :] > 0
        boxes = objects[:, 3:_COLUMNS]
        shapes = coco_shapes.Keypoints(points, visible, boxes, area, np.array(self.sigmas))
        d, t = np.flatnonzero(~is_target & (image >= 0)), np.flatnonzero(is_target & (image >= 0))
        none = np.zeros(len(image), np.int64)  # objects of all classes are compared
        is_crowd = crowd > 0
        ignored = is_crowd | ~visible.any(1)
        targets = Targets(image[t], none[t], area[t], is_crowd[t], ignored[t], shapes.take(t))
        sides = np.ptp(points[d], axis=1)
        detections = Detections(
            image[d], none[d], sides[:, 0] * sides[:, 1], score[d], np.zeros(len(d), bool), shapes.take(d)
        )
        most, ranges = (self.max_detections,), KEYPOINT_AREA_RANGES
        curves = evaluate(targets, detections, 1, most, tuple(ranges.values()))
        names = self.classes.names if len(self.classes) == 1 else ()
        return CocoScores("keypoints", names, curves, most, dict(ranges))


def _rows(objects: Keypoints) -> Float64[Tensor, "n _"]:
    """One row of numbers per object."""
    low, high = objects.boxes[:, :2].double(), objects.boxes[:, 2:].double()
    single = torch.stack([objects.scores.double(), objects.areas.double(), objects.is_crowd.double()], 1)
    return torch.cat(
        [single, low, high - low, objects.points.double().flatten(1), objects.visible.double()], 1
    ).detach()
