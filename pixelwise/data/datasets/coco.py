"""COCO: instances in a json file, read as semantic labels.

The class of a pixel is the category of the smallest instance that covers it, 0 where there is none; the
regions of crowds are ignored. Categories are numbered 1, 2, ... in the order of their ids. The root is a
folder with one file of instances per part (`instances_train2017.json`, `train/_annotations.coco.json`), or
such a file itself; the images are looked for near it. `read_folder` lists them for all that such files hold.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ...types import Annotation, ClassTable, LabelMap
from ...wording import counted
from ..dataset import Pair, ReadTarget
from ..formats.coco import CocoFile, CocoImage, read_coco, semantic_labels
from ..formats.mask import check_size
from ..label_encoding import LabelEncoding
from .layout import Layout, image_files, name_in_folder, split_of

A = TypeVar("A", bound=Annotation)
_FIRST_KEY = re.compile(rb'^\s*\{\s*"(info|licenses|images|annotations|categories|type)"\s*:')
_NOT_INSTANCES = re.compile(r"panoptic|caption|keypoints|stuff|images?_info|results", re.IGNORECASE)
_USUAL = re.compile(r"annot|label|coco|train|val|test", re.IGNORECASE)  # folders that hold annotation files


@dataclass(frozen=True)
class CocoFolder:
    """The images that the files of a folder describe.

    Attributes:
        file: one of the files; all have its categories.
        pairs: the images of each part.
        images: what the files tell of each image, by its id in the data set.
        unpaired: images that are described but not found.
        problems: of the files, one sentence each.
        remarks: a sentence for each file that lies where one would not look for it.
    """

    file: CocoFile
    pairs: dict[str, tuple[Pair, ...]]
    images: dict[str, CocoImage]
    unpaired: tuple[Path, ...]
    problems: tuple[str, ...]
    remarks: tuple[str, ...]

    def layout(self, encoding: LabelEncoding, read_target: ReadTarget) -> Layout:
        """The folder with annotations that are read in one way."""
        return Layout(
            self.pairs,
            encoding,
            read_target,
            unpaired=self.unpaired,
            problems=self.problems,
            remarks=self.remarks,
        )


@dataclass(frozen=True)
class SemanticLabels:
    """Labels from the instances of an image.

    Attributes:
        images: what the files tell of each image, by its id in the data set.
        label_of: the label of each category.
        ignore: the label of crowd regions.
    """

    images: dict[str, CocoImage]
    label_of: dict[int, int]
    ignore: int

    def __call__(self, pair: Pair) -> LabelMap:
        """Labels of the image; see `ReadTarget`."""
        return annotation_of(
            pair, self.images, lambda image: LabelMap(semantic_labels(image, self.label_of, self.ignore))
        )


def annotation_of(pair: Pair, images: Mapping[str, CocoImage], read: Callable[[CocoImage], A]) -> A:
    """What `read` makes of the annotations of an image.

    Raises:
        ValueError: if the image has another size than the file says, or as `read`; names the file.
    """
    image = images[pair.id]
    try:
        check_size(pair.image, image.height, image.width)
        return read(image)
    except ValueError as error:
        raise ValueError(f"{pair.mask}: {error}") from error


def matches(root: Path) -> bool:
    """Whether there is a file of instances."""
    return bool(_files(root))


def find(root: Path, encoding: LabelEncoding | None) -> Layout:
    """List the images that the files describe; see `Layout`.

    Args:
        root: a folder, or a file of instances.
        encoding: a class table with one class more than categories, to rename or recolour them.

    Raises:
        ValueError: if there is no such file, several for one part, or its images are not found.
    """
    folder = read_folder(root)
    classes, label_of = classes_of(folder.file, folder.file.classes, encoding)
    return folder.layout(LabelEncoding.of(classes), SemanticLabels(folder.images, label_of, classes.ignore))


def read_folder(root: Path, *, boxes: bool = False) -> CocoFolder:
    """The images that the files of a folder describe.

    Args:
        root: a folder, or a file of instances.
        boxes: whether annotations without an outline count.

    Raises:
        ValueError: if there is no such file, several for one part, or its images are not found.
    """
    files = _files(root)
    if not files:
        raise ValueError(f"{root} holds no COCO file of instances: expected instances_train.json or the like")
    read: dict[str, CocoFile] = {}
    for source in files:
        part = _part(source)
        if part in read:
            raise ValueError(f"{read[part].path} and {source} describe one part: open one of them")
        read[part] = read_coco(source, boxes=boxes)
    first = next(iter(read.values()))
    for other in read.values():
        if other.categories != first.categories:
            raise ValueError(f"{first.path} and {other.path} have different categories")
    home = root if root.is_dir() else root.parent
    pairs: dict[str, tuple[Pair, ...]] = {}
    described: dict[str, CocoImage] = {}
    unpaired: list[Path] = []
    for part, file in read.items():
        places = _Places(home, file.path)
        found = []
        for image in file.images:
            if (path := places.of(image.file_name)) is None:
                unpaired.append(file.path.parent / image.file_name)
                continue
            pair = Pair(path, file.path, name_in_folder(path, places.home))
            described[pair.id] = image
            found.append(pair)
        if not found:
            whose = "" if file.path.parent == home else f" or in {home}: is that one data set?"
            raise ValueError(f"none of the images that {file.path} names lies near it{whose}")
        pairs[part] = tuple(found)
    problems = tuple(problem for file in read.values() for problem in file.problems)
    remarks = tuple(
        f"the annotations are those of {file.path} alone, for {counted(len(file.images), 'image')}"
        for file in read.values()
        if file.path.parent != home and not _USUAL.search(file.path.parent.name)
    )
    return CocoFolder(first, pairs, described, tuple(unpaired), problems, remarks)


def classes_of(
    file: CocoFile, own: ClassTable, encoding: LabelEncoding | None
) -> tuple[ClassTable, dict[int, int]]:
    """The classes, and the label of each category id.

    Args:
        file: names the categories.
        own: the table that the file gives: a class per category, with or without a background before them.
        encoding: a table that is given instead. Where it has the names of all categories they tell the
            labels, else the order does.

    Raises:
        ValueError: if the given table has neither these names nor as many classes.
    """
    first = len(own) - len(file.categories)  # labels before those of the categories
    classes = own if encoding is None else encoding.classes
    if set(own.names[first:]) <= set(classes.names):
        labels = [classes.names.index(name) for name in own.names[first:]]
    elif len(classes) == len(own):
        labels = list(range(first, len(own)))
    else:
        raise ValueError(
            f"{file.path} has {len(file.categories)} categories{' and background' if first else ''}, "
            f"the class table {len(classes)} classes"
        )
    return classes, {number: label for (number, _), label in zip(file.categories, labels, strict=True)}


def _files(root: Path) -> list[Path]:
    """The files of instances: the root itself, or those in it and its folders."""
    if root.is_file():
        return [root] if root.suffix.lower() == ".json" and _looks_right(root) else []
    paths = [*sorted(root.glob("*.json")), *sorted(root.glob("*/*.json"))]
    found = [path for path in paths if not _NOT_INSTANCES.search(path.name) and _looks_right(path)]
    return [path for path in found if "instances" in path.name] or found


def _looks_right(path: Path) -> bool:
    """Whether the beginning of the file, which may be large, is that of a COCO file."""
    try:
        with path.open("rb") as file:
            return bool(_FIRST_KEY.match(file.read(200)))
    except OSError:
        return False


def _part(path: Path) -> str:
    words = [word for word in re.split(r"[_.-]", path.stem) if word]
    named = [split for word in reversed(words) if (split := split_of(word))]
    return named[0] if named else split_of(path.parent.name) or "all"


class _Places:
    """Where the images of one file lie: under the data folder, or up to two folders above the file."""

    def __init__(self, home: Path, file: Path) -> None:
        self.part = _part(file)
        self.homes = list(dict.fromkeys([home, file.parent, file.parent.parent]))
        self.home = home
        self.known: dict[str, list[Path]] | None = None

    def of(self, file_name: str) -> Path | None:
        """The image called `file_name`.

        Raises:
            ValueError: if several files could be meant.
        """
        if self.known is None:
            self._look(file_name)
        assert self.known is not None
        found = self.known.get(file_name, [])
        if len(found) == 1:
            return found[0]
        wanted = Path(file_name).parts
        found = self.known.get(wanted[-1], [])
        whole = [path for path in found if path.parts[-len(wanted) :] == wanted]
        found = whole or found
        if len(found) > 1:
            same = [path for path in found if self.part in (split_of(part) for part in path.parts[-4:-1])]
            found = same if same else found
        if len(found) > 1:
            raise ValueError(f"{file_name} may be {found[0]} or {found[1]}: open a folder with one of them")
        return found[0] if found else None

    def _look(self, first: str) -> None:
        """List the images of the nearest folder that has the first one."""
        for home in self.homes:
            known = defaultdict(list)
            for path in image_files(home):
                known[path.name].append(path)
            self.known, self.home = known, home
            if Path(first).name in known:
                return
