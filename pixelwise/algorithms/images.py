"""What every method does first: take an image of any kind and give its pixels as numbers."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

ColorSpace = Literal["rgb", "lab"]
Image = (
    Shaped[np.ndarray, "H W"] | Shaped[np.ndarray, "H W c"] | Shaped[Tensor, "c H W"] | Shaped[Tensor, "H W"]
)


def as_pixels(image: Image, name: str = "image") -> Float64[np.ndarray, "H W c"]:
    """The values of an image, channels last.

    Args:
        image: an array H W or H W c, or a tensor c H W or H W. Integers are divided by the largest number of
            their type (255, 65535, ...), True is 1, floating-point numbers stay.
        name: of the argument, for messages.

    Raises:
        ValueError: if the shape is another, there is no pixel, or a value is not finite.

    >>> as_pixels(np.array([[0, 255]], dtype=np.uint8)).tolist()
    [[[0.0], [1.0]]]
    """
    array = _channels_last(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not array.size:
        raise ValueError(
            f"the {name} must be an array H W or H W c, or a tensor c H W, with at least one pixel, "
            f"got the shape {tuple(image.shape)}"
        )
    if array.dtype.kind not in "buif":
        raise ValueError(f"the {name} must hold real numbers, got {array.dtype}")
    pixels = array.astype(np.float64)
    if array.dtype.kind in "ui":
        pixels /= float(np.iinfo(array.dtype.name).max)
    if not np.isfinite(pixels).all():
        raise ValueError(f"the {name} holds values that are not finite (nan or infinity)")
    return np.ascontiguousarray(pixels)


def _channels_last(image: Image) -> np.ndarray:
    if not isinstance(image, Tensor):
        return np.asarray(image)
    tensor = image.detach().cpu()
    array: np.ndarray = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return np.moveaxis(array, 0, -1) if array.ndim == 3 else array


def colors_of(image: Image, space: ColorSpace = "rgb") -> Float64[np.ndarray, "H W c"]:
    """Pixels in a colour space whose Euclidean distance the methods use.

    Args:
        image: see `as_pixels`.
        space: "rgb" takes the channels as they are (any number) times 255, so that a distance of 1 is one
            grey level of an 8-bit image; "lab" is CIE L*a*b* (D65) of three channels in [0, 1], where the
            distance is the colour difference of 1976.

    Raises:
        ValueError: on an image that `as_pixels` refuses, an unknown space, or Lab without three channels.

    >>> colors_of(np.full((1, 1, 3), 255, dtype=np.uint8), "lab").round(3).tolist()
    [[[100.0, -0.002, 0.005]]]
    """
    pixels = as_pixels(image)
    if space == "rgb":
        return pixels * 255
    if space != "lab":
        raise ValueError(f"the colour space must be rgb or lab, got {space!r}")
    if pixels.shape[2] != 3:
        raise ValueError(f"Lab needs an image of 3 channels, got {pixels.shape[2]}: take the space rgb")
    from skimage.color import rgb2lab

    converted: Float64[np.ndarray, "H W 3"] = rgb2lab(pixels)
    return converted


def with_position(colors: Float64[np.ndarray, "H W c"], weight: float) -> Float64[np.ndarray, "H W _"]:
    """Colours and, behind them, column and row in pixels times `weight`: XYRGB for c = 3."""
    height, width = colors.shape[:2]
    rows, columns = np.mgrid[:height, :width] * float(weight)
    return np.concatenate([colors, columns[..., None], rows[..., None]], axis=2)
