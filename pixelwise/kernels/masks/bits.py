"""Masks as planes of bits, 64 pixels of a column in a word: set operations and erosion on run lengths.

A plane covers the columns and words of a mask's box only. Row y lies in bit y % 64 of word y // 64 of its
column, so words of two planes of one image size match whatever their boxes are.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

from ..compiling import kernel
from ..constants import ALL, ONE, ZERO
from ..intrinsics import count_bits, lowest_bit
from .rle import Counts, Offsets, Runs, areas, boxes, with_room

Words = UInt64[np.ndarray, " _"]
Table = Int64[np.ndarray, "n 5"]

# Columns of the table of planes.
LEFT, COLUMNS, TOP, WORDS, START = 0, 1, 2, 3, 4


@kernel
def fill_runs(
    plane: Words,
    left: int,
    top: int,
    words: int,
    height: int,
    counts: Counts,
    first: int,
    end: int,
    margin: int,
) -> None:
    """Set the pixels of the mask in runs first..end, less `margin` pixels at both ends within each column."""
    position = 0
    for k in range(first, end - 1, 2):
        start = position + counts[k]
        position = start + counts[k + 1]
        while start < position:  # one column at a time
            x = start // height
            stop = min(position, (x + 1) * height)
            first_row, last_row = start - x * height + margin, stop - 1 - x * height - margin
            start = stop
            if first_row > last_row:
                continue
            column = (x - left) * words - top
            first_word, last_word = column + (first_row >> 6), column + (last_row >> 6)
            from_first = ALL << np.uint64(first_row & 63)
            to_last = ALL >> np.uint64(63 - (last_row & 63))
            if first_word == last_word:
                plane[first_word] |= from_first & to_last
            else:
                plane[first_word] |= from_first
                for word in range(first_word + 1, last_word):
                    plane[word] = ALL
                plane[last_word] |= to_last


@kernel
def read_plane(
    plane: Words,
    left: int,
    columns: int,
    top: int,
    words: int,
    height: int,
    width: int,
    counts: Counts,
    used: int,
) -> tuple[Counts, int]:
    """Append the runs of a plane to `counts`; gives `counts`, which may have moved, and the new `used`."""
    first, last, value = used, 0, ZERO
    top_row, bottom_row = 64 * top, min(height, 64 * (top + words))
    for x in range(columns):
        counts = with_room(counts, used, 64 * words + 3)
        for t in range(words):
            word = plane[x * words + t]
            row = top_row + 64 * t
            rows = min(64, height - row)
            changes = (word ^ (word << ONE | value)) & (ALL >> np.uint64(64 - rows))
            while changes:
                position = (left + x) * height + row + int(lowest_bit(changes))
                counts[used] = position - last
                used, last = used + 1, position
                changes &= changes - ONE
            value = word >> np.uint64(rows - 1) & ONE
        # The run may go on in the next column, unless there are zeros between the two.
        if value and (top > 0 or bottom_row < height or x + 1 == columns):
            position = (left + x) * height + bottom_row
            if position < height * width:
                counts[used] = position - last
                used, last = used + 1, position
            value = ZERO
    counts = with_room(counts, used, 1)
    if last < height * width or used == first:
        counts[used] = height * width - last
        used += 1
    return counts, used


@kernel
def table_of_planes(counts: Counts, offsets: Offsets, height: int) -> Table:
    """Where each mask's plane lies: first column, columns, first word, words a column, place in the array."""
    box = boxes(counts, offsets, height)
    table = np.zeros((box.shape[0] + 1, 5), np.int64)
    for i in range(box.shape[0]):
        left, top, columns, rows = box[i, 0], box[i, 1], box[i, 2], box[i, 3]
        if columns:
            table[i, LEFT], table[i, COLUMNS], table[i, TOP] = left, columns, top >> 6
            table[i, WORDS] = ((top + rows - 1) >> 6) - (top >> 6) + 1
        table[i + 1, START] = table[i, START] + table[i, COLUMNS] * table[i, WORDS]
    return table


