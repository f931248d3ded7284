"""Every object of an image by a promptable network (SAM, Sec. 5 and App. B).

A grid of points is asked, and what is unsure or found twice is dropped.

Memory does not grow with the number of points: scores exist for one batch of points at a time and at the
network's own resolution only, masks are cut from them a few at a time and kept as run lengths.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8
from torch import Tensor

from ..data.formats.image import Source
from ..kernels.compiling import parallel_map
from ..kernels.masks import enlarge
from ..kernels.masks.components import label_components
from ..rle import RleMasks
from ..types import MaskSet, PromptMasks, Prompts
from .prediction import Prediction
from .predictor import Predictor

_CUT_AT_ONCE = 1 << 25  # pixels of masks that exist as pixels at one time
_NEAR = 20.0  # pixels from the side of a crop at which a mask counts as cut off

Crop = tuple[int, int, int, int]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class FoundMasks:
    """What was found, in the order in which the suppression of doubles left it.

    Attributes:
        masks: of the whole image.
        iou: what the network expects of each.
        stability: of each, see `PromptMasks.stability`.
        points: x y of the point that was asked.
        crops: left, top, right and bottom of the crop in which it was asked.
        prediction: the same as a prediction, to be drawn and saved.
    """

    masks: RleMasks
    iou: Float32[np.ndarray, " n"]
    stability: Float32[np.ndarray, " n"]
    points: Float64[np.ndarray, "n 2"]
    crops: Int64[np.ndarray, "n 4"]
    prediction: Prediction

    def __len__(self) -> int:
        """Number of masks n."""
        return len(self.masks)


@dataclass(frozen=True)
class _Found:
    """Masks of a crop before they are put together; boxes end at the last pixel, as the authors have them."""

    masks: RleMasks
    boxes: Float[Tensor, "n 4"]
    iou: Float32[np.ndarray, " n"]
    stability: Float32[np.ndarray, " n"]
    points: Float64[np.ndarray, "n 2"]
    crops: Int64[np.ndarray, "n 4"]

    def take(self, kept: np.ndarray) -> "_Found":
        arrays = (self.iou[kept], self.stability[kept], self.points[kept], self.crops[kept])
        return _Found(self.masks[kept], self.boxes[torch.from_numpy(kept)], *arrays)


@dataclass(frozen=True)
class AutomaticMasks:
    """Finds every object of an image; the defaults are the authors'.

    Attributes:
        points_per_side: of the grid of points along each side of the image.
        points_per_batch: points that are asked at once; None for 64 on a GPU, and 4 on a processor, whose
            caches hold what is computed of so few.
        min_iou: masks of which the network expects less are dropped.
        min_stability: and those that are less stable.
        stability_offset: how far the threshold is moved to see how stable a mask is.
        box_overlap: IoU of boxes above which the worse of two masks is dropped.
        crop_layers: how often the image is cut in crops, 4, 16, ..., each of which is looked at too.
        crop_overlap: IoU of boxes above which of masks of two crops that of the larger crop is dropped.
        crop_share: of the shorter side of the image that neighbouring crops of the first layer share.
        crop_points_divisor: by how much sparser the grid becomes with each layer.
        min_area: holes of fewer pixels are filled, islands dropped.

    Raises:
        ValueError: if a number is out of its range.

    >>> import pixelwise as pw
    >>> model = pw.build("sam", image_size=32, patch=8, width=16, depth=1)
    >>> find = AutomaticMasks(points_per_side=2, min_iou=-99.0, min_stability=0.0)
    >>> find(Predictor(model), torch.rand(3, 24, 32)).masks.height
    24
    """

    points_per_side: int = 32
    points_per_batch: int | None = None
    min_iou: float = 0.88
    min_stability: float = 0.95
    stability_offset: float = 1.0
    box_overlap: float = 0.7
    crop_layers: int = 0
    crop_overlap: float = 0.7
    crop_share: float = 512 / 1500
    crop_points_divisor: int = 1
    min_area: int = 0

    def __post_init__(self) -> None:
        """Reject what cannot be."""
        for name in ("points_per_side", "points_per_batch", "crop_points_divisor"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        for name in ("box_overlap", "crop_overlap", "crop_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        for name in ("crop_layers", "min_area", "stability_offset"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")

    def __call__(self, predictor: Predictor, source: Source) -> FoundMasks:
        """Find the objects of an image.

        Args:
            predictor: of a promptable network.
            source: see `Predictor`.

        Raises:
            ValueError: as `Predictor.embed`.
        """
        image, name = predictor.read_image(source)
        size = (image.shape[1], image.shape[2])
        layers = crops_of(size, self.crop_layers, self.crop_share)
        found = _joined([self._in_crop(predictor, image, crop, layer) for crop, layer in layers], size)
        if len(layers) > 1:
            left, top, right, bottom = found.crops.T
            smallest_first = 1 / ((right - left) * (bottom - top)).astype(np.float32)
            found = found.take(_suppressed(found.boxes, smallest_first, self.crop_overlap))
        if self.min_area:
            found = self._cleaned(found)
        masks = MaskSet.of(
            found.masks,
            torch.zeros(len(found.masks), dtype=torch.int64),
            torch.from_numpy(found.iou).clamp(0, 1),
        )
        prediction = Prediction(masks, predictor.task, predictor.classes, image, name)
        return FoundMasks(found.masks, found.iou, found.stability, found.points, found.crops, prediction)

    def _in_crop(self, predictor: Predictor, image: Float[Tensor, "c H W"], crop: Crop, layer: int) -> _Found:
        """What the grid of points finds in a crop, without doubles."""
        left, top, right, bottom = crop
        embedded = predictor.embed(image[:, top:bottom, left:right])
        grid = point_grid(int(self.points_per_side / self.crop_points_divisor**layer))
        points = grid * np.array([right - left, bottom - top])
        size = (image.shape[1], image.shape[2])
        parts = []
        at_once = self.points_per_batch or (4 if predictor.device.type == "cpu" else 64)
        for start in range(0, len(points), at_once):
            some = points[start : start + at_once]
            prompts = Prompts.of(torch.from_numpy(some.astype(np.float32))[:, None])
            parts.append(self._kept(predictor.candidates(embedded, prompts), some, crop, size))
        found = _joined(parts, size)
        found = found.take(_suppressed(found.boxes, found.iou, self.box_overlap))
        corner = np.array([left, top])
        return _Found(
            found.masks, found.boxes, found.iou, found.stability, found.points + corner, found.crops
        )

    def _kept(
        self, output: PromptMasks, points: Float64[np.ndarray, "p 2"], crop: Crop, size: tuple[int, int]
    ) -> _Found:
        """The candidates of one batch of points that are good and stable, as masks of the whole image."""
        candidates = output.iou.shape[1]
        iou = output.iou.flatten().cpu().numpy()
        chosen = np.flatnonzero(iou > self.min_iou) if self.min_iou > 0 else np.arange(len(iou))
        coarse = output.coarse.flatten(0, 1)[torch.from_numpy(chosen).to(output.coarse.device)]
        rules = _Cutting.of(output, self.stability_offset)
        masks, stability = rules(coarse.cpu().numpy(), self.min_stability, crop, size)
        steady = stability >= self.min_stability if self.min_stability > 0 else np.full(len(chosen), True)
        boxes = _boxes_to_last_pixel(masks)
        whole = ~_cut_off(boxes, crop, size)
        kept = np.flatnonzero(steady)[whole]
        return _Found(
            masks[np.flatnonzero(whole)],
            boxes[torch.from_numpy(whole)],
            iou[chosen[kept]],
            stability[kept],
            points[chosen[kept] // candidates],
            np.tile(np.array(crop, np.int64), (len(kept), 1)),
        )

    def _cleaned(self, found: _Found) -> _Found:
        """Without small holes and islands, and without the doubles that this makes."""
        masks = [without_small_regions(one.decode()[0], self.min_area) for one in found.masks]
        unchanged = np.array([not changed for _, changed in masks], np.float32)
        size = (found.masks.height, found.masks.width)
        cleaned = _encoded([mask.view(np.uint8)[None] for mask, _ in masks], size)
        boxes = _boxes_to_last_pixel(cleaned)
        kept = _suppressed(boxes, unchanged, max(self.box_overlap, self.crop_overlap))
        arrays = (found.iou, found.stability, found.points, found.crops)
        return _Found(cleaned, boxes, *arrays).take(kept)


@dataclass(frozen=True)
class _Cutting:
    """How coarse scores become masks of a crop: see `kernels.masks.enlarge`."""

    rows: tuple[np.ndarray, np.ndarray]
    columns: tuple[np.ndarray, np.ndarray]
    cells: tuple[int, int]
    offset: float

    @classmethod
    def of(cls, output: PromptMasks, offset: float) -> "_Cutting":
        cells = (output.coarse.shape[2], output.coarse.shape[3])
        padded, seen = output.padded_size or cells, output.seen_size or output.padded_size or cells
        rows, columns = (enlarge.taps(*four) for four in zip(cells, padded, seen, output.size, strict=True))
        return cls(rows, columns, cells, offset)

    def __call__(
        self, coarse: Float32[np.ndarray, "n h w"], least: float, crop: Crop, size: tuple[int, int]
    ) -> tuple[RleMasks, Float32[np.ndarray, " n"]]:
        """Stable masks in the whole image, and the stability of all, a few masks at a time."""
        height, width = len(self.rows[0]), len(self.columns[0])
        few = max(1, _CUT_AT_ONCE // (height * width))
        stability, encoded = [np.empty(0, np.float32)], []
        for start in range(0, len(coarse), few):
            some = np.ascontiguousarray(coarse[start : start + few], np.float32)
            pieces = np.array_split(some, min(len(some), torch.get_num_threads()))
            cut = parallel_map(self._cut, pieces, len(pieces))
            own = np.concatenate([share for _, share in cut])
            stability.append(own)
            masks = np.concatenate([part for part, _ in cut])
            masks = masks[own >= least] if least > 0 else masks
            if (height, width) != size:
                whole = np.zeros((len(masks), *size), np.uint8)
                whole[:, crop[1] : crop[3], crop[0] : crop[2]] = masks
                masks = whole
            encoded.append(RleMasks.encode(masks, threads=torch.get_num_threads()))
        return _concatenated(encoded, size), np.concatenate(stability)

    def _cut(
        self, coarse: Float32[np.ndarray, "n h w"]
    ) -> tuple[UInt8[np.ndarray, "n H W"], Float32[np.ndarray, " n"]]:
        masks = np.empty((len(coarse), len(self.rows[0]), len(self.columns[0])), np.uint8)
        inside = np.empty((len(coarse), 2), np.int64)
        enlarge.cut(coarse, *self.rows, *self.columns, np.float32(self.offset), masks, inside)
        with np.errstate(invalid="ignore"):
            return masks, (inside[:, 0].astype(np.float32) / inside[:, 1].astype(np.float32))


def point_grid(side: int) -> Float64[np.ndarray, "n 2"]:
    """Points x y in the middle of the cells of a grid of `side` x `side`, as shares of the image."""
    if side < 1:
        return np.empty((0, 2))
    places = np.linspace(1 / (2 * side), 1 - 1 / (2 * side), side)
    x, y = np.meshgrid(places, places)
    return np.stack([x, y], -1).reshape(-1, 2)


def crops_of(size: tuple[int, int], layers: int, share: float) -> list[tuple[Crop, int]]:
    """The whole image, then for each layer the crops that cover it, with the number of the layer.

    Args:
        size: height and width of the image.
        layers: how often each side is halved.
        share: of the shorter side that neighbours share in the first layer.
    """
    height, width = size
    found: list[tuple[Crop, int]] = [((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        count = 2**layer
        shared = int(share * min(size) * 2 / count)
        w, h = (math.ceil((shared * (count - 1) + side) / count) for side in (width, height))
        for i, j in itertools.product(range(count), range(count)):
            left, top = (w - shared) * i, (h - shared) * j
            found.append(((left, top, min(left + w, width), min(top + h, height)), layer))
    return found


def without_small_regions(mask: Bool[np.ndarray, "H W"], least: int) -> tuple[Bool[np.ndarray, "H W"], bool]:
    """Fill holes and drop islands of fewer than `least` pixels; the largest island stays in any case.

    Returns:
        The mask, and whether it changed. Regions may touch at corners.
    """
    changed = False
    for holes in (True, False):
        numbers, count = label_components((mask ^ holes).view(np.uint8), connectivity=2)
        areas = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
        small = areas < least
        if not small.any():
            continue
        changed = True
        if holes:
            mask = mask | np.concatenate([[False], small])[numbers]
        else:
            kept = ~small
            if not kept.any():
                kept[areas.argmax()] = True
            mask = np.concatenate([[False], kept])[numbers]
    return mask, changed


def _encoded(masks: list[UInt8[np.ndarray, "_ H W"]], size: tuple[int, int]) -> RleMasks:
    return _concatenated([RleMasks.encode(one) for one in masks], size)


def _concatenated(sets: list[RleMasks], size: tuple[int, int]) -> RleMasks:
    return RleMasks.concatenate([RleMasks.encode(np.zeros((0, *size), np.uint8)), *sets])


def _joined(parts: list[_Found], size: tuple[int, int]) -> _Found:
    return _Found(
        _concatenated([part.masks for part in parts], size),
        torch.cat([torch.zeros(0, 4), *(part.boxes for part in parts)]),
        np.concatenate([np.empty(0, np.float32), *(part.iou for part in parts)]),
        np.concatenate([np.empty(0, np.float32), *(part.stability for part in parts)]),
        np.concatenate([np.empty((0, 2)), *(part.points for part in parts)]),
        np.concatenate([np.empty((0, 4), np.int64), *(part.crops for part in parts)]),
    )


def _boxes_to_last_pixel(masks: RleMasks) -> Float[Tensor, "n 4"]:
    """Left, top, and the last column and row; zeros where a mask is empty."""
    left, top, width, height = masks.boxes.astype(np.float32).T
    ends = np.maximum(left + width - 1, 0), np.maximum(top + height - 1, 0)
    return torch.from_numpy(np.stack([left, top, *ends], 1))


def _cut_off(boxes: Float[Tensor, "n 4"], crop: Crop, size: tuple[int, int]) -> Bool[np.ndarray, " n"]:
    """Whether a box reaches a side of the crop that is no side of the image."""
    of_crop = (boxes - torch.tensor(crop)).abs() <= _NEAR
    of_image = (boxes - torch.tensor([0, 0, size[1], size[0]])).abs() <= _NEAR
    cut: Bool[np.ndarray, " n"] = (of_crop & ~of_image).any(1).numpy()
    return cut


def _suppressed(
    boxes: Float[Tensor, "n 4"], scores: Float32[np.ndarray, " n"], overlap: float
) -> Int64[np.ndarray, " k"]:
    from torchvision.ops import nms

    kept: Int64[np.ndarray, " k"] = nms(boxes, torch.from_numpy(scores), overlap).numpy()
    return kept
