"""Trees of images and masks, told by patterns: most data sets are a row of `sets.py`, read here.

A pattern is a path with placeholders: `{id}` may hold slashes, others hold none; a placeholder that stands
twice means the same text. What an image is called says where its mask lies.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ...rle import RleMasks
from ...types import Annotation, ClassMasks, ClassTable, LabelMap, MaskSet
from ...wording import brief
from ..dataset import MaskFiles, Pair, ReadTarget
from ..formats.class_file import read_label_encoding
from ..formats.image import read_image
from ..formats.mask import read_mask_pixels
from ..label_encoding import LabelEncoding, MaskRule
from .layout import Layout, name_in_folder
from .listing import listed

CLASSES = Path(__file__).parent / "classes"
Places = Mapping[str, str]  # what the placeholders of an image are
_FOLDERS = 50  # folders in the root that may hold the tree
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Part:
    """Images of one part, and their masks.

    Attributes:
        images: pattern of the images; several where files come in several forms.
        masks: pattern of the masks, likewise; the first that exists counts. Empty for images without masks.
        names: a file whose lines begin with the `{id}` of the images of this part; "" where all count.
    """

    images: str | tuple[str, ...]
    masks: str | tuple[str, ...] = ()
    names: str = ""


@dataclass(frozen=True)
class Row:
    """A data set: how its tree looks, what its masks mean, and what its owner says of it.

    Attributes:
        name: as `--format` takes it.
        title: as people call it.
        layout: the layout that reads it, where that is one of its own; "" for `parts`.
        parts: train, val, test, or all where nothing tells them apart.
        classes: the class file in `classes/`; "" where the layout has them.
        rule: how masks are read; see `LabelEncoding`.
        layers: the class of each mask file, by what stands for `{layer}` in the pattern of the masks:
            several files for one image, painted one over the other; None for one file.
        overlapping: whether layers may overlap, so that a pixel has any number of classes.
        objects: whether each mask file is one object, or each value one.
        void: of objects, the values besides 0 that are none.
        dates: the folders of the images of an earlier and a later day, whose colours become six channels;
            the pattern of the images is that of the earlier ones. None for one image.
        split: from the placeholders of an image to its part, where numbers or names tell it.
        lists: of each part the files that may list its images or `{sequence}`s, a line each; the first that
            is there counts. Images in no list are left out, where there is one.
        marks: paths of which all must exist for the tree to be recognised; none where only its name opens it.
        licence: in a clause.
        commercial: whether the licence states that commercial use is allowed; None where it is unclear.
        source: where it comes from.
        metric: the official scores.
        score: the name in `pixelwise.metrics` that computes them; "" for the scores of the task.
        official: the scores that `evaluate` adds to those of the task, see `predict.official`; "" for none.
        task: that it is for.
        trap: what is easily got wrong.
    """

    name: str
    title: str
    layout: str = ""
    parts: Mapping[str, Part] = field(default_factory=dict)
    classes: str = ""
    rule: MaskRule = "exact"
    layers: Mapping[str, str] | None = None
    overlapping: bool = False
    objects: bool = False
    void: tuple[int, ...] = ()
    dates: tuple[str, str] | None = None
    split: Callable[[Places], str] | None = None
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    licence: str = ""
    commercial: bool | None = None
    source: str = ""
    metric: str = "mean IoU"
    score: str = ""
    official: str = ""
    task: str = "semantic"
    trap: str = ""

    @property
    def encoding(self) -> LabelEncoding:
        """What its masks mean.

        Raises:
            ValueError: if it has no class file.
        """
        if self.rule in ("above-127", "above-0"):
            names = self.classes.split()
            table = ClassTable((names[0], names[1]), ((0, 0, 0), (255, 255, 255)))
            return LabelEncoding.by_rule(self.rule, table)
        encoding = read_label_encoding(CLASSES / f"{self.classes}.csv")
        if self.rule == "first-channel":
            return replace(encoding, channel=0)
        return encoding

    @property
    def table(self) -> ClassTable:
        """Its classes."""
        if self.objects:
            names = tuple(self.classes.split())
            return ClassTable(names, ((220, 60, 60),), things=(0,))
        if self.layers is not None and not self.classes:
            plain = ClassTable.of(*self.layers.values())
            return ClassTable(plain.names, plain.colors, exclusive=not self.overlapping)
        return self.encoding.classes

    def tree(self) -> list[str]:
        """The paths that it expects, a line for each kind of file of each part."""
        lines = []
        for name, part in self.parts.items():
            lines += [f"{name:<5}  images  {pattern}" for pattern in _several(part.images)]
            lines += [f"{name:<5}  masks   {pattern}" for pattern in _several(part.masks)]
            lines += [f"{name:<5}  names   {part.names}"] if part.names else []
        return lines


def _several(patterns: str | tuple[str, ...]) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else patterns


@dataclass(frozen=True)
class LayerMasks:
    """Labels or masks from one file per class of an image; see `ReadTarget`.

    Attributes:
        files: the file of each class by the id of the image; classes without a file are absent.
        classes: the task.
    """

    files: Mapping[str, Mapping[int, Path]]
    classes: ClassTable

    def __call__(self, pair: Pair) -> Annotation:
        """The annotation of the image."""
        masks = {label: _set(path) for label, path in self.files[pair.id].items()}
        size = next(iter(masks.values())).shape
        size, times = _times(size, pair.image)
        masks = {label: mask.repeat(times, 0).repeat(times, 1) for label, mask in masks.items()}
        for label, mask in masks.items():
            if mask.shape != size:
                raise ValueError(
                    f"{self.files[pair.id][label]} has {mask.shape} pixels, another layer {size}"
                )
        if self.classes.exclusive:
            labels = np.zeros(size, np.int64)
            for label in sorted(masks):
                labels[masks[label]] = label
            return LabelMap(torch.from_numpy(labels))
        stack = np.zeros((len(self.classes), *size), np.int64)
        for label, mask in masks.items():
            stack[label] = mask
        return ClassMasks(torch.from_numpy(stack))


@dataclass(frozen=True)
class ReadTwoDates:
    """Two images of one place as one, the channels of the earlier first; see `ReadImage`.

    Attributes:
        earlier: the folder of the one.
        later: the folder of the other, beside it.
    """

    earlier: str
    later: str

    def __call__(self, path: Path, channels: int) -> tuple[Float[Tensor, "c H W"], None]:
        """Half of the channels from each."""
        if channels % 2:
            raise ValueError(
                f"{path} is one of two images: an even number of channels is needed, got {channels}"
            )
        other = path.parent.with_name(self.later) / path.name
        images = [read_image(one, channels // 2) for one in (path, other)]
        if images[0].shape != images[1].shape:
            raise ValueError(f"{path} and {other} differ in size")
        return torch.cat(images), None


@dataclass(frozen=True)
class ObjectFiles:
    """Instances from one file for each object, or from maps whose values number them; see `ReadTarget`.

    Attributes:
        files: of each image, by its id.
        void: values besides 0 that are no object.
    """

    files: Mapping[str, tuple[Path, ...]]
    void: tuple[int, ...] = ()

    def __call__(self, pair: Pair) -> MaskSet:
        """The objects of the image."""
        masks, size = [], None
        for path in self.files[pair.id]:
            numbers = read_mask_pixels(path)
            numbers = numbers[..., 0] if numbers.ndim == 3 else numbers
            if size is not None and numbers.shape != size:
                raise ValueError(f"the masks of {pair.image} differ in size")
            size = numbers.shape
            objects = [value for value in np.unique(numbers).tolist() if value and value not in self.void]
            masks.append(RleMasks.from_map(numbers, objects))
        assert size is not None  # a pair has a mask
        every = RleMasks.concatenate([RleMasks.from_coco([], (size[0], size[1])), *masks])
        return MaskSet.of(every, torch.zeros(len(every), dtype=torch.int64))


def _times(size: tuple[int, ...], image: Path) -> tuple[tuple[int, ...], int]:
    """The size of an image, and how many times as large as masks of `size` it is; 1 where it does not fit."""
    with Image.open(image) as opened:
        width, height = opened.size
    times = max(1, height // max(size[0], 1))
    fits = (size[0] * times, size[1] * times) == (height, width)
    return ((height, width), times) if fits else (size, 1)


def _set(path: Path) -> np.ndarray:
    pixels = read_mask_pixels(path)
    return (pixels.max(-1) if pixels.ndim == 3 else pixels) > 0


@dataclass(frozen=True)
class Tree:
    """The layout of a row; see `Finder`.

    Attributes:
        row: of the table.
    """

    row: Row

    def matches(self, root: Path) -> bool:
        """Whether the folder, or one in it, has the marks of the data set."""
        return bool(self.row.marks) and home_of(self.row, root) is not None

    def find(self, root: Path, encoding: LabelEncoding | None) -> Layout:
        """List the images; see `Layout`.

        Args:
            root: the folder, or one above it.
            encoding: a class table that is used instead of that of the data set.

        Raises:
            ValueError: if the folder does not look as the row says.
        """
        home = home_of(self.row, root) or root
        pairs: dict[str, list[Pair]] = {}
        unpaired: list[Path] = []
        layers: dict[str, Mapping[int, Path]] = {}
        objects: dict[str, tuple[Path, ...]] = {}
        table = self.row.table if encoding is None else encoding.classes
        part_of = _parts_in_lists(home, self.row.lists)
        for name, part in self.row.parts.items():
            for image, places in _listed(home, part):
                masks = list(_masks_of(home, part, places, self.row))
                if not masks:
                    if part.masks and self.row.layers is None:
                        unpaired.append(image)
                    continue
                pair = Pair(image, masks[0][1], name_in_folder(image, root))
                if self.row.layers is not None:
                    named = [(self.row.layers[key], path) for key, path in masks]
                    order = table.names
                    layers[pair.id] = {order.index(name): p for name, p in named if name in order}
                    if not layers[pair.id]:
                        continue
                objects[pair.id] = tuple(path for _, path in masks)
                at = self.row.split(places) if self.row.split is not None else name
                if part_of:
                    path = image.relative_to(home).as_posix()
                    at = part_of.get(path) or part_of.get(places.get("sequence", path), "")
                if at:
                    pairs.setdefault(at, []).append(pair)
        if not pairs:
            expected = "; ".join(f"{line.split(maxsplit=1)[1]}" for line in self.row.tree()[:2])
            raise ValueError(
                f"{root} holds no image with a mask as {self.row.title} has them ({expected}): "
                f"`pixelwise datasets {self.row.name}` shows the whole tree"
            )
        read: ReadTarget
        if self.row.objects:
            read = ObjectFiles(objects, self.row.void)
            own = LabelEncoding.of(table)
        elif self.row.layers is not None:
            read, own = LayerMasks(layers, table), LabelEncoding.of(table)
        else:
            own = encoding or self.row.encoding
            read = MaskFiles(own)
        found = {part: tuple(some) for part, some in pairs.items()}
        masks_too = {path for files in objects.values() for path in files}  # in a folder with the images
        layout = Layout(found, own, read, unpaired=tuple(path for path in unpaired if path not in masks_too))
        if self.row.dates is None:
            return layout
        return replace(layout, read_image=ReadTwoDates(*self.row.dates), channels=6)


def home_of(row: Row, root: Path) -> Path | None:
    """The folder with the marks of a data set: the root or one in it."""
    if not root.is_dir():
        return None
    return next((home for home in _homes(root, root.stat().st_mtime_ns) if _marked(row, home)), None)


def _marked(row: Row, home: Path) -> bool:
    for mark in row.marks:
        if "*" in mark or "?" in mark or "[" in mark:
            if next(home.glob(mark), None) is None:
                return False
        elif not (home / mark).exists():
            return False
    return True


@lru_cache(maxsize=4)
def _homes(root: Path, changed: int) -> tuple[Path, ...]:
    """The folder and the first folders in it, listed once for all rows; `changed` is when it last did."""
    with os.scandir(root) as entries:
        inside = (Path(e.path) for e in entries if not e.name.startswith(".") and e.is_dir())
        return (root, *sorted(islice(inside, _FOLDERS)))


def _listed(home: Path, part: Part) -> Iterator[tuple[Path, Places]]:
    """The images of a part in order, and what their placeholders are."""
    wanted = None
    if part.names:
        wanted = _first_words(home / part.names)
    taken: set[str] = set()
    for pattern in _several(part.images):
        text = Pattern(pattern)
        for path in text.files(home):
            places = text.match(name_in_folder(path, home))
            if places is None or path.name.startswith("."):
                continue
            key = places.get("id", path.name)
            if wanted is not None and key not in wanted:
                continue
            whole = "\0".join(places.values())
            if whole not in taken:
                taken.add(whole)
                yield path, places


def _first_words(path: Path) -> set[str]:
    return {Path(line.split()[0]).stem for line in _lines(path)}


def _parts_in_lists(home: Path, lists: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """The part of each image or sequence that is listed."""
    found = {}
    for part, names in lists.items():
        file = next((home / name for name in names if (home / name).is_file()), None)
        for line in [] if file is None else _lines(file):
            found[line.split()[0].lstrip("/")] = part
    return found


def _lines(path: Path) -> list[str]:
    """The lines of a list, without empty ones and remarks."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the list {path}: {error}") from error
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _masks_of(home: Path, part: Part, places: Places, row: Row) -> Iterator[tuple[str, Path]]:
    """The mask files of an image, with what stands for `{layer}`."""
    for pattern in _several(part.masks):
        if row.layers is not None:
            for key in row.layers:
                layer = Pattern(key).filled(places)
                path = home / Pattern(pattern).filled({**places, "layer": layer, **_derived(places)})
                if path.is_file():
                    yield key, path
            continue
        filled = Pattern(pattern).filled({**places, **_derived(places)})
        if "*" in filled:
            folder, _, name = filled.rpartition("/")
            found = sorted(p for p in (home / folder).glob(name) if not p.name.startswith("."))
            yield from (("", path) for path in found)
            return
        if (home / filled).is_file():
            yield "", home / filled
            return


