"""COCO's key points: annotation files with the joints of people (or of anything), and results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...files import atomic_write
from ...types import ClassTable, Keypoints, Skeleton, voc_palette
from .json_file import read_json

COCO_PERSON = Skeleton(
    (
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
        "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee",
        "right_knee", "left_ankle", "right_ankle",
    ),
    edges=(
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9),
        (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087,
        0.087, 0.089, 0.089,
    ),
)  # fmt: skip
"""The 17 joints of COCO's people."""


@dataclass(frozen=True)
class CocoKeypointImage:
    """One image of an annotation file.

    Attributes:
        id: its number in the file.
        file_name: as the file names it.
        height: in pixels.
        width: in pixels.
        objects: what is annotated in it.
    """

    id: int
    file_name: str
    height: int
    width: int
    objects: Keypoints


@dataclass(frozen=True)
class CocoKeypointFile:
    """An annotation file of key points.

    Attributes:
        path: where it lies.
        images: in the order of the file.
        classes: one per category with joints, in the order of their ids, and the skeleton that they share.
        category_ids: one per class.
    """

    path: Path
    images: tuple[CocoKeypointImage, ...]
    classes: ClassTable
    category_ids: tuple[int, ...]


def read_coco_keypoints(path: Path) -> CocoKeypointFile:
    """Read an annotation file of key points.

    Left and right joints are told by their names. The sigmas of OKS are known for COCO's own 17 joints only.

    Raises:
        ValueError: if the file is missing, is not such a file, or its categories have different joints.
    """
    content = read_json(path)
    try:
        with_joints = sorted(
            (category for category in content["categories"] if category.get("keypoints")),
            key=lambda category: int(category["id"]),
        )
        if not with_joints:
            raise ValueError("no category has keypoints")
        skeletons = {_skeleton(category) for category in with_joints}
        if len(skeletons) > 1:
            raise ValueError("its categories have different joints")
        skeleton = skeletons.pop()
        annotations: dict[int, list[dict[str, Any]]] = {int(entry["id"]): [] for entry in content["images"]}
        known = {int(category["id"]) for category in with_joints}
        for annotation in content["annotations"]:
            if annotation["image_id"] not in annotations:
                raise ValueError(f"an annotation belongs to the unknown image {annotation['image_id']}")
            if annotation["category_id"] in known:
                annotations[annotation["image_id"]].append(annotation)
        images = tuple(
            CocoKeypointImage(
                int(entry["id"]),
                str(entry["file_name"]),
                int(entry["height"]),
                int(entry["width"]),
                _objects(annotations[int(entry["id"])], len(skeleton)),
            )
            for entry in content["images"]
        )
        names = tuple(str(category["name"]) for category in with_joints)
        classes = ClassTable(names, voc_palette(len(names) + 1)[1:], skeleton=skeleton)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} is not a COCO file of key points: {reason}") from error
    return CocoKeypointFile(path, images, classes, tuple(int(category["id"]) for category in with_joints))


def write_coco_keypoints(path: Path, predictions: Mapping[int, Keypoints], *, category_id: int = 1) -> Path:
    """Write COCO results: `image_id`, `category_id`, `keypoints` and `score` of each object.

    `keypoints` are x, y and confidence of every joint.

    Args:
        path: of the json file.
        predictions: by the number of the image in the annotation file.
        category_id: of all objects.

    Raises:
        ValueError: if the file cannot be written.
    """
    results = []
    for image_id, found in predictions.items():
        triples = torch.cat([found.points, found.visible[..., None]], -1).double().cpu()
        for joints, score in zip(triples.flatten(1).tolist(), found.scores.tolist(), strict=True):
            rounded = [round(number, 3) for number in joints]
            results.append(
                {"image_id": image_id, "category_id": category_id, "keypoints": rounded, "score": score}
            )
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(results))
    return Path(path)


def objects_with_joints(objects: Keypoints) -> list[dict[str, Any]]:
    """Annotations of predicted objects as in COCO's files, without ids.

    A joint is x, y and 2 (seen); what the network thinks of it stands under `confidences`.
    """
    entries = []
    for points, confidences, (x0, y0, x1, y1), area, score in zip(
        objects.points.tolist(),
        objects.visible.tolist(),
        objects.boxes.tolist(),
        objects.areas.tolist(),
        objects.scores.tolist(),
        strict=True,
    ):
        entries.append(
            {
                "keypoints": [number for x, y in points for number in (x, y, 2)],
                "num_keypoints": len(points),
                "confidences": confidences,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": area,
                "score": score,
            }
        )
    return entries


def joints_of_category(skeleton: Skeleton) -> dict[str, Any]:
    """What a category of COCO says of its joints, which are counted from 1 there.

    >>> joints_of_category(Skeleton(("head", "hand"), ((0, 1),)))
    {'keypoints': ['head', 'hand'], 'skeleton': [[1, 2]]}
    """
    return {"keypoints": list(skeleton.names), "skeleton": [[a + 1, b + 1] for a, b in skeleton.edges]}


def skeleton_of(names: Sequence[str], edges: Sequence[tuple[int, int]] = ()) -> Skeleton:
    """A skeleton whose left and right joints are told by their names, with COCO's sigmas for COCO's people.

    >>> skeleton_of(["Left eye", "nose", "Right eye"]).flip_pairs
    ((0, 2),)
    """
    place = {name.lower(): number for number, name in enumerate(names)}
    pairs = [
        (number, place[other])
        for name, number in place.items()
        if "left" in name and (other := name.replace("left", "right")) in place
    ]
    sigmas = COCO_PERSON.sigmas if tuple(names) == COCO_PERSON.names else ()
    return Skeleton(tuple(names), tuple(edges), tuple(pairs), sigmas)


def _skeleton(category: Mapping[str, Any]) -> Skeleton:
    edges = [(int(first) - 1, int(second) - 1) for first, second in category.get("skeleton", ())]
    return skeleton_of([str(name) for name in category["keypoints"]], edges)


def _objects(annotations: Sequence[Mapping[str, Any]], joints: int) -> Keypoints:
    values = torch.zeros(len(annotations), joints, 3)
    for own, annotation in zip(values, annotations, strict=True):
        numbers = annotation.get("keypoints", [0] * (3 * joints))
        if len(numbers) != 3 * joints:
            raise ValueError(f"an annotation has {len(numbers)} numbers for {joints} joints")
        own.copy_(torch.tensor(numbers, dtype=torch.float32).view(joints, 3))
    points, visible = values[..., :2], values[..., 2]
    boxes = torch.zeros(len(annotations), 4)
    for i, annotation in enumerate(annotations):
        boxes[i] = _box(annotation.get("bbox"), points[i], visible[i])
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = torch.tensor(
        [float(a.get("area", side.prod())) for a, side in zip(annotations, sides, strict=True)]
    )
    crowd = torch.tensor([bool(a.get("iscrowd", 0)) for a in annotations], dtype=torch.bool)
    return Keypoints(points, visible, torch.ones(len(annotations)), areas, boxes, crowd)


def _box(
    bbox: Sequence[float | int] | None, points: Float[Tensor, "j 2"], visible: Float[Tensor, " j"]
) -> Float[Tensor, "4"]:
    """x1 y1 x2 y2 of COCO's x y width height; around the annotated joints where there is none."""
    if bbox is not None:
        x, y, width, height = bbox
        return torch.tensor([x, y, x + width, y + height], dtype=torch.float32)
    seen = points[visible > 0]
    return torch.cat([seen.amin(0), seen.amax(0)]) if len(seen) else torch.zeros(4)
