"""Cityscapes: instances from `gtFine/<part>/<city>/x_gtFine_instanceIds.png`.

The eight classes whose instances are evaluated; groups are crowds. The folder is laid out as `cityscapes.py`
tells. The masks of the test part are not public: they make no part.
"""

from dataclasses import dataclass
from pathlib import Path

from ...types import ClassTable, MaskSet
from ..dataset import SPLITS, Pair
from ..formats.cityscapes_instances import read_instance_ids
from ..label_encoding import LabelEncoding
from . import cityscapes
from .layout import Layout, image_files

_NAMES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
_IDS = (24, 25, 26, 27, 28, 31, 32, 33)
CLASSES = ClassTable(
    _NAMES,
    tuple(cityscapes.CLASSES.colors[cityscapes.CLASSES.names.index(name)] for name in _NAMES),
    things=tuple(range(len(_NAMES))),
    ids=_IDS,
)


@dataclass(frozen=True)
class Instances:
    """Instances from one PNG file per image; see `ReadTarget`."""

    label_of: dict[int, int]

    def __call__(self, pair: Pair) -> MaskSet:
        """Instances of the image."""
        assert pair.mask is not None
        return read_instance_ids(pair.mask, self.label_of)


def matches(root: Path) -> bool:
    """Whether it is a Cityscapes folder with files of instances."""
    return cityscapes.is_cityscapes(root) and next(root.glob("gt*/*/*/*_instanceIds.png"), None) is not None


def find(root: Path, encoding: LabelEncoding | None) -> Layout:
    """List the images and their instances; see `Layout`.

    Args:
        root: the folder.
        encoding: a class table with some of the names, to choose among the classes.

    Raises:
        ValueError: if there are no such files, or a class is none of Cityscapes.
    """
    classes = CLASSES if encoding is None else encoding.classes
    if wrong := [name for name in classes.names if name not in _NAMES]:
        raise ValueError(f"Cityscapes has no instances of {wrong[0]!r}: they are {', '.join(_NAMES)}")
    label_of = {_IDS[_NAMES.index(name)]: label for label, name in enumerate(classes.names)}
    pairs: dict[str, tuple[Pair, ...]] = {}
    unpaired: list[Path] = []
    for part in SPLITS:
        home = root / "leftImg8bit" / part
        files = image_files(home) if home.is_dir() and part != "test" else []
        there = [(image, _truth(image, root)) for image in files]
        unpaired += [image for image, truth in there if truth is None]
        if found := [(image, truth) for image, truth in there if truth is not None]:
            pairs[part] = tuple(Pair(i, t, i.relative_to(root).as_posix()) for i, t in found)
    if not pairs:
        raise ValueError(
            f"{root} holds no Cityscapes files of instances: expected gtFine/*/*/*_instanceIds.png"
        )
    return Layout(pairs, LabelEncoding.of(classes), Instances(label_of), unpaired=tuple(unpaired))


def _truth(image: Path, root: Path) -> Path | None:
    stem = image.stem.removesuffix("_leftImg8bit")
    folder = image.relative_to(root / "leftImg8bit").parent
    files = (root / kind / folder / f"{stem}_{kind}_instanceIds.png" for kind in ("gtFine", "gtCoarse"))
    return next((file for file in files if file.is_file()), None)
