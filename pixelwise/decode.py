"""From what a model returns to an annotation.

`semantic`, `confidence` and `probabilities` take scores of every pixel. `boxes`, `instances`, `panoptic` and
`keypoints` go by the type of the output: what an output of one paper means is registered beside its network.
"""

import math
from functools import singledispatch
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from .kernels.argmax import argmax, resized_argmax
from .kernels.compiling import parallel_map
from .kernels.softmax import resized_confidence
from .layers import resize
from .types import Boxes, ClassTable, DenseLogits, Keypoints, LabelMap, MaskSet, PanopticMap

# On an accelerator many small kernels cost more than memory, up to this many numbers (1 GiB of float32).
_AT_ONCE = 2**28
_CHUNK = 1 << 15  # pixels that are compared together on a CPU
_FEW = 1 << 16  # pixels below which a second thread costs more than it saves


class Confidence(NamedTuple):
    """The most probable class of every pixel, and its probability in [0, 1]."""

    labels: Int64[Tensor, "b H W"]
    probability: Float32[Tensor, "b H W"]


def semantic(output: DenseLogits) -> LabelMap:
    """The class with the highest score at every pixel or voxel: labels "b *grid", int64.

    The result is that of `output.logits.argmax(1)`: the first of equal scores, or the first NaN. The scores
    at image size are never held all at once. On a CPU, float32 scores are interpolated only where the classes
    of neighbours differ (see `kernels.argmax`). They are rounded in torch's own order, so that the labels are
    the same. Only where a processor cannot multiply and add at once (those before 2013), or `coarse` lies in
    channels-last memory (one coarse pixel always does), the last bit of a score may differ, and with it the
    label of a pixel whose two best scores are that close. Other types and devices, and scores that are not
    finite, take class after class.

    >>> scores = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # b k h w = 1 2 1 2
    >>> semantic(DenseLogits(scores, size=(1, 4))).labels
    tensor([[[0, 0, 1, 1]]])
    """
    coarse, size = output.coarse.detach(), output.size
    b, k = coarse.shape[:2]
    on_cpu = coarse.device.type == "cpu"
    has_planes = len(size) == 2 or tuple(coarse.shape[2:]) == tuple(size)
    if (
        torch.compiler.is_compiling()
        or not has_planes
        or (not on_cpu and b * k * math.prod(size) <= _AT_ONCE)
    ):
        return LabelMap(output.logits.argmax(1))
    labels = torch.empty(b, *size, dtype=torch.long, device=coarse.device)
    for image, found in zip(coarse.split(1), labels, strict=True):
        if on_cpu and tuple(coarse.shape[2:]) == tuple(size):
            _highest(image[0].flatten(1), found.view(-1))
        elif on_cpu and _is_rounded_otherwise(output):
            found.copy_(resize(image, (size[0], size[1]), align_corners=output.align_corners)[0].argmax(0))
        elif (
            not on_cpu
            or coarse.dtype != torch.float32
            or not resized_argmax(
                image[0].contiguous().numpy(), found.numpy(), output.align_corners, torch.get_num_threads()
            )
        ):
            _class_by_class(image, found, output.align_corners)
    return LabelMap(labels)


def confidence(output: DenseLogits) -> Confidence:
    """The labels of `semantic` and the softmax of each, without the probabilities of all other classes.

    The probabilities are those of `probabilities(output).amax(1)` to about 1e-6.

    >>> scores = torch.tensor([[[[0.0]], [[3.0]]]])  # b k h w = 1 2 1 1
    >>> found = confidence(DenseLogits(scores, size=(1, 2)))
    >>> found.labels, found.probability
    (tensor([[[1, 1]]]), tensor([[[0.9526, 0.9526]]]))
    """
    coarse, size = output.coarse.detach(), output.size
    if torch.compiler.is_compiling() or len(size) != 2:
        return _confidence(output.logits)
    fast = coarse.device.type == "cpu" and coarse.dtype == torch.float32 and not _is_rounded_otherwise(output)
    labels = torch.empty(len(coarse), *size, dtype=torch.long, device=coarse.device)
    probability = torch.empty(labels.shape, device=coarse.device)
    for i, image in enumerate(coarse.split(1)):
        if not fast or not resized_confidence(
            image[0].contiguous().numpy(),
            labels[i].numpy(),
            probability[i].numpy(),
            output.align_corners,
            torch.get_num_threads(),
        ):
            found = _confidence(resize(image, (size[0], size[1]), align_corners=output.align_corners))
            labels[i], probability[i] = found.labels[0], found.probability[0]
    return Confidence(labels, probability)


