"""Overlaps of two id maps, counted by runs instead of pixels, and what panoptic quality makes of them."""

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer, UInt8

from ..compiling import kernel
from ..constants import ONE, ZERO
from ..intrinsics import WORD, changes, lowest_bit

SLOTS = 512  # of a new table; it doubles when it is half full, and has room for one more block then
FIRST, SECOND, AREA = np.uint64(0), np.uint64(1), np.uint64(2)  # columns of a table
FIRST_FACTOR, SECOND_FACTOR = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xC2B2AE3D27D4EB4F),
)  # odd, of many bits
CHUNK = 1 << 15  # pixels that are cast together


def overlaps(
    first: Integer[np.ndarray, "*grid"], second: Integer[np.ndarray, "*grid"] | Bool[np.ndarray, "*grid"]
) -> Int64[np.ndarray, "pairs 3"]:
    """How many pixels have which pair of ids: rows of (id in `first`, id in `second`, area), in no order.

    Only places where either map changes are counted one by one, which are few in real segmentations.

    >>> sorted(overlaps(np.array([7, 7, 7, 8]), np.array([1, 1, 2, 2])).tolist())
    [[7, 1, 2], [7, 2, 1], [8, 2, 1]]
    """
    first, second = first.reshape(-1), second.reshape(-1)
    table = np.zeros((SLOTS, 3), np.int64)
    if first.dtype == second.dtype and first.dtype in (np.int32, np.int64):
        table = add_overlaps(np.ascontiguousarray(first), np.ascontiguousarray(second), table)
    else:  # other types are cast piece by piece: no further code is compiled, and no map is copied whole
        for start in range(0, first.size, CHUNK):
            piece = slice(start, start + CHUNK)
            table = add_overlaps(first[piece].astype(np.int64), second[piece].astype(np.int64), table)
    rows: Int64[np.ndarray, "pairs 3"] = table[table[:, 2] > 0]
    return rows


@kernel
def add_overlaps(
    first: Integer[np.ndarray, " n"], second: Integer[np.ndarray, " n"], table: Int64[np.ndarray, "slots 3"]
) -> Int64[np.ndarray, "slots 3"]:
    """The open-addressing table of (first, second, area) with the pairs of these pixels added.

    An area of 0 marks a free slot. A table that becomes half full gives way to one of twice the size.
    """
    used = 0
    for slot in range(len(table)):
        used += table[slot, 2] > 0
    start, last = 0, first.size - 1
    for begin in range(0, last, WORD):
        if begin + WORD <= last:
            ends = changes(first, second, begin)
        else:
            ends = ZERO
            for i in range(begin, last):
                if first[i] != first[i + 1] or second[i] != second[i + 1]:
                    ends |= ONE << np.uint64(i - begin)
        while ends:
            end = begin + lowest_bit(ends) + 1
            ends &= ends - ONE
            here = np.uint64(end - 1)
            used += _add(table, first[here], second[here], end - start)
            start = end
        if 2 * used > len(table):
            table = _doubled(table)
    if last >= 0:
        _add(table, first[last], second[last], first.size - start)
    return table


@kernel
def _add(table: Int64[np.ndarray, "slots 3"], first: int, second: int, area: int) -> int:
    """Add an area to its pair; returns 1 if the pair is new."""
    last = np.uint64(len(table) - 1)  # unsigned places spare the test for negative ones
    hashed = (np.uint64(first) * FIRST_FACTOR + np.uint64(second)) * SECOND_FACTOR
    slot = (hashed >> np.uint64(32)) & last
    while table[slot, AREA]:
        if table[slot, FIRST] == first and table[slot, SECOND] == second:
            table[slot, AREA] += area
            return 0
        slot = (slot + ONE) & last
    table[slot, FIRST], table[slot, SECOND], table[slot, AREA] = first, second, area
    return 1


@kernel
def _doubled(table: Int64[np.ndarray, "slots 3"]) -> Int64[np.ndarray, "twice 3"]:
    larger = np.zeros((2 * len(table), 3), np.int64)
    for slot in range(len(table)):
        if table[slot, 2]:
            _add(larger, table[slot, 0], table[slot, 1], table[slot, 2])
    return larger


