"""COCO's annotation files: instances as masks, as boxes, and the semantic labels that they add up to."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from ...files import atomic_write
from ...rle import RleMasks, run_lengths
from ...types import Boxes, ClassTable, MaskSet, voc_palette
from ...wording import brief, some_of
from ..shapes import Shape, drawn, ring
from .json_file import read_json

_MOST_PIXELS = 2**30
_MOST_CATEGORIES = 65_534  # with background and an ignore label they fit into 16 bits
_FARTHEST = 2.0**24  # a coordinate; beyond it single precision has no whole numbers


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
        file_name: as the file names it, with forward slashes.
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
        problems: annotations that are left out because they belong to nothing or have no outline, and
            images whose number is taken; one sentence for each kind.
    """

    path: Path
    images: tuple[CocoImage, ...]
    categories: tuple[tuple[int, str], ...]
    problems: tuple[str, ...] = ()

    @property
    def classes(self) -> ClassTable:
        """Background and one class per category."""
        names = _distinct(self.categories, ["background"])
        return ClassTable(names, voc_palette(len(names)), ignore=255 if len(names) <= 255 else 65535)

    @property
    def things(self) -> ClassTable:
        """One class per category, without a background; all of them are countable."""
        names = _distinct(self.categories, [])
        ignore, colors = 255 if len(names) <= 255 else 65535, voc_palette(len(names) + 1)[1:]
        ids = tuple(number for number, _ in self.categories)
        return ClassTable(names, colors, ignore=ignore, things=tuple(range(len(names))), ids=ids)


def _distinct(categories: Sequence[tuple[int, str]], taken: list[str]) -> tuple[str, ...]:
    """The names after those that are taken; one that is taken has its number behind it."""
    names = list(taken)
    for number, name in categories:
        names.append(name if name not in names else f"{name} {number}")
    return tuple(names)


def read_coco(path: Path, *, boxes: bool = False) -> CocoFile:
    """Read an annotation file of instances.

    Args:
        path: of the json file.
        boxes: whether a box is enough, so that annotations without an outline count.

    Raises:
        ValueError: if the file is missing or is not such a file, or if it holds boxes only where outlines are
            needed.
    """
    content = read_json(path)
    try:
        return _file_of(path, content, boxes)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} is not a COCO file of instances: {reason}") from error


def _file_of(path: Path, content: Any, boxes: bool) -> CocoFile:
    if not isinstance(content, dict):
        raise ValueError("expected an object with images, annotations and categories")
    categories = sorted(
        (_whole(entry["id"], "the id of a category"), str(entry["name"])) for entry in content["categories"]
    )
    numbers = [number for number, _ in categories]
    if doubled := [number for number, count in Counter(numbers).items() if count > 1]:
        raise ValueError(f"two categories have the id {doubled[0]}")
    if len(categories) > _MOST_CATEGORIES:
        raise ValueError(f"it has {len(categories)} categories, expected at most {_MOST_CATEGORIES}")
    entries, taken = _images_of(content["images"])
    by_image, problems = _sorted_annotations(content["annotations"], set(numbers), set(entries), boxes)
    images = tuple(
        CocoImage(number, name, height, width, tuple(by_image[number]))
        for number, (name, height, width) in entries.items()
    )
    if taken:
        problems.insert(0, f"several images have one id: {some_of(taken)}")
    return CocoFile(path, images, tuple(categories), tuple(f"{path}: {text}" for text in problems))


def _images_of(images: Any) -> tuple[dict[int, tuple[str, int, int]], list[str]]:
    """Name and size of each image by its id, and those whose id is taken."""
    entries: dict[int, tuple[str, int, int]] = {}
    taken = []
    for entry in images:
        number = _whole(entry["id"], "the id of an image")
        of_lvis = "coco_url" in entry and not entry.get("file_name")
        name = str(_of_url(entry["coco_url"]) if of_lvis else entry["file_name"]).replace("\\", "/")
        if not PurePosixPath(name).name or "\0" in name:
            raise ValueError(f"the file_name of image {number} must name a file, got {brief(name)}")
        height = _whole(entry["height"], f"the height of {brief(name)}", 1)
        width = _whole(entry["width"], f"the width of {brief(name)}", 1)
        if height * width > _MOST_PIXELS:
            raise ValueError(f"{brief(name)} has {height} x {width} pixels, expected at most {_MOST_PIXELS}")
        if number in entries:
            taken.append(f"{number} ({entries[number][0]}, {name})")
            continue
        entries[number] = name, height, width
    return entries, taken


def _of_url(url: Any) -> str:
    """Folder and name at the end of a URL: LVIS names its images so, as those of COCO's parts."""
    return "/".join(str(url).split("/")[-2:])


