"""labelme: a json file beside each image, with its shapes.

Points of outlines are centres of pixels, and the outline belongs to its shape: polygons are drawn by the rule
of labelme itself. Shapes with one label and one group are one instance; those without a group are one each. A
shape of the kind "mask" holds pixels, and is what is written, so that nothing is lost.
"""

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from ...files import atomic_write
from ...rle import RleMasks, run_lengths
from ...types import ClassTable, MaskSet
from ...wording import brief
from ..shapes import Shape, drawn, instances_of, ring

CROWD = "iscrowd"  # the flag of a shape that stands for several instances
_LEAST_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2, "oriented_rectangle": 4}
_SKIPPED = ("line", "linestrip", "point", "points")  # without an area
_LARGEST = 2**20  # pixels: a coordinate


@dataclass(frozen=True)
class LabelmeFile:
    """One file of labelme.

    Attributes:
        path: where it lies.
        image: name of the image, with forward slashes.
        shapes: those that have an area.
    """

    path: Path
    image: str
    shapes: tuple[dict[str, Any], ...]

    @property
    def labels(self) -> set[str]:
        """The names that occur."""
        return {str(shape["label"]) for shape in self.shapes}


def read_labelme(path: Path) -> LabelmeFile:
    """Read a file.

    Raises:
        ValueError: if it is missing or is not such a file.
    """
    try:
        content = json.loads(path.read_bytes())
        shapes = [dict(shape) for shape in content["shapes"]]
        for shape in shapes:
            shape["label"], shape["points"]
        image = str(content.get("imagePath") or path.name).replace("\\", "/")
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not a file of labelme: {type(error).__name__} {error}") from error
    kept = tuple(shape for shape in shapes if (shape.get("shape_type") or "polygon") not in _SKIPPED)
    return LabelmeFile(path, image, kept)


def labelme_shapes(file: LabelmeFile, height: int, width: int) -> list[Shape]:
    """The shapes of a file that have an area.

    Args:
        file: what was read.
        height: of the image in pixels.
        width: of the image in pixels.

    Raises:
        ValueError: on a shape that cannot be drawn; names the file.
    """
    found = []
    for number, shape in enumerate(file.shapes):
        name, group = str(shape["label"]), shape.get("group_id")
        try:
            shared: dict[str, Any] = {
                "name": name,
                "group": None if group is None else str(group),
                "crowd": bool((shape.get("flags") or {}).get(CROWD)),
            }
            if (shape.get("shape_type") or "polygon") in ("polygon", "oriented_rectangle"):
                found.append(Shape(rings=(ring(shape["points"], 0.5),), drawing="outlined", **shared))
            else:
                mask = RleMasks.encode(_drawn(shape, height, width)[None])
                found.append(Shape(mask=mask, **shared))
        except Exception as error:  # strangers' numbers, and Pillow on a damaged mask
            reason = str(error) or type(error).__name__
            raise ValueError(
                f"{file.path}: shape {number} ({brief(name)}) cannot be drawn: {reason[:200]}"
            ) from error
    return found


def labelme_instances(file: LabelmeFile, height: int, width: int, label_of: dict[str, int]) -> MaskSet:
    """The instances of a file.

    Args:
        file: what was read.
        height: of the image in pixels.
        width: of the image in pixels.
        label_of: the label of each name; shapes with other names are left out.

    Raises:
        ValueError: on a shape that cannot be drawn; names the file.
    """
    known = tuple(shape for shape in file.shapes if str(shape["label"]) in label_of)
    shapes = labelme_shapes(replace(file, shapes=known), height, width)
    return instances_of(shapes, height, width, label_of)


