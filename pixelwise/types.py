"""The core types: what flows from a file to a prediction. Read this file first.

    file -> Sample -> Batch -> model -> Output -> criterion -> loss
                                              -> decode -> Annotation -> metric -> Report

An annotation is a target or a prediction: `LabelMap`, `ClassMasks`, `Boxes`, `MaskSet`, `PanopticMap` or
`Keypoints`. An output is what a network says before it is decoded: `DenseLogits`, `MaskLogits`,
`RegionLogits`, `Heatmaps`, `PromptMasks`, `Tracked`, or a type that one paper defines in its own file.

Everything here is frozen. Values that hold tensors are pytrees: `torch.export`, `torch.compile` and
`tree_map` look through them, and `.to(...)` moves all their tensors at once.

Letters in shapes: b batch, c channels, k classes, n instances, j joints, q queries, h w size of a map, H W
size of the image, *grid the size of an image or a volume. Boxes are x1 y1 x2 y2 in pixels, from the corner of
the image; points are x y in pixels.
"""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, dataclass_transform, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Integer, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from .wording import brief

T = TypeVar("T")
V = TypeVar("V", bound="Value")

Color = tuple[int, int, int]
STAGES = ("c1", "c2", "c3", "c4", "c5")


@dataclass_transform(frozen_default=True)
def value(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass that torch.export, torch.compile and pytrees understand."""
    cls = dataclass(frozen=True)(cls)
    torch.export.register_dataclass(cls)
    return cls


class Value:
    """Base of every value that holds tensors."""

    def to(self: V, *args: Any, **kwargs: Any) -> V:
        """Move or cast every tensor inside, as `Tensor.to` does; other fields stay."""
        return self._each(lambda x: x.to(*args, **kwargs))

    def pin_memory(self: V) -> V:
        """Copy every tensor inside to page-locked memory (DataLoader calls this)."""
        return self._each(lambda x: x.pin_memory())

    def _each(self: V, f: Any) -> V:
        changed: V = pytree.tree_map(lambda x: f(x) if isinstance(x, Tensor) else x, self)
        return changed


# --- the task -----------------------------------------------------------------------------------


def voc_palette(count: int) -> tuple[Color, ...]:
    """The colours of PASCAL VOC's devkit: the bits of the class number, dealt to r, g and b.

    >>> voc_palette(3)
    ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    """
    colors = []
    for number in range(count):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= ((number >> (3 * bit + channel)) & 1) << (7 - bit)
        colors.append((rgb[0], rgb[1], rgb[2]))
    return tuple(colors)


@dataclass(frozen=True)
class Skeleton:
    """The joints of an object and how they belong together.

    Attributes:
        names: of the joints.
        edges: pairs of joints that a picture connects.
        flip_pairs: pairs of joints that change places when the image is mirrored.
        sigmas: standard deviation of the annotation of each joint, relative to the size of the object, for
            OKS; empty for the same value everywhere.

    Raises:
        ValueError: on a joint that does not exist, or another number of sigmas.

    >>> Skeleton(("left eye", "right eye"), edges=((0, 1),), flip_pairs=((0, 1),)).flipped
    (1, 0)
    """

    names: tuple[str, ...]
    edges: tuple[tuple[int, int], ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Reject joints that do not exist."""
        for first, second in (*self.edges, *self.flip_pairs):
            if not (0 <= first < len(self.names) and 0 <= second < len(self.names)):
                raise ValueError(f"a skeleton of {len(self.names)} joints has no pair {(first, second)}")
        if self.sigmas and len(self.sigmas) != len(self.names):
            raise ValueError(f"{len(self.names)} joints need as many sigmas, got {len(self.sigmas)}")

    def __len__(self) -> int:
        """Number of joints j."""
        return len(self.names)

    @property
    def flipped(self) -> tuple[int, ...]:
        """For each joint, the one that takes its place in the mirrored image."""
        order = list(range(len(self.names)))
        for first, second in self.flip_pairs:
            order[first], order[second] = second, first
        return tuple(order)


@dataclass(frozen=True)
class ClassTable:
    """The classes of a data set, declared once: they set head width, loss, metrics and colours.

    Where every pixel has a class, background is a class like any other, and a binary task has two classes.
    For boxes, instances and keypoints the table holds the classes of objects only, without a background.

    Attributes:
        names: one name per class; the label of a class is its position.
        colors: one (r, g, b) in 0..255 per class.
        ignore: label of pixels that count neither in losses nor in metrics.
        exclusive: whether a pixel has exactly one class (softmax); otherwise a sigmoid per class.
        things: labels of the countable classes (instances), empty for purely semantic tasks.
        skeleton: the joints of an object, for keypoints.
        ids: the number of each class in the files of its data set, such as COCO's category ids, so that
            predictions are written with the same; empty where files name none.
        flip_pairs: pairs of labels that change places when the image is mirrored: left and right arm.

    >>> table = ClassTable.of("sky", "road")
    >>> len(table), table.names[1]
    (2, 'road')
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    ignore: int = 255
    exclusive: bool = True
    things: tuple[int, ...] = ()
    skeleton: Skeleton | None = None
    ids: tuple[int, ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        """Reject a table that cannot be a task.

        Raises:
            ValueError: on fewer than one class, duplicate names, missing or impossible colours, an ignore
                label that is also a class, a thing that is no class, ids that do not tell classes apart, or a
                class that is mirrored twice.
        """
        if not self.names:
            raise ValueError("a class table needs at least one class, got none")
        if len(set(self.names)) < len(self.names):
            duplicates = sorted(name for name, count in Counter(self.names).items() if count > 1)
            raise ValueError(f"class names must differ, got {brief(duplicates[0])} twice")
        if len(self.colors) != len(self.names):
            raise ValueError(f"{len(self.names)} classes need as many colours, got {len(self.colors)}")
        for name, color in zip(self.names, self.colors, strict=True):
            if len(color) != 3 or not all(0 <= part <= 255 for part in color):
                raise ValueError(f"the colour of {name!r} must be three numbers in 0..255, got {color}")
        if 0 <= self.ignore < len(self.names):
            raise ValueError(
                f"the ignore label {self.ignore} is also class {self.names[self.ignore]!r}: choose another"
            )
        if wrong := [thing for thing in self.things if not 0 <= thing < len(self.names)]:
            raise ValueError(f"things must be labels in 0..{len(self.names) - 1}, got {wrong[0]}")
        if self.ids and len(set(self.ids)) != len(self.names):
            raise ValueError(f"{len(self.names)} classes need as many different ids, got {self.ids!r:.80}")
        sides = [label for pair in self.flip_pairs for label in pair]
        if len(set(sides)) < len(sides) or not all(0 <= label < len(self.names) for label in sides):
            raise ValueError(
                f"flip_pairs must be pairs of labels in 0..{len(self.names) - 1}, each label once, got "
                f"{self.flip_pairs!r:.80}"
            )

    @classmethod
    def of(cls, *names: str, ignore: int = 255) -> "ClassTable":
        """A table of `names` with the palette of PASCAL VOC."""
        return cls(tuple(names), voc_palette(len(names)), ignore)

    def __len__(self) -> int:
        """Number of classes k."""
        return len(self.names)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The number of each class in COCO's files: its id, or label + 1 where files name none."""
        return self.ids or tuple(range(1, len(self) + 1))

    @property
    def flipped(self) -> tuple[int, ...]:
        """For each label, the one that takes its place in the mirrored image."""
        order = list(range(len(self)))
        for first, second in self.flip_pairs:
            order[first], order[second] = second, first
        return tuple(order)


# --- annotations ----------------------------------------------------------------------------------


@value
class LabelMap(Value):
    """One class per pixel or voxel.

    Attributes:
        labels: the class, or the ignore label of the class table.
        spacing: size of a pixel or voxel along each axis in mm; None where nobody knows.
    """

    labels: Integer[Tensor, "*grid"]
    spacing: tuple[float, ...] | None = None


@value
class ClassMasks(Value):
    """Any number of classes per pixel or voxel (multilabel): one mask per class.

    Attributes:
        masks: 1 where the class is, 0 where it is not, the ignore label where nobody knows.
        probabilities: of a prediction, what the masks were cut from, in [0, 1]; None in a target.
    """

    masks: Integer[Tensor, "k *grid"]
    probabilities: Float[Tensor, "k *grid"] | None = None


@value
class Boxes(Value):
    """Objects, each with a box.

    Attributes:
        boxes: x1 y1 x2 y2 in pixels.
        classes: label of each object.
        scores: confidence of each object in [0, 1]; 1 in a target.
        is_crowd: True where one box stands for several objects that nobody told apart (COCO's `iscrowd`);
            False in a prediction.
    """

    boxes: Float[Tensor, "n 4"]
    classes: Integer[Tensor, " n"]
    scores: Float[Tensor, " n"]
    is_crowd: Bool[Tensor, " n"]

    @classmethod
    def of(
        cls,
        boxes: Float[Tensor, "n 4"],
        classes: Integer[Tensor, " n"],
        scores: Float[Tensor, " n"] | None = None,
        is_crowd: Bool[Tensor, " n"] | None = None,
    ) -> "Boxes":
        """A set with scores 1 and without crowds unless they are given."""
        return cls(boxes, classes, *_certain(boxes, scores, is_crowd))

    def __len__(self) -> int:
        """Number of objects n."""
        return len(self.boxes)

    def take(self, index: Tensor) -> "Boxes":
        """Some of the objects, by numbers or by a mask."""
        return Boxes(self.boxes[index], self.classes[index], self.scores[index], self.is_crowd[index])


@runtime_checkable
class RunLengths(Protocol):
    """Masks of one image as run lengths: what `pixelwise.rle.RleMasks` offers to this file."""

    @property
    def height(self) -> int:
        """In pixels."""

    @property
    def width(self) -> int:
        """In pixels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: np.ndarray, /) -> "RunLengths": ...

    def decode(self) -> Bool[np.ndarray, "n H W"]:
        """The masks, row by row."""

    @property
    def boxes(self) -> np.ndarray:
        """Left, top, width and height of each mask."""


@value
class MaskSet(Value):
    """Instances, each with a mask of its own; masks may overlap.

    Attributes:
        masks: True where the instance is; as run lengths where they are many or large.
        classes: label of each instance.
        scores: confidence of each instance in [0, 1]; 1 in a target.
        is_crowd: True where one mask stands for several instances that nobody told apart (COCO's `iscrowd`);
            False in a prediction.
    """

    masks: Bool[Tensor, "n H W"] | RunLengths
    classes: Integer[Tensor, " n"]
    scores: Float[Tensor, " n"]
    is_crowd: Bool[Tensor, " n"]

    @classmethod
    def of(
        cls,
        masks: Bool[Tensor, "n H W"] | RunLengths,
        classes: Integer[Tensor, " n"],
        scores: Float[Tensor, " n"] | None = None,
        is_crowd: Bool[Tensor, " n"] | None = None,
    ) -> "MaskSet":
        """A set with scores 1 and without crowds unless they are given."""
        return cls(masks, classes, *_certain(classes, scores, is_crowd))

    def __len__(self) -> int:
        """Number of instances n."""
        return len(self.classes)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        if isinstance(self.masks, Tensor):
            return self.masks.shape[-2], self.masks.shape[-1]
        return self.masks.height, self.masks.width

    @property
    def dense(self) -> Bool[Tensor, "n H W"]:
        """The masks as one tensor, which takes n H W bytes."""
        if isinstance(self.masks, Tensor):
            return self.masks
        return torch.from_numpy(self.masks.decode())

    @property
    def boxes(self) -> Boxes:
        """The smallest box around each mask; all zeros where a mask is empty."""
        if isinstance(self.masks, Tensor):
            boxes = _boxes_of(self.masks)
        else:
            x, y, width, height = torch.from_numpy(np.asarray(self.masks.boxes, np.float32)).T
            boxes = torch.stack([x, y, x + width, y + height], 1)
        return Boxes(boxes, self.classes, self.scores, self.is_crowd)

    def take(self, index: Tensor) -> "MaskSet":
        """Some of the instances, by numbers or by a mask."""
        masks = self.masks[index] if isinstance(self.masks, Tensor) else self.masks[index.cpu().numpy()]
        return MaskSet(masks, self.classes[index], self.scores[index], self.is_crowd[index])


def _certain(
    like: Tensor, scores: Float[Tensor, " n"] | None, is_crowd: Bool[Tensor, " n"] | None
) -> tuple[Tensor, Tensor]:
    """Scores 1 and no crowd, where they are not given."""
    if scores is None:
        scores = torch.ones(len(like), device=like.device)
    if is_crowd is None:
        is_crowd = torch.zeros(len(like), dtype=torch.bool, device=like.device)
    return scores, is_crowd


def _boxes_of(masks: Bool[Tensor, "n H W"]) -> Float[Tensor, "n 4"]:
    """From the first to behind the last row and column that a mask touches."""
    bounds = []
    for occupied in (masks.any(1), masks.any(2)):  # columns, rows
        place = torch.arange(occupied.shape[1], device=masks.device)
        behind = torch.where(occupied, place + 1, 0)
        before = torch.where(occupied, occupied.shape[1] - place, 0)
        none = ~occupied.any(1)
        low = (occupied.shape[1] - before.amax(1)) if occupied.shape[1] else before.new_zeros(len(masks))
        high = behind.amax(1) if occupied.shape[1] else behind.new_zeros(len(masks))
        bounds.append((low.masked_fill(none, 0), high))
    (x1, x2), (y1, y2) = bounds
    return torch.stack([x1, y1, x2, y2], 1).float()


@value
class PanopticMap(Value):
    """Segments that do not overlap, of things and stuff: a map of their ids and a table.

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
        if pixels.ndim == 3:
            pixels = pixels.astype(np.int32) @ np.array([1, 256, 65536], np.int32)
        id_map = np.require(pixels, requirements=["C", "W"])  # torch takes nothing read-only
        segments = segments_of_coco(segments_info, label_of, where)
        ids, labels, is_crowd = (torch.from_numpy(column) for column in segments[:3])
        areas = None if segments.areas is None else torch.from_numpy(segments.areas)
        return cls(torch.from_numpy(id_map), ids, labels, is_crowd, areas)

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
        masks = things.dense
        if (masks.sum(0) > 1).any():
            raise ValueError("the masks of a panoptic map must not overlap, got some that do")
        labels = stuff.labels.long()
        known = labels != classes.ignore
        if known.any() and not 0 <= int(labels[known].min()) <= int(labels[known].max()) < len(classes):
            raise ValueError(f"the map has a label outside the table of {len(classes)} classes")
        is_thing = torch.isin(labels, torch.tensor(classes.things, dtype=torch.int64, device=labels.device))
        id_map = torch.where(known & ~is_thing, labels + 1, VOID)
        first = len(classes) + 1
        for number, mask in enumerate(masks):
            id_map = torch.where(mask, first + number, id_map)
        painted = id_map.unique()
        stuff_ids = painted[(painted != VOID) & (painted < first)]
        seen = torch.arange(first, first + len(things), device=id_map.device)
        kept = masks.flatten(1).any(1)
        return cls.of(
            id_map,
            torch.cat([stuff_ids, seen[kept]]),
            torch.cat([stuff_ids - 1, things.classes[kept]]),
            torch.cat([torch.zeros_like(stuff_ids, dtype=torch.bool), things.is_crowd[kept]]),
        )


VOID = 0  # the id of pixels that belong to no segment of a panoptic map


class CocoSegments(NamedTuple):
    """The segments of a COCO panoptic annotation, column by column; areas only where all are known."""

    ids: Int64[np.ndarray, " n"]
    classes: Int64[np.ndarray, " n"]
    is_crowd: Bool[np.ndarray, " n"]
    areas: Int64[np.ndarray, " n"] | None


def segments_of_coco(
    segments_info: Sequence[Mapping[str, Any]], label_of: Mapping[int, int], where: str = ""
) -> CocoSegments:
    """The segments of a COCO panoptic annotation.

    Args:
        segments_info: `id`, `category_id` and, where known, `iscrowd` and `area` of each segment.
        label_of: the label of each category id.
        where: name of the image, for the message of an error.

    Raises:
        ValueError: if a segment has a category without label, or lacks its id or category.
    """
    named = f" in image {where}" if where else ""
    for segment in segments_info:
        if "id" not in segment or "category_id" not in segment:
            raise ValueError(f"a segment{named} needs an id and a category_id, got {dict(segment)}")
        if segment["category_id"] not in label_of:
            raise ValueError(
                f"segment {segment['id']}{named} has the unknown category {segment['category_id']}"
            )
    areas = None
    if segments_info and all("area" in segment for segment in segments_info):
        areas = np.array([segment["area"] for segment in segments_info], np.int64)
    return CocoSegments(
        np.array([segment["id"] for segment in segments_info], np.int64),
        np.array([label_of[segment["category_id"]] for segment in segments_info], np.int64),
        np.array([segment.get("iscrowd", 0) for segment in segments_info], np.int64) == 1,
        areas,
    )


@value
class Keypoints(Value):
    """Objects with joints; which joint is which says the skeleton of the class table.

    Attributes:
        points: x y of each joint in pixels.
        visible: of a target, 0 where a joint is not annotated, 1 where it is but hidden, 2 where it is seen
            (COCO); of a prediction, the confidence in [0, 1].
        scores: confidence of each object in [0, 1]; 1 in a target.
        areas: size of each object in pixels, the scale of OKS.
        boxes: x1 y1 x2 y2 around each object in pixels.
        is_crowd: True where an annotation stands for several objects; False in a prediction.
    """

    points: Float[Tensor, "n j 2"]
    visible: Float[Tensor, "n j"]
    scores: Float[Tensor, " n"]
    areas: Float[Tensor, " n"]
    boxes: Float[Tensor, "n 4"]
    is_crowd: Bool[Tensor, " n"]

    def __len__(self) -> int:
        """Number of objects n."""
        return len(self.points)


Annotation = LabelMap | ClassMasks | Boxes | MaskSet | PanopticMap | Keypoints


# --- what data yields -----------------------------------------------------------------------------


@value
class Sample(Value):
    """One image or volume with its annotation.

    Attributes:
        image: values in [0, 1]; RGB unless the data set says otherwise. Transforms for training may be given
            bytes instead, see `Augmented`.
        target: what is known about it; None where nothing is.
        id: names the sample in reports and messages, usually the path of the image.
        spacing: size of a pixel or voxel along each axis of the grid, in mm; None where nobody knows.
    """

    image: Float[Tensor, "c *grid"] | UInt8[Tensor, "c *grid"]
    target: Annotation | None
    id: str
    spacing: tuple[float, ...] | None = None


@value
class Batch(Value):
    """Samples stacked. Smaller images are padded at the end of each axis: image 0, label `ignore`.

    Attributes:
        image: values in [0, 1].
        target: `LabelMap` with labels "b *grid" or `ClassMasks` with masks "b k *grid"; other annotations
            one per sample.
        valid: True on pixels that belong to an image, False on padding.
        ids: one per sample.
        spacings: of each sample, see `Sample`; empty where no sample knows it.
    """

    image: Float[Tensor, "b c *grid"]
    target: LabelMap | ClassMasks | tuple[Annotation, ...]
    valid: Bool[Tensor, "b *grid"]
    ids: tuple[str, ...]
    spacings: tuple[tuple[float, ...] | None, ...] = ()

    @classmethod
    def of(
        cls,
        image: Float[Tensor, "b c *grid"],
        target: Integer[Tensor, "b *grid"] | LabelMap | ClassMasks | Sequence[Annotation],
    ) -> "Batch":
        """A batch of equally large images, for a loop written by hand; a tensor holds the labels."""
        if isinstance(target, Tensor):
            target = LabelMap(target)
        elif not isinstance(target, LabelMap | ClassMasks):
            target = tuple(target)
        everywhere = torch.ones(len(image), *image.shape[2:], dtype=torch.bool, device=image.device)
        return cls(image, target, everywhere, tuple(str(i) for i in range(len(image))))

    @classmethod
    def collate(cls, samples: Sequence[Sample], ignore: int = 255) -> "Batch":
        """Stack samples, padding the smaller ones (`collate_fn` of a DataLoader).

        Dense targets are stacked, and samples without one are ignored everywhere; other targets stay one
        per sample.
        """
        axes = samples[0].image.ndim - 1
        size = tuple(max(sample.image.shape[1 + axis] for sample in samples) for axis in range(axes))
        valid = torch.zeros(len(samples), *size, dtype=torch.bool)
        for sample, own in zip(samples, valid, strict=True):
            own[tuple(slice(n) for n in sample.image.shape[1:])] = True
        image = _padded([sample.image for sample in samples], size, 0.0)
        ids = tuple(sample.id for sample in samples)
        spacings = tuple(sample.spacing for sample in samples)
        spacings = () if all(spacing is None for spacing in spacings) else spacings
        targets = [sample.target for sample in samples]
        known = next((target for target in targets if target is not None), None)
        if known is None or isinstance(known, LabelMap):
            maps = [target.labels if isinstance(target, LabelMap) else None for target in targets]
            return cls(image, LabelMap(_padded_labels(maps, (), size, ignore)), valid, ids, spacings)
        if isinstance(known, ClassMasks):
            maps = [target.masks if isinstance(target, ClassMasks) else None for target in targets]
            shape = known.masks.shape[:1]
            return cls(image, ClassMasks(_padded_labels(maps, shape, size, ignore)), valid, ids, spacings)
        if missing := [sample.id for sample in samples if sample.target is None]:
            raise ValueError(f"{missing[0]} has no annotation")
        known_targets = tuple(target for target in targets if target is not None)
        return cls(image, known_targets, valid, ids, spacings)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The images one by one, without padding, with their targets."""
        found = []
        parts = zip(self.image, self.annotations, self.sizes, self.ids, self._spacings, strict=True)
        for image, target, size, name, spacing in parts:
            window = tuple(slice(side) for side in size)
            if isinstance(target, LabelMap):
                target = LabelMap(target.labels[window], spacing)
            elif isinstance(target, ClassMasks):
                target = ClassMasks(target.masks[(slice(None), *window)])
            found.append(Sample(image[(slice(None), *window)], target, name, spacing))
        return tuple(found)

    @property
    def annotations(self) -> tuple[Annotation, ...]:
        """One target per sample, of the size of the padded image where it is dense."""
        if isinstance(self.target, LabelMap):
            maps = zip(self.target.labels.unbind(), self._spacings, strict=True)
            return tuple(LabelMap(labels, spacing) for labels, spacing in maps)
        if isinstance(self.target, ClassMasks):
            return tuple(ClassMasks(masks) for masks in self.target.masks.unbind())
        return self.target

    @property
    def labels(self) -> Integer[Tensor, "b ..."]:
        """The labels of a dense target: "b *grid", or "b k *grid" where classes are not exclusive.

        Raises:
            ValueError: if the target is of another kind.
        """
        if isinstance(self.target, LabelMap):
            return self.target.labels
        if isinstance(self.target, ClassMasks):
            return self.target.masks
        raise ValueError("the targets of this batch are not dense: it has one annotation per image")

    @property
    def _spacings(self) -> tuple[tuple[float, ...] | None, ...]:
        """One per sample."""
        return self.spacings or (None,) * len(self.ids)

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Extent of each image along each axis of the grid, without its padding."""
        axes = range(self.valid.ndim)
        lines = [self.valid[tuple(slice(None) if i in (0, axis) else 0 for i in axes)] for axis in axes[1:]]
        return tuple(map(tuple, torch.stack([line.sum(1) for line in lines], 1).tolist()))


def _padded(
    maps: Sequence[Float[Tensor, "c ..."]], size: tuple[int, ...], fill: float
) -> Float[Tensor, "b c *size"]:
    if all(tuple(one.shape[1:]) == tuple(size) for one in maps):
        return torch.stack([one.float() for one in maps])
    stacked = torch.full((len(maps), maps[0].shape[0], *size), fill)
    for own, one in zip(stacked, maps, strict=True):
        own[(slice(None), *(slice(n) for n in one.shape[1:]))] = one
    return stacked


def _padded_labels(
    maps: Sequence[Tensor | None], first: tuple[int, ...], size: tuple[int, ...], ignore: int
) -> Int64[Tensor, "..."]:
    known = [one for one in maps if one is not None]
    if len(known) == len(maps) and all(tuple(one.shape) == (*first, *size) for one in known):
        return torch.stack([one.long() for one in known])
    stacked = torch.full((len(maps), *first, *size), ignore, dtype=torch.long)
    for own, one in zip(stacked, maps, strict=True):
        if one is not None:
            own[tuple(slice(n) for n in one.shape)] = one
    return stacked


# --- scores ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What predictions are worth: numbers by name, and a table with a row per class.

    Attributes:
        values: the scores over everything by name, the most telling first; nan where nothing counts.
        per_class: by the name of each class, a number per column.
        confusion: number of pixels by class of the target (rows) and of the prediction (columns), for tasks
            with one class per pixel; or of objects, with a last column for missed, a last row for false ones.
        note: the rules behind the numbers, in one sentence.
        tables: further tables by title; each has rows by name, with a number per column.
        curves: values over recalls from 0 to 1 in even steps, by title and name of the line.

    >>> Report({"mean_iou": 0.5}, {"sky": {"IoU": 0.5}})["mean_iou"]
    0.5
    """

    values: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]]
    confusion: Int64[Tensor, "k k"] | None = None
    note: str = ""
    tables: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    curves: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        """The score called `name`.

        Raises:
            KeyError: if there is no such score; names those that there are.
        """
        if name not in self.values:
            raise KeyError(f"there is no score {name!r}: there are {', '.join(self.values)}")
        return self.values[name]

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {value:.4f}" for name, value in self.values.items())
        return f"Report({scores}; {len(self.per_class)} classes)"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table of classes."""
        rows = iter(self.per_class.values())
        return tuple(next(rows, {}))


# --- encoders -------------------------------------------------------------------------------------


class PerStage(NamedTuple):
    """One number per encoder stage (channels or strides), 0 where the encoder has no such stage."""

    c1: int
    c2: int
    c3: int
    c4: int
    c5: int


@dataclass(frozen=True)
class Features:
    """What an encoder returns. Stages are named as in FPN and DeepLab: c1 has stride 2, c5 is the last.

    A stage keeps its name when it is dilated. Asking for a stage that the encoder was not built to give
    raises; `None` never travels.
    """

    maps: dict[str, Tensor]

    def __getitem__(self, stage: str) -> Float[Tensor, "b _ _ _"]:
        """The map of `stage`.

        Raises:
            ValueError: if the encoder does not give that stage.
        """
        if stage not in self.maps:
            raise ValueError(f"the encoder gives {', '.join(self.maps)}, not {stage}")
        return self.maps[stage]

    @property
    def c1(self) -> Float[Tensor, "b _ _ _"]:
        """Stride 2."""
        return self["c1"]

    @property
    def c2(self) -> Float[Tensor, "b _ _ _"]:
        """Stride 4."""
        return self["c2"]

    @property
    def c3(self) -> Float[Tensor, "b _ _ _"]:
        """Stride 8."""
        return self["c3"]

    @property
    def c4(self) -> Float[Tensor, "b _ _ _"]:
        """Stride 16, or 8 when dilated."""
        return self["c4"]

    @property
    def c5(self) -> Float[Tensor, "b _ _ _"]:
        """Stride 32, or 16 or 8 when dilated."""
        return self["c5"]


@dataclass(frozen=True)
class Tokens:
    """What a `TokenEncoder` returns: one vector per patch of the image and a few more, at several depths.

    Attributes:
        layers: tokens behind each of the blocks that were asked for: class tokens first, then registers, then
            the patches row by row.
        grid: height and width in patches.
        num_class_tokens: 1, 2 with a token for distillation, 0 in networks without.
        num_registers: tokens that belong to no place and mean nothing outside of the network.
        maps: of the convolutional stages before the first block, finest first; empty in plain ViTs.
    """

    layers: tuple[Float[Tensor, "b n d"], ...]
    grid: tuple[int, int]
    num_class_tokens: int
    num_registers: int
    maps: tuple[Float[Tensor, "b _ _ _"], ...] = ()

    def patches(self, layer: int = -1) -> Float[Tensor, "b p d"]:
        """The tokens of patches."""
        return self.layers[layer][:, self.num_class_tokens + self.num_registers :]

    def map(self, layer: int = -1) -> Float[Tensor, "b d h w"]:
        """The tokens of patches at their places."""
        return self.patches(layer).transpose(1, 2).contiguous().unflatten(2, self.grid)

    def class_tokens(self, layer: int = -1) -> Float[Tensor, "b c d"]:
        """The class token, and the one for distillation where there is one."""
        return self.layers[layer][:, : self.num_class_tokens]

    def registers(self, layer: int = -1) -> Float[Tensor, "b r d"]:
        """The registers."""
        return self.layers[layer][:, self.num_class_tokens :][:, : self.num_registers]


# --- outputs --------------------------------------------------------------------------------------


@value
class DenseLogits(Value):
    """One score per class and pixel or voxel.

    The coarse map is kept so that decoding can resize and take the maximum in one go.

    Attributes:
        coarse: scores as the head gives them, at any resolution.
        size: of the image along each axis.
        aux: coarse scores of auxiliary heads, best first; only while training, empty otherwise.
        align_corners: how the coarse maps are resized (True where the published network did).
    """

    coarse: Float[Tensor, "b k *coarse"]
    size: tuple[int, ...]
    aux: tuple[Float[Tensor, "b k *_"], ...] = ()
    align_corners: bool = False

    @property
    def logits(self) -> Float[Tensor, "b k *grid"]:
        """Scores at the size of the image (bilinear, or trilinear for volumes)."""
        return self._resize(self.coarse)

    @property
    def aux_logits(self) -> tuple[Float[Tensor, "b k *grid"], ...]:
        """Scores of the auxiliary heads at the size of the image."""
        return tuple(self._resize(aux) for aux in self.aux)

    def _resize(self, coarse: Float[Tensor, "b k *coarse"]) -> Float[Tensor, "b k *grid"]:
        if tuple(coarse.shape[2:]) == tuple(self.size):
            return coarse
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(self.size)]
        return F.interpolate(coarse, self.size, mode=mode, align_corners=self.align_corners)


@value
class MaskLogits(Value):
    """Mask classification: a set of masks, each with scores of classes (DETR, MaskFormer, Mask2Former).

    Attributes:
        class_logits: scores of the k classes and, last, of "no object", for each of q queries.
        mask_logits: scores of the mask of each query; above 0 is inside.
        size: height and width of the image.
        aux: the same from earlier decoder layers, only while training.
    """

    class_logits: Float[Tensor, "b q k1"]
    mask_logits: Float[Tensor, "b q h w"]
    size: tuple[int, int]
    aux: tuple["MaskLogits", ...] = ()


@value
class AssignedBoxes(Value):
    """Boxes in which a network looks for objects, those of all images of a batch together.

    Attributes:
        boxes: x1 y1 x2 y2 in pixels of the image as the network sees it.
        image: number of the image in the batch.
        target: number of the object among the targets of that image; -1 where the box is background, or
            where nobody knows.
    """

    boxes: Float[Tensor, "n 4"]
    image: Int64[Tensor, " n"]
    target: Int64[Tensor, " n"]

    def __len__(self) -> int:
        """Number of boxes n."""
        return len(self.boxes)


@value
class RegionLogits(Value):
    """Regions of images, each with scores of classes and corrections of its box (R-CNNs).

    In training, regions and anchors are sampled and know their objects. In evaluation the regions are all
    that were proposed, and `detections` what the network takes of them.

    Attributes:
        regions: where it looked.
        class_logits: scores of background, first, and of the k classes.
        box_deltas: for each of these, how a better box lies to that of the region: shift in x and y, and
            logarithm of the growth in width and height, in units that the paper chooses.
        image_sizes: height and width of each image in pixels.
        seen_sizes: height and width of each image as the network sees it; all boxes are in these pixels.
        anchors: those that were sampled to learn to propose regions; only while training.
        objectness: score of each of these anchors to hold an object.
        anchor_deltas: correction of the box of each of these anchors.
        detections: the objects of each image, best first; only in evaluation.
    """

    regions: AssignedBoxes
    class_logits: Float[Tensor, "r k1"]
    box_deltas: Float[Tensor, "r k1 4"]
    image_sizes: tuple[tuple[int, int], ...]
    seen_sizes: tuple[tuple[int, int], ...]
    anchors: AssignedBoxes | None = None
    objectness: Float[Tensor, " a"] | None = None
    anchor_deltas: Float[Tensor, "a 4"] | None = None
    detections: tuple[Boxes, ...] = ()


@value
class Heatmaps(Value):
    """One map per joint whose maximum is the place of the joint.

    Attributes:
        coarse: value of each joint at each place.
        size: height and width of the image (of the crop of one object, for networks that work top down).
        aux: the same from earlier stages (Stacked Hourglass), only while training.
    """

    coarse: Float[Tensor, "b j h w"]
    size: tuple[int, int]
    aux: tuple[Float[Tensor, "b j h w"], ...] = ()

    @property
    def stride(self) -> int:
        """Pixels of the image per cell: cell i lies at pixel i * stride, and the last may reach beyond it."""
        return round(self.size[0] / self.coarse.shape[-2])


@value
class Prompts(Value):
    """What a person points at: p prompts for one image, each for one object.

    Every kind may be absent; those that are there have the same p. Coordinates are pixels of the image.

    Attributes:
        points: n points for each prompt, x y.
        point_labels: 1 where a point lies on the object, 0 where it does not, -1 where there is no point
            (prompts with fewer points than others).
        boxes: x1 y1 x2 y2 around the object.
        masks: scores of an earlier mask, above 0 inside, of any resolution.

    >>> len(Prompts.at([(30, 20), (5, 8)]))
    2
    """

    points: Float[Tensor, "p n 2"] | None = None
    point_labels: Int64[Tensor, "p n"] | None = None
    boxes: Float[Tensor, "p 4"] | None = None
    masks: Float[Tensor, "p h w"] | None = None

    @classmethod
    def of(
        cls,
        points: Float[Tensor, "p n 2"] | None = None,
        point_labels: Int64[Tensor, "p n"] | None = None,
        boxes: Float[Tensor, "p 4"] | None = None,
        masks: Float[Tensor, "p h w"] | None = None,
    ) -> "Prompts":
        """Prompts of some kinds; points without labels lie on the object.

        Raises:
            ValueError: without any prompt, on labels without points, or on different numbers of prompts.
        """
        if points is not None and point_labels is None:
            point_labels = torch.ones(points.shape[:2], dtype=torch.int64, device=points.device)
        if point_labels is not None and (points is None or point_labels.shape != points.shape[:2]):
            raise ValueError(f"point_labels need as many points, got {tuple(point_labels.shape)}")
        counts = {len(one) for one in (points, boxes, masks) if one is not None}
        if len(counts) != 1:
            told = " and ".join(map(str, sorted(counts))) or "none"
            raise ValueError(f"prompts need points, boxes or masks, as many of each, got {told}")
        return cls(points, point_labels, boxes, masks)

    @classmethod
    def at(cls, points: Sequence[tuple[float, float]]) -> "Prompts":
        """One point x y on each object."""
        return cls.of(torch.tensor(points, dtype=torch.float32).reshape(-1, 1, 2))

    def check(self, size: tuple[int, int]) -> None:
        """Hold the prompts against an image.

        Args:
            size: height and width of the image.

        Raises:
            ValueError: if a point lies outside of it, has an unknown label, or a box has no area in it.
        """
        height, width = size
        if self.points is not None and self.point_labels is not None:
            for (x, y), label in zip(
                self.points.flatten(0, 1).tolist(), self.point_labels.flatten().tolist(), strict=True
            ):
                if label not in (-1, 0, 1):
                    raise ValueError(f"a point is labelled 1, 0 or, where there is none, -1, got {label}")
                if label != -1 and not (0 <= x <= width and 0 <= y <= height):
                    raise ValueError(
                        f"the point {x:g},{y:g} lies outside of the image, which is {width} pixels wide and "
                        f"{height} high"
                    )
        for x1, y1, x2, y2 in [] if self.boxes is None else self.boxes.tolist():
            named = f"the box {x1:g},{y1:g},{x2:g},{y2:g}"
            if not (x1 < x2 and y1 < y2):
                raise ValueError(f"{named} has no area: give left, top, right, bottom")
            if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
                raise ValueError(
                    f"{named} lies outside of the image, which is {width} pixels wide and {height} high"
                )

    def __len__(self) -> int:
        """Number of prompts p."""
        return len(next(one for one in (self.points, self.boxes, self.masks) if one is not None))


@value
class Embedding(Value):
    """What a promptable network keeps of an image: it is computed once, for any number of prompts.

    Attributes:
        maps: of the image encoder, the main one first; finer ones after it where the network has them.
        size: height and width of the image.
    """

    maps: tuple[Float[Tensor, "1 _ _ _"], ...]
    size: tuple[int, int]


@value
class PromptMasks(Value):
    """Masks for prompts (SAM): m candidates for each of p prompts.

    Attributes:
        coarse: scores of each mask; above 0 is inside. They may be given back as `Prompts.masks`.
        iou: the IoU that the network expects of each mask.
        size: height and width of the image.
        seen_size: height and width of the image as the network saw it, without padding; None where the coarse
            maps cover the image and nothing else.
        padded_size: the same with its padding at the right and below, which the coarse maps cover.
        prompts: what was asked, where it shall be seen in a picture.
    """

    coarse: Float[Tensor, "p m h w"]
    iou: Float[Tensor, "p m"]
    size: tuple[int, int]
    seen_size: tuple[int, int] | None = None
    padded_size: tuple[int, int] | None = None
    prompts: Prompts | None = None

    @property
    def logits(self) -> Float[Tensor, "p m H W"]:
        """Scores at the size of the image (bilinear; first at the size that the network saw)."""
        scores = self.coarse
        if self.seen_size is not None and self.padded_size is not None:
            scores = F.interpolate(scores, self.padded_size, mode="bilinear", align_corners=False)
            scores = scores[..., : self.seen_size[0], : self.seen_size[1]]
        return F.interpolate(scores, self.size, mode="bilinear", align_corners=False)

    def stability(self, offset: float = 1.0) -> Float[Tensor, "p m"]:
        """How little a mask depends on where its scores are cut (SAM, Sec. 5).

        This is the IoU of the masks above `offset` and above `-offset`; nan where both are empty.
        """
        logits = self.logits
        above, below = ((logits > cut).flatten(2).sum(2) for cut in (offset, -offset))
        return above / below

    def take(self, prompt: Tensor, candidate: Tensor) -> "PromptMasks":
        """Some candidates, each as the only one of a prompt: numbers of prompts, and of their candidates."""
        coarse, iou = self.coarse[prompt, candidate][:, None], self.iou[prompt, candidate][:, None]
        return PromptMasks(coarse, iou, self.size, self.seen_size, self.padded_size)


@value
class Memory(Value):
    """What a network that follows objects keeps of one of them in one frame.

    Attributes:
        frame: its number.
        pointer: a vector that stands for the object.
        features: frame and mask in one map; None where only the pointer is still needed.
        answer: the scores of the mask; kept of frames with prompts only.
        score: above 0 where the object is visible.
        fresh: whether the prompts were answered without other memories, as in a single image.
    """

    frame: int
    pointer: Float[Tensor, " c"]
    features: Float[Tensor, "k h w"] | None
    answer: Float[Tensor, "h4 w4"] | None
    score: Float[Tensor, ""]
    fresh: bool = False


@value
class Track(Value):
    """One object in a video.

    Attributes:
        object: its number, as the user gave it.
        prompted: memories of the frames with prompts for it.
        recent: memories of other frames.
        first: number of the first frame where it was followed without prompts; -1 before.
        last: of the last one.
    """

    object: int
    prompted: tuple[Memory, ...]
    recent: tuple[Memory, ...] = ()
    first: int = -1
    last: int = -1


@value
class TrackState(Value):
    """All that a network that follows objects must know to go on, however long the video is.

    States are never changed: a later one shares the memories of an earlier one. To go back to a frame is to
    go on from its state.

    Attributes:
        size: height and width of the frames.
        num_frames: of the video where it is known.
        tracks: the objects, in the order in which they came.
    """

    size: tuple[int, int]
    num_frames: int | None = None
    tracks: tuple[Track, ...] = ()


@value
class Tracked(Value):
    """Objects in one frame of a video.

    Attributes:
        frame: its number.
        objects: the number of each object.
        coarse: scores of its mask; above 0 is inside.
        scores: above 0 where the object is visible.
        size: height and width of the frame.
    """

    frame: int
    objects: tuple[int, ...]
    coarse: Float[Tensor, "n h w"]
    scores: Float[Tensor, " n"]
    size: tuple[int, int]

    @property
    def logits(self) -> Float[Tensor, "n H W"]:
        """Scores at the size of the frame (bilinear)."""
        return F.interpolate(self.coarse[None].float(), self.size, mode="bilinear", align_corners=False)[0]

    @property
    def labels(self) -> Int64[Tensor, "H W"]:
        """Number of the object at each pixel, 0 for none; where several claim a pixel, the surest has it."""
        score, best = self.logits.max(0)
        numbers = torch.tensor(self.objects, device=best.device)
        return torch.where(score > 0, numbers[best], 0)


# --- models ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BuiltBy:
    """How a model came to be: enough to build it again.

    Attributes:
        builder: its name in `pixelwise.models`.
        arguments: what the builder was called with, by name.
    """

    builder: str
    arguments: dict[str, Any]


class ParameterRole(NamedTuple):
    """What a parameter is to an optimiser.

    Attributes:
        of_encoder: whether it belongs to the part that may start from pretrained weights.
        decays: whether weight decay applies: to the weights of convolutions and linear layers, not to norms,
            biases, position embeddings, tables of relative biases, class tokens, queries and learned
            temperatures.
    """

    of_encoder: bool
    decays: bool


_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
# Names of parameters with several axes that are no weights of a layer, as timm and the papers have them.
_UNDECAYED = re.compile(
    r"pos_?embed\w*$|position_embedding\w*$|rel_pos|relative_position|attention_bias|cpb_mlp|"
    r"(cls|class|dist|mask|reg)_token$|queries$|level_embed$|logit_scale$|temperature$"
)


class Model(nn.Module, ABC):
    """A network: image in [0, 1] -> an output. Mean and standard deviation are part of the model.

    Any size of at least `minimum_size` along each axis works, whatever the stride of the network, and so does
    training with one image per batch.

    Attributes:
        tasks: names of the tasks that it serves (see `pixelwise.tasks`), the first one where none is chosen.
        output: the type that its forward returns; it decides on criterion and decoding.
        num_classes: how many classes it tells apart; None for a model without classes.
        in_channels: c of the image.
        minimum_size: smallest extent of the image along each axis, in pixels.
        built_by: builder and arguments where they are known; `save` needs them.
        read_arguments: those of the arguments that named files, as what the files hold: `built_by` tells
            these, so that a checkpoint needs no file beside it.
        encoder_parts: names of the modules that make up the encoder, as `get_submodule` takes them.
    """

    tasks: ClassVar[tuple[str, ...]]
    output: ClassVar[type]
    num_classes: int | None = None
    in_channels: int = 3
    minimum_size: int = 32
    built_by: BuiltBy | None = None
    read_arguments: Mapping[str, Any] = MappingProxyType({})
    encoder_parts: tuple[str, ...] = ("encoder",)

    def parameter_roles(self) -> dict[str, ParameterRole]:
        """The role of every parameter by its name; `Optimization` makes its groups of them."""
        of_norms = {
            id(p) for module in self.modules() if isinstance(module, _NORMS) for p in module.parameters()
        }
        return {
            name: ParameterRole(
                of_encoder=any(f"{name}.".startswith(f"{part}.") for part in self.encoder_parts),
                decays=p.ndim > 1 and id(p) not in of_norms and not _UNDECAYED.search(name),
            )
            for name, p in self.named_parameters()
        }

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """The arguments of `forward` for a batch in training: the image, unless a model needs the target too.

        `criterion(model(*model.inputs(batch)), batch)` is the loss of any model.
        """
        return (batch.image,)

    def progress(self, share: float) -> None:
        """Learn before each step of a training what share of its steps is done; most models do nothing.

        Args:
            share: from 0 to 1.
        """
        del share


class DenseModel(Model):
    """A network that scores every pixel: image -> DenseLogits with `num_classes` channels.

    Attributes:
        gives_alpha: whether a probability is the share of a pixel that belongs to a class, so that it can
            be laid over another picture as it is.
    """

    tasks: ClassVar[tuple[str, ...]] = ("semantic", "multilabel", "volume_slices")
    output = DenseLogits
    gives_alpha: ClassVar[bool] = False
    num_classes: int

    @abstractmethod
    def forward(self, image: Float[Tensor, "b c *grid"]) -> DenseLogits:
        """Score every pixel.

        Raises:
            ValueError: if the image is smaller than `minimum_size`.
        """


class MaskModel(Model):
    """A network that classifies masks: image -> MaskLogits with `num_classes` classes and "no object".

    The same weights serve every task of masks; the task decides how they are learned and decoded.
    """

    tasks: ClassVar[tuple[str, ...]] = ("semantic", "instance", "panoptic")
    output = MaskLogits
    num_classes: int

    @abstractmethod
    def forward(self, image: Float[Tensor, "b c H W"]) -> MaskLogits:
        """Masks and their classes.

        Raises:
            ValueError: if the image is smaller than `minimum_size`.
        """


class HeatmapModel(Model):
    """A network that tells the place of each joint of one object: crop -> Heatmaps.

    Attributes:
        num_joints: j of the heatmaps.
    """

    tasks: ClassVar[tuple[str, ...]] = ("keypoints",)
    output = Heatmaps
    num_joints: int

    @abstractmethod
    def forward(self, image: Float[Tensor, "b c H W"]) -> Heatmaps:
        """One map per joint.

        Raises:
            ValueError: if the image is smaller than `minimum_size`.
        """


class PromptableModel(Model):
    """A network that segments what it is pointed at: image -> Embedding, with prompts -> PromptMasks.

    It has no classes and keeps no state: what is known of an image is in its embedding.

    Attributes:
        takes_masks: whether earlier masks are among the prompts that it understands.
    """

    tasks: ClassVar[tuple[str, ...]] = ("promptable",)
    output = PromptMasks
    takes_masks: ClassVar[bool] = True

    @abstractmethod
    def embed(self, image: Float[Tensor, "1 c H W"]) -> Embedding:
        """Look at an image.

        Raises:
            ValueError: if it is smaller than `minimum_size`.
        """

    def embed_all(self, images: Sequence[Float[Tensor, "c _ _"]]) -> tuple[Embedding, ...]:
        """Look at several images, which may differ in size; one after the other unless a model can do more.

        Raises:
            ValueError: as `embed`.
        """
        return tuple(self.embed(image[None]) for image in images)

    @abstractmethod
    def masks(self, embedding: Embedding, prompts: Prompts) -> PromptMasks:
        """Candidates for each prompt."""

    def forward(self, image: Float[Tensor, "1 c H W"], prompts: Prompts) -> PromptMasks:
        """Both steps."""
        return self.masks(self.embed(image), prompts)


class TrackingModel(PromptableModel):
    """A network that follows what it is pointed at through a video: a state is folded over the frames."""

    @abstractmethod
    def step(
        self,
        state: TrackState,
        frame: int,
        embedding: Embedding,
        prompts: Mapping[int, Prompts],
        *,
        reverse: bool = False,
        fill_holes: int = 0,
    ) -> tuple[TrackState, Tracked]:
        """Go on by one frame: find the objects there, and remember them.

        Args:
            state: of the frames that were seen so far, in any order.
            frame: number of this one.
            embedding: what `embed` says of it.
            prompts: one prompt for each object that is new or to be corrected there, by its number. Masks
                alone are taken as they are; beside points or boxes they are an earlier answer.
            reverse: whether the video is followed backwards.
            fill_holes: holes of the coarse masks of at most that many cells are filled.

        Raises:
            ValueError: if there is no object, or prompts, frame or state do not fit.
        """


class Paper(NamedTuple):
    """Where a model comes from."""

    title: str
    authors: str
    venue: str
    year: int
    url: str
