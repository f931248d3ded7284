"""From any layout to the files of another tool: `pixelwise convert`.

Polygons stay the polygons that were drawn where reader and writer both have them; everything else goes as
pixels. The folder of results appears whole or not at all. What a format cannot hold is counted, and told
once.
"""

import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from ..files import make_folder
from ..rle import RleMasks, run_lengths
from ..types import Annotation, Boxes, ClassTable, LabelMap, MaskSet, PanopticMap
from ..wording import brief
from .dataset import DataSplits, SegmentationData
from .datasets.annotation_tools import ReadShapes, picture_of
from .datasets.coco_instances import Instances
from .datasets.yolo_instances import Outlines
from .formats.class_file import write_classes_file
from .formats.coco import coco_shapes, write_coco_shapes
from .formats.coco_panoptic import categories_of, write_segments
from .formats.cvat import write_cvat
from .formats.geojson import write_geojson
from .formats.json_file import write_json
from .formats.labelme import write_labelme_shapes
from .formats.mask import write_mask
from .formats.yolo import write_yolo_classes, write_yolo_shapes, yolo_shapes
from .shapes import (
    BACKGROUND,
    Picture,
    Shape,
    box_ring,
    drawn,
    semantic_of,
    small_over_large,
)

Progress = Callable[[int, int], None]
_OBJECTS, _PIXELS, _SEGMENTS = "instance", "semantic", "panoptic"
# Which reading of a folder suits a target best, by the names of tasks.
READINGS: dict[str, tuple[str, ...]] = {
    "coco": (_OBJECTS, _SEGMENTS, _PIXELS),
    "yolo": (_OBJECTS, _SEGMENTS, _PIXELS),
    "panoptic": (_SEGMENTS, _PIXELS, _OBJECTS),
    "pairs": (_PIXELS, _SEGMENTS, _OBJECTS),
    "cvat": (_OBJECTS, _SEGMENTS, _PIXELS),
    "labelme": (_OBJECTS, _SEGMENTS, _PIXELS),
    "geojson": (_OBJECTS, _SEGMENTS, _PIXELS),
}
_IGNORE = ("pairs", "panoptic")  # targets that know ignored pixels, or void
_NO_PICTURES = ("geotiff", "volumes")  # layouts
_IGNORED = "images with ignored pixels, which became background"
_OVERLAPS = "images with overlapping objects, of which the smaller one kept the pixels"


@dataclass(frozen=True)
class Converted:
    """What became of a data set.

    Attributes:
        root: the new folder.
        num_images: in all parts.
        num_shapes: that were written; of pixels, classes per image.
        lost: how often the target could not say something, by what it was.
    """

    root: Path
    num_images: int
    num_shapes: int
    lost: Mapping[str, int]

    def render(self) -> str:
        """A line on what was written, and one for each kind of loss."""
        lines = [f"{self.root}: {self.num_images} images, {self.num_shapes} shapes"]
        return "\n".join([*lines, *(f"Lost: {count} {what}" for what, count in self.lost.items())])


@dataclass(frozen=True)
class Job:
    """One image on its way.

    Attributes:
        name: of the image file in its new folder, different from all others of its part.
        part: train, val or test.
        picture: the image as it is.
        shapes: of the image; every one has the name of a class.
        annotation: as it was read, where it is no shapes.
    """

    name: str
    part: str
    picture: Picture
    shapes: tuple[Shape, ...]
    annotation: Annotation | None

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem


