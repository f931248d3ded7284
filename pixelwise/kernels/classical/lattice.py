"""Places points in a permutohedral lattice, for Gaussian filtering in any number of dimensions.

The lattice of Adams, Baek and Davis ("Fast high-dimensional filtering using the permutohedral lattice",
Eurographics 2010) cuts the space of d features into simplices with d + 1 corners each. Only vertices that
are a corner of some point's simplex exist. `lattice_filter` holds what is done on them.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt64

from ..compiling import kernel

# Beyond it a float32 does not tell the corners of a simplex apart.
_LARGEST_FEATURE = 1e5
_BLOCK = 64
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Lattice(NamedTuple):
    """Where points lie among the vertices of a permutohedral lattice, and how these hang together.

    Along each of d + 1 directions the vertices form chains of neighbours; those without any are in no chain.

    Attributes:
        vertices: the d + 1 corners of the simplex around each point, numbers below `num_vertices`.
        weights: barycentric coordinates of the point among them; they sum to 1.
        chain_members: vertices of all chains, one chain after the other.
        chain_starts: where each chain starts in `chain_members`, and at the end its length.
        direction_starts: where each direction starts in `chain_starts`, and at the end the number of chains.
        num_vertices: m.
    """

    vertices: Int32[np.ndarray, "n corners"]
    weights: Float32[np.ndarray, "n corners"]
    chain_members: Int32[np.ndarray, "_"]
    chain_starts: Int64[np.ndarray, "_"]
    direction_starts: Int64[np.ndarray, "_"]
    num_vertices: int

    @property
    def scale(self) -> float:
        """What a filtered value is multiplied by: 1 / (1 + 2^-d)."""
        return 1 / (1 + 2.0 ** (1 - self.vertices.shape[1]))


def build_lattice(features: Float32[np.ndarray, "d n"], groups: int = 1) -> Lattice:
    """Place points in a lattice of the vertices that they touch, numbered in the order of the points.

    Args:
        features: coordinates in units of the kernel's standard deviation.
        groups: number of equal parts of the points that shall not see each other (images of a batch).

    Raises:
        ValueError: if a feature is not finite or so large that float32 cannot place it.

    >>> lattice = build_lattice(np.zeros((2, 4), np.float32))
    >>> lattice.vertices[0].tolist(), lattice.weights[0].tolist(), lattice.num_vertices
    ([0, 1, 2], [1.0, 0.0, 0.0], 3)
    """
    d, n = features.shape
    low, high = feature_bounds(features)
    scales = elevation(d)
    multipliers = key_multipliers(low, high, scales, groups)
    vertices = np.empty((n, d + 1), np.int32)
    weights = np.empty((n, d + 1), np.float32)
    keys, table = _place(
        np.ascontiguousarray(features, np.float32), scales, multipliers, n // groups, vertices, weights
    )
    return Lattice(vertices, weights, *_find_chains(keys, table, multipliers), len(keys))


def feature_bounds(
    features: Float32[np.ndarray, "d n"],
) -> tuple[Float32[np.ndarray, " d"], Float32[np.ndarray, " d"]]:
    """Smallest and largest value of every feature.

    Raises:
        ValueError: if there is none, or one is not finite or too large.
    """
    if not features.size:
        raise ValueError(f"a lattice needs at least one point and one feature, got shape {features.shape}")
    low, high = features.min(1), features.max(1)
    if not (np.abs(low) <= _LARGEST_FEATURE).all() or not (np.abs(high) <= _LARGEST_FEATURE).all():
        raise ValueError(
            f"features over their standard deviations must be numbers within {_LARGEST_FEATURE:g}, "
            f"got {low.min():g} to {high.max():g}: choose larger scales"
        )
    return low, high


def elevation(d: int) -> Float32[np.ndarray, " d"]:
    """Scales of the map from d features to the plane of d + 1 lattice coordinates (Adams et al., Sec. 3).

    They make the blur as wide as the kernel of standard deviation 1.
    """
    i = np.arange(d)
    width = np.float32(np.sqrt(2 / 3) * (d + 1))
    scales: Float32[np.ndarray, " d"] = (1 / np.sqrt((i + 2.0) * (i + 1.0)) * width).astype(np.float32)
    return scales


def key_multipliers(
    low: Float32[np.ndarray, " d"],
    high: Float32[np.ndarray, " d"],
    scales: Float32[np.ndarray, " d"],
    groups: int,
) -> UInt64[np.ndarray, "_"]:
    """Factors of the coordinates and of the group whose products sum to the key of a vertex, modulo 2^64.

    They are the digits' values of a number with mixed radix, if the points' bounding box is small enough;
    for boxes of more than 2^64 vertices they are odd random numbers, and two of a million vertices meet with
    a probability of 3e-8.
    """
    d = len(scales)
    ends = np.sort(np.stack([low, high]).astype(np.float64) * scales, axis=0)  # 2 d
    corners = np.arange(1, d + 1)
    # Elevated coordinate j is the sum of the scaled features from j on, less j times the one before.
    after = np.concatenate([np.cumsum(ends[:, ::-1], axis=1)[:, ::-1], np.zeros((2, 1))], axis=1)
    lowest = np.concatenate([after[0, :1], after[0, 1:] - corners * ends[1]])
    highest = np.concatenate([after[1, :1], after[1, 1:] - corners * ends[0]])
    widths = [int(width) + 8 * (d + 1) for width in (highest - lowest)[:d]]
    values = [1]
    for width in widths:
        values.append(values[-1] * width)
    if values[-1] * groups >= 2**63:
        random = np.random.default_rng(0)
        values = [int(number) | 1 for number in random.integers(0, 2**63, d + 1)]
    return np.array(values, dtype=np.uint64)


@kernel
def _slot(keys: np.ndarray, table: np.ndarray, key: Any) -> Any:
    """Where a key stands in the hash table, or the free place where it belongs."""
    mask = np.uint64(table.size - 1)
    slot = (key * _GOLDEN) >> np.uint64(32)
    while True:
        place = np.int64(slot & mask)
        vertex = table[place]
        if vertex < 0 or keys[vertex] == key:
            return place
        slot += np.uint64(1)


@kernel
def _grown(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Twice the room for keys, and a new hash table of those that are there."""
    more = np.empty(2 * keys.size, np.uint64)
    more[: keys.size] = keys
    table = np.full(4 * keys.size, -1, np.int32)
    for vertex in range(keys.size):
        table[_slot(more, table, keys[vertex])] = vertex
    return more, table


