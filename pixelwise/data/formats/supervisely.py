"""Supervisely: `meta.json` with classes, `DATASET/img/a.jpg`, and its objects in `DATASET/ann/a.jpg.json`.

Points are centres of pixels, polygons may have holes, bitmaps are PNG files in zlib in base64. Later
objects lie on top. Polygons, rectangles and bitmaps are read; lines and points have no area.
"""

import base64
import binascii
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from ...types import Color
from ..shapes import Described, Export, Picture, Shape, placed, ring
from .json_file import read_json

_LARGEST = 1 << 28  # bytes of an unpacked bitmap file


def read_supervisely(root: Path) -> Export:
    """What the files of a project say of its images.

    Raises:
        ValueError: if a file is damaged.
    """
    colors: dict[str, Color | None] = {}
    meta = root / "meta.json"
    try:
        if meta.is_file():
            for entry in read_json(meta)["classes"]:
                packed = int(str(entry.get("color", "#000000")).removeprefix("#"), 16) & 0xFFFFFF
                colors[str(entry["title"])] = (packed >> 16, packed >> 8 & 255, packed & 255)
        images = []
        for path in sorted(root.rglob("ann/*.json")):
            objects = read_json(path)["objects"]
            for entry in objects:
                colors.setdefault(str(entry["classTitle"]), None)
            name = (path.parent.parent / "img" / path.name.removesuffix(".json")).relative_to(root)
            images.append(Described(path, name.as_posix(), objects))
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{root} is no Supervisely project: {type(error).__name__} {error}") from error
    return Export(tuple(images), colors)


def supervisely_shapes(described: Described, picture: Picture) -> list[Shape]:
    """The shapes of an image.

    Raises:
        ValueError: on an object that cannot be drawn.
    """
    found = []
    for entry in described.content:
        name, kind = str(entry["classTitle"]), entry.get("geometryType") or entry.get("shape")
        if kind == "bitmap":
            found.append(Shape(name, mask=_bitmap(entry["bitmap"], picture)))
        elif kind == "polygon":
            points = entry["points"]
            rings = (
                ring(points["exterior"], 0.5),
                *(ring(hole, 0.5) for hole in points.get("interior") or ()),
            )
            found.append(Shape(name, rings, drawing="outlined"))
        elif kind == "rectangle":
            (x, y), (u, v) = entry["points"]["exterior"][:2]
            corners = [(x, y), (u, y), (u, v), (x, v)]
            found.append(Shape(name, (ring(corners, 0.5),), drawing="outlined"))
    return found


def _bitmap(entry: Any, picture: Picture) -> Any:
    x, y = (int(side) for side in entry["origin"])
    return placed(_pixels(str(entry["data"])), x, y, picture.height, picture.width)


def _pixels(data: str) -> Bool[np.ndarray, "h w"]:
    """The mask in a bitmap: alpha of a picture with four channels, else what is not 0."""
    try:
        content = base64.b64decode(data)
    except binascii.Error as error:
        raise ValueError(f"a bitmap is not base64: {error}") from error
    try:
        content = zlib.decompressobj().decompress(content, _LARGEST)
    except zlib.error:
        pass  # some exports hold the PNG file itself
    with Image.open(io.BytesIO(content)) as image:
        if image.width * image.height > _LARGEST:
            raise ValueError(f"a bitmap claims {image.width} x {image.height} pixels")
        pixels = np.array(image)
    if pixels.ndim == 3:
        pixels = pixels[..., 3] if pixels.shape[-1] == 4 else pixels.max(-1)
    return pixels != 0
