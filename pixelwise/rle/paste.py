"""Masks of regions, as Mask R-CNN predicts them, pasted into the image."""

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from ..kernels.masks import paste as kernels
from .masks import RleMasks

FARTHEST = 2**31  # pixels


def paste_masks(
    masks: Float[np.ndarray, "n m m2"] | Float[Tensor, "n m m2"],
    boxes: Float[np.ndarray, "n 4"] | Float[Tensor, "n 4"],
    height: int,
    width: int,
    threshold: float = 0.5,
) -> RleMasks:
    """Masks of an image from scores within boxes, set where the resized score is above the threshold.

    Equal, bit by bit, to torchvision's `paste_masks_in_image(masks, boxes, (height, width), padding=1) >
    threshold` in float32 on a CPU with fused multiply-add, but in run lengths and without ever making an
    image: the score of a column crosses the threshold in a few rows, and only those are computed.

    Args:
        masks: scores, most often in [0, 1].
        boxes: left, top, right, bottom in pixels.
        height: of the image in pixels.
        width: of the image in pixels.
        threshold: above which a pixel is set.

    Raises:
        ValueError: if there is not one box per mask, or if a box is not finite.

    >>> pasted = paste_masks(np.ones((1, 28, 28), np.float32), np.array([[2.0, 1.0, 6.0, 3.0]]), 5, 8)
    >>> pasted.boxes.tolist()
    [[1.0, 0.0, 6.0, 4.0]]
    """
    scores, edges = _array(masks), _array(boxes)
    if scores.ndim != 3 or edges.shape != (len(scores), 4) or 0 in scores.shape[1:]:
        raise ValueError(f"masks must be n m m with boxes n 4, got {scores.shape} and {edges.shape}")
    if not (np.abs(edges) <= FARTHEST).all():
        raise ValueError("boxes must lie within 2**31 pixels, got one that does not")
    padded = np.pad(np.asarray(scores, np.float32), ((0, 0), (1, 1), (1, 1)))
    largest = np.abs(padded).max((1, 2), initial=np.float32(abs(threshold)))
    widened = _widened(edges, scores.shape[-1])
    runs = kernels.paste(padded, widened, height, width, np.float32(threshold), largest)
    return RleMasks(*runs, height, width)


def resize_masks(
    scores: Float[np.ndarray, "n h w"] | Float[Tensor, "n h w"],
    extent: tuple[int, int],
    height: int,
    width: int,
    threshold: float = 0.5,
) -> RleMasks:
    """Masks of an image from coarse scores of all of it, set where the resized score is above the threshold.

    Equal to `F.interpolate(scores, extent, mode="bilinear")[:, :height, :width] > threshold` in float32, but
    in run lengths and without ever making an image; see `paste_masks`.

    Args:
        scores: most often in [0, 1].
        extent: height and width in pixels of what the scores cover, which may be more than the image.
        height: of the image in pixels.
        width: of the image in pixels.
        threshold: above which a pixel is set.

    Raises:
        ValueError: if there are no rows or columns of scores.

    >>> resize_masks(np.array([[[0.0, 1.0]]]), (1, 4), 1, 4).decode().tolist()
    [[[False, False, True, True]]]
    """
    found = np.ascontiguousarray(_array(scores), np.float32)
    if found.ndim != 3 or 0 in found.shape[1:]:
        raise ValueError(f"scores must be n h w, got {found.shape}")
    boxes = np.tile(np.array([0, 0, extent[1] - 1, extent[0] - 1], np.int64), (len(found), 1))
    largest = np.abs(found).max((1, 2), initial=np.float32(abs(threshold)))
    runs = kernels.paste(found, boxes, height, width, np.float32(threshold), largest)
    return RleMasks(*runs, height, width)


def _array(values: Float[np.ndarray, "..."] | Float[Tensor, "..."]) -> Float[np.ndarray, "..."]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _widened(boxes: Float[np.ndarray, "n 4"], side: int) -> Int64[np.ndarray, "n 4"]:
    """Boxes around masks that have got a margin of one, in whole pixels."""
    scale = (side + 2) / side
    half_width, half_height = (boxes[:, 2] - boxes[:, 0]) * 0.5, (boxes[:, 3] - boxes[:, 1]) * 0.5
    center_x, center_y = (boxes[:, 2] + boxes[:, 0]) * 0.5, (boxes[:, 3] + boxes[:, 1]) * 0.5
    half_width, half_height = half_width * scale, half_height * scale
    edges = [center_x - half_width, center_y - half_height, center_x + half_width, center_y + half_height]
    return np.stack(edges, axis=1).astype(np.int64)
