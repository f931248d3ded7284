"""Label Studio: a JSON list of tasks, outlines in percent of the image, brushes in run lengths of its own.

A brush is a stream of bits, highest first: 32 bits say how many values follow (height x width x 4), 5 bits
the size of a value less 1, four times 4 bits the sizes of lengths less 1. Then, until all values are there:
a bit (1 for a run, 0 for values one by one), 2 bits that choose a size, so many bits with the length less
1, and one value or that many. The values are red, green, blue and alpha of the pixels, row by row; the mask
is where alpha is not 0 (label-studio-converter, `brush.py`). Of several annotations of a task the first
that was not cancelled counts.
"""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from jaxtyping import Bool, UInt8

from ...rle import RleMasks
from ...types import Color
from ..shapes import Described, Export, Picture, Shape, ellipse_ring, ring
from .json_file import read_json

_LABELS = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels")
_SIZE_BITS, _MOST_VALUES = (4, 4, 4, 4), 1 << 32


def read_label_studio(path: Path) -> Export:
    """What an export says of its images.

    Raises:
        ValueError: if it is missing or no such file.
    """
    tasks = read_json(path)
    try:
        images = []
        colors: dict[str, Color | None] = {}
        for task in tasks:
            every = task.get("annotations") or task.get("completions") or []
            kept = next((one for one in every if not one.get("was_cancelled")), None)
            results = [] if kept is None else kept["result"]
            results = [one for one in results if _label(one) is not None]
            colors |= {str(_label(one)): colors.get(str(_label(one))) for one in results}
            if kept is not None:
                images.append(Described(path, _image_name(task), results))
        return Export(tuple(images), colors)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(
            f"{path} is not an export of Label Studio: {type(error).__name__} {error}"
        ) from error


def _image_name(task: Any) -> str:
    """The path of the image, without what the server puts before it."""
    data = task.get("data", {})
    value = data.get("image") or next((text for text in data.values() if isinstance(text, str)), "")
    parts = urlsplit(str(value))
    local = parse_qs(parts.query).get("d")  # /data/local-files/?d=folder/a.jpg
    return unquote(local[0] if local else parts.path).replace("\\", "/")


def _label(result: Any) -> str | None:
    value = result.get("value", {})
    return next((str(value[kind][0]) for kind in _LABELS if value.get(kind)), None)


def label_studio_shapes(described: Described, picture: Picture) -> list[Shape]:
    """The shapes of an image.

    Raises:
        ValueError: on a shape that cannot be drawn.
    """
    return [_shape(result, picture) for result in described.content]


def _shape(result: Any, picture: Picture) -> Shape:
    value, name = result["value"], str(_label(result))
    across, down = picture.width / 100, picture.height / 100
    if "rle" in value:
        size = int(result["original_height"]), int(result["original_width"])
        if size != (picture.height, picture.width):
            raise ValueError(
                f"a brush of {size[0]} x {size[1]} pixels, the image has {picture.height} x {picture.width}"
            )
        return Shape(name, mask=RleMasks.encode(decode_brush(value["rle"], *size)[None]))
    if "points" in value:
        return Shape(name, (ring([(float(x) * across, float(y) * down) for x, y in value["points"]]),))
    x, y = float(value["x"]) * across, float(value["y"]) * down
    turn = float(value.get("rotation") or 0)
    if "radiusX" in value:
        radii = float(value["radiusX"]) * across, float(value["radiusY"]) * down
        return Shape(name, (ellipse_ring(x, y, *radii, turn),))
    width, height = float(value["width"]) * across, float(value["height"]) * down
    angle = np.deg2rad(turn)
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)])
    turned = corners @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return Shape(name, (ring(turned + np.array([x, y])),))


def decode_brush(rle: list[int], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """The mask of a brush.

    Args:
        rle: the bytes of the stream.
        height: of the image in pixels.
        width: of the image in pixels.

    Raises:
        ValueError: if it is no such stream, or has another number of pixels.
    """
    try:
        bits = "".join(f"{byte:08b}" for byte in bytes(rle))
        at = 0

        def take(count: int) -> int:
            nonlocal at
            at += count
            return int(bits[at - count : at], 2)

        total, word = take(32), take(5) + 1
        sizes = [take(bits_of) + 1 for bits_of in _SIZE_BITS]
        if total != height * width * 4:
            raise ValueError(f"a brush has {total} values, expected {height} x {width} x 4")
        parts: list[UInt8[np.ndarray, " _"]] = []
        filled = 0
        while filled < total:
            is_run, length = take(1), take(sizes[take(2)]) + 1
            if filled + length > total:
                raise ValueError("a brush holds more values than it says")
            if is_run:
                parts.append(np.full(length, take(word) & 255, np.uint8))
            else:
                parts.append(np.array([take(word) & 255 for _ in range(length)], np.uint8))
            filled += length
    except (TypeError, ValueError) as error:
        raise ValueError(f"a brush cannot be decoded: {str(error)[:120]}") from error
    return np.concatenate(parts).reshape(height, width, 4)[..., 3] != 0


def encode_brush(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    """The stream of a mask, as `decode_brush` reads it: runs only, with lengths of 3, 4, 8 or 16 bits."""
    values = np.repeat(mask.ravel().astype(np.uint8) * 255, 4)
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts = np.concatenate([[0], changes])
    lengths = np.diff(np.concatenate([starts, [len(values)]]))
    sizes = (3, 4, 8, 16)
    bits = [f"{len(values):032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in sizes)]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        while length:
            step = min(length, 1 << 16)
            choice = next(i for i, size in enumerate(sizes) if step <= 1 << size)
            bits.append(f"1{choice:02b}{step - 1:0{sizes[choice]}b}{int(values[start]):08b}")
            length -= step
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return [int(stream[i : i + 8], 2) for i in range(0, len(stream), 8)]
