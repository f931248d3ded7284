"""Compile what the common paths need, by taking each of them once with a small image."""

import time
from collections.abc import Callable
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from .kernels.compiling import ANNOUNCER
from .kernels.pixels.argmax import FEW_CLASSES
from .types import ClassTable, DenseLogits, MaskSet

_TABLE = ClassTable(("sky", "road", "car"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), things=(2,))


def warm_up(say: Callable[[str], object] = print) -> list[str]:
    """Take every path of `PATHS` once.

    Args:
        say: takes one line on each path, and one at the end.

    Returns:
        The names of the kernels that had to be compiled; none where all lie in the cache.
    """
    begin, before = time.perf_counter(), len(ANNOUNCER.compiled)
    was_silent, ANNOUNCER.silent = ANNOUNCER.silent, True
    try:
        for number, (name, path) in enumerate(PATHS.items(), 1):
            start, known = time.perf_counter(), len(ANNOUNCER.compiled)
            path()
            count = len(ANNOUNCER.compiled) - known
            told = f"{count} functions compiled" if count else "compiled before"
            say(f"{number}/{len(PATHS)} {name}: {told} ({time.perf_counter() - start:.1f} s)")
    finally:
        ANNOUNCER.silent = was_silent
    compiled = ANNOUNCER.compiled[before:]
    say(f"{len(compiled)} functions compiled in {time.perf_counter() - begin:.1f} s")
    return compiled


def _labels(dtype: torch.dtype = torch.int64) -> Tensor:
    """A map of 48 x 64 with three classes."""
    labels = torch.zeros(48, 64, dtype=dtype)
    labels[10:30, 8:40], labels[20:44, 30:60] = 1, 2
    return labels


def _objects() -> MaskSet:
    labels = _labels()
    return MaskSet.of(torch.stack([labels == 1, labels == 2]), torch.tensor([2, 2]))


def _prediction() -> None:
    from . import decode

    # Smaller maps, and three classes, are left to torch.
    for size in ((24, 32), (96, 128)):
        output = DenseLogits(torch.randn(1, 4, 24, 32), size)
        decode.semantic(output)
        decode.confidence(output)
    for k in range(2, FEW_CLASSES + 2):  # there is a function for each number of a few classes
        channels_last = torch.randn(1, k, 24, 32).contiguous(memory_format=torch.channels_last)
        decode.semantic(DenseLogits(channels_last, (24, 32)))


def _pixel_metrics() -> None:
    from .metrics import boundary_band, confusion_from_logits, confusion_matrix

    for prediction in (torch.uint8, torch.int32, torch.int64):
        for target in (torch.uint8, torch.int64):
            confusion_matrix(_labels(prediction), _labels(target), 3)
    confusion_from_logits(torch.randn(1, 3, 48, 64), _labels()[None])
    boundary_band(_labels(), 3)


def _training_images() -> None:
    from .data import training_transform
    from .kernels.images.values import looked_up, unit_planes
    from .types import LabelMap, Sample

    bytes_, labels = torch.zeros(3, 24, 32, dtype=torch.uint8), torch.zeros(24, 32, dtype=torch.long)
    unit_planes(np.zeros((4, 4, 3), np.uint8))
    looked_up(np.zeros((4, 4), np.uint8), np.arange(3))
    change = training_transform((16, 16), rotation=10.0)
    for image in (bytes_, bytes_.permute(1, 2, 0).contiguous().permute(2, 0, 1), bytes_ / 255):
        change(Sample(image, LabelMap(labels), ""))


def _run_lengths() -> None:
    from .rle import RleMasks
    from .rle.banded import BandedOutlines

    masks = RleMasks.encode(_objects().dense)
    masks.decode()
    RleMasks.from_coco(masks.to_coco())
    RleMasks.from_polygons([[[1, 1, 9, 1, 9, 9]]], 48, 64)
    masks.polygons()
    with TemporaryDirectory() as folder, BandedOutlines([_labels().numpy()], folder):
        pass  # the polygons of images that are predicted row by row
    masks.merge()
    masks.iou(masks)


def _instances() -> None:
    from .metrics import InstanceMetrics

    for kind in ("mask", "box"):
        metrics = InstanceMetrics(_TABLE, kind)
        metrics.update(_objects(), _objects())
        metrics.compute()


def _panoptic() -> None:
    from .metrics import PanopticMap, panoptic_quality

    segments = PanopticMap.of(_labels() + 1, torch.tensor([1, 2, 3]), torch.tensor([0, 1, 2]))
    panoptic_quality(segments, segments, _TABLE)


def _surfaces() -> None:
    from .metrics import boundary_accuracy, surface_distances

    one, other = _labels() == 1, _labels() == 2
    surface_distances(one, other)
    boundary_accuracy(one, other)


def _lovasz() -> None:
    from .losses import Lovasz

    scores = torch.randn(1, 3, 48, 64, requires_grad=True)
    loss: Tensor = Lovasz()(scores, _labels()[None])
    loss.backward()


def _dense_crf() -> None:
    from .algorithms import dense_crf

    image = np.zeros((48, 64, 3), np.uint8)
    image[10:30, 8:40] = 200
    dense_crf(np.full((3, 48, 64), 1 / 3, np.float32), image, iterations=1)


PATHS: dict[str, Callable[[], None]] = {
    "prediction": _prediction,
    "metrics of pixels": _pixel_metrics,
    "training images": _training_images,
    "run lengths": _run_lengths,
    "metrics of instances": _instances,
    "panoptic quality": _panoptic,
    "surfaces and boundaries": _surfaces,
    "Lovász loss": _lovasz,
    "dense CRF": _dense_crf,
}
