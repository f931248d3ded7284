"""Run lengths in COCO's compressed strings.

A number is written in groups of five bits, low bits first, each as the character 48 + group, or 48 + 32 +
group where more groups follow; the highest bit of the last group is the sign. From the fourth run on a number
is the difference to the run two before.
"""

import numpy as np

from ..compiling import kernel
from .rle import Bytes, Counts, Offsets

FOREIGN, CUT, WILD = 1, 2, 3  # what is wrong with a string


@kernel
def pack(counts: Counts, offsets: Offsets) -> tuple[Bytes, Offsets]:
    """The strings of all masks, one after the other, as bytes, and where each starts."""
    text, used = np.empty(7 * counts.size, np.uint8), 0
    starts = np.zeros(offsets.size, np.int64)
    for i in range(offsets.size - 1):
        for k in range(offsets[i], offsets[i + 1]):
            number = np.int64(counts[k])
            if k - offsets[i] > 2:
                number -= np.int64(counts[k - 2])
            more = True
            while more:
                group = number & 31
                number >>= 5
                more = number != (-1 if group & 16 else 0)
                text[used] = group + (80 if more else 48)
                used += 1
        starts[i + 1] = used
    return text[:used].copy(), starts


@kernel
def unpack(text: Bytes, starts: Offsets, pixels: int) -> tuple[Counts, Offsets, int, int]:
    """Counts and offsets of strings that lie one after the other.

    Also gives the number of the first wrong string (-1: none) and what is wrong with it: a byte that cannot
    be in a string (FOREIGN), an end within a number (CUT) or a run outside 0..pixels (WILD).
    """
    numbers = 0  # each ends with a byte below 80
    for position in range(text.size):
        numbers += text[position] < 80
    counts, used = np.empty(numbers, np.uint32), 0
    offsets = np.zeros(starts.size, np.int64)
    for i in range(starts.size - 1):
        number, shift = np.int64(0), 0
        for position in range(starts[i], starts[i + 1]):
            group = np.int64(text[position]) - 48
            if not 0 <= group < 64:
                return counts, offsets, i, FOREIGN
            number |= (group & 31) << shift
            shift += 5
            if group & 32:
                if shift > 50:
                    return counts, offsets, i, WILD
                continue
            if group & 16:
                number -= np.int64(1) << shift
            if used - offsets[i] > 2:
                number += np.int64(counts[used - 2])
            if not 0 <= number <= pixels:
                return counts, offsets, i, WILD
            counts[used] = number
            used += 1
            number, shift = np.int64(0), 0
        if shift:
            return counts, offsets, i, CUT
        offsets[i + 1] = used
    return counts, offsets, -1, 0
