"""Instance maps: a folder of images and masks that number the objects 1, 2, ... on a background of 0.

Images and masks lie as in `pairs.py`. All objects have one class, called "object" unless a class table names
it. The maps of StarDist, Cellpose and the 2018 Data Science Bowl are of this kind; numbers may have gaps.
"""

from pathlib import Path

import numpy as np
import torch

from ...types import ClassTable, MaskSet
from ..dataset import Pair
from ..formats.mask import read_mask_pixels
from ..label_encoding import LabelEncoding
from . import pairs
from .layout import Layout

CLASS, COLOR = "object", (220, 60, 60)  # black would not be seen on microscopy


def matches(root: Path) -> bool:
    """Whether images and masks are found. That masks number objects and not classes, they do not tell."""
    return pairs.matches(root)


def find(root: Path, encoding: LabelEncoding | None) -> Layout:
    """List images and maps; see `Layout`.

    Raises:
        ValueError: if there is no image with a mask, or a class table has several classes.
    """
    layout = pairs.find(root, None)
    classes = ClassTable((CLASS,), (COLOR,)) if encoding is None else encoding.classes
    if len(classes) != 1:
        raise ValueError(f"instance maps have objects of one class, the class table names {len(classes)}")
    return Layout(layout.pairs, LabelEncoding.of(classes), read_instances, unpaired=layout.unpaired)


def read_instances(pair: Pair) -> MaskSet:
    """The objects of a map; see `ReadTarget`."""
    assert pair.mask is not None
    numbers = read_mask_pixels(pair.mask)
    if numbers.ndim == 3:
        raise ValueError(f"{pair.mask} is a mask in colours: an instance map has one number per pixel")
    values = np.unique(numbers)
    if values.tolist() in ([0, 255], [255]):
        raise ValueError(f"{pair.mask} holds 0 and 255 only: an instance map numbers the objects 1, 2, ...")
    if values[0] < 0:
        raise ValueError(f"{pair.mask} holds {values[0]}: an instance map numbers the objects 1, 2, ...")
    objects = torch.from_numpy(values[values > 0].astype(np.int64))
    masks = torch.from_numpy(numbers.astype(np.int64))[None] == objects[:, None, None]
    return MaskSet.of(masks, torch.zeros(len(objects), dtype=torch.int64))
