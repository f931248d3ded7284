"""Test-time augmentation: the answers to several views of an image, brought back and made one.

    image --View.seen--> f --annotation or scores--> undone --> fused

A view mirrors, turns and resizes. Whatever is found in it is undone exactly: maps and masks pixel by pixel,
boxes and points by their coordinates, and joints of the left and of the right change places with the mirror.
Of scores of pixels the probabilities are averaged; objects are fused where they are the same in several views
(see `fusion.py`). Crops are views too: `tiling.tiled` and `objects_in_tiles` put those together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..decode import mean_scores
from ..rle import RleMasks, run_lengths
from ..tiling import Network
from ..types import (
    Annotation,
    Boxes,
    ClassMasks,
    DenseLogits,
    Keypoints,
    LabelMap,
    MaskSet,
    PanopticMap,
    Skeleton,
)

_LARGEST = 16


@dataclass(frozen=True)
class View:
    """A way to look at an image: mirrored first, then turned, then resized.

    Attributes:
        mirror: whether left and right are exchanged.
        turns: quarter turns counterclockwise, 0 to 3.
        scale: factor of height and width.

    Raises:
        ValueError: on other turns, or a scale that is not above 0 and at most 16.

    >>> View(turns=1).size_of((30, 40))
    (40, 30)
    """

    mirror: bool = False
    turns: int = 0
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no view."""
        if self.turns not in (0, 1, 2, 3):
            raise ValueError(f"turns must be 0 to 3 quarter turns, got {self.turns!r:.40}")
        if not 0 < self.scale <= _LARGEST:  # also catches nan
            raise ValueError(f"scale must be positive and at most {_LARGEST}, got {self.scale!r:.40}")

    def seen(self, image: Float[Tensor, "b c *grid"]) -> Float[Tensor, "b c *_"]:
        """The image in this view; of a volume, each slice."""
        image = self.turned(image)
        wanted = self.resized((image.shape[-2], image.shape[-1]))
        if wanted != tuple(image.shape[-2:]):
            if image.ndim != 4:
                raise ValueError("views of other sizes are for images, not for volumes")
            image = F.interpolate(image, wanted, mode="bilinear", antialias=True)
        return image

    def turned(self, maps: Tensor) -> Tensor:
        """Maps "... H W" mirrored and turned."""
        maps = maps.flip(-1) if self.mirror else maps
        return maps.rot90(self.turns, (-2, -1)) if self.turns else maps

    def turned_back(self, maps: Tensor) -> Tensor:
        """The inverse of `turned`."""
        maps = maps.rot90(-self.turns, (-2, -1)) if self.turns else maps
        return maps.flip(-1) if self.mirror else maps

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width after resizing."""
        return max(1, round(size[0] * self.scale)), max(1, round(size[1] * self.scale))

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width in this view of an image of height and width `size`."""
        return self.resized(self._turned_size(size))

    def _turned_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return (size[1], size[0]) if self.turns % 2 else size

    def points_back(self, points: Float[Tensor, "*n 2"], size: tuple[int, int]) -> Float[Tensor, "*n 2"]:
        """Points x y of the view in pixels of the image, whose height and width are `size`."""
        height, width = self._turned_size(size)
        seen = self.size_of(size)
        x, y = points[..., 0] * (width / seen[1]), points[..., 1] * (height / seen[0])
        for _ in range(self.turns):
            x, y = height - y, x
            height, width = width, height
        return torch.stack([width - x if self.mirror else x, y], -1)


MIRROR, TURN = (View(), View(mirror=True)), tuple(View(turns=turns) for turns in range(4))
PRESETS: dict[str, tuple[View, ...]] = {
    "none": (View(),),
    "mirror": MIRROR,
    "mirrors": (*MIRROR, View(turns=2), View(mirror=True, turns=2)),
    "turns": TURN,
    "all": (*TURN, *(replace(view, mirror=True) for view in TURN)),
}


