"""Run lengths: COCO's way to write a mask, down the columns, starting with a run of zeros.

n masks lie in two flat arrays: `counts[offsets[i]:offsets[i + 1]]` are the runs of mask i. The pixel of row y
and column x has the position x * height + y. Masks are written with the fewest runs, as pycocotools does.
"""

import numpy as np
from jaxtyping import Int64, UInt8, UInt32

from ..compiling import kernel
from ..constants import ALL, ONE, ZERO
from ..intrinsics import lowest_bit

BLOCK = np.uint64(64)  # bytes that are compared at once
STRETCH = 1024

Counts = UInt32[np.ndarray, " _"]
Offsets = Int64[np.ndarray, " _"]
Runs = tuple[Counts, Offsets]
Bytes = UInt8[np.ndarray, " _"]
Places = Int64[np.ndarray, " _"]


@kernel
def with_room(counts: Counts, used: int, more: int) -> Counts:
    """`counts`, or a larger copy of it, where `more` runs fit behind the first `used`."""
    if used + more <= counts.size:
        return counts
    larger = np.empty(2 * (used + more), np.uint32)
    for k in range(used):  # Numba needs two seconds to compile an assignment to a slice
        larger[k] = counts[k]
    return larger


@kernel
def with_space(places: Places, used: int, more: int) -> Places:
    """`places`, or a larger copy of it, where `more` fit behind the first `used`."""
    if used + more <= places.size:
        return places
    larger = np.empty(2 * (used + more), np.int64)
    for k in range(used):
        larger[k] = places[k]
    return larger


@kernel
def first_wrong(counts: Counts, offsets: Offsets, pixels: int) -> int:
    """The first mask whose runs do not lie in `counts` or do not fill `pixels` pixels; -1 if none."""
    for i in range(offsets.size - 1):
        if not 0 <= offsets[i] < offsets[i + 1] <= counts.size:
            return i
        total = np.int64(0)
        for k in range(offsets[i], offsets[i + 1]):
            total += np.int64(counts[k])
        if total != pixels:
            return i
    return -1


# --- encode and decode ----------------------------------------------------------------------------


@kernel
def _list_some_changes(
    flat: Bytes, here: int, there: int, size: int, rows: int, first: int, changes: Places, used: int
) -> tuple[int, int]:
    """Append the places of the pixels of some rows where just one of a pixel and its partner is set.

    The rows of `size` pixels begin at `here`, their partners at `there`, each row right behind the one
    before; the first pixel gets the place `first`. Whole blocks are compared at once, and most are equal; the
    last block of a row goes back over the one before. Stops where a row might not fit in `changes`; gives the
    rows that are done and the new `used`.
    """
    for row in range(rows):
        if used + size > changes.size:
            return row, used
        if size < 64:
            for j in range(row * size, (row + 1) * size):
                if (flat[here + j] != 0) != (flat[there + j] != 0):
                    changes[used] = first + j
                    used += 1
            continue
        for block in range(0, size, 64):
            start = row * size + min(block, size - 64)
            # Unsigned places spare the compiler a test for negative ones, and so let it use vectors.
            a, b = np.uint64(here + start), np.uint64(there + start)
            different = np.uint8(0)
            for j in range(BLOCK):
                different |= flat[a + j] ^ flat[b + j]
            if different:
                word = ZERO
                for j in range(BLOCK):
                    word |= np.uint64((flat[a + j] != 0) != (flat[b + j] != 0)) << j
                word &= ALL << np.uint64(row * size + block - start)
                while word:
                    changes[used] = first + start + lowest_bit(word)
                    used += 1
                    word &= word - ONE
    return rows, used


@kernel
def _list_changes(
    flat: Bytes, here: int, there: int, size: int, rows: int, first: int, changes: Places, used: int
) -> tuple[Places, int]:
    """As `_list_some_changes`, but of all rows; gives `changes`, which may have moved, and the new `used`."""
    row = 0
    while True:
        done, used = _list_some_changes(
            flat, here + row * size, there + row * size, size, rows - row, first + row * size, changes, used
        )
        row += done
        if row == rows:
            return changes, used
        changes = with_space(changes, used, size)


@kernel
def _runs_between(positions: Places, found: int, pixels: int, counts: Counts, used: int) -> int:
    """Write the runs between positions at which the value changes; gives the new `used`."""
    last = 0
    for k in range(found):
        counts[used + k] = positions[k] - last
        last = positions[k]
    counts[used + found] = pixels - last
    return used + found + 1