def probabilities(output: DenseLogits) -> Float[Tensor, "b k H W"]:
    """Softmax over the classes at every pixel of the image, in [0, 1], float32."""
    return output.logits.float().softmax(1)


# --- by the type of the output --------------------------------------------------------------------


@singledispatch
def boxes(output: object) -> tuple[Boxes, ...]:
    """The objects that an output tells of, one set per image, best first.

    Raises:
        ValueError: if the output has no boxes.
    """
    raise ValueError(f"{type(output).__name__} cannot be decoded to boxes")


@singledispatch
def instances(output: object) -> tuple[MaskSet, ...]:
    """The instances that an output tells of, one set per image, best first.

    Raises:
        ValueError: if the output has no masks of instances.
    """
    raise ValueError(f"{type(output).__name__} cannot be decoded to instances")


@singledispatch
def panoptic(output: object, classes: ClassTable) -> tuple[PanopticMap, ...]:
    """The segments that an output tells of, one map per image.

    Args:
        output: of a model for panoptic segmentation.
        classes: say which labels are things.

    Raises:
        ValueError: if the output does not tell things and stuff.
    """
    raise ValueError(f"{type(output).__name__} cannot be decoded to a panoptic map")


@singledispatch
def keypoints(output: object) -> tuple[Keypoints, ...]:
    """The joints that an output tells of, one set per image, in pixels of the image.

    Raises:
        ValueError: if the output has no joints.
    """
    raise ValueError(f"{type(output).__name__} cannot be decoded to keypoints")


def _confidence(logits: Float[Tensor, "b k H W"]) -> Confidence:
    return Confidence(logits.argmax(1), logits.float().softmax(1).amax(1))


def _is_rounded_otherwise(output: DenseLogits) -> bool:
    """Whether torch multiplies the weights first: on small maps, and on three channels as if of colours."""
    same = tuple(output.coarse.shape[-2:]) == tuple(output.size)
    return not same and (sum(output.size) <= 128 or output.coarse.shape[1] == 3)


def _highest(scores: Float[Tensor, "k pixels"], found: Int64[Tensor, " pixels"]) -> None:
    """Fill `found` with the argmax of scores that are at image size already."""
    pixels = scores.shape[1]
    if scores.dtype == torch.float64:
        found.copy_(scores.argmax(0))
        return
    # Inference mode is local to a thread: worker threads see NumPy arrays, never tensors.
    values, out = scores.float().numpy(), found.numpy()

    def fill(start: int) -> None:
        stop = min(start + _CHUNK, pixels)
        if values.flags.c_contiguous:
            out[start:stop] = argmax(values, start, stop)
        else:
            out[start:stop] = argmax(np.ascontiguousarray(values[:, start:stop]), 0, stop - start)

    parallel_map(fill, range(0, pixels, _CHUNK), torch.get_num_threads() if pixels > _FEW else 1)


def _class_by_class(
    image: Float[Tensor, "1 k _ _"], found: Int64[Tensor, "H W"], align_corners: bool
) -> None:
    """Resize one class after the other and compare it with the best so far: a k-th of the memory."""
    best: Tensor | None = None
    current = torch.zeros(found.shape, dtype=torch.int32, device=found.device)
    for number, scores in enumerate(image.split(1, dim=1)):
        fine = resize(scores, (found.shape[0], found.shape[1]), align_corners=align_corners)[0, 0]
        if best is None:
            best = fine.clone()
            continue
        current.masked_fill_((fine > best) | (fine.isnan() & ~best.isnan()), number)
        torch.maximum(best, fine, out=best)
    found.copy_(current)
