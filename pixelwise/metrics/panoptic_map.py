"""A segmentation into things and stuff at once: a map of ids and a table of segments."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Integer, UInt8
from torch import Tensor

from ..kernels.panoptic import ids_of_colors
from ..types import ClassTable, LabelMap, MaskSet, Value, value

VOID = 0


class SegmentArrays(NamedTuple):
    """The fields of a `PanopticMap` as NumPy arrays, for worker threads, which touch no tensors."""

    id_map: Integer[np.ndarray, "H W"]
    ids: Integer[np.ndarray, " n"]
    classes: Integer[np.ndarray, " n"]
    is_crowd: Bool[np.ndarray, " n"]
    areas: Integer[np.ndarray, " n"] | None

    @classmethod
    def of_coco(
        cls,
        pixels: Integer[np.ndarray, "H W"] | UInt8[np.ndarray, "H W 3"],
        segments_info: Sequence[Mapping[str, Any]],
        label_of: Mapping[int, int],
        where: str = "",
    ) -> "SegmentArrays":
        """Arguments and errors are those of `PanopticMap.of_coco`."""
        for segment in segments_info:
            if "id" not in segment or "category_id" not in segment:
                raise ValueError(
                    f"a segment{named(where)} needs an id and a category_id, got {dict(segment)}"
                )
            if segment["category_id"] not in label_of:
                raise ValueError(
                    f"segment {segment['id']}{named(where)} has the unknown category {segment['category_id']}"
                )
        areas = None
        if segments_info and all("area" in segment for segment in segments_info):
            areas = np.array([segment["area"] for segment in segments_info], np.int64)
        return cls(
            ids_of_pixels(pixels),
            np.array([segment["id"] for segment in segments_info], np.int64),
            np.array([label_of[segment["category_id"]] for segment in segments_info], np.int64),
            np.array([segment.get("iscrowd", 0) for segment in segments_info], np.int64) == 1,
            areas,
        )


@value
class PanopticMap(Value):
    """Segments that do not overlap: a map of their ids and a table. A target or a prediction.

    Attributes:
        id_map: the id of each pixel's segment; 0 is void.
        ids: the id of each segment.
        classes: its label.
        is_crowd: True where it stands for several things that nobody told apart; False in a prediction.
        areas: its size in pixels as an annotation file says it; None to count them in the map.
    """

    id_map: Integer[Tensor, "H W"]
    ids: Integer[Tensor, " n"]
    classes: Integer[Tensor, " n"]
    is_crowd: Bool[Tensor, " n"]
    areas: Integer[Tensor, " n"] | None = None

    @classmethod
    def of(
        cls,
        id_map: Integer[Tensor, "H W"],
        ids: Integer[Tensor, " n"],
        classes: Integer[Tensor, " n"],
        is_crowd: Bool[Tensor, " n"] | None = None,
    ) -> "PanopticMap":
        """A map without crowds unless they are given."""
        return cls(id_map, ids, classes, torch.zeros(len(ids)).bool() if is_crowd is None else is_crowd)

    @classmethod
    def of_coco(
        cls,
        pixels: Integer[np.ndarray, "H W"] | UInt8[np.ndarray, "H W 3"],
        segments_info: Sequence[Mapping[str, Any]],
        label_of: Mapping[int, int],
        where: str = "",
    ) -> "PanopticMap":
        """A map in COCO's panoptic format.

        Args:
            pixels: ids, or colours that code them: R + 256 G + 65536 B.
            segments_info: `id`, `category_id` and, where known, `iscrowd` and `area` of each segment.
            label_of: the label of each category id.
            where: name of the image, for the message of an error.

        Raises:
            ValueError: if a segment has a category without label, or lacks its id or category.

        >>> pixels = np.array([[[1, 0, 0], [0, 1, 0]]], np.uint8)
        >>> info = [{"id": 1, "category_id": 18}, {"id": 256, "category_id": 44, "iscrowd": 1}]
        >>> coded = PanopticMap.of_coco(pixels, info, {18: 0, 44: 1})
        >>> coded.id_map.tolist(), coded.classes.tolist(), coded.is_crowd.tolist()
        ([[1, 256]], [0, 1], [False, True])
        """
        id_map, ids, labels, is_crowd, areas = SegmentArrays.of_coco(pixels, segments_info, label_of, where)
        return cls(
            torch.from_numpy(id_map),
            torch.from_numpy(ids),
            torch.from_numpy(labels),
            torch.from_numpy(is_crowd),
            None if areas is None else torch.from_numpy(areas),
        )

    @property
    def arrays(self) -> SegmentArrays:
        """The same as NumPy arrays, on the CPU."""
        return SegmentArrays(
            self.id_map.cpu().numpy(),
            self.ids.cpu().numpy(),
            self.classes.cpu().numpy(),
            self.is_crowd.cpu().numpy(),
            None if self.areas is None else self.areas.cpu().numpy(),
        )

    @classmethod
    def of_things(cls, stuff: LabelMap, things: MaskSet, classes: ClassTable) -> "PanopticMap":
        """Things over stuff: each class of the map that is no thing is one segment where no thing lies.

        Pixels of the map that have the label of a thing, but lie in no mask, are void.

        Raises:
            ValueError: if the masks overlap, or the map has a label outside the table.

        >>> table = ClassTable(("sky", "car"), ((0, 0, 0), (1, 1, 1)), things=(1,))
        >>> car = MaskSet.of(torch.tensor([[[False, True]]]), torch.tensor([1]))
        >>> PanopticMap.of_things(LabelMap(torch.tensor([[0, 0]])), car, table).id_map.tolist()
        [[1, 3]]
        """
        if (things.masks.sum(0) > 1).any():
            raise ValueError("the masks of a panoptic map must not overlap, got some that do")
        labels = stuff.labels.long()
        known = labels != classes.ignore
        if known.any() and not 0 <= int(labels[known].min()) <= int(labels[known].max()) < len(classes):
            raise ValueError(f"the map has a label outside the table of {len(classes)} classes")
        is_thing = torch.isin(labels, torch.tensor(classes.things, dtype=torch.int64, device=labels.device))
        id_map = torch.where(known & ~is_thing, labels + 1, VOID)
        first = len(classes) + 1
        for number, mask in enumerate(things.masks):
            id_map = torch.where(mask, first + number, id_map)
        painted = id_map.unique()
        stuff_ids = painted[(painted != VOID) & (painted < first)]
        seen = torch.arange(first, first + len(things), device=id_map.device)
        kept = things.masks.flatten(1).any(1)
        return cls.of(
            id_map,
            torch.cat([stuff_ids, seen[kept]]),
            torch.cat([stuff_ids - 1, things.classes[kept]]),
            torch.cat([torch.zeros_like(stuff_ids, dtype=torch.bool), things.is_crowd[kept]]),
        )


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
