"""Volumes by networks for images: slices are learnt one by one, and predictions are stacked again."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from .. import decode, draw
from ..data import SegmentationData
from ..data.datasets.volumes import ReadSlices
from ..data.slices import VolumeSlices, axis_of
from ..types import ClassTable, DenseLogits, LabelMap, Sample
from . import semantic, volume
from .task import Network, Settings, intensity_of

_AT_ONCE = 8  # slices
_SMALLEST = 32  # pixels: smaller slices are extended for the networks at least to this size


def transform(classes: ClassTable, settings: Settings) -> Callable[[Sample], Sample]:
    """What images have; see `semantic.transform`."""
    change = semantic.transform(classes, settings)

    def changed(sample: Sample) -> Sample:
        # Scales and rotations move pixels, which have one size in all slices of a training.
        assert isinstance(sample.target, LabelMap)
        return change(replace(sample, spacing=None, target=LabelMap(sample.target.labels)))

    return changed


def prepare(data: SegmentationData, settings: Settings) -> Dataset[Sample]:
    """The slices of the training volumes."""
    return VolumeSlices(data, settings["slices"])


def inferred(network: Network, sample: Sample, classes: ClassTable, settings: Settings) -> LabelMap:
    """The labels of a volume, slice by slice, on its own grid.

    Raises:
        ValueError: if there is no such axis.
    """
    axis = axis_of(settings["slices"])
    planes = sample.image.movedim(1 + axis, 0)
    least = [max(int(side), _SMALLEST) for side in settings.get("window", (0, 0))]
    labels = torch.cat([_labels(network, some, least) for some in planes.split(_AT_ONCE)])
    stacked = labels.movedim(0, axis).contiguous()
    return semantic.finished(LabelMap(stacked, sample.spacing), classes, settings)


def _labels(network: Network, images: Float[Tensor, "s c h w"], least: Sequence[int]) -> Tensor:
    """Labels of slices; those that are smaller than a window of the training lie among zeros, as they did."""
    height, width = images.shape[2:]
    down, across = max(0, least[0] - height), max(0, least[1] - width)
    top, left = down // 2, across // 2
    output = network(F.pad(images, (left, across - left, top, down - top)))
    scores = output.logits[..., top : top + height, left : left + width]
    return decode.semantic(DenseLogits(scores, (height, width))).labels.cpu()


def decoding_of(settings: Settings) -> Settings:
    """Slices across the axis of the training, with values as they were there, and the size of its windows.

    Raises:
        ValueError: if `intensity` or `slices` is none.
    """
    axis_of(settings["slices"])
    window = settings["crop"] or (0, 0)
    return {**intensity_of(settings), "slices": settings["slices"], "window": list(window)}


def reading(settings: Settings) -> ReadSlices:
    """How volumes are read: with the intensities that a network learnt from."""
    return ReadSlices(settings["intensity"])


def drawn(image: Float[Tensor, "c *grid"], labels: LabelMap, classes: ClassTable) -> Image.Image:
    """A slice, or some of the slices of a volume."""
    return (draw.overlay if image.ndim == 3 else draw.volume_overlay)(image, labels, classes)


VOLUME_SLICES = replace(
    volume.VOLUME,
    name="volume_slices",
    transform=transform,
    draw=drawn,
    prepare=prepare,
    infer=inferred,
    reading=reading,
    decoding={"slices": "depth", "min_component": 0, "intensity": "percentiles", "window": [0, 0]},
    decoding_of=decoding_of,
    defaults={"crop": (128, 128), "loss": "cross_entropy+dice", "scale": (0.8, 1.25)},
    planning=None,
)
