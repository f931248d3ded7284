"""What kinds of errors cost how much AP, after TIDE (Bolya, Foley, Hays, Hoffman, ECCV 2020).

A detection that is not right at an IoU of 0.5 belongs to the first of these kinds that fits (Sec. 2.2):

    localization    an object of its class lies under it, but only with an IoU of 0.1 to 0.5
    classification  an object of another class lies under it with an IoU of at least 0.5
    duplicate       the object of its class under it was found by a surer detection
    background      no object has an IoU above 0.1 with it
    both            what is left: neither class nor place are right

and an object that nobody found, and that is not the object of an error of classification or localization, is

    missed.

The weight of a kind is by how much AP at 0.5 rises where an oracle corrects all errors of that kind and no
others (Sec. 2.3): a detection in the wrong place or of the wrong class becomes right, unless its object is
found already (then it goes), duplicates, background and both go, missed objects are not asked for. The
weights do not add up to what AP lacks.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from .curves import RECALLS, Detections, Targets
from .shapes import Boxes, Groups, Masks

KINDS = ("classification", "localization", "both", "duplicate", "background", "missed")
RIGHT, ANY = (
    0.5,
    0.1,
)  # IoU from which a detection is right, and up to which it has nothing to do with an object
SURE = 0.5  # score of detections that the table of confusions counts
_CLASS, _PLACE, _BOTH, _DUPLICATE, _BACKGROUND = range(5)
_CORRECT, _LEFT_OUT = -1, -2


@dataclass(frozen=True)
class DetectionErrors:
    """Errors of all images together.

    Attributes:
        ap50: AP at an IoU of 0.5, over the classes that have objects; nan without objects.
        counts: number of errors of each kind.
        costs: by how much `ap50` rises if all errors of a kind are corrected, in [0, 1].
        confusion: number of objects by class (rows) and by the class of the detection that lies on them with
            an IoU of at least 0.5 and a score of at least 0.5 (columns); the last column counts objects
            without such a detection, the last row such detections without an object.
    """

    ap50: float
    counts: Mapping[str, int]
    costs: Mapping[str, float]
    confusion: Int64[np.ndarray, "k1 k1"]


def detection_errors(
    targets: Targets, detections: Detections, num_classes: int, max_detections: int = 100
) -> DetectionErrors:
    """Tell errors apart, with the rules of COCO for what is right.

    Args:
        targets: what is in the images; a detection on a target that is ignored is no error.
        detections: what was found.
        num_classes: k.
        max_detections: how many detections of an image and class count, best first.
    """
    order = np.lexsort((-detections.score, detections.image))
    target_order = np.argsort(targets.image, kind="stable")
    images = np.unique(np.concatenate([detections.image, targets.image]))
    starts = [
        np.append(np.searchsorted(one, images), len(one))
        for one in (detections.image[order], targets.image[target_order])
    ]
    groups = Groups(starts[0], starts[1])
    crowds = targets.is_crowd[target_order]
    found, there = detections.shapes.take(order), targets.shapes.take(target_order)
    assert isinstance(found, Boxes | Masks)
    assert type(there) is type(found)
    overlaps = found.similarity(there, crowds, groups)  # type: ignore[arg-type]
    labels, wanted = detections.classes[order], targets.classes[target_order]
    ignored, scores = targets.ignored[target_order], detections.score[order]
    kind = np.full(len(order), _LEFT_OUT)
    becomes = np.full(len(order), -1)  # the target that a corrected detection finds
    finder = np.full(len(target_order), -1)
    confusion = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    pair_start = groups.pair_start
    for g in range(len(images)):
        d = slice(groups.detection_start[g], groups.detection_start[g + 1])
        t = slice(groups.target_start[g], groups.target_start[g + 1])
        iou = overlaps[pair_start[g] : pair_start[g + 1]].reshape(d.stop - d.start, t.stop - t.start)
        same = labels[d, None] == wanted[None, t]
        kind[d], matched, becomes[d] = _one_image(iou, same, ignored[t], labels[d], max_detections)
        becomes[d] = np.where(becomes[d] >= 0, becomes[d] + t.start, -1)
        finder[t] = np.where(matched >= 0, matched + d.start, -1)
        sure = scores[d] >= SURE
        _count(confusion, iou[sure], labels[d][sure], wanted[t], ignored[t])
    asked = ~ignored
    covered = np.zeros(len(asked), bool)
    covered[becomes[np.isin(kind, (_CLASS, _PLACE))]] = True
    missed = asked & (finder < 0) & ~covered
    right = kind == _CORRECT

    def score(
        right: Bool[np.ndarray, " n"],
        kept: Bool[np.ndarray, " n"],
        classes: Int64[np.ndarray, " n"],
        asked: Bool[np.ndarray, " m"],
    ) -> float:
        counts = np.bincount(wanted[asked], minlength=num_classes)
        each = []
        for k in np.flatnonzero(np.bincount(wanted[~ignored], minlength=num_classes)):
            own = kept & (classes == k)
            if counts[k] or own.any():
                each.append(average_precision(scores[own], right[own], int(counts[k])))
        return float(np.mean(each)) if each else float("nan")

    counted = kind != _LEFT_OUT
    ap = score(right, counted, labels, asked)
    findable = becomes >= 0  # by a corrected detection: nobody has found the target yet
    findable[findable] = finder[becomes[findable]] < 0
    costs = {}
    for number, name in enumerate(KINDS[:-1]):
        errors = kind == number
        corrected = _first_of(becomes, errors & findable, scores)
        classes = labels.copy()
        classes[corrected] = wanted[becomes[corrected]]
        costs[name] = score(right | corrected, counted & (~errors | corrected), classes, asked) - ap
    costs["missed"] = score(right, counted, labels, asked & ~missed) - ap
    numbers = [int((kind == number).sum()) for number in range(len(KINDS) - 1)]
    counts = dict(zip(KINDS, [*numbers, int(missed.sum())], strict=True))
    return DetectionErrors(ap, counts, costs, confusion)


def _one_image(
    iou: Float64[np.ndarray, "n m"],
    same: Bool[np.ndarray, "n m"],
    ignored: Bool[np.ndarray, " m"],
    labels: Int64[np.ndarray, " n"],
    max_detections: int,
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " m"], Int64[np.ndarray, " n"]]:
    """Kind of each detection, detection of each target, target that a corrected detection finds; -1 for none.

    Detections come best first.
    """
    n, m = iou.shape
    rank = np.array([int((labels[:i] == labels[i]).sum()) for i in range(n)], np.int64)
    matched = np.full(m, -1)
    if not m:
        return np.where(rank < max_detections, _BACKGROUND, _LEFT_OUT), matched, np.full(n, -1)
    own, other = (np.where(one & ~ignored, iou, -1.0) for one in (same, ~same))
    right = np.zeros(n, bool)
    for i in np.flatnonzero((own.max(1) >= RIGHT) & (rank < max_detections)):
        free = np.where(matched < 0, own[i], -1.0)
        if free.max() >= RIGHT:
            right[i], matched[free.argmax()] = True, i
    of_crowd = np.where(same & ignored, iou, -1.0).max(1) >= RIGHT
    near, beside = own.max(1), other.max(1)
    conditions = [
        rank >= max_detections,
        right,
        of_crowd,
        (near >= ANY) & (near < RIGHT),
        beside >= RIGHT,
        near >= RIGHT,
        np.maximum(near, beside) > ANY,
    ]
    kinds = [_LEFT_OUT, _CORRECT, _LEFT_OUT, _PLACE, _CLASS, _DUPLICATE, _BOTH]
    kind = np.select(conditions, kinds, _BACKGROUND)
    becomes = np.where(kind == _PLACE, own.argmax(1), np.where(kind == _CLASS, other.argmax(1), -1))
    return kind, matched, becomes


def _first_of(
    becomes: Int64[np.ndarray, " n"], among: Bool[np.ndarray, " n"], scores: Float64[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """The surest of the detections that would find the same target."""
    first = np.zeros(len(becomes), bool)
    order = np.argsort(-scores, kind="stable")
    order = order[among[order]]
    _, place = np.unique(becomes[order], return_index=True)
    first[order[place]] = True
    return first


def _count(
    confusion: Int64[np.ndarray, "k1 k1"],
    iou: Float64[np.ndarray, "n m"],
    labels: Int64[np.ndarray, " n"],
    wanted: Int64[np.ndarray, " m"],
    ignored: Bool[np.ndarray, " m"],
) -> None:
    """Give each sure detection, best first, the free object that it overlaps most, whatever its class."""
    none = len(confusion) - 1
    free = ~ignored
    for own, label in zip(iou, labels, strict=True):
        if (free & (own >= RIGHT)).any():
            place = np.where(free, own, -1.0).argmax()
            free[place] = False
            confusion[wanted[place], label] += 1
        elif not (ignored & (own >= RIGHT)).any():
            confusion[none, label] += 1
    np.add.at(confusion, (wanted[free], none), 1)


def average_precision(scores: Float64[np.ndarray, " n"], right: Bool[np.ndarray, " n"], count: int) -> float:
    """COCO's: mean over 101 recalls of the best precision at that recall or a higher one.

    Args:
        scores: of the detections of a class.
        right: whether they are right.
        count: number of objects; AP is 0 without any.
    """
    if not count:
        return 0.0
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    precision = hits / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(hits / count, RECALLS)
    return float(np.append(best, 0.0)[np.minimum(place, len(best))].mean())
