"""Gaussian filtering of any number of values over the points of a permutohedral lattice, in linear time.

Every point gives its values to the d + 1 corners of its simplex (splat), the vertices exchange values with
their neighbours along d + 1 directions (blur), and every point collects from its corners again (slice);
neighbours that do not exist count as 0 (Adams, Baek and Davis, Eurographics 2010, Sec. 3).

The kernel is exp(-|f_i - f_j|^2 / 2) up to some percent; scale, order of the sums and the point's own share
are those of Kraehenbuehl and Koltun's code (NIPS 2011), so that results agree to rounding.
"""

import numpy as np
from jaxtyping import Float32

from ..compiling import kernel
from ..simd import WIDTH, add, every, load, multiply_add, store
from .lattice import Lattice


@kernel
def splat(
    values: np.ndarray,
    vertices: np.ndarray,
    weights: np.ndarray,
    first: int,
    count: int,
    at_vertices: np.ndarray,
) -> None:
    """Add `count` rows of values, those of the points from `first` on, to the rows of their vertices.

    Rows have a multiple of eight columns, here as in `blur` and `slice_rows`.
    """
    columns = values.shape[1]
    for i in range(count):
        for corner in range(vertices.shape[1]):
            row = np.int64(vertices[first + i, corner]) * columns
            weight = every(weights[first + i, corner])
            for c in range(0, columns, WIDTH):
                held = load(at_vertices, row + c)
                store(at_vertices, row + c, multiply_add(weight, load(values, i * columns + c), held))


@kernel
def blur(
    at_vertices: np.ndarray, first_row: int, members: np.ndarray, starts: np.ndarray, start: int, stop: int
) -> None:
    """In the chains from `start` to `stop` each vertex gets half of its two neighbours' values added.

    Args:
        at_vertices: what the vertices hold, changed in place.
        first_row: row of vertex 0.
        members: vertices of all chains.
        starts: where chains start among the members.
        start: first chain.
        stop: first chain that is left out.
    """
    columns = at_vertices.shape[1]
    half = every(np.float32(0.5))
    for chain in range(start, stop):
        head, end = starts[chain], starts[chain + 1]
        for c in range(0, columns, WIDTH):
            place = (first_row + np.int64(members[head])) * columns + c
            before, here = every(np.float32(0)), load(at_vertices, place)
            for member in range(head + 1, end):
                next_place = (first_row + np.int64(members[member])) * columns + c
                behind = load(at_vertices, next_place)
                store(at_vertices, place, multiply_add(half, add(before, behind), here))
                before, here, place = here, behind, next_place
            store(at_vertices, place, multiply_add(half, before, here))


@kernel
def slice_rows(
    at_vertices: np.ndarray,
    vertices: np.ndarray,
    weights: np.ndarray,
    factors: np.ndarray,
    first: int,
    count: int,
    values: np.ndarray,
) -> None:
    """Add to `count` rows what the points from `first` on collect from their corners, times a factor each."""
    columns, corners = values.shape[1], vertices.shape[1]
    in_threes = columns - columns % (3 * WIDTH)
    for i in range(count):
        # Three sums at once keep the machine busy while one waits for the last product.
        for c in range(0, in_threes, 3 * WIDTH):
            place = i * columns + c
            one, two = load(values, place), load(values, place + WIDTH)
            three = load(values, place + 2 * WIDTH)
            for corner in range(corners):
                row = np.int64(vertices[first + i, corner]) * columns + c
                weight = every(weights[first + i, corner] * factors[corner])
                one = multiply_add(weight, load(at_vertices, row), one)
                two = multiply_add(weight, load(at_vertices, row + WIDTH), two)
                three = multiply_add(weight, load(at_vertices, row + 2 * WIDTH), three)
            store(values, place, one)
            store(values, place + WIDTH, two)
            store(values, place + 2 * WIDTH, three)
        for c in range(in_threes, columns, WIDTH):
            place = i * columns + c
            one = load(values, place)
            for corner in range(corners):
                row = np.int64(vertices[first + i, corner]) * columns + c
                weight = every(weights[first + i, corner] * factors[corner])
                one = multiply_add(weight, load(at_vertices, row), one)
            store(values, place, one)


