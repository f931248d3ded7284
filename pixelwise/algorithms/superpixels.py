"""Segmentation methods of scikit-image through the interface of this package."""

import warnings

import numpy as np
from jaxtyping import Integer

from .images import ColorSpace, Image, as_pixels, colors_of
from .segmentation import Segmentation


def slic(
    image: Image,
    num_segments: int = 250,
    *,
    space: ColorSpace = "lab",
    compactness: float = 10.0,
    max_steps: int = 10,
) -> Segmentation:
    """Superpixels by local k-means in colour and position (Achanta et al., PAMI 2012): scikit-image's.

    Args:
        image: any number of channels for the space "rgb".
        num_segments: about how many.
        space: see `colors_of`.
        compactness: what position counts against colour, in the unit of the space: 10 is usual for Lab, some
            20 for RGB.
        max_steps: of k-means.

    Raises:
        ValueError: on an image or colour space that `colors_of` refuses, or a number out of range.
    """
    from skimage.segmentation import slic as skimage_slic

    colors = colors_of(image, space)
    _at_least("num_segments", num_segments, 1)
    _at_least("max_steps", max_steps, 1)
    if not 0 < compactness < np.inf:
        raise ValueError(f"the compactness must be above 0, got {compactness}")
    pixels = colors.shape[0] * colors.shape[1]
    extent = float(np.ptp(colors)) or 1.0  # scikit-image brings the colours it is given to the range 0 to 1
    labels = skimage_slic(
        colors,
        n_segments=min(num_segments, pixels),
        compactness=compactness / extent,
        max_num_iter=max_steps,
        convert2lab=False,
        start_label=0,
        channel_axis=2,
    )
    return _numbered(labels)


