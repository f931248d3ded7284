"""Several classes per pixel as black and white masks: a folder of masks for each class.

    images/a.jpg   masks/road/a.png   masks/wet/a.png

Each folder below `masks` is a class; the masks have the names of the images. `train`, `val`, `test` may stand
above both (`train/images`, `train/masks`), or lists of names tell the parts (`train.txt`; see
`split_files`). A pixel belongs to the class where its mask is brighter than 127; an image without a mask in
the folder of a class does not show it, and an image without any mask is left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ...types import ClassMasks, ClassTable, voc_palette
from ..dataset import Pair
from ..formats.mask import read_mask_pixels
from ..label_encoding import LabelEncoding
from .layout import Layout, by_stem, folders, image_files, split_of
from .pairs import IMAGES, MASKS
from .split_files import by_files


@dataclass(frozen=True)
class FolderMasks:
    """The masks of an image, one in the folder of each class.

    Attributes:
        files: the mask of each class, by the id of the image; None where there is none.
    """

    files: dict[str, tuple[Path | None, ...]]

    def __call__(self, pair: Pair) -> ClassMasks:
        """One mask per class; see `ReadTarget`."""
        files = self.files[pair.id]
        read = {path: read_binary(path) for path in files if path is not None}
        size = next(iter(read.values())).shape
        for path, mask in read.items():
            if mask.shape != size:
                given, wanted = (" x ".join(map(str, shape)) for shape in (mask.shape, size))
                raise ValueError(f"the mask {path} has {given} pixels, another of {pair.image} {wanted}")
        absent = torch.zeros(size, dtype=torch.int64)
        return ClassMasks(torch.stack([absent if path is None else read[path] for path in files]))


def read_binary(path: Path) -> Int64[Tensor, "H W"]:
    """1 where a mask is set, 0 elsewhere: above 127, or above 0 where no pixel is brighter than 1.

    Raises:
        ValueError: if the file cannot be read.
    """
    pixels = read_mask_pixels(path)
    if pixels.ndim == 3:
        pixels = pixels[..., :3].max(-1)
    return torch.from_numpy((pixels > (127 if pixels.max(initial=0) > 1 else 0)).astype(np.int64))


def matches(root: Path) -> bool:
    """Whether a folder of masks holds folders with masks of the images' names, and no masks itself."""
    return any(_classes_in(masks) for _, _, masks in _places(root))


def find(root: Path, encoding: LabelEncoding | None) -> Layout:
    """List the images and the masks of each class; see `Layout`.

    Raises:
        ValueError: if there is no folder of masks for each class, or a class of the table has none.
    """
    places = list(_places(root))
    names = sorted({name for _, _, masks in places for name in _classes_in(masks)})
    if not names:
        raise ValueError(
            f"{root} holds no masks of classes: expected images/ and masks/CLASS/ for each class"
        )
    classes = ClassTable(tuple(names), voc_palette(len(names) + 1)[1:], exclusive=False)
    if encoding is not None:
        given = encoding.classes
        if unknown := [name for name in names if name not in given.names]:
            raise ValueError(f"{root} has masks of {unknown[0]!r}, which the class table does not have")
        classes = ClassTable(given.names, given.colors, given.ignore, exclusive=False)
    files: dict[str, tuple[Path | None, ...]] = {}
    pairs: dict[str, tuple[Pair, ...]] = {}
    unpaired: list[Path] = []
    for part, images, masks in places:
        stems = [by_stem(image_files(masks / name), masks / name) for name in classes.names]
        found, used = [], set()
        for image in image_files(images):
            stem = image.relative_to(images).with_suffix("").as_posix()
            own = tuple(of_class.get(stem) for of_class in stems)
            first = next((path for path in own if path is not None), None)
            if first is None:
                unpaired.append(image)
                continue
            pair = Pair(image, first, image.relative_to(root).as_posix())
            files[pair.id] = own
            used.add(stem)
            found.append(pair)
        unpaired += [path for of_class in stems for stem, path in of_class.items() if stem not in used]
        pairs[part] = (*pairs.get(part, ()), *found)
    layout = Layout(pairs, LabelEncoding.of(classes), FolderMasks(files), unpaired=tuple(unpaired))
    return by_files(root, layout)


def _places(root: Path) -> Iterator[tuple[str, Path, Path]]:
    """Part, folder of images, folder of masks."""
    if not root.is_dir():
        return
    parts = [(part, path) for path in folders(root) if (part := split_of(path.name))]
    for part, home in parts or [("all", root)]:
        inside = {path.name.lower(): path for path in folders(home)}
        images = next((inside[name] for name in IMAGES if name in inside), None)
        masks = next((inside[name] for name in MASKS if name in inside), None)
        if images and masks:
            yield part, images, masks


def _classes_in(masks: Path) -> list[str]:
    """The folders of classes: none where masks lie beside them, or where they are named after parts."""
    inside = [path for path in folders(masks) if split_of(path.name) is None and image_files(path)]
    return [] if image_files(masks, deep=False) else [path.name for path in inside]
