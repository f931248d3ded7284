"""Files of a data set read by several threads, which touch arrays only; tensors belong to the calling thread.

A thread that touches a tensor gets compute threads of its own, which small machines do not bear.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from ..kernels import parallel_map
from ..machine import usable_cores
from ..types import LabelMap
from .dataset import ImageArrays, LabelArrays, SegmentationData

R = TypeVar("R")
Spacing = tuple[float, ...] | None


def map_images(work: Callable[[int], R], data: SegmentationData, indices: Sequence[int]) -> list[R]:
    """`work` of each index, which reads an image by `image_array`; by threads where that makes no tensor."""
    return parallel_map(work, indices, _threads(isinstance(data.read_image, ImageArrays)))


def map_labels(work: Callable[[int], R], data: SegmentationData, indices: Sequence[int]) -> list[R]:
    """`work` of each index, which reads labels by `label_array`; by threads where that makes no tensor."""
    return parallel_map(work, indices, _threads(isinstance(data.read_target, LabelArrays)))


def image_array(data: SegmentationData, index: int) -> tuple[np.ndarray, Spacing]:
    """The image of a sample, and the size of its pixels where that is known.

    Raises:
        ValueError: as `SegmentationData.image`.
    """
    if isinstance(data.read_image, ImageArrays):
        return data.read_image.array(data.pairs[index], data.channels), None
    image, spacing = data.image(index)
    return image.numpy(), spacing


def label_array(data: SegmentationData, index: int) -> tuple[np.ndarray | None, Spacing]:
    """The labels of a sample, and the size of their pixels; None where it has no annotation, or another.

    Raises:
        ValueError: as `SegmentationData.target`.
    """
    pair = data.pairs[index]
    if pair.mask is None:
        return None, None
    if isinstance(data.read_target, LabelArrays):
        return data.read_target.array(pair), None
    target = data.read_target(pair)
    return (target.labels.numpy(), target.spacing) if isinstance(target, LabelMap) else (None, None)


def batches(data: SegmentationData, at_once: int) -> Iterator[range]:
    """The indices of all samples, some at once."""
    for start in range(0, len(data), at_once):
        yield range(start, min(start + at_once, len(data)))


def _threads(several: bool) -> int:
    return usable_cores() if several else 1
