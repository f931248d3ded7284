"""Reading the pictures of COCO's panoptic format."""

import numpy as np
from jaxtyping import Integer, UInt8

from ..kernels.panoptic import ids_of_colors
from ..types import VOID as VOID, PanopticMap as PanopticMap


def ids_of_pixels(
    pixels: Integer[np.ndarray, "H W"] | UInt8[np.ndarray, "H W 3"],
) -> Integer[np.ndarray, "H W"]:
    """Ids as they are, or decoded from colours."""
    if pixels.ndim == 2:
        return np.require(
            pixels, requirements=["C", "W"]
        )  # torch takes no array that is flipped or read-only
    ids = np.empty(pixels.shape[:2], np.int32)
    ids_of_colors(pixels, ids)
    return ids


def named(where: str) -> str:
    """A place in a message: nothing, or " in image 5"."""
    return f" in image {where}" if where else ""
