"""labelme: a json file of shapes beside each image, or in any folder below the root.

The classes are the labels that occur, in alphabetical order; `_background_` and `__ignore__` are none. Images
whose file has no shapes show nothing; images without a file are left out.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ...types import ClassTable, MaskSet, voc_palette
from ..dataset import Pair
from ..formats.labelme import labelme_instances, read_labelme
from ..label_encoding import LabelEncoding
from .layout import Layout, image_files, split_of

_NO_CLASS = {"_background_", "__ignore__"}


@dataclass(frozen=True)
class Shapes:
    """Instances from one json file per image.

    Attributes:
        label_of: the label of each name.
    """

    label_of: dict[str, int]

    def __call__(self, pair: Pair) -> MaskSet:
        """Instances of the image; see `ReadTarget`."""
        assert pair.mask is not None
        try:
            with Image.open(pair.image) as image:
                width, height = image.size
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"cannot read {pair.image}: {error}") from error
        return labelme_instances(read_labelme(pair.mask), height, width, self.label_of)


def matches(root: Path) -> bool:
    """Whether some json file of the folder has shapes."""
    if not root.is_dir():
        return False
    return any(_has_shapes(path) for path in [*root.glob("*.json"), *root.glob("*/*.json")][:5])


def find(root: Path, encoding: LabelEncoding | None) -> Layout:
    """List the images; see `Layout`.

    Args:
        root: the folder.
        encoding: a class table with the names of the labels; shapes with other names are left out.

    Raises:
        ValueError: if there is no such file, no image of one, or a file is damaged.
    """
    files = [read_labelme(path) for path in sorted(root.rglob("*.json")) if _has_shapes(path)]
    known = {path.relative_to(root).as_posix(): path for path in image_files(root)}
    by_name: dict[str, list[Path]] = {}
    for path in known.values():
        by_name.setdefault(path.name, []).append(path)
    parts: dict[str, list[Pair]] = {}
    unpaired = []
    for file in files:
        beside = file.path.parent / file.image
        found = [beside] if beside.is_file() else by_name.get(Path(file.image).name, [])
        if len(found) != 1:
            unpaired.append(file.path)
            continue
        name = found[0].resolve().relative_to(root.resolve()).as_posix()
        part = next((p for folder in Path(name).parts[:-1] if (p := split_of(folder))), "all")
        parts.setdefault(part, []).append(Pair(found[0], file.path, name))
    if not parts:
        raise ValueError(f"{root} holds no labelme json file whose image lies in the folder")
    names = sorted(set().union(*(file.labels for file in files)) - _NO_CLASS)
    if encoding is None and not names:
        raise ValueError(f"no labelme file of {root} has a shape, so there are no classes")
    classes = (
        ClassTable(tuple(names), voc_palette(len(names) + 1)[1:], things=tuple(range(len(names))))
        if encoding is None
        else encoding.classes
    )
    label_of = {name: label for label, name in enumerate(classes.names)}
    pairs = {part: tuple(sorted(found, key=lambda pair: pair.id)) for part, found in parts.items()}
    return Layout(pairs, LabelEncoding.of(classes), Shapes(label_of), unpaired=tuple(unpaired))


def _has_shapes(path: Path) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "shapes" in content
