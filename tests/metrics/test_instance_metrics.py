"""Instance metrics of mask sets: as pycocotools on the same masks, whatever process saw them."""

import contextlib
import io
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import multiprocessing

from pixelwise.metrics.coco.evaluate import coco_evaluate
from pixelwise.metrics.coco.instance import InstanceMetrics
from pixelwise.rle import RleMasks
from pixelwise.types import ClassTable, MaskSet

CLASSES = ClassTable.of("background", "cell", "nucleus", "debris")
Image = tuple[str, MaskSet, MaskSet]


def images(count: int = 10) -> list[Image]:
    """Rectangles and their moved copies on images of two sizes; crowds; one image without anything."""
    random = np.random.default_rng(0)
    seen: list[Image] = []
    for number in range(count):
        height, width = (70, 60) if number % 2 else (60, 90)
        n = 0 if number == 3 else int(random.integers(1, 6))
        target = torch.zeros(n, height, width, dtype=torch.bool)
        for mask in target:
            y, x = (int(v) for v in random.integers(0, 30, 2))
            mask[y : y + int(random.integers(5, 35)), x : x + int(random.integers(5, 35))] = True
        labels = torch.from_numpy(random.integers(1, 3, n))
        copies = torch.from_numpy(random.integers(0, n, 2 * n)) if n else torch.zeros(0, dtype=torch.long)
        prediction = torch.stack(
            [target[i].roll(tuple(random.integers(-2, 3, 2).tolist()), (0, 1)) for i in copies]
        ) if n else target  # fmt: skip
        scores = torch.from_numpy(random.integers(1, 9, 2 * n) / 8)
        crowd = torch.from_numpy(random.random(n) < 0.2)
        seen.append(
            (
                f"image {number:02}",
                MaskSet.of(prediction, labels[copies], scores),
                MaskSet.of(target, labels, is_crowd=crowd),
            )
        )
    return seen


def as_coco(seen: list[Image], boxes: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": k} for k in range(4)]}
    results = []
    for number, (_, prediction, target) in enumerate(seen):
        height, width = target.masks.shape[1:]
        truth["images"].append({"id": number, "height": height, "width": width})
        there, found = RleMasks.encode(target.masks), RleMasks.encode(prediction.masks)
        for i, mask in enumerate(there.to_coco()):
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": number,
                    "category_id": int(target.classes[i]),
                    "iscrowd": int(target.is_crowd[i]),
                    "area": float(there.area[i]),
                    "bbox": there.boxes[i].tolist(),
                    "segmentation": mask,
                }
            )
        for i, mask in enumerate(found.to_coco()):
            result = {"image_id": number, "category_id": int(prediction.classes[i]), "segmentation": mask}
            result["score"] = float(prediction.scores[i])
            results.append({**result, "bbox": found.boxes[i].tolist()} if boxes else result)
    return truth, results


def scored(seen: list[Image], kind: Any = "mask", named: bool = True) -> np.ndarray:
    metrics = InstanceMetrics(CLASSES, kind)
    for name, prediction, target in seen:
        metrics.update(prediction, target, name if named else "")
    return metrics.compute().precision


@pytest.mark.parametrize("kind", ("mask", "box"))
def test_scores_are_those_of_pycocotools(kind: Any) -> None:
    seen = images()
    metrics = InstanceMetrics(CLASSES, kind)
    for _, prediction, target in seen:
        metrics.update(prediction, target)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset, results = as_coco(seen, boxes=kind == "box")
        coco.createIndex()
        theirs = COCOeval(coco, coco.loadRes(results), {"mask": "segm", "box": "bbox"}[kind])
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    scores = metrics.compute()
    np.testing.assert_array_equal(scores.precision, theirs.eval["precision"])
    np.testing.assert_array_equal(scores.recall, theirs.eval["recall"])
    np.testing.assert_array_equal(scores.stats, theirs.stats)
    assert scores.class_names == CLASSES.names


def test_boundaries_are_those_of_the_functional_form() -> None:
    expected = coco_evaluate(*as_coco(images(), boxes=False), "boundary")
    np.testing.assert_array_equal(scored(images(), "boundary"), expected.precision)


def test_a_perfect_prediction_scores_one_and_classes_are_kept_apart() -> None:
    _, _, target = images()[0]
    target = MaskSet.of(target.masks, target.classes)
    metrics = InstanceMetrics(CLASSES)
    metrics.update(target, target)
    assert metrics.compute().ap == pytest.approx(1)
    metrics.reset()
    metrics.update(MaskSet.of(target.masks, torch.full_like(target.classes, 3)), target)
    assert metrics.compute().ap == 0


def test_names_fix_the_order_and_leave_doubles_out() -> None:
    seen = images()
    expected = scored(seen)
    np.testing.assert_array_equal(scored(seen[::-1]), expected)
    np.testing.assert_array_equal(scored([*seen[5:], *seen, seen[0]]), expected)
    assert not np.array_equal(scored([*seen, *seen[:5]], named=False), expected)


def test_images_without_anything_score_nan() -> None:
    metrics = InstanceMetrics(CLASSES)
    _, prediction, target = images()[3]  # no mask in either
    metrics.update(prediction, target)
    assert np.isnan(metrics.compute().ap)


def test_forward_scores_one_image_and_keeps_all() -> None:
    seen = images(4)
    metrics = InstanceMetrics(CLASSES)
    each = [metrics(prediction, target, name) for name, prediction, target in seen]
    np.testing.assert_array_equal(each[1].precision, scored(seen[1:2]))
    np.testing.assert_array_equal(metrics.compute().precision, scored(seen))
    metrics.reset()
    assert sum(len(part) for part in metrics.images) == 0


def test_input_that_does_not_fit_is_named() -> None:
    name, prediction, target = images()[0]
    metrics = InstanceMetrics(CLASSES)
    wrong = MaskSet.of(target.masks, torch.full_like(target.classes, 4))
    with pytest.raises(ValueError, match="target holds the class 4 in image 00, outside the table of 4"):
        metrics.update(prediction, wrong, name)
    with pytest.raises(ValueError, match="masks of one size, got \\(60, 90\\) and \\(70, 60\\)"):
        metrics.update(prediction, images()[1][2])
    metrics.update(prediction, target, name)
    metrics.update(prediction, target)
    with pytest.raises(ValueError, match="a name or none"):
        metrics.compute()
    with pytest.raises(ValueError, match="max_detections"):
        InstanceMetrics(CLASSES, max_detections=(0,))


@pytest.mark.compile
def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="kind must be mask, box or boundary"):
        InstanceMetrics(CLASSES, "segm")  # type: ignore[arg-type]


# --- several processes --------------------------------------------------------------------------------------


def one_of_two(rank: int, port: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    metrics = InstanceMetrics(CLASSES)
    seen = images()
    for name, prediction, target in ([], [*seen, seen[0]])[rank]:  # the first has nothing
        metrics.update(prediction, target, name)
    torch.save(torch.from_numpy(metrics.compute().precision), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_score_what_one_scores(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(one_of_two, (port, str(tmp_path)), nprocs=2)
    expected = scored(images())
    for rank in range(2):
        precision = torch.load(tmp_path / f"{rank}.pt", weights_only=True).numpy()
        np.testing.assert_array_equal(precision, expected)
