"""COCO's panoptic format: a PNG file of segments per image, and a json file that says what each segment is.

The colour of a pixel codes the id of its segment, R + 256 G + 65536 B; 0 is void.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from ...files import atomic_write
from ...types import VOID, ClassTable, PanopticMap, voc_palette
from ...wording import brief, some_of
from .image import opened
from .json_file import read_json

_MOST_CLASSES = 65_534  # with an ignore label they fit into 16 bits
_HIGHEST = 2**24 - 1  # that three bytes can code


@dataclass(frozen=True)
class CocoPanopticImage:
    """One image of a panoptic annotation file.

    Attributes:
        file_name: of the image, as the file names it, with forward slashes.
        segments_file: name of the PNG file of its segments.
        segments: `segments_info` as in the file.
    """

    file_name: str
    segments_file: str
    segments: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class CocoPanopticFile:
    """A panoptic annotation file.

    Attributes:
        path: where it lies.
        images: those with an annotation, in the order of the file.
        classes: one per category, in the order of their ids, which the table keeps.
    """

    path: Path
    images: tuple[CocoPanopticImage, ...]
    classes: ClassTable


def read_coco_panoptic(path: Path) -> CocoPanopticFile:
    """Read a panoptic annotation file.

    Raises:
        ValueError: if the file is missing, is not such a file, or contradicts itself.
    """
    content = read_json(path)
    try:
        return CocoPanopticFile(path, _images(content), _classes(content["categories"]))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} is not a COCO file of panoptic annotations: {reason}") from error


def _images(content: Mapping[str, Any]) -> tuple[CocoPanopticImage, ...]:
    names: dict[Any, str] = {}
    for entry in content["images"]:
        if entry["id"] in names:
            raise ValueError(f"the image {brief(str(entry['id']))} stands there twice")
        names[entry["id"]] = _plain(entry["file_name"])
    found: dict[Any, CocoPanopticImage] = {}
    for annotation in content["annotations"]:
        image = annotation["image_id"]
        if image not in names:
            raise ValueError(f"an annotation belongs to the unknown image {brief(str(image))}")
        if image in found:
            raise ValueError(f"the image {brief(str(image))} has two annotations")
        segments = tuple(dict(segment) for segment in annotation["segments_info"])
        segments_file = _plain(annotation["file_name"])
        if ".." in Path(segments_file).parts or Path(segments_file).is_absolute():
            raise ValueError(f"{brief(segments_file)} leaves the folder of the segments")
        found[image] = CocoPanopticImage(names[image], segments_file, segments)
    return tuple(found.values())


def _plain(name: Any) -> str:
    """A file name with forward slashes.

    Raises:
        ValueError: if it names no file.
    """
    text = str(name).replace("\\", "/")
    if not Path(text).name or "\0" in text:
        raise ValueError(f"a file_name must name a file, got {brief(text)}")
    return text


def _classes(categories: Any) -> ClassTable:
    entries = sorted(categories, key=lambda entry: int(entry["id"]))
    ids = tuple(int(entry["id"]) for entry in entries)
    if doubled := [number for number, other in pairwise(ids) if number == other]:
        raise ValueError(f"two categories have the id {doubled[0]}")
    if len(ids) > _MOST_CLASSES:
        raise ValueError(f"it has {len(ids)} categories, expected at most {_MOST_CLASSES}")
    names: list[str] = []
    for entry in entries:
        name = str(entry["name"])
        names.append(name if name not in names else f"{name} {entry['id']}")
    drawn = voc_palette(len(entries) + 1)[1:]
    colors = tuple(
        (int(r), int(g), int(b))
        for r, g, b in (entry.get("color", own) for entry, own in zip(entries, drawn, strict=True))
    )
    things = tuple(label for label, entry in enumerate(entries) if entry["isthing"])
    ignore = 255 if len(names) <= 255 else 65535
    return ClassTable(tuple(names), colors, ignore, things=things, ids=ids)


# --- PNG files ------------------------------------------------------------------------------------


def read_segments(
    path: Path, segments: Sequence[Mapping[str, Any]], label_of: Mapping[int, int]
) -> PanopticMap:
    """The segments of one image.

    Args:
        path: of the PNG file.
        segments: `segments_info` of the image.
        label_of: the label of each category id.

    Raises:
        ValueError: if the file cannot be read, an id stands in the PNG but not in the json or the reverse, or
            a segment has an unknown category; names the file.
    """
    with opened(path) as image:
        if image.mode not in ("RGB", "RGBA"):
            raise ValueError(f"ids of segments are coded in colours, the file has the mode {image.mode}")
        pixels = np.asarray(image.convert("RGB"))
    panoptic_map = PanopticMap.of_coco(pixels, segments, label_of, str(path))
    painted = set(np.unique(panoptic_map.id_map.numpy()).tolist()) - {VOID}
    listed = panoptic_map.ids.tolist()
    if VOID in listed:
        raise ValueError(f"{path}: a segment has the id {VOID}, which means void")
    if len(set(listed)) < len(listed):
        raise ValueError(f"{path}: two segments of the json file have one id")
    if lost := sorted(painted - set(listed)):
        raise ValueError(f"{path} shows segments that the json file lacks: {some_of(list(map(str, lost)))}")
    if lost := sorted(set(listed) - painted):
        raise ValueError(f"{path} lacks segments that the json file lists: {some_of(list(map(str, lost)))}")
    return panoptic_map


def colors_of_ids(id_map: Int32[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Colours that code ids.

    Raises:
        ValueError: on an id that three bytes cannot code.

    >>> colors_of_ids(np.array([[1, 256, 65536]], np.int32)).tolist()
    [[[1, 0, 0], [0, 1, 0], [0, 0, 1]]]
    """
    if id_map.size and not 0 <= id_map.min() <= id_map.max() <= _HIGHEST:
        raise ValueError(f"ids of segments must be in 0..{_HIGHEST}, got {id_map.min()} to {id_map.max()}")
    return np.stack([id_map % 256, id_map // 256 % 256, id_map // 65536], -1).astype(np.uint8)


def write_segments(path: Path, panoptic_map: PanopticMap, classes: ClassTable) -> list[dict[str, Any]]:
    """Write the PNG file of an image with ids 1, 2, ... in the order of the table; gives `segments_info`.

    Segments that show no pixel are left out. A category is written as the id that the class table knows, as
    label + 1 where it knows none.

    Raises:
        ValueError: if a segment has a label outside the table, or the file cannot be written.
    """
    id_map = panoptic_map.id_map.cpu().numpy()
    new = np.zeros(id_map.shape, np.int32)
    segments: list[dict[str, Any]] = []
    columns = (panoptic_map.ids, panoptic_map.classes, panoptic_map.is_crowd)
    for old, label, crowd in zip(*(column.tolist() for column in columns), strict=True):
        if not 0 <= label < len(classes):
            raise ValueError(
                f"segment {old} has the label {label}, which is outside the table of {len(classes)} classes"
            )
        rows, places = (id_map == old).nonzero()
        if not len(rows):
            continue
        number = len(segments) + 1
        new[rows, places] = number
        x, y = int(places.min()), int(rows.min())
        segments.append(
            {
                "id": number,
                "category_id": classes.category_ids[label],
                "area": len(rows),
                "bbox": [x, y, int(places.max()) - x + 1, int(rows.max()) - y + 1],
                "iscrowd": int(crowd),
            }
        )
    with atomic_write(path) as temporary:
        Image.fromarray(colors_of_ids(new)).save(temporary, format="PNG")
    return segments


def categories_of(classes: ClassTable) -> list[dict[str, Any]]:
    """The `categories` of a panoptic annotation file."""
    named = zip(classes.category_ids, classes.names, classes.colors, strict=True)
    return [
        {"id": number, "name": name, "isthing": int(label in classes.things), "color": list(color)}
        for label, (number, name, color) in enumerate(named)
    ]