@kernel
def planes(counts: Counts, offsets: Offsets, height: int, table: Table) -> Words:
    """The planes of all masks in one array."""
    n = offsets.size - 1
    plane = np.zeros(table[n, START], np.uint64)
    for i in range(n):
        left, top, words, start = table[i, LEFT], table[i, TOP], table[i, WORDS], table[i, START]
        fill_runs(plane[start:], left, top, words, height, counts, offsets[i], offsets[i + 1], 0)
    return plane


# --- sets -----------------------------------------------------------------------------------------


@kernel
def unite(counts: Counts, offsets: Offsets, groups: Offsets, height: int, width: int) -> Runs:
    """Counts and offsets of unions: one of the masks groups[g]..groups[g + 1] for each g."""
    out, used = np.empty(counts.size + 1024, np.uint32), 0
    out_offsets = np.zeros(groups.size, np.int64)
    box = boxes(counts, offsets, height)
    for g in range(groups.size - 1):
        left, right, top, bottom = width, 0, height, 0
        for i in range(groups[g], groups[g + 1]):
            if box[i, 2]:
                left, right = min(left, box[i, 0]), max(right, box[i, 0] + box[i, 2])
                top, bottom = min(top, box[i, 1]), max(bottom, box[i, 1] + box[i, 3])
        if right == 0:
            out = with_room(out, used, 1)
            out[used] = height * width
            used += 1
        else:
            top, words = top >> 6, ((bottom - 1) >> 6) - (top >> 6) + 1
            plane = np.zeros((right - left) * words, np.uint64)
            for i in range(groups[g], groups[g + 1]):
                fill_runs(plane, left, top, words, height, counts, offsets[i], offsets[i + 1], 0)
            out, used = read_plane(plane, left, right - left, top, words, height, width, out, used)
        out_offsets[g + 1] = used
    return out[:used].copy(), out_offsets


@kernel
def shared_pixels(plane_a: Words, table_a: Table, i: int, plane_b: Words, table_b: Table, j: int) -> np.int64:
    """Pixels that mask i of the one set shares with mask j of the other."""
    left, top = max(table_a[i, LEFT], table_b[j, LEFT]), max(table_a[i, TOP], table_b[j, TOP])
    right = min(table_a[i, LEFT] + table_a[i, COLUMNS], table_b[j, LEFT] + table_b[j, COLUMNS])
    bottom = min(table_a[i, TOP] + table_a[i, WORDS], table_b[j, TOP] + table_b[j, WORDS])
    shared = np.int64(0)
    if left >= right or top >= bottom:
        return shared
    words_a, words_b = table_a[i, WORDS], table_b[j, WORDS]
    start_a = table_a[i, START] + (left - table_a[i, LEFT]) * words_a + top - table_a[i, TOP]
    start_b = table_b[j, START] + (left - table_b[j, LEFT]) * words_b + top - table_b[j, TOP]
    if words_a == words_b == bottom - top:  # the columns of both lie without gaps
        length = (right - left) * words_a
        a, b = plane_a[start_a : start_a + length], plane_b[start_b : start_b + length]
        for k in range(length):
            shared += count_bits(a[k] & b[k])
        return shared
    for x in range(right - left):
        a = plane_a[start_a + x * words_a : start_a + x * words_a + bottom - top]
        b = plane_b[start_b + x * words_b : start_b + x * words_b + bottom - top]
        for k in range(bottom - top):
            shared += count_bits(a[k] & b[k])
    return shared