def _sorted_annotations(
    annotations: Any, categories: set[int], images: set[int], boxes: bool
) -> tuple[dict[int, list[dict[str, Any]]], list[str]]:
    """The annotations that have a place, by image, and a sentence for each kind that has none.

    Raises:
        ValueError: if none has an outline, or, where boxes are enough, neither outline nor box.
    """
    by_image: dict[int, list[dict[str, Any]]] = {number: [] for number in images}
    no_category: Counter[int] = Counter()
    no_image: Counter[int] = Counter()
    ids: set[int | str] = set()
    doubled: dict[int | str, None] = {}
    flat: list[str] = []
    bare, total = 0, 0
    for annotation in annotations:
        total += 1
        category, image = annotation["category_id"], annotation["image_id"]
        if type(category) is not int or category not in categories:
            category = _whole(category, "the category_id of an annotation")
            annotation["category_id"] = category
        if type(image) is not int or image not in images:
            image = _whole(image, "the image_id of an annotation")
        number = annotation.get("id", f"none {total}")
        number = number if type(number) is int else str(number)
        if number in ids:
            doubled[number] = None
        ids.add(number)
        if boxes and not annotation.get("segmentation") and _is_flat(annotation.get("bbox")):
            flat.append(f"{annotation.get('id')} of image {image}")
        if category not in categories:
            no_category[category] += 1
        if image not in images:
            no_image[image] += 1
        if not (annotation.get("segmentation") or (boxes and annotation.get("bbox"))):
            bare += 1
        elif category in categories and image in images:
            by_image[image].append(annotation)
    if total and bare == total and not no_category and not no_image:
        if boxes:
            raise ValueError(f"none of its {total} annotations has a bbox or a segmentation")
        raise ValueError(
            f"none of its {total} annotations has a segmentation, it holds boxes only: outlines are needed "
            "to train on"
        )
    problems = [
        *_unknown(no_category, "category"),
        *_unknown(no_image, "image"),
    ]
    if doubled:
        problems.append(f"several annotations have one id: {some_of([str(number) for number in doubled])}")
    if flat:
        problems.append(f"the boxes of these annotations have no area: {some_of(flat)}")
    if bare and boxes:
        problems.append(f"{bare} of {total} annotations have neither bbox nor segmentation")
    elif bare:
        problems.append(
            f"{bare} of {total} annotations have no segmentation (a box at most): they would count as "
            "background"
        )
    return by_image, problems


def _is_flat(box: Any) -> bool:
    """Whether a box of x, y, width and height has no area; what is no such box is told elsewhere."""
    return isinstance(box, list) and len(box) == 4 and 0 in box[2:]


def _unknown(counts: Counter[int], what: str) -> list[str]:
    if not counts:
        return []
    numbers = some_of([f"{number} ({count} times)" for number, count in sorted(counts.items())])
    return [f"annotations belong to the unknown {what} {numbers}"]


def _whole(value: Any, field: str, lowest: int = 0) -> int:
    """A whole number, which JSON may write as 20, 20.0 or "20".

    Raises:
        ValueError: on anything else, or a number that is no 64-bit integer from `lowest` on.
    """
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)
    right = isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value < 2**63
    if not right or value != int(value):
        raise ValueError(f"{field} must be a whole number of at least {lowest}, got {brief(value)}")
    return int(value)


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
    masks = [
        (torch.from_numpy(_mask(annotation, image).decode()[0]), annotation)
        for annotation in image.annotations
    ]
    # Crowds first, then from large to small.
    masks.sort(key=lambda pair: (not pair[1].get("iscrowd", 0), -int(pair[0].sum())))
    for mask, annotation in masks:
        labels[mask] = ignore if annotation.get("iscrowd", 0) else label_of[annotation["category_id"]]
    return labels


def instances(image: CocoImage, label_of: Mapping[int, int]) -> MaskSet:
    """The instances of one image, crowds among them, as run lengths.

    Args:
        image: the image and its annotations.
        label_of: the label of each category id.

    Raises:
        ValueError: on an instance that cannot be drawn.
    """
    nothing = RleMasks.from_coco([], (image.height, image.width))
    masks = RleMasks.concatenate([nothing, *(_mask(one, image) for one in image.annotations)])
    classes, is_crowd = _classes_and_crowds(image, label_of)
    return MaskSet.of(masks, classes, is_crowd=is_crowd)