def aligned(rows: int, columns: int) -> Float32[np.ndarray, "rows columns"]:
    """Zeros that start at a line of the cache."""
    raw = np.zeros(rows * columns + 16, np.float32)
    skipped = (-raw.ctypes.data // 4) % 16
    return raw[skipped : skipped + rows * columns].reshape(rows, columns)


@kernel
def _sums(
    vertices: np.ndarray,
    weights: np.ndarray,
    members: np.ndarray,
    starts: np.ndarray,
    num_vertices: int,
    scale: np.float32,
) -> np.ndarray:
    n, corners = vertices.shape
    held = np.zeros(num_vertices, np.float32)
    for i in range(n):
        for corner in range(corners):
            held[vertices[i, corner]] += weights[i, corner]
    for chain in range(starts.size - 1):
        before = np.float32(0)
        for member in range(starts[chain], starts[chain + 1]):
            here = held[members[member]]
            behind = np.float32(0)
            if member + 1 < starts[chain + 1]:
                behind = held[members[member + 1]]
            held[members[member]] = here + np.float32(0.5) * (before + behind)
            before = here
    sums = np.empty(n, np.float32)
    for i in range(n):
        collected = np.float32(0)
        for corner in range(corners):
            collected += weights[i, corner] * held[vertices[i, corner]]
        sums[i] = collected * scale
    return sums


def kernel_sums(lattice: Lattice) -> Float32[np.ndarray, " n"]:
    """sum_j k(f_i, f_j) for every point i: `lattice_filter` of ones, in a fraction of its time."""
    vertices, weights, members, starts, _, num_vertices = lattice
    return _sums(vertices, weights, members, starts, num_vertices, np.float32(lattice.scale))


def gathered(
    lattice: Lattice, values: Float32[np.ndarray, "n p"], *, transposed: bool = False
) -> Float32[np.ndarray, "m columns"]:
    """What the vertices hold after splat and blur; columns from p on are 0.

    Args:
        lattice: of the points.
        values: any number of columns per point.
        transposed: whether to blur along the last direction first.
    """
    n, p = values.shape
    columns = -(-p // WIDTH) * WIDTH
    at_vertices = aligned(lattice.num_vertices, columns)
    if columns > p or not values.flags.c_contiguous or values.dtype != np.float32:
        padded = aligned(n, columns)
        padded[:, :p] = values
        values = padded
    splat(values, lattice.vertices, lattice.weights, 0, n, at_vertices)
    corners = lattice.vertices.shape[1]
    for direction in range(corners - 1, -1, -1) if transposed else range(corners):
        start, stop = lattice.direction_starts[direction : direction + 2]
        blur(at_vertices, 0, lattice.chain_members, lattice.chain_starts, start, stop)
    return at_vertices


def lattice_filter(
    lattice: Lattice, values: Float32[np.ndarray, "n p"], *, transposed: bool = False
) -> Float32[np.ndarray, "n p"]:
    """sum_j k(f_i, f_j) value_j for every point i, its own value among them.

    Args:
        lattice: of the points.
        values: any number of columns per point.
        transposed: whether to filter with the transposed matrix. It differs a little: what is blurred along
            one direction after the other depends on their order where vertices are missing.

    Raises:
        ValueError: if there is not one row of values per point.

    >>> from pixelwise.kernels.classical.lattice import build_lattice
    >>> lattice = build_lattice(np.array([[0.0, 100.0]], np.float32))
    >>> lattice_filter(lattice, np.array([[3.0], [6.0]], np.float32)).round(2).tolist()  # far apart
    [[2.5], [4.5]]
    """
    n, p = values.shape
    if n != len(lattice.vertices):
        raise ValueError(f"the lattice has {len(lattice.vertices)} points, the values have {n} rows")
    at_vertices = gathered(lattice, values, transposed=transposed)
    filtered = aligned(n, at_vertices.shape[1])
    factors = np.full(lattice.vertices.shape[1], lattice.scale, np.float32)
    slice_rows(at_vertices, lattice.vertices, lattice.weights, factors, 0, n, filtered)
    return np.ascontiguousarray(filtered[:, :p])