@kernel
def encode_rows(masks: UInt8[np.ndarray, "n h w"]) -> Runs:
    """Counts and offsets of masks (n, height, width) that lie row by row.

    One pass over the rows lists where a pixel differs from the one above it; a counting sort by column puts
    the list in the order of the runs.
    """
    n, height, width = masks.shape
    flat = masks.reshape(masks.size)
    counts, used = np.empty(1024, np.uint32), 0
    offsets = np.zeros(n + 1, np.int64)
    changes, positions = np.empty(4096, np.int64), np.empty(4096, np.int64)
    next_in = np.empty(width, np.int64)  # where in `positions` the next change of each column goes
    for i in range(n):
        found = 0
        if masks.size:
            first = i * height * width
            if flat[first]:
                changes[0] = 0
                found = 1
            # Above the first row lies the end of the column before: the last row, moved by a column.
            last = first + (height - 1) * width
            changes, found = _list_changes(flat, first + 1, last, width - 1, 1, 1, changes, found)
            second = first + width
            changes, found = _list_changes(flat, second, first, width, height - 1, width, changes, found)
        if found > positions.size:
            positions = np.empty(changes.size, np.int64)
        next_in[:] = 0
        for k in range(found):
            y = changes[k] // width
            x = changes[k] - y * width
            changes[k] = x << 32 | y
            next_in[x] += 1
        total = 0
        for x in range(width):
            total, next_in[x] = total + next_in[x], total
        for k in range(found):
            x, y = changes[k] >> 32, changes[k] & 0xFFFFFFFF
            positions[next_in[x]] = x * height + y
            next_in[x] += 1
        counts = with_room(counts, used, found + 1)
        used = _runs_between(positions, found, height * width, counts, used)
        offsets[i + 1] = used
    return counts[:used].copy(), offsets


@kernel
def encode_columns(masks: UInt8[np.ndarray, "n p"]) -> Runs:
    """Counts and offsets of masks (n, pixels) whose pixels lie down the columns."""
    n, pixels = masks.shape
    flat = masks.reshape(masks.size)
    counts, used = np.empty(1024, np.uint32), 0
    offsets = np.zeros(n + 1, np.int64)
    changes = np.empty(4096, np.int64)
    for i in range(n):
        first, found = i * pixels, 0
        if pixels and flat[first]:
            changes[0] = 0
            found = 1
        # Every pixel is compared with the one before it, in stretches.
        rows = max(pixels - 1, 0) // STRETCH
        changes, found = _list_changes(flat, first + 1, first, STRETCH, rows, 1, changes, found)
        done = rows * STRETCH
        here, rest = first + 1 + done, max(pixels - 1 - done, 0)
        changes, found = _list_changes(flat, here, here - 1, rest, 1, 1 + done, changes, found)
        counts = with_room(counts, used, found + 1)
        used = _runs_between(changes, found, pixels, counts, used)
        offsets[i + 1] = used
    return counts[:used].copy(), offsets


@kernel
def decode(counts: Counts, offsets: Offsets, masks: UInt8[np.ndarray, "n h w"]) -> None:
    """Set the pixels of masks (n, height, width), which come as zeros.

    The inverse of `encode_rows`: every row is the one above it, changed where a run starts or ends.
    """
    n, height, width = masks.shape
    next_in = np.empty(height + 1, np.int64)
    changes = np.empty(0, np.int64)
    columns = np.empty(0, np.int64)
    for i in range(n):
        mask = masks[i]
        bound = offsets[i + 1] - offsets[i] + 2 * width
        if bound > changes.size:
            changes, columns = np.empty(2 * bound, np.int64), np.empty(2 * bound, np.int64)
        found, left, right = 0, width, 0
        next_in[:] = 0
        position = 0
        for k in range(offsets[i], offsets[i + 1] - 1, 2):
            start = position + counts[k]
            position = start + counts[k + 1]
            while start < position:  # one column at a time
                x = start // height
                stop = min(position, (x + 1) * height)
                changes[found] = x << 32 | (start - x * height)
                changes[found + 1] = x << 32 | (stop - x * height)
                next_in[start - x * height] += 1
                next_in[stop - x * height] += 1
                found += 2
                left, right = min(left, x), max(right, x + 1)
                start = stop
        if found == 0:
            continue
        total = 0
        for y in range(height + 1):
            total, next_in[y] = total + next_in[y], total
        for k in range(found):
            y = changes[k] & 0xFFFFFFFF
            columns[next_in[y]] = changes[k] >> 32
            next_in[y] += 1
        # Now next_in[y] is where row y ends; runs that end at the bottom of the mask lie in row `height`.
        done = 0
        for y in range(height):
            row = mask[y, left:right]
            if done:
                above = mask[y - 1, left:right]
                for x in range(row.size):
                    row[x] = above[x]
            for k in range(done, next_in[y]):
                mask[y, columns[k]] ^= 1
            done = next_in[y]
            if done == found:
                break


# --- what runs tell by themselves -----------------------------------------------------------------


