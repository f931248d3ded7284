"""Shapes: what an annotation tool says of an image, whichever tool it is.

A reader of a tool yields shapes; semantic labels, instances and panoptic segments are painted from them by
the rules below, and writers of other tools take them as they are, so that a polygon stays the polygon that
was drawn.

Coordinates are pixels from the corner of the image: the centre of the first pixel is (0.5, 0.5). Tools whose
points are centres of pixels (labelme, Cityscapes, Supervisely, VIA) are shifted by half a pixel when read,
and drawn by the rule of their own libraries, which counts the pixels under the outline.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64
from PIL import Image, ImageDraw

from ..rle import RleMasks
from ..types import VOID, Color, LabelMap, MaskSet, PanopticMap
from ..wording import brief

FARTHEST = 2.0**20  # pixels: a coordinate of a shape
IGNORED = ("__ignore__", "ignore", "void", "unlabeled", "unlabelled", "out of roi", "don't care")
BACKGROUND = ("_background_", "background")
Ring = Float64[np.ndarray, "_ 2"]
Drawing = Literal["covered", "outlined", "filled"]


@dataclass(frozen=True)
class Shape:
    """One shape of an image.

    Attributes:
        name: of its class, as the tool says it.
        rings: corners x, y of its outline, and of its holes after it; empty where `mask` says it.
        mask: its pixels as run lengths, a set of one; None where rings say them.
        order: shapes of higher order lie on top; of equal ones the later.
        group: shapes of one class with the same group are one instance; None for one of its own.
        crowd: whether it stands for several instances that nobody told apart.
        drawing: which pixels belong to rings: "covered", those whose centre lies inside, by COCO's rule;
            "outlined", also those under the outline (labelme, OpenCV); "filled", as Pillow fills polygons
            (Cityscapes).
    """

    name: str
    rings: tuple[Ring, ...] = ()
    mask: RleMasks | None = None
    order: int = 0
    group: str | None = None
    crowd: bool = False
    drawing: Drawing = "covered"

    @property
    def has_holes(self) -> bool:
        """Whether it has rings for holes."""
        return len(self.rings) > 1


@dataclass(frozen=True)
class Picture:
    """The image that shapes belong to.

    Attributes:
        path: of its file.
        height: in pixels, upright as its EXIF orientation says.
        width: in pixels.
    """

    path: Path
    height: int
    width: int


@dataclass(frozen=True)
class Described:
    """What the files of a tool say of one image; its shapes are parsed when they are asked for.

    Attributes:
        file: the annotation file.
        image: the name of the image as the file has it, with forward slashes.
        content: what the parser of the tool understands.
        part: train, val or test, where the file says so.
        frame: the number of the image in the order of names, where the file has no names (videos).
    """

    file: Path
    image: str
    content: Any
    part: str | None = None
    frame: int | None = None


@dataclass(frozen=True)
class Export:
    """The files of a tool in a folder.

    Attributes:
        images: what they say of each image.
        colors: of each class by its name, in the order of the files; None where they say none.
        remarks: what is worth knowing of the files, one sentence each.
    """

    images: tuple[Described, ...]
    colors: Mapping[str, Color | None]
    remarks: tuple[str, ...] = ()


def ring(points: Iterable[Sequence[float]], shift: float = 0.0) -> Ring:
    """Corners of a ring as an array.

    Args:
        points: x and y of each.
        shift: what is added to both: 0.5 where points are centres of pixels.

    Raises:
        ValueError: if a corner is not a pair of numbers, or there are fewer than three.
    """
    try:
        corners = np.array([(float(x), float(y)) for x, y in points], np.float64).reshape(-1, 2) + shift
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"an outline must be pairs of numbers x, y, got {brief(points)}") from error
    if len(corners) < 3:
        raise ValueError(f"an outline needs at least three points, got {len(corners)}")
    if not (np.abs(corners) <= FARTHEST).all():
        raise ValueError("an outline needs finite coordinates near the image, got one that is not")
    return corners


def box_ring(left: float, top: float, right: float, bottom: float) -> Ring:
    """The outline of a box."""
    return ring([(left, top), (right, top), (right, bottom), (left, bottom)])


def ellipse_ring(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0.0) -> Ring:
    """The outline of an ellipse as a polygon of 72 corners, turned clockwise as seen in the image."""
    angles, turn = np.linspace(0, 2 * np.pi, 72, endpoint=False), np.deg2rad(degrees)
    along, across = radius_x * np.cos(angles), radius_y * np.sin(angles)
    return ring(
        np.stack(
            [
                x + along * np.cos(turn) - across * np.sin(turn),
                y + along * np.sin(turn) + across * np.cos(turn),
            ],
            1,
        )
    )


def placed(crop: Bool[np.ndarray, "h w"], x: int, y: int, height: int, width: int) -> RleMasks:
    """A mask that is known in a window at (x, y) of the image; what lies outside of the image is cut off."""
    mask = np.zeros((height, width), bool)
    top, left = max(y, 0), max(x, 0)
    inside = crop[top - y : max(top - y, height - y), left - x : max(left - x, width - x)]
    mask[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return RleMasks.encode(mask[None])


def drawn(shape: Shape, height: int, width: int) -> RleMasks:
    """The pixels of a shape, cut off at the border of the image: a set of one mask.

    Raises:
        ValueError: if run lengths are those of an image of another size.
    """
    if shape.mask is not None:
        if (shape.mask.height, shape.mask.width) != (height, width):
            given = f"{shape.mask.height} x {shape.mask.width}"
            raise ValueError(
                f"the mask of {brief(shape.name)} has {given} pixels, the image {height} x {width}"
            )
        return shape.mask
    if shape.drawing == "covered":
        outline = RleMasks.from_polygons([[shape.rings[0].ravel()]], height, width)
        if not shape.has_holes:
            return outline
        holes = RleMasks.from_polygons([[hole.ravel() for hole in shape.rings[1:]]], height, width)
        return RleMasks.concatenate([outline, holes.complement()]).merge(intersect=True)
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    for number, corners in enumerate(shape.rings):
        points = [(x, y) for x, y in (corners - 0.5).tolist()]
        value = int(number == 0)
        draw.polygon(points, fill=value, outline=value if shape.drawing == "outlined" else None)
    return RleMasks.encode(np.array(canvas, bool)[None])


# --- painting rules -----------------------------------------------------------------------------------

Painted = Sequence[tuple[Shape, RleMasks]]


def in_order(shapes: Painted) -> Painted:
    """Shapes of higher order over those of lower, later ones over earlier ones: what the tool showed."""
    return sorted(shapes, key=lambda pair: pair[0].order)


def small_over_large(shapes: Painted) -> Painted:
    """Small shapes over large ones, crowds below all: for files without an order, such as COCO's."""
    return sorted(shapes, key=lambda pair: (not pair[0].crowd, -int(pair[1].area[0])))


