"""Datumaro 1.0: `annotations/PART.json` with classes and items, images in `images/PART/`.

Points are pixels from the corner of the image, masks are COCO's run lengths. Shapes of higher `z_order` lie
on top; those with one `group` (not 0) are one instance. Polygons, masks and boxes are read.
"""

from pathlib import Path
from typing import Any

from ...rle import RleMasks
from ...types import Color
from ..shapes import Described, Export, Picture, Shape, box_ring, ring
from .json_file import read_json

_AREAS = ("polygon", "mask", "bbox")


def read_datumaro(path: Path) -> Export:
    """What a file says of its images.

    Raises:
        ValueError: if it is missing or no such file.
    """
    content = read_json(path)
    try:
        categories = content["categories"]
        names = [str(label["name"]) for label in categories["label"]["labels"]]
        colors: dict[str, Color | None] = dict.fromkeys(names)
        for entry in categories.get("mask", {}).get("colormap", []):
            if int(entry["label_id"]) < len(names):
                colors[names[int(entry["label_id"])]] = (int(entry["r"]), int(entry["g"]), int(entry["b"]))
        images = []
        for item in content["items"]:
            name = str(item.get("image", {}).get("path") or item["id"]).replace("\\", "/")
            kept = [
                {**one, "name": names[int(one["label_id"])]}
                for one in item["annotations"]
                if one["type"] in _AREAS and one.get("label_id") is not None
            ]
            images.append(Described(path, name, kept, path.stem))
        return Export(tuple(images), colors)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError) as error:
        reason = f"{type(error).__name__} {str(error)[:120]}"
        raise ValueError(f"{path} is not a file of Datumaro: {reason}") from error


def datumaro_shapes(described: Described, picture: Picture) -> list[Shape]:
    """The shapes of an image.

    Raises:
        ValueError: on an annotation that cannot be drawn.
    """
    return [_shape(entry, picture) for entry in described.content]


def _shape(entry: Any, picture: Picture) -> Shape:
    shared: dict[str, Any] = {
        "name": entry["name"],
        "order": int(entry.get("z_order") or 0),
        "group": str(entry["group"]) if entry.get("group") else None,
        "crowd": bool((entry.get("attributes") or {}).get("is_crowd")),
    }
    if entry["type"] == "mask":
        rle = entry["rle"]
        size = [int(side) for side in rle["size"]]
        if tuple(size) != (picture.height, picture.width):
            raise ValueError(f"a mask of {size}, the image has {[picture.height, picture.width]} pixels")
        return Shape(mask=RleMasks.from_coco([{"size": size, "counts": rle["counts"]}]), **shared)
    if entry["type"] == "polygon":
        points = entry["points"]
        return Shape(rings=(ring(list(zip(points[::2], points[1::2], strict=True))),), **shared)
    x, y, width, height = (float(side) for side in entry["bbox"])
    return Shape(rings=(box_ring(x, y, x + width, y + height),), **shared)