def _drawn(shape: dict[str, Any], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    kind = shape.get("shape_type") or "polygon"
    points = [(float(x), float(y)) for x, y in shape["points"]]
    if not all(math.isfinite(x) and math.isfinite(y) and max(abs(x), abs(y)) < _LARGEST for x, y in points):
        raise ValueError("its points must be finite")
    if kind not in _LEAST_POINTS or len(points) < _LEAST_POINTS[kind]:
        raise ValueError(f"a {kind} of {len(points)} points")
    if kind == "mask":
        return _pasted(shape, points, height, width)
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    if kind == "circle":
        (x, y), (u, v) = points[:2]
        radius = math.hypot(u - x, v - y)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=1, fill=1)
    elif kind == "rectangle":
        (x, y), (u, v) = points[:2]
        draw.rectangle((min(x, u), min(y, v), max(x, u), max(y, v)), outline=1, fill=1)
    else:
        raise ValueError(f"a {kind}, which is none of {', '.join(_LEAST_POINTS)}")
    return np.array(canvas, bool)


def _pasted(
    shape: dict[str, Any], points: list[tuple[float, float]], height: int, width: int
) -> Bool[np.ndarray, "H W"]:
    (x1, y1), (x2, y2) = points[:2]
    left, top, right, bottom = int(x1), int(y1), int(x2) + 1, int(y2) + 1
    with Image.open(io.BytesIO(base64.b64decode(shape["mask"], validate=True))) as image:
        window = np.array(image.convert("L")) > 0
    if not (0 <= left and 0 <= top and right <= width and bottom <= height):
        raise ValueError(f"its box {(x1, y1, x2, y2)} leaves the image of {width} x {height}")
    if window.shape != (bottom - top, right - left):
        raise ValueError(f"its mask has {window.shape}, its box {(bottom - top, right - left)} pixels")
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = window
    return mask


def write_labelme_shapes(path: Path, shapes: Sequence[Shape], size: tuple[int, int], image: str) -> None:
    """Write shapes: polygons without holes as polygons, all others as pixels; empty ones are left out.

    Args:
        path: of the json file.
        shapes: of the image.
        size: height and width of the image in pixels.
        image: name of the image, as it is found from the file.
    """
    groups: dict[object, int] = {}
    entries = []
    for shape in sorted(shapes, key=lambda one: one.order):
        group = None
        if shape.group is not None:
            group = groups.setdefault((shape.name, shape.group), len(groups) + 1)
        flags = {CROWD: True} if shape.crowd else {}
        shared = {"label": shape.name, "group_id": group, "description": "", "flags": flags}
        if shape.mask is None and not shape.has_holes:
            points = (shape.rings[0] - 0.5).round(4).tolist()
            entries.append({**shared, "points": points, "shape_type": "polygon", "mask": None})
        elif (pixels := _pixels(drawn(shape, *size))) is not None:
            entries.append({**shared, **pixels})
    _write(path, entries, size, image)


def _pixels(mask: RleMasks) -> dict[str, Any] | None:
    """Box and pixels of a shape of the kind "mask"; None for an empty one."""
    x, y, w, h = mask.boxes[0].astype(int).tolist()
    if not w:
        return None
    memory = io.BytesIO()
    Image.fromarray(mask.crop(x, y, w, h).decode()[0]).save(memory, format="PNG")
    return {
        "points": [[x, y], [x + w - 1, y + h - 1]],
        "shape_type": "mask",
        "mask": base64.b64encode(memory.getvalue()).decode("ascii"),
    }


def write_labelme(path: Path, instances: MaskSet, classes: ClassTable, image: str) -> None:
    """Write the instances of an image as shapes of the kind "mask"; empty ones are left out.

    Scores stand in the description of their shape.

    Args:
        path: of the json file.
        instances: of the image.
        classes: names them.
        image: name of the image, as it is found from the file.
    """
    masks = run_lengths(instances)
    columns = (instances.classes, instances.scores, instances.is_crowd)
    entries = []
    for mask, label, score, crowd in zip(masks, *(column.tolist() for column in columns), strict=True):
        if (pixels := _pixels(mask)) is not None:
            shared = {
                "label": classes.names[label],
                "group_id": None,
                "description": "" if score == 1 else f"score {score:.4f}",
                "flags": {CROWD: True} if crowd else {},
            }
            entries.append({**shared, **pixels})
    _write(path, entries, instances.size, image)


def _write(path: Path, shapes: list[dict[str, Any]], size: tuple[int, int], image: str) -> None:
    content: dict[str, Any] = {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": PurePosixPath(image).as_posix(),
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
