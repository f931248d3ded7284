"""Sets of masks as run lengths: their memory follows their outlines, not their area."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Integer, UInt8, UInt32
from torch import Tensor

from ..kernels import compiling
from ..kernels.masks import bits, rle
from .coco import MOST_PIXELS, runs_of, size_of, strings_of
from .polygons import Polygon, outlines, rasterised

Masks = (
    Bool[np.ndarray, "n H W"] | UInt8[np.ndarray, "n H W"] | Bool[Tensor, "n H W"] | UInt8[Tensor, "n H W"]
)


@dataclass(frozen=True, eq=False)
class RleMasks:
    """n masks of one image as run lengths, written as COCO writes them; `pycocotools.mask` for whole sets.

    Runs go down the columns and start with a run of zeros. `masks[i]` is a set of one mask, `masks[2:5]` or
    `masks[order]` a set of several. A set never changes; a run of length 0 counts for nothing.

    Attributes:
        counts: the runs of all masks, one mask after the other.
        offsets: where the runs of each mask start in `counts`, and the end.
        height: in pixels.
        width: in pixels.

    Raises:
        ValueError: if the runs of a mask do not fill the image.

    >>> masks = RleMasks.encode(np.array([[[0, 1, 1], [0, 0, 1]]], bool))
    >>> masks.counts.tolist(), masks.to_coco()
    ([2, 1, 1, 2], [{'size': [2, 3], 'counts': '2111'}])
    >>> masks.area.tolist(), masks.boxes.tolist()
    ([3], [[1.0, 0.0, 2.0, 2.0]])
    """

    counts: UInt32[np.ndarray, " r"]
    offsets: Int64[np.ndarray, " n1"]
    height: int
    width: int

    def __post_init__(self) -> None:
        """Reject runs that are no masks."""
        if self.height < 0 or self.width < 0 or self.height * self.width > MOST_PIXELS:
            raise ValueError(f"masks must have 0 to 2**32 - 1 pixels, got {self.height} x {self.width}")
        for name, dtype in ("counts", np.uint32), ("offsets", np.int64):
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != 1:
                raise ValueError(
                    f"{name} must be a flat array of {dtype.__name__}, got {array.dtype} {array.shape}"
                )
            object.__setattr__(self, name, np.ascontiguousarray(array))
        if not len(self.offsets) or self.offsets[0] != 0 or self.offsets[-1] != len(self.counts):
            raise ValueError(
                f"offsets must go from 0 to {len(self.counts)}, got {self.offsets[:80].tolist()}"
            )
        wrong = rle.first_wrong(self.counts, self.offsets, self.height * self.width)
        if wrong >= 0:
            filled = self.counts[self.offsets[wrong] : self.offsets[wrong + 1]].sum(dtype=np.int64)
            raise ValueError(
                f"the run lengths of mask {wrong} fill {filled} pixels of a mask of "
                f"{self.height} x {self.width}"
            )

    # --- in and out ---------------------------------------------------------------------------

    @classmethod
    def encode(cls, masks: Masks, *, threads: int = 1) -> "RleMasks":
        """Run lengths of masks, as `pycocotools.mask.encode`, but from `n H W`; every value but 0 is set.

        Arrays that lie row by row or column by column are read as they are; others are copied first.

        Args:
            masks: True, or not 0, where a mask is.
            threads: that share the masks.

        Raises:
            ValueError: if the masks are not three-dimensional, or neither bool nor uint8.
        """
        array = masks.detach().cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)
        if array.ndim != 3 or array.dtype not in (np.bool_, np.uint8):
            raise ValueError(f"masks must be bool or uint8 of shape n H W, got {array.dtype} {array.shape}")
        n, height, width = array.shape
        by_columns = array.transpose(0, 2, 1)
        if by_columns.flags.c_contiguous:
            encode, pixels = rle.encode_columns, by_columns.view(np.uint8).reshape(n, height * width)
        else:
            encode, pixels = rle.encode_rows, np.ascontiguousarray(array).view(np.uint8)
        parts = compiling.parallel_map(encode, np.array_split(pixels, max(1, min(threads, n))), threads)
        return cls(*_joined(parts), height, width)

    @classmethod
    def from_map(cls, numbers: Integer[np.ndarray, "H W"], ids: Sequence[int]) -> "RleMasks":
        """The masks of numbered regions, all in one pass over the map.

        Args:
            numbers: of the region of each pixel; pixels of other numbers are in no mask.
            ids: the number of each mask, each once; one that no pixel has gives an empty mask.

        Raises:
            ValueError: if a number is there twice.

        >>> RleMasks.from_map(np.array([[1, 2], [1, 7]]), [7, 1]).area.tolist()
        [1, 2]
        """
        height, width = numbers.shape
        order = np.argsort(np.asarray(ids, np.int64), kind="stable")
        known = np.asarray(ids, np.int64)[order]
        if (known[1:] == known[:-1]).any():
            raise ValueError("the numbers of regions must differ")
        pixels = np.ascontiguousarray(numbers.T).ravel()  # down the columns
        starts = np.flatnonzero(np.concatenate([[pixels.size > 0], pixels[1:] != pixels[:-1]]))
        ends = np.append(starts[1:], pixels.size)[: len(starts)]
        place = np.searchsorted(known, pixels[starts])
        meant = (place < len(known)) & (np.append(known, 0)[place] == pixels[starts])
        # Each mask ends in an empty run behind the last pixel.
        behind = np.full(len(known), pixels.size)
        region = np.concatenate([order[place[meant]], np.arange(len(known))])
        by_region = np.argsort(region, kind="stable")
        region = region[by_region]
        starts = np.concatenate([starts[meant], behind])[by_region]
        ends = np.concatenate([ends[meant], behind])[by_region]
        first = np.diff(region, prepend=-1) > 0
        before = np.where(first, 0, np.roll(ends, 1))  # where the run before it in the same region ends
        runs = np.stack([starts - before, ends - starts], 1)
        last = np.append(first[1:], True)[: len(first)]
        kept = np.stack([~last | (runs[:, 0] > 0) | (first & last), ~last], 1)
        lengths = np.bincount(region, weights=kept.sum(1), minlength=len(known))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(runs[kept].astype(np.uint32), offsets, height, width)

    def decode(self, *, threads: int = 1) -> Bool[np.ndarray, "n H W"]:
        """The masks, row by row; `.view(np.uint8)` gives zeros and ones without a copy."""
        masks = np.zeros((len(self), self.height, self.width), np.uint8)

        def paint(part: slice) -> None:
            rle.decode(self.counts, self.offsets[part.start : part.stop + 1], masks[part])

        compiling.parallel_map(paint, _slices(len(self), threads), threads)
        return masks.view(np.bool_)

    @classmethod
    def from_coco(cls, rles: Sequence[Mapping[str, Any]], size: tuple[int, int] | None = None) -> "RleMasks":
        """Masks from COCO's dictionaries, compressed (str or bytes) or not (list).

        Args:
            rles: `{"size": [height, width], "counts": ...}` for each mask.
            size: height and width that they must have; without it, no dictionaries give masks of 0 x 0.

        Raises:
            ValueError: on differing sizes and on counts that are no mask of that size.

        >>> RleMasks.from_coco([{"size": [2, 2], "counts": [1, 2, 1]}]).decode().astype(int).tolist()
        [[[0, 1], [1, 0]]]
        """
        height, width = size_of(rles) if rles or size is None else size
        if size is not None and (height, width) != tuple(size):
            raise ValueError(f"masks must be of size {tuple(size)}, got {(height, width)}")
        return cls(*runs_of(rles, height * width), height, width)

    def to_coco(self) -> list[dict[str, Any]]:
        """COCO's dictionaries, compressed, with `str` counts that JSON can hold."""
        return [
            {"size": [self.height, self.width], "counts": text}
            for text in strings_of(self.counts, self.offsets)
        ]

    @classmethod
    def from_polygons(
        cls,
        polygons: Sequence[
            Sequence[Sequence[float | int] | Float[np.ndarray, " _"] | Integer[np.ndarray, " _"]]
        ],
        height: int,
        width: int,
        *,
        even_odd: bool = False,
    ) -> "RleMasks":
        """Masks drawn from polygons, bit-identical with pycocotools' `frPyObjects` and `merge`.

        Args:
            polygons: for each mask its parts `[x0, y0, x1, y1, ...]` in pixels, which are united; the corner
                of the image is (0, 0), the centre of its first pixel (0.5, 0.5).
            height: in pixels.
            width: in pixels.
            even_odd: set what lies in an odd number of parts, so that parts inside of others are holes
                (COCO's rule fills them).

        Raises:
            ValueError: on a part with fewer than three points or with coordinates that are not finite.

        >>> square, hole = [0, 0, 3, 0, 3, 3, 0, 3], [1, 1, 2, 1, 2, 2, 1, 2]
        >>> RleMasks.from_polygons([[square, hole]], 3, 3, even_odd=True).decode().astype(int).tolist()
        [[[1, 1, 1], [1, 0, 1], [1, 1, 1]]]
        """
        return cls(*rasterised(polygons, height, width, even_odd), height, width)

    @classmethod
    def from_boxes(
        cls, boxes: Float[np.ndarray, "n 4"] | Integer[np.ndarray, "n 4"], height: int, width: int
    ) -> "RleMasks":
        """Masks of boxes (left, top, width, height) in pixels, as pycocotools' `frPyObjects` draws them.

        Raises:
            ValueError: if a number is not finite.
        """
        left, top, across, down = np.asarray(boxes, np.float64).reshape(-1, 4).T
        right, bottom = left + across, top + down
        corners = np.stack([left, top, left, bottom, right, bottom, right, top], axis=1)
        return cls.from_polygons([[box] for box in corners], height, width)

    def polygons(self) -> list[list[Polygon]]:
        """The outlines of each mask: polygons with holes along the edges of the pixels.

        Pixels that touch at a side are in one polygon; pixels that touch only at a corner are not, but a hole
        goes through such corners. Polygons are listed by their topmost, then leftmost pixel. Drawing the
        rings of a mask with `from_polygons(..., even_odd=True)` gives the mask back.

        >>> RleMasks.encode(np.ones((1, 2, 3), bool)).polygons()[0][0].outer.tolist()
        [[0, 0], [3, 0], [3, 2], [0, 2]]
        """
        found: list[list[Polygon]] = []
        for mask, (x, y, width, height) in zip(self, self._boxes().tolist(), strict=True):
            found.append(outlines(mask.crop(x, y, width, height).decode()[0], x, y) if width else [])
        return found

    # --- a sequence ---------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of masks n."""
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator["RleMasks"]:
        """Sets of one mask each."""
        return (self[i] for i in range(len(self)))

    def __getitem__(
        self, index: int | slice | list[int] | Integer[np.ndarray, " m"] | Bool[np.ndarray, " n"]
    ) -> "RleMasks":
        """The masks at an index, a slice, a list of indices or where a Boolean array says so.

        Raises:
            IndexError: if there is no such mask.
        """
        chosen = np.atleast_1d(np.arange(len(self))[index])
        lengths = np.diff(self.offsets)[chosen]
        offsets = np.zeros(len(chosen) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], lengths)
        return RleMasks(self.counts[places], offsets, self.height, self.width)

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same runs for the same image size."""
        return (
            isinstance(other, RleMasks)
            and (self.height, self.width) == (other.height, other.width)
            and np.array_equal(self.offsets, other.offsets)
            and np.array_equal(self.counts, other.counts)
        )

    __hash__ = None  # type: ignore[assignment]

    @staticmethod
    def concatenate(sets: Sequence["RleMasks"]) -> "RleMasks":
        """All masks of sets of one image size, in order.

        Raises:
            ValueError: if there is no set, or if sizes differ.
        """
        if not sets:
            raise ValueError("concatenate needs at least one set of masks, got none")
        for other in sets:
            sets[0]._same_size(other)
        return RleMasks(*_joined([(s.counts, s.offsets) for s in sets]), sets[0].height, sets[0].width)

    # --- measures -----------------------------------------------------------------------------

    @property
    def area(self) -> Int64[np.ndarray, " n"]:
        """Pixels of each mask."""
        return rle.areas(self.counts, self.offsets)

    @property
    def boxes(self) -> Float64[np.ndarray, "n 4"]:
        """Left, top, width and height of each mask in pixels, as pycocotools' `toBbox`; zeros where empty."""
        return self._boxes().astype(np.float64)

    def _boxes(self) -> Int64[np.ndarray, "n 4"]:
        return rle.boxes(self.counts, self.offsets, self.height)

    def iou(
        self, other: "RleMasks", is_crowd: Bool[np.ndarray, " m"] | None = None
    ) -> Float64[np.ndarray, "n m"]:
        """Intersection over union of each mask with each of `other`, as `pycocotools.mask.iou`.

        Where `is_crowd` of the other mask, the intersection over the area of this one's mask; 0 where both
        are empty.

        Raises:
            ValueError: if sizes differ, or if `is_crowd` does not go with `other`.
        """
        self._same_size(other)
        crowd = (
            np.zeros(len(other), np.bool_) if is_crowd is None else np.ascontiguousarray(is_crowd, np.bool_)
        )
        if crowd.shape != (len(other),):
            raise ValueError(
                f"is_crowd must have one value for each of {len(other)} masks, got {crowd.shape}"
            )
        return bits.iou(self.counts, self.offsets, other.counts, other.offsets, crowd, self.height)

    def non_maximum_suppression(self, threshold: float) -> Int64[np.ndarray, " k"]:
        """Indices of the masks that are kept of a set in order of falling score.

        A mask is dropped where its IoU with a kept mask before it is above `threshold`.
        """
        return np.flatnonzero(bits.suppress(self.counts, self.offsets, float(threshold), self.height))

    # --- new masks ----------------------------------------------------------------------------

    def merge(self, *, intersect: bool = False) -> "RleMasks":
        """One mask: the union of all, or their intersection, as `pycocotools.mask.merge`.

        Of no masks the union is empty and the intersection full.
        """
        if intersect:
            return self.complement().merge().complement()
        groups = np.array([0, len(self)])
        return self._with(*bits.unite(self.counts, self.offsets, groups, self.height, self.width))

    def complement(self) -> "RleMasks":
        """Masks that are set where these are not."""
        return self._with(*rle.complement(self.counts, self.offsets))

    def resize(self, height: int, width: int) -> "RleMasks":
        """Masks of another size by nearest neighbour.

        A pixel takes the value of the old pixel that its centre lies in: row y comes from row
        `floor((y + 1/2) * old_height / height)`; the "nearest-exact" of PyTorch.

        Raises:
            ValueError: if pixels are asked of masks that have none, or a length is negative.
        """
        if min(height, width) < 0 or (height and not self.height) or (width and not self.width):
            raise ValueError(f"cannot resize masks of {self.height} x {self.width} to {height} x {width}")
        rows, columns = _nearest(self.height, height), _nearest(self.width, width)
        row_of = np.searchsorted(rows, np.arange(self.height + 1)).astype(np.int64)
        return self._gathered(columns, row_of)

    def crop(self, x: int, y: int, width: int, height: int) -> "RleMasks":
        """What lies in a window, which must lie in the image.

        Args:
            x: its left column.
            y: its top row.
            width: its columns.
            height: its rows.

        Raises:
            ValueError: if the window leaves the image.
        """
        if min(x, y, width, height) < 0 or x + width > self.width or y + height > self.height:
            raise ValueError(
                f"the window of {width} x {height} at ({x}, {y}) leaves the image of "
                f"{self.width} x {self.height}"
            )
        row_of = np.clip(np.arange(self.height + 1) - y, 0, height)
        return self._gathered(np.arange(x, x + width), row_of)

    def erode(self, radius: int) -> "RleMasks":
        """Masks without the pixels from which a square of side `2 * radius + 1` sticks out.

        Nothing is set outside of the image, so masks lose pixels at its border too.

        Raises:
            ValueError: if the radius is negative.
        """
        return self._eroded(radius, subtract=False)

    def boundary(self, dilation_ratio: float = 0.02, *, radius: int | None = None) -> "RleMasks":
        """The band of mask pixels along the outline: the mask without its erosion.

        As `mask_to_boundary` of the official code of "Boundary IoU" (Cheng et al., CVPR 2021), which erodes
        by a square `radius` times; the border of the image is outline.

        Args:
            dilation_ratio: width of the band as a fraction of the image's diagonal, at least one pixel.
            radius: width of the band in pixels, instead of the fraction.

        Raises:
            ValueError: if the radius or the ratio is negative.
        """
        if radius is None:
            if not 0 <= dilation_ratio < np.inf:
                raise ValueError(f"dilation_ratio must be at least 0 and finite, got {dilation_ratio}")
            radius = max(1, round(dilation_ratio * float(np.sqrt(self.height**2 + self.width**2))))
        return self._eroded(radius, subtract=True)

    # --- inside -------------------------------------------------------------------------------

    def _eroded(self, radius: int, subtract: bool) -> "RleMasks":
        if radius < 0:
            raise ValueError(f"the radius must be at least 0 pixels, got {radius}")
        radius = min(radius, max(self.height, self.width))
        return self._with(*bits.erode(self.counts, self.offsets, radius, self.height, self.width, subtract))

    def _gathered(self, columns: Int64[np.ndarray, " w"], row_of: Int64[np.ndarray, " h"]) -> "RleMasks":
        runs = rle.gather(self.counts, self.offsets, self.height, columns, row_of)
        return RleMasks(*runs, int(row_of[-1]), len(columns))

    def _with(self, counts: UInt32[np.ndarray, " r"], offsets: Int64[np.ndarray, " n1"]) -> "RleMasks":
        return RleMasks(counts, offsets, self.height, self.width)

    def _same_size(self, other: "RleMasks") -> None:
        if (self.height, self.width) != (other.height, other.width):
            raise ValueError(
                f"masks must be of one size, got {self.height} x {self.width} "
                f"and {other.height} x {other.width}"
            )


