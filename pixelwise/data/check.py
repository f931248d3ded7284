"""Look at a data set before training on it."""

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..types import Annotation, ClassMasks, ClassTable, Keypoints, LabelMap
from ..wording import counted, some_of
from .dataset import DataSplits, LabelArrays, SegmentationData
from .datasets import FORMATS, Finder
from .formats.class_file import find_class_file, write_classes_file
from .label_encoding import LabelEncoding, MaskRule
from .open import open_reporting
from .parallel import batches, image_array, label_array, map_images, map_labels

Progress = Callable[[int, int], None]
_LISTED, _ALIKE = 20, 3  # sentences of a list, and of one kind
# What sentences of one kind differ in: names, files, numbers.
_VARYING = re.compile(r"'[^']*'|\S*[/\\]\S*|\d+")
_AT_ONCE = 64  # images that are read and not yet counted
_DARK = (2**14 - 1) / 65535  # the largest value of 14 bits in a file of 16


@dataclass(frozen=True)
class ClassCounts:
    """How often each class occurs, in pixels; where objects are annotated, in objects.

    Attributes:
        pixels: of each class, or objects.
        images: that show the class.
        pixels_where_shown: all pixels of the images that show the class, ignored ones included.
        ignored: pixels with the ignore label.
        total: all pixels.
        num_images: all images.
        of_objects: whether objects are counted instead of pixels.
    """

    pixels: tuple[int, ...]
    images: tuple[int, ...]
    pixels_where_shown: tuple[int, ...]
    ignored: int
    total: int
    num_images: int
    of_objects: bool = False

    @classmethod
    def of(cls, annotation: Annotation, classes: ClassTable) -> "ClassCounts":
        """Count one image."""
        ignored = 0
        if isinstance(annotation, LabelMap):
            known = annotation.labels[annotation.labels != classes.ignore]
            counts, size = torch.bincount(known, minlength=len(classes)), annotation.labels.numel()
            ignored = size - known.numel()
        elif isinstance(annotation, ClassMasks):
            counts, size = (annotation.masks == 1).flatten(1).sum(1), annotation.masks[0].numel()
            ignored = int((annotation.masks == classes.ignore).any(0).sum())
        elif isinstance(annotation, Keypoints):
            size = len(annotation)
            counts = torch.tensor([size] + [0] * (len(classes) - 1))
        else:
            counts, size = torch.bincount(annotation.classes, minlength=len(classes)), len(annotation.classes)
        pixels = counts.tolist()
        dense = isinstance(annotation, LabelMap | ClassMasks)
        return cls(
            pixels=tuple(pixels),
            images=tuple(int(count > 0) for count in pixels),
            pixels_where_shown=tuple(size if count else 0 for count in pixels),
            ignored=ignored,
            total=size,
            num_images=1,
            of_objects=not dense,
        )

    def __add__(self, other: "ClassCounts") -> "ClassCounts":
        def added(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
            return tuple(x + y for x, y in zip(a, b, strict=True))

        return ClassCounts(
            added(self.pixels, other.pixels),
            added(self.images, other.images),
            added(self.pixels_where_shown, other.pixels_where_shown),
            self.ignored + other.ignored,
            self.total + other.total,
            self.num_images + other.num_images,
            self.of_objects or other.of_objects,
        )

    @classmethod
    def nothing(cls, classes: ClassTable) -> "ClassCounts":
        """No image at all."""
        none = (0,) * len(classes)
        return cls(none, none, none, 0, 0, 0)

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each class among the pixels that are not ignored, in [0, 1]."""
        known = max(sum(self.pixels), 1)
        return tuple(count / known for count in self.pixels)

    @property
    def ignored_share(self) -> float:
        """Share of the pixels that are ignored, in [0, 1]."""
        return self.ignored / max(self.total, 1)

    @property
    def weights(self) -> tuple[float, ...]:
        """Median-frequency balancing; 1 for a class that never occurs.

        The frequency of a class is its number of pixels over all pixels of the images that show it; its
        weight is the median of the frequencies over its own (Eigen and Fergus 2015, Sec. 6.3.2; used by
        SegNet).
        """
        shown = zip(self.pixels, self.pixels_where_shown, strict=True)
        frequency = [count / total if total else math.nan for count, total in shown]
        if not (occurring := [f for f in frequency if f > 0]):
            return (1.0,) * len(frequency)
        median = float(np.median(occurring))
        return tuple(median / f if f > 0 else 1.0 for f in frequency)


@dataclass(frozen=True)
class DataReport:
    """What was found.

    Attributes:
        root: the folder.
        format: its layout.
        classes: the task.
        counts: of the parts, by name; images with problems are left out.
        sizes: smallest and largest extent along each axis by itself, (height, width) of images; None without
            a readable image.
        problems: what would stop a training or spoil its numbers, one sentence each.
        remarks: what is worth knowing, one sentence each.
        encoding: what values and colours in mask files mean; None where annotations are no mask files.
    """

    root: Path
    format: str
    classes: ClassTable
    counts: dict[str, ClassCounts]
    sizes: tuple[tuple[int, ...], tuple[int, ...]] | None
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    encoding: LabelEncoding | None = None

    @property
    def class_weights(self) -> tuple[float, ...]:
        """Weights for a loss, from the training part; see `ClassCounts.weights`."""
        return self._training.weights

    @property
    def _training(self) -> ClassCounts:
        return self.counts.get("train") or ClassCounts.nothing(self.classes)

    def render(self) -> str:
        """The report as text, with a table of the classes."""
        lines = [f"{self.root}: layout {self.format}, {counted(len(self.classes), 'class', 'classes')}"]
        for part, counts in self.counts.items():
            told = f"{counts.ignored_share:.1%} of the pixels ignored"
            if counts.of_objects:
                told = counted(counts.total, "object")
            lines.append(f"  {part:<5} {counted(counts.num_images, 'image'):>13}, {told}")
        if self.sizes:
            low, high = (" x ".join(map(str, size)) for size in self.sizes)
            span = low if low == high else f"from {low} to {high}"
            told = "pixels (height x width)" if len(self.sizes[0]) == 2 else "voxels (depth x height x width)"
            lines.append(f"  size {span} {told}")
        lines += ["", *self._table(), ""]
        lines += [f"Problem: {text}" for text in _first(self.problems)]
        lines += [f"Remark: {text}" for text in _first(self.remarks)]
        found = f"{counted(len(self.problems), 'problem')} found."
        return "\n".join([*lines, found if self.problems else "No problem found."])

    def _table(self) -> list[str]:
        width = max(5, *(len(name) for name in self.classes.names))
        parts, weights = list(self.counts), self.class_weights
        meant = [""] * len(self.classes)
        if self.encoding is not None:
            told = [self.encoding.meaning(label) for label in range(len(self.classes))]
            column = max(8, *(len(text) for text in told))
            meant = [f"  {text:<{column}}" for text in told]
        in_masks = f"  {'in masks':<{len(meant[0]) - 2}}" if meant[0] else ""
        head = f"{'label':>5}  {'class':<{width}}{in_masks}" + "".join(
            f"  {part + ' %':>8} {'images':>6}" for part in parts
        )
        lines = [f"{head}  {'weight':>7}"]
        absent = [
            not any(counts.images[label] for counts in self.counts.values()) for label in range(len(meant))
        ]
        short = sum(absent) > _LISTED and not all(absent)
        for label, name in enumerate(self.classes.names):
            if short and absent[label]:
                continue
            row = f"{label:>5}  {name:<{width}}{meant[label]}"
            for part in parts:
                counts = self.counts[part]
                row += f"  {100 * counts.shares[label]:>8.2f} {counts.images[label]:>6}"
            lines.append(f"{row}  {weights[label]:>7.3f}")
        if short:
            lines.append(f"{'':>5}  and {sum(absent)} classes that no image shows")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The report as plain numbers and strings, for JSON."""
        return {
            "root": str(self.root),
            "format": self.format,
            "classes": list(self.classes.names),
            "ignore": self.classes.ignore,
            "in_masks": [self.encoding.meaning(label) for label in range(len(self.classes))]
            if self.encoding
            else None,
            "parts": {
                part: {
                    "images": counts.num_images,
                    "objects" if counts.of_objects else "pixels": counts.total,
                    "ignored_share": counts.ignored_share,
                    "class_shares": list(counts.shares),
                    "class_images": list(counts.images),
                }
                for part, counts in self.counts.items()
            },
            "sizes": [list(size) for size in self.sizes] if self.sizes else None,
            "class_weights": list(self.class_weights),
            "problems": list(self.problems),
            "remarks": list(self.remarks),
        }


@dataclass
class _Findings:
    """What is noted while going through the images."""

    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    seen: dict[bytes, list[tuple[str, str]]] = field(default_factory=dict)
    sizes: list[tuple[int, ...]] = field(default_factory=list)
    brightest: float = 0.0


def check_data(
    root: str | os.PathLike[str],
    *,
    format: str = "auto",
    classes: ClassTable | str | os.PathLike[str] | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    channels: int = 3,
    mask_rule: MaskRule = "exact",
    formats: Mapping[str, Finder] = FORMATS,
    progress: Progress | None = None,
) -> DataReport:
    """Read every image and annotation of a data set and report what is wrong with it.

    Found are: files that cannot be read, images and masks without a partner, sizes that differ, labels
    outside the table, classes that never occur, images that are the same in two parts.

    Args:
        root: as in `open_data`, like the next seven.
        format: the layout.
        classes: the task.
        val_fraction: share of the validation part where the data name none.
        seed: of that choice.
        channels: of the images.
        mask_rule: how masks are read.
        formats: the layouts to choose from; each task has its own.
        progress: called with the number of images done and of all images.

    Raises:
        ValueError: if nothing can be opened at all.
    """
    findings = _Findings()
    unreadable: set[str] = set()

    def note(path: Path, error: ValueError) -> None:
        unreadable.add(str(error))

    splits = open_reporting(
        root,
        format=format,
        classes=classes,
        val_fraction=val_fraction,
        seed=seed,
        channels=channels,
        mask_rule=mask_rule,
        formats=formats,
        on_error=note,
    )
    findings.problems += splits.problems
    findings.remarks += splits.remarks
    findings.problems += [_lonely(path) for path in splits.unpaired]
    counts = _counts(splits, findings, progress)
    findings.problems += sorted(unreadable - set(findings.problems))
    _note_identical(findings)
    _note_dark(findings)
    _note_classes(splits, counts, findings)
    sizes = findings.sizes
    sides = list(zip(*sizes, strict=True))
    lowest_and_highest = (tuple(map(min, sides)), tuple(map(max, sides))) if sizes else None
    return DataReport(
        splits.root,
        splits.format,
        splits.classes,
        counts,
        lowest_and_highest,
        tuple(findings.problems),
        tuple(findings.remarks),
        splits.encoding
        if any(
            isinstance(getattr(p.read_target, "encoding", None), LabelEncoding)
            for p in splits.parts().values()
        )
        else None,
    )


def class_counts(data: SegmentationData) -> ClassCounts:
    """Count the classes of a data set; only its labels are read.

    Raises:
        ValueError: if a mask cannot be read or holds a label outside the table.
    """
    total = ClassCounts.nothing(data.classes)
    for some in batches(data, _AT_ONCE):
        for index, labels in zip(some, map_labels(partial(_labels, data), data, some), strict=True):
            total += ClassCounts.of(_target(data, index, labels), data.classes)
    return total


def _counts(splits: DataSplits, findings: _Findings, progress: Progress | None) -> dict[str, ClassCounts]:
    parts = splits.parts()
    total, done = sum(len(data) for data in parts.values()), 0
    result = {}
    for part, data in parts.items():
        result[part] = ClassCounts.nothing(splits.classes)
        for index, seen in _read_all(data):
            done += 1
            if progress is not None:
                progress(done, total)
            if isinstance(seen, ValueError):
                findings.problems.append(str(seen))
                continue
            image, counted_here = seen
            result[part] += counted_here
            findings.brightest = max(findings.brightest, image.brightest)
            findings.sizes.append(image.size)
            findings.seen.setdefault(image.digest, []).append((part, data.pairs[index].id))
    return result


@dataclass(frozen=True)
class _Seen:
    """What is kept of an image.

    Attributes:
        digest: tells it from others.
        size: of its sides.
        brightest: its largest value.
    """

    digest: bytes
    size: tuple[int, ...]
    brightest: float


def _read_all(
    data: SegmentationData,
) -> Iterator[tuple[int, "tuple[_Seen, ClassCounts] | ValueError"]]:
    """What is kept of each sample, or what is wrong with it."""
    for some in batches(data, _AT_ONCE):
        images = map_images(partial(_image, data), data, some)
        labels = map_labels(partial(_labels_or_error, data), data, some)
        for index, image, own in zip(some, images, labels, strict=True):
            if isinstance(image, ValueError):
                yield index, image
            elif isinstance(own, ValueError):
                yield index, own
            else:
                yield index, _counted(data, index, image, own)


def _image(data: SegmentationData, index: int) -> _Seen | ValueError:
    try:
        image = image_array(data, index)[0]
    except ValueError as error:
        return error
    size = tuple(image.shape[1:])
    digest = hashlib.blake2b(image.tobytes() + str(size).encode(), digest_size=16)
    return _Seen(digest.digest(), size, float(image.max()))


def _labels(data: SegmentationData, index: int) -> np.ndarray | None:
    """The labels of a sample, where they are read as an array."""
    return label_array(data, index)[0] if isinstance(data.read_target, LabelArrays) else None


def _labels_or_error(data: SegmentationData, index: int) -> np.ndarray | ValueError | None:
    try:
        return _labels(data, index)
    except ValueError as error:
        return error


def _counted(
    data: SegmentationData, index: int, image: _Seen, labels: np.ndarray | None
) -> "tuple[_Seen, ClassCounts] | ValueError":
    try:
        target = _target(data, index, labels)
        data.check_size(index, image.size, target)
        return image, ClassCounts.of(target, data.classes)
    except ValueError as error:
        return error


def _target(data: SegmentationData, index: int, labels: np.ndarray | None) -> Annotation:
    """The labels that were read, or else the annotation of the sample."""
    return data.target(index) if labels is None else LabelMap(torch.from_numpy(labels))


def _lonely(path: Path) -> str:
    if not path.exists():
        return f"{path} is listed but is not there"
    return f"{path} has no partner: no mask or no image of that name"


def _note_identical(findings: _Findings) -> None:
    for same in findings.seen.values():
        parts = {part for part, _ in same}
        if len(parts) > 1:
            names = [name for _, name in same]
            findings.problems.append(f"the same image is in {' and '.join(sorted(parts))}: {some_of(names)}")
        elif len(same) > 1:
            findings.remarks.append(
                f"the same image is {len(same)} times in {same[0][0]}: {some_of([n for _, n in same])}"
            )


def _note_dark(findings: _Findings) -> None:
    """Values of 9 to 14 bits in files of 16; the rule is one for all images, whatever each of them holds."""
    if not 0 < findings.brightest <= _DARK:
        return
    bits = round(findings.brightest * 65535).bit_length()
    findings.remarks.append(
        f"all images are almost black: no value is above {findings.brightest:.1%} of the range, as with "
        f"{bits} bits in 16-bit files, whose values are divided by 65535 in training and prediction alike; "
        f"multiply them by {2 ** (16 - bits)} when you write the files"
    )


def _note_classes(splits: DataSplits, counts: dict[str, ClassCounts], findings: _Findings) -> None:
    encoding, classes = splits.encoding, splits.classes
    if encoding.from_files and encoding.values == (0, 255):
        findings.remarks.append("the masks hold only 0 and 255: read as background and foreground")
    elif encoding.from_files:
        findings.remarks.append(
            f"no class table was given: the masks show {counted(len(classes), 'class', 'classes')}, which a "
            "file classes.csv (name,r,g,b) in the folder names; if the values number objects instead, "
            "--mask-rule above-0 reads them as foreground"
        )
    if splits.made_val:
        findings.remarks.append(
            f"the data name no validation part: {counted(len(splits.val), 'image was', 'images were')} drawn "
            "from the training part"
        )
    if not len(splits.train):
        findings.problems.append("there are no images to train on")
    elif not len(splits.val):
        findings.problems.append("there are no images to validate on")
    occurring = [sum(image) for image in zip(*(part.images for part in counts.values()), strict=True)]
    ignored = sum(part.ignored for part in counts.values())
    for name, images in zip(classes.names, occurring, strict=True):
        if images == 0:
            findings.remarks.append(f"class {name!r} is in no image")
    if len(classes) == 2 and occurring[1:] == [0] and ignored and 255 in encoding.ignored:
        findings.problems.append(
            f"no pixel is {classes.names[1]!r} but {ignored} pixels are 255, which is ignored: if 255 means "
            f"{classes.names[1]!r}, give it the id 255 in the class table"
        )
    if "train" in counts:
        for name, train, images in zip(classes.names, counts["train"].images, occurring, strict=True):
            if images and not train:
                # Another choice of the validation images would show it: no fault of the data.
                sentences = findings.remarks if splits.made_val else findings.problems
                sentences.append(f"class {name!r} is in no training image")


def _first(sentences: tuple[str, ...]) -> list[str]:
    """The first sentences of each kind, and how many more there are."""
    kinds: dict[str, list[str]] = {}
    for sentence in sentences:
        kinds.setdefault(_VARYING.sub("", sentence), []).append(sentence)
    lines = []
    for some in kinds.values():
        more = len(some) - _ALIKE
        lines += [*some[:_ALIKE], *([f"and {more} more like these"] if more > 0 else [])]
    more = len(lines) - _LISTED
    return [*lines[:_LISTED], *([f"and {more} more"] if more > 0 else [])]


def propose_classes(root: str | os.PathLike[str], report: DataReport) -> Path:
    """Write what a check understood as a class file into the folder, where its owner can change it.

    Args:
        root: the folder.
        report: of `check_data`.

    Returns:
        The file: `classes.csv`, or `classes.json` where a csv cannot hold the classes.

    Raises:
        ValueError: if there is a class file already, or it cannot be written.
    """
    folder = Path(root) if Path(root).is_dir() else Path(root).parent
    if (known := find_class_file(folder)) is not None:
        raise ValueError(f"{known} exists and is not replaced: change it, or take it away first")
    table = report.classes
    plain = all(name.strip() == name and name.lower() != "ignore" for name in table.names)
    path = folder / ("classes.csv" if table.exclusive and plain else "classes.json")
    return write_classes_file(path, report.encoding or table)
