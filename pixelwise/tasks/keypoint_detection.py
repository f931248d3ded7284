"""Key points found together with their objects, in whole images: Keypoint R-CNN.

Data, scores, pictures and files are those of `keypoints.py`, whose networks look at one object at a time and
need boxes. Here the network finds the objects itself, so scores are those of its own boxes.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors

from .. import decode
from ..data import parse_augmentations
from ..data.augmentations import refuse
from ..data.transforms import ColorChange, Compose
from ..types import Annotation, ClassTable, Keypoints, Sample, Skeleton
from . import keypoints
from .changes import random_changes
from .instance import DEFAULTS, criterion
from .task import Settings, Task

UNUSED = ("rare_crops",)


def transform(classes: ClassTable, settings: Settings) -> Callable[[Sample], Sample]:
    """Whole images or crops, scaled, mirrored, turned, slanted and recoloured, and what else is asked for.

    Raises:
        ValueError: if more is asked for, or the classes have no skeleton.
    """
    if unused := [name for name in UNUSED if settings[name]]:
        raise ValueError(f"{unused[0]} is not for key points, got {settings[unused[0]]!r:.80}")
    if classes.skeleton is None:
        raise ValueError("key points need a class table with a skeleton")
    refuse(parse_augmentations(settings["augment"]), ("balanced_crops",), "key points")
    if settings["crop"] is not None or settings["scale_to"] != "image":
        return random_changes(settings, skeleton=classes.skeleton)
    changed = partial(_changed, classes.skeleton, settings["scale"], settings["flip"], settings["color"])
    others = {**settings, "scale": (1, 1), "flip": 0.0, "color": 0.0}
    return Compose([changed, random_changes(others, skeleton=classes.skeleton)])


def _changed(
    skeleton: Skeleton, scale: tuple[float, float], flip: float, color: float, sample: Sample
) -> Sample:
    low, high = scale
    sample = scaled(sample, low + (high - low) * float(torch.rand(())))
    if float(torch.rand(())) < flip:
        sample = mirrored(sample, skeleton)
    if not color:
        return sample
    image = ColorChange(color)(tv_tensors.Image(sample.image)).as_subclass(Tensor)
    return replace(sample, image=image)


def scaled(sample: Sample, factor: float) -> Sample:
    """Image and key points `factor` times as large, at least 32 pixels a side."""
    height, width = sample.image.shape[-2:]
    size = max(round(height * factor), 32), max(round(width * factor), 32)
    image = F.interpolate(sample.image[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)
    target = _keypoints_of(sample)
    ratio = torch.tensor([size[1] / width, size[0] / height])
    return replace(
        sample,
        image=image,
        target=replace(
            target,
            points=target.points * ratio,
            boxes=target.boxes * ratio.repeat(2),
            areas=target.areas * ratio.prod(),
        ),
    )


def mirrored(sample: Sample, skeleton: Skeleton) -> Sample:
    """Left is right; joints of the left and of the right side change places."""
    width, target = sample.image.shape[-1], _keypoints_of(sample)
    order = list(skeleton.flipped)
    x, y = target.points[:, order].unbind(-1)
    x1, y1, x2, y2 = target.boxes.unbind(1)
    boxes = torch.stack([width - x2, y1, width - x1, y2], 1)
    points = torch.stack([width - x, y], -1)
    target = replace(target, points=points, visible=target.visible[:, order], boxes=boxes)
    return replace(sample, image=sample.image.flip(-1), target=target)


def _keypoints_of(sample: Sample) -> Keypoints:
    if not isinstance(sample.target, Keypoints):
        raise ValueError(f"{sample.id} has no key points, but {type(sample.target).__name__}")
    return sample.target


def decoded(output: Any, classes: ClassTable, settings: Settings) -> tuple[Annotation, ...]:
    """The objects of each image with their joints, best first, without those below `min_score`."""
    found = []
    for one in decode.keypoints(output):
        kept = one.scores >= settings["min_score"]
        found.append(Keypoints(*(field[kept] for field in vars(one).values())))
    return tuple(found)


KEYPOINT_DETECTION = replace(
    keypoints.KEYPOINTS,
    name="keypoint_detection",
    criterion=criterion,
    decode=decoded,
    transform=transform,
    infer=None,
    prepare=Task.prepare,
    decoding={"min_score": 0.0},
    decoding_of=Task.decoding_of,
    defaults=DEFAULTS,
    planning=None,
)
