"""PASCAL VOC: `JPEGImages`, `SegmentationClass`, and lists of names in `ImageSets/Segmentation`.

20 classes and background; the outlines of the objects are 255 and ignored. Masks with the same colours but
without a palette are understood too. The root may be a folder above, such as `VOCdevkit`.
"""

from pathlib import Path

from ...types import ClassTable, voc_palette
from ..dataset import Pair
from ..label_encoding import LabelEncoding
from .layout import Layout, by_stem, image_files, read_names

NAMES = tuple(
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor".split()
)
CLASSES = ClassTable(NAMES, voc_palette(len(NAMES)))
CODING = LabelEncoding(CLASSES, tuple(range(len(NAMES))), (255,), ignored_colors=(voc_palette(256)[255],))


def matches(root: Path) -> bool:
    """Whether there are `JPEGImages` and `SegmentationClass`."""
    return home_of(root) is not None


def find(root: Path, encoding: LabelEncoding | None) -> Layout:
    """List the images that the lists name; see `Layout`.

    A test list of images whose masks are not public gives no test part.

    Raises:
        ValueError: if the folder does not have this layout, or its lists do not fit.
    """
    pairs, unpaired = listed(root, "SegmentationClass")
    return Layout(pairs, encoding or CODING, unpaired=unpaired)


def listed(root: Path, kind: str) -> tuple[dict[str, tuple[Pair, ...]], tuple[Path, ...]]:
    """Images and masks of each part, and files without a partner.

    Args:
        root: the folder.
        kind: the folder of the masks.

    Raises:
        ValueError: as `find`.
    """
    home = home_of(root, kind)
    if home is None:
        raise ValueError(f"{root} has no VOC layout: expected JPEGImages/ and {kind}/")
    images = by_stem(image_files(home / "JPEGImages"), home / "JPEGImages")
    masks = by_stem(image_files(home / kind), home / kind)
    lists = {
        name: home / "ImageSets" / "Segmentation" / f"{name}.txt"
        for name in ("train", "val", "test", "trainval")
    }
    named = {name: read_names(path, {*images, *masks}) for name, path in lists.items() if path.is_file()}
    if "trainval" in named:
        both = named.pop("trainval")
        if not {"train", "val"} & set(named):
            named["all"] = both
    if not named:
        named = {"all": sorted(masks)}
    pairs: dict[str, tuple[Pair, ...]] = {}
    unpaired: list[Path] = []
    for part, stems in named.items():
        found = []
        for stem in stems:
            if stem in images and stem in masks:
                found.append(Pair(images[stem], masks[stem], images[stem].relative_to(root).as_posix()))
            elif stem not in images:
                unpaired.append(masks.get(stem, home / "JPEGImages" / f"{stem}.jpg"))
            elif part != "test":
                unpaired.append(images[stem])
        if found:
            pairs[part] = tuple(found)
    if not pairs:
        raise ValueError(f"{home} holds no image with a mask that its lists name")
    return pairs, tuple(unpaired)


def home_of(root: Path, kind: str = "SegmentationClass") -> Path | None:
    """The folder with the images: the root or one that lies at most two below it."""
    for pattern in (".", "VOC*", "VOCdevkit/VOC*"):
        for folder in sorted(root.glob(pattern)) if pattern != "." else [root]:
            if (folder / "JPEGImages").is_dir() and (folder / kind).is_dir():
                return folder
    return None
