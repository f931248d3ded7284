"""Polygons, drawn to run lengths and read from masks."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt32

from ..kernels.masks import bits, polygons as kernels

FARTHEST = 4e8  # pixels; fifths of a pixel are whole numbers of 32 bits


class Polygon(NamedTuple):
    """One outline with its holes; corners (x, y) lie at the corners of pixels.

    Attributes:
        outer: its corners, clockwise as seen in the image.
        holes: the corners of each hole, the other way round.
    """

    outer: Int64[np.ndarray, "p 2"]
    holes: tuple[Int64[np.ndarray, "_ 2"], ...]

    @property
    def rings(self) -> list[Int64[np.ndarray, " _"]]:
        """The outline and the holes as flat `[x0, y0, x1, y1, ...]`, as `from_polygons` takes them."""
        return [self.outer.ravel(), *(hole.ravel() for hole in self.holes)]


def rasterised(
    polygons: Sequence[Sequence[Any]], height: int, width: int, even_odd: bool
) -> tuple[UInt32[np.ndarray, " r"], Int64[np.ndarray, " n1"]]:
    """Counts and offsets of masks; see `RleMasks.from_polygons`."""
    if not all(isinstance(side, int | np.integer) and 0 <= side <= FARTHEST for side in (height, width)):
        raise ValueError(f"height and width must be whole numbers of pixels, got {height} and {width}"[:200])
    rings = [_ring(part, i) for i, parts in enumerate(polygons) for part in parts]
    points = np.concatenate(rings).reshape(-1, 2) if rings else np.zeros((0, 2))
    if not (np.abs(points) <= FARTHEST).all():
        raise ValueError(f"points of polygons must lie within {FARTHEST:.0e} pixels, got one that does not")
    starts = np.zeros(len(rings) + 1, np.int64)
    np.cumsum([len(ring) // 2 for ring in rings], out=starts[1:])
    groups = np.zeros(len(polygons) + 1, np.int64)
    np.cumsum([len(parts) for parts in polygons], out=groups[1:])
    if even_odd or len(rings) == len(polygons) == np.count_nonzero(np.diff(groups)):
        return kernels.rasterise(points, starts, groups, height, width)
    counts, offsets = kernels.rasterise(points, starts, np.arange(len(rings) + 1), height, width)
    return bits.unite(counts, offsets, groups, height, width)


def _ring(part: Any, i: int) -> Any:
    try:
        ring = np.asarray(part, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a polygon must be a list of numbers, mask {i} has {str(part)[:80]}") from error
    if ring.ndim != 1 or len(ring) % 2 or len(ring) < 6:
        raise ValueError(
            f"a polygon needs at least three points x, y in a flat list, mask {i} has shape {ring.shape}"
        )
    return ring


def outlines(mask: Bool[np.ndarray, "h w"], x: int, y: int) -> list[Polygon]:
    """The polygons of a mask whose first pixel lies at (x, y) of the image."""
    corners, starts, parents = kernels.trace(np.pad(mask.view(np.uint8), 1))
    rings = np.split(corners + np.array([x - 1, y - 1]), starts[1:-1])
    return [
        Polygon(rings[i], tuple(rings[hole] for hole in np.flatnonzero(parents == i)))
        for i in np.flatnonzero(parents < 0)
    ]
