"""Images with key points, described by a COCO file."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch.utils.data import Dataset

from ...types import ClassTable, Keypoints, Sample
from ..formats.coco_keypoints import CocoKeypointFile, CocoKeypointImage, read_coco_keypoints
from ..formats.image import read_image
from .layout import image_files


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
