"""A folder of images and masks with the same names, in the arrangements that people use.

- `images/a.jpg` and `masks/a.png`, each with or without `train`, `val`, `test` below it, or within
  `train`, `val`, `test` (`train/images/a.jpg`);
- `train/a.jpg` and `trainannot/a.png`, `train_images` and `train_masks`;
- `a.jpg` and `a_mask.png`, or `a.jpg` and `a.png`, side by side, with or without `train`, `val`, `test`.

Instead of folders, lists `train.txt`, `val.txt`, `test.txt` of names may tell the parts.
"""

from collections.abc import Iterator
from pathlib import Path

from ..dataset import Pair
from ..label_encoding import LabelEncoding
from .layout import Layout, by_stem, folders, image_files, read_names, split_of

IMAGES = ("images", "image", "imgs", "img", "frames", "photos", "inputs", "input")
MASKS = (
    "masks mask labels label annotations annotation annots annot segmentations segmentation "
    "ground_truth groundtruth gt targets target"
).split()
SUFFIXES = tuple(
    f"{joint}{word}" for word in ("mask", "label", "labels", "seg", "segmentation", "gt") for joint in "_-."
)
_PHOTO = (".jpg", ".jpeg", ".jpe", ".jfif")


def matches(root: Path) -> bool:
    """Whether images and masks are found."""
    if any(image_files(masks) and image_files(images) for _, images, masks in _places(root)):
        return True
    return any(_side_by_side(folder)[0] for _, folder in _parts(root))


def find(root: Path, encoding: LabelEncoding | None) -> Layout:
    """List images and masks; see `Layout`.

    Raises:
        ValueError: if there is no image with a mask, or two masks have one name.
    """
    pairs: dict[str, list[Pair]] = {}
    unpaired: list[Path] = []
    places = [place for place in _places(root) if image_files(place[2])]
    for split, image_folder, mask_folder in places:
        found, alone = _matched(image_folder, mask_folder, root)
        pairs.setdefault(split, []).extend(found)
        unpaired += alone
    if not places:
        for split, folder in _parts(root):
            beside, alone = _side_by_side(folder)
            pairs.setdefault(split, []).extend(Pair(i, m, _id(i, root)) for i, m in beside)
            unpaired += alone
    if not any(pairs.values()):
        images = sum(len(image_files(folder)) for _, folder in _parts(root))
        raise ValueError(
            f"{root} holds {images} image files but no image with a mask: expected {IMAGES[0]}/ and "
            f"{MASKS[0]}/ with the same names, or a_mask.png beside a.jpg"
        )
    return Layout(
        _by_lists(root, {split: tuple(some) for split, some in pairs.items() if some}),
        unpaired=tuple(unpaired),
    )


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
        first, _, last = name.replace("-", "_").rpartition("_")
        for part, word in ((first, last), (last, first)):
            if part and split_of(part) and word in IMAGES:
                other = (n for mask in MASKS for n in (name.replace(word, mask),) if n in inside)
                if (found := next(other, None)) is not None:
                    yield str(split_of(part)), folder, inside[found]


def _parts(root: Path) -> list[tuple[str, Path]]:
    """The folders named after parts, or else the root itself."""
    named = [(str(split_of(path.name)), path) for path in folders(root) if split_of(path.name)]
    return named or [("all", root)]


def _matched(image_folder: Path, mask_folder: Path, root: Path) -> tuple[list[Pair], list[Path]]:
    masks = by_stem(image_files(mask_folder), mask_folder)
    pairs, alone, used = [], [], set()
    for image in image_files(image_folder):
        stem = image.relative_to(image_folder).with_suffix("").as_posix()
        names = (stem, *(stem + suffix for suffix in SUFFIXES), image.relative_to(image_folder).as_posix())
        name = next((name for name in names if name in masks), None)
        if name is None:
            alone.append(image)
        else:
            used.add(name)
            pairs.append(Pair(image, masks[name], _id(image, root)))
    return pairs, alone + [path for name, path in masks.items() if name not in used]


def _side_by_side(folder: Path) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """Images with their masks in one folder, and what has no partner."""
    files = image_files(folder, deep=False)
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for path in files:
        suffix = next((suffix for suffix in SUFFIXES if path.stem.lower().endswith(suffix)), None)
        if suffix:
            masks[path.stem[: -len(suffix)]] = path
    for path in files:
        if path in masks.values():
            continue
        if path.stem in images and path.stem not in masks:
            # a.jpg and a.png: the photograph is the one that may lose, the mask the one that may not.
            one, other = sorted((images[path.stem], path), key=lambda p: p.suffix.lower() not in _PHOTO)
            images[path.stem], masks[path.stem] = one, other
        else:
            images[path.stem] = path
    pairs = [(image, masks[stem]) for stem, image in images.items() if stem in masks]
    if not pairs:
        return [], []
    alone = [image for stem, image in images.items() if stem not in masks]
    return pairs, alone + [mask for stem, mask in masks.items() if stem not in images]


def _by_lists(root: Path, pairs: dict[str, tuple[Pair, ...]]) -> dict[str, tuple[Pair, ...]]:
    """The parts that lists of names tell, where folders tell none.

    Raises:
        ValueError: if a list names an image that is not there.
    """
    lists = [
        path for split in ("train", "val", "test") for path in (root / f"{split}.txt",) if path.is_file()
    ]
    if set(pairs) != {"all"} or not lists:
        return pairs
    known = {pair.image.stem: pair for pair in pairs["all"]}
    parts = {}
    for path in lists:
        stems = [Path(name).name for name in read_names(path)]
        stems = [stem if stem in known else Path(stem).stem for stem in stems]
        if missing := [stem for stem in stems if stem not in known]:
            raise ValueError(f"{path} names {missing[0]}, but there is no such image with a mask")
        parts[path.stem] = tuple(known[stem] for stem in stems)
    return parts


def _id(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
