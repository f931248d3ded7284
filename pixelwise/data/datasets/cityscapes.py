"""Cityscapes: `leftImg8bit/<part>/<city>/x_leftImg8bit.png` and `gtFine/<part>/<city>/x_gtFine_labelIds.png`.

The 19 classes that are evaluated; everything else is ignored. The files `labelTrainIds`, which the data
set's own scripts make, are taken where every image has one. `gtCoarse` is read like `gtFine`. The masks of
the test part that the data set ships are blank: they make no part.

Names, ids and colours: cityscapesScripts, `helpers/labels.py`.
"""

from pathlib import Path

from ...types import ClassTable
from ..dataset import SPLITS, Pair
from ..formats.mask import read_mask_pixels
from ..label_encoding import LabelEncoding
from .layout import Layout, image_files

# Name, id, colour; the position is the train id.
_ROWS = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
CLASSES = ClassTable(tuple(name for name, _, _ in _ROWS), tuple(color for _, _, color in _ROWS))
TRAIN_IDS = LabelEncoding.of(CLASSES)
_IDS = tuple(number for _, number, _ in _ROWS)
LABEL_IDS = LabelEncoding(CLASSES, _IDS, tuple(i for i in range(34) if i not in _IDS))
_IMAGE = "_leftImg8bit"


def matches(root: Path) -> bool:
    """Whether it is a Cityscapes folder with maps of ids, or without anything else that is read."""
    return is_cityscapes(root) and not (has_polygons(root) and not _has_maps(root))


def has_polygons(root: Path) -> bool:
    """Whether there are files of polygons, which the tool `cityscapes_polygons` reads."""
    return next(root.glob("gt*/*/*/*_polygons.json"), None) is not None


def _has_maps(root: Path) -> bool:
    return any(next(root.glob(f"gt*/*/*/*_{kind}.png"), None) for kind in ("labelIds", "labelTrainIds"))


def is_cityscapes(root: Path) -> bool:
    """Whether there are `leftImg8bit` with a part in it, and `gtFine` or `gtCoarse`."""
    return any((root / "leftImg8bit" / part).is_dir() for part in SPLITS) and _truth(root) is not None


def find(root: Path, encoding: LabelEncoding | None) -> Layout:
    """List the images and their masks; see `Layout`.

    Raises:
        ValueError: if the folder does not have this layout, or there is no mask of class ids.
    """
    truth = _truth(root)
    images = {part: image_files(home) for part in SPLITS for home in _homes(root / "leftImg8bit", part)}
    if truth is None or not any(images.values()):
        raise ValueError(f"{root} has no Cityscapes layout: expected leftImg8bit/train/ and gtFine/train/")
    kind, own = "labelIds", LABEL_IDS
    every = [image for part in ("train", "val") for image in images.get(part, [])]
    if every and all(_mask(image, root, truth, "labelTrainIds").is_file() for image in every):
        kind, own = "labelTrainIds", TRAIN_IDS
    pairs: dict[str, tuple[Pair, ...]] = {}
    unpaired: list[Path] = []
    remarks = []
    for part, files in images.items():
        there = [(image, _mask(image, root, truth, kind)) for image in files]
        found = [(image, mask) for image, mask in there if mask.is_file()]
        if part == "test" and not (found and _has_classes(found[0][1], own)):
            remarks.append(f"the masks of the test part of {root} are not public: there is no test part")
            continue
        unpaired += [image for image, mask in there if not mask.is_file()]
        if found:
            pairs[part] = tuple(Pair(i, m, i.relative_to(root).as_posix()) for i, m in found)
    if not pairs:
        raise ValueError(f"{truth} holds no {kind}.png of the images and no polygons")
    return Layout(pairs, encoding or own, unpaired=tuple(unpaired), remarks=tuple(remarks))


def _truth(root: Path) -> Path | None:
    return next((root / name for name in ("gtFine", "gtCoarse") if (root / name).is_dir()), None)


def _homes(images: Path, part: str) -> list[Path]:
    return [images / part] if (images / part).is_dir() else []


def _mask(image: Path, root: Path, truth: Path, kind: str) -> Path:
    stem = image.stem.removesuffix(_IMAGE)
    return truth / image.relative_to(root / "leftImg8bit").parent / f"{stem}_{truth.name}_{kind}.png"


def _has_classes(mask: Path, encoding: LabelEncoding) -> bool:
    labels = encoding.labels(read_mask_pixels(mask), mask)
    return bool((labels != encoding.classes.ignore).any())
