"""Detection: every object has a class, a score and a box."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from .. import decode, draw_objects
from ..data.datasets import coco_boxes
from ..data.formats.image import opened
from ..files import atomic_write
from ..metrics import BoxMetrics
from ..ops import box_iou
from ..planning import DataFacts, MachineFacts, Planning, Rung
from ..types import Annotation, Boxes, ClassTable, Report
from . import instance
from .task import Settings, Task, TaskMetrics, Writer, unchanged


class DetectionMetrics(TaskMetrics):
    """COCO's AP of boxes."""

    def __init__(self, classes: ClassTable, settings: Settings) -> None:
        super().__init__()
        self.boxes = BoxMetrics(classes, instance.counted(settings))

    def update(
        self, predictions: Sequence[Annotation], targets: Sequence[Annotation], ids: Sequence[str]
    ) -> None:
        """Count images; see `TaskMetrics`."""
        for prediction, target, name in zip(predictions, targets, ids, strict=True):
            assert isinstance(prediction, Boxes)
            assert isinstance(target, Boxes)
            self.boxes.update(prediction, target, name)

    def compute(self) -> Report:
        """AP over IoU thresholds from 0.50 to 0.95, and at 0.50 and 0.75."""
        scores = self.boxes.compute()
        note = "COCO's AP: mean over IoU 0.50:0.05:0.95 and classes; sizes are those of the boxes."
        note += instance.told_of_most(self.boxes.max_detections[-1])
        return Report(
            instance.precisions(scores, "box"),
            instance.of_classes(scores),
            note=note,
            **instance.told_of_errors(scores),
        )


def decoded(output: Any, classes: ClassTable, settings: Settings) -> tuple[Boxes, ...]:
    """The objects of each image, best first, without those below `min_score`."""
    return tuple(one.take(one.scores >= settings["min_score"]) for one in decode.boxes(output))


def errors(
    image: Float[Tensor, "c H W"], prediction: Boxes, target: Boxes, classes: ClassTable
) -> Image.Image:
    """Missed objects filled red, false ones outlined red, crowds grey."""
    shown = prediction.take(prediction.scores >= instance.SHOWN)
    false, missed = instance.mistakes(box_iou(shown.boxes, target.boxes), shown, target)
    crowds = target.take(target.is_crowd)
    return draw_objects.wrong_boxes(image, target.take(missed), shown.take(false), crowds)


def write_yolo(path: Path, boxes: Boxes, classes: ClassTable, image: str) -> None:
    """A line per object: label, centre, width and height as shares of the image, score.

    Raises:
        ValueError: if the image is no file, so that nobody knows its size.
    """
    if not image:
        raise ValueError(f"{path} needs the size of the image, which is no file: save as .json")
    with opened(Path(image)) as picture:
        width, height = picture.size
    lines = []
    for (x1, y1, x2, y2), label, score in zip(
        boxes.boxes.tolist(), boxes.classes.tolist(), boxes.scores.tolist(), strict=True
    ):
        place = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(" ".join([str(label), *(f"{x:.6f}" for x in (*place, score))]) + "\n")
    with atomic_write(path) as temporary:
        temporary.write_text("".join(lines))


def ladder(data: DataFacts, machine: MachineFacts) -> tuple[Rung, ...]:
    """The networks to choose from, small to large."""
    return instance.encoders_of("faster_rcnn", data, machine)


DETECTION = Task(
    name="detection",
    hub_name="object-detection",
    annotation=Boxes,
    formats={"coco": coco_boxes},
    criterion=instance.criterion,
    decode=decoded,
    metrics=DetectionMetrics,
    monitor="box_ap",
    transform=instance.transform,
    draw=draw_objects.boxes,
    errors=errors,
    legend=instance.LEGEND,
    writers={".json": Writer(instance.write_json, prepare=unchanged), ".txt": Writer(write_yolo)},
    collectors=instance.COCO,
    decoding={"min_score": 0.0},
    scoring={"max_detections": instance.MOST},
    defaults=instance.DEFAULTS,
    planning=Planning(ladder, instance.LADDER.format("Faster R-CNN"), instance.RULES),
)