@runtime_checkable
class Instances(Protocol):
    """Masks of one image in some form: what `pixelwise.types.MaskSet` offers to this file."""

    @property
    def masks(self) -> Any:
        """A tensor "n H W", or run lengths."""

    @property
    def dense(self) -> Tensor:
        """The masks as one tensor "n H W"."""


def run_lengths(instances: Instances) -> RleMasks:
    """The masks of one image as run lengths, whatever form they have."""
    masks = instances.masks
    return masks if isinstance(masks, RleMasks) else RleMasks.encode(instances.dense)


def _nearest(old: int, new: int) -> Int64[np.ndarray, " new"]:
    """The old pixel in which the centre of each new one lies."""
    return (2 * np.arange(new) + 1) * old // (2 * new) if new else np.zeros(0, np.int64)


def _slices(n: int, threads: int) -> list[slice]:
    ends = np.linspace(0, n, max(1, threads) + 1).astype(int).tolist()
    return [slice(start, end) for start, end in pairwise(ends)]


def _joined(
    parts: Sequence[tuple[UInt32[np.ndarray, " _"], Int64[np.ndarray, " _"]]],
) -> tuple[UInt32[np.ndarray, " r"], Int64[np.ndarray, " n1"]]:
    """Counts and offsets of several sets as one."""
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([np.diff(offsets) for _, offsets in parts])
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return np.concatenate([counts for counts, _ in parts]), offsets
