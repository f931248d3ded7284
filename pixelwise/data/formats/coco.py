"""COCO's annotation files: polygons, run lengths, and the semantic labels that they add up to."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from ...rle import RleMasks
from ...types import ClassTable, voc_palette


def decode_rle(rle: Mapping[str, Any]) -> Bool[Tensor, "H W"]:
    """A mask from run lengths, `{"size": [H, W], "counts": ...}`.

    The counts alternate between 0 and 1, starting with 0, down the columns; they are a list, or COCO's
    compressed string.

    Raises:
        ValueError: if the runs do not fill the mask.

    >>> decode_rle({"size": [2, 2], "counts": [1, 2, 1]}).int().tolist()
    [[0, 1], [1, 0]]
    """
    return torch.from_numpy(RleMasks.from_coco([rle]).decode()[0])


def encode_rle(mask: Bool[Tensor, "H W"], *, compressed: bool = True) -> dict[str, Any]:
    """Run lengths of a mask, as `decode_rle` reads them.

    >>> encode_rle(torch.tensor([[False, True], [True, False]]), compressed=False)
    {'size': [2, 2], 'counts': [1, 2, 1]}
    """
    rle = RleMasks.encode(mask[None])
    return rle.to_coco()[0] if compressed else {"size": list(mask.shape), "counts": rle.counts.tolist()}


def polygon_mask(polygons: Sequence[Sequence[float | int]], height: int, width: int) -> Bool[Tensor, "H W"]:
    """The pixels in any of the polygons `[x0, y0, x1, y1, ...]`, drawn by COCO's own rule.

    The origin is the corner of the image, so the centre of the first pixel is (0.5, 0.5).

    Raises:
        ValueError: on a polygon of fewer than three points.

    >>> polygon_mask([[0, 0, 2, 0, 2, 1, 0, 1]], 2, 3).int().tolist()
    [[1, 1, 0], [0, 0, 0]]
    """
    return torch.from_numpy(RleMasks.from_polygons([polygons], height, width).decode()[0])


@dataclass(frozen=True)
class CocoImage:
    """One image of an annotation file.

    Attributes:
        id: its number in the file.
        file_name: as the file names it.
        height: in pixels.
        width: in pixels.
        annotations: its instances, as in the file.
    """

    id: int
    file_name: str
    height: int
    width: int
    annotations: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class CocoFile:
    """An annotation file of instances.

    Attributes:
        path: where it lies.
        images: in the order of the file.
        categories: (id, name) in the order of their ids.
    """

    path: Path
    images: tuple[CocoImage, ...]
    categories: tuple[tuple[int, str], ...]

    @property
    def classes(self) -> ClassTable:
        """Background and one class per category."""
        names = ["background"]
        for number, name in self.categories:
            names.append(name if name not in names else f"{name} {number}")
        return ClassTable(tuple(names), voc_palette(len(names)), ignore=255 if len(names) <= 255 else 65535)


def read_coco(path: Path) -> CocoFile:
    """Read an annotation file of instances.

    Raises:
        ValueError: if the file is missing, is not such a file, or refers to what it does not hold.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    try:
        categories = sorted((int(entry["id"]), str(entry["name"])) for entry in content["categories"])
        instances: dict[int, list[dict[str, Any]]] = {int(entry["id"]): [] for entry in content["images"]}
        known = {number for number, _ in categories}
        for annotation in content["annotations"]:
            if "segmentation" not in annotation:
                continue
            if annotation["category_id"] not in known:
                raise ValueError(f"an annotation has the unknown category {annotation['category_id']}")
            if annotation["image_id"] not in instances:
                raise ValueError(f"an annotation belongs to the unknown image {annotation['image_id']}")
            instances[annotation["image_id"]].append(annotation)
        images = tuple(
            CocoImage(
                int(entry["id"]),
                str(entry["file_name"]),
                int(entry["height"]),
                int(entry["width"]),
                tuple(instances[int(entry["id"])]),
            )
            for entry in content["images"]
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} is not a COCO file of instances: {reason}") from error
    return CocoFile(path, images, tuple(categories))


def semantic_labels(image: CocoImage, label_of: Mapping[int, int], ignore: int) -> Int64[Tensor, "H W"]:
    """The semantic labels of one image: 0 where no instance lies.

    Small instances are painted over large ones. The regions of crowds are ignored except where an instance
    lies on them.

    Args:
        image: the image and its instances.
        label_of: the label of each category id.
        ignore: the label of crowd regions.

    Raises:
        ValueError: on an instance that cannot be drawn.
    """
    labels = torch.zeros(image.height, image.width, dtype=torch.int64)
    masks = [(_mask(annotation, image), annotation) for annotation in image.annotations]
    # Crowds first, then from large to small.
    masks.sort(key=lambda pair: (not pair[1].get("iscrowd", 0), -int(pair[0].sum())))
    for mask, annotation in masks:
        labels[mask] = ignore if annotation.get("iscrowd", 0) else label_of[annotation["category_id"]]
    return labels


def _mask(annotation: Mapping[str, Any], image: CocoImage) -> Bool[Tensor, "H W"]:
    segmentation = annotation["segmentation"]
    try:
        if isinstance(segmentation, list):
            return polygon_mask(segmentation, image.height, image.width)
        mask = decode_rle(segmentation)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"instance {annotation.get('id')} of {image.file_name} cannot be drawn: {error}"
        ) from error
    if mask.shape != (image.height, image.width):
        raise ValueError(
            f"instance {annotation.get('id')} of {image.file_name} has a mask of {tuple(mask.shape)}, "
            f"expected {(image.height, image.width)}"
        )
    return mask