@kernel
def _place(
    features: np.ndarray,
    scales: np.ndarray,
    multipliers: np.ndarray,
    group_size: int,
    vertices: np.ndarray,
    weights: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Fill vertices and weights; gives the keys of the vertices and their hash table."""
    d, n = features.shape
    corners = d + 1
    table = np.full(1 << 14, -1, np.int32)
    keys = np.empty(table.size // 2, np.uint64)
    count = 0
    whole = np.float32(1) / np.float32(corners)
    ones = np.uint64(0)  # what a step of 1 along every coordinate does to a key
    for i in range(d):
        ones += multipliers[i]
    # A block of points at once: its loops over the points become vector instructions.
    elevated = np.empty((corners, _BLOCK), np.float32)
    origin = np.empty((corners, _BLOCK), np.int32)  # the corner whose coordinates are multiples of d + 1
    rest = np.empty((corners, _BLOCK), np.float32)  # the point less that corner
    rank = np.empty((corners, _BLOCK), np.int32)  # place of each coordinate, the largest rest first
    running = np.empty(_BLOCK, np.float32)
    excess = np.empty(_BLOCK, np.int32)
    at_rank = np.empty(corners, np.int64)
    last_rank = np.full(corners, -1, np.int32)
    last_origin = np.zeros(corners, np.int32)
    found = np.zeros(corners, np.int32)
    for first in range(0, n, _BLOCK):
        size = min(_BLOCK, n - first)
        # Up to the plane where coordinates sum to 0.
        running[:] = 0
        excess[:] = 0
        rank[:] = 0
        for j in range(d, 0, -1):
            scale, corner_factor = scales[j - 1], np.float32(j)
            for p in range(size):
                scaled = features[j - 1, first + p] * scale
                elevated[j, p] = running[p] - corner_factor * scaled
                running[p] += scaled
        elevated[0] = running
        # The nearest multiples of d + 1, and the order of what is left.
        for i in range(corners):
            for p in range(size):
                nearest = np.rint(elevated[i, p] * whole)
                rest[i, p] = elevated[i, p] - nearest * np.float32(corners)
                origin[i, p] = np.int32(nearest) * np.int32(corners)
                excess[p] += np.int32(nearest)
        for i in range(d):
            for j in range(i + 1, corners):
                for p in range(size):
                    behind = np.int32(rest[i, p] < rest[j, p])
                    rank[i, p] += behind
                    rank[j, p] += np.int32(1) - behind
        # Back to the plane where rounding left it.
        for i in range(corners):
            for p in range(size):
                place = rank[i, p] + excess[p]
                moved = np.int32(0)
                if place < 0:
                    moved = np.int32(corners)
                if place > d:
                    moved = np.int32(-corners)
                rank[i, p] = place + moved
                origin[i, p] += moved
                rest[i, p] = (elevated[i, p] - np.float32(origin[i, p])) * whole
        for p in range(size):
            point = first + p
            same = point % group_size != 0
            for i in range(corners):
                at_rank[rank[i, p]] = i
                same = same and rank[i, p] == last_rank[i] and origin[i, p] == last_origin[i]
            # Barycentric coordinates are differences of neighbours in that order.
            weights[point, 0] = rest[at_rank[d], p] + (np.float32(1) - rest[at_rank[0], p])
            for corner in range(1, corners):
                weights[point, corner] = rest[at_rank[d - corner], p] - rest[at_rank[corners - corner], p]
            if not same:  # neighbouring points often share their simplex
                key = np.uint64(point // group_size) * multipliers[d]
                for i in range(corners):
                    last_rank[i], last_origin[i] = rank[i, p], origin[i, p]
                for i in range(d):
                    key += np.uint64(np.int64(origin[i, p])) * multipliers[i]
                for corner in range(corners):
                    place = _slot(keys, table, key)
                    if table[place] < 0:
                        if count == keys.size:
                            keys, table = _grown(keys)
                            place = _slot(keys, table, key)
                        table[place] = count
                        keys[count] = key
                        count += 1
                    found[corner] = table[place]
                    # To the next corner: 1 more in every coordinate, d less in the next of the order.
                    key += ones
                    if at_rank[d - corner] < d:
                        key -= np.uint64(corners) * multipliers[at_rank[d - corner]]
            for corner in range(corners):
                vertices[point, corner] = found[corner]
    return keys[:count].copy(), table


@kernel
def _find_chains(
    keys: np.ndarray, table: np.ndarray, multipliers: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step along direction j is -d in coordinate j and +1 in all others."""
    m, d = keys.size, multipliers.size - 1
    members = np.empty((d + 1) * m, np.int32)
    starts = np.empty((d + 1) * m // 2 + 1, np.int64)
    direction_starts = np.zeros(d + 2, np.int64)
    behind = np.empty(m, np.int32)
    is_behind = np.empty(m, np.bool_)
    ones = np.uint64(0)
    for i in range(d):
        ones += multipliers[i]
    num_members = num_chains = 0
    for j in range(d + 1):
        step = ones
        if j < d:
            step -= np.uint64(d + 1) * multipliers[j]
        is_behind[:] = False
        for vertex in range(m):
            other = table[_slot(keys, table, keys[vertex] + step)]
            behind[vertex] = other
            if other >= 0:
                is_behind[other] = True
        for vertex in range(m):
            if is_behind[vertex] or behind[vertex] < 0:
                continue
            starts[num_chains] = num_members
            num_chains += 1
            member = np.int32(vertex)
            while member >= 0:
                members[num_members] = member
                num_members += 1
                member = behind[member]
        direction_starts[j + 1] = num_chains
    starts[num_chains] = num_members
    return members[:num_members].copy(), starts[: num_chains + 1].copy(), direction_starts