@kernel
def iou(
    counts_a: Counts,
    offsets_a: Offsets,
    counts_b: Counts,
    offsets_b: Offsets,
    is_crowd: Bool[np.ndarray, " m"],
    height: int,
) -> Float64[np.ndarray, "n m"]:
    """Intersection over union of each mask of a with each of b; over the area of a where b is a crowd."""
    table_a, table_b = (
        table_of_planes(counts_a, offsets_a, height),
        table_of_planes(counts_b, offsets_b, height),
    )
    plane_a = planes(counts_a, offsets_a, height, table_a)
    plane_b = planes(counts_b, offsets_b, height, table_b)
    area_a, area_b = areas(counts_a, offsets_a), areas(counts_b, offsets_b)
    out = np.zeros((area_a.size, area_b.size))
    for i in range(area_a.size):
        left, right = table_a[i, LEFT], table_a[i, LEFT] + table_a[i, COLUMNS]
        for j in range(area_b.size):
            if right <= table_b[j, LEFT] or table_b[j, LEFT] + table_b[j, COLUMNS] <= left:
                continue  # as most pairs
            shared = shared_pixels(plane_a, table_a, i, plane_b, table_b, j)
            if shared:
                whole = area_a[i] if is_crowd[j] else area_a[i] + area_b[j] - shared
                out[i, j] = shared / whole
    return out


@kernel
def suppress(counts: Counts, offsets: Offsets, threshold: float, height: int) -> Bool[np.ndarray, " n"]:
    """Whether each mask is kept: no kept mask before it overlaps it by an IoU above the threshold."""
    table = table_of_planes(counts, offsets, height)
    plane = planes(counts, offsets, height, table)
    area = areas(counts, offsets)
    keep = np.ones(area.size, np.bool_)
    for i in range(area.size):
        if keep[i]:
            for j in range(i + 1, area.size):
                if keep[j]:
                    shared = shared_pixels(plane, table, i, plane, table, j)
                    keep[j] = shared / max(area[i] + area[j] - shared, 1) <= threshold
    return keep


# --- erosion --------------------------------------------------------------------------------------


@kernel
def _erode_columns(plane: Words, columns: int, words: int, radius: int) -> tuple[Words, int]:
    """Column x becomes the intersection of columns x..x + 2 * radius; gives the columns that remain.

    The length of the intersection doubles with each pass.
    """
    length, target = 1, 2 * radius + 1
    other = np.empty_like(plane)
    while length < target:
        step = min(length, target - length)
        columns -= step
        if columns <= 0:
            return plane, 0
        shift = step * words
        size = columns * words
        here, there, out = plane[:size], plane[shift : shift + size], other[:size]
        for k in range(size):
            out[k] = here[k] & there[k]
        plane, other = other, plane
        length += step
    return plane, columns


@kernel
def erode(counts: Counts, offsets: Offsets, radius: int, height: int, width: int, subtract: bool) -> Runs:
    """Counts and offsets of masks eroded by a square of side 2 * radius + 1, or of what that takes off.

    Outside of the image nothing is set. Along the columns a run just loses its ends; along the rows columns
    are intersected.
    """
    out, used = np.empty(counts.size + 1024, np.uint32), 0
    out_offsets = np.zeros(offsets.size, np.int64)
    table = table_of_planes(counts, offsets, height)
    for i in range(offsets.size - 1):
        left, columns, top, words = table[i, LEFT], table[i, COLUMNS], table[i, TOP], table[i, WORDS]
        plane = np.zeros(columns * words, np.uint64)
        fill_runs(plane, left, top, words, height, counts, offsets[i], offsets[i + 1], radius)
        plane, kept = _erode_columns(plane, columns, words, radius)
        if subtract:
            eroded = plane[: kept * words]
            plane = np.zeros(columns * words, np.uint64)
            fill_runs(plane, left, top, words, height, counts, offsets[i], offsets[i + 1], 0)
            inner = plane[radius * words : radius * words + eroded.size]
            for k in range(eroded.size):
                inner[k] &= ~eroded[k]
            out, used = read_plane(plane, left, columns, top, words, height, width, out, used)
        else:
            out, used = read_plane(plane, left + radius, kept, top, words, height, width, out, used)
        out_offsets[i + 1] = used
    return out[:used].copy(), out_offsets
