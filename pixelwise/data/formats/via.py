"""VIA, the VGG Image Annotator (versions 1 and 2): a JSON file or csv of regions.

Points are centres of pixels; the file does not know how large images are. The class of a region is the
value of its attribute; of several attributes the one called class, label, name, type or category counts,
else the first. Polygons, boxes, circles and ellipses are read; lines and points have no area.
"""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from ...types import Color
from ..shapes import Described, Export, Picture, Shape, box_ring, ellipse_ring, ring
from .json_file import read_json

_CLASS = ("class", "label", "name", "type", "category")
_AREAS = ("polygon", "rect", "circle", "ellipse")
_NAMELESS = "region"


def read_via(path: Path) -> Export:
    """What a file says of its images.

    Raises:
        ValueError: if it is missing or no such file.
    """
    try:
        entries = _from_csv(path) if path.suffix.lower() == ".csv" else _from_json(read_json(path))
        images = []
        colors: dict[str, Color | None] = {}
        for name, regions in entries:
            kept = [one for one in regions if one["shape_attributes"]["name"] in _AREAS]
            colors |= dict.fromkeys((_class(one) for one in kept), None)
            images.append(Described(path, name.replace("\\", "/"), kept))
        return Export(tuple(images), colors)
    except (KeyError, TypeError, AttributeError, ValueError, OSError, csv.Error, RecursionError) as error:
        raise ValueError(f"{path} is not a file of VIA: {type(error).__name__} {str(error)[:120]}") from error


def _from_json(content: Any) -> list[tuple[str, list[Any]]]:
    images = content.get("_via_img_metadata", content)
    found = []
    for entry in images.values():
        regions = entry["regions"]
        found.append(
            (str(entry["filename"]), list(regions.values() if isinstance(regions, dict) else regions))
        )
    return found


def _from_csv(path: Path) -> list[tuple[str, list[Any]]]:
    found: dict[str, list[Any]] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            name = row.get("filename") or row["#filename"]
            regions = found.setdefault(name, [])
            shape = json.loads(row["region_shape_attributes"])
            if shape:
                attributes = json.loads(row["region_attributes"] or "{}")
                regions.append({"shape_attributes": shape, "region_attributes": attributes})
    return list(found.items())


def _class(region: Any) -> str:
    attributes = region.get("region_attributes") or {}
    named = [attributes[key] for key in attributes if key.lower() in _CLASS] or list(attributes.values())
    value = named[0] if named else _NAMELESS
    if isinstance(value, dict):  # a checkbox: the first that is ticked
        value = next((key for key, ticked in value.items() if ticked), _NAMELESS)
    return str(value).strip() or _NAMELESS


def via_shapes(described: Described, picture: Picture) -> list[Shape]:
    """The shapes of an image.

    Raises:
        ValueError: on a region that cannot be drawn.
    """
    return [
        Shape(_class(region), (_outline(region["shape_attributes"]),), drawing="outlined")
        for region in described.content
    ]


def _outline(shape: Any) -> Any:
    kind = shape["name"]
    if kind == "polygon":
        points = list(zip(shape["all_points_x"], shape["all_points_y"], strict=True))
        return ring(points, 0.5)
    if kind == "rect":
        x, y = float(shape["x"]) + 0.5, float(shape["y"]) + 0.5
        return box_ring(x, y, x + float(shape["width"]), y + float(shape["height"]))
    x, y = float(shape["cx"]) + 0.5, float(shape["cy"]) + 0.5
    if kind == "circle":
        return ellipse_ring(x, y, float(shape["r"]), float(shape["r"]))
    turn = float(np.rad2deg(float(shape.get("theta") or 0)))
    return ellipse_ring(x, y, float(shape["rx"]), float(shape["ry"]), turn)
