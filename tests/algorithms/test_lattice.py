"""The permutohedral lattice beside a plain reference, and beside the Gaussian that it stands for."""

from itertools import pairwise

import numpy as np
import pytest

from pixelwise.kernels.classical.lattice import Lattice, build_lattice
from pixelwise.kernels.classical.lattice_filter import kernel_sums, lattice_filter
from pixelwise.kernels.compiling import kernel
from pixelwise.kernels.simd import WIDTH, exponential, load, store


def plain_simplex(point: np.ndarray) -> tuple[list[tuple[int, ...]], list[float]]:
    """Corners and barycentric coordinates of one point (Adams et al., Sec. 3), in float32."""
    d = len(point)
    i = np.arange(d)
    scales = (1 / np.sqrt((i + 2.0) * (i + 1.0)) * np.float32(np.sqrt(2 / 3) * (d + 1))).astype(np.float32)
    elevated = np.zeros(d + 1, np.float32)
    running = np.float32(0)
    for j in range(d, 0, -1):
        scaled = point[j - 1] * scales[j - 1]
        elevated[j] = running - np.float32(j) * scaled
        running += scaled
    elevated[0] = running
    nearest = np.rint(elevated * np.float32(1 / np.float32(d + 1)))
    order = np.argsort(-(elevated - nearest * (d + 1)), kind="stable")
    rank = np.empty(d + 1, int)
    rank[order] = np.arange(d + 1)
    origin = nearest.astype(int) * (d + 1)
    rank += int(nearest.sum())
    for wrong, moved in ((rank < 0, d + 1), (rank > d, -d - 1)):
        rank[wrong] += moved
        origin[wrong] += moved
    rest = (elevated - origin) / (d + 1)
    bary = np.zeros(d + 2)
    for coordinate, place in enumerate(rank):
        bary[d - place] += rest[coordinate]
        bary[d + 1 - place] -= rest[coordinate]
    bary[0] += 1 + bary[d + 1]
    corners = [
        tuple(int(o) + (c if r <= d - c else c - d - 1) for o, r in zip(origin, rank, strict=True))
        for c in range(d + 1)
    ]
    return corners, bary[: d + 1].tolist()


