"""Where tiles lie along each axis, and how far each is trusted near its border.

- "gaussian": a bell over the tile, sigma an eighth of its side (as nnU-Net and MONAI do). No seams.
- "constant": all the same.
- "crop": the tile whose border is farther away has all the weight, so that the others are a halo around it.
  Where half the overlap covers the radius of the receptive field, the result is exactly that of the whole
  image, provided that tiles start at multiples of the network's stride (`align`).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Blend = Literal["gaussian", "constant", "crop"]
Size = tuple[int, ...]


class Interval(NamedTuple):
    """One tile along one axis.

    Attributes:
        start: first pixel.
        stop: behind the last one.
        weight: one per pixel; those of all tiles at one pixel add up to 1.
        own: first pixel, and behind the last, that no other tile's middle is nearer to.
    """

    start: int
    stop: int
    weight: Float[Tensor, " _"]
    own: tuple[int, int]


def grid(
    image_size: Sequence[int], size: Size, overlap: int | Size, blend: Blend, align: int = 1
) -> list[list[Interval]]:
    """The tiles along each axis; all combinations of them are the tiles.

    Args:
        image_size: extent of the image along each axis in pixels.
        size: of a tile; smaller images are one tile.
        overlap: pixels that neighbours share at least, for all axes or for each.
        blend: see the top of this file.
        align: tiles start at multiples of it, where the tile less its overlap has room for that; the last
            tile is up to `align` - 1 pixels longer then.

    Raises:
        ValueError: if the overlap is not smaller than the tile, the blend is unknown, or the image has
            another number of axes.

    >>> [(tile.start, tile.stop) for tile in grid((70,), (32,), 8, "crop", align=4)[0]]
    [(0, 32), (24, 56), (36, 70)]
    """
    check(size, overlap, blend)
    if len(image_size) != len(size):
        raise ValueError(f"tiles of {len(size)} axes do not fit an image of {len(image_size)}")
    return [
        _intervals(length, side, shared, blend, align)
        for length, side, shared in zip(image_size, size, _each(overlap, size), strict=True)
    ]


def at(place: Sequence[slice]) -> tuple[Any, ...]:
    """The index of a part along the last axes of an array or tensor."""
    return (..., *place)


def check(size: Size, overlap: int | Size, blend: str) -> None:
    """Refuse tiles that make no sense.

    Raises:
        ValueError: if the blend is unknown or an overlap is not smaller than its tile.
    """
    if blend not in get_args(Blend):
        raise ValueError(f"blend must be one of {', '.join(get_args(Blend))}, got {blend!r}")
    for side, shared in zip(size, _each(overlap, size), strict=True):
        if not 0 <= shared < side:
            raise ValueError(
                f"the overlap must be at least 0 and smaller than the tile, got {shared} of {side}"
            )


def _each(overlap: int | Size, size: Size) -> Size:
    return (overlap,) * len(size) if isinstance(overlap, int) else overlap


def _intervals(length: int, side: int, overlap: int, blend: Blend, align: int) -> list[Interval]:
    """Tiles that cover `length` pixels; the last one is moved back to end with the image."""
    align = min(align, side - overlap)
    step = (side - overlap) // align * align
    last = max(0, length - side) // align * align
    starts = [*range(0, last, step), last]
    stops = [*(start + side for start in starts[:-1]), length]
    cuts = [0, *((stop + start) // 2 for stop, start in zip(stops, starts[1:], strict=False)), length]
    own = list(pairwise(cuts))
    weights = [_weight(stop - start, blend) for start, stop in zip(starts, stops, strict=True)]
    if blend == "crop":
        for start, weight, (first, end) in zip(starts, weights, own, strict=True):
            weight[:] = 0
            weight[first - start : end - start] = 1
    total = np.zeros(length)
    for start, stop, weight in zip(starts, stops, weights, strict=True):
        total[start:stop] += weight
    return [
        Interval(start, stop, torch.from_numpy((weight / total[start:stop]).astype(np.float32)), place)
        for start, stop, weight, place in zip(starts, stops, weights, own, strict=True)
    ]


def _weight(side: int, blend: Blend) -> Float[np.ndarray, " side"]:
    """How far each pixel of a tile is trusted."""
    if blend != "gaussian":
        return np.ones(side)
    distance = np.arange(side) - (side - 1) / 2
    weight: Float[np.ndarray, " side"] = np.exp(-0.5 * (distance / (side / 8)) ** 2)
    return weight
