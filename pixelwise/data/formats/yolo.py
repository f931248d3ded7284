"""YOLO-seg: a text file of outlines per image, and `data.yaml` with the names of the classes.

A line is `class x1 y1 x2 y2 ...` in shares of width and height, from the corner of the image. A line has one
ring: parts of an instance, and holes, are joined to it by bridges of no width, as the format's converters do.
A line of four numbers is a box. An image without a file, or with an empty one, shows nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml  # type: ignore[import-untyped]
from jaxtyping import Float, Integer

from ...files import atomic_write
from ...rle import RleMasks, run_lengths
from ...types import ClassTable, MaskSet, voc_palette
from ...wording import brief
from ..shapes import Shape, ring

_HOLES = "holes, which were filled"
_PARTS = "objects of several parts, which were joined by lines of no width"
_CROWDS = "crowds, which were left out"
_FARTHEST = 16.0  # a share of an image; outlines may reach a little beyond it


def read_yolo_classes(path: Path) -> ClassTable:
    """The classes of a `data.yaml`, whose `names` are a list, or a table of numbers and names.

    Raises:
        ValueError: if the file cannot be read or names no classes.
    """
    try:
        names = yaml.safe_load(path.read_text(encoding="utf-8-sig"))["names"]
        numbered = (
            dict(enumerate(names)) if isinstance(names, list) else {int(k): v for k, v in names.items()}
        )
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except (
        OSError,
        UnicodeDecodeError,
        yaml.YAMLError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise ValueError(f"{path} names no classes: expected names: [a, b] or {{0: a, 1: b}}") from error
    numbers = tuple(sorted(numbered))
    if not numbers or numbers[0] < 0:
        raise ValueError(f"{path} must number its classes from 0 on, got {brief(numbered)}")
    named = tuple(str(numbered[number]) for number in numbers)
    return ClassTable(named, voc_palette(len(named) + 1)[1:], things=tuple(range(len(named))), ids=numbers)


def write_yolo_classes(path: Path, classes: ClassTable, parts: Mapping[str, str]) -> None:
    """Write a `data.yaml`; `parts` are the folders of images of train, val and test."""
    content: dict[str, Any] = {**parts, "names": dict(enumerate(classes.names))}
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def read_yolo_labels(path: Path, height: int, width: int, label_of: Mapping[int, int]) -> MaskSet:
    """The instances of one image; none where there is no file.

    Args:
        path: of the text file.
        height: of the image in pixels.
        width: of the image in pixels.
        label_of: the label of each number in the file.

    Raises:
        ValueError: if a line is no outline, or has an unknown class; names file and line.
    """
    outlines = _read_outlines(path, label_of)
    polygons = [[(shares * [width, height]).ravel()] for _, shares in outlines]
    classes = torch.tensor([label for label, _ in outlines]).long()
    return MaskSet.of(RleMasks.from_polygons(polygons, height, width), classes)


def yolo_shapes(path: Path, height: int, width: int, names: Mapping[int, str]) -> list[Shape]:
    """The outlines of one image in pixels; see `read_yolo_labels`.

    Args:
        path: of the text file.
        height: of the image in pixels.
        width: of the image in pixels.
        names: the class of each number in the file.

    Raises:
        ValueError: as `read_yolo_labels`.
    """
    outlines = _read_outlines(path, {number: number for number in names})
    return [Shape(names[number], (ring(shares * [width, height]),)) for number, shares in outlines]


def _read_outlines(path: Path, label_of: Mapping[int, int]) -> list[tuple[int, Float[np.ndarray, "_ 2"]]]:
    """Label and outline of each line, in shares of width and height."""
    found = []
    try:
        text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            label, shares = int(words[0]), np.array([float(word) for word in words[1:]])
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: expected numbers, got {brief(line)}") from error
        if label not in label_of:
            raise ValueError(f"{path}, line {number}: there is no class {label}")
        if len(shares) == 4:
            x, y, w, h = shares
            left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
            shares = np.array([left, top, left, bottom, right, bottom, right, top])
        if len(shares) < 6 or len(shares) % 2 or not (np.abs(shares) <= _FARTHEST).all():
            raise ValueError(
                f"{path}, line {number}: expected a class and at least three points x y in 0..1, "
                f"got {len(shares)} numbers"
            )
        found.append((label_of[label], shares.reshape(-1, 2)))
    return found


def write_yolo_labels(path: Path, instances: MaskSet) -> None:
    """Write the outlines of an image; reading them gives masks and classes back, pixel by pixel.

    The format has neither scores nor crowds: crowds are left out, as what they show is not one object.
    """
    height, width = instances.size
    kept = instances.take(~instances.is_crowd)
    masks = run_lengths(kept)
    lines = []
    for polygons, label in zip(masks.polygons(), kept.classes.tolist(), strict=True):
        rings = [ring for polygon in polygons for ring in (polygon.outer, *polygon.holes)]
        if rings:
            shares = _joined(rings) / [width, height]
            lines.append(" ".join([str(label), *(f"{share:.8g}" for share in shares.ravel())]))
    with atomic_write(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_yolo_shapes(
    path: Path, shapes: Sequence[Shape], size: tuple[int, int], labels: Mapping[str, int]
) -> Mapping[str, int]:
    """Write outlines: polygons as they are, run lengths by their outlines.

    Args:
        path: of the text file.
        shapes: of the image; every one has the name of a class.
        size: height and width of the image in pixels.
        labels: the number of each class.

    Returns:
        How often the format could not say something, by sentence.
    """
    height, width = size
    lost: dict[str, int] = {}
    groups: dict[object, list[Shape]] = {}
    for number, shape in enumerate(shapes):
        if shape.crowd:
            lost[_CROWDS] = lost.get(_CROWDS, 0) + 1
            continue
        groups.setdefault(number if shape.group is None else (shape.name, shape.group), []).append(shape)
    lines = []
    for members in groups.values():
        rings, holes = [], 0
        for shape in members:
            if shape.mask is None:
                rings += [shape.rings[0]]
                holes += len(shape.rings) - 1
            else:
                for polygon in shape.mask.polygons()[0]:
                    rings.append(polygon.outer)
                    holes += len(polygon.holes)
        if not rings:
            continue
        if holes:
            lost[_HOLES] = lost.get(_HOLES, 0) + holes
        if len(rings) > 1:
            lost[_PARTS] = lost.get(_PARTS, 0) + 1
        shares = (_joined(rings) / [width, height]).clip(0, 1)
        lines.append(" ".join([str(labels[members[0].name]), *(f"{share:.8g}" for share in shares.ravel())]))
    with atomic_write(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return lost


def _joined(
    rings: Sequence[Integer[np.ndarray, "_ 2"] | Float[np.ndarray, "_ 2"]],
) -> Float[np.ndarray, "n 2"]:
    """One ring of several: from the first corner of the first to each other one, around it, and back."""
    start = rings[0][:1]
    parts = [rings[0]]
    for other in rings[1:]:
        parts += [start, other, other[:1]]
    joined = np.concatenate([*parts, start] if len(rings) > 1 else parts)
    return joined.astype(np.float64)
