"""Labels of clusters, made smooth by a random field."""

import inspect

import numpy as np
from jaxtyping import Float64

from ..wording import brief, meant
from .dense_crf import dense_crf
from .energy import GridEnergy
from .images import ColorSpace, Image, as_pixels, colors_of
from .kmeans import kmeans_of_points
from .segmentation import Progress, Segmentation
from .solve import SOLVERS


def cluster_costs(
    image: Image, num_labels: int, space: ColorSpace = "lab", seed: int = 0
) -> Float64[np.ndarray, "H W k"]:
    """Unary costs from the clusters of k-means: |z - center|^2 / (2 variance).

    The variance is that of a colour coordinate within clusters, at least 1: the costs are those of Gaussians
    that differ in their means only.

    Raises:
        ValueError: as `kmeans`.

    >>> cluster_costs(np.array([[0, 255]], np.uint8), 2, "rgb").min(2).tolist()
    [[0.0, 0.0]]
    """
    colors = colors_of(image, space)
    flat = colors.reshape(-1, colors.shape[2])
    clusters = kmeans_of_points(flat, num_labels, seed=seed)
    squares = np.stack([((flat - center) ** 2).sum(1) for center in clusters.centers], axis=1)
    variance = max(1.0, squares.min(1).mean() / flat.shape[1])
    costs: Float64[np.ndarray, "H W k"] = squares.reshape(*colors.shape[:2], num_labels) / (2 * variance)
    return costs


def clusters_in_grid(
    image: Image,
    num_labels: int = 6,
    *,
    solver: str = "alpha_expansion",
    space: ColorSpace = "lab",
    strength: float = 5.0,
    neighbours: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> Segmentation:
    """The clusters of k-means as labels of a grid with contrast-sensitive Potts pairs.

    Args:
        image: any number of channels for the space "rgb".
        num_labels: number of clusters.
        solver: a key of `pixelwise.algorithms.SOLVERS`, with its usual settings.
        space: see `colors_of`.
        strength: see `GridEnergy.contrast_potts`; `cluster_costs` are the unary.
        neighbours: 4 or 8.
        seed: of k-means and of the solver.
        progress: called by solvers that go in steps.

    Raises:
        ValueError: on an unknown solver, an image or colour space that `colors_of` refuses, or a number out
            of range.
    """
    solve = SOLVERS.get(solver)
    if solve is None:
        raise ValueError(f"no solver is called {brief(solver)}{meant(solver, SOLVERS)}")
    if neighbours not in (4, 8):
        raise ValueError(f"a grid has 4 or 8 neighbours, got {neighbours}")
    costs = cluster_costs(image, num_labels, space, seed)
    energy = GridEnergy.contrast_potts(costs, image, strength, 8 if neighbours == 8 else 4)
    known = inspect.signature(solve).parameters
    steps = {name: given for name, given in (("seed", seed), ("progress", progress)) if name in known}
    return solve(energy, **steps)


def clusters_in_dense_crf(
    image: Image, num_labels: int = 6, *, space: ColorSpace = "lab", iterations: int = 10, seed: int = 0
) -> Segmentation:
    """The clusters of k-means as labels of a fully connected random field: see `dense_crf`.

    Args:
        image: any number of channels for the space "rgb".
        num_labels: number of clusters.
        space: see `colors_of`.
        iterations: of mean field.
        seed: of k-means.

    Raises:
        ValueError: on an image or colour space that `colors_of` refuses, or a number out of range.
    """
    costs = cluster_costs(image, num_labels, space, seed)
    odds = np.exp(costs.min(2, keepdims=True) - costs)
    probabilities = np.ascontiguousarray(np.moveaxis(odds / odds.sum(2, keepdims=True), 2, 0))
    return dense_crf(probabilities, as_pixels(image), iterations=iterations, keep_trace=True)
