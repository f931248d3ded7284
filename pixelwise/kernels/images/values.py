"""Values of pixels: from bytes to [0, 1], from the values of mask files to labels, and recoloured."""

import numpy as np
from jaxtyping import Float32, Integer, Shaped, UInt8

from ..compiling import kernel

_UNITS = np.arange(256, dtype=np.float32) / np.float32(255)
_BLOCK = 1024  # pixels that stay in the first-level cache


def unit_planes(pixels: UInt8[np.ndarray, "H W c"]) -> Float32[np.ndarray, "c H W"]:
    """Bytes divided by 255, channel by channel; the same numbers as NumPy's division.

    >>> unit_planes(np.array([[[0, 255]]], np.uint8)).ravel().tolist()
    [0.0, 1.0]
    """
    height, width, channels = pixels.shape
    planes = np.empty((channels, height, width), np.float32)
    fill_planes(np.ascontiguousarray(pixels), _UNITS, planes)
    return planes


def byte_pixels(planes: Float32[np.ndarray, "c H W"]) -> UInt8[np.ndarray, "H W c"]:
    """Values in [0, 1] times 255 and rounded, with the channels side by side.

    >>> byte_pixels(np.array([[[0.0, 1.0]]], np.float32)).ravel().tolist()
    [0, 255]
    """
    channels, height, width = planes.shape
    pixels = np.empty((height, width, channels), np.uint8)
    fill_pixels(planes, pixels)
    return pixels


def looked_up(
    values: Shaped[np.ndarray, "*grid"], table: Integer[np.ndarray, " n"]
) -> Integer[np.ndarray, "*grid"]:
    """The entry of a table for each whole number; the last entry is that of all that lie outside.

    >>> looked_up(np.array([0, 1, 7, -1]), np.array([5, 6, 9])).tolist()
    [5, 6, 9, 9]
    """
    labels = np.empty(values.shape, table.dtype)
    fill_labels(np.ascontiguousarray(values).reshape(-1), table, labels.reshape(-1))
    return labels


def recolour(
    planes: Float32[np.ndarray, "c n"],
    luma: Float32[np.ndarray, " c"],
    saturation: float,
    contrast: float,
    brightness: float,
) -> None:
    """Change saturation around the grey of each pixel, contrast around the mean grey, and brightness.

    Values stay in [0, 1].

    Args:
        planes: contiguous; they are changed where they lie.
        luma: weights of the channels that make the grey; their sum is 1.
        saturation: factor.
        contrast: factor.
        brightness: factor.
    """
    own = brightness * contrast * saturation
    of_grey = brightness * contrast * (1 - saturation)
    mean = brightness * (1 - contrast) * mean_grey(planes, luma)
    mix_grey(planes, luma, np.array([own, of_grey, mean], np.float32))


@kernel
def fill_planes(
    pixels: UInt8[np.ndarray, "H W c"],
    units: Float32[np.ndarray, " 256"],
    planes: Float32[np.ndarray, "c H W"],
) -> None:
    """`unit_planes`; a table is faster than the division, whose bytes do not lie side by side."""
    height, width, channels = pixels.shape
    for y in range(height):
        for c in range(channels):
            row = planes[c, y]
            for x in range(width):
                row[x] = units[pixels[y, x, c]]


@kernel
def fill_pixels(planes: Float32[np.ndarray, "c H W"], pixels: UInt8[np.ndarray, "H W c"]) -> None:
    """`byte_pixels`."""
    channels, height, width = planes.shape
    row = np.empty(width, np.uint8)
    for y in range(height):
        for c in range(channels):
            plane = planes[c, y]
            for x in range(width):
                row[x] = np.uint8(np.int32(np.rint(plane[x] * np.float32(255))))
            for x in range(width):
                pixels[y, x, c] = row[x]


@kernel
def fill_units(bytes: UInt8[np.ndarray, "H n"], units: Float32[np.ndarray, "H n"]) -> None:
    """Bytes divided by 255; the same numbers as NumPy's division."""
    for y in range(len(bytes)):
        row, found = bytes[y], units[y]
        for x in range(found.size):
            found[x] = np.float32(row[x]) / np.float32(255)


@kernel
def fill_labels(
    values: Shaped[np.ndarray, " n"], table: Integer[np.ndarray, " values"], labels: Integer[np.ndarray, " n"]
) -> None:
    """`looked_up`."""
    last = np.int64(len(table) - 1)
    for i in range(len(values)):
        value = np.int64(values[i])
        labels[i] = table[value if (value >= 0) & (value < last) else last]


@kernel
def mean_grey(planes: Float32[np.ndarray, "c n"], luma: Float32[np.ndarray, " c"]) -> float:
    """The mean of the grey of all pixels."""
    channels, count = planes.shape
    total = 0.0
    sums = np.empty(_BLOCK, np.float32)
    for c in range(channels):
        sums[:] = 0
        for begin in range(0, count, _BLOCK):
            part = planes[c, begin : begin + _BLOCK]
            for i in range(len(part)):
                sums[i] += part[i]
        total += luma[c] * sums.astype(np.float64).sum()
    return total / max(count, 1)


@kernel
def mix_grey(
    planes: Float32[np.ndarray, "c n"],
    luma: Float32[np.ndarray, " c"],
    factors: Float32[np.ndarray, " 3"],
) -> None:
    """`recolour`, in blocks: factors of the value and of the grey, and what is added to both."""
    channels, count = planes.shape
    own, of_grey, mean = factors[0], factors[1], factors[2]
    grey = np.empty(_BLOCK, np.float32)
    for begin in range(0, count, _BLOCK):
        size = min(_BLOCK, count - begin)
        grey[:size] = mean
        for c in range(channels):
            part, weight = planes[c, begin : begin + size], of_grey * luma[c]
            for i in range(size):
                grey[i] += weight * part[i]
        for c in range(channels):
            part = planes[c, begin : begin + size]
            for i in range(size):
                part[i] = min(max(own * part[i] + grey[i], np.float32(0)), np.float32(1))
