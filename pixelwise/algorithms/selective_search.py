"""Selective search (Uijlings et al., IJCV 2013): boxes that may hold an object, from a hierarchy of regions.

A fine segmentation is the start. The two most similar regions that touch become one, again and again, until
the image is one region; the box around every region that there ever was is a proposal. R-CNN and Fast R-CNN
look for objects in them.
"""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Integer
from scipy import ndimage

from .images import Image, as_pixels, colors_of
from .superpixels import felzenszwalb

COLOR_BINS, TEXTURE_BINS, DIRECTIONS = 25, 10, 8


class _Region(NamedTuple):
    """What is known of a region; a merged one knows it from its two parts (Sec. 3.2.2)."""

    size: int
    box: tuple[int, int, int, int]
    colors: Float64[np.ndarray, " n"]
    texture: Float64[np.ndarray, " m"]


def selective_search(
    image: Image, *, scales: Sequence[float] = (50.0, 150.0), min_side: int = 8
) -> Int64[np.ndarray, "n 4"]:
    """Boxes left, top, right, bottom in pixels, right and bottom not included; none twice.

    Departures: colours are Lab only, where the paper has eight spaces; the similarity is the sum of all four
    (Eq. 6), where the paper tries several sums.

    Args:
        image: any number of channels.
        scales: of the segmentations to start from, see `felzenszwalb`; each gives a hierarchy.
        min_side: smallest width and height of a box in pixels.

    Raises:
        ValueError: on an image that `colors_of` refuses.

    >>> image = np.zeros((40, 40, 3), np.uint8)
    >>> image[10:30, 5:20] = 255
    >>> bool(np.abs(selective_search(image) - [5, 10, 20, 30]).max(1).min() <= 1)
    True
    """
    colors = colors_of(image, "lab" if as_pixels(image).shape[2] == 3 else "rgb")
    found: dict[tuple[int, int, int, int], None] = {}
    for scale in scales:
        labels = felzenszwalb(image, scale=scale, sigma=0.8).label_map.labels.numpy()
        for region in hierarchy(colors, labels):
            left, top, right, bottom = region.box
            if right - left >= min_side and bottom - top >= min_side:
                found[region.box] = None
    return np.array(list(found), np.int64).reshape(-1, 4)


def hierarchy(colors: Float64[np.ndarray, "H W c"], labels: Integer[np.ndarray, "H W"]) -> list[_Region]:
    """The regions of a segmentation, and all that come of merging them (Alg. 1).

    Args:
        colors: of each pixel.
        labels: from 0 on, without gaps.
    """
    regions, size = _regions(colors, labels), labels.size
    touching: list[set[int]] = [set() for _ in regions]
    for first, second in _neighbours(labels):
        touching[first].add(second)
        touching[second].add(first)
    pairs = [(a, b) for a, near in enumerate(touching) for b in near if a < b]
    queue = [(-similarity(regions[a], regions[b], size), a, b) for a, b in pairs]
    heapq.heapify(queue)
    alive = [True] * len(regions)
    while queue:
        _, first, second = heapq.heappop(queue)
        if not (alive[first] and alive[second]):
            continue
        number = len(regions)
        regions.append(_merged(regions[first], regions[second]))
        alive[first] = alive[second] = False
        alive.append(True)
        near = {other for other in touching[first] | touching[second] if alive[other]}
        touching.append(near)
        for other in near:
            touching[other].add(number)
            heapq.heappush(queue, (-similarity(regions[other], regions[number], size), other, number))
    return regions


def similarity(first: _Region, second: _Region, size: int) -> float:
    """Of colour, texture, size and fill; each in [0, 1] (Eq. 2 to 6).

    Args:
        first: a region.
        second: another.
        size: of the image in pixels.
    """
    color = np.minimum(first.colors, second.colors).sum()
    texture = np.minimum(first.texture, second.texture).sum()
    small = 1 - (first.size + second.size) / size
    left, top, right, bottom = _around(first.box, second.box)
    fill = 1 - ((right - left) * (bottom - top) - first.size - second.size) / size
    return float(color + texture + small + fill)


def _around(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    return (
        min(first[0], second[0]),
        min(first[1], second[1]),
        max(first[2], second[2]),
        max(first[3], second[3]),
    )


def _merged(first: _Region, second: _Region) -> _Region:
    size = first.size + second.size
    share = first.size / size
    return _Region(
        size,
        _around(first.box, second.box),
        share * first.colors + (1 - share) * second.colors,
        share * first.texture + (1 - share) * second.texture,
    )


def _regions(colors: Float64[np.ndarray, "H W c"], labels: Integer[np.ndarray, "H W"]) -> list[_Region]:
    """Histograms of colours, and of slopes in eight directions, per channel."""
    flat, count = labels.ravel(), int(labels.max()) + 1
    sizes = np.bincount(flat, minlength=count)
    slopes = []
    for channel in np.moveaxis(colors, 2, 0):
        down, along = (ndimage.gaussian_filter(channel, 1.0, order=order) for order in ((1, 0), (0, 1)))
        angles = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
        slopes += [np.maximum(np.cos(angle) * along + np.sin(angle) * down, 0) for angle in angles]
    color = _histograms(list(np.moveaxis(colors, 2, 0)), flat, sizes, COLOR_BINS)
    texture = _histograms(slopes, flat, sizes, TEXTURE_BINS)
    boxes = []
    for rows, columns in ndimage.find_objects(labels + 1):
        boxes.append((columns.start, rows.start, columns.stop, rows.stop))
    return [_Region(int(sizes[i]), boxes[i], color[i], texture[i]) for i in range(count)]


def _histograms(
    channels: Sequence[Float64[np.ndarray, "H W"]],
    flat: Integer[np.ndarray, " pixels"],
    sizes: Integer[np.ndarray, " n"],
    bins: int,
) -> Float64[np.ndarray, "n _"]:
    """One row per region, of which the sum is 1."""
    parts = []
    for channel in channels:
        low, high = float(channel.min()), float(channel.max())
        place = ((channel.ravel() - low) * (bins / max(high - low, 1e-12))).astype(np.int64).clip(0, bins - 1)
        counted = np.bincount(flat * bins + place, minlength=len(sizes) * bins)
        parts.append(counted.reshape(len(sizes), bins))
    return np.concatenate(parts, 1) / (sizes[:, None] * len(channels))


def _neighbours(labels: Integer[np.ndarray, "H W"]) -> Int64[np.ndarray, "m 2"]:
    """Pairs of labels that touch along a side."""
    pairs = [
        np.stack([a.ravel(), b.ravel()], 1)
        for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1]))
    ]
    together = np.concatenate(pairs).astype(np.int64)
    return np.unique(np.sort(together[together[:, 0] != together[:, 1]], 1), axis=0)
