"""Panoptic maps as NumPy arrays, and the pictures of COCO's panoptic format."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from ...kernels.masks.panoptic import ids_of_colors
from ...types import VOID as VOID, PanopticMap as PanopticMap, segments_of_coco


class SegmentArrays(NamedTuple):
    """The fields of a `PanopticMap` as NumPy arrays, for worker threads, which touch no tensors."""

    id_map: Integer[np.ndarray, "H W"]
    ids: Integer[np.ndarray, " n"]
    classes: Integer[np.ndarray, " n"]
    is_crowd: Bool[np.ndarray, " n"]
    areas: Integer[np.ndarray, " n"] | None

    @classmethod
    def of(cls, panoptic_map: PanopticMap) -> "SegmentArrays":
        """The tensors of a map as arrays."""
        areas = panoptic_map.areas
        return cls(
            panoptic_map.id_map.cpu().numpy(),
            panoptic_map.ids.cpu().numpy(),
            panoptic_map.classes.cpu().numpy(),
            panoptic_map.is_crowd.cpu().numpy(),
            None if areas is None else areas.cpu().numpy(),
        )

    @classmethod
    def of_coco(
        cls,
        pixels: Integer[np.ndarray, "H W"] | UInt8[np.ndarray, "H W 3"],
        segments_info: Sequence[Mapping[str, Any]],
        label_of: Mapping[int, int],
        where: str = "",
    ) -> "SegmentArrays":
        """Arguments and errors are those of `PanopticMap.of_coco`."""
        found = segments_of_coco(segments_info, label_of, where)
        return cls(ids_of_pixels(pixels), found.ids, found.classes, found.is_crowd, found.areas)


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
