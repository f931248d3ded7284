"""Promptable segmentation: a mask for each point or box that a person gives.

Models are `PromptableModel`s; `Predictor.embed` looks at an image once, `Predictor.masks` answers prompts.
Training needs prompts that are drawn from masks, which are not here yet.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from .. import draw_objects
from ..files import atomic_write
from ..types import Annotation, ClassTable, MaskSet, PromptMasks, Report
from . import instance
from .task import Settings, Task, TaskMetrics, Writer


class PromptMetrics(TaskMetrics):
    """Mean IoU of the mask of each prompt with the object that was meant: masks and objects in one order."""

    iou_sum: Float[Tensor, ""]
    count: Float[Tensor, ""]

    def __init__(self, classes: ClassTable, settings: Settings) -> None:
        super().__init__()
        self.add_state("iou_sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self, predictions: Sequence[Annotation], targets: Sequence[Annotation], ids: Sequence[str]
    ) -> None:
        """Count images; see `TaskMetrics`."""
        for prediction, target, name in zip(predictions, targets, ids, strict=True):
            assert isinstance(prediction, MaskSet)
            assert isinstance(target, MaskSet)
            if (len(prediction), prediction.size) != (len(target), target.size):
                raise ValueError(
                    f"{name}: {len(target)} objects of {target.size} pixels need as many masks of that size, "
                    f"got {len(prediction)} of {prediction.size}"
                )
            found, there = prediction.dense.cpu(), target.dense.cpu()
            union = (found | there).flatten(1).sum(1)
            iou = (found & there).flatten(1).sum(1) / union.clamp_min(1)
            self.iou_sum += torch.where(union > 0, iou, 1.0).sum().to(self.iou_sum)
            self.count += len(target)

    def compute(self) -> Report:
        """Mean IoU over prompts."""
        return Report({"mean_iou": float(self.iou_sum / self.count)}, {}, note="IoU of each prompt's mask.")


def decoded(output: PromptMasks, classes: ClassTable, settings: Settings) -> tuple[MaskSet, ...]:
    """The masks of one image, in the order of the prompts; all of them have the first class.

    Args:
        output: candidates for each prompt.
        classes: of one class.
        settings: `all`, whether every candidate is kept; else the one of the highest expected IoU.
    """
    masks, scores = output.logits > 0, output.iou.float().clamp(0, 1)
    if settings["all"]:
        masks, scores = masks.flatten(0, 1), scores.flatten()
    else:
        scores, best = scores.max(1)
        masks = masks[torch.arange(len(masks), device=masks.device), best]
    labels = torch.zeros(len(masks), dtype=torch.int64, device=masks.device)
    return (MaskSet.of(masks, labels, scores),)


def write_npy(path: Path, masks: MaskSet, classes: ClassTable, image: str) -> None:
    """An array "n H W" of 0 and 1, uint8."""
    with atomic_write(path) as temporary:
        np.save(temporary, masks.dense.to(torch.uint8).cpu().numpy())


def write_png(path: Path, masks: MaskSet, classes: ClassTable, image: str) -> None:
    """One mask in black and white; of several a map of 16 bits: 1, 2, ... in the order of the prompts.

    Where masks overlap, that of the earlier prompt is seen.
    """
    dense = masks.dense.cpu().numpy()
    pixels = dense[0] * np.uint8(255) if len(dense) == 1 else np.zeros(masks.size, np.uint16)
    for number in range(len(dense), 0, -1) if len(dense) != 1 else ():
        pixels[dense[number - 1]] = number
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary)


def draw(image: Float[Tensor, "c H W"], masks: MaskSet, classes: ClassTable) -> Image.Image:
    """Every mask, however unsure."""
    return draw_objects.instances(image, masks, classes, min_score=0.0)


PROMPTABLE = Task(
    name="promptable",
    annotation=MaskSet,
    formats={},
    criterion=instance.criterion,
    decode=decoded,
    metrics=PromptMetrics,
    monitor="mean_iou",
    transform=instance.transform,
    draw=draw,
    writers={
        ".json": instance.INSTANCE.writers[".json"],
        ".npy": Writer(write_npy),
        ".png": Writer(write_png),
    },
    decoding={"all": False},
)
