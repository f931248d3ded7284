"""What images hold and how large they are, for samplers: asked before a training."""

from PIL import Image

from ..types import Annotation, ClassMasks, Keypoints, LabelMap
from .dataset import SegmentationData


def classes_of_images(data: SegmentationData) -> list[tuple[int, ...]]:
    """The labels that occur in the annotation of each image; every annotation is read once.

    Raises:
        ValueError: if an annotation cannot be read.
    """
    return [_classes_in(data.target(index), data.classes.ignore) for index in range(len(data))]


def sizes_of_images(data: SegmentationData) -> list[tuple[int, int]]:
    """Height and width of each image in pixels, from the heads of the files.

    Raises:
        ValueError: if a file is no image that Pillow knows.
    """
    sizes = []
    for pair in data.pairs:
        try:
            with Image.open(pair.image) as image:
                sizes.append((image.height, image.width))
        except OSError as error:
            raise ValueError(f"cannot read the size of {pair.image}: {error}") from error
    return sizes


def _classes_in(target: Annotation, ignore: int) -> tuple[int, ...]:
    if isinstance(target, LabelMap):
        return tuple(label for label in target.labels.unique().tolist() if label != ignore)
    if isinstance(target, ClassMasks):
        return tuple((target.masks == 1).flatten(1).any(1).nonzero()[:, 0].tolist())
    if isinstance(target, Keypoints):
        return (0,) * bool(len(target))
    return tuple(target.classes.unique().tolist())
