"""A folder of images and masks with the same names, in the arrangements that people use.

- `images/a.jpg` and `masks/a.png`, each with or without `train`, `val`, `test` below it, or within
  `train`, `val`, `test` (`train/images/a.jpg`);
- `train/a.jpg` and `trainannot/a.png`, `train_images` and `train_masks`;
- `a.jpg` and `a_mask.png`, or `a.jpg` and `a.png`, side by side, with or without `train`, `val`, `test`;
- `img_1.png` and `mask_1.png`, `a_sat.jpg` and `a_mask.png`, `a.png` and `a_L.png`;
- `..._Training_Input` and `..._Training_GroundTruth` (the ISIC challenges), `img_dir` and `ann_dir`.

Masks are images, NumPy arrays, `.mat` files, or tables of whole numbers as text. Instead of folders, files
may tell the parts; see `split_files`.
"""

from collections.abc import Container, Iterator, Mapping
from pathlib import Path

from PIL import Image

from ..dataset import Pair
from ..label_encoding import LabelEncoding
from .layout import Layout, by_stem, folders, image_files, mask_files, name_in_folder, split_of
from .listing import listed, without_suffix
from .split_files import by_files

IMAGES = (
    "images image imgs img img_dir frames photos inputs input 701_stillsraw_full"  # the last: CamVid
).split()
MASKS = (
    "masks mask labels label annotations annotation annots annot segmentations segmentation "
    "ground_truth groundtruth gt targets target ann_dir labeledapproved_full"  # the last: CamVid
).split()
SUFFIXES = tuple(
    f"{joint}{word}" for word in ("mask", "label", "labels", "seg", "segmentation", "gt") for joint in "_-."
)
_ENDS_OF_MASKS = (*SUFFIXES, "_L")  # the last: CamVid
_ENDS_OF_IMAGES = ("_sat", "_image", "_img")
_STARTS_OF_IMAGES = ("img_", "image_", "img-", "image-")
_STARTS_OF_MASKS = ("mask_", "label_", "seg_", "gt_", "mask-", "label-", "seg-", "gt-")
_PHOTO = (".jpg", ".jpeg", ".jpe", ".jfif")


def matches(root: Path) -> bool:
    """Whether images and masks are found, and the first of the masks is not a TIFF of several pages."""
    pair = first_pair(root)
    if pair is None:
        return False
    first = pair[1]
    if first.suffix.lower() not in (".tif", ".tiff"):
        return True
    try:
        with Image.open(first) as mask:
            return getattr(mask, "n_frames", 1) == 1
    except (OSError, ValueError, SyntaxError):  # a damaged file is told when it is read
        return True


def first_pair(root: Path) -> tuple[Path, Path] | None:
    """The first image that has a mask, and that mask; None where there is none."""
    if not root.is_dir():
        return None
    for _, images, masks in _places(root):
        by_name, files = _masks_by_name(masks), listed(images)
        for image, own in zip(files.images, files.image_names, strict=True):
            if (name := _mask_of(own, by_name)) is not None:
                return image, by_name[name]
    for _, folder in _parts(root):
        if beside := _side_by_side(folder)[0]:
            return beside[0]
    return None


def find(root: Path, encoding: LabelEncoding | None) -> Layout:
    """List images and masks; see `Layout`.

    Raises:
        ValueError: if there is no image with a mask, or two masks have one name.
    """
    pairs: dict[str, list[Pair]] = {}
    unpaired: list[Path] = []
    places = [place for place in _places(root) if mask_files(place[2])]
    for split, image_folder, mask_folder in places:
        found, alone = _matched(image_folder, mask_folder, root)
        pairs.setdefault(split, []).extend(found)
        unpaired += alone
    if not places:
        for split, folder in _parts(root):
            beside, alone = _side_by_side(folder)
            pairs.setdefault(split, []).extend(Pair(i, m, name_in_folder(i, root)) for i, m in beside)
            unpaired += alone
    if not any(pairs.values()):
        images = sum(len(image_files(folder)) for _, folder in _parts(root))
        raise ValueError(
            f"{root} holds {images} image files but no image with a mask: expected {IMAGES[0]}/ and "
            f"{MASKS[0]}/ with the same names, or a_mask.png beside a.jpg"
        )
    layout = Layout({part: tuple(some) for part, some in pairs.items() if some}, unpaired=tuple(unpaired))
    return by_files(root, layout)


