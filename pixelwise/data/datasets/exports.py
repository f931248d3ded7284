"""Exports of annotation tools and data sets that are known by sight, but not read or not by every task.

Each row names one, says by what it is recognised, and what to do.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

_HEAD, _FILES = 1 << 16, 3  # bytes of a file, files of a folder level that are looked at
_YOLO_LINE = re.compile(rb"\s*\d+(\s+-?[\d.]+(e-?\d+)?){4,}\s*(\n|\r|$)", re.IGNORECASE)
_AS_MASKS = "export the masks as PNG files or as COCO json instead"


@dataclass(frozen=True)
class Export:
    """A tree of files that pixelwise can name.

    Attributes:
        name: with its article, as in "this looks like ...".
        advice: what its owner can do.
        seen: whether a folder looks like it.
    """

    name: str
    advice: str
    seen: Callable[[Path], bool]


def export_of(root: Path) -> Export | None:
    """What the folder looks like, if it is known."""
    return next((export for export in EXPORTS if export.seen(root)), None)


def _heads(root: Path, pattern: str) -> Iterator[bytes]:
    """The beginnings of some files in the folder and up to three levels below it."""
    for level in ("", "*/", "*/*/", "*/*/*/"):
        for path in islice(root.glob(level + pattern), _FILES):
            try:
                with path.open("rb") as file:
                    yield file.read(_HEAD)
            except OSError:
                continue


def _holds(pattern: str, *words: bytes) -> Callable[[Path], bool]:
    """Whether a file of that name begins with text that has all the words."""
    return lambda root: any(all(word in head for word in words) for head in _heads(root, pattern))


def _any(*tests: Callable[[Path], bool]) -> Callable[[Path], bool]:
    return lambda root: any(test(root) for test in tests)


def _has(*folders: str) -> Callable[[Path], bool]:
    """Whether the patterns all match something in the folder."""
    return lambda root: all(next(root.glob(folder), None) is not None for folder in folders)


def _yolo(root: Path) -> bool:
    labels = (
        path
        for pattern in ("labels/*.txt", "labels/*/*.txt", "*/labels/*.txt")
        for path in root.glob(pattern)
    )
    for path in islice(labels, 20):
        with path.open("rb") as file:
            if (line := file.readline(_HEAD)).strip():
                return bool(_YOLO_LINE.match(line))
    return False


EXPORTS = (
    Export(
        "nnU-Net or Medical Segmentation Decathlon data",
        f"the task volume (--model unet3d) reads its NIfTI files; of others {_AS_MASKS}",
        _has("imagesTr", "labelsTr"),
    ),
    Export(
        "a YOLO-seg export",
        f"with its data.yaml it is read; without it {_AS_MASKS}",
        _yolo,
    ),
    Export(
        "a COCO panoptic file",
        "the task panoptic (--model panoptic_fpn) reads it; or open its file of instances",
        _any(_has("**/*panoptic*.json"), _holds("*.json", b'"segments_info"')),
    ),
    Export(
        "the Data Science Bowl 2018 (a folder of masks for each image)",
        "the instances of stage1_train/ are read; else unite the masks of each image into one file",
        _any(_has("*/images/*.*", "*/masks/*.*"), _has("*/*/images/*.*", "*/*/masks/*.*")),
    ),
    Export(
        "VOC annotations of boxes",
        "masks in SegmentationClass/ are needed to train on",
        _has("JPEGImages", "Annotations/*.xml"),
    ),
    Export(
        "a table of run lengths as Kaggle writes them",
        "write the masks as PNG files or as COCO json",
        _any(_holds("*.csv", b"EncodedPixels"), _holds("*.csv", b"encoded_pixels")),
    ),
    Export(
        "volumes (NIfTI, NRRD, MetaImage)",
        "the task volume (--model unet3d) reads files in images/ and labels/, or labels beside images",
        _any(*(_has(f"**/*.{suffix}") for suffix in ("nii.gz", "nii", "nrrd", "mha", "mhd"))),
    ),
)
