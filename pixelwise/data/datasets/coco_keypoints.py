"""Images with key points, described by a COCO file."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch.utils.data import Dataset

from ...types import ClassTable, Keypoints, Sample
from ..dataset import Pair
from ..formats.coco_keypoints import CocoKeypointFile, CocoKeypointImage, read_coco_keypoints
from ..formats.image import read_image
from ..label_encoding import LabelEncoding
from .layout import Layout, image_files, split_of

_JOINTS = re.compile(rb'"keypoints"\s*:\s*\[\s*"')
_LOOKED_AT = 1 << 25  # bytes at each end of a file


class KeypointData(Dataset[Sample]):
    """Images and the objects in them, read when asked for.

    Args:
        file: what is annotated.
        paths: where each image of the file lies.
        root: the ids of the samples are paths from here.
        channels: of the images.
    """

    def __init__(
        self, file: CocoKeypointFile, paths: Sequence[Path], root: Path, *, channels: int = 3
    ) -> None:
        if len(paths) != len(file.images):
            raise ValueError(f"{file.path} describes {len(file.images)} images, got {len(paths)} paths")
        self.file, self.paths, self.root, self.channels = file, tuple(paths), root, channels

    @property
    def classes(self) -> ClassTable:
        """The classes of objects, and their skeleton."""
        return self.file.classes

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """One image with its objects.

        Raises:
            ValueError: if the image is damaged, or has another size than the file says.
        """
        image, described = read_image(self.paths[index], self.channels), self.file.images[index]
        height, width = image.shape[-2:]
        if (height, width) != (described.height, described.width):
            raise ValueError(
                f"{self.paths[index]} has {height} x {width} pixels, "
                f"{self.file.path} says {described.height} x {described.width}"
            )
        return Sample(image, described.objects, self.id(index))

    def keypoints(self, index: int) -> Keypoints:
        """The objects alone."""
        return self.file.images[index].objects

    def id(self, index: int) -> str:
        """The path of an image inside the data folder."""
        return self.paths[index].relative_to(self.root).as_posix()

    def take(self, indices: Sequence[int]) -> "KeypointData":
        """The same data with some of the images."""
        images = tuple(self.file.images[i] for i in indices)
        file = CocoKeypointFile(self.file.path, images, self.file.classes, self.file.category_ids)
        return KeypointData(file, [self.paths[i] for i in indices], self.root, channels=self.channels)


def open_coco_keypoints(
    annotations: str | os.PathLike[str], *, images: str | os.PathLike[str] | None = None, channels: int = 3
) -> KeypointData:
    """Open a COCO file of key points and the images that it describes.

    Args:
        annotations: the json file, such as `annotations/person_keypoints_train2017.json`.
        images: the folder of the images; None to look beside the file and beside its folder.
        channels: of the images.

    Raises:
        ValueError: if the file cannot be read, or an image is not found or could be several files.
    """
    path = Path(annotations)
    file = read_coco_keypoints(path)
    homes = [Path(images)] if images is not None else [path.parent, path.parent.parent]
    for home in homes:
        known: dict[str, list[Path]] = defaultdict(list)
        for found in image_files(home) if home.is_dir() else ():
            known[found.name].append(found)
        if not file.images or any(Path(image.file_name).name in known for image in file.images):
            return KeypointData(
                file, [_found(image, known, home) for image in file.images], home, channels=channels
            )
    raise ValueError(f"none of the images that {path} describes lies in {' or '.join(map(str, homes))}")


def _found(image: CocoKeypointImage, known: dict[str, list[Path]], home: Path) -> Path:
    wanted = Path(image.file_name).parts
    paths = known.get(wanted[-1], [])
    exact = [path for path in paths if path.parts[-len(wanted) :] == wanted]
    paths = exact or paths
    if not paths:
        raise ValueError(f"the image {image.file_name} is not in {home}")
    if len(paths) > 1:
        raise ValueError(f"{image.file_name} may be {paths[0]} or {paths[1]}: name the folder of the images")
    return paths[0]


# --- layout ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadObjects:
    """The objects of each image, as its file describes them.

    Attributes:
        objects: by the id of the image.
    """

    objects: dict[str, Keypoints]

    def __call__(self, pair: Pair) -> Keypoints:
        """The objects of one image; see `ReadTarget`."""
        return self.objects[pair.id]


def matches(root: Path) -> bool:
    """Whether there is a COCO file with key points: `person_keypoints_train2017.json` or any name."""
    return bool(_files(root))


def find(root: Path, encoding: LabelEncoding | None) -> Layout:
    """List the images that the files describe; see `Layout`.

    The name of a file tells its part (train, val, test), unless the root is the file itself.

    Args:
        root: a folder, or a file of key points.
        encoding: a class table with as many classes as categories, to rename or recolour them.

    Raises:
        ValueError: if there is no such file, several for one part, or its images are not found.
    """
    files = _files(root)
    if not files:
        raise ValueError(f"{root} holds no COCO file with keypoints, such as person_keypoints_train.json")
    pairs: dict[str, tuple[Pair, ...]] = {}
    objects: dict[str, Keypoints] = {}
    of_part: dict[str, KeypointData] = {}
    for path in files:
        part = "all" if path == root else _part(path)
        if part in of_part:
            other = of_part[part].file.path
            raise ValueError(f"{other} and {path} describe one part: open one of them")
        data = of_part[part] = open_coco_keypoints(path)
        pairs[part] = tuple(Pair(image, path, data.id(index)) for index, image in enumerate(data.paths))
        objects |= {pair.id: data.keypoints(index) for index, pair in enumerate(pairs[part])}
    first, *others = of_part.values()
    if different := [data.file.path for data in others if data.classes != first.classes]:
        raise ValueError(f"{first.file.path} and {different[0]} have different categories or joints")
    classes = first.classes
    if encoding is not None:
        if len(encoding.classes) != len(classes):
            raise ValueError(
                f"{first.file.path} has {len(classes)} categories with keypoints, the class table "
                f"{len(encoding.classes)} classes"
            )
        classes = replace(encoding.classes, skeleton=classes.skeleton)
    return Layout(pairs, LabelEncoding.of(classes), ReadObjects(objects))


def _files(root: Path) -> list[Path]:
    """The root itself, or the files in it and its folders; those with keypoints in their name if any have."""
    if root.is_file():
        return [root] if _names_joints(root) else []
    if not root.is_dir():
        return []
    paths = [*sorted(root.glob("*.json")), *sorted(root.glob("*/*.json"))]
    named = [path for path in paths if "keypoints" in path.name]
    return [path for path in named or paths if _names_joints(path)]


def _names_joints(path: Path) -> bool:
    """Whether a list called keypoints begins with a name: in a category, not in an annotation."""
    if path.suffix.lower() != ".json":
        return False
    try:
        size = path.stat().st_size
        with path.open("rb") as file:  # categories come first or last
            head = file.read(_LOOKED_AT)
            file.seek(max(0, size - _LOOKED_AT))
            return bool(_JOINTS.search(head) or _JOINTS.search(file.read()))
    except OSError:
        return False


def _part(path: Path) -> str:
    words = [word for word in re.split(r"[_.-]", path.stem) if word]
    named = [part for word in reversed(words) if (part := split_of(word))]
    return named[0] if named else split_of(path.parent.name) or "all"
