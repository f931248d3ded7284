"""What COCO compares, as flat arrays: boxes, masks, masks with their boundaries, keypoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer, UInt32

from ...kernels import parallel_map
from ...kernels.masks import matching
from ...rle import RleMasks
from .keypoint_similarity import similarity_of_pairs

Kind = Literal["mask", "box", "keypoints", "boundary"]
KINDS = ("mask", "box", "keypoints", "boundary")


@dataclass(frozen=True)
class Groups:
    """Sorted detections and targets, cut into groups that may match: one image and one class each.

    Attributes:
        detection_start: group g has the detections detection_start[g]:detection_start[g + 1].
        target_start: the same for targets.
        threads: how many threads work on the groups.
    """

    detection_start: Int64[np.ndarray, " g1"]
    target_start: Int64[np.ndarray, " g1"]
    threads: int = 1

    @property
    def pair_start(self) -> Int64[np.ndarray, " g1"]:
        """Where the pairs of each group lie among all pairs, one row per detection."""
        sizes = np.diff(self.detection_start) * np.diff(self.target_start)
        return np.concatenate([[0], np.cumsum(sizes)])

    def pairs(self) -> tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"]]:
        """Detection and target of each pair."""
        start = self.pair_start
        group = np.repeat(np.arange(len(start) - 1), np.diff(start))
        inside = np.arange(start[-1]) - start[group]
        size = np.diff(self.target_start)[group]
        return self.detection_start[group] + inside // size, self.target_start[group] + inside % size

    def pieces(self) -> list[tuple[int, int]]:
        """Ranges of groups for the threads, about as many pairs in each."""
        number = len(self.detection_start) - 1
        if self.threads <= 1:
            return [(0, number)]
        work = self.pair_start + np.arange(number + 1)
        cuts = np.searchsorted(work, np.linspace(0, work[-1], 4 * self.threads + 1))
        cuts[0], cuts[-1] = 0, number
        return [(int(a), int(b)) for a, b in pairwise(cuts) if a < b]


@dataclass(frozen=True)
class Boxes:
    """x, y, width, height in pixels."""

    xywh: Float64[np.ndarray, "n 4"]

    def take(self, index: Integer[np.ndarray, " k"]) -> "Boxes":
        """Some of them, in the order of `index`."""
        return Boxes(self.xywh[index])

    def similarity(
        self, targets: "Boxes", is_crowd: Bool[np.ndarray, " m"], groups: Groups
    ) -> Float64[np.ndarray, " p"]:
        """IoU of the pairs of the groups."""
        pair_start = groups.pair_start
        similarity = np.empty(pair_start[-1])

        def work(piece: tuple[int, int]) -> None:
            matching.box_similarity(
                *piece,
                groups.detection_start,
                groups.target_start,
                pair_start,
                self.xywh,
                targets.xywh,
                is_crowd,
                similarity,
            )

        parallel_map(work, groups.pieces(), groups.threads)
        return similarity


@dataclass(frozen=True)
class Masks:
    """Run lengths of masks of images of any size.

    Attributes:
        counts: run lengths of all masks, in any order.
        runs: first and last + 1 run of each mask.
        extents: first and last column, first and last row, area of each mask.
        boundary: the boundaries of the masks, where they are compared too.
    """

    counts: UInt32[np.ndarray, " r"]
    runs: Int64[np.ndarray, "n 2"]
    extents: Int64[np.ndarray, "n 5"]
    boundary: "Masks | None" = None

    @classmethod
    def of(
        cls, parts: Sequence[tuple[Integer[np.ndarray, " _"], RleMasks]], dilation_ratio: float | None = None
    ) -> "Masks":
        """Masks put together from sets of one size each, with the place of every mask.

        Args:
            parts: places and masks; the places together are 0..n-1.
            dilation_ratio: width of the boundaries over the image's diagonal; None for masks alone.
        """
        places = np.concatenate([np.zeros(0, np.int64), *(index for index, _ in parts)])
        runs, heights = np.zeros((len(places), 2), np.int64), np.zeros(len(places), np.int64)
        first = 0
        for index, masks in parts:
            runs[index, 0] = masks.offsets[:-1] + first
            runs[index, 1] = masks.offsets[1:] + first
            heights[index] = masks.height
            first += len(masks.counts)
        counts = np.concatenate([np.zeros(0, np.uint32), *(masks.counts for _, masks in parts)])
        extents = np.empty((len(places), 5), np.int64)
        matching.mask_extents(counts, runs, heights, extents)
        boundary = None
        if dilation_ratio is not None:
            boundary = cls.of(
                [(index, masks.boundary(dilation_ratio=dilation_ratio)) for index, masks in parts]
            )
        return cls(counts, runs, extents, boundary)

    @property
    def area(self) -> Float64[np.ndarray, " n"]:
        """Number of pixels of each mask."""
        return self.extents[:, 4].astype(np.float64)

    def boxes(self) -> Boxes:
        """The boxes around the masks, as pycocotools' `toBbox`; zeros where one is empty."""
        left, right, top, bottom, area = self.extents.T
        boxes = np.stack([left, top, right - left + 1, bottom - top + 1], 1)
        return Boxes(np.where(area[:, None] > 0, boxes, 0).astype(np.float64))

    def take(self, index: Integer[np.ndarray, " k"]) -> "Masks":
        """Some of them, in the order of `index`."""
        boundary = None if self.boundary is None else self.boundary.take(index)
        return Masks(self.counts, self.runs[index], self.extents[index], boundary)

    def similarity(
        self, targets: "Masks", is_crowd: Bool[np.ndarray, " m"], groups: Groups
    ) -> Float64[np.ndarray, " p"]:
        """IoU of the pairs of the groups.

        With boundaries: the smaller of the IoUs of masks and of boundaries; that of the masks with a crowd
        (Cheng et al., CVPR 2021, Sec. 5, and the authors' boundary-iou-api).
        """
        pair_start = groups.pair_start
        similarity = np.empty(pair_start[-1])

        def work(piece: tuple[int, int]) -> None:
            matching.mask_similarity(
                *piece,
                groups.detection_start,
                groups.target_start,
                pair_start,
                self.counts,
                self.runs,
                self.extents,
                targets.counts,
                targets.runs,
                targets.extents,
                is_crowd,
                similarity,
            )

        parallel_map(work, groups.pieces(), groups.threads)
        if self.boundary is None or targets.boundary is None:
            return similarity
        edges = self.boundary.similarity(targets.boundary, is_crowd, groups)
        return np.where(is_crowd[groups.pairs()[1]], similarity, np.minimum(similarity, edges))


