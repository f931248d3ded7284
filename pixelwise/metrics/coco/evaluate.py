"""Average precision and recall of instances by COCO's rules (cocoapi's cocoeval.py)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Integer

from ...kernels.masks.matching import IGNORED, RIGHT, WRONG
from .curves import evaluate
from .files import CocoGroundTruth
from .scores import CocoScores
from .shapes import Kind

LARGEST = 1e5**2
SMALL, MEDIUM = 32.0**2, 96.0**2
AREA_RANGES = {
    "all": (0.0, LARGEST),
    "small": (0.0, SMALL),
    "medium": (SMALL, MEDIUM),
    "large": (MEDIUM, LARGEST),
}
KEYPOINT_AREA_RANGES = {name: AREA_RANGES[name] for name in ("all", "medium", "large")}


def match_reference(
    similarity: Float64[np.ndarray, "n m"],
    is_crowd: Bool[np.ndarray, " m"],
    ignored: Bool[np.ndarray, " m"],
    ignored_alone: Bool[np.ndarray, " n"],
    threshold: float,
) -> list[int]:
    """COCO's matching by its rules: what becomes of the detections of one class in one image.

    Args:
        similarity: IoU of each detection, best score first, with each target.
        is_crowd: targets that take any number of detections.
        ignored: targets that are neither right nor wrong to find.
        ignored_alone: detections that are not wrong where they match nothing.
        threshold: least IoU of a match.
    """
    free, outcome = [True] * len(ignored), []
    for row, alone in zip(similarity, ignored_alone, strict=True):
        near = [
            t for t, iou in enumerate(row) if iou >= min(threshold, 1 - 1e-10) and (free[t] or is_crowd[t])
        ]
        # Targets that count come first; among equally similar ones the last wins.
        best = max(near, key=lambda t: (not ignored[t], row[t], t), default=None)
        if best is None:
            outcome.append(IGNORED if alone else WRONG)
        else:
            free[best] = False
            outcome.append(IGNORED if ignored[best] else RIGHT)
    return outcome


def precision_reference(
    outcome: Integer[np.ndarray, " n"], targets: int, recalls: Float64[np.ndarray, " r"]
) -> list[float]:
    """COCO's curve by its definition: the best precision at each recall or a higher one; AP is its mean.

    Args:
        outcome: of the detections of all images, best score first, as `match_reference` gives it.
        targets: their number.
        recalls: COCO has 0, 0.01, ..., 1.

    >>> precision_reference(np.array([RIGHT, WRONG, RIGHT]), 2, np.array([0.5, 1.0]))
    [1.0, 0.6666666666666666]
    """
    right, counted = np.cumsum(outcome == RIGHT), np.cumsum(outcome != IGNORED)
    precision, recall = right / np.maximum(counted, 1), right / targets
    return [float(precision[recall >= least].max(initial=0.0)) for least in recalls]


def coco_evaluate(
    ground_truth: CocoGroundTruth | Mapping[str, Any] | str | Path,
    detections: Sequence[Mapping[str, Any]] | str | Path,
    kind: Kind = "mask",
    *,
    max_detections: tuple[int, ...] | None = None,
    area_ranges: Mapping[str, tuple[float, float]] | None = None,
    use_classes: bool = True,
    threads: int = 1,
) -> CocoScores:
    """COCO's AP and AR (Lin et al., ECCV 2014); every number equals pycocotools' to the last bit.

    Where pycocotools cannot do what its documents say, this does:

    - an annotation with id 0 counts as any other (there, who finds it is wrong); ids may be missing;
    - `iscrowd` may be missing and is then 0 (there, KeyError);
    - with other `max_detections` than COCO's, AP is at the largest of them (there, -1);
    - no detections at all give 0 (there, IndexError);
    - keypoints are compared with `use_classes=False` too (there, nothing matches);
    - an unknown class raises (there, its detections are dropped), and so do a mask that has not the size
      of its image and the score nan.

    Both ends of a range of areas lie inside; the area of an annotation is what the file says, that of a
    detection see `CocoGroundTruth.detections`. Crowds, and for keypoints persons without a labelled keypoint,
    are neither right nor wrong to find. The field `ignore` counts for boundaries alone, as in the official
    tools.

    Args:
        ground_truth: a COCO dictionary, its JSON file, or either one made ready by `CocoGroundTruth.read`.
        detections: a list of COCO results or its JSON file.
        kind: "mask", "box", "keypoints" (OKS in the place of IoU) or "boundary": the smaller of the IoUs of
            masks and of boundaries (Cheng et al., CVPR 2021).
        max_detections: how many detections of an image and class count, best first; 1, 10 and 100 unless
            given, 20 for keypoints.
        area_ranges: lowest and highest area in pixels by name, all areas first; COCO's unless given.
        use_classes: whether only detections and annotations of one class match; otherwise classes are pooled.
        threads: how many work on it.

    Raises:
        ValueError: on input that lacks something or does not fit together, with its name.

    >>> image, box = {"id": 7, "height": 20, "width": 20}, [2.0, 2.0, 10.0, 10.0]
    >>> instance = {"image_id": 7, "category_id": 1, "bbox": box, "area": 100.0}
    >>> truth = {"images": [image], "annotations": [instance], "categories": [{"id": 1, "name": "cat"}]}
    >>> found = {"image_id": 7, "category_id": 1, "bbox": [2.0, 2.0, 10.0, 7.0], "score": 0.9}
    >>> scores = coco_evaluate(truth, [found], "box")
    >>> round(scores.ap, 3), round(scores.as_dict()["AP50"], 3)
    (0.5, 1.0)
    """
    if not isinstance(ground_truth, CocoGroundTruth):
        ground_truth = CocoGroundTruth.read(ground_truth, kind)
    if ground_truth.kind != kind:
        raise ValueError(f"the ground truth was made ready for kind {ground_truth.kind!r}, got {kind!r}")
    ranges = area_ranges or (KEYPOINT_AREA_RANGES if kind == "keypoints" else AREA_RANGES)
    most = tuple(sorted(max_detections or ((20,) if kind == "keypoints" else (1, 10, 100))))
    if most[0] < 1:
        raise ValueError(f"max_detections must be at least 1, got {most[0]}")
    curves = evaluate(
        ground_truth.targets,
        ground_truth.detections(detections),
        len(ground_truth.class_names),
        most,
        tuple(ranges.values()),
        use_classes,
        threads,
    )
    return CocoScores(kind, ground_truth.class_names if use_classes else (), curves, most, dict(ranges))
