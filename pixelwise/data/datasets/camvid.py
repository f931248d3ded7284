"""CamVid with 11 classes, as published with SegNet: `images/<part>`, `labels/<part>` and lists `<part>.txt`.

Street scenes, 480 x 360 pixels; the label 11 is ignored. The parts are cut between video sequences:
neighbouring frames are alike, so never cut them anew at random. The folders `<part>` and `<part>annot` of
SegNet's own tutorial are understood too.
"""

import re
from pathlib import Path

from ...types import ClassTable
from ..dataset import SPLITS, Pair
from ..label_encoding import LabelEncoding
from .layout import Layout, by_stem, image_files, read_names

CLASSES = ClassTable(
    (
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    (
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    ignore=11,
)
_SEQUENCE = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_")  # the names of CamVid's frames begin so


def matches(root: Path) -> bool:
    """Whether there are a list of the training images and folders of CamVid's frames."""
    if not (root / "train.txt").is_file() or not (folders := _folders(root, "train")):
        return False
    first = next(iter(image_files(folders[0])), None)
    return first is not None and bool(_SEQUENCE.match(first.name))


def find(root: Path, encoding: LabelEncoding | None) -> Layout:
    """List the images that the lists name; see `Layout`.

    Raises:
        ValueError: if the folder does not have this layout.
    """
    pairs: dict[str, tuple[Pair, ...]] = {}
    unpaired: list[Path] = []
    for part in SPLITS:
        folders = _folders(root, part)
        if folders is None:
            continue
        images = by_stem(image_files(folders[0]), folders[0])
        masks = by_stem(image_files(folders[1]), folders[1])
        listed = root / f"{part}.txt"
        stems = read_names(listed, {*images, *masks}) if listed.is_file() else sorted(images)
        found = []
        for stem in stems:
            if stem in images and stem in masks:
                found.append(Pair(images[stem], masks[stem], images[stem].relative_to(root).as_posix()))
            else:
                unpaired.append(images.get(stem) or masks.get(stem) or folders[0] / f"{stem}.png")
        if found:
            pairs[part] = tuple(found)
    if not pairs:
        raise ValueError(
            f"{root} has no CamVid layout: expected images/train/ and labels/train/ with the same names"
        )
    return Layout(pairs, encoding or LabelEncoding.of(CLASSES), unpaired=tuple(unpaired))


def _folders(root: Path, part: str) -> tuple[Path, Path] | None:
    for images, masks in ((f"images/{part}", f"labels/{part}"), (part, f"{part}annot")):
        if (root / images).is_dir() and (root / masks).is_dir():
            return root / images, root / masks
    return None
