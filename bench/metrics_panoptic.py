"""Panoptic quality beside panopticapi and torchmetrics, from arrays of ids and COCO's segment tables.

    PYTHONPATH=<clone of cocodataset/panopticapi> python bench/metrics_panoptic.py

panopticapi is on no package index; its core reads files, so the bench hands it the arrays in their place.
"""

import contextlib
import io
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from side_by_side import compare, peer

from pixelwise.metrics.panoptic.panoptic_map import PanopticMap
from pixelwise.metrics.panoptic.quality import PanopticMetrics, PanopticScores
from pixelwise.types import ClassTable, voc_palette

NUM_CLASSES, NUM_THINGS = 20, 12
CLASSES = ClassTable(
    tuple(f"class {label}" for label in range(NUM_CLASSES)),
    voc_palette(NUM_CLASSES),
    things=tuple(range(NUM_THINGS)),
)
LABEL_OF = {label: label for label in range(NUM_CLASSES)}
Image = tuple[np.ndarray, list[dict[str, Any]], np.ndarray, list[dict[str, Any]]]


def scene(random: np.random.Generator, height: int, width: int, segments: int) -> Image:
    """Ellipses on a background, some void, some crowds; the prediction is shifted by a few pixels."""
    target = np.zeros((height, width), np.int32)
    y, x = np.ogrid[:height, :width]
    for number in range(1, segments + 1):
        a, b = random.integers(8, height // 8), random.integers(8, width // 8)
        inside = ((y - random.integers(height)) / a) ** 2 + ((x - random.integers(width)) / b) ** 2 < 1
        target[inside] = 0 if random.random() < 0.05 else 1009 * number
    prediction = np.roll(target, (2, 3), (0, 1))
    found, area = np.unique(target[target > 0], return_counts=True)
    class_of = {number: int(random.integers(NUM_CLASSES)) for number in found.tolist()}
    known = [
        {"id": number, "category_id": class_of[number], "area": size, "iscrowd": int(random.random() < 0.1)}
        for number, size in zip(found.tolist(), area.tolist(), strict=True)
    ]
    claimed = [
        {"id": number, "category_id": class_of[number]}
        for number in np.unique(prediction[prediction > 0]).tolist()
    ]
    return prediction, claimed, target, known


def maps(images: list[Image]) -> tuple[list[PanopticMap], list[PanopticMap]]:
    """Our form of the arrays and tables; panopticapi gets them as they are."""
    return (
        [PanopticMap.of_coco(prediction, claimed, LABEL_OF) for prediction, claimed, _, _ in images],
        [PanopticMap.of_coco(target, known, LABEL_OF) for _, _, target, known in images],
    )


def ours(predictions: list[PanopticMap], targets: list[PanopticMap]) -> PanopticScores:
    metrics = PanopticMetrics(CLASSES)
    metrics.update(predictions, targets)
    scores: PanopticScores = metrics.compute()
    return scores


def official(evaluation: ModuleType, images: list[Image]) -> Callable[[], Any]:
    """The core of panopticapi on arrays: what reads files and decodes colours gives the array itself."""
    arrays = {
        f"{kind}/{i}": image[2 * kind].astype(np.uint32) for i, image in enumerate(images) for kind in (0, 1)
    }
    evaluation.Image = type("Arrays", (), {"open": staticmethod(arrays.__getitem__)})  # type: ignore[attr-defined]
    evaluation.rgb2id = lambda ids: ids  # type: ignore[attr-defined]
    pairs = [
        (
            {"image_id": i, "file_name": str(i), "segments_info": known},
            {"image_id": i, "file_name": str(i), "segments_info": claimed},
        )
        for i, (_, claimed, _, known) in enumerate(images)
    ]
    categories = {label: {"isthing": int(label < NUM_THINGS)} for label in range(NUM_CLASSES)}

    def run() -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            return evaluation.pq_compute_single_core(0, pairs, "1", "0", categories)

    found = run()
    scores = ours(*maps(images))
    for label in range(NUM_CLASSES):
        count = found[label]
        assert count.iou == scores.iou[label].item()
        assert count.tp == scores.true_positives[label].item()
        assert count.fp == scores.false_positives[label].item()
        assert count.fn == scores.false_negatives[label].item()
    return run


def of_torchmetrics(images: list[Image]) -> Callable[[], Any]:
    """Its input is (class, instance) per pixel; it knows neither crowds nor COCO's void."""
    detection = peer("torchmetrics.detection")
    assert detection is not None

    def channels(ids: np.ndarray, table: list[dict[str, Any]]) -> torch.Tensor:
        label = np.full(ids.max() + 1, NUM_CLASSES)
        for segment in table:
            label[segment["id"]] = segment["category_id"]
        return torch.from_numpy(np.stack([label[ids], ids], -1))[None]

    things, stuffs = set(range(NUM_THINGS)), set(range(NUM_THINGS, NUM_CLASSES + 1))
    pairs = [(channels(p, claimed), channels(t, known)) for p, claimed, t, known in images]

    def run() -> Any:
        metric = detection.PanopticQuality(things, stuffs)
        for prediction, target in pairs:
            metric.update(prediction, target)
        return metric.compute()

    return run


def main(rounds: int = 7) -> None:
    random = np.random.default_rng(0)
    evaluation = peer("panopticapi.evaluation")
    for count, height, width, segments in ((16, 480, 640, 30), (4, 1024, 2048, 240)):
        images = [scene(random, height, width, segments) for _ in range(count)]
        kept = sum(len(known) for _, _, _, known in images) // count
        given = maps(images)
        title = f"PQ, {count} x {height} x {width}, about {kept} segments"
        compare(
            title,
            {
                "pixelwise": lambda given=given: ours(*given),  # type: ignore[misc]
                "panopticapi, core": official(evaluation, images) if evaluation else None,
            },
            target="at least 30x panopticapi",
            rounds=rounds,
        )
        # torchmetrics takes seconds for each image: once is enough.
        compare(
            title,
            {
                "pixelwise": lambda given=given: ours(*given),  # type: ignore[misc]
                "torchmetrics": of_torchmetrics(images),
            },
            target="at least 1,000x torchmetrics",
            rounds=1,
        )


if __name__ == "__main__":
    main()