def views_of(
    given: str | Sequence[View] | None, flip: bool = False, scales: Sequence[float] = (1.0,)
) -> tuple[View, ...]:
    """The views that are meant: those given, with their mirror images, at every scale.

    Args:
        given: views, or "none", "mirror", "mirrors" (also upside down), "turns" (by quarters) or "all".
        flip: whether the mirror image of each is looked at too.
        scales: factors of each view's own.

    Raises:
        ValueError: if there is no such preset, no view, or no scale.

    >>> len(views_of("mirrors", scales=(0.5, 1.0)))
    8
    """
    if not scales or not all(0 < scale <= _LARGEST for scale in scales):  # also catches nan
        raise ValueError(f"scales must be positive, at most {_LARGEST} and at least one, got {tuple(scales)}")
    if isinstance(given, str) and given not in PRESETS:
        raise ValueError(f"views are {', '.join(PRESETS)}, got {given!r:.40}")
    base = PRESETS[given] if isinstance(given, str) else tuple(given or (View(),))
    if flip:
        base += tuple(replace(view, mirror=not view.mirror) for view in base)
    return tuple(dict.fromkeys(replace(view, scale=view.scale * scale) for view in base for scale in scales))


# --- scores of pixels -----------------------------------------------------------------------------


def in_view(f: Network, view: View, flip_pairs: Sequence[tuple[int, int]] = ()) -> Network:
    """`f` on a view of the image; its scores are brought back, as coarse as they are.

    Args:
        f: image -> DenseLogits.
        view: how the image is looked at.
        flip_pairs: labels that change places in the mirror, such as left and right arm.
    """

    def apply(image: Float[Tensor, "b c *grid"]) -> DenseLogits:
        output = f(view.seen(image))
        # Straight from the coarse map to the size of the image: one interpolation, not two. It is the same
        # from left to right as from right to left, so that a coarse map is mirrored as well as a fine one.
        coarse = view.turned_back(output.coarse)
        if view.mirror and flip_pairs:
            order = list(range(coarse.shape[1]))
            for first, second in flip_pairs:
                order[first], order[second] = second, first
            coarse = coarse[:, order]
        return DenseLogits(coarse, tuple(image.shape[2:]), (), output.align_corners)

    return apply


def averaged(
    f: Network,
    views: Sequence[View],
    exclusive: bool = True,
    flip_pairs: Sequence[tuple[int, int]] = (),
) -> Network:
    """`f`, averaged over several views: scores at the size of the image that give the mean probabilities.

    Args:
        f: image -> DenseLogits.
        views: at least one.
        exclusive: whether probabilities are the softmax over the classes, or the sigmoid of each.
        flip_pairs: labels that change places in the mirror, such as left and right arm.
    """

    def apply(image: Float[Tensor, "b c *grid"]) -> DenseLogits:
        scores = mean_scores((in_view(f, view, flip_pairs)(image).logits for view in views), exclusive)
        return DenseLogits(scores, tuple(image.shape[2:]))

    return apply


def flipped(f: Network, exclusive: bool = True, flip_pairs: Sequence[tuple[int, int]] = ()) -> Network:
    """`f`, averaged over the image and its mirror image (left and right exchanged); see `averaged`."""
    return averaged(f, MIRROR, exclusive, flip_pairs)


def scaled(f: Network, scales: Sequence[float], exclusive: bool = True) -> Network:
    """`f`, averaged over the image at several sizes; see `averaged`.

    Args:
        f: image -> DenseLogits.
        scales: factors of height and width, such as (0.75, 1.0, 1.25).
        exclusive: as of `averaged`.

    Raises:
        ValueError: if there is no scale or one is not above 0 and at most 16.
    """
    return averaged(f, views_of(None, scales=scales), exclusive)


# --- annotations ----------------------------------------------------------------------------------