def felzenszwalb(
    image: Image, *, scale: float = 100.0, sigma: float = 0.8, min_size: int = 20
) -> Segmentation:
    """Graph-based segmentation (Felzenszwalb and Huttenlocher, IJCV 2004): scikit-image's.

    Two regions merge along their shortest edge w if w <= min(Int(C) + k / |C|) over both.

    Args:
        image: any number of channels; differences are Euclidean in grey levels over 255.
        scale: k; larger regions the higher it is.
        sigma: of the Gaussian that smooths the image first, in pixels.
        min_size: in pixels; smaller regions are merged at the end.

    Raises:
        ValueError: on an image that `as_pixels` refuses, or a number out of range.
    """
    from skimage.segmentation import felzenszwalb as skimage_felzenszwalb

    pixels = as_pixels(image)
    if not scale > 0 or not sigma >= 0:
        raise ValueError(f"scale must be above 0 and sigma at least 0, got {scale} and {sigma}")
    _at_least("min_size", min_size, 1)
    if min(pixels.shape[:2]) == 1 and max(pixels.shape[:2]) == 1:  # scikit-image wants an edge
        return Segmentation.of(np.zeros((1, 1), np.int64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # about many channels
        return _numbered(skimage_felzenszwalb(pixels, scale, sigma, min_size, channel_axis=2))


def watershed(
    image: Image,
    markers: Integer[np.ndarray, "H W"] | int | None = None,
    *,
    compactness: float = 0.0,
) -> Segmentation:
    """Flood the gradient of an image from markers (Vincent and Soille, PAMI 1991): scikit-image's.

    Args:
        image: any number of channels; the relief is the largest Sobel gradient of a channel.
        markers: labels above 0 where floods begin and 0 elsewhere, or how many begin in the lowest minima;
            None for every minimum.
        compactness: above 0 gives regions of even size (Neubert and Protzel, ICPR 2014).

    Raises:
        ValueError: on an image that `as_pixels` refuses, or markers of another size or without a label.
    """
    from skimage.filters import sobel
    from skimage.segmentation import watershed as skimage_watershed

    pixels = as_pixels(image)
    if not 0 <= compactness < np.inf:
        raise ValueError(f"the compactness must be at least 0, got {compactness}")
    if isinstance(markers, np.ndarray):
        _check_markers(markers, pixels.shape[:2])
    elif markers is not None:
        _at_least("markers", markers, 1)
    relief = np.max([sobel(pixels[..., i]) for i in range(pixels.shape[2])], axis=0)
    if isinstance(markers, int):
        markers = _lowest_minima(relief, markers)
    return _numbered(skimage_watershed(relief, markers, compactness=compactness))


def random_walker(image: Image, markers: Integer[np.ndarray, "H W"], *, beta: float = 130.0) -> Segmentation:
    """Give each pixel the marker that a random walker from it meets first (Grady, PAMI 2006): scikit-image's.

    Args:
        image: any number of channels.
        markers: labels above 0 on pixels that are known, 0 elsewhere.
        beta: how much harder the walk is across differences of colour.

    Raises:
        ValueError: on an image that `as_pixels` refuses, or markers of another size or without a label.
    """
    from skimage.segmentation import random_walker as skimage_random_walker

    pixels = as_pixels(image)
    _check_markers(markers, pixels.shape[:2])
    if not 0 < beta < np.inf:
        raise ValueError(f"beta must be above 0, got {beta}")
    if (markers > 0).all():
        return _numbered(markers)
    if (pixels == pixels[0, 0]).all():
        # scikit-image divides by the deviation of the image, which is 0. Without differences the walk is the
        # same at any beta, so it may walk on another image at a beta where no difference counts.
        pixels, beta = np.indices(pixels.shape[:2]).sum(0)[..., None].astype(np.float64), 1e-300
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about optional solvers
        warnings.simplefilter("ignore", FutureWarning)
        return _numbered(skimage_random_walker(pixels, markers, beta=beta, channel_axis=2, mode="cg_j"))


def otsu(image: Image, num_classes: int = 2) -> Segmentation:
    """Thresholds on brightness with the largest variance between classes (Otsu, 1979): scikit-image's.

    Args:
        image: the mean of its channels, in 256 steps from darkest to brightest, is the brightness.
        num_classes: 2 to 5; dark is 0.

    Raises:
        ValueError: on an image that `as_pixels` refuses, or num_classes out of range.

    >>> otsu(np.array([[10, 12, 200, 205]], dtype=np.uint8)).label_map.labels.tolist()
    [[0, 0, 1, 1]]
    """
    from skimage.filters import threshold_multiotsu, threshold_otsu

    if not 2 <= num_classes <= 5:
        raise ValueError(f"num_classes must be in 2..5, got {num_classes}")
    brightness = as_pixels(image).mean(2)
    values = np.unique(brightness)
    if len(values) <= num_classes:
        return Segmentation.of(np.searchsorted(values, brightness))
    levels = np.rint((brightness - values[0]) / (values[-1] - values[0]) * 255).astype(np.uint8)
    if len(np.unique(levels)) <= num_classes:
        return _numbered(levels)
    thresholds = [threshold_otsu(levels)] if num_classes == 2 else threshold_multiotsu(levels, num_classes)
    return Segmentation.of(np.digitize(levels, thresholds, right=True))


def _lowest_minima(relief: np.ndarray, count: int) -> np.ndarray:
    from scipy.ndimage import minimum
    from skimage.measure import label
    from skimage.morphology import local_minima

    minima = label(local_minima(relief))
    if not minima.any():  # a constant image is one flat minimum
        return np.ones(relief.shape, dtype=np.int64)
    depth = np.asarray(minimum(relief, minima, np.arange(1, minima.max() + 1)))
    keep = np.argsort(depth, kind="stable")[:count] + 1
    chosen = np.zeros(int(minima.max()) + 1, dtype=np.int64)
    chosen[keep] = np.arange(1, len(keep) + 1)
    return chosen[minima]


def _check_markers(markers: Integer[np.ndarray, "H W"], size: tuple[int, ...]) -> None:
    if markers.shape != size:
        raise ValueError(f"an image of {size} pixels needs markers of that size, got {markers.shape}")
    if markers.min() < 0 or not markers.any():
        raise ValueError("markers must be 0 or a label above 0, and there must be a label")


def _numbered(labels: Integer[np.ndarray, "H W"]) -> Segmentation:
    return Segmentation.of(np.unique(labels, return_inverse=True)[1].reshape(labels.shape))


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