def coco_shapes(image: CocoImage, names: Mapping[int, str]) -> list[Shape]:
    """The shapes of one image; the rings of an instance are one group.

    Args:
        image: the image and its annotations.
        names: of the category ids.

    Raises:
        ValueError: on an instance that cannot be drawn.
    """
    found = []
    for number, annotation in enumerate(image.annotations):
        name, crowd = names[annotation["category_id"]], bool(annotation.get("iscrowd", 0))
        rings = annotation["segmentation"]
        if not isinstance(rings, list):
            found.append(Shape(name, mask=_mask(annotation, image), crowd=crowd))
            continue
        group = str(number) if len(rings) > 1 else None
        for corners in rings:
            points = np.array(_ring(corners)[: len(corners) // 2 * 2]).reshape(-1, 2)
            found.append(Shape(name, (ring(points),), group=group, crowd=crowd))
    return found


def boxes(image: CocoImage, label_of: Mapping[int, int]) -> Boxes:
    """The boxes of one image, crowds among them; around its mask where an annotation has no box.

    Args:
        image: the image and its annotations.
        label_of: the label of each category id.

    Raises:
        ValueError: on a box that is none, or an instance that cannot be drawn.
    """
    found = [_box(annotation, image) for annotation in image.annotations]
    corners = torch.tensor(found, dtype=torch.float32).view(-1, 4)
    classes, is_crowd = _classes_and_crowds(image, label_of)
    return Boxes.of(corners, classes, is_crowd=is_crowd)


def _classes_and_crowds(
    image: CocoImage, label_of: Mapping[int, int]
) -> tuple[Int64[Tensor, " n"], Bool[Tensor, " n"]]:
    classes = [label_of[annotation["category_id"]] for annotation in image.annotations]
    is_crowd = [bool(annotation.get("iscrowd", 0)) for annotation in image.annotations]
    return torch.tensor(classes, dtype=torch.int64), torch.tensor(is_crowd, dtype=torch.bool)


def _box(annotation: Mapping[str, Any], image: CocoImage) -> tuple[float, float, float, float]:
    """x1 y1 x2 y2 of an annotation.

    Raises:
        ValueError: if its box is none, or its mask cannot be drawn.
    """
    box = annotation.get("bbox")
    if not box or (_is_flat(box) and annotation.get("segmentation")):
        box = _mask(annotation, image).boxes[0].tolist()
    numbers = isinstance(box, list) and all(
        isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in box
    )
    if not numbers or len(box) != 4 or min(box[2:]) < 0:
        raise ValueError(
            f"instance {annotation.get('id')} of {image.file_name} needs a bbox of x, y, width and height, "
            f"got {brief(box)}"
        )
    x, y, width, height = map(float, box)
    return x, y, x + width, y + height


def _mask(annotation: Mapping[str, Any], image: CocoImage) -> RleMasks:
    """The mask of an annotation: a set of one."""
    segmentation, size = annotation["segmentation"], (image.height, image.width)
    which = f"instance {annotation.get('id')} of {image.file_name}"
    try:
        if isinstance(segmentation, list):
            return RleMasks.from_polygons([[_ring(ring) for ring in segmentation]], *size)
        given = tuple(_whole(side, "its size") for side in segmentation["size"])
        counts = _counts(segmentation["counts"])
        if given == size:
            return RleMasks.from_coco([{"size": list(size), "counts": counts}])
    except KeyError as error:
        raise ValueError(f"{which} cannot be drawn: {error} is missing") from error
    except (TypeError, ValueError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{which} cannot be drawn: {error}") from error
    raise ValueError(f"{which} has a mask of {given}, expected {size}")


def _ring(ring: Any) -> list[float]:
    """The corners of a polygon as numbers.

    Raises:
        ValueError: if it is something else.
    """
    if not isinstance(ring, list):
        raise ValueError(f"a polygon must be a list of numbers, got {brief(ring)}")
    for x in ring:
        if not isinstance(x, int | float) or isinstance(x, bool) or not abs(x) <= _FARTHEST:
            raise ValueError(f"a polygon needs finite coordinates, got {brief(x)}")
    return [float(x) for x in ring]


def _counts(counts: Any) -> Any:
    """Run lengths: whole numbers, or COCO's string.

    Raises:
        ValueError: if they are something else.
    """
    if isinstance(counts, list):
        return [_whole(count, "a run length") for count in counts]
    if not isinstance(counts, str) or not counts.isascii():
        raise ValueError(f"counts must be a list of numbers or COCO's string, got {brief(counts)}")
    return counts


# --- writing --------------------------------------------------------------------------------------

_RARE, _COMMON = 10, 100  # images with a class, up to which LVIS calls it so


def write_coco(
    path: Path, named: Sequence[tuple[str, MaskSet]], classes: ClassTable, *, polygons: bool = False
) -> None:
    """Write an annotation file of instances, crowds among them; reading it gives all masks back exactly.

    Args:
        path: of the json file.
        named: file name and instances of each image.
        classes: their names, and ids where they have some.
        polygons: whether masks are written as polygons where these say the same: not those with holes, which
            COCO's rule fills, and not crowds. Run lengths without it.
    """
    _write(path, _content(named, classes, polygons))


def write_lvis(
    path: Path,
    named: Sequence[tuple[str, MaskSet]],
    classes: ClassTable,
    *,
    absent: Mapping[str, Sequence[int]] | None = None,
    incomplete: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Write an annotation file of LVIS: COCO's, and of which classes each image is known to have none.

    Args:
        path: of the json file.
        named: file name and instances of each image; no crowds.
        classes: their names, and ids where they have some.
        absent: by file name, the labels that the image was searched for in vain; without it, all that it does
            not show.
        incomplete: by file name, the labels of which not all instances are annotated; none without it.

    Raises:
        ValueError: if there is a crowd, which LVIS does not know.
    """
    if crowded := [name for name, instances in named if instances.is_crowd.any()]:
        raise ValueError(f"LVIS knows no crowds, {crowded[0]} has one")
    content = _content(named, classes, polygons=False)
    ids, seen = classes.category_ids, Counter[int]()
    for entry, (name, instances) in zip(content["images"], named, strict=True):
        shown = set(instances.classes.tolist())
        seen.update(shown)
        missing = (absent or {}).get(name, [label for label in range(len(classes)) if label not in shown])
        entry["neg_category_ids"] = [ids[label] for label in missing]
        entry["not_exhaustive_category_ids"] = [ids[label] for label in (incomplete or {}).get(name, ())]
    for label, category in enumerate(content["categories"]):
        count = seen[label]
        category["image_count"] = count
        category["frequency"] = "r" if count <= _RARE else "c" if count <= _COMMON else "f"
    _write(path, content)


def write_coco_shapes(
    path: Path,
    images: Iterable[tuple[str, int, int, Sequence[Shape]]],
    classes: ClassTable,
) -> Mapping[str, int]:
    """Write an annotation file of instances from shapes: polygons stay polygons.

    Shapes of one class and group are one instance. Those with holes, and groups with run lengths among them,
    are written as run lengths, since COCO's polygons have no holes.

    Args:
        path: of the json file.
        images: file name, height, width and shapes of each; every shape has the name of a class.
        classes: their names, and ids where they have some.

    Returns:
        How often the format could not say something, by sentence: nothing.
    """
    content = _content([], classes, polygons=False)
    ids = dict(zip(classes.names, classes.category_ids, strict=True))
    for number, (name, height, width, shapes) in enumerate(images, 1):
        content["images"].append({"id": number, "file_name": name, "height": height, "width": width})
        groups: dict[object, list[Shape]] = {}
        for at, shape in enumerate(shapes):
            groups.setdefault(at if shape.group is None else (shape.name, shape.group), []).append(shape)
        for members in groups.values():
            mask = RleMasks.concatenate([drawn(shape, height, width) for shape in members]).merge()
            if not (area := int(mask.area[0])):
                continue
            crowd = members[0].crowd
            plain = not crowd and all(one.mask is None and not one.has_holes for one in members)
            rings = [one.rings[0].ravel().round(4).tolist() for one in members] if plain else None
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": ids[members[0].name],
                    "segmentation": rings or mask.to_coco()[0],
                    "area": area,
                    "bbox": mask.boxes[0].tolist(),
                    "iscrowd": int(crowd),
                }
            )
    _write(path, content)
    return {}


def _content(named: Sequence[tuple[str, MaskSet]], classes: ClassTable, polygons: bool) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, found) in enumerate(named, 1):
        height, width = found.size
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        masks = run_lengths(found)
        columns = (masks.area.tolist(), masks.boxes.tolist(), found.classes.tolist(), found.is_crowd.tolist())
        for mask, area, box, label, crowd in zip(masks, *columns, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": classes.category_ids[label],
                    "segmentation": _outline(mask, polygons and not crowd),
                    "area": area,
                    "bbox": box,
                    "iscrowd": int(crowd),
                }
            )
    named_classes = zip(classes.category_ids, classes.names, strict=True)
    categories = [{"id": number, "name": name, "supercategory": name} for number, name in named_classes]
    return {"images": images, "annotations": annotations, "categories": categories}


def _outline(mask: RleMasks, as_polygons: bool) -> Any:
    """Rings where they are asked for and COCO's rule draws the same mask of them; run lengths otherwise."""
    if as_polygons:
        rings = [ring for polygon in mask.polygons()[0] for ring in polygon.rings]
        if rings and RleMasks.from_polygons([rings], mask.height, mask.width) == mask:
            return [ring.tolist() for ring in rings]
    return mask.to_coco()[0]


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content))