def convert(
    data: DataSplits,
    to: str,
    out: str | os.PathLike[str],
    *,
    exact: bool = False,
    link: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write a data set for another tool.

    Args:
        data: what was opened. Parts that were drawn at random are written as if the data named them: open
            with `val_fraction=0, test_fraction=0`.
        to: "coco", "yolo", "panoptic", "pairs", "cvat", "labelme" or "geojson".
        out: the new folder, which must not exist or be empty.
        exact: whether polygons are written as the pixels that their tool draws.
        link: whether images are links to the old files, which must stay then, instead of copies.
        progress: called with the number of images done and of all.

    Raises:
        ValueError: if the target is unknown, the folder is not empty, or a file is damaged; then nothing is
            written.
    """
    if to not in WRITERS:
        raise ValueError(f"to must be one of {', '.join(WRITERS)}, got {brief(to)}")
    if data.format in _NO_PICTURES:
        raise ValueError(f"{data.root} is of the layout {data.format}, and only pictures are converted")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not empty: choose another folder")
    if out.resolve().is_relative_to(data.root.resolve()):
        raise ValueError(f"{out} lies in the data folder {data.root}: choose a folder outside of it")
    make_folder(out.parent)
    temporary = out.parent / f".{out.name}.{secrets.token_hex(4)}"
    counted: Counter[str] = Counter()
    told = Counter[str]()
    try:
        temporary.mkdir()
        classes = _classes(data, to)
        jobs = _jobs(data, to, classes, exact, counted, progress)
        WRITERS[to](temporary, _with_images(jobs, temporary, to, link), classes, told)
        if out.exists():
            out.rmdir()
        os.replace(temporary, out)
    except OSError as error:
        raise ValueError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if to in _IGNORE:
        del counted[_IGNORED]
    shapes = counted.pop("shapes", 0)
    images = counted.pop("images", 0)
    return Converted(out, images, shapes, dict(counted + told))


def _classes(data: DataSplits, to: str) -> ClassTable:
    """The classes that the target has: a background is none where objects are written."""
    classes = data.classes
    if to in ("pairs", "panoptic") or classes.names[0] not in BACKGROUND or len(classes) == 1:
        return classes
    things = tuple(range(len(classes) - 1))
    return ClassTable(classes.names[1:], classes.colors[1:], classes.ignore, things=things)


def _jobs(
    data: DataSplits,
    to: str,
    classes: ClassTable,
    exact: bool,
    counted: Counter[str],
    progress: Progress | None,
) -> Iterator[Job]:
    parts = data.parts()
    total, done = sum(len(part) for part in parts.values()), 0
    for part, images in parts.items():
        names = _names([pair.id for pair in images.pairs])
        for index, pair in enumerate(images.pairs):
            picture, shapes, annotation = _read(images, index, counted)
            if to == "yolo" and isinstance(annotation, LabelMap):
                shapes = [piece for shape in shapes for piece in _pieces(shape)]
            if exact:
                shapes = [replace(s, rings=(), mask=drawn(s, picture.height, picture.width)) for s in shapes]
            known = tuple(shape for shape in shapes if shape.name in classes.names)
            counted["images"] += 1
            counted["shapes"] += len(known)
            yield Job(names[pair.id], part, picture, known, annotation)
            done += 1
            if progress is not None:
                progress(done, total)


def _names(ids: Sequence[str]) -> dict[str, str]:
    """A file name for each image of a part; the whole path where two differ in folder or suffix only."""
    stems = Counter(PurePosixPath(name).stem for name in ids)
    named = {}
    for name in ids:
        path = PurePosixPath(name)
        whole = str(path.with_suffix("")).replace("/", "_") + path.suffix.replace(".", "_") + path.suffix
        named[name] = path.name if stems[path.stem] == 1 else whole
    return named


def _read(
    data: SegmentationData, index: int, counted: Counter[str]
) -> tuple[Picture, list[Shape], Annotation | None]:
    """The image, its shapes, and the annotation where shapes are made of it."""
    pair, read, names = data.pairs[index], data.read_target, data.classes.names
    picture = picture_of(pair.image)
    if pair.mask is None:
        return picture, [], None
    if isinstance(read, ReadShapes):
        _, shapes = read.shapes(pair)
        labels = [read.label_of.get(shape.name, data.classes.ignore) for shape in shapes]
        kept = [(s, y) for s, y in zip(shapes, labels, strict=True) if y != data.classes.ignore]
        return picture, [replace(shape, name=names[label]) for shape, label in kept], None
    if isinstance(read, Instances):
        named = {number: names[label] for number, label in read.label_of.items()}
        return picture, coco_shapes(read.images[pair.id], named), None
    if isinstance(read, Outlines):
        named = {number: names[label] for number, label in read.label_of.items()}
        return picture, yolo_shapes(pair.mask, picture.height, picture.width, named), None
    annotation = data.target(index)
    return picture, _shapes_of(annotation, data.classes, counted), annotation


def _shapes_of(annotation: Annotation, classes: ClassTable, counted: Counter[str]) -> list[Shape]:
    """Shapes as run lengths: of each object, segment, or class of pixels.

    Raises:
        ValueError: if the annotation is of a kind that has no masks.
    """
    if isinstance(annotation, MaskSet):
        masks = run_lengths(annotation)
        columns = annotation.classes.tolist(), annotation.is_crowd.tolist()
        return [
            Shape(classes.names[label], mask=mask, crowd=crowd)
            for mask, label, crowd in zip(masks, *columns, strict=True)
        ]
    if isinstance(annotation, PanopticMap):
        id_map = annotation.id_map.numpy()
        masks = RleMasks.from_map(id_map, annotation.ids.tolist())
        columns = annotation.classes.tolist(), annotation.is_crowd.tolist()
        return [
            Shape(classes.names[label], mask=mask, crowd=crowd)
            for mask, label, crowd in zip(masks, *columns, strict=True)
        ]
    if isinstance(annotation, LabelMap) and annotation.labels.ndim == 2:
        labels = annotation.labels.numpy()
        present = np.unique(labels).tolist()
        counted[_IGNORED] += classes.ignore in present
        present = [label for label in present if label != classes.ignore]
        masks = RleMasks.from_map(labels, present)
        return [Shape(classes.names[label], mask=mask) for label, mask in zip(present, masks, strict=True)]
    if isinstance(annotation, Boxes):
        objects = annotation.boxes.tolist(), annotation.classes.tolist(), annotation.is_crowd.tolist()
        return [
            Shape(classes.names[label], (box_ring(*corners),), crowd=crowd)
            for corners, label, crowd in zip(*objects, strict=True)
        ]
    raise ValueError(f"{type(annotation).__name__} cannot be converted: it has no shapes")


def _pieces(shape: Shape) -> list[Shape]:
    """Each connected outline of a mask by itself."""
    assert shape.mask is not None
    return [
        Shape(shape.name, tuple(corners.astype(np.float64) for corners in (one.outer, *one.holes)))
        for one in shape.mask.polygons()[0]
    ]


# --- the targets --------------------------------------------------------------------------------------


def _image_folder(root: Path, to: str, part: str) -> Path:
    return root / part if to in ("labelme", "geojson") else root / "images" / part


def _with_images(jobs: Iterator[Job], root: Path, to: str, link: bool) -> Iterator[Job]:
    """The jobs, whose images are put into the new folder on the way."""
    for job in jobs:
        target = _image_folder(root, to, job.part) / job.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            target.symlink_to(job.picture.path.resolve())
        else:
            shutil.copyfile(job.picture.path, target)
        yield job


def _by_part(jobs: Iterator[Job]) -> Iterator[tuple[str, Iterator[Job]]]:
    """Jobs of one part after the other, which they come in."""
    return groupby(jobs, key=lambda job: job.part)


def _coco(root: Path, jobs: Iterator[Job], classes: ClassTable, lost: Counter[str]) -> None:
    for part, some in _by_part(jobs):
        images = ((job.name, job.picture.height, job.picture.width, job.shapes) for job in some)
        lost.update(write_coco_shapes(root / "annotations" / f"instances_{part}.json", images, classes))


def _yolo(root: Path, jobs: Iterator[Job], classes: ClassTable, lost: Counter[str]) -> None:
    labels = {name: label for label, name in enumerate(classes.names)}
    parts: dict[str, str] = {}
    for job in jobs:
        parts[job.part] = f"images/{job.part}"
        size = job.picture.height, job.picture.width
        path = root / "labels" / job.part / f"{job.stem}.txt"
        lost.update(write_yolo_shapes(path, job.shapes, size, labels))
    if parts and "val" not in parts:
        parts["val"] = parts["train"] if "train" in parts else next(iter(parts.values()))
    write_yolo_classes(root / "data.yaml", classes, parts)


def _cvat(root: Path, jobs: Iterator[Job], classes: ClassTable, lost: Counter[str]) -> None:
    images = (
        (f"{job.part}/{job.name}", job.part, job.picture.height, job.picture.width, job.shapes)
        for job in jobs
    )
    lost.update(write_cvat(root / "annotations.xml", images, classes))


def _labelme(root: Path, jobs: Iterator[Job], classes: ClassTable, lost: Counter[str]) -> None:
    for job in jobs:
        size = job.picture.height, job.picture.width
        write_labelme_shapes(root / job.part / f"{job.stem}.json", job.shapes, size, job.name)


def _geojson(root: Path, jobs: Iterator[Job], classes: ClassTable, lost: Counter[str]) -> None:
    for job in jobs:
        write_geojson(root / job.part / f"{job.stem}.geojson", job.shapes, job.picture)


def _pairs(root: Path, jobs: Iterator[Job], classes: ClassTable, lost: Counter[str]) -> None:
    for job in jobs:
        labels = LabelMap(_labels_of(job, classes, lost))
        write_mask(root / "masks" / job.part / f"{job.stem}.png", labels, classes)
    plain = classes.exclusive and all(name.strip() == name for name in classes.names)
    write_classes_file(root / ("classes.csv" if plain else "classes.json"), classes)


def _labels_of(job: Job, classes: ClassTable, lost: Counter[str]) -> Any:
    """The class of each pixel; small objects over large ones where they have no order."""
    if isinstance(job.annotation, LabelMap):
        return job.annotation.labels
    label_of = {name: label for label, name in enumerate(classes.names)}
    background = 0 if classes.names[0] in BACKGROUND else classes.ignore
    size = job.picture.height, job.picture.width
    if job.annotation is None and any(shape.order for shape in job.shapes):
        return semantic_of(job.shapes, *size, label_of, background=background).labels
    rule = small_over_large if isinstance(job.annotation, MaskSet) else _as_listed
    return semantic_of(job.shapes, *size, label_of, background=background, rule=rule).labels


def _as_listed(shapes: Any) -> Any:
    return shapes


def _panoptic(root: Path, jobs: Iterator[Job], classes: ClassTable, lost: Counter[str]) -> None:
    for part, some in _by_part(jobs):
        images, annotations = [], []
        for number, job in enumerate(some, 1):
            size = {"height": job.picture.height, "width": job.picture.width}
            images.append({"id": number, "file_name": job.name, **size})
            path = root / f"panoptic_{part}" / f"{job.stem}.png"
            segments = write_segments(path, _segments_of(job, classes, lost), classes)
            annotations.append({"image_id": number, "file_name": path.name, "segments_info": segments})
        content = {"images": images, "annotations": annotations, "categories": categories_of(classes)}
        write_json(root / f"panoptic_{part}.json", content)


def _segments_of(job: Job, classes: ClassTable, lost: Counter[str]) -> PanopticMap:
    """The segments of an image: without an order the smaller of two objects keeps the pixels."""
    if isinstance(job.annotation, PanopticMap):
        return job.annotation
    height, width = job.picture.height, job.picture.width
    masks = [(shape, drawn(shape, height, width)) for shape in job.shapes]
    ordered = any(shape.order for shape in job.shapes)
    rule = (lambda pairs: sorted(pairs, key=lambda p: p[0].order)) if ordered else small_over_large
    id_map: Int64[np.ndarray, "H W"] = np.zeros((height, width), np.int64)
    ids: dict[object, int] = {}
    labels, crowds, covered = [], [], 0
    for number, (shape, mask) in enumerate(rule(masks)):
        label = classes.names.index(shape.name)
        own = number if shape.group is None else (shape.name, shape.group)
        key: object = own if label in classes.things else shape.name
        if key not in ids:
            ids[key] = len(ids) + 1
            labels.append(label)
            crowds.append(shape.crowd)
        pixels = mask.decode()[0]
        covered += bool(id_map[pixels].any())
        id_map[pixels] = ids[key]
    lost[_OVERLAPS] += bool(covered and not ordered)
    return PanopticMap.of(
        torch.from_numpy(id_map.astype(np.int32)),
        torch.arange(1, len(ids) + 1),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(crowds, dtype=torch.bool),
    )


WRITERS: dict[str, Callable[[Path, Iterator[Job], ClassTable, Counter[str]], None]] = {
    "coco": _coco,
    "yolo": _yolo,
    "panoptic": _panoptic,
    "pairs": _pairs,
    "cvat": _cvat,
    "labelme": _labelme,
    "geojson": _geojson,
}