@kernel
def areas(counts: Counts, offsets: Offsets) -> Int64[np.ndarray, " n"]:
    """Pixels of every mask."""
    area = np.zeros(offsets.size - 1, np.int64)
    for i in range(area.size):
        for k in range(offsets[i] + 1, offsets[i + 1], 2):
            area[i] += np.int64(counts[k])
    return area


@kernel
def boxes(counts: Counts, offsets: Offsets, height: int) -> Int64[np.ndarray, "n 4"]:
    """Left, top, width and height of every mask; zeros where it is empty."""
    box = np.zeros((offsets.size - 1, 4), np.int64)
    for i in range(box.shape[0]):
        left, top, right, bottom = 1 << 40, height, 0, 0
        position = 0
        for k in range(offsets[i], offsets[i + 1] - 1, 2):
            start = position + counts[k]
            position = start + counts[k + 1]
            if start == position:
                continue
            first = start // height
            last = first if position <= (first + 1) * height else (position - 1) // height
            left, right = min(left, first), last + 1
            if first < last:  # a run that goes on in the next column touches bottom and top
                top, bottom = 0, height
            else:
                top, bottom = min(top, start - first * height), max(bottom, position - first * height)
        if right:
            box[i, 0], box[i, 1], box[i, 2], box[i, 3] = left, top, right - left, bottom - top
    return box


# --- from runs to runs ----------------------------------------------------------------------------


@kernel
def with_run(counts: Counts, first: int, used: int, last: int, start: int, stop: int) -> tuple[int, int]:
    """Append the set pixels start..stop to the runs from `first` on, of which `used` end at `last`.

    Gives the new `used` and `last`. Runs that touch are joined. There must be room for two more.
    """
    if start == stop:
        return used, last
    if used > first and start == last:
        counts[used - 1] += stop - start
        return used, stop
    counts[used] = start - last
    counts[used + 1] = stop - start
    return used + 2, stop


@kernel
def with_end(counts: Counts, first: int, used: int, last: int, pixels: int) -> int:
    """Append the zeros behind the last set pixel; gives the new `used`. There must be room for one more."""
    if last < pixels or used == first:
        counts[used] = pixels - last
        return used + 1
    return used


@kernel
def complement(counts: Counts, offsets: Offsets) -> Runs:
    """Counts and offsets of the masks that are set where these are not."""
    out, used = np.empty(counts.size + offsets.size, np.uint32), 0
    out_offsets = np.zeros(offsets.size, np.int64)
    for i in range(offsets.size - 1):
        start = offsets[i]
        if counts[start] == 0 and offsets[i + 1] > start + 1:
            start += 1
        else:
            out[used] = 0
            used += 1
        for k in range(start, offsets[i + 1]):
            out[used] = counts[k]
            used += 1
        out_offsets[i + 1] = used
    return out[:used].copy(), out_offsets


@kernel
def gather(counts: Counts, offsets: Offsets, height: int, columns: Places, row_of: Places) -> Runs:
    """Masks made of columns of these: column x of the result is column `columns[x]`, which must not decrease.

    Rows are moved by a table: row y of the old column becomes rows `row_of[y]` to `row_of[y + 1]` of the new
    one. The table goes from 0 to the new height, so it can repeat rows and leave some out.
    """
    new_height = row_of[height]
    out, used = np.empty(counts.size + 1024, np.uint32), 0
    out_offsets = np.zeros(offsets.size, np.int64)
    width = columns[-1] + 1 if columns.size else 0
    first_run, first_start = np.empty(width, np.int64), np.empty(width, np.int64)
    for i in range(offsets.size - 1):
        # The first run of set pixels that ends behind the top of each column, and its position.
        x, position = 0, 0
        for k in range(offsets[i] + 1, offsets[i + 1], 2):
            start = position + counts[k - 1]
            position = start + counts[k]
            while x < width and x * height < position:
                first_run[x], first_start[x] = k, start
                x += 1
        first_run[x:] = offsets[i + 1]
        first, last = used, 0
        for new_x in range(columns.size):
            x = columns[new_x]
            top, bottom = x * height, (x + 1) * height
            k, start = first_run[x], first_start[x]
            while k < offsets[i + 1] and start < bottom:
                stop = start + counts[k]
                new_start = new_x * new_height + row_of[max(start, top) - top]
                new_stop = new_x * new_height + row_of[min(stop, bottom) - top]
                out = with_room(out, used, 3)
                used, last = with_run(out, first, used, last, new_start, new_stop)
                if k + 1 < offsets[i + 1]:
                    start = stop + counts[k + 1]
                k += 2
        out = with_room(out, used, 1)
        used = with_end(out, first, used, last, columns.size * new_height)
        out_offsets[i + 1] = used
    return out[:used].copy(), out_offsets
