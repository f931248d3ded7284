"""AP and AR of boxes, accumulated over images and processes."""

from functools import partial

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from ...types import Boxes, ClassTable
from ..rows import RowMetric
from .curves import Detections, Targets, evaluate
from .errors import detection_errors
from .evaluate import AREA_RANGES
from .instance import order_of_images
from .scores import CocoScores
from .shapes import Boxes as BoxShapes


class BoxMetrics(RowMetric):
    """COCO's AP and AR of boxes; the area of a box decides which range of areas it belongs to.

    With the names of all images, they are ordered by name, whatever process saw them, and an image that was
    seen twice counts once (a distributed sampler fills up with doubles).

    Args:
        classes: the task; the classes of predictions and targets are labels of this table.
        max_detections: how many detections of an image and class count, best first.

    Raises:
        ValueError: on a number of detections below 1.

    >>> metrics = BoxMetrics(ClassTable.of("cell"))
    >>> found = Boxes.of(torch.tensor([[5.0, 5.0, 15.0, 15.0]]), torch.tensor([0]))
    >>> metrics.update(found, found)
    >>> round(metrics.compute().ap, 6)
    1.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    images: list[Int64[Tensor, "i 3"]]
    things: list[Float64[Tensor, "n 7"]]
    names: list[UInt8[Tensor, " c"]]

    def __init__(self, classes: ClassTable, max_detections: tuple[int, ...] = (1, 10, 100)) -> None:
        super().__init__()
        if not max_detections or min(max_detections) < 1:
            raise ValueError(f"max_detections must be at least 1, got {max_detections}")
        self.classes, self.max_detections = classes, tuple(sorted(max_detections))
        self.add_rows("images", 3, dtype=torch.int64)  # found, there, letters
        self.add_rows("things", 7, dtype=torch.float64)  # class, score, crowd, x, y, width, height
        self.add_rows("names", dtype=torch.uint8)

    def update(self, prediction: Boxes, target: Boxes, name: str = "") -> None:
        """Keep one image.

        Args:
            prediction: what was found, with scores.
            target: what is there; crowds are neither right nor wrong to find.
            name: of the image, for a fixed order and against doubles; all images have one or none.

        Raises:
            ValueError: if a class lies outside the table.
        """
        where = f" in {name}" if name else ""
        for what, labels in (("prediction", prediction.classes), ("target", target.classes)):
            wrong = labels[(labels < 0) | (labels >= len(self.classes))]
            if len(wrong):
                raise ValueError(
                    f"{what} holds the class {int(wrong[0])}{where}, outside the table of "
                    f"{len(self.classes)} classes"
                )
        letters = torch.tensor(list(name.encode()), dtype=torch.uint8)
        self.images.append(torch.tensor([[len(prediction), len(target), len(letters)]]).to(self.device))
        for some in (prediction, target):
            columns = torch.stack([x.double() for x in (some.classes, some.scores, some.is_crowd)], 1)
            corners = some.boxes.double()
            xywh = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
            self.things.append(torch.cat([columns, xywh], 1).to(self.device))
        self.names.append(letters.to(self.device))

    def compute(self) -> CocoScores:
        """Scores of everything seen by all processes.

        Raises:
            ValueError: if some images have a name and others have none.
        """
        found, there, letters = self.rows("images").cpu().numpy().T
        things = self.rows("things").cpu().numpy()
        order = order_of_images(self.rows("names").cpu().numpy().tobytes(), letters)
        image = np.repeat(order, found + there)
        is_target = np.repeat(np.tile([False, True], len(found)), np.stack([found, there], 1).ravel())
        label, is_crowd, xywh = things[:, 0].astype(np.int64), things[:, 2] > 0, things[:, 3:]
        area = xywh[:, 2] * xywh[:, 3]
        d, t = np.flatnonzero(~is_target & (image >= 0)), np.flatnonzero(is_target & (image >= 0))
        targets = Targets(image[t], label[t], area[t], is_crowd[t], is_crowd[t], BoxShapes(xywh[t]))
        excused = np.zeros(len(d), bool)
        detections = Detections(image[d], label[d], area[d], things[d, 1], excused, BoxShapes(xywh[d]))
        ranges = tuple(AREA_RANGES.values())
        curves = evaluate(targets, detections, len(self.classes), self.max_detections, ranges)
        wanted = np.bincount(label[t][~is_crowd[t]], minlength=len(self.classes))
        most = self.max_detections[-1]
        errors = partial(detection_errors, targets, detections, len(self.classes), most)
        return CocoScores(
            "box",
            self.classes.names,
            curves,
            self.max_detections,
            AREA_RANGES,
            tuple(wanted.tolist()),
            errors,
        )
