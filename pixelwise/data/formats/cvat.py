"""CVAT's own format, "CVAT for images 1.1" and "CVAT for video 1.1": an XML file.

Points are pixels from the corner of the image. Masks are run lengths, row by row within their box, zeros
first. Shapes of higher `z_order` lie on top; those with one `group_id` (not 0) are one instance. Holes are
possible in masks only. Boxes, polygons, ellipses and masks are read; lines, points and tags have no area.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np

from ...files import atomic_write
from ...rle import RleMasks
from ...types import ClassTable, Color
from ..shapes import Described, Export, Picture, Shape, box_ring, drawn, ellipse_ring, placed, ring
from .xml_file import root_of

_AREAS = ("box", "polygon", "mask", "ellipse")


def read_cvat(path: Path) -> Export:
    """What a file says of its images.

    Raises:
        ValueError: if it is missing or no such file; also if it holds entities, which could fill the memory.
    """
    with root_of(path, "annotations", "CVAT") as root:
        images = [_described(path, image) for image in root.iter("image")] or _frames(path, root)
        colors = _colors(root)
        for described in images:
            for shape in described.content:
                colors.setdefault(shape.get("label", ""), None)
        return Export(tuple(images), colors)


def _described(path: Path, image: Element) -> Described:
    shapes = [child for child in image if child.tag in _AREAS]
    subset = image.get("subset")
    return Described(path, str(image.get("name")).replace("\\", "/"), shapes, subset)


def _frames(path: Path, root: Element) -> list[Described]:
    """The frames of a video, whose shapes stand in tracks."""
    frames: dict[int, list[Element]] = {}
    for number, track in enumerate(root.iter("track")):
        for shape in track:
            if shape.tag in _AREAS and shape.get("outside") != "1":
                shape.set("label", track.get("label", ""))
                shape.set("group_id", f"track {number}")
                frames.setdefault(int(shape.get("frame", "")), []).append(shape)
    return [
        Described(path, f"frame_{frame:06d}", shapes, frame=frame) for frame, shapes in sorted(frames.items())
    ]


def _colors(root: Element) -> dict[str, Color | None]:
    colors: dict[str, Color | None] = {}
    for label in root.iterfind(".//labels/label"):
        name, code = label.findtext("name"), (label.findtext("color") or "").removeprefix("#")
        if name:
            packed = int(code, 16) if len(code) == 6 else None
            colors[name] = None if packed is None else (packed >> 16, packed >> 8 & 255, packed & 255)
    return colors


def cvat_shapes(described: Described, picture: Picture) -> list[Shape]:
    """The shapes of an image.

    Raises:
        ValueError: on a shape that cannot be drawn.
    """
    return [_shape(element, picture) for element in described.content]


def _shape(element: Element, picture: Picture) -> Shape:
    group = element.get("group_id")
    shared: dict[str, Any] = {
        "name": element.get("label", ""),
        "order": int(element.get("z_order") or 0),
        "group": None if group in (None, "", "0") else group,
    }

    def number(field: str) -> float:
        return float(element.get(field, "0"))

    if element.tag == "mask":
        return Shape(mask=_mask(element, picture), **shared)
    if element.tag == "polygon":
        points = [point.split(",") for point in element.get("points", "").split(";")]
        return Shape(rings=(ring([(float(x), float(y)) for x, y in points]),), **shared)
    if element.tag == "ellipse":
        outline = ellipse_ring(number("cx"), number("cy"), number("rx"), number("ry"), number("rotation"))
        return Shape(rings=(outline,), **shared)
    corners = box_ring(number("xtl"), number("ytl"), number("xbr"), number("ybr"))
    if angle := np.deg2rad(number("rotation")):
        middle = corners.mean(0)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        corners = ring((corners - middle) @ turn + middle)
    return Shape(rings=(corners,), **shared)


def _mask(element: Element, picture: Picture) -> RleMasks:
    x, y, width, height = (int(float(element.get(key, "0"))) for key in ("left", "top", "width", "height"))
    if not (0 < width <= picture.width and 0 < height <= picture.height):
        raise ValueError(f"a mask of {width} x {height} in an image of {picture.width} x {picture.height}")
    runs = np.array([int(run) for run in element.get("rle", "").split(",") if run.strip()], np.int64)
    if (runs < 0).any() or runs.sum() != width * height or len(runs) > 2 * width * height + 2:
        raise ValueError(f"the runs of a mask fill {runs.sum()} of {width * height} pixels")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return placed(values.reshape(height, width), x, y, picture.height, picture.width)


# --- writing --------------------------------------------------------------------------------------


def write_cvat(
    path: Path,
    images: Iterable[tuple[str, str, int, int, Sequence[Shape]]],
    classes: ClassTable,
) -> Mapping[str, int]:
    """Write a file for "CVAT for images 1.1": polygons without holes as polygons, all others as masks.

    Args:
        path: of the XML file.
        images: name, part, height, width and shapes of each; every shape has the name of a class.
        classes: their names and colours.

    Returns:
        How often the format could not say something, by sentence.
    """
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    labels = SubElement(SubElement(SubElement(root, "meta"), "task"), "labels")
    for name, color in zip(classes.names, classes.colors, strict=True):
        label = SubElement(labels, "label")
        SubElement(label, "name").text = name
        SubElement(label, "color").text = "#{:02x}{:02x}{:02x}".format(*color)
        SubElement(label, "type").text = "any"
        SubElement(label, "attributes")
    lost: dict[str, int] = {}
    for number, (name, part, height, width, shapes) in enumerate(images):
        image = SubElement(
            root, "image", id=str(number), name=name, subset=part, width=str(width), height=str(height)
        )
        groups: dict[object, str] = {}
        for shape in shapes:
            key = (shape.name, shape.group)
            group = "0" if shape.group is None else groups.setdefault(key, str(len(groups) + 1))
            fields = {
                "label": shape.name,
                "source": "manual",
                "occluded": "0",
                "z_order": str(shape.order),
                "group_id": group,
            }
            if shape.crowd:
                lost["crowds, which became single objects"] = (
                    lost.get("crowds, which became single objects", 0) + 1
                )
            if shape.mask is None and not shape.has_holes:
                points = ";".join(f"{x:.6g},{y:.6g}" for x, y in shape.rings[0].tolist())
                SubElement(image, "polygon", {"points": points, **fields})
                continue
            mask = drawn(shape, height, width)
            x, y, w, h = mask.boxes[0].astype(int).tolist()
            if w:
                runs = _runs(mask.crop(x, y, w, h).decode()[0].ravel())
                box = {"left": str(x), "top": str(y), "width": str(w), "height": str(h)}
                SubElement(image, "mask", {"rle": ", ".join(map(str, runs)), **box, **fields})
    indent(root, " ")
    with atomic_write(path) as temporary:
        temporary.write_bytes(b'<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, "utf-8"))
    return lost


def _runs(values: np.ndarray) -> list[int]:
    """Lengths of equal values, zeros first."""
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    runs: list[int] = np.diff(np.concatenate([[0], changes, [len(values)]])).tolist()
    return [0, *runs] if values[0] else runs