@dataclass(frozen=True)
class Keypoints:
    """Keypoints of persons, with what the similarity needs of a target.

    Attributes:
        points: x and y in pixels.
        visible: whether a keypoint is labelled; of targets.
        boxes: x, y, width, height in pixels; of targets.
        area: in pixels; of targets.
        sigmas: one per keypoint.
    """

    points: Float64[np.ndarray, "n j 2"]
    visible: Bool[np.ndarray, "n j"]
    boxes: Float64[np.ndarray, "n 4"]
    area: Float64[np.ndarray, " n"]
    sigmas: Float64[np.ndarray, " j"]

    def take(self, index: Integer[np.ndarray, " k"]) -> "Keypoints":
        """Some of them, in the order of `index`."""
        return Keypoints(
            self.points[index], self.visible[index], self.boxes[index], self.area[index], self.sigmas
        )

    def similarity(
        self, targets: "Keypoints", is_crowd: Bool[np.ndarray, " m"], groups: Groups
    ) -> Float64[np.ndarray, " p"]:
        """OKS of the pairs of the groups; a crowd is no exception."""
        return similarity_of_pairs(
            self.points,
            targets.points,
            targets.visible,
            targets.area,
            targets.boxes,
            targets.sigmas,
            *groups.pairs(),
        )


Shapes = Boxes | Masks | Keypoints
