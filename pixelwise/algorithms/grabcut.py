"""Foreground from a box or strokes: interactive graph cuts (Boykov and Jolly, ICCV 2001) and GrabCut.

GrabCut (Rother, Kolmogorov and Blake, SIGGRAPH 2004) repeats the cut: colour models of both sides are learnt
from what the last cut said. Its energy (Sec. 3) is

    E = sum_n D(z_n) + gamma sum_mn [alpha_m != alpha_n] exp(-beta |z_m - z_n|^2) / |m - n|

over 8 neighbours, with gamma = 50, beta as in `GridEnergy.contrast_potts`, and D from mixtures of 5
Gaussians.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer

from .energy import GridEnergy
from .images import Image, colors_of
from .kmeans import kmeans_of_points
from .move_making import minimum_cut
from .segmentation import Progress, Segmentation

BACKGROUND, FOREGROUND, UNKNOWN = 0, 1, 2
Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class ColorModel:
    """A mixture of Gaussians with full covariances.

    Attributes:
        weights: of the components, sum 1.
        means: of the components.
        factors: Cholesky factors of their covariances, lower triangular.
    """

    weights: Float64[np.ndarray, " m"]
    means: Float64[np.ndarray, "m c"]
    factors: Float64[np.ndarray, "m c c"]

    @classmethod
    def of(cls, colors: Float64[np.ndarray, "n c"], components: Int64[np.ndarray, " n"]) -> "ColorModel":
        """The model of colours whose component is known. Covariances get 0.01 (grey levels squared) added."""
        names = np.unique(components)
        channels = colors.shape[1]
        weights, means = np.empty(len(names)), np.empty((len(names), channels))
        factors = np.empty((len(names), channels, channels))
        for m, name in enumerate(names):
            part = colors[components == name]
            weights[m], means[m] = len(part) / len(colors), part.mean(0)
            covariance = (part - means[m]).T @ (part - means[m]) / len(part)
            factors[m] = np.linalg.cholesky(covariance + 0.01 * np.eye(channels))
        return cls(weights, means, factors)

    def costs(self, colors: Float64[np.ndarray, "n c"]) -> Float64[np.ndarray, "n m"]:
        """-log (weight * density) of every colour in every component."""
        from scipy.linalg import solve_triangular

        costs = np.empty((len(colors), len(self.weights)))
        for m, (weight, mean, factor) in enumerate(zip(self.weights, self.means, self.factors, strict=True)):
            away = solve_triangular(factor, (colors - mean).T, lower=True)
            costs[:, m] = 0.5 * (away**2).sum(0) + np.log(factor.diagonal()).sum() - np.log(weight)
        return costs + 0.5 * colors.shape[1] * np.log(2 * np.pi)


def grabcut(
    image: Image,
    *,
    box: Box | None = None,
    strokes: Integer[np.ndarray, "H W"] | None = None,
    strength: float = 50.0,
    num_components: int = 5,
    max_steps: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
) -> Segmentation:
    """Cut out the foreground of a colour image.

    D is the cost of the most fitting component of a side's mixture, as in the paper (OpenCV takes the whole
    mixture); components begin by k-means. It ends when a step changes no pixel. The trace is the energy after
    each step, which never rises.

    Args:
        image: any number of channels.
        box: left, top, right, bottom in pixels, right and bottom not included: outside is background for
            sure, inside foreground as far as not known better.
        strokes: 0 where background is certain, 1 where foreground is, 2 elsewhere. They hold over the box.
        strength: gamma.
        num_components: of each side's mixture.
        max_steps: of learning and cutting.
        seed: of k-means.
        progress: called after each step.

    Returns:
        Labels 0 background, 1 foreground.

    Raises:
        ValueError: without box and strokes, if they do not fit the image or leave a side without a pixel, on
            an image that `as_pixels` refuses, or a number out of range.
    """
    colors = colors_of(image)
    known, labels = _start(colors.shape[:2], box, strokes)
    if strength < 0 or num_components < 1 or max_steps < 1:
        raise ValueError(
            "strength must be at least 0, num_components and max_steps at least 1, got "
            f"{strength}, {num_components} and {max_steps}"
        )
    height, width, channels = colors.shape
    flat = colors.reshape(-1, channels)
    grid = GridEnergy.contrast_potts(np.zeros((height, width, 2)), image, strength)
    certain = 1.0 + grid.weights.sum() + 1e3 * channels  # no cut is worth that much
    components = [
        kmeans_of_points(part, min(num_components, len(part)), max_steps=10, seed=seed).labels
        for part in (flat[labels.ravel() == side] for side in (BACKGROUND, FOREGROUND))
    ]
    trace: list[float] = []
    converged = False
    while not converged and len(trace) < max_steps:
        unary = np.empty((height, width, 2))
        for side in (BACKGROUND, FOREGROUND):
            model = ColorModel.of(flat[labels.ravel() == side], components[side])
            costs = model.costs(flat)
            unary[..., side] = costs.min(1).reshape(height, width)
            components[side] = costs.argmin(1)
        unary[known == BACKGROUND, FOREGROUND] = certain
        unary[known == FOREGROUND, BACKGROUND] = certain
        found = minimum_cut(GridEnergy(unary, grid.weights, grid.distance))
        new = found.label_map.labels.numpy()
        trace.append(found.trace[-1])
        converged = bool((new == labels).all())
        if not (new == BACKGROUND).any() or not (new == FOREGROUND).any():
            labels, converged = new, True  # one side has taken all: nothing is left to learn from
        labels = new
        components = [components[side][labels.ravel() == side] for side in (BACKGROUND, FOREGROUND)]
        if progress is not None:
            progress(len(trace), max_steps)
    return Segmentation.of(labels, trace, "energy", converged)


def graph_cut(
    image: Image,
    strokes: Integer[np.ndarray, "H W"] | None = None,
    *,
    strength: float = 50.0,
    num_components: int = 5,
    seed: int = 0,
) -> Segmentation:
    """One cut between two sides whose colours are known from strokes (Boykov and Jolly).

    Colour models are mixtures of Gaussians instead of the paper's histograms, and contrast is that of
    GrabCut.

    Args:
        image: any number of channels.
        strokes: 0 where background is certain, 1 where foreground is, 2 elsewhere; None takes the two
            clusters of k-means for the two sides and holds no pixel fast: dark is then 0.
        strength: of the pairs (the paper's 1 / lambda).
        num_components: of each side's mixture.
        seed: of k-means.

    Raises:
        ValueError: if the strokes do not fit the image or miss a side, on an image that `as_pixels` refuses,
            or a number out of range.
    """
    colors = colors_of(image)
    height, width, channels = colors.shape
    flat = colors.reshape(-1, channels)
    if strokes is None:
        if height * width == 1 or (flat == flat[0]).all():
            return Segmentation.of(np.zeros((height, width), np.int64), (), "energy")
        clusters = kmeans_of_points(flat, 2, seed=seed)
        bright = int(clusters.centers.sum(1).argmax())
        strokes = (clusters.labels == bright).astype(np.int64).reshape(height, width)
        known = np.full((height, width), UNKNOWN)
    else:
        known = strokes = _checked(strokes, (height, width))
    for side, name in ((BACKGROUND, "background"), (FOREGROUND, "foreground")):
        if not (strokes == side).any():
            raise ValueError(f"the strokes must mark background and foreground, there is no {name}")
    if strength < 0 or num_components < 1:
        raise ValueError(
            f"strength must be at least 0 and num_components at least 1, got {strength} and {num_components}"
        )
    grid = GridEnergy.contrast_potts(np.zeros((height, width, 2)), image, strength)
    unary = np.empty((height, width, 2))
    for side in (BACKGROUND, FOREGROUND):
        part = flat[strokes.ravel() == side]
        parts = kmeans_of_points(part, min(num_components, len(part)), max_steps=10, seed=seed).labels
        costs = ColorModel.of(part, parts).costs(flat)
        unary[..., side] = -np.logaddexp.reduce(-costs, axis=1).reshape(height, width)
    certain = 1.0 + grid.weights.sum() + np.abs(unary).max()
    unary[known == BACKGROUND, FOREGROUND] = certain
    unary[known == FOREGROUND, BACKGROUND] = certain
    return minimum_cut(GridEnergy(unary, grid.weights, grid.distance))


def _start(
    size: tuple[int, int], box: Box | None, strokes: Integer[np.ndarray, "H W"] | None
) -> tuple[Int64[np.ndarray, "H W"], Int64[np.ndarray, "H W"]]:
    """What is known of every pixel, and the first labels."""
    if box is None and strokes is None:
        raise ValueError("GrabCut needs a box or strokes")
    inside = np.ones(size, dtype=bool) if box is None else _inside(size, box)
    known = np.where(inside, UNKNOWN, BACKGROUND)
    if strokes is not None:
        drawn = _checked(strokes, size)
        known = np.where(drawn == UNKNOWN, known, drawn)
    labels = np.where(known == UNKNOWN, FOREGROUND, known)
    if not (labels == BACKGROUND).any() or not (labels == FOREGROUND).any():
        raise ValueError("box and strokes must leave pixels for both background and foreground")
    return known.astype(np.int64), labels.astype(np.int64)


def _inside(size: tuple[int, int], box: Box) -> Bool[np.ndarray, "H W"]:
    left, top, right, bottom = box
    if not (0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]):
        raise ValueError(
            f"the box must be left, top, right, bottom inside {size[1]} x {size[0]} pixels, got {box}"
        )
    inside = np.zeros(size, dtype=bool)
    inside[top:bottom, left:right] = True
    return inside


def _checked(strokes: Integer[np.ndarray, "H W"], size: tuple[int, ...]) -> Int64[np.ndarray, "H W"]:
    if strokes.shape != size:
        raise ValueError(f"an image of {size} pixels needs strokes of that size, got {strokes.shape}")
    if not np.isin(strokes, (BACKGROUND, FOREGROUND, UNKNOWN)).all():
        raise ValueError("strokes must be 0 (background), 1 (foreground) or 2 (unknown)")
    return strokes.astype(np.int64)