@singledispatch
def undone(
    annotation: Annotation, view: View, size: tuple[int, int], skeleton: Skeleton | None = None
) -> Annotation:
    """What was found in a view, in the image.

    Args:
        annotation: in pixels of the view.
        view: that was looked at.
        size: height and width of the image.
        skeleton: says which joints change places in a mirror; needed for `Keypoints`.

    Raises:
        ValueError: if there are joints and no skeleton.
    """
    raise ValueError(f"{type(annotation).__name__} of a view cannot be undone")


@undone.register
def _(annotation: LabelMap, view: View, size: tuple[int, int], skeleton: Skeleton | None = None) -> LabelMap:
    return LabelMap(_maps_back(annotation.labels, view, size), annotation.spacing)


@undone.register
def _(
    annotation: ClassMasks, view: View, size: tuple[int, int], skeleton: Skeleton | None = None
) -> ClassMasks:
    probabilities = annotation.probabilities
    if probabilities is not None:
        probabilities = _maps_back(probabilities, view, size)
    return ClassMasks(_maps_back(annotation.masks, view, size), probabilities)


@undone.register
def _(annotation: Boxes, view: View, size: tuple[int, int], skeleton: Skeleton | None = None) -> Boxes:
    return replace(annotation, boxes=_boxes_back(annotation.boxes, view, size))


@undone.register
def _(annotation: MaskSet, view: View, size: tuple[int, int], skeleton: Skeleton | None = None) -> MaskSet:
    masks = run_lengths(annotation)
    back = torch.from_numpy(masks.resize(*view._turned_size(size)).decode())
    return replace(annotation, masks=RleMasks.encode(view.turned_back(back).contiguous()))


@undone.register
def _(
    annotation: PanopticMap, view: View, size: tuple[int, int], skeleton: Skeleton | None = None
) -> PanopticMap:
    id_map = _maps_back(annotation.id_map, view, size)
    kept = torch.isin(annotation.ids, id_map)
    columns = (column[kept] for column in (annotation.ids, annotation.classes, annotation.is_crowd))
    return PanopticMap(id_map, *columns)


@undone.register
def _(
    annotation: Keypoints, view: View, size: tuple[int, int], skeleton: Skeleton | None = None
) -> Keypoints:
    points, visible = view.points_back(annotation.points, size), annotation.visible
    if view.mirror:
        if skeleton is None:
            raise ValueError("joints of a mirrored view need a skeleton that says which change places")
        order = list(skeleton.flipped)
        points, visible = points[:, order], visible[:, order]
    seen = view.size_of(size)
    shrunk = size[0] * size[1] / (seen[0] * seen[1])
    return replace(
        annotation,
        points=points,
        visible=visible,
        areas=annotation.areas * shrunk,
        boxes=_boxes_back(annotation.boxes, view, size),
    )


def _boxes_back(boxes: Float[Tensor, "n 4"], view: View, size: tuple[int, int]) -> Float[Tensor, "n 4"]:
    corners = view.points_back(boxes.reshape(-1, 2, 2), size)
    return torch.cat([corners.amin(1), corners.amax(1)], 1)


def _maps_back(maps: Tensor, view: View, size: tuple[int, int]) -> Tensor:
    """Maps "... h w" of the view, by nearest neighbour where it has another size."""
    wanted = view._turned_size(size)
    if tuple(maps.shape[-2:]) != wanted:
        y, x = (
            ((2 * torch.arange(new, device=maps.device) + 1) * old) // (2 * new)
            for new, old in zip(wanted, maps.shape[-2:], strict=True)
        )
        maps = maps[..., y, :][..., x]
    return view.turned_back(maps)


def found_in_views(
    predict: Iterable[Annotation], views: Sequence[View], size: tuple[int, int], skeleton: Skeleton | None
) -> list[Annotation]:
    """What was found in each of some views, in the image."""
    return [undone(one, view, size, skeleton) for one, view in zip(predict, views, strict=True)]
