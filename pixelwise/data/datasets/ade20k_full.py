"""ADE20K full, as released on 2021_17_01: `images/ADE/training/SCENE/SUB/a.jpg`, `a_seg.png` and `a.json`.

The colours of `a_seg.png` are codes: red // 10 * 256 + green is the class, 0 none, blue tells the objects of
an image apart. The JSON beside each image names its objects and their classes. The index of the release is a
pickle, which could run code, so it is not opened; masks of parts (`a_parts_1.png`) are not read.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from ...rle import RleMasks
from ...types import ClassTable, LabelMap, MaskSet, voc_palette
from ...wording import brief
from ..dataset import Pair
from ..formats.json_file import read_json
from ..formats.mask import read_mask_pixels
from ..label_encoding import LabelEncoding
from .layout import Layout
from .listing import listed

_HOME = Path("images", "ADE")
_PARTS = {"train": "training", "val": "validation"}
_CLASSES = 26 * 256  # codes that red and green have room for


@dataclass(frozen=True)
class Semantic:
    """Labels from the classes of `a_seg.png`; see `ReadTarget`."""

    encoding: LabelEncoding

    def __call__(self, pair: Pair) -> LabelMap:
        """Labels of the image."""
        codes, _ = _codes(pair)
        return LabelMap(self.encoding.labels(codes, pair.mask))


@dataclass(frozen=True)
class Instances:
    """Objects from the classes and the numbers of `a_seg.png`; see `ReadTarget`."""

    encoding: LabelEncoding

    def __call__(self, pair: Pair) -> MaskSet:
        """Objects of the image, those of ignored classes left out."""
        codes, numbers = _codes(pair)
        labels = self.encoding.array(codes, pair.mask)
        objects = codes * 256 + numbers
        found, first = np.unique(objects, return_index=True)
        label_of = labels.ravel()[first]
        counts = label_of != self.encoding.classes.ignore
        masks = RleMasks.from_map(objects, found[counts].tolist())
        return MaskSet.of(masks, torch.from_numpy(label_of[counts].astype(np.int64)))


@dataclass(frozen=True)
class Ade20kFull:
    """The layout for a task; see `Finder`."""

    read: type[Semantic] | type[Instances]

    def matches(self, root: Path) -> bool:
        """Whether a part of this folder, or of one in it, holds a file `_seg.png` three folders down."""
        return _home(root) is not None

    def find(self, root: Path, encoding: LabelEncoding | None) -> Layout:
        """List the images; see `Layout`.

        Args:
            root: the folder `ADE20K_2021_17_01`, or that above it.
            encoding: classes by their number in the release; None to read those that the JSON files name.

        Raises:
            ValueError: if there is no image with a mask, or a JSON file is missing or tells no classes.
        """
        home = _home(root)
        if home is None:
            raise ValueError(
                f"{root} has no layout of ADE20K full: expected images/ADE/training/SCENE/SUB/a.jpg with "
                "a_seg.png and a.json beside it"
            )
        pairs: dict[str, tuple[Pair, ...]] = {}
        unpaired: list[Path] = []
        for part, folder in _PARTS.items():
            files = listed(home / folder).names if (home / folder).is_dir() else ()
            there = set(files)
            images = [name for name in files if name.endswith(".jpg")]
            with_mask = [name for name in images if _mask_of(name) in there]
            unpaired += [home / folder / name for name in sorted(set(images) - set(with_mask))]
            if with_mask:
                pairs[part] = tuple(
                    Pair(home / folder / name, home / folder / _mask_of(name), f"{folder}/{name}")
                    for name in with_mask
                )
        every = [pair for some in pairs.values() for pair in some]
        own = encoding or _encoding(pair.image.with_suffix(".json") for pair in every)
        return Layout(pairs, own, self.read(own), unpaired=tuple(unpaired))


SEMANTIC, INSTANCES = Ade20kFull(Semantic), Ade20kFull(Instances)


def _home(root: Path) -> Path | None:
    """The folder of the parts: that of the release, or of the only release in this folder."""
    for home in (root / _HOME, *sorted(root.glob(f"ADE20K_*/{_HOME}"))):
        if any(next(home.glob(f"{folder}/*/*/*_seg.png"), None) for folder in _PARTS.values()):
            return home
    return None


def _mask_of(image: str) -> str:
    return f"{image.removesuffix('.jpg')}_seg.png"


def _codes(pair: Pair) -> tuple[Int64[np.ndarray, "H W"], Int64[np.ndarray, "H W"]]:
    """The class and the number of the object of each pixel.

    Raises:
        ValueError: if the file is no picture in colours of 8 bits.
    """
    assert pair.mask is not None
    pixels = read_mask_pixels(pair.mask)
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"{pair.mask} is no mask of ADE20K full: expected colours of 8 bits")
    red, green, blue = (pixels[..., channel].astype(np.int64) for channel in range(3))
    return red // 10 * 256 + green, blue


def _encoding(files: Iterable[Path]) -> LabelEncoding:
    """The classes that the files name, in the order of their numbers.

    Raises:
        ValueError: if a file is missing or tells no classes, or two give one number different names.
    """
    names: dict[int, str] = {}
    for path in files:
        for code, name in _classes_in(path):
            if names.setdefault(code, name) != name:
                raise ValueError(f"{path} calls the class {code} {brief(name)}, another {brief(names[code])}")
    if not names:
        raise ValueError("no JSON file beside the images names an object")
    codes = sorted(names)
    times = Counter(names.values())
    apart = [f"{names[code]} ({code})" if times[names[code]] > 1 else names[code] for code in codes]
    ignore = 255 if len(apart) <= 255 else 65_535
    table = ClassTable(tuple(apart), voc_palette(len(apart)), ignore, things=tuple(range(len(apart))))
    return LabelEncoding(table, tuple(codes), (0,))


def _classes_in(path: Path) -> list[tuple[int, str]]:
    """Number and name of the classes of whole objects; parts of objects are in other masks.

    Raises:
        ValueError: if the file is missing or tells none.
    """
    told = read_json(path, "latin-1")
    try:
        found = [
            (int(one["name_ndx"]), str(one["name"]).strip())
            for one in told["annotation"]["object"]
            if int(one["parts"]["part_level"]) == 0
        ]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} names no objects as ADE20K does: {error!r:.80}") from error
    if wrong := [code for code, name in found if not 0 < code < _CLASSES or not name]:
        raise ValueError(f"{path} names a class {brief(wrong[0])}: expected a name, and 1 to {_CLASSES - 1}")
    return found
