"""LVIS AP (Gupta et al., CVPR 2019; lvis-api's eval.py): COCO's AP for a federated data set.

An image is labelled for some of the 1,203 classes alone: those it shows, and those that someone looked for
and did not find. Detections of other classes say nothing and are dropped; where a class is not labelled
exhaustively, an unmatched detection is neither right nor wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int64

from .curves import Detections, evaluate
from .evaluate import AREA_RANGES
from .files import CocoGroundTruth, Json, load
from .scores import CocoScores, ScoreRow, mean_of_counted

LvisKind = Literal["mask", "box", "boundary"]
FREQUENCIES = ("r", "c", "f")


@dataclass(frozen=True)
class LvisGroundTruth:
    """LVIS ground truth ready to be compared.

    Attributes:
        coco: images, classes and annotations.
        judged: the (image, class) pairs that are labelled, as image * k + class, ascending.
        partial: those of them that are not labelled exhaustively.
        frequency: "r", "c" or "f" of each class: in less than 10, less than 100, or more training images.
    """

    coco: CocoGroundTruth
    judged: Int64[np.ndarray, " p"]
    partial: Int64[np.ndarray, " q"]
    frequency: tuple[str, ...]

    @classmethod
    def read(cls, source: Json | str | Path, kind: LvisKind = "mask") -> "LvisGroundTruth":
        """Read an LVIS dictionary or its JSON file.

        Raises:
            ValueError: as `CocoGroundTruth.read`, and if LVIS's own fields are missing.
        """
        file = load(source)
        coco = CocoGroundTruth.read(file, kind)
        annotations = file.get("annotations", [])
        ignored = np.array([bool(instance.get("ignore", 0)) for instance in annotations], bool)
        targets = replace(coco.targets, is_crowd=np.zeros(len(ignored), bool), ignored=ignored)
        shown = targets.image * len(coco.class_names) + targets.classes
        try:
            absent = _pairs(coco, file["images"], "neg_category_ids")
            partial = _pairs(coco, file["images"], "not_exhaustive_category_ids")
            frequency = {category["id"]: category["frequency"] for category in file["categories"]}
        except KeyError as missing:
            raise ValueError(f"an LVIS ground truth has {missing} with every image or category") from None
        if wrong := sorted({str(f) for f in frequency.values()} - set(FREQUENCIES)):
            raise ValueError(f"the frequency of an LVIS category is r, c or f, got {wrong[0]!r}")
        judged = np.unique(np.concatenate([shown, absent]))
        return cls(
            replace(coco, targets=targets), judged, partial, tuple(frequency[key] for key in coco.class_ids)
        )

    def detections(self, source: Sequence[Json] | str | Path, per_image: int = 300) -> Detections:
        """Read a list of results and keep those that count: the best of each image, of its labelled classes.

        Raises:
            ValueError: as `CocoGroundTruth.detections`.
        """
        found = self.coco.detections(source)
        order = np.lexsort((-found.score, found.image))
        start = np.searchsorted(found.image[order], found.image[order])
        best = np.zeros(len(order), bool)
        best[order[np.arange(len(order)) - start < per_image]] = True
        pair = found.image * len(self.frequency) + found.classes
        kept = np.flatnonzero(best & np.isin(pair, self.judged))
        return Detections(
            found.image[kept],
            found.classes[kept],
            found.area[kept],
            found.score[kept],
            np.isin(pair[kept], self.partial),
            found.shapes.take(kept),
        )


class LvisScores(CocoScores):
    """The numbers of LVIS: those of COCO, and AP_r, AP_c, AP_f by the frequency of classes. Frozen.

    Args:
        scores: the same evaluation, by COCO's names.
        frequency: "r", "c" or "f" of each class.
    """

    frequency: tuple[str, ...]

    def __init__(self, scores: CocoScores, frequency: tuple[str, ...]) -> None:
        super().__init__(
            scores.kind, scores.class_names, scores.curves, scores.max_detections, scores.area_ranges
        )
        self.__dict__.update(frequency=frequency)

    def rows(self) -> list[ScoreRow]:
        """The official numbers in the official order."""
        rows = super().rows()
        first_recall = next(place for place, row in enumerate(rows) if row.name.startswith("AR"))
        return [*rows[:first_recall], *map(self._of_frequency, FREQUENCIES), *rows[first_recall:]]

    def _of_frequency(self, letter: str) -> ScoreRow:
        classes = np.flatnonzero([frequency == letter for frequency in self.frequency])
        value = mean_of_counted(self.precision[:, :, classes, 0, -1])
        return ScoreRow(f"AP_{letter}", None, "all", self.max_detections[-1], value)


def lvis_evaluate(
    ground_truth: LvisGroundTruth | Json | str | Path,
    detections: Sequence[Json] | str | Path,
    kind: LvisKind = "mask",
    *,
    max_detections: int = 300,
    threads: int = 1,
) -> LvisScores:
    """LVIS AP; every number equals lvis-api's (`LVISEval`) to the last bit.

    Where lvis-api cannot do what it says, this does: annotation ids may be 0 or missing; no detections at all
    give 0; an unknown class raises (there, its detections are dropped).

    Args:
        ground_truth: an LVIS dictionary, its JSON file, or either one made ready by `LvisGroundTruth.read`.
        detections: a list of results or its JSON file.
        kind: "mask", "box" or "boundary".
        max_detections: how many detections of an image count over all classes, best first.
        threads: how many work on it.

    Raises:
        ValueError: on input that lacks something or does not fit together, with its name.

    >>> image = {"id": 7, "neg_category_ids": [2], "not_exhaustive_category_ids": []}
    >>> names = [{"id": k, "name": n, "frequency": f} for k, n, f in ((1, "cat", "f"), (2, "newt", "r"))]
    >>> instance = {"image_id": 7, "category_id": 1, "bbox": [2.0, 2.0, 10.0, 10.0], "area": 100.0}
    >>> truth = {"images": [image], "annotations": [instance], "categories": names}
    >>> scores = lvis_evaluate(truth, [dict(instance, score=0.9)], "box")
    >>> round(scores.as_dict()["AP_f"], 3), scores.as_dict()["AP_r"]
    (1.0, nan)
    """
    if not isinstance(ground_truth, LvisGroundTruth):
        ground_truth = LvisGroundTruth.read(ground_truth, kind)
    truth = ground_truth.coco
    if truth.kind != kind:
        raise ValueError(f"the ground truth was made ready for kind {truth.kind!r}, got {kind!r}")
    curves = evaluate(
        truth.targets,
        ground_truth.detections(detections, max_detections),
        len(truth.class_names),
        (max_detections,),
        tuple(AREA_RANGES.values()),
        threads=threads,
    )
    scores = CocoScores(kind, truth.class_names, curves, (max_detections,), AREA_RANGES)
    return LvisScores(scores, ground_truth.frequency)


def _pairs(coco: CocoGroundTruth, images: Sequence[Json], field: str) -> Int64[np.ndarray, " p"]:
    """Pairs, image * k + class, of the classes that each image lists under `field`."""
    k = len(coco.class_names)
    return np.array(
        [coco.images[image["id"]] * k + coco.class_ids[label] for image in images for label in image[field]],
        np.int64,
    )