def _places(root: Path) -> Iterator[tuple[str, Path, Path]]:
    """Part, folder of images, folder of masks."""
    inside = {path.name.lower(): path for path in folders(root)}
    images = next((inside[name] for name in IMAGES if name in inside), None)
    masks = next((inside[name] for name in MASKS if name in inside), None)
    if images and masks:
        image_parts = {split_of(path.name): path for path in folders(images)}
        mask_parts = {split_of(path.name): path for path in folders(masks)}
        both = [part for part in image_parts if part in mask_parts and part is not None]
        if both:
            yield from ((str(part), image_parts[part], mask_parts[part]) for part in both)
        else:
            yield "all", images, masks
    for name, folder in inside.items():
        if split_of(name) is None:
            continue
        below = {path.name.lower(): path for path in folders(folder)}
        images = next((below[word] for word in IMAGES if word in below), None)
        masks = next((below[word] for word in MASKS if word in below), None)
        if images and masks:
            yield str(split_of(name)), images, masks
        elif beside := next(
            (inside[n] for word in MASKS for n in (name + word, f"{name}_{word}") if n in inside), None
        ):
            yield str(split_of(name)), folder, beside
    for name, folder in inside.items():
        if (part := _part_of_challenge(name, ("input", "data"))) is not None:
            truths = (f for n, f in inside.items() if _part_of_challenge(n, ("groundtruth",)) == part)
            if (truth := next(truths, None)) is not None:
                yield part, folder, truth
    for name, folder in inside.items():
        first, _, last = name.replace("-", "_").rpartition("_")
        for part, word in ((first, last), (last, first)):
            if part and split_of(part) and word in IMAGES:
                other = (n for mask in MASKS for n in (name.replace(word, mask),) if n in inside)
                if (found := next(other, None)) is not None:
                    yield str(split_of(part)), folder, inside[found]


def _part_of_challenge(name: str, ends: tuple[str, ...]) -> str | None:
    """The part in the name of a folder of the ISIC challenges: ISIC2018_Task1-2_Training_Input -> train."""
    words = name.replace("-", "_").split("_")
    if words[-1] not in ends or not any("isic" in word for word in words):
        return None
    return next((part for word in words if (part := split_of(word))), None)


def _parts(root: Path) -> list[tuple[str, Path]]:
    """The folders named after parts, or else the root itself."""
    named = [(str(split_of(path.name)), path) for path in folders(root) if split_of(path.name)]
    return named or [("all", root)]


def _matched(image_folder: Path, mask_folder: Path, root: Path) -> tuple[list[Pair], list[Path]]:
    masks = _masks_by_name(mask_folder)
    pairs, alone, used = [], [], set()
    images = listed(image_folder)
    above = "" if image_folder == root else name_in_folder(image_folder, root) + "/"
    for image, own in zip(images.images, images.image_names, strict=True):
        name = _mask_of(own, masks)
        if name is None:
            alone.append(image)
        else:
            used.add(name)
            pairs.append(Pair(image, masks[name], above + own))
    return pairs, alone + [path for name, path in masks.items() if name not in used]


def _masks_by_name(folder: Path) -> Mapping[str, Path]:
    """The masks in a folder by their names without the suffix."""
    return listed(folder).by_stem or by_stem(mask_files(folder), folder)


def _mask_of(image: str, masks: Container[str]) -> str | None:
    """The name of the mask of an image, whose name is that inside its folder."""
    stem = without_suffix(image)
    if stem in masks:
        return stem
    return next((name for name in (*_mask_names(stem), image) if name in masks), None)


def _mask_names(stem: str) -> Iterator[str]:
    """What the mask of an image may be called, the plainest first."""
    folder, slash, name = stem.rpartition("/")
    for base in _bases(name):
        yield from (folder + slash + base + end for end in ("", *_ENDS_OF_MASKS))
        yield from (folder + slash + start + base for start in _STARTS_OF_MASKS)


def _bases(name: str) -> Iterator[str]:
    """The name of an image, and what is left of it without a mark such as img_ or _sat."""
    yield name
    yield from (name[: -len(end)] for end in _ENDS_OF_IMAGES if name.lower().endswith(end))
    yield from (name[len(start) :] for start in _STARTS_OF_IMAGES if name.lower().startswith(start))


def _base_of_mask(name: str) -> str | None:
    """What is left of the name of a mask without its mark; None for a name without one."""
    for end in _ENDS_OF_MASKS:
        if name.endswith(end) or (end in SUFFIXES and name.lower().endswith(end)):
            return name[: -len(end)]
    starts = (name[len(start) :] for start in _STARTS_OF_MASKS if name.lower().startswith(start))
    return next(starts, None)


def _side_by_side(folder: Path) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """Images with their masks in one folder, and what has no partner."""
    files = image_files(folder, deep=False)
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for path in files:
        base = _base_of_mask(path.stem)
        if base:
            masks[base] = path
    marked = set(masks.values())
    for path in files:
        if path in marked:
            continue
        name = next((base for base in _bases(path.stem) if base in masks), path.stem)
        if name in images and name not in masks:
            # a.jpg and a.png: the photograph is the one that may lose, the mask the one that may not.
            one, other = sorted((images[name], path), key=lambda p: p.suffix.lower() not in _PHOTO)
            images[name], masks[name] = one, other
        else:
            images[name] = path
    pairs = [(image, masks[stem]) for stem, image in images.items() if stem in masks]
    if not pairs:
        return [], []
    alone = [image for stem, image in images.items() if stem not in masks]
    return pairs, alone + [mask for stem, mask in masks.items() if stem not in images]