@kernel
def compare_segments(
    rows: Int64[np.ndarray, "pairs 3"],
    t_ids: Int64[np.ndarray, " t"],
    t_labels: Int64[np.ndarray, " t"],
    t_is_crowd: Bool[np.ndarray, " t"],
    t_areas: Int64[np.ndarray, " t"],
    p_ids: Int64[np.ndarray, " p"],
    p_labels: Int64[np.ndarray, " p"],
    crowd_of: Int64[np.ndarray, " k"],
) -> tuple[
    Int64[np.ndarray, "pairs 2"],
    Float64[np.ndarray, " pairs"],
    Int64[np.ndarray, " p"],
    Int64[np.ndarray, " p"],
    int,
]:
    """Compare the segments of a target (t) and a prediction (p) by the rules of panoptic quality.

    Args:
        rows: overlaps of the two id maps, in which id 0 is void.
        t_ids: ids of the target's segments, ascending.
        t_labels: their labels.
        t_is_crowd: whether they are crowds, which match nothing.
        t_areas: their areas; all are counted here and written where the first is negative.
        p_ids: ids of the predicted segments, ascending.
        p_labels: their labels.
        crowd_of: place of the crowd that excuses predictions of each label; -1 where there is none.

    Returns:
        For each row the places of the two segments (-1 for none), and their IoU, 0 if they cannot match; for
        each predicted segment its area, and how much of it lies on void or on the crowd of its label; the
        number of rows whose predicted id is neither void nor a segment.
    """
    places = np.empty((len(rows), 2), np.int64)
    counted, areas = np.zeros(len(t_ids), np.int64), np.zeros(len(p_ids), np.int64)
    on_void, on_crowd = np.zeros(len(p_ids), np.int64), np.zeros(len(p_ids), np.int64)
    unknown = 0
    for row in range(len(rows)):
        t, p, area = _place(t_ids, rows[row, 0]), _place(p_ids, rows[row, 1]), rows[row, 2]
        places[row, 0], places[row, 1] = t, p
        if t >= 0:
            counted[t] += area
        if p >= 0:
            areas[p] += area
            if rows[row, 0] == 0:
                on_void[p] += area
            elif t >= 0 and crowd_of[p_labels[p]] == t:
                on_crowd[p] += area
        elif rows[row, 1] != 0:
            unknown += 1
    if len(t_areas) and t_areas[0] < 0:
        t_areas[:] = counted
    iou = np.zeros(len(rows))
    for row in range(len(rows)):
        t, p, area = places[row, 0], places[row, 1], rows[row, 2]
        if t >= 0 and p >= 0 and t_labels[t] == p_labels[p] and not t_is_crowd[t]:
            union = t_areas[t] + areas[p] - area - on_void[p]
            iou[row] = area / union if union > 0 else 0.0
    return places, iou, areas, on_void + on_crowd, unknown


@kernel
def is_sound(ids: Int64[np.ndarray, " n"], labels: Int64[np.ndarray, " n"], num_classes: int) -> bool:
    """Whether ascending ids differ from each other and from void (0), and labels are in 0..num_classes-1."""
    sound = True
    for i in range(len(ids)):
        sound &= ids[i] != 0 and 0 <= labels[i] < num_classes and (i == 0 or ids[i] != ids[i - 1])
    return sound


@kernel
def _place(ids: Int64[np.ndarray, " n"], wanted: int) -> int:
    """Where in the ascending `ids` the wanted one stands; -1 if it does not."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if ids[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < len(ids) and ids[low] == wanted else -1


@kernel
def ids_of_colors(pixels: UInt8[np.ndarray, "H W 3"], ids: Integer[np.ndarray, "H W"]) -> None:
    """Write R + 256 G + 65536 B of every pixel into `ids`, as COCO's panoptic PNG files code ids."""
    for y in range(ids.shape[0]):
        for x in range(ids.shape[1]):
            ids[y, x] = pixels[y, x, 0] | (pixels[y, x, 1] << 8) | (pixels[y, x, 2] << 16)
