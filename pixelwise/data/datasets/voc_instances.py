"""PASCAL VOC: instances from `SegmentationObject/x.png`, which numbers them; 255 is their border.

The class of an object is the one that most of its pixels have in `SegmentationClass/x.png`; where there is
no such file, the one that `Annotations/x.xml` names at its place. The folder is laid out as `voc.py` tells.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...rle import RleMasks
from ...types import ClassTable, MaskSet, voc_palette
from ..dataset import Pair
from ..formats.mask import read_mask, read_mask_pixels
from ..label_encoding import LabelEncoding
from . import voc
from .layout import Layout

_BORDER = 255
CLASSES = ClassTable(voc.NAMES[1:], voc_palette(len(voc.NAMES))[1:], things=tuple(range(len(voc.NAMES) - 1)))


@dataclass(frozen=True)
class Instances:
    """Instances from two PNG files per image, or from one and an XML file; see `ReadTarget`.

    Attributes:
        classes: of the objects.
    """

    classes: ClassTable

    def __call__(self, pair: Pair) -> MaskSet:
        """Instances of the image."""
        assert pair.mask is not None
        numbers = read_mask_pixels(pair.mask)
        if numbers.ndim == 3:
            raise ValueError(f"{pair.mask} is in colours, expected a palette image that numbers the objects")
        home = pair.mask.parent.parent
        of_pixels = home / "SegmentationClass" / pair.mask.name
        labels = read_mask(of_pixels, voc.CODING).numpy() if of_pixels.is_file() else None
        names = None if labels is not None else _named(home / "Annotations" / f"{pair.mask.stem}.xml")
        masks, classes = [], []
        for number in np.unique(numbers).tolist():
            if number in (0, _BORDER):
                continue
            mask = numbers == number
            if labels is not None:
                if labels.shape != mask.shape:
                    raise ValueError(f"{pair.mask} and {of_pixels} differ in size")
                counts = np.bincount(labels[mask], minlength=256)[1 : len(voc.NAMES)]
                if not counts.any():
                    raise ValueError(f"{pair.mask}: object {number} has no class in {of_pixels}")
                name = CLASSES.names[int(counts.argmax())]
            else:
                assert names is not None
                if number > len(names):
                    raise ValueError(f"{pair.mask} shows object {number}, its XML file names {len(names)}")
                name = names[number - 1]
            if name in self.classes.names:
                masks.append(mask)
                classes.append(self.classes.names.index(name))
        stacked = np.stack(masks) if masks else np.zeros((0, *numbers.shape), bool)
        return MaskSet.of(RleMasks.encode(stacked), torch.tensor(classes, dtype=torch.int64))


def _named(path: Path) -> list[str]:
    """The names of the objects in an XML file, in its order."""
    from defusedxml.ElementTree import parse  # type: ignore[import-untyped]

    try:
        return [str(one.findtext("name")) for one in parse(path).getroot().iter("object")]
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}, which names the objects") from error
    except Exception as error:  # parsers of XML raise what they like
        raise ValueError(f"cannot read {path}: {str(error)[:200] or type(error).__name__}") from error


def matches(root: Path) -> bool:
    """Whether there are `JPEGImages` and `SegmentationObject`."""
    return root.is_dir() and voc.home_of(root, "SegmentationObject") is not None


def find(root: Path, encoding: LabelEncoding | None) -> Layout:
    """List the images that the lists name; see `Layout`.

    Args:
        root: the folder.
        encoding: a class table with some of the 20 names, to choose among the classes.

    Raises:
        ValueError: if the folder does not have this layout, its lists do not fit, or a class is none of VOC.
    """
    classes = CLASSES if encoding is None else encoding.classes
    if wrong := [name for name in classes.names if name not in CLASSES.names]:
        raise ValueError(f"VOC has no objects of {wrong[0]!r}: they are {', '.join(CLASSES.names)}")
    pairs, unpaired = voc.listed(root, "SegmentationObject")
    return Layout(pairs, LabelEncoding.of(classes), Instances(classes), unpaired=unpaired)
