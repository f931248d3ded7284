"""Normalised cuts (Shi and Malik, PAMI 2000) of a graph of pixels or of regions.

    Ncut(A, B) = cut(A, B) / assoc(A) + cut(A, B) / assoc(B)

is small where a graph falls into two parts of similar weight that have little to do with each other. Over
real numbers instead of two labels its minimum is the second smallest eigenvector of (D - W) y = lambda D y,
and lambda is a lower bound on every Ncut.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer

from .energy import pair_slices
from .images import ColorSpace, Image, colors_of
from .kmeans import kmeans_of_points
from .segmentation import Segmentation
from .superpixels import slic

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_DENSE = 400  # nodes up to which all eigenvalues are found at once
_STEPS = 3000


def normalized_cuts(
    image: Image,
    num_segments: int | None = None,
    *,
    nodes: Literal["regions", "pixels"] = "regions",
    num_regions: int = 300,
    threshold: float = 0.1,
    space: ColorSpace = "lab",
    color_scale: float = 10.0,
    radius: float = 5.0,
    position_scale: float = 4.0,
    seed: int = 0,
) -> Segmentation:
    """Segment an image by normalised cuts.

    Args:
        image: any number of channels for the space "rgb".
        num_segments: into how many parts, by k-means of the first eigenvectors (Sec. 3.4 "simultaneous cut");
            None cuts in two, and each part in two again, while the Ncut is below `threshold` (Sec. 3.1).
        nodes: "regions" cuts a graph of superpixels that touch; "pixels" one of pixels with an edge to each
            other within `radius`, which takes minutes above some 100,000 pixels.
        num_regions: about how many superpixels.
        threshold: of Ncut, in (0, 2).
        space: see `colors_of`.
        color_scale: difference in colour at which the affinity falls to exp(-1).
        radius: in pixels, for nodes="pixels".
        position_scale: distance in pixels at which the affinity falls to exp(-1), for nodes="pixels".
        seed: of the random numbers.

    Raises:
        ValueError: on an image or colour space that `colors_of` refuses, a number out of range, or where the
            eigenvectors are not found within 3000 steps.
    """
    colors = colors_of(image, space)
    if not 0 < color_scale < np.inf or not 0 < position_scale < np.inf or not 1 <= radius < np.inf:
        raise ValueError(
            "color_scale and position_scale must be above 0 and radius at least 1, got "
            f"{color_scale}, {position_scale} and {radius}"
        )
    if nodes == "regions":
        parts = slic(image, num_regions, space=space).label_map.labels.numpy()
        affinity = region_affinity(colors, parts, color_scale)
    elif nodes == "pixels":
        parts = np.arange(colors.shape[0] * colors.shape[1]).reshape(colors.shape[:2])
        affinity = pixel_affinity(colors, radius, color_scale, position_scale)
    else:
        raise ValueError(f"nodes must be regions or pixels, got {nodes!r}")
    if num_segments is None:
        labels = recursive_cut(affinity, threshold, seed=seed)
    else:
        labels = simultaneous_cut(affinity, num_segments, seed=seed)
    return Segmentation.of(labels[parts])


# --- graphs ---------------------------------------------------------------------------------------


def pixel_affinity(
    colors: Float64[np.ndarray, "H W c"], radius: float, color_scale: float, position_scale: float
) -> "csr_array":
    """exp(-|F_i - F_j|^2 / s_F^2 - |X_i - X_j|^2 / s_X^2) for pixels within `radius` (equation 11)."""
    from scipy.sparse import coo_array

    height, width = colors.shape[:2]
    ids = np.arange(height * width).reshape(height, width)
    reach = int(radius)
    rows, columns, weights = [ids.ravel()], [ids.ravel()], [np.ones(ids.size)]
    for down in range(reach + 1):
        for right in range(-reach, reach + 1):
            apart = down * down + right * right
            if (down == 0 and right <= 0) or apart > radius**2:
                continue
            first, second = pair_slices(height, width, (down, right))
            unlike = ((colors[first] - colors[second]) ** 2).sum(-1)
            weight = np.exp(-unlike / color_scale**2 - apart / position_scale**2).ravel()
            rows += [ids[first].ravel(), ids[second].ravel()]
            columns += [ids[second].ravel(), ids[first].ravel()]
            weights += [weight, weight]
    entries = np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))
    return coo_array(entries, shape=(ids.size, ids.size)).tocsr()


def region_affinity(
    colors: Float64[np.ndarray, "H W c"], labels: Integer[np.ndarray, "H W"], color_scale: float
) -> "csr_array":
    """exp(-|C_i - C_j|^2 / s^2) of the mean colours of regions that touch (8 neighbours), 1 on the diagonal.

    `labels` must be numbered from 0 without gaps.
    """
    from scipy.sparse import coo_array

    count = int(labels.max()) + 1
    flat = labels.ravel()
    sizes = np.bincount(flat, minlength=count)
    means = np.stack(
        [np.bincount(flat, colors[..., i].ravel(), count) / sizes for i in range(colors.shape[2])], axis=1
    )
    touching = [
        (labels[:, :-1], labels[:, 1:]),
        (labels[:-1], labels[1:]),
        (labels[:-1, :-1], labels[1:, 1:]),
        (labels[:-1, 1:], labels[1:, :-1]),
    ]
    codes = [np.minimum(a, b).ravel() * count + np.maximum(a, b).ravel() for a, b in touching]
    pairs = np.unique(np.concatenate(codes))
    first, second = pairs // count, pairs % count
    first, second = first[first != second], second[first != second]
    weights = np.exp(-((means[first] - means[second]) ** 2).sum(-1) / color_scale**2)
    own = np.arange(count)
    entries = (
        np.concatenate([np.ones(count), weights, weights]),
        (np.concatenate([own, first, second]), np.concatenate([own, second, first])),
    )
    return coo_array(entries, shape=(count, count)).tocsr()


# --- cuts -----------------------------------------------------------------------------------------


def ncut(affinity: "csr_array", side: Bool[np.ndarray, " n"]) -> float:
    """Ncut of the nodes where `side` is True against the others; infinite if one side is empty.

    >>> from scipy.sparse import csr_array
    >>> w = csr_array(np.array([[0, 3, 1], [3, 0, 0], [1, 0, 0]]))
    >>> ncut(w, np.array([True, True, False]))  # 1 / 7 + 1 / 1
    1.1428571428571428
    """
    degree = affinity.sum(1)
    inside = degree[side].sum()
    outside = degree.sum() - inside
    if inside == 0 or outside == 0:
        return float("inf")
    cut = float((affinity @ side.astype(np.float64))[~side].sum())
    return cut / float(inside) + cut / float(outside)


def best_cut(
    affinity: "csr_array", num_thresholds: int = 10, seed: int = 0
) -> tuple[Bool[np.ndarray, " n"], float]:
    """The two-way cut of least Ncut among even thresholds of the second eigenvector, and its Ncut."""
    vector = eigenvectors(affinity, 2, seed)[1][:, 1]
    low, high = vector.min(), vector.max()
    best = np.zeros(len(vector), dtype=bool), float("inf")
    if high - low <= 1e-10 * max(1.0, abs(high)):  # nothing to tell apart
        return best
    for threshold in np.linspace(low, high, num_thresholds, endpoint=False):
        side = vector > threshold
        cost = ncut(affinity, side)
        if cost < best[1]:
            best = side, cost
    return best


def recursive_cut(
    affinity: "csr_array", threshold: float, *, num_thresholds: int = 10, seed: int = 0
) -> Int64[np.ndarray, " n"]:
    """Cut a graph in two, and its parts again, while that costs less than `threshold`.

    Raises:
        ValueError: if the threshold is not in (0, 2).
    """
    if not 0 < threshold < 2:
        raise ValueError(f"the threshold of Ncut must be in (0, 2), got {threshold}")
    labels = np.zeros(affinity.shape[0], dtype=np.int64)
    todo, count = [np.arange(affinity.shape[0])], 0
    while todo:
        nodes = todo.pop()
        side, cost = np.zeros(len(nodes), dtype=bool), float("inf")
        if len(nodes) > 1:
            side, cost = best_cut(affinity[nodes][:, nodes], num_thresholds, seed)
        if cost < threshold:
            todo += [nodes[~side], nodes[side]]
        else:
            labels[nodes] = count
            count += 1
    return labels


def simultaneous_cut(affinity: "csr_array", num_segments: int, *, seed: int = 0) -> Int64[np.ndarray, " n"]:
    """Cut a graph into parts at once: k-means of the rows of the first eigenvectors, scaled to length 1.

    (The scaling is that of Ng, Jordan and Weiss, NIPS 2001.) Of five runs of k-means the best is taken.

    Raises:
        ValueError: if there are fewer nodes than parts.
    """
    n = affinity.shape[0]
    if not 1 <= num_segments <= n:
        raise ValueError(f"a graph of {n} nodes allows 1 to {n} segments, got {num_segments}")
    if num_segments == 1:
        return np.zeros(n, dtype=np.int64)
    rows = eigenvectors(affinity, num_segments, seed)[1]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    runs = [kmeans_of_points(rows, num_segments, seed=seed + run) for run in range(5)]
    return min(runs, key=lambda run: run.trace[-1]).labels


def eigenvectors(
    affinity: "csr_array", count: int, seed: int = 0
) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, "n m"]]:
    """The smallest eigenvalues of (D - W) y = lambda D y in ascending order, and their vectors y as columns.

    Found as the largest of D^-1/2 W D^-1/2, by Lanczos' method if the graph is large.

    Raises:
        ValueError: if Lanczos' method does not settle.
    """
    from scipy.linalg import eigh
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    n = affinity.shape[0]
    scale = 1 / np.sqrt(np.maximum(affinity.sum(1), 1e-300))
    normal = diags_array(scale) @ affinity @ diags_array(scale)
    # The largest is known: 1, of D^1/2 1. It is taken off, so that it cannot be mixed with a second 1, which
    # a graph has whose parts have nothing to do with each other.
    known = 1 / scale / np.linalg.norm(1 / scale)
    others = min(count, n) - 1
    if others == 0:
        values, vectors = np.empty(0), np.empty((n, 0))
    elif n <= max(_DENSE, count + 1):
        rest = normal.toarray() - np.outer(known, known)
        values, vectors = eigh(rest, subset_by_index=(n - others, n - 1))
    else:
        rest = LinearOperator((n, n), lambda x: normal @ x - known * (known @ x), dtype=np.float64)
        start = np.random.default_rng(seed).normal(size=n)
        try:
            values, vectors = eigsh(
                rest, others, which="LA", v0=start, ncv=min(n, 2 * count + 30), maxiter=_STEPS, tol=1e-6
            )
        except ArpackNoConvergence:
            raise ValueError(
                f"the eigenvectors of a graph of {n} nodes were not found within {_STEPS} steps: "
                "take larger scales, or regions instead of pixels"
            ) from None
    order = np.argsort(-values, kind="stable")
    vectors = np.column_stack([known, vectors[:, order]])
    return np.append(0.0, 1 - values[order]), vectors * scale[:, None]
