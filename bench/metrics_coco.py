"""COCO AP against its peers, and boundary IoU; the numbers are equal before anything is timed.

    python bench/metrics_coco.py [rounds] [threads]

500 images of about 480 x 640 pixels and 20 sizes, annotated by polygons of 80 classes; 10,000 detections as
compressed run lengths.
"""

import contextlib
import io
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from side_by_side import compare, peer

from pixelwise.metrics.coco.boundary_iou import boundary_iou, boundary_iou_per_class
from pixelwise.metrics.coco.evaluate import coco_evaluate
from pixelwise.metrics.coco.files import CocoGroundTruth
from pixelwise.rle import RleMasks

Json = dict[str, Any]


def outline(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A wobbly blob of 20 to 60 corners."""
    corners = int(random.integers(20, 60))
    angle = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    radius = math.exp(random.uniform(math.log(8), math.log(0.35 * height)))
    wobble = radius * (1 + 0.25 * np.sin(random.integers(2, 6) * angle + random.uniform(0, 6)))
    wobble *= random.uniform(0.9, 1.1, corners)
    center = random.uniform((0, 0), (width, height))
    points = center + wobble[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return points.clip(0, (width, height))


def data_set(images: int, found: int, seed: int = 0) -> tuple[Json, list[Json]]:
    """Ground truth and detections: polygons, their moved copies, and some that are nowhere."""
    random = np.random.default_rng(seed)
    truth: Json = {
        "images": [],
        "annotations": [],
        "categories": [{"id": k, "name": str(k)} for k in range(1, 81)],
    }
    results: list[Json] = []
    for number in range(1, images + 1):
        height, width = ((480, 640 - number % 20), (640 - number % 20, 480))[number % 2]
        truth["images"].append({"id": number, "height": height, "width": width})
        labels = random.integers(1, 81, 3)
        drawn = []
        for _ in range(7):
            points = outline(random, height, width)
            drawn.append((int(random.choice(labels)), points))
        masks = RleMasks.from_polygons([[points.ravel().tolist()] for _, points in drawn], height, width)
        for (label, points), area, box in zip(drawn, masks.area.tolist(), masks.boxes.tolist(), strict=True):
            thing = {
                "id": len(truth["annotations"]) + 1,
                "image_id": number,
                "category_id": label,
                "iscrowd": 0,
                "area": float(area),
                "bbox": box,
                "segmentation": [points.ravel().round(2).tolist()],
            }
            truth["annotations"].append(thing)
        shapes, labels_found = [], []
        for n in range(found // images):
            label, points = drawn[n % 7]
            if n < 14:
                points = points * random.uniform(0.95, 1.05) + random.normal(0, 3, 2)
            else:
                label, points = int(random.integers(1, 81)), outline(random, height, width)
            shapes.append([points.ravel().tolist()])
            labels_found.append(label)
        coded = RleMasks.from_polygons(shapes, height, width).to_coco()
        for label, mask in zip(labels_found, coded, strict=True):
            score = round(float(random.random()), 3)
            results.append({"image_id": number, "category_id": label, "segmentation": mask, "score": score})
    return truth, results


def quiet(work: Callable[[], Any]) -> Callable[[], Any]:
    def silent() -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            return work()

    return silent


def fresh(truth: Json, results: list[Json]) -> tuple[Json, list[Json]]:
    """Copies one level deep, since pycocotools writes into what it is given; a few of its milliseconds."""
    annotations = [dict(annotation) for annotation in truth["annotations"]]
    return {**truth, "annotations": annotations}, [dict(result) for result in results]


def official(truth: Json, results: list[Json]) -> Callable[[], Any] | None:
    coco, evaluation = peer("pycocotools.coco"), peer("pycocotools.cocoeval")
    if coco is None or evaluation is None:
        return None

    def work() -> Any:
        gt = coco.COCO()
        gt.dataset, found = fresh(truth, results)
        gt.createIndex()
        e = evaluation.COCOeval(gt, gt.loadRes(found), "segm")
        e.evaluate()
        e.accumulate()
        e.summarize()
        return e.stats

    return quiet(work)


def faster(truth: Json, results: list[Json]) -> Callable[[], Any] | None:
    module = peer("faster_coco_eval")
    if module is None:
        return None

    def work() -> Any:
        given, found = fresh(truth, results)
        gt = module.COCO(given)
        e = module.COCOeval_faster(gt, gt.loadRes(found), "segm", print_function=lambda *_: None)
        e.run()
        return e.stats

    return quiet(work)


def rust(truth: Json, results: list[Json], cached: bool) -> Callable[[], Any] | None:
    module = peer("hotcoco")
    if module is None:
        return None
    ready = module.COCO(truth) if cached else None

    def work() -> Any:
        gt = ready or module.COCO(truth)
        e = module.COCOeval(gt, gt.load_res(results), "segm")
        e.evaluate()
        e.accumulate()
        e.summarize()
        return e.stats

    return quiet(work)


def average_precision(rounds: int, threads: int) -> None:
    truth, results = data_set(500, 10_000)
    ready = CocoGroundTruth.read(truth, "mask")
    ways: dict[str, Callable[[], Any] | None] = {
        "ours": lambda: coco_evaluate(truth, results, threads=threads),
        "pycocotools": official(truth, results),
        "faster-coco-eval": faster(truth, results),
        "hotcoco": rust(truth, results, False),
    }
    for name, way in ways.items():
        if way is not None and name != "ours":
            theirs = np.array(way())[:12]
            assert np.allclose(coco_evaluate(truth, results).stats, theirs, rtol=0, atol=1e-12), name
    compare(
        "COCO mask AP, 500 images, 10,000 detections, from dictionaries",
        ways,
        target="at least 12x pycocotools, 1.1x hotcoco",
        rounds=rounds,
        threads=threads,
    )
    compare(
        "the same, ground truth ready",
        {
            "ours": lambda: coco_evaluate(ready, results, threads=threads),
            "hotcoco": rust(truth, results, True),
        },
        target="at least 1.5x hotcoco",
        rounds=rounds,
        threads=threads,
    )


def theirs_boundary(mask: np.ndarray) -> np.ndarray:
    """What boundary-iou-api does, with OpenCV."""
    import cv2

    height, width = mask.shape
    radius = max(1, round(0.02 * math.hypot(height, width)))
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=radius)
    return mask - eroded[1:-1, 1:-1]


def theirs_iou(prediction: np.ndarray, target: np.ndarray) -> float:
    one, other = theirs_boundary(prediction.view(np.uint8)), theirs_boundary(target.view(np.uint8))
    return ((one * other) > 0).sum() / max(((one + other) > 0).sum(), 1)


def boundaries(rounds: int) -> None:
    random = np.random.default_rng(0)
    shapes = [[outline(random, 512, 512).ravel().tolist()] for _ in range(32)]
    masks = RleMasks.from_polygons(shapes, 512, 512).decode()
    moved = np.roll(masks, 3, 2)
    labels = np.zeros((1024, 2048), np.uint8)
    for number in range(120):
        mask = RleMasks.from_polygons([[outline(random, 1024, 2048).ravel().tolist()]], 1024, 2048)
        labels[mask.decode()[0]] = number % 19
    guess = np.roll(labels, 4, 1)
    opencv = peer("cv2")

    def pairs() -> list[float]:
        return [theirs_iou(one, other) for one, other in zip(masks, moved, strict=True)]

    def per_class() -> list[float]:
        return [theirs_iou(guess == k, labels == k) for k in range(19)]

    if opencv is not None:
        opencv.setNumThreads(1)
        assert np.array_equal(boundary_iou(masks, moved), pairs())
        assert np.array_equal(boundary_iou_per_class(guess, labels, 19), per_class())
    compare(
        "boundary IoU, 32 pairs of 512 x 512",
        {"ours": lambda: boundary_iou(masks, moved), "as boundary-iou-api (cv2)": pairs if opencv else None},
        target="at least 8x",
        rounds=rounds,
    )
    compare(
        "boundary IoU per class, 1024 x 2048, 19 classes",
        {
            "ours": lambda: boundary_iou_per_class(guess, labels, 19),
            "class by class with cv2": per_class if opencv else None,
        },
        target="at least 3x",
        rounds=rounds,
    )


def main(rounds: int = 7, threads: int = 1) -> None:
    average_precision(rounds, threads)
    boundaries(rounds)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
