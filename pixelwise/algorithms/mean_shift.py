"""Mean shift (Comaniciu and Meer, PAMI 2002): smoothing that keeps edges, and the regions it leads to."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64

from .images import ColorSpace, Image, colors_of
from .merging import merge_regions
from .segmentation import Segmentation

_SCALE = 16  # colours are counted in 1/16 grey level (or unit of Lab)


@dataclass(frozen=True, eq=False)
class Modes:
    """Where mean shift takes every pixel.

    Attributes:
        positions: row and column of the mode.
        colors: its colour, in the colour space that was asked for.
        converged: whether every pixel came to rest within the limit of steps.
    """

    positions: Float64[np.ndarray, "H W 2"]
    colors: Float64[np.ndarray, "H W c"]
    converged: bool


def mean_shift_filter(
    image: Image,
    *,
    space: ColorSpace = "lab",
    radius: float = 8.0,
    color_radius: float = 8.0,
    max_steps: int = 50,
    threads: int | None = None,
) -> Modes:
    """Shift each pixel to the mean of its neighbours in space and colour, again and again, until it rests.

    The kernel is flat in both domains (Sec. 2.1; the shadow of Epanechnikov's): the neighbours are the pixels
    within `radius` whose colour is within `color_radius`. The window is moved by whole pixels and colours are
    counted in 1/16: that is all that is rounded; every pixel walks its own way.

    Args:
        image: any number of channels for the space "rgb".
        space: see `colors_of`.
        radius: in pixels, at least 1 (the paper's h_s).
        color_radius: in the unit of the space, above 0 (the paper's h_r).
        max_steps: after which a pixel stays where it is.
        threads: None for as many as torch uses.

    Raises:
        ValueError: on an image or colour space that `colors_of` refuses, or a number out of range.
    """
    from ..kernels import parallel_map
    from ..kernels.classical.mean_shift import mean_shift_rows

    colors = colors_of(image, space)
    if not 1 <= radius < np.inf or not 0 < color_radius < np.inf or max_steps < 1:
        raise ValueError(
            "mean shift needs radius >= 1, color_radius > 0 and max_steps >= 1, got "
            f"{radius}, {color_radius} and {max_steps}"
        )
    largest = float(np.abs(colors).max(initial=0.0)) * _SCALE
    if 4 * colors.shape[2] * largest**2 >= 2**31:
        raise ValueError(f"mean shift needs colours up to {int(2**15 / _SCALE)}, got {largest / _SCALE:g}")
    planes = np.ascontiguousarray(np.rint(np.moveaxis(colors, 2, 0) * _SCALE).astype(np.int32))
    reach = int(min((color_radius * _SCALE) ** 2, 2**31 - 1))
    rows = np.arange(-int(radius), int(radius) + 1)
    half_widths = np.sqrt(radius**2 - rows**2).astype(np.int64)
    height, width = colors.shape[:2]
    modes = np.empty((height, width, 2 + colors.shape[2]), np.float32)
    starts = range(0, height, max(1, height // 32))

    def shift(first: int) -> int:
        last = min(height, first + starts.step)
        return mean_shift_rows(planes, half_widths, reach, max_steps, first, last, modes)

    unsettled = parallel_map(shift, starts, threads or torch.get_num_threads())
    found = modes.astype(np.float64)
    return Modes(found[..., :2], found[..., 2:] / _SCALE, not sum(unsettled))


def mean_shift(
    image: Image,
    *,
    space: ColorSpace = "lab",
    radius: float = 8.0,
    color_radius: float = 8.0,
    min_size: int = 50,
    max_steps: int = 50,
    threads: int | None = None,
) -> Segmentation:
    """Regions of connected pixels whose modes are near one another (Sec. 4.2).

    Neighbouring pixels belong together if their modes are nearer than `radius` in space and `color_radius` in
    colour; regions smaller than `min_size` pixels join the neighbour with the most similar mean colour.

    Arguments and errors are those of `mean_shift_filter`.

    >>> image = np.zeros((8, 8), np.uint8)
    >>> image[:, 4:] = 200
    >>> mean_shift(image, space="rgb", min_size=1).label_map.labels[0].tolist()
    [0, 0, 0, 0, 1, 1, 1, 1]
    """
    from ..kernels.classical.mean_shift import link_modes

    found = mean_shift_filter(
        image, space=space, radius=radius, color_radius=color_radius, max_steps=max_steps, threads=threads
    )
    labels = np.empty(found.colors.shape[:2], np.int64)
    points = np.concatenate([found.positions, found.colors], axis=2).astype(np.float32)
    link_modes(points, float(radius), float(color_radius), labels)
    merged = merge_regions(found.colors, labels, threshold=0.0, min_size=min_size)
    return Segmentation.of(merged, converged=found.converged)
