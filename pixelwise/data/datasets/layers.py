"""Several classes per pixel as layers of one file: a page of a TIFF or a plane of an array for each class.

    images/a.jpg   masks/a.tif   classes.csv

`masks/a.tif` has a page for each class of the table, `masks/a.npy` the shape "k H W". A pixel belongs to the
class where its layer is brighter than 127, or above 0 where no pixel of the layer is brighter than 1.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...types import ClassMasks, ClassTable, voc_palette
from ..dataset import Pair
from ..formats.image import readable
from ..label_encoding import LabelEncoding
from . import pairs
from .layout import Layout


@dataclass(frozen=True)
class LayerFiles:
    """The layers of an image's file of masks.

    Attributes:
        num_classes: k, the number of layers that each file must have.
    """

    num_classes: int

    def __call__(self, pair: Pair) -> ClassMasks:
        """One mask per class; see `ReadTarget`."""
        assert pair.mask is not None
        layers = read_layers(pair.mask)
        if len(layers) != self.num_classes:
            raise ValueError(f"{pair.mask} has {len(layers)} layers, the table {self.num_classes} classes")
        bounds = [127 if layer.max(initial=0) > 1 else 0 for layer in layers]
        return ClassMasks(
            torch.from_numpy(
                np.stack([layer > bound for layer, bound in zip(layers, bounds, strict=True)]).astype(
                    np.int64
                )
            )
        )


def read_layers(path: Path) -> np.ndarray:
    """The layers "k H W" of a TIFF of several pages or of an array.

    Raises:
        ValueError: if the file cannot be read, or is neither.
    """
    with readable(path):
        if path.suffix.lower() == ".npy":
            layers = np.load(path, allow_pickle=False)
        else:
            with Image.open(path) as image:
                pages = []
                for page in range(getattr(image, "n_frames", 1)):
                    image.seek(page)
                    pages.append(np.array(image.convert("L")))
            layers = np.stack(pages)
        if layers.ndim != 3 or layers.dtype.kind not in "bui":
            raise ValueError(
                f"layers have the shape k H W and whole numbers, got {layers.shape} {layers.dtype}"
            )
    return layers


def matches(root: Path) -> bool:
    """Whether the first mask beside an image has several layers."""
    if pairs.first_pair(root) is None:
        return False
    found = pairs.find(root, None).pairs
    first = next((pair.mask for some in found.values() for pair in some if pair.mask), None)
    if first is None or first.suffix.lower() not in (".tif", ".tiff", ".npy"):
        return False
    try:
        return len(read_layers(first)) > 1
    except ValueError:
        return False


def find(root: Path, encoding: LabelEncoding | None) -> Layout:
    """List images and files of layers; see `Layout`.

    Raises:
        ValueError: if there is no image with such a file.
    """
    layout = pairs.find(root, None)
    first = next(pair.mask for some in layout.pairs.values() for pair in some if pair.mask)
    if encoding is None:
        count = len(read_layers(first))
        names = tuple(f"layer {number}" for number in range(count))
        classes = ClassTable(names, voc_palette(count + 1)[1:], exclusive=False)
    else:
        classes = replace(encoding.classes, exclusive=False)
    return replace(layout, encoding=LabelEncoding.of(classes), read_target=LayerFiles(len(classes)))
