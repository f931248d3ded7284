"""Precision and recall of detections, by COCO's rules (cocoapi's cocoeval.py), on flat arrays."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from ...kernels import parallel_map
from ...kernels.masks import matching
from .shapes import Boxes, Groups, Keypoints, Masks, Shapes

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Targets:
    """What is in the images.

    Attributes:
        image: index of the image of each target.
        classes: index of its class.
        area: in pixels; decides which range of areas the target belongs to.
        is_crowd: whether it stands for several instances; it then takes any number of detections.
        ignored: whether it need not be found, and whoever finds it is neither right nor wrong.
        shapes: what is compared.
    """

    image: Int64[np.ndarray, " m"]
    classes: Int64[np.ndarray, " m"]
    area: Float64[np.ndarray, " m"]
    is_crowd: Bool[np.ndarray, " m"]
    ignored: Bool[np.ndarray, " m"]
    shapes: Shapes


@dataclass(frozen=True)
class Detections:
    """What was found in them.

    Attributes:
        image: index of the image of each detection.
        classes: index of its class.
        area: in pixels; outside of a range of areas an unmatched detection does not count.
        score: the higher the surer.
        ignored_alone: whether a detection that matches nothing does not count (LVIS, where not all of a class
            is labelled).
        shapes: what is compared.
    """

    image: Int64[np.ndarray, " n"]
    classes: Int64[np.ndarray, " n"]
    area: Float64[np.ndarray, " n"]
    score: Float64[np.ndarray, " n"]
    ignored_alone: Bool[np.ndarray, " n"]
    shapes: Shapes


@dataclass(frozen=True)
class Curves:
    """Axes: t IoU thresholds, r recalls, k classes, a ranges of areas, m numbers of detections.

    A class without a target in a range of areas has -1.

    Attributes:
        precision: at each recall, the highest precision at that recall or a higher one.
        recall: the highest recall.
        scores: of the detection at which each recall is reached.
    """

    precision: Float64[np.ndarray, "t r k a m"]
    recall: Float64[np.ndarray, "t k a m"]
    scores: Float64[np.ndarray, "t r k a m"]


def evaluate(
    targets: Targets,
    detections: Detections,
    num_classes: int,
    max_detections: tuple[int, ...],
    area_ranges: tuple[tuple[float, float], ...],
    use_classes: bool = True,
    threads: int = 1,
) -> Curves:
    """Match the detections of every image and class with its targets; count over images.

    Detections of equal score keep their order: by image, then as they came.

    Args:
        targets: what is in the images.
        detections: what was found.
        num_classes: K; 1 is the length of that axis without classes.
        max_detections: how many detections of an image and class count, ascending.
        area_ranges: lowest and highest area, both inside.
        use_classes: whether only detections and targets of one class match.
        threads: how many work on it.
    """
    k = num_classes if use_classes else 1
    most = max_detections[-1]
    detection_key = detections.image * k + (detections.classes if use_classes else 0)
    target_key = targets.image * k + (targets.classes if use_classes else 0)
    order = np.lexsort((detections.classes, -detections.score, detection_key))
    rank = _rank(detection_key[order])
    order, rank = order[rank < most], rank[rank < most]
    target_order = np.lexsort((targets.classes, target_key))
    keys = np.unique(np.concatenate([detection_key, target_key]))
    groups = Groups(_starts(detection_key[order], keys), _starts(target_key[target_order], keys), threads)

    is_crowd = targets.is_crowd[target_order]
    low, high = np.array(area_ranges).T[..., None]  # a 1
    ignored = targets.ignored[target_order] | _outside(targets.area[target_order], low, high)
    ignored_alone = detections.ignored_alone[order] | _outside(detections.area[order], low, high)
    similarity = _similarity(
        detections.shapes.take(order), targets.shapes.take(target_order), is_crowd, groups
    )
    outcome = _match(groups, similarity, is_crowd, ignored, ignored_alone)

    target_class = targets.classes[target_order] if use_classes else np.zeros(len(target_order), np.int64)
    counting = np.stack([np.bincount(target_class[~row], minlength=k) for row in ignored])
    detection_class = detections.classes[order] if use_classes else np.zeros(len(order), np.int64)
    score = detections.score[order]
    ranked = np.lexsort((-score, detection_class))
    class_start = _starts(detection_class[ranked], np.arange(k))
    shape = (len(IOU_THRESHOLDS), len(RECALLS), k, len(area_ranges), len(max_detections))
    curves = Curves(np.full(shape, -1.0), np.full((shape[0], *shape[2:]), -1.0), np.full(shape, -1.0))

    def work(piece: tuple[int, int]) -> None:
        matching.accumulate(
            *piece,
            class_start,
            ranked,
            rank,
            score,
            outcome,
            counting,
            RECALLS,
            np.array(max_detections),
            curves.precision,
            curves.recall,
            curves.scores,
        )

    pieces = min(k, 8) if threads > 1 else 1
    cuts = [piece * k // pieces for piece in range(pieces + 1)]
    parallel_map(work, list(pairwise(cuts)), threads)
    return curves


def _similarity(
    detections: Shapes, targets: Shapes, is_crowd: Bool[np.ndarray, " m"], groups: Groups
) -> Float64[np.ndarray, " p"]:
    if isinstance(detections, Boxes) and isinstance(targets, Boxes):
        return detections.similarity(targets, is_crowd, groups)
    if isinstance(detections, Masks) and isinstance(targets, Masks):
        return detections.similarity(targets, is_crowd, groups)
    assert isinstance(detections, Keypoints)
    assert isinstance(targets, Keypoints)
    return detections.similarity(targets, is_crowd, groups)


def _match(
    groups: Groups,
    similarity: Float64[np.ndarray, " p"],
    is_crowd: Bool[np.ndarray, " m"],
    ignored: Bool[np.ndarray, "a m"],
    ignored_alone: Bool[np.ndarray, "a n"],
) -> UInt8[np.ndarray, "a t n"]:
    outcome = np.empty((len(ignored), len(IOU_THRESHOLDS), ignored_alone.shape[1]), np.uint8)

    def work(piece: tuple[int, int]) -> None:
        matching.match(
            *piece,
            groups.detection_start,
            groups.target_start,
            groups.pair_start,
            similarity,
            is_crowd,
            ignored,
            ignored_alone,
            IOU_THRESHOLDS,
            outcome,
        )

    parallel_map(work, groups.pieces(), groups.threads)
    return outcome


def _rank(key: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Place of each element among those of its key; equal keys lie together."""
    place = np.arange(len(key))
    new = np.concatenate([[True], key[1:] != key[:-1]])[: len(key)]
    return place - np.maximum.accumulate(np.where(new, place, 0))


def _starts(key: Int64[np.ndarray, " n"], keys: Int64[np.ndarray, " g"]) -> Int64[np.ndarray, " g1"]:
    """Where each of `keys` begins in the sorted `key`, and the end."""
    return np.append(np.searchsorted(key, keys), len(key))


def _outside(
    area: Float64[np.ndarray, " n"], low: Float64[np.ndarray, "a 1"], high: Float64[np.ndarray, "a 1"]
) -> Bool[np.ndarray, "a n"]:
    return (area < low) | (area > high)
