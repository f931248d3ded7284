"""What annotation tools write: shapes, read as classes of pixels, instances or panoptic segments.

Each tool is a row of `TOOLS`: by what it is recognised, what reads its files, what makes shapes of them.
Images are looked for among the files of the folder only, by the longest end of the path that the tool
wrote, so that no name leads out of it. The classes are those that the files name, in their order, or in
alphabetical order where they name none; the names `_background_` and `__ignore__` are none. Shapes are
painted in the order of the tool.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image

from ...types import Annotation, ClassTable, voc_palette
from ...wording import brief, some_of
from ..dataset import Pair
from ..formats.cityscapes_polygons import cityscapes_shapes, read_cityscapes_polygons
from ..formats.cvat import cvat_shapes, read_cvat
from ..formats.datumaro import datumaro_shapes, read_datumaro
from ..formats.geojson import geojson_shapes, read_geojson
from ..formats.image import IMAGE_SUFFIXES
from ..formats.imagescope import imagescope_shapes, read_imagescope
from ..formats.label_studio import label_studio_shapes, read_label_studio
from ..formats.labelme import labelme_shapes, read_labelme
from ..formats.supervisely import read_supervisely, supervisely_shapes
from ..formats.via import read_via, via_shapes
from ..formats.yolo import yolo_shapes
from ..label_encoding import LabelEncoding
from ..shapes import (
    BACKGROUND,
    IGNORED,
    Described,
    Export,
    Picture,
    Shape,
    instances_of,
    panoptic_of,
    semantic_of,
)
from . import cityscapes, cityscapes_instances, yolo_instances
from .layout import Layout, image_files, split_of
from .split_files import by_files

Kind = Literal["semantic", "instances", "panoptic"]
_HEAD, _LOOKED_AT = 1 << 16, 3  # bytes of a file, files of a level of folders
_ORIENTATION = 0x0112  # EXIF tag
_NO_CLASS = {*BACKGROUND, *IGNORED}


@dataclass(frozen=True)
class Tool:
    """An annotation tool.

    Attributes:
        files: the annotation files in a folder, none where it is not of this tool; looks at few and small
            parts.
        read: folder and files -> what they say of each image.
        shapes: what is said of an image, and the image -> its shapes.
        classes: of each kind of annotation, where they are those of a data set; all other names are ignored
            then. Without them the files decide.
    """

    files: Callable[[Path], Sequence[Path]]
    read: Callable[[Path, Sequence[Path]], Export]
    shapes: Callable[[Described, Picture], list[Shape]]
    classes: Mapping[Kind, ClassTable] = field(default_factory=dict)


@dataclass(frozen=True)
class ReadShapes:
    """Annotations painted from the shapes of a tool; see `ReadTarget`.

    Attributes:
        parse: makes the shapes.
        described: what the files say of each image, by its id in the data set.
        kind: what is painted.
        classes: the task.
        label_of: the label of each name.
    """

    parse: Callable[[Described, Picture], list[Shape]]
    described: Mapping[str, Described]
    kind: Kind
    classes: ClassTable
    label_of: Mapping[str, int]

    def __call__(self, pair: Pair) -> Annotation:
        """What is annotated in the image."""
        picture, shapes = self.shapes(pair)
        size = picture.height, picture.width
        try:
            if self.kind == "semantic":
                background = self.label_of.get("background", self.classes.ignore)
                return semantic_of(shapes, *size, self.label_of, background=background)
            label_of = {name: y for name, y in self.label_of.items() if y != self.classes.ignore}
            if self.kind == "instances":
                return instances_of(shapes, *size, label_of)
            return panoptic_of(shapes, *size, label_of, self.classes.things)
        except ValueError as error:
            raise ValueError(f"{self.described[pair.id].file}: {pair.id}: {error}") from error

    def shapes(self, pair: Pair) -> tuple[Picture, list[Shape]]:
        """The image, and its shapes as the tool has them.

        Raises:
            ValueError: if a file is damaged, or a shape is none; names the file.
        """
        described, picture = self.described[pair.id], picture_of(pair.image)
        try:
            with np.errstate(all="ignore"):  # numbers that are none are refused where shapes are made
                return picture, self.parse(described, picture)
        except Exception as error:  # strangers' numbers in any form, and Pillow on damaged bitmaps
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            if isinstance(error, KeyError):
                reason = f"{reason} is missing"
            raise ValueError(f"{described.file}: a shape of {pair.id} cannot be drawn: {reason}") from error


def picture_of(path: Path) -> Picture:
    """Path and size of an image, upright as its EXIF orientation says.

    Raises:
        ValueError: if it is no image.
    """
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            width, height = image.size[::-1] if turned else image.size
    except Exception as error:  # Pillow raises what it likes
        raise ValueError(f"cannot read {path}: {error or type(error).__name__}") from error
    return Picture(path, height, width)


@dataclass(frozen=True)
class Shapes:
    """A layout: the files of a tool, painted as one kind of annotation; see `Finder`.

    Attributes:
        tool: of the files.
        kind: what is painted.
    """

    tool: Tool
    kind: Kind

    def matches(self, root: Path) -> bool:
        """Whether the folder holds files of the tool."""
        return root.is_dir() and bool(self.tool.files(root))

    def find(self, root: Path, encoding: LabelEncoding | None) -> Layout:
        """List the images; see `Layout`.

        Args:
            root: the folder.
            encoding: a class table with names of the tool; shapes with other names are left out.

        Raises:
            ValueError: if there is no such file, no image of one, or a file is damaged.
        """
        files = self.tool.files(root) if root.is_dir() else ()
        if not files:
            raise ValueError(f"{root} holds no annotation file of this tool")
        export = self.tool.read(root, files)
        pairs, described, unpaired, problems = _found(root, export)
        if not any(pairs.values()):
            first = brief(export.images[0].image) if export.images else "none"
            raise ValueError(
                f"none of the {len(export.images)} images that {files[0]} names lies in {root}: the "
                f"first is {first}"
            )
        own = self.tool.classes.get(self.kind) or self._classes(export, root)
        classes = own if encoding is None else encoding.classes
        label_of = {name: label for label, name in enumerate(classes.names)}
        if self.kind == "semantic":
            label_of |= dict.fromkeys((n for n in IGNORED if n not in label_of), classes.ignore)
            if self.tool.classes:
                label_of |= dict.fromkeys((n for n in export.colors if n not in label_of), classes.ignore)
            if classes.names[0] in BACKGROUND:
                label_of |= dict.fromkeys(BACKGROUND, 0)
        unknown = [name for name in export.colors if name not in label_of and name not in _NO_CLASS]
        remarks = list(export.remarks)
        if encoding is not None and unknown:
            remarks.append(
                f"{len(unknown)} names of shapes are not in the class table and are left out: "
                f"{some_of(unknown)}"
            )
        read = ReadShapes(self.tool.shapes, described, self.kind, classes, label_of)
        layout = Layout(
            pairs,
            LabelEncoding.of(classes),
            read,
            unpaired=tuple(unpaired),
            problems=tuple(problems),
            remarks=tuple(remarks),
        )
        return by_files(root, layout)

    def _classes(self, export: Export, root: Path) -> ClassTable:
        names = [name for name in export.colors if name not in _NO_CLASS]
        if not any(export.colors.values()):
            names = sorted(names)
        if not names:
            raise ValueError(f"no file of {root} names a class of a shape")
        palette = voc_palette(len(names) + 1)[1:]
        colors = tuple(export.colors[name] or own for name, own in zip(names, palette, strict=True))
        ignore = 255 if len(names) < 255 else 65535
        if self.kind == "semantic":
            return ClassTable(("background", *names), ((0, 0, 0), *colors), ignore)
        return ClassTable(tuple(names), colors, ignore, things=tuple(range(len(names))))


def _found(
    root: Path, export: Export
) -> tuple[dict[str, tuple[Pair, ...]], dict[str, Described], list[Path], list[str]]:
    """Pairs of each part, what is said of each image, missing images, and what contradicts itself."""
    files = image_files(root)
    by_name: dict[str, list[Path]] = {}
    for path in files:
        for key in {path.name, path.stem}:
            by_name.setdefault(key, []).append(path)
    parts: dict[str, list[Pair]] = {}
    described: dict[str, Described] = {}
    unpaired, problems = [], []
    for one in export.images:
        image = _image_of(one, by_name, files)
        if image is None:
            unpaired.append(one.file.parent / PurePosixPath(one.image).name)
            continue
        name = image.relative_to(root).as_posix()
        if name in described:
            problems.append(f"{name} is described twice, in {described[name].file} and {one.file}")
            continue
        described[name] = one
        words = [
            *reversed(image.relative_to(root).parts[:-1]),
            *reversed(one.file.relative_to(root).parts[:-1]),
        ]
        part = split_of(one.part or "") or next((p for word in words if (p := split_of(word))), "all")
        parts.setdefault(part, []).append(Pair(image, one.file, name))
    pairs = {part: tuple(sorted(found, key=lambda pair: pair.id)) for part, found in parts.items()}
    if "all" in pairs and len(pairs) > 1:  # what no folder names is for training
        pairs["train"] = (*pairs.get("train", ()), *pairs.pop("all"))
    return pairs, described, unpaired, problems


def _image_of(one: Described, by_name: Mapping[str, list[Path]], files: Sequence[Path]) -> Path | None:
    """The file of an image: the longest end of its path counts, then the place beside the annotation."""
    if one.frame is not None and one.image not in by_name:
        return files[one.frame] if 0 <= one.frame < len(files) else None
    wanted = PurePosixPath(one.image).parts
    if not wanted:
        return None
    name = wanted[-1]
    found = by_name.get(name) or (
        by_name.get(PurePosixPath(name).stem)
        if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
        else None
    )
    if not found:  # servers put a mark before the name of an uploaded file: ab12cd34-a.jpg
        found = by_name.get(name.partition("-")[2]) if "-" in name else None
    if not found:
        return None

    part = split_of(one.part or "")

    def fit(path: Path) -> tuple[int, int, int]:
        parts = path.parts
        same = 0
        while same < min(len(parts), len(wanted)) and parts[-1 - same] == wanted[-1 - same]:
            same += 1
        named = part is not None and part in map(split_of, path.parts[-4:-1])
        return same, int(named), int(path.parent == one.file.parent)

    best = sorted(found, key=fit)
    if len(best) > 1 and fit(best[-1]) == fit(best[-2]):
        return None
    return best[-1]


# --- by what tools are recognised -----------------------------------------------------------------------


def _levels(root: Path, pattern: str) -> Iterator[Path]:
    """Some files of that name in the folder and up to three levels below it."""
    for level in ("", "*/", "*/*/", "*/*/*/"):
        found = (path for path in root.glob(level + pattern) if not path.name.startswith("."))
        yield from islice(found, _LOOKED_AT)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""


def _begins(path: Path, *words: bytes) -> bool:
    """Whether the beginning of a file has one of the words."""
    head = _head(path)
    return any(word in head for word in words)


def _by_beginning(pattern: str, *words: bytes) -> Callable[[Path], Sequence[Path]]:
    """The files of that name that begin so, at the level of the first one."""

    def files(root: Path) -> Sequence[Path]:
        first = next((path for path in _levels(root, pattern) if _begins(path, *words)), None)
        if first is None:
            return ()
        level = "*/" * (len(first.relative_to(root).parts) - 1)
        return sorted(
            p for p in root.glob(level + pattern) if not p.name.startswith(".") and _begins(p, *words)
        )

    return files


def _supervisely(root: Path) -> Sequence[Path]:
    first = next((path for path in _levels(root, "ann/*.json")), None)
    return [first] if first is not None and _begins(first, b'"classTitle"', b'"objects"') else ()


def _cityscapes(root: Path) -> Sequence[Path]:
    """Polygons of Cityscapes; their maps of ids are preferred where there are any."""
    if not cityscapes.is_cityscapes(root):
        return ()
    return sorted(path for path in root.glob("gt*/*/*/*_polygons.json") if path.parts[-3] != "test")


def _of_labelme(path: Path) -> bool:
    """Whether a file has shapes, which may come after a whole image."""
    return _begins(path, b'"shapes"') or (_begins(path, b'"imageData"') and b'"shapes"' in path.read_bytes())


def _labelme(root: Path) -> Sequence[Path]:
    if not any(_of_labelme(path) for path in _levels(root, "*.json")):
        return ()
    return sorted(path for path in root.rglob("*.json") if _of_labelme(path))


def _yolo(root: Path) -> Sequence[Path]:
    file = next((root / name for name in ("data.yaml", "data.yml") if (root / name).is_file()), None)
    return [file] if file is not None and yolo_instances.matches(root) else ()


def _read_yolo(root: Path, files: Sequence[Path]) -> Export:
    layout = yolo_instances.find(root, None)
    assert layout.encoding is not None
    classes = layout.encoding.classes
    names = dict(zip(classes.category_ids, classes.names, strict=True))
    images = [
        Described(pair.mask, pair.id, names, part)
        for part, pairs in layout.pairs.items()
        for pair in pairs
        if pair.mask is not None
    ]
    return Export(tuple(images), dict(zip(classes.names, classes.colors, strict=True)), layout.remarks)


def _yolo_shapes(described: Described, picture: Picture) -> list[Shape]:
    return yolo_shapes(described.file, picture.height, picture.width, described.content)


def _geojson(root: Path) -> Sequence[Path]:
    found = next(_levels(root, "*.geojson"), None)
    return sorted(path for path in root.rglob("*.geojson") if not path.name.startswith(".")) if found else ()


def _via(root: Path) -> Sequence[Path]:
    words = (b'"shape_attributes"', b'"_via_settings"', b'"file_attributes"')
    return _by_beginning("*.json", *words)(root) or _by_beginning("*.csv", b"region_shape_attributes")(root)


def _label_studio(root: Path) -> Sequence[Path]:
    found = _by_beginning("*.json", b'"result"')(root)
    return [path for path in found if _begins(path, b'"annotations"', b'"completions"')]


def _datumaro(root: Path) -> Sequence[Path]:
    found = _by_beginning("*.json", b'"dm_format_version"', b'"categories"')(root)
    return [path for path in found if _DATUMARO.search(_head(path))]


_DATUMARO = re.compile(rb'"categories"\s*:\s*\{')


def _joined(exports: Sequence[Export]) -> Export:
    """What several files say together."""
    colors: dict[str, tuple[int, int, int] | None] = {}
    for export in exports:
        colors |= {name: color or colors.get(name) for name, color in export.colors.items()}
    return Export(tuple(image for export in exports for image in export.images), colors)


def _of_each(read: Callable[[Path], Export]) -> Callable[[Path, Sequence[Path]], Export]:
    return lambda root, files: _joined([read(path) for path in files])


def _read_labelme(root: Path, files: Sequence[Path]) -> Export:
    images = []
    names: set[str] = set()
    for path in files:
        file = read_labelme(path)
        names |= file.labels
        images.append(Described(path, file.image, file))
    return Export(tuple(images), dict.fromkeys(sorted(names)))


def _labelme_shapes(described: Described, picture: Picture) -> list[Shape]:
    return labelme_shapes(described.content, picture.height, picture.width)


TOOLS: dict[str, Tool] = {
    "cvat": Tool(
        _by_beginning("*.xml", b"<annotations>", b"<annotations "), _of_each(read_cvat), cvat_shapes
    ),
    "imagescope": Tool(
        _by_beginning("*.xml", b"<Annotations>", b"<Annotations "),
        _of_each(read_imagescope),
        imagescope_shapes,
    ),
    "supervisely": Tool(_supervisely, lambda root, files: read_supervisely(root), supervisely_shapes),
    "label_studio": Tool(_label_studio, _of_each(read_label_studio), label_studio_shapes),
    "via": Tool(_via, _of_each(read_via), via_shapes),
    "datumaro": Tool(_datumaro, _of_each(read_datumaro), datumaro_shapes),
    "cityscapes_polygons": Tool(
        _cityscapes,
        lambda root, files: read_cityscapes_polygons(files, root),
        cityscapes_shapes,
        {
            "semantic": cityscapes.CLASSES,
            "instances": cityscapes_instances.CLASSES,
            "panoptic": replace(
                cityscapes.CLASSES,
                things=tuple(map(cityscapes.CLASSES.names.index, cityscapes_instances.CLASSES.names)),
            ),
        },
    ),
    "yolo": Tool(_yolo, _read_yolo, _yolo_shapes),
    "labelme": Tool(_labelme, _read_labelme, _labelme_shapes),
    "geojson": Tool(_geojson, lambda root, files: read_geojson(files, root), geojson_shapes),
}


def layouts(kind: Kind) -> dict[str, Shapes]:
    """The layouts of all tools for one kind of annotation, by the name of the tool."""
    return {name: Shapes(tool, kind) for name, tool in TOOLS.items()}
