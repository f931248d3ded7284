"""A dense random field that reaches less far where things are far away (FoveaNet, ICCV 2017, Sec. 3.3).

A camera shows a distant car with few pixels: a kernel as wide as suits near things would give its pixels to
the road. Here the width of both kernels shrinks with the remoteness that FoveaNet estimates.
"""

import numpy as np
from jaxtyping import Float, Float32

from .dense_crf import USUAL_KERNELS, MeanField, mean_field_marginals
from .dense_crf_energy import PairwiseKernel, PairwiseTerm, bilateral_features, unary_from_probabilities


def perspective_features(
    remoteness: Float[np.ndarray, "H W"], position: float, *, least: float = 0.1
) -> Float32[np.ndarray, "2 H W"]:
    """Coordinates x, y counted in local standard deviations: what is far away is stretched.

    Along a row, from one pixel to the next, x grows by the mean of both pixels' 1 / width; y likewise along a
    column. The width is `position` times 1 - remoteness, and at least `least` times `position`.

    Args:
        remoteness: from 0 to 1.
        position: standard deviation in pixels where the remoteness is 0.
        least: share of `position` that is left at the greatest distance.

    Raises:
        ValueError: on a number out of range.

    >>> perspective_features(np.array([[0.0, 0.0, 0.5]]), 2.0)[0]
    array([[0.  , 0.5 , 1.25]], dtype=float32)
    """
    if not 0 < least <= 1 or not 0 < position < np.inf:
        raise ValueError(f"position must be above 0 and least in (0, 1], got {position} and {least}")
    if not ((remoteness >= 0) & (remoteness <= 1)).all():
        raise ValueError("remoteness must be between 0 and 1")
    density = 1 / (position * np.maximum(1 - remoteness.astype(np.float64), least))
    features = np.zeros((2, *remoteness.shape), np.float32)
    features[0, :, 1:] = np.cumsum((density[:, 1:] + density[:, :-1]) / 2, 1)
    features[1, 1:] = np.cumsum((density[1:] + density[:-1]) / 2, 0)
    return features


def perspective_crf(
    probabilities: Float[np.ndarray, "k H W"],
    image: Float32[np.ndarray, "c H W"],
    remoteness: Float[np.ndarray, "H W"],
    *,
    kernels: tuple[PairwiseKernel, ...] = USUAL_KERNELS,
    iterations: int = 10,
    least: float = 0.1,
    threads: int = 1,
) -> MeanField:
    """Marginals of the field.

    Args:
        probabilities: of every class at every pixel.
        image: in steps of 8 bits, see `in_steps`.
        remoteness: from 0 to 1, at the size of the image.
        kernels: with the widths for near things; one number for the position.
        iterations: of mean field.
        least: see `perspective_features`.
        threads: of the processor.

    Raises:
        ValueError: if sizes differ, or a number is out of range.
    """
    if not probabilities.shape[1:] == image.shape[1:] == remoteness.shape:
        sizes = probabilities.shape[1:], image.shape[1:], remoteness.shape
        raise ValueError(f"probabilities, image and remoteness must have one size, got {sizes}")
    terms = []
    for kernel in kernels:
        if isinstance(kernel.position, tuple):
            raise ValueError(f"a kernel must have one width for both axes, got {kernel.position}")
        features = perspective_features(remoteness, kernel.position, least=least)
        if kernel.color is not None:
            colors = bilateral_features(image, kernel.position, kernel.color)[2:]
            features = np.concatenate([features, colors])
        mu = None if kernel.compatibility is None else np.asarray(kernel.compatibility, np.float64)
        terms.append(PairwiseTerm(features, kernel.weight, mu, kernel.normalization))
    unary = unary_from_probabilities(probabilities)
    return mean_field_marginals(unary, terms, iterations=iterations, threads=threads)
