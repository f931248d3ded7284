"""What every layout answers, and how files are listed."""

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

from ..dataset import MaskFiles, Pair, ReadImage, ReadTarget, read_plain_image
from ..formats.image import IMAGE_SUFFIXES
from ..formats.matrix import is_table
from ..label_encoding import LabelEncoding
from .listing import by_stem as by_stems, folders as folders, listed

_LONGEST_PATH = 4096
_SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Layout:
    """What a layout found in a folder.

    Attributes:
        pairs: the images of each part; those of a data set without parts are under "all".
        encoding: the task; None where masks must be looked at to know it.
        read_target: how annotations are read; None for mask files.
        read_masks: encoding -> how mask files are read.
        read_image: how images are read.
        channels: of the images where their files decide; None where images of any number are read as asked.
        unpaired: images without a mask and masks without an image.
        problems: what must be repaired before a training may use the data, one sentence each.
        remarks: what is worth knowing, one sentence each.
        tiles: files -> the tiles that they are read in, after the parts were cut; None where each file is one
            image.
    """

    pairs: Mapping[str, tuple[Pair, ...]]
    encoding: LabelEncoding | None = None
    read_target: ReadTarget | None = None
    read_image: ReadImage = read_plain_image
    channels: int | None = None
    unpaired: tuple[Path, ...] = ()
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    read_masks: Callable[[LabelEncoding], ReadTarget] = MaskFiles
    tiles: Callable[[Sequence[Pair]], tuple[Pair, ...]] | None = None


@runtime_checkable
class Finder(Protocol):
    """A module of this package."""

    def matches(self, root: Path) -> bool:
        """Whether the folder has this layout."""

    def find(self, root: Path, encoding: LabelEncoding | None) -> Layout:
        """List the pairs.

        Raises:
            ValueError: if the folder does not have this layout.
        """


def split_of(name: str) -> str | None:
    """Which part a folder or file is named after: train2017 -> train."""
    word = re.sub(r"[_-]?\d+$", "", name.lower())
    return next((split for split, words in _SPLIT_WORDS.items() if word in words), None)


def part_of(path: Path) -> str:
    """Which part an annotation file describes, by its name or that of its folder; "all" where none is named.

    >>> part_of(Path("annotations/instances_val2017.json"))
    'val'
    """
    words = [word for word in re.split(r"[_.-]", path.stem) if word]
    named = [split for word in reversed(words) if (split := split_of(word))]
    return named[0] if named else split_of(path.parent.name) or "all"


def image_files(root: Path, *, deep: bool = True) -> list[Path]:
    """The visible image files in a folder, in order; none in a file."""
    return list(listed(root, deep=deep).images) if root.is_dir() else []


def mask_files(root: Path) -> list[Path]:
    """The files of masks in a folder: images, or else matrices in `.mat` files or as text."""
    if found := image_files(root):
        return found
    if root.is_file():
        return []
    visible = sorted(p for p in root.rglob("*.*") if not p.name.startswith("."))
    texts = [p for p in visible if p.suffix.lower() == ".txt"]
    tables = texts if texts and is_table(texts[0]) else []
    return [p for p in visible if p.suffix.lower() == ".mat"] or tables


def read_names(path: Path, known: Container[str]) -> list[str]:
    """The names in a list file, one per line, as `known` has them.

    A name may hold spaces; where the whole line is no known name, its first word counts (the lists of
    SegNet and VOC have a second column). Of a path the end counts, with or without the suffix. A name that
    is not known stays as it is.

    Raises:
        ValueError: if the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the list {path}: {error}") from error
    named = []
    for line in (line.strip() for line in lines):
        if line:
            words = (line, line.split("\t")[0], line.split()[0])
            named.append(next((name for word in words if (name := name_in(known, word))), words[-1]))
    return named


def name_in(known: Container[str], written: str) -> str | None:
    """The longest end of the path `written`, with or without the suffix of an image, that is a known name."""
    if len(written) > _LONGEST_PATH:
        return None
    parts = PurePosixPath(written.replace("\\", "/")).parts
    for first in range(len(parts)):
        end = PurePosixPath(*parts[first:])
        if str(end) in known:
            return str(end)
        if end.suffix.lower() in IMAGE_SUFFIXES and str(end.with_suffix("")) in known:
            return str(end.with_suffix(""))
    return None


def name_in_folder(path: Path, root: Path) -> str:
    """The path of a file inside a folder that it is known to lie in, with slashes.

    >>> name_in_folder(Path("data/images/a.png"), Path("data"))
    'images/a.png'
    """
    folder = root.as_posix()  # text: `relative_to` takes half a second for 100,000 files
    return path.as_posix() if folder == "." else path.as_posix()[len(folder.rstrip("/")) + 1 :]


def by_stem(files: list[Path], root: Path) -> dict[str, Path]:
    """Files by their path inside `root` without the suffix.

    Raises:
        ValueError: if two files differ only in their suffix.
    """
    return by_stems(files, (name_in_folder(path, root) for path in files))
