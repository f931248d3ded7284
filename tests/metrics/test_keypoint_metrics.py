"""Metrics of key points: as pycocotools on the same sets, whatever process saw them."""

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

from pixelwise.metrics import KeypointMetrics
from pixelwise.types import ClassTable, Keypoints, Skeleton

SIGMAS = (0.03, 0.05, 0.08, 0.1)
CLASSES = ClassTable(("cat",), ((9, 9, 9),), skeleton=Skeleton(tuple("abcd"), sigmas=SIGMAS))
Image = tuple[str, Keypoints, Keypoints]


def keypoints(points: np.ndarray, visible: np.ndarray, **others: np.ndarray) -> Keypoints:
    low, high = points.min(1, initial=1e9), points.max(1, initial=-1e9)
    given = {
        "scores": np.ones(len(points)),
        "areas": (high - low).prod(1) / 2,
        "boxes": np.concatenate([low, high], 1),
        "is_crowd": np.zeros(len(points), bool),
        **others,
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in given.items()}
    return Keypoints(torch.from_numpy(points), torch.from_numpy(visible), **tensors)


def images(count: int = 12, seed: int = 0) -> list[Image]:
    """Objects and noisy copies; crowds, objects without a visible joint, images without anything."""
    random = np.random.default_rng(seed)
    seen: list[Image] = []
    for number in range(count):
        n = 0 if number == 3 else int(random.integers(1, 6))
        size = random.choice([25, 60, 150], n)[:, None, None]
        points = random.uniform(0, 1, (n, 4, 2)) * size + random.uniform(0, 300, (n, 1, 2))
        visible = random.integers(0, 3, (n, 4)).astype(float)
        copies = random.integers(0, n, 2 * n) if n else np.zeros(0, int)
        noise = random.normal(0, 1, (len(copies), 4, 2)) * random.choice([1, 4, 15], (len(copies), 1, 1))
        scores = random.integers(1, 9, len(copies)) / 8
        found = keypoints(points[copies] + noise, np.ones((len(copies), 4)), scores=scores)
        there = keypoints(points, visible, is_crowd=random.random(n) < 0.15)
        seen.append((f"image {number:02}", found, there))
    return seen


def reference(seen: list[Image]) -> np.ndarray:
    category = {"id": 1, "name": "cat"}
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": [category], "info": {}}
    results = []
    for number, (_, found, there) in enumerate(seen):
        truth["images"].append({"id": number, "height": 500, "width": 500})
        for i in range(len(there)):
            x1, y1, x2, y2 = there.boxes[i].tolist()
            triples = torch.cat([there.points[i], there.visible[i, :, None]], 1)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "keypoints": triples.flatten().tolist(),
                    "num_keypoints": int((there.visible[i] > 0).sum()),
                    "area": there.areas[i].item(),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "iscrowd": int(there.is_crowd[i]),
                }
            )
        for i in range(len(found)):
            triples = torch.cat([found.points[i], found.visible[i, :, None]], 1).flatten().tolist()
            score = found.scores[i].item()
            results.append({"image_id": number, "category_id": 1, "keypoints": triples, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = truth
        ground.createIndex()
        evaluation = COCOeval(ground, ground.loadRes(results), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(SIGMAS)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_pycocotools(seed: int) -> None:
    seen = images(seed=seed)
    metrics = KeypointMetrics(CLASSES)
    for _, found, there in seen:
        metrics.update(found, there)
    stats = reference(seen)
    assert 0.05 < stats[0] < 0.95
    np.testing.assert_allclose(metrics.compute().stats, stats, atol=1e-12)


def test_the_order_of_named_images_is_no_matter_and_doubles_count_once() -> None:
    seen = images()
    straight, mixed = KeypointMetrics(CLASSES), KeypointMetrics(CLASSES)
    for name, found, there in seen:
        straight.update(found, there, name)
    for name, found, there in [*seen[::-1], seen[4]]:
        mixed.update(found, there, name)
    assert (mixed.compute().stats == straight.compute().stats).all()


def test_it_starts_anew_after_a_reset() -> None:
    metrics = KeypointMetrics(CLASSES)
    for _, found, there in images():
        metrics.update(found, there)
    metrics.reset()
    nothing = keypoints(np.zeros((0, 4, 2)), np.zeros((0, 4)))
    metrics.update(nothing, nothing)
    assert np.isnan(metrics.compute().ap)


def test_a_perfect_prediction_scores_one() -> None:
    _, _, there = images(1)[0]
    metrics = KeypointMetrics(CLASSES)
    metrics.update(there, there)
    assert metrics.compute().ap == pytest.approx(1)


def test_joints_without_sigmas_count_alike() -> None:
    plain = ClassTable(("cat",), ((9, 9, 9),), skeleton=Skeleton(tuple("abcd")))
    even = ClassTable(("cat",), ((9, 9, 9),), skeleton=Skeleton(tuple("abcd"), sigmas=(0.05,) * 4))
    first, second = KeypointMetrics(plain), KeypointMetrics(even)
    for _, found, there in images():
        first.update(found, there)
        second.update(found, there)
    assert (first.compute().stats == second.compute().stats).all()


def test_what_does_not_fit_is_named() -> None:
    _, _, there = images(1)[0]
    with pytest.raises(ValueError, match="need a class table with a skeleton"):
        KeypointMetrics(ClassTable.of("cat"))
    with pytest.raises(ValueError, match="max_detections must be at least 1, got 0"):
        KeypointMetrics(CLASSES, 0)
    other = keypoints(np.random.default_rng(0).random((1, 3, 2)), np.ones((1, 3)))
    with pytest.raises(ValueError, match="prediction has 3 joints, the skeleton 4, in b"):
        KeypointMetrics(CLASSES).update(other, there, "b")


# --- several processes ----------------------------------------------------------------------------


def one_of_two(rank: int, port: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    metrics = KeypointMetrics(CLASSES)
    # Rank 1 sees one image only, and one that rank 0 has seen too.
    for name, found, there in images()[:-1] if rank == 0 else images()[-2:]:
        metrics.update(found, there, name)
    stats = metrics.compute().stats
    torch.distributed.destroy_process_group()
    np.save(Path(folder) / f"{rank}.npy", stats)


@pytest.mark.slow
def test_two_processes_score_what_one_scores(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(one_of_two, (port, str(tmp_path)), nprocs=2)
    alone = KeypointMetrics(CLASSES)
    for name, found, there in images():
        alone.update(found, there, name)
    for rank in range(2):
        assert (np.load(tmp_path / f"{rank}.npy") == alone.compute().stats).all()
