"""Cityscapes' own polygons, `x_gtFine_polygons.json`: drawn in the order of the file, never by size.

Points are centres of pixels. A label such as `cargroup` is a group of objects; the license plate, whose id is
negative, and objects that were deleted are not drawn: what lies below stays (cityscapesScripts,
`preparation/json2labelImg.py`).
"""

from collections.abc import Sequence
from pathlib import Path

from ...types import Color
from ..shapes import Described, Export, Picture, Shape, ring
from .json_file import read_json

_NOT_DRAWN, _GROUP = "license plate", "group"


def read_cityscapes_polygons(paths: Sequence[Path], root: Path) -> Export:
    """What files say of their images.

    Raises:
        ValueError: if one is missing or no such file.
    """
    images = []
    colors: dict[str, Color | None] = {}
    for path in paths:
        try:
            objects = [one for one in read_json(path)["objects"] if not one.get("deleted")]
            kept = [one for one in objects if str(one["label"]) != _NOT_DRAWN]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no file of Cityscapes: {type(error).__name__} {error}") from error
        colors |= dict.fromkeys((str(one["label"]).removesuffix(_GROUP) for one in kept), None)
        stem = path.name.rpartition("_gt")[0]
        place = Path("leftImg8bit", *path.relative_to(root).parts[1:-1], f"{stem}_leftImg8bit.png")
        images.append(Described(path, place.as_posix(), kept))
    return Export(tuple(images), colors)


def cityscapes_shapes(described: Described, picture: Picture) -> list[Shape]:
    """The shapes of an image.

    Raises:
        ValueError: on a polygon that cannot be drawn.
    """
    found = []
    for entry in described.content:
        name = str(entry["label"])
        plain = name.removesuffix(_GROUP)
        rings = (ring(entry["polygon"], 0.5),)
        found.append(Shape(plain, rings, crowd=plain != name, drawing="filled"))
    return found
