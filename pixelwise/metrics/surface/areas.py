"""How much surface there is around a corner where cells inside and outside of a mask meet.

In the plane it is the line of marching squares, in space the surface of marching cubes (Lorensen and Cline,
SIGGRAPH 1987), worked out here from its geometry: on every face of the cube around the corner, segments
join the middles of the edges between cells that differ; the rarer kind of cells (those inside, if there are
as many of both) is kept apart where a face has two ways; the segments close to loops; and a loop that is
not flat is cut into the triangles of the largest area. These are the areas that the tables of DeepMind's
surface-distance hold.
"""

import itertools
import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int64

Point = tuple[float, float, float]
Triangle = tuple[Point, Point, Point]


@lru_cache(maxsize=64)
def element_areas(spacing: tuple[float, ...]) -> Float64[np.ndarray, " codes"]:
    """Length (two axes) or area (three) of the surface element of each code of `surface_distances_between`.

    Args:
        spacing: length of a cell along each axis.

    Returns:
        One number for each of the 16 or 256 codes, in the unit of `spacing`, or that squared.

    >>> element_areas((3.0, 4.0))[[0, 1, 3, 5, 6]].tolist()
    [0.0, 2.5, 4.0, 3.0, 5.0]
    """
    if len(spacing) == 2:
        vertical, horizontal = spacing
        corner = float(np.hypot(vertical, horizontal)) / 2
        first_half = [0.0, corner, corner, horizontal, corner, vertical, 2 * corner, corner]
        return np.array(first_half + first_half[::-1])
    codes, normals = _normals()
    z, y, x = spacing
    areas = np.linalg.norm(normals * [y * x, z * x, z * y], axis=1)
    return np.bincount(codes, areas, minlength=256)


@lru_cache(maxsize=1)
def _normals() -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, "n 3"]]:
    """The triangles of a cube of side 1: the code of each, and its normal, as long as its area."""
    codes, normals = [], []
    for code in range(1, 128):  # the others are their complements and have the same surface
        inside = np.array([code >> bit & 1 for bit in range(7, -1, -1)], bool).reshape(2, 2, 2)
        for loop in _loops(inside if inside.sum() <= 4 else ~inside):
            cuts = [[_normal(triangle) for triangle in cut] for cut in _cuts(loop)]
            largest = max(cuts, key=lambda cut: sum(math.hypot(*normal) for normal in cut))
            codes += [code] * len(largest)
            normals += largest
    complements = [255 - code for code in codes]
    return np.array(codes + complements), np.array(normals + normals)


def _loops(inside: np.ndarray) -> Iterator[list[Point]]:
    """Closed lines over the faces of the cube, around the cells inside."""
    neighbours: dict[Point, list[Point]] = {}
    for axis, side in itertools.product(range(3), range(2)):
        ring = [np.insert(corner, axis, side) for corner in ([0, 0], [0, 1], [1, 1], [1, 0])]
        marks = [bool(inside[tuple(corner)]) for corner in ring]
        middles = [
            _point(ring[i] + ring[i - 1]) for i in range(4)
        ]  # of the edge from corner i - 1 to corner i
        crossed = [i for i in range(4) if marks[i] != marks[i - 1]]
        if len(crossed) == 4:
            ends = [(i, (i + 1) % 4) for i in range(4) if marks[i]]
        else:
            ends = [(crossed[0], crossed[1])] if crossed else []
        for one, other in ends:
            neighbours.setdefault(middles[one], []).append(middles[other])
            neighbours.setdefault(middles[other], []).append(middles[one])
    while neighbours:
        start = next(iter(neighbours))
        loop, following = [], [start]
        while following:
            loop.append(following[0])
            following = [point for point in neighbours.pop(loop[-1]) if point in neighbours]
        yield loop


def _cuts(loop: list[Point]) -> list[list[Triangle]]:
    """All ways to cut a loop into triangles between its points."""
    if len(loop) < 3:
        return [[]]
    return [
        [*left, *right, (loop[0], loop[apex], loop[-1])]
        for apex in range(1, len(loop) - 1)
        for left in _cuts(loop[: apex + 1])
        for right in _cuts(loop[apex:])
    ]


def _normal(triangle: Triangle) -> Point:
    """Half the cross product of two sides."""
    a, b, c = triangle
    (z, y, x), (v, u, t) = ([p - q for p, q in zip(end, a, strict=True)] for end in (b, c))
    return (y * t - x * u) / 2, (x * v - z * t) / 2, (z * u - y * v) / 2


def _point(twice: np.ndarray) -> Point:
    z, y, x = twice / 2
    return float(z), float(y), float(x)
