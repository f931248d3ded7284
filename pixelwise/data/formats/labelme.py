"""labelme: a json file beside each image, with its shapes.

Points of outlines are centres of pixels, and the outline belongs to its shape: polygons are drawn by the rule
of labelme itself. Shapes with one label and one group are one instance; those without a group are one each. A
shape of the kind "mask" holds pixels, and is what is written, so that nothing is lost.
"""

import base64
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image, ImageDraw

from ...files import atomic_write
from ...rle import RleMasks
from ...types import ClassTable, MaskSet
from ...wording import brief

CROWD = "iscrowd"  # the flag of a shape that stands for several instances
_LEAST_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2, "oriented_rectangle": 4}
_SKIPPED = ("line", "linestrip", "point", "points")  # without an area
_LARGEST = 2**30


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
    masks: dict[object, Bool[np.ndarray, "H W"]] = {}
    labels: dict[object, int] = {}
    crowds: dict[object, bool] = {}
    for number, shape in enumerate(file.shapes):
        name, group = str(shape["label"]), shape.get("group_id")
        if name not in label_of:
            continue
        key = (name, group) if group is not None else number
        try:
            drawn = _drawn(shape, height, width)
        except (ValueError, TypeError, KeyError, OSError, OverflowError) as error:
            raise ValueError(
                f"{file.path}: shape {number} ({brief(name)}) cannot be drawn: {error}"
            ) from error
        masks[key] = masks[key] | drawn if key in masks else drawn
        labels[key], crowds[key] = label_of[name], bool((shape.get("flags") or {}).get(CROWD))
    stacked = np.stack(list(masks.values())) if masks else np.zeros((0, height, width), bool)
    classes, is_crowd = torch.tensor(list(labels.values())).long(), torch.tensor(list(crowds.values())).bool()
    return MaskSet.of(RleMasks.encode(stacked), classes, is_crowd=is_crowd)


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
        draw.polygon(points, outline=1, fill=1)
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


def write_labelme(path: Path, instances: MaskSet, classes: ClassTable, image: str) -> None:
    """Write the instances of an image as shapes of the kind "mask"; empty ones are left out.

    Scores stand in the description of their shape.

    Args:
        path: of the json file.
        instances: of the image.
        classes: names them.
        image: name of the image, as it is found from the file.
    """
    height, width = instances.size
    masks = instances.masks if isinstance(instances.masks, RleMasks) else RleMasks.encode(instances.dense)
    columns = (instances.classes, instances.scores, instances.is_crowd)
    shapes = []
    for mask, box, label, score, crowd in zip(
        masks, masks.boxes.astype(int).tolist(), *(column.tolist() for column in columns), strict=True
    ):
        x, y, w, h = box
        if not w:
            continue
        memory = io.BytesIO()
        Image.fromarray(mask.crop(x, y, w, h).decode()[0]).save(memory, format="PNG")
        shapes.append(
            {
                "label": classes.names[label],
                "points": [[x, y], [x + w - 1, y + h - 1]],
                "group_id": None,
                "description": "" if score == 1 else f"score {score:.4f}",
                "shape_type": "mask",
                "flags": {CROWD: True} if crowd else {},
                "mask": base64.b64encode(memory.getvalue()).decode("ascii"),
            }
        )
    content: dict[str, Any] = {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": PurePosixPath(image).as_posix(),
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
