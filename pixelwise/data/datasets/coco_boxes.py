"""COCO: objects in a json file, each with its box, its category and whether it is a crowd.

As `coco_instances.py`, but annotations need no outline.
"""

from dataclasses import dataclass
from pathlib import Path

from ...types import Boxes
from ..dataset import Pair
from ..formats.coco import CocoImage, boxes
from ..label_encoding import LabelEncoding
from .coco import annotation_of, classes_of, matches as matches, read_folder
from .layout import Layout


@dataclass(frozen=True)
class BoxesOfImages:
    """Boxes of the objects of an image.

    Attributes:
        images: what the files tell of each image, by its id in the data set.
        label_of: the label of each category.
    """

    images: dict[str, CocoImage]
    label_of: dict[int, int]

    def __call__(self, pair: Pair) -> Boxes:
        """Boxes of the image; see `ReadTarget`."""
        return annotation_of(pair, self.images, lambda image: boxes(image, self.label_of))


def find(root: Path, encoding: LabelEncoding | None) -> Layout:
    """List the images that the files describe; see `Layout`.

    Args:
        root: a folder, or a file of instances.
        encoding: a class table with the names of the categories, or with as many classes, to rename them.

    Raises:
        ValueError: as `coco.read_folder`.
    """
    folder = read_folder(root, boxes=True)
    classes, label_of = classes_of(folder.file, folder.file.things, encoding)
    return folder.layout(LabelEncoding.of(classes), BoxesOfImages(folder.images, label_of))
