"""Resampling of images and masks: windows that are scaled, affine maps, and Gaussian blur."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64, Shaped, UInt8

from ..compiling import kernel


class Taps(NamedTuple):
    """From which pixels along one side each new pixel is made."""

    first: Int64[np.ndarray, " size"]
    weights: Float32[np.ndarray, "size taps"]


def triangle_taps(start: int, stop: int, size: int) -> Taps:
    """The pixels from `start` to `stop` become `size` pixels: bilinear, over larger triangles to shrink.

    The weights are those of torch's `interpolate(mode="bilinear", antialias=True)`.

    >>> triangle_taps(3, 5, 1).weights.tolist()
    [[0.5, 0.5]]
    """
    support = max((stop - start) / size, 1.0)
    first = np.empty(size, np.int64)
    weights = np.zeros((size, int(2 * support + 2)), np.float32)
    most = fill_taps(start, stop, support, first, weights)
    return Taps(first, np.ascontiguousarray(weights[:, :most]))


@kernel
def fill_taps(
    start: int,
    stop: int,
    support: float,
    first: Int64[np.ndarray, " size"],
    weights: Float32[np.ndarray, "size taps"],
) -> int:
    """`triangle_taps`; gives how many weights a new pixel has at most."""
    count, size = stop - start, len(first)
    most = 0
    for i in range(size):
        centre = (i + 0.5) * count / size
        begin = max(int(centre - support + 0.5), 0)
        taps = min(int(centre + support + 0.5), count) - begin
        total = 0.0
        for j in range(taps):
            total += max(1 - abs(begin + j + 0.5 - centre) / support, 0.0)
        for j in range(taps):
            weights[i, j] = max(1 - abs(begin + j + 0.5 - centre) / support, 0.0) / total
        first[i] = start + begin
        most = max(most, taps)
    return most


def resampled(
    planes: Float32[np.ndarray, "n h w"],
    rows: Taps,
    columns: Taps,
    out: Float32[np.ndarray, "n H W"],
    top: int,
    left: int,
) -> None:
    """Write the resampled planes into `out`, from row `top` and column `left` on."""
    fill_resampled(planes, rows.first, rows.weights, columns.first, in_pairs(columns), out, top, left)


def resampled_bytes(
    pixels: UInt8[np.ndarray, "h w c"],
    rows: Taps,
    columns: Taps,
    out: Float32[np.ndarray, "c H W"],
    top: int,
    left: int,
) -> None:
    """`resampled`, of bytes as files have them, which are divided by 255 afterwards."""
    fill = fill_resampled_colors if pixels.shape[2] == 3 else fill_resampled_bytes
    fill(pixels, rows.first, rows.weights, columns.first, in_pairs(columns), out, top, left)


def in_pairs(taps: Taps) -> Float32[np.ndarray, "even size"]:
    """The weights of each tap side by side; an even number of taps, the last of which may weigh nothing."""
    size, count = taps.weights.shape
    weights = np.zeros((count + count % 2, size), np.float32)
    weights[:count] = taps.weights.T
    return weights


@kernel
def fill_resampled(
    planes: Float32[np.ndarray, "n h w"],
    first_row: Int64[np.ndarray, " rows"],
    row_weights: Float32[np.ndarray, "rows i"],
    first_column: Int64[np.ndarray, " columns"],
    column_weights: Float32[np.ndarray, "j columns"],
    out: Float32[np.ndarray, "n H W"],
    top: int,
    left: int,
) -> None:
    """`resampled`: rows are mixed as they lie in memory, then the columns of the mixture."""
    taps, wide = column_weights.shape
    start = min(first_column[0], first_column[wide - 1])
    stop = min(max(first_column[0], first_column[wide - 1]) + taps, planes.shape[2])
    mixed = np.zeros(planes.shape[2] + taps, np.float32)  # weights of 0 may reach beyond the border
    for n in range(len(planes)):
        for y in range(len(first_row)):
            part = mixed[start:stop]
            weight, row = row_weights[y, 0], planes[n, first_row[y], start:stop]
            for x in range(stop - start):
                part[x] = weight * row[x]
            for i in range(1, row_weights.shape[1]):
                weight = row_weights[y, i]
                if weight == 0:
                    continue
                row = planes[n, first_row[y] + i, start:stop]
                for x in range(stop - start):
                    part[x] += weight * row[x]
            new = out[n, top + y, left : left + wide]
            new[:] = 0
            for j in range(0, taps, 2):
                one, two = column_weights[j], column_weights[j + 1]
                for x in range(wide):
                    place = np.uint64(first_column[x] + j)
                    new[x] += one[x] * mixed[place] + two[x] * mixed[place + np.uint64(1)]


@kernel
def fill_resampled_bytes(
    pixels: UInt8[np.ndarray, "h w c"],
    first_row: Int64[np.ndarray, " rows"],
    row_weights: Float32[np.ndarray, "rows i"],
    first_column: Int64[np.ndarray, " columns"],
    column_weights: Float32[np.ndarray, "j columns"],
    out: Float32[np.ndarray, "c H W"],
    top: int,
    left: int,
) -> None:
    """`resampled_bytes`, in the same way as `fill_resampled`."""
    channels = pixels.shape[2]
    taps, wide = column_weights.shape
    start = min(first_column[0], first_column[wide - 1]) * channels
    stop = min(max(first_column[0], first_column[wide - 1]) + taps, pixels.shape[1]) * channels
    mixed = np.zeros((pixels.shape[1] + taps) * channels, np.float32)
    places = first_column * channels
    for y in range(len(first_row)):
        part = mixed[start:stop]
        part[:] = 0
        for i in range(row_weights.shape[1]):
            weight, row = row_weights[y, i], pixels[first_row[y] + i if row_weights[y, i] != 0 else 0]
            flat = row.reshape(-1)[start:stop]
            if weight != 0:
                for x in range(stop - start):
                    part[x] += weight * np.float32(flat[x])
        for c in range(channels):
            new = out[c, top + y, left : left + wide]
            new[:] = 0
            for j in range(0, taps, 2):
                one, two, shift = column_weights[j], column_weights[j + 1], j * channels + c
                for x in range(wide):
                    place = np.uint64(places[x] + shift)
                    new[x] = new[x] + one[x] * mixed[place] + two[x] * mixed[place + np.uint64(channels)]
            for x in range(wide):
                new[x] /= np.float32(255)


@kernel
def fill_resampled_colors(
    pixels: UInt8[np.ndarray, "h w 3"],
    first_row: Int64[np.ndarray, " rows"],
    row_weights: Float32[np.ndarray, "rows i"],
    first_column: Int64[np.ndarray, " columns"],
    column_weights: Float32[np.ndarray, "j columns"],
    out: Float32[np.ndarray, "3 H W"],
    top: int,
    left: int,
) -> None:
    """`fill_resampled_bytes` of three channels, whose sums are kept in registers: a third faster."""
    taps, wide = column_weights.shape
    start = min(first_column[0], first_column[wide - 1]) * 3
    stop = min(max(first_column[0], first_column[wide - 1]) + taps, pixels.shape[1]) * 3
    mixed = np.zeros((pixels.shape[1] + taps) * 3, np.float32)
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    for y in range(len(first_row)):
        part = mixed[start:stop]
        part[:] = 0
        for i in range(row_weights.shape[1]):
            weight = row_weights[y, i]
            if weight != 0:
                flat = pixels[first_row[y] + i].reshape(-1)[start:stop]
                for x in range(stop - start):
                    part[x] += weight * np.float32(flat[x])
        red, green, blue = out[0, top + y], out[1, top + y], out[2, top + y]
        first, second = column_weights[0], column_weights[1]
        for x in range(wide):
            p = np.uint64(first_column[x] * 3)
            q = p + three
            v, w = first[x], second[x]
            r, g, b = (
                v * mixed[p] + w * mixed[q],
                v * mixed[p + one] + w * mixed[q + one],
                v * mixed[p + two] + w * mixed[q + two],
            )
            for j in range(2, taps):
                q += three
                w = column_weights[j, x]
                r, g, b = r + w * mixed[q], g + w * mixed[q + one], b + w * mixed[q + two]
            red[left + x], green[left + x], blue[left + x] = r, g, b
        for c in range(3):
            row = out[c, top + y, left : left + wide]
            for x in range(wide):
                row[x] /= np.float32(255)


@kernel
def fill_nearest(
    planes: Shaped[np.ndarray, "n h w"],
    rows: Int64[np.ndarray, " rows"],
    columns: Int64[np.ndarray, " columns"],
    out: Shaped[np.ndarray, "n H W"],
    top: int,
    left: int,
) -> None:
    """Write the pixels at these rows and columns into `out`, from row `top` and column `left` on."""
    wide = len(columns)
    for n in range(len(planes)):
        for y in range(len(rows)):
            row, new = planes[n, rows[y]], out[n, top + y, left : left + wide]
            for x in range(wide):
                new[x] = row[np.uint64(columns[x])]


@kernel
def moved_bilinearly(
    planes: Float32[np.ndarray, "n h w"], back: Float64[np.ndarray, "2 3"]
) -> Float32[np.ndarray, "n h w"]:
    """An affine map, bilinear between pixels; 0 beyond the border.

    Args:
        planes: contiguous.
        back: from x, y, 1 of a new pixel to the place x, y that it shows; pixels have whole numbers.
    """
    count, high, wide = planes.shape
    out = np.empty_like(planes)
    place = np.empty(wide, np.int64)
    right, down = np.empty(wide, np.float32), np.empty(wide, np.float32)
    below = np.uint64(wide)
    for y in range(high):
        u, v = back[0, 1] * y + back[0, 2], back[1, 1] * y + back[1, 2]
        # One or more of the four neighbours of these pixels lie inside, and all four of the others.
        first, last = inside(u + 1, back[0, 0], wide + 1.0, 0, wide)
        first, last = inside(v + 1, back[1, 0], high + 1.0, first, last)
        begin, end = inside(u, back[0, 0], wide - 1.0, first, last)
        begin, end = inside(v, back[1, 0], high - 1.0, begin, end)
        for x in range(begin, end):
            column, row = u + back[0, 0] * x, v + back[1, 0] * x
            j, i = np.int32(column), np.int32(row)  # half the time of 64 bits
            place[x] = i * wide + j
            right[x], down[x] = column - j, row - i
        for n in range(count):
            plane, new = planes[n].reshape(-1), out[n, y]
            for x in range(begin, end):
                p = np.uint64(place[x])
                q = p + below
                upper = plane[p] + right[x] * (plane[p + np.uint64(1)] - plane[p])
                lower = plane[q] + right[x] * (plane[q + np.uint64(1)] - plane[q])
                new[x] = upper + down[x] * (lower - upper)
            new[:first] = 0
            new[last:] = 0
            for x in range(first, begin):
                new[x] = at(planes[n], v + back[1, 0] * x, u + back[0, 0] * x)
            for x in range(end, last):
                new[x] = at(planes[n], v + back[1, 0] * x, u + back[0, 0] * x)
    return out


@kernel
def inside(start: float, step: float, most: float, begin: int, end: int) -> tuple[int, int]:
    """The part of the numbers x from `begin` to `end` for which 0 <= start + step * x < most."""
    while begin < end and not 0 <= start + step * begin < most:
        begin += 1
    while begin < end and not 0 <= start + step * (end - 1) < most:
        end -= 1
    return begin, end


@kernel
def at(plane: Float32[np.ndarray, "h w"], row: float, column: float) -> float:
    """The bilinear value between pixels, of which those outside are 0."""
    i, j = int(np.floor(row)), int(np.floor(column))
    down, right = row - i, column - j
    value = 0.0
    for y, share in ((i, 1 - down), (i + 1, down)):
        if 0 <= y < plane.shape[0]:
            if 0 <= j < plane.shape[1]:
                value += share * (1 - right) * plane[y, j]
            if 0 <= j + 1 < plane.shape[1]:
                value += share * right * plane[y, j + 1]
    return value


@kernel
def moved_nearest(
    planes: Shaped[np.ndarray, "n h w"], back: Float64[np.ndarray, "2 3"], fill: int
) -> Shaped[np.ndarray, "n h w"]:
    """An affine map of labels, which takes the nearest pixel; `fill` beyond the border.

    Args:
        planes: contiguous.
        back: as in `moved_bilinearly`.
        fill: label of the pixels outside.
    """
    count, high, wide = planes.shape
    out = np.empty_like(planes)
    flat = planes.reshape(-1)
    area = np.uint64(high * wide)
    for y in range(high):
        u, v = back[0, 1] * y + back[0, 2] + 0.5, back[1, 1] * y + back[1, 2] + 0.5
        begin, end = inside(u, back[0, 0], wide, 0, wide)
        begin, end = inside(v, back[1, 0], high, begin, end)
        for n in range(count):
            new, shift = out[n, y], np.uint64(n) * area
            new[:begin] = fill
            new[end:] = fill
            for x in range(begin, end):
                j, i = np.int32(u + back[0, 0] * x), np.int32(v + back[1, 0] * x)
                new[x] = flat[shift + np.uint64(i * wide + j)]
    return out


@kernel
def blurred(
    planes: Float32[np.ndarray, "n h w"], weights: Float32[np.ndarray, " taps"]
) -> Float32[np.ndarray, "n h w"]:
    """Filtered with the same weights along both sides; beyond the border, the pixels at the border go on.

    Args:
        planes: contiguous.
        weights: an odd number of them.
    """
    count, high, wide = planes.shape
    reach = len(weights) // 2
    out = np.empty_like(planes)
    mixed = np.empty(wide + 2 * reach, np.float32)
    for n in range(count):
        for y in range(high):
            middle = mixed[reach : reach + wide]
            middle[:] = 0
            for i in range(len(weights)):
                row, weight = planes[n, min(max(y + i - reach, 0), high - 1)], weights[i]
                for x in range(wide):
                    middle[x] += weight * row[x]
            mixed[:reach], mixed[reach + wide :] = middle[0], middle[wide - 1]
            new = out[n, y]
            new[:] = 0
            for j in range(len(weights)):
                part, weight = mixed[j : j + wide], weights[j]
                for x in range(wide):
                    new[x] += weight * part[x]
    return out
