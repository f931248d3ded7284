"""YOLO-seg: `data.yaml`, and for `images/<part>/a.jpg` the outlines in `labels/<part>/a.txt`.

As ultralytics has it: the label file of an image is found by changing the last folder `images` of its path
to `labels`; the parts are the folders that `data.yaml` names as train, val and test; a val that names the
images of another part is none. An image without a label file shows nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from PIL import Image

from ...types import MaskSet
from ..dataset import SPLITS, Pair
from ..formats.yolo import read_yolo_classes, read_yolo_labels
from ..label_encoding import LabelEncoding
from .layout import Layout, image_files


@dataclass(frozen=True)
class Outlines:
    """Instances from one text file per image.

    Attributes:
        label_of: the label of each number in the files.
    """

    label_of: dict[int, int]

    def __call__(self, pair: Pair) -> MaskSet:
        """Instances of the image; see `ReadTarget`."""
        assert pair.mask is not None
        try:
            with Image.open(pair.image) as image:
                width, height = image.size
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"cannot read {pair.image}: {error}") from error
        return read_yolo_labels(pair.mask, height, width, self.label_of)


def matches(root: Path) -> bool:
    """Whether there is a file `data.yaml` that names classes."""
    file = _file(root)
    if file is None:
        return False
    try:
        read_yolo_classes(file)
    except ValueError:
        return False
    return True


def find(root: Path, encoding: LabelEncoding | None) -> Layout:
    """List the images; see `Layout`.

    Args:
        root: the folder.
        encoding: a class table with as many classes, to rename them.

    Raises:
        ValueError: if there is no `data.yaml`, it names no images, or the class table does not fit.
    """
    file = _file(root)
    if file is None:
        raise ValueError(f"{root} holds no data.yaml, which names classes and folders of images")
    own = read_yolo_classes(file)
    classes = own if encoding is None else encoding.classes
    if len(classes) != len(own):
        raise ValueError(f"{file} has {len(own)} classes, the class table {len(classes)}")
    content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    pairs: dict[str, tuple[Pair, ...]] = {}
    for part in SPLITS:
        images = [image for place in _places(content.get(part)) for image in _images(root, content, place)]
        if images:
            pairs[part] = tuple(Pair(i, label_file(i), i.relative_to(root).as_posix()) for i in images)
    if not pairs:
        raise ValueError(f"{file} names no folder with images as train, val or test")
    label_of = {number: label for label, number in enumerate(own.category_ids)}
    same = next(
        (part for part in ("train", "test") if "val" in pairs and pairs.get(part) == pairs["val"]), None
    )
    remarks = []
    if same is not None:  # YOLO asks for a validation part, so that those who have none name another twice
        del pairs["val"]
        remarks.append(f"{file} names the same images as {same} and as val: they are read as {same}")
    return Layout(pairs, LabelEncoding.of(classes), Outlines(label_of), remarks=tuple(remarks))


def label_file(image: Path) -> Path:
    """The text file of an image."""
    parts = list(image.parts)
    at = max((i for i, part in enumerate(parts[:-1]) if part == "images"), default=None)
    if at is not None:
        parts[at] = "labels"
    return Path(*parts).with_suffix(".txt")


def _file(root: Path) -> Path | None:
    if not root.is_dir():
        return None
    return next((root / name for name in ("data.yaml", "data.yml") if (root / name).is_file()), None)


def _places(told: Any) -> list[str]:
    """The folders of a part: one, several, or none."""
    return [] if told is None else [str(told)] if isinstance(told, str) else [str(one) for one in told]


def _images(root: Path, content: dict[str, Any], place: str) -> list[Path]:
    """The images of a folder, which is looked for below the data folder whatever `path` says."""
    base = Path(str(content.get("path") or "."))
    tried = [root / place, root / base / place, root / place.removeprefix("../")]
    home = next((one for one in tried if one.is_dir()), None)
    inside = home is not None and home.resolve().is_relative_to(root.resolve())
    return image_files(home) if home is not None and inside else []
