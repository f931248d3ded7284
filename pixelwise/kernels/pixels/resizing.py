"""Bilinear resizing as torch does it on a CPU, in pieces that stay in the cache."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from ..compiling import kernel
from ..intrinsics import multiply_add

TILE = 1024  # columns of the fine map that are interpolated together


class Axis(NamedTuple):
    """Which two source positions each position of a resized axis lies between, and their weights."""

    first: Int32[np.ndarray, " n"]
    second: Int32[np.ndarray, " n"]
    weight_of_first: Float32[np.ndarray, " n"]
    weight_of_second: Float32[np.ndarray, " n"]


def resized_axis(source: int, size: int, align_corners: bool) -> Axis:
    """The bilinear weights of torch's `interpolate` on a CPU, bit for bit.

    >>> axis = resized_axis(2, 4, False)
    >>> axis.first.tolist(), axis.weight_of_second.tolist()
    ([0, 0, 0, 1], [0.0, 0.25, 0.75, 0.25])
    """
    position = np.arange(size, dtype=np.float32)
    if source != size and align_corners:
        step = np.float32(source - 1) / np.float32(size - 1) if size > 1 else np.float32(0)
        position = position * step
    elif source != size:
        step, half = np.float32(source) / np.float32(size), np.float32(0.5)
        position = np.maximum((position + half) * step - half, np.float32(0))
    first = np.minimum(position.astype(np.int32), np.int32(source - 1))
    weight = np.clip(position - first.astype(np.float32), np.float32(0), np.float32(1))
    second = np.minimum(first + np.int32(1), np.int32(source - 1))
    return Axis(first, second, np.float32(1) - weight, weight)


@kernel
def interpolate_row(
    row: Float32[np.ndarray, " n"],
    columns: Axis,
    start: int,
    left: int,
    fine: Float32[np.ndarray, " width"],
) -> None:
    """A coarse row, given from column `start` on, at the fine columns from `left` on.

    Products and sums are rounded where torch rounds them: the second product, then the sum with the first.
    """
    stop = left + fine.size
    first, second = columns.first[left:stop], columns.second[left:stop]
    of_first, of_second = columns.weight_of_first[left:stop], columns.weight_of_second[left:stop]
    for x in range(fine.size):
        p, q = np.uint64(first[x] - start), np.uint64(second[x] - start)
        fine[x] = multiply_add(row[p], of_first[x], row[q] * of_second[x])