def _derived(places: Places) -> Places:
    """What follows from a number: its five digits, and its folder of two thousand (CelebAMask-HQ)."""
    number = places.get("number", "")
    if not number.isdecimal():
        return {}
    return {"number5": f"{int(number):05d}", "folder2000": str(int(number) // 2000)}


@dataclass(frozen=True)
class Pattern:
    """A path with placeholders."""

    text: str

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        parts, seen, at = [], set[str](), 0
        for found in _PLACEHOLDER.finditer(self.text):
            parts.append(re.escape(self.text[at : found.start()]))
            name = found[1]
            kind = ".+?" if name == "id" else "[0-9]+" if name == "number" else "[^/]+?"
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{kind})")
            seen.add(name)
            at = found.end()
        parts.append(re.escape(self.text[at:]))
        return re.compile("".join(parts))

    def files(self, home: Path) -> list[Path]:
        """The files that may match, in order."""
        fixed = self.text.partition("{")[0].rpartition("/")[0]
        suffix = Path(self.text).suffix
        folder = home / fixed
        deep = "/" in self.text[len(fixed) + 1 :] or "{id}" in self.text
        if not folder.is_dir():
            return []
        return [folder / name for name in listed(folder, deep=deep).names if name.endswith(suffix)]

    def match(self, path: str) -> Places | None:
        """What the placeholders are; None for another path."""
        found = self._regex.fullmatch(path)
        return found.groupdict() if found else None

    def filled(self, places: Places) -> str:
        """The path of these placeholders.

        Raises:
            ValueError: if one is missing.
        """
        try:
            return self.text.format_map(dict(places))
        except KeyError as error:
            raise ValueError(
                f"the pattern {brief(self.text)} has a placeholder {error} of no image"
            ) from error
