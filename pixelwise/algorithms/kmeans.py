"""k-means clustering of pixels by colour, or by colour and position (XYRGB)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from .images import ColorSpace, Image, colors_of, with_position
from .segmentation import Progress, Segmentation


@dataclass(frozen=True, eq=False)
class Clusters:
    """Points and the centres they belong to.

    Attributes:
        labels: of the points.
        centers: one row per cluster.
        trace: sum of squared distances of points to their centre before each step.
        converged: whether the last step changed nothing.
    """

    labels: Int64[np.ndarray, " n"]
    centers: Float64[np.ndarray, "k d"]
    trace: tuple[float, ...]
    converged: bool


def kmeans(
    image: Image,
    num_clusters: int,
    *,
    space: ColorSpace = "lab",
    position_weight: float = 0.0,
    max_steps: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> Segmentation:
    """Cluster pixels by k-means (Lloyd), begun by k-means++ (Arthur and Vassilvitskii, SODA 2007).

    The trace is the inertia: the sum of squared distances to the centres before each step.

    Args:
        image: any number of channels for the space "rgb".
        num_clusters: k, at most the number of pixels.
        space: see `colors_of`; distances are Euclidean there.
        position_weight: what a pixel of distance counts in units of the colour space; above 0 gives clusters
            in the five dimensions XYRGB, compact ones the higher it is.
        max_steps: after which it ends if nothing has come to rest.
        seed: of the random numbers.
        progress: called after each step.

    Raises:
        ValueError: on an image or colour space that `colors_of` refuses, or a number out of range.

    >>> image = np.array([[10, 12, 200, 205]], dtype=np.uint8)
    >>> labels = kmeans(image, 2, space="rgb").label_map.labels
    >>> labels[0, 0] == labels[0, 1], labels[0, 1] == labels[0, 2], labels[0, 2] == labels[0, 3]
    (tensor(True), tensor(False), tensor(True))
    """
    points = _points(image, num_clusters, space, position_weight)
    height, width = points.shape[:2]
    found = kmeans_of_points(
        points.reshape(height * width, -1), num_clusters, max_steps=max_steps, seed=seed, progress=progress
    )
    return Segmentation.of(found.labels.reshape(height, width), found.trace, "inertia", found.converged)


def mini_batch_kmeans(
    image: Image,
    num_clusters: int,
    *,
    space: ColorSpace = "lab",
    position_weight: float = 0.0,
    batch_size: int = 4096,
    max_steps: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> Segmentation:
    """`kmeans` whose steps look at a random part of the pixels (Sculley, WWW 2010): scikit-learn's.

    The trace is the inertia of each batch, per pixel.

    Args:
        image: as for `kmeans`, like all that is not named here.
        num_clusters: k.
        space: see `colors_of`.
        position_weight: see `kmeans`.
        batch_size: pixels in a step.
        max_steps: number of steps.
        seed: of the random numbers.
        progress: called after each step.

    Raises:
        ValueError: as `kmeans`.
    """
    from sklearn.cluster import MiniBatchKMeans

    points = _points(image, num_clusters, space, position_weight)
    if max_steps < 1 or batch_size < 1:
        raise ValueError(f"max_steps and batch_size must be at least 1, got {max_steps} and {batch_size}")
    flat = points.reshape(-1, points.shape[2]).astype(np.float32)
    random = np.random.default_rng(seed)
    model = MiniBatchKMeans(num_clusters, n_init=1, random_state=seed)
    trace = []
    for step in range(max_steps):
        size = max(num_clusters, min(batch_size, len(flat)))
        batch = flat[random.choice(len(flat), size, replace=False)]
        model.partial_fit(batch)
        trace.append(-model.score(batch) / size)
        if progress is not None:
            progress(step + 1, max_steps)
    return Segmentation.of(model.predict(flat).reshape(points.shape[:2]), trace, "inertia")


def kmeans_of_points(
    points: Float[np.ndarray, "n d"],
    num_clusters: int,
    *,
    max_steps: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> Clusters:
    """k-means of any points. A cluster without points starts anew at the point farthest from its centre.

    Raises:
        ValueError: if there are fewer points than clusters, or a number is out of range.
    """
    from ..kernels.classical.kmeans import assign

    if not 1 <= num_clusters <= len(points):
        raise ValueError(f"{len(points)} points allow 1 to {len(points)} clusters, got {num_clusters}")
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")
    middle = points.mean(0)  # float32 has its best precision around 0
    planes = np.ascontiguousarray((points - middle).T, dtype=np.float32)
    centers = _plus_plus(planes, num_clusters, np.random.default_rng(seed))
    labels, counts = np.full(len(points), -1, np.int32), np.empty(num_clusters, np.int64)
    sums = np.empty(centers.shape)
    trace: list[float] = []
    converged = False
    while not converged and len(trace) < max_steps:
        before = labels.copy()
        inertia, farthest = assign(planes, centers, labels, sums, counts)
        trace.append(inertia)
        converged = bool((labels == before).all())
        empty = counts == 0
        if not converged:
            centers[~empty] = (sums[~empty] / counts[~empty, None]).astype(np.float32)
            if empty.any():
                centers[empty.argmax()] = planes[:, farthest]
        if progress is not None:
            progress(len(trace), max_steps)
    return Clusters(labels.astype(np.int64), centers + middle, tuple(trace), converged)


def _points(
    image: Image, num_clusters: int, space: ColorSpace, position_weight: float
) -> Float64[np.ndarray, "H W d"]:
    colors = colors_of(image, space)
    pixels = colors.shape[0] * colors.shape[1]
    if not 1 <= num_clusters <= pixels:
        raise ValueError(f"an image of {pixels} pixels allows 1 to {pixels} clusters, got {num_clusters}")
    if not 0 <= position_weight < np.inf:
        raise ValueError(f"the position_weight must be at least 0, got {position_weight}")
    return with_position(colors, position_weight) if position_weight else colors


def _plus_plus(
    planes: Float32[np.ndarray, "d n"], num_clusters: int, random: np.random.Generator
) -> Float32[np.ndarray, "k d"]:
    """Centres drawn among the points, each with probability proportional to its squared distance so far."""
    from ..kernels.classical.kmeans import shorten

    d, n = planes.shape
    centers = np.empty((num_clusters, d), np.float32)
    squares = np.full(n, np.inf)
    chosen = int(random.integers(n))
    for c in range(num_clusters):
        centers[c] = planes[:, chosen]
        shorten(planes, centers[c], squares)
        total = squares.cumsum()
        if total[-1] > 0:
            chosen = min(int(np.searchsorted(total, random.random() * total[-1], side="right")), n - 1)
        else:  # no more points differ from the centres
            chosen = int(random.integers(n))
    return centers