PAINTING: dict[str, Callable[[Painted], Painted]] = {
    "in order": in_order,
    "small over large": small_over_large,
}


def _drawn_all(shapes: Sequence[Shape], height: int, width: int, names: Iterable[str]) -> Painted:
    known = set(names)
    return [(shape, drawn(shape, height, width)) for shape in shapes if shape.name in known]


def semantic_of(
    shapes: Sequence[Shape],
    height: int,
    width: int,
    label_of: Mapping[str, int],
    *,
    background: int,
    rule: Callable[[Painted], Painted] = in_order,
) -> LabelMap:
    """The class of each pixel: that of the shape on top of it.

    Args:
        shapes: of the image.
        height: of the image in pixels.
        width: of the image in pixels.
        label_of: the label of each name, the ignore label for names that do not count; shapes with other
            names are left out.
        background: label of the pixels without a shape.
        rule: which shape lies on top.

    Raises:
        ValueError: on a shape that cannot be drawn.
    """
    labels = np.full((height, width), background, np.int64)
    for shape, mask in rule(_drawn_all(shapes, height, width, label_of)):
        x, y, w, h = mask.boxes[0].astype(int).tolist()
        if w and h:
            window = labels[y : y + h, x : x + w]
            window[mask.crop(x, y, w, h).decode()[0]] = label_of[shape.name]
    return LabelMap(torch.from_numpy(labels))


def instances_of(shapes: Sequence[Shape], height: int, width: int, label_of: Mapping[str, int]) -> MaskSet:
    """The instances: shapes of one class and group are one, those that show no pixel are left out.

    Masks may overlap, as they were drawn.

    Raises:
        ValueError: on a shape that cannot be drawn.
    """
    grouped = _grouped(_drawn_all(shapes, height, width, label_of))
    nothing = RleMasks.from_coco([], (height, width))
    masks = RleMasks.concatenate([nothing, *(mask for _, mask in grouped)])
    labels = torch.tensor([label_of[shape.name] for shape, _ in grouped], dtype=torch.int64)
    crowds = torch.tensor([shape.crowd for shape, _ in grouped], dtype=torch.bool)
    return MaskSet.of(masks, labels, is_crowd=crowds)


def panoptic_of(
    shapes: Sequence[Shape],
    height: int,
    width: int,
    label_of: Mapping[str, int],
    things: Sequence[int],
    *,
    rule: Callable[[Painted], Painted] = in_order,
) -> PanopticMap:
    """Segments that do not overlap: the shape on top has the pixel; stuff of one class is one segment.

    Raises:
        ValueError: on a shape that cannot be drawn.
    """
    id_map = np.full((height, width), VOID, np.int32)
    ids: dict[object, int] = {}
    labels, crowds = [], []
    for number, (shape, mask) in enumerate(rule(_drawn_all(shapes, height, width, label_of))):
        label = label_of[shape.name]
        key = ("stuff", label) if label not in things else _key(shape, number)
        if key not in ids:
            ids[key] = len(ids) + 1
            labels.append(label)
            crowds.append(shape.crowd)
        x, y, w, h = mask.boxes[0].astype(int).tolist()
        if w and h:
            id_map[y : y + h, x : x + w][mask.crop(x, y, w, h).decode()[0]] = ids[key]
    shown = np.isin(np.arange(1, len(ids) + 1), id_map)
    numbers = torch.arange(1, len(ids) + 1)[torch.from_numpy(shown)]
    kept = torch.from_numpy(shown)
    return PanopticMap.of(
        torch.from_numpy(id_map),
        numbers,
        torch.tensor(labels, dtype=torch.int64)[kept],
        torch.tensor(crowds, dtype=torch.bool)[kept],
    )


def _key(shape: Shape, number: int) -> object:
    """What shapes of one instance share."""
    return number if shape.group is None else (shape.name, shape.group)


def _grouped(shapes: Painted) -> Painted:
    """One shape and one mask per instance."""
    found: dict[object, tuple[Shape, list[RleMasks]]] = {}
    for number, (shape, mask) in enumerate(shapes):
        found.setdefault(_key(shape, number), (shape, []))[1].append(mask)
    joined = [
        (shape, masks[0] if len(masks) == 1 else RleMasks.concatenate(masks).merge())
        for shape, masks in found.values()
    ]
    return [(shape, mask) for shape, mask in joined if mask.area[0]]