def plain_filter(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Splat, blur and slice with dictionaries."""
    d = len(features)
    places = [plain_simplex(point) for point in features.T]
    held: dict[tuple[int, ...], np.ndarray] = {}
    for (corners, bary), value in zip(places, values, strict=True):
        for corner, share in zip(corners, bary, strict=True):
            held[corner] = held.get(corner, 0) + share * value
    for direction in range(d + 1):
        step = [1] * (d + 1)
        step[direction] = -d
        held = {
            corner: own
            + sum(
                held.get(tuple(c + sign * s for c, s in zip(corner, step, strict=True)), 0)
                for sign in (-1, 1)
            )
            / 2
            for corner, own in held.items()
        }
    scale = 1 / (1 + 2.0**-d)
    return np.array(
        [
            scale * sum(share * held[corner] for corner, share in zip(corners, bary, strict=True))
            for corners, bary in places
        ]
    )


def points(d: int, n: int, spread: float = 2.0) -> np.ndarray:
    return (spread * np.random.default_rng(d).normal(size=(d, n))).astype(np.float32)


@pytest.mark.parametrize("d", [1, 2, 3, 5, 6, 11])
@pytest.mark.parametrize("columns", [1, 8, 21, 40])
def test_filtering_is_that_of_the_plain_reference(d: int, columns: int) -> None:
    features = points(d, 70)
    values = np.random.default_rng(1).normal(size=(70, columns)).astype(np.float32)
    found = lattice_filter(build_lattice(features), values)
    np.testing.assert_allclose(found, plain_filter(features, values), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("d", [1, 5])
def test_sums_of_the_kernel_are_filtered_ones(d: int) -> None:
    lattice = build_lattice(points(d, 300))
    expected = lattice_filter(lattice, np.ones((300, 1), np.float32))[:, 0]
    np.testing.assert_allclose(kernel_sums(lattice), expected, rtol=1e-5)


def test_every_point_is_the_barycentre_of_its_corners() -> None:
    features = points(4, 500)
    lattice = build_lattice(features)
    assert lattice.weights.min() > -1e-5
    np.testing.assert_allclose(lattice.weights.sum(1), 1, atol=1e-5)
    keys: dict[int, tuple[int, ...]] = {}
    for point, vertices, weights in zip(features.T, lattice.vertices, lattice.weights, strict=True):
        corners, bary = plain_simplex(point)
        np.testing.assert_allclose(weights, bary, atol=1e-5)
        for vertex, corner in zip(vertices.tolist(), corners, strict=True):
            assert keys.setdefault(vertex, corner) == corner
    assert len(set(keys.values())) == len(keys) == lattice.num_vertices


def neighbours_of(lattice: Lattice) -> set[tuple[int, int, int]]:
    """(direction, vertex, next vertex) from the chains."""
    found = set()
    for direction in range(lattice.vertices.shape[1]):
        for chain in range(*lattice.direction_starts[direction : direction + 2]):
            members = lattice.chain_members[slice(*lattice.chain_starts[chain : chain + 2])].tolist()
            assert len(members) >= 2
            found |= {(direction, *pair) for pair in pairwise(members)}
    return found


def test_chains_hold_every_pair_of_neighbours_once() -> None:
    features = points(2, 300)
    lattice = build_lattice(features)
    corner_of: dict[int, tuple[int, ...]] = {}
    for point, vertices in zip(features.T, lattice.vertices.tolist(), strict=True):
        corner_of |= dict(zip(vertices, plain_simplex(point)[0], strict=True))
    vertex_of = {corner: vertex for vertex, corner in corner_of.items()}
    expected = set()
    for direction in range(3):
        step = [1, 1, 1]
        step[direction] = -2
        for vertex, corner in corner_of.items():
            other = vertex_of.get(tuple(c + s for c, s in zip(corner, step, strict=True)))
            if other is not None:
                expected.add((direction, vertex, other))
    assert neighbours_of(lattice) == expected


def test_more_vertices_than_the_first_hash_table_holds_are_all_found() -> None:
    lattice = build_lattice(points(5, 20_000, spread=50.0))
    assert lattice.num_vertices > 50_000
    assert lattice.vertices.max() == lattice.num_vertices - 1
    first_seen = np.unique(lattice.vertices, return_index=True)[1]
    assert (np.diff(first_seen) > 0).all()  # numbered in the order of the points


def test_points_of_other_groups_are_not_seen() -> None:
    features = points(3, 50)
    values = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    together = lattice_filter(build_lattice(np.concatenate([features, features], 1), groups=2), values)
    lattice = build_lattice(features)
    apart = [lattice_filter(lattice, half) for half in (values[:50], values[50:])]
    np.testing.assert_array_equal(together, np.concatenate(apart))


@pytest.mark.parametrize("d", [2, 5])
def test_the_transposed_filter_is_the_adjoint(d: int) -> None:
    random = np.random.default_rng(0)
    lattice = build_lattice(points(d, 200))
    a, b = random.normal(size=(2, 200, 3)).astype(np.float32)
    forward = (a * lattice_filter(lattice, b)).sum()
    assert forward == pytest.approx((lattice_filter(lattice, a, transposed=True) * b).sum(), rel=1e-4)


@pytest.mark.parametrize(("color", "error"), [(None, 0.02), (25.0, 0.04)])
def test_normalised_filtering_is_close_to_the_exact_gaussian(color: float | None, error: float) -> None:
    y, x = np.mgrid[:20, :30].astype(np.float32)
    if color is None:
        features = np.stack([x / 3, y / 3])
    else:
        features = np.stack([x / 9, y / 9, (x * 37 % 23 + 120 * (x > 15)) / color, (y * 29 % 19) / color])
    features = features.reshape(len(features), -1).astype(np.float32)
    values = np.random.default_rng(0).random((features.shape[1], 3)).astype(np.float32)
    wide = features.astype(np.float64)
    kernel_matrix = np.exp(-((wide[:, :, None] - wide[:, None]) ** 2).sum(0) / 2)
    exact = kernel_matrix @ values / kernel_matrix.sum(1)[:, None]
    lattice = build_lattice(features)
    found = lattice_filter(lattice, values) / lattice_filter(lattice, np.ones_like(values))
    assert np.sqrt(((found - exact) ** 2).mean()) / np.sqrt((exact**2).mean()) < error


def test_bad_features_are_named() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        build_lattice(np.zeros((2, 0), np.float32))
    for wrong in (np.nan, np.inf, 1e9):
        with pytest.raises(ValueError, match="choose larger scales"):
            build_lattice(np.array([[0, wrong]], np.float32))
    with pytest.raises(ValueError, match="2 points, the values have 3"):
        lattice_filter(build_lattice(np.zeros((1, 2), np.float32)), np.zeros((3, 1), np.float32))


@kernel
def raise_all(numbers: np.ndarray) -> None:
    for start in range(0, numbers.size, WIDTH):
        store(numbers, start, exponential(load(numbers, start)))


def test_the_exponential_of_lanes_is_exact_to_rounding() -> None:
    numbers = np.concatenate([np.linspace(-100, 0, 8000), [-np.inf] * 8]).astype(np.float32)
    expected = np.where(numbers > -69, np.exp(numbers.astype(np.float64)), 0)
    raise_all(numbers)
    np.testing.assert_allclose(numbers, expected, rtol=2e-7, atol=0)
