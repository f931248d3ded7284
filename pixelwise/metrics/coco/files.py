"""COCO's JSON, read into flat arrays: ground truth once, detections as often as they change."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ...rle import RleMasks
from .curves import Detections, Targets
from .keypoint_similarity import COCO_SIGMAS
from .shapes import KINDS, Boxes, Keypoints, Kind, Masks, Shapes

Json = Mapping[str, Any]


@dataclass(frozen=True)
class CocoGroundTruth:
    """Ground truth ready to be compared, so that an evaluation per epoch reads it once.

    Attributes:
        kind: what is compared.
        images: number of each image by its id, in ascending order of ids.
        sizes: height and width of each image in pixels; 0 where the file does not say.
        class_ids: number of each class by its id, in ascending order of ids.
        class_names: one per class.
        targets: the annotations.
        dilation_ratio: width of a boundary over the diagonal of the image.
        sigmas: of the keypoints.

    >>> image, box = {"id": 7, "height": 20, "width": 20}, [2.0, 2.0, 10.0, 10.0]
    >>> instance = {"image_id": 7, "category_id": 1, "bbox": box, "area": 100.0}
    >>> names = [{"id": 1, "name": "cat"}]
    >>> truth = CocoGroundTruth.read(dict(images=[image], annotations=[instance], categories=names), "box")
    >>> truth.class_names, truth.targets.area
    (('cat',), array([100.]))
    """

    kind: Kind
    images: dict[Any, int]
    sizes: tuple[tuple[int, int], ...]
    class_ids: dict[Any, int]
    class_names: tuple[str, ...]
    targets: Targets
    dilation_ratio: float = 0.02
    sigmas: tuple[float, ...] = COCO_SIGMAS

    @classmethod
    def read(
        cls,
        source: Json | str | Path,
        kind: Kind = "mask",
        *,
        dilation_ratio: float = 0.02,
        sigmas: tuple[float, ...] = COCO_SIGMAS,
    ) -> "CocoGroundTruth":
        """Read `images`, `categories` and `annotations`.

        Args:
            source: the dictionary, or a JSON file of it.
            kind: what will be compared.
            dilation_ratio: width of a boundary over the diagonal of the image; for kind "boundary".
            sigmas: one per keypoint; for kind "keypoints".

        Raises:
            ValueError: on an unknown kind, a missing part, or an annotation of an unknown image or class.
        """
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        file = load(source)
        with reading(source, "the ground truth"):
            parts = ("images", "categories", "annotations")
            if not isinstance(file, Mapping) or not all(
                isinstance(file.get(part), list | tuple) for part in parts
            ):
                raise ValueError(
                    "a COCO ground truth is a dictionary with images, categories and annotations"
                )
            images, categories = _by_id(file["images"], "image"), _by_id(file["categories"], "category")
            truth = cls(
                kind,
                {key: number for number, key in enumerate(images)},
                tuple(_size_of(image) for image in images.values()),
                {key: number for number, key in enumerate(categories)},
                tuple(str(category.get("name", key)) for key, category in categories.items()),
                _NO_TARGETS,
                dilation_ratio,
                sigmas,
            )
            return truth._with(file["annotations"])

    def detections(self, source: Sequence[Json] | str | Path) -> Detections:
        """Read a list of results: image_id, category_id, score, and the shape.

        The area of a detection is that of its box where the first result has one, for masks too, as cocoapi's
        loadRes has it: take the boxes out to have masks put into ranges of areas by their own area.

        Raises:
            ValueError: on a result that lacks something, or names an unknown image or class.
        """
        results = load(source)
        with reading(source, "the detections"):
            return self._detections(results)

    def _detections(self, results: Any) -> Detections:
        if isinstance(results, Mapping | str) or not isinstance(results, Sequence):
            raise ValueError("detections must be a list of results, one dictionary for each")
        image, classes = self._whose(results, "detection")
        score = _numbers(results, "score", "detection")
        if np.isnan(score).any():
            raise ValueError(f"detection {int(np.isnan(score).argmax())} has the score nan")
        shapes, area = self._found(results, image)
        return Detections(image, classes, area, score, np.zeros(len(results), bool), shapes)

    def _with(self, annotations: Sequence[Json]) -> "CocoGroundTruth":
        image, classes = self._whose(annotations, "annotation")
        area = _numbers(annotations, "area", "annotation")
        is_crowd = _flags(annotations, "iscrowd")
        ignored = is_crowd
        shapes: Shapes
        if self.kind == "keypoints":
            shapes = self._keypoints(annotations, area, "annotation")
            labelled = shapes.visible.sum(1)
            ignored = is_crowd | [
                not a.get("num_keypoints", n) for a, n in zip(annotations, labelled, strict=True)
            ]
        elif self.kind == "box":
            shapes = Boxes(_boxes(annotations, "annotation"))
        else:
            shapes = self._masks([_part(a, "segmentation", "annotation") for a in annotations], image)
            if self.kind == "boundary":
                ignored = is_crowd | _flags(annotations, "ignore")
        targets = Targets(image, classes, area, is_crowd, ignored, shapes)
        fields = (self.kind, self.images, self.sizes, self.class_ids, self.class_names)
        return CocoGroundTruth(*fields, targets, self.dilation_ratio, self.sigmas)

    def _found(
        self, results: Sequence[Json], image: Int64[np.ndarray, " n"]
    ) -> tuple[Shapes, Float64[np.ndarray, " n"]]:
        """Shapes and areas of results, by the rules of cocoapi's loadRes."""
        first = results[0] if results else {}
        has_boxes = first.get("bbox", ()) != [] and "bbox" in first
        masks = points = None
        boxes = np.zeros((len(results), 4))
        if self.kind in ("mask", "boundary") or ("segmentation" in first and not has_boxes):
            masks = self._masks([_segmentation(result) for result in results], image)
        if self.kind == "keypoints":
            points = self._keypoints(results, np.zeros(len(results)), "detection")
        if has_boxes:
            boxes = _boxes(results, "detection")
            area = boxes[:, 2] * boxes[:, 3]
        elif masks is not None:
            area = masks.area
            boxes = masks.boxes().xywh
        elif points is not None:
            sides = np.ptp(points.points, axis=1)
            area = sides[:, 0] * sides[:, 1]
        else:
            boxes = _boxes(results, "detection")
            area = boxes[:, 2] * boxes[:, 3]
        shapes = points if self.kind == "keypoints" else Boxes(boxes) if self.kind == "box" else masks
        assert shapes is not None
        return shapes, area

    def _whose(
        self, instances: Sequence[Json], what: str
    ) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Number of the image and of the class of each instance."""
        try:
            image = np.array([self.images[instance["image_id"]] for instance in instances], np.int64)
            classes = np.array([self.class_ids[instance["category_id"]] for instance in instances], np.int64)
        except KeyError:
            for number, instance in enumerate(instances):
                for name, known in (("image_id", self.images), ("category_id", self.class_ids)):
                    if (value := _part(instance, name, f"{what} {number}")) not in known:
                        raise ValueError(
                            f"{what} {number} has the {name} {value!r}, which the ground truth does not list"
                        ) from None
            raise
        return image, classes

    def _masks(self, segmentations: Sequence[Any], image: Int64[np.ndarray, " n"]) -> Masks:
        """Polygons and run lengths together, one set of masks per size of image and form."""
        polygons, runs = (
            defaultdict[tuple[int, int], list[int]](list),
            defaultdict[tuple[int, int], list[int]](list),
        )
        for place, number in enumerate(image.tolist()):
            if not isinstance(segmentations[place], Mapping | list | tuple):
                raise ValueError(
                    f"a segmentation is a list of polygons or run lengths, got "
                    f"{str(segmentations[place])[:80]}"
                )
            form = runs if isinstance(segmentations[place], Mapping) else polygons
            form[self.sizes[number]].append(place)
        parts = []
        for form in (polygons, runs):
            for (height, width), places in form.items():
                if height < 1 or width < 1:
                    raise ValueError("masks need the height and width of every image in the ground truth")
                chosen = [segmentations[place] for place in places]
                if form is polygons:
                    masks = RleMasks.from_polygons(chosen, height, width)
                else:
                    masks = RleMasks.from_coco(chosen, (height, width))
                parts.append((np.array(places), masks))
        return Masks.of(parts, self.dilation_ratio if self.kind == "boundary" else None)

    def _keypoints(self, instances: Sequence[Json], area: Float64[np.ndarray, " n"], what: str) -> Keypoints:
        joints = len(self.sigmas)
        lists = [_part(instance, "keypoints", what) for instance in instances]
        if wrong := [len(values) for values in lists if len(values) != 3 * joints]:
            raise ValueError(f"{joints} sigmas need {3 * joints} numbers in keypoints, got {wrong[0]}")
        values = np.array(lists, np.float64).reshape(-1, joints, 3)
        boxes = _boxes(instances, what) if what == "annotation" else np.zeros((len(lists), 4))
        return Keypoints(values[..., :2], values[..., 2] > 0, boxes, area, np.array(self.sigmas))


_NOTHING = np.zeros(0, np.int64)
_NO_TARGETS = Targets(
    _NOTHING,
    _NOTHING,
    np.zeros(0),
    np.zeros(0, bool),
    np.zeros(0, bool),
    Boxes(np.zeros((0, 4))),
)


def load(source: Any) -> Any:
    """The contents of a JSON file; anything that is no path as it is.

    Raises:
        ValueError: if there is no such file, or it is not JSON.
    """
    if not isinstance(source, str | Path):
        return source
    try:
        return json.loads(Path(source).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{source} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is not a JSON file: {str(error)[:200]}") from None


@contextmanager
def reading(source: Any, what: str) -> Iterator[None]:
    """Make one sentence that names the file of whatever its contents lead to.

    Args:
        source: the path, or the contents.
        what: a name for contents without a path.

    Raises:
        ValueError: instead of errors of types, lookups and too large numbers.
    """
    place = str(source) if isinstance(source, str | Path) else what
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"{place} is not what COCO's format says: {str(error)[:200]}") from error
    except ValueError as error:
        if not isinstance(source, str | Path):
            raise
        raise ValueError(f"{place}: {error}") from error


def _by_id(instances: Sequence[Json], what: str) -> dict[Any, Json]:
    """Images or categories by ascending ids."""
    by_id = {}
    for number, instance in enumerate(instances):
        key = _part(instance, "id", f"{what} {number}")
        if not isinstance(key, int | str):
            raise ValueError(f"the id of {what} {number} must be a number or a name, got {str(key)[:80]}")
        by_id[key] = instance
    if len({isinstance(key, str) for key in by_id}) > 1:
        raise ValueError(f"the ids of all {what} entries must be numbers, or all names, got some of both")
    return {key: by_id[key] for key in sorted(by_id)}


def _size_of(image: Json) -> tuple[int, int]:
    """Height and width of an image; 0 where the file does not say."""
    sides = image.get("height", 0), image.get("width", 0)
    for side in sides:
        if not isinstance(side, int | float) or not 0 <= side < 2**32 or side != int(side):
            raise ValueError(f"image {image['id']} has a size that is no whole number: {str(sides)[:80]}")
    height, width = int(sides[0]), int(sides[1])
    if height * width >= 2**32:
        raise ValueError(f"image {image['id']} has more than 2**32 - 1 pixels: {height} x {width}")
    return height, width


def _part(instance: Json, name: str, what: str) -> Any:
    if not isinstance(instance, Mapping) or name not in instance:
        raise ValueError(f"{what} has no {name}")
    return instance[name]


def _numbers(instances: Sequence[Json], name: str, what: str) -> Float64[np.ndarray, " n"]:
    try:
        return np.array([instance[name] for instance in instances], np.float64)
    except KeyError:
        number = next(number for number, instance in enumerate(instances) if name not in instance)
        raise ValueError(f"{what} {number} has no {name}") from None


def _flags(instances: Sequence[Json], name: str) -> Bool[np.ndarray, " n"]:
    return np.array([bool(instance.get(name, 0)) for instance in instances], bool)


def _boxes(instances: Sequence[Json], what: str) -> Float64[np.ndarray, "n 4"]:
    boxes = [_part(instance, "bbox", what) for instance in instances]
    if wrong := [box for box in boxes if len(box) != 4]:
        raise ValueError(f"the bbox of every {what} is x, y, width, height, got {wrong[0]}")
    return np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes)).reshape(-1, 4)


def _segmentation(result: Json) -> Any:
    """The mask of a result; a result without one is its box."""
    if "segmentation" in result:
        return result["segmentation"]
    x, y, width, height = _part(result, "bbox", "a detection without a segmentation")
    right, bottom = x + width, y + height
    return [[x, y, x, bottom, right, bottom, right, y]]
