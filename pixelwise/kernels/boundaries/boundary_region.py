"""Boundaries as Boundary IoU has them: the pixels of a mask less than `radius` + 1 from its outside.

The distance is that of chess: a square of side 2 * radius + 1 around a pixel, which lies inside the mask for
pixels that are not on the boundary. Outside of the image nothing is set.
"""

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt64

from ..compiling import kernel
from ..constants import ZERO
from ..intrinsics import count_bits

WORD = np.uint64(64)


def planes_of_bits(mask: Bool[np.ndarray, "h w"]) -> UInt64[np.ndarray, "words h"]:
    """64 pixels of a row in a word, the leftmost in the lowest bit, zeros behind the last; words by rows.

    >>> planes_of_bits(np.array([[True, False, True], [True, False, False]])).tolist()
    [[5, 1]]
    """
    packed = np.packbits(mask, axis=1, bitorder="little")
    if behind := -packed.shape[1] % 8:
        packed = np.pad(packed, ((0, 0), (0, behind)))
    return np.ascontiguousarray(packed.view("<u8").astype(np.uint64, copy=False).T)


@kernel
def keep_boundary(planes: UInt64[np.ndarray, "words h"], radius: int) -> None:
    """Take the inside of a mask away, in place.

    The inside is the intersection of 2 * radius + 1 columns, then of as many rows. The length of the
    intersection doubles with each pass.
    """
    words, height = planes.shape
    inside = planes.copy()
    held = [k for k in range(words) if planes[k].any()]
    length = 1
    while length <= 2 * radius:
        step = min(length, 2 * radius + 1 - length)
        for k in held:  # and with the pixels `step` to the right, which lie in at most two words
            first, bits = k + (step >> 6), np.uint64(step & 63)
            if first >= words:
                inside[k] = ZERO
            elif bits == ZERO:
                inside[k] &= inside[first]
            elif first + 1 == words:
                inside[k] &= inside[first] >> bits
            else:
                here, there, over = inside[k], inside[first], inside[first + 1]
                for y in range(height):
                    here[y] &= there[y] >> bits | over[y] << (WORD - bits)
        length += step
    for k in held:
        length = 1
        while length <= 2 * radius:
            step = min(length, 2 * radius + 1 - length)
            here, there = inside[k, : max(0, height - step)], inside[k, step:]
            for y in range(len(here)):
                here[y] &= there[y]
            inside[k, max(0, height - step) :] = ZERO
            length += step
    for k in held:  # what began at a corner of the square belongs to its middle
        last, bits = k - (radius >> 6), np.uint64(radius & 63)
        if last < 0:
            continue
        here, there = planes[k, radius:], inside[last]
        for y in range(len(here)):
            here[y] &= ~(there[y] << bits)
        if bits and last > 0:
            there = inside[last - 1]
            for y in range(len(here)):
                here[y] &= ~(there[y] >> (WORD - bits))


@kernel
def overlap(
    one: UInt64[np.ndarray, "words h"], other: UInt64[np.ndarray, "words h"]
) -> tuple[np.int64, np.int64]:
    """Number of pixels in both, and in either."""
    both, either = np.int64(0), np.int64(0)
    for k in range(one.shape[0]):
        for y in range(one.shape[1]):
            both += count_bits(one[k, y] & other[k, y])
            either += count_bits(one[k, y] | other[k, y])
    return both, either


@kernel
def count_label_boundaries(
    prediction: Integer[np.ndarray, "h w"],
    target: Integer[np.ndarray, "h w"],
    ignore: int,
    radius: int,
    counts: Int64[np.ndarray, "k 3"],
) -> int:
    """Add per class the boundary pixels that both maps share, those of the prediction, those of the target.

    A pixel where the target is `ignore` belongs to no class in either map. One pass serves all classes: a
    pixel is inside where the square around it holds one label. For that, `run` counts equal labels along a
    row, and `rise` the rows above each other in which the window around a column holds the same label.

    Returns:
        Place of a pixel with a label outside of the classes, or -1.
    """
    height, width = target.shape
    side = 2 * radius + 1
    rise = np.zeros((2, width), np.int32)
    above, here = np.full((2, width), -1, np.int64), np.empty((2, width), np.int64)
    for y in range(height + radius):
        if y < height:
            for x in range(width):
                none = target[y, x] == ignore
                here[0, x] = -1 if none else np.int64(prediction[y, x])
                here[1, x] = -1 if none else np.int64(target[y, x])
                if not none and (
                    min(here[0, x], here[1, x]) < 0 or max(here[0, x], here[1, x]) >= len(counts)
                ):
                    return y * width + x
            for which in range(2):
                run = 0
                for x in range(width):
                    run = run + 1 if x > 0 and here[which, x] == here[which, x - 1] else 1
                    middle = x - radius
                    if middle >= 0:
                        if run < side:
                            rise[which, middle] = 0
                        elif here[which, middle] == above[which, middle]:
                            rise[which, middle] += 1
                        else:
                            rise[which, middle] = 1
            above, here = here, above
        else:
            rise[:] = 0
        done = y - radius
        if done < 0:
            continue
        for x in range(width):
            edge0, edge1 = rise[0, x] < side, rise[1, x] < side
            if (edge0 or edge1) and target[done, x] != ignore:
                if edge0:
                    counts[prediction[done, x], 1] += 1
                if edge1:
                    counts[target[done, x], 2] += 1
                if edge0 and edge1 and prediction[done, x] == target[done, x]:
                    counts[target[done, x], 0] += 1
    return -1
