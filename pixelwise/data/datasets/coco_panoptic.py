"""COCO panoptic: every pixel belongs to a segment of things or stuff, or to none.

    panoptic_train2017.json   panoptic_train2017/000000000009.png   train2017/000000000009.jpg

A json file per part, alone or in `annotations/`, names the images and tells what their segments are; PNG
files show the segments. They lie in a folder of the json file's name, or in another folder called panoptic
near it; the images are looked for near the json file. ADE20K, Cityscapes and Mapillary Vistas are converted
to this form. The root is a folder with such files, or one of them.
"""

import mmap
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...types import ClassTable, PanopticMap
from ..dataset import Pair
from ..formats.coco_panoptic import CocoPanopticFile, read_coco_panoptic, read_segments
from ..label_encoding import LabelEncoding
from .layout import Layout, image_files, part_of, split_of

_MARK = b'"segments_info"'


@dataclass(frozen=True)
class PanopticFiles:
    """Segments from a PNG file and what a json file says of them.

    Attributes:
        segments: `segments_info` of each image, by its id in the data set.
        label_of: the label of each category id.
    """

    segments: dict[str, tuple[dict[str, Any], ...]]
    label_of: dict[int, int]

    def __call__(self, pair: Pair) -> PanopticMap:
        """The segments of the image; see `ReadTarget`."""
        assert pair.mask is not None
        return read_segments(pair.mask, self.segments[pair.id], self.label_of)


def matches(root: Path) -> bool:
    """Whether there is a panoptic annotation file."""
    return bool(_files(root))


def find(root: Path, encoding: LabelEncoding | None) -> Layout:
    """List the images that the files describe; see `Layout`.

    Args:
        root: a folder, or a panoptic annotation file.
        encoding: a class table with as many classes as categories, to rename or recolour them.

    Raises:
        ValueError: if there is no such file, several for one part, or its PNG files or images are not found.
    """
    files = _files(root)
    if not files:
        raise ValueError(f"{root} holds no COCO panoptic file: expected panoptic_train.json or the like")
    read: dict[str, CocoPanopticFile] = {}
    for path in files:
        part = part_of(path)
        if part in read:
            raise ValueError(f"{read[part].path} and {path} describe one part: open one of them")
        read[part] = read_coco_panoptic(path)
    first = next(iter(read.values()))
    for other in read.values():
        if other.classes != first.classes:
            raise ValueError(f"{first.path} and {other.path} have different categories")
    pairs: dict[str, tuple[Pair, ...]] = {}
    segments: dict[str, tuple[dict[str, Any], ...]] = {}
    unpaired: list[Path] = []
    for part, file in read.items():
        found = []
        masks = _mask_folder(root, file)
        home, images = _images_near(root, file, masks)
        for image in file.images:
            place, mask = _found(image.file_name, images, part), masks / image.segments_file
            if place is None or not mask.is_file():
                unpaired.append(mask if place is not None else file.path.parent / image.file_name)
                continue
            pair = Pair(place, mask, place.relative_to(home).as_posix())
            segments[pair.id] = image.segments
            found.append(pair)
        if not found:
            raise ValueError(f"none of the images that {file.path} names lies near it")
        pairs[part] = tuple(found)
    label_of = {number: label for label, number in enumerate(first.classes.ids)}
    classes = _classes(first, encoding)
    return Layout(
        pairs, LabelEncoding.of(classes), PanopticFiles(segments, label_of), unpaired=tuple(unpaired)
    )


def _classes(file: CocoPanopticFile, encoding: LabelEncoding | None) -> ClassTable:
    own = file.classes
    if encoding is None:
        return own
    if len(encoding.classes) != len(own):
        raise ValueError(
            f"{file.path} has {len(own)} categories, the class table {len(encoding.classes)} classes"
        )
    return replace(own, names=encoding.classes.names, colors=encoding.classes.colors)


def _files(root: Path) -> list[Path]:
    """The panoptic annotation files: the root itself, or those in it and its folders."""
    if root.is_file():
        return [root] if root.suffix.lower() == ".json" and _has_segments(root) else []
    paths = [*sorted(root.glob("*.json")), *sorted(root.glob("*/*.json"))]
    return [path for path in paths if "panoptic" in path.name.lower() and _has_segments(path)]


def _has_segments(path: Path) -> bool:
    """Whether a file, which may be large, tells of segments."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(_MARK) >= 0
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


def _homes(root: Path, path: Path) -> list[Path]:
    """Where files are looked for: the data folder, or up to two folders above the annotation file."""
    given = root if root.is_dir() else root.parent
    return list(dict.fromkeys([given, path.parent, path.parent.parent]))


def _mask_folder(root: Path, file: CocoPanopticFile) -> Path:
    """The folder of the PNG files."""
    named = file.path.with_suffix("")
    if named.is_dir():
        return named
    first = file.images[0].segments_file if file.images else ""
    for home in _homes(root, file.path):
        folders = [path for path in sorted(home.rglob("*panoptic*")) if (path / first).is_file()]
        same = [path for path in folders if split_of(path.name) == part_of(file.path)]
        if folders:
            return (same or folders)[0]
    raise ValueError(f"there is no folder {named} with the PNG files of {file.path}")


def _images_near(root: Path, file: CocoPanopticFile, masks: Path) -> tuple[Path, dict[str, list[Path]]]:
    """The nearest folder that has the first image, and its images by name."""
    for home in _homes(root, file.path):
        known: dict[str, list[Path]] = defaultdict(list)
        for path in image_files(home):
            if masks not in path.parents:
                known[path.name].append(path)
        if any(Path(image.file_name).name in known for image in file.images):
            return home, known
    raise ValueError(f"none of the images that {file.path} names lies near it")


def _found(file_name: str, known: dict[str, list[Path]], part: str) -> Path | None:
    """The image called `file_name`.

    Raises:
        ValueError: if several files could be meant.
    """
    wanted = Path(file_name).parts
    found = known.get(wanted[-1], [])
    found = [path for path in found if path.parts[-len(wanted) :] == wanted] or found
    if len(found) > 1:
        found = [path for path in found if part in map(split_of, path.parts[-4:-1])] or found
    if len(found) > 1:
        raise ValueError(f"{file_name} may be {found[0]} or {found[1]}: open a folder with one of them")
    return found[0] if found else None
