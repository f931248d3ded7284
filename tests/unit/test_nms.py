"""Suppression against loops that say what the papers say."""

import math

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from pixelwise.ops import fast_nms, mask_iou, mask_nms, matrix_nms, non_maximum_suppression, soft_nms
from pixelwise.rle import RleMasks

SEEDS = range(4)


def scene(seed: int, n: int = 30) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes in a crowd, scores of which some are equal, and classes."""
    random = torch.Generator().manual_seed(seed)
    corner = 20 * torch.rand(n, 2, generator=random)
    boxes = torch.cat([corner, corner + 4 + 10 * torch.rand(n, 2, generator=random)], 1).double()
    scores = torch.randint(1, 20, (n,), generator=random).double() / 20
    return boxes, scores, torch.randint(0, 3, (n,), generator=random)


def masks_of(boxes: torch.Tensor, seed: int) -> torch.Tensor:
    """Parts of boxes in an image of 36 x 36."""
    masks = torch.zeros(len(boxes), 36, 36, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    return masks & (torch.rand(masks.shape, generator=torch.Generator().manual_seed(seed)) < 0.9)


def iou_of(a: list[float], b: list[float]) -> float:
    across = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    sizes = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return across * down / (sizes - across * down)


def mask_iou_of(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a & b).sum().item() / max((a | b).sum().item(), 1)


def ranked(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


def plain_soft_nms(boxes, scores, classes, decay, threshold, sigma, least):
    left = dict(enumerate(scores))
    found = []
    while left:
        best = min(left, key=lambda i: (-left[i], i))
        score = left.pop(best)
        if score < least:
            break
        found.append((best, score))
        for i in left:
            iou = iou_of(boxes[best], boxes[i]) if classes[best] == classes[i] else 0.0
            if decay == "gaussian":
                left[i] *= math.exp(-(iou**2) / sigma)
            elif iou >= threshold:
                left[i] *= 1 - iou
    return found


def plain_matrix_nms(iou, scores, decay, sigma):
    def f(x: float) -> float:
        return 1 - x if decay == "linear" else math.exp(-(x**2) / sigma)

    order, found = ranked(scores), list(scores)
    for place, j in enumerate(order):
        factors = []
        for other, i in enumerate(order[:place]):
            of_i = max((iou[k][i] for k in order[:other]), default=0.0)
            factors.append(f(iou[i][j]) / f(of_i))
        found[j] *= min(factors, default=1.0)
        found[j] = min(found[j], scores[j])
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("decay", ["linear", "gaussian"])
@pytest.mark.parametrize("aware", [True, False])
def test_soft_nms_is_algorithm_1_of_its_paper(seed: int, decay, aware: bool) -> None:
    boxes, scores, classes = scene(seed)
    found = soft_nms(
        boxes, scores, classes if aware else None, decay=decay, threshold=0.2, sigma=0.4, min_score=0.05
    )
    groups = classes.tolist() if aware else [0] * len(boxes)
    expected = plain_soft_nms(boxes.tolist(), scores.tolist(), groups, decay, 0.2, 0.4, 0.05)
    assert 5 < len(expected) < len(boxes), "the scene shows what is dropped"
    assert found.kept.tolist() == [i for i, _ in expected]
    torch.testing.assert_close(found.scores, torch.tensor([s for _, s in expected]).double())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("aware", [True, False])
def test_fast_nms_drops_what_any_better_box_overlaps(seed: int, aware: bool) -> None:
    boxes, scores, classes = scene(seed)
    groups = classes.tolist() if aware else [0] * len(boxes)
    order, expected = ranked(scores.tolist()), []
    for place, j in enumerate(order):
        better = [i for i in order[:place] if groups[i] == groups[j]]
        if all(iou_of(boxes[i].tolist(), boxes[j].tolist()) <= 0.3 for i in better):
            expected.append(j)
    found = fast_nms(boxes, scores, classes if aware else None, threshold=0.3)
    assert found.tolist() == expected
    greedy = (
        batched_nms(boxes, scores, classes, 0.3) if aware else non_maximum_suppression(boxes, scores, 0.3)
    )
    assert set(expected) <= set(greedy.tolist()), "the greedy rule keeps what this one keeps"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("decay", ["linear", "gaussian"])
@pytest.mark.parametrize("aware", [True, False])
def test_matrix_nms_takes_the_worst_decay_of_the_better_masks(seed: int, decay, aware: bool) -> None:
    boxes, scores, classes = scene(seed)
    masks = masks_of(boxes, seed)
    groups = classes if aware else torch.zeros_like(classes)
    iou = [
        [mask_iou_of(a, b) * bool(groups[i] == groups[j]) for j, b in enumerate(masks)]
        for i, a in enumerate(masks)
    ]
    expected = plain_matrix_nms(iou, scores.tolist(), decay, 0.5)
    for given in (masks, RleMasks.encode(masks)):
        found = matrix_nms(given, scores, classes if aware else None, decay=decay)
        torch.testing.assert_close(found, torch.tensor(expected).double(), atol=1e-6, rtol=1e-6)
    assert (found < scores).any()
    assert (found == scores).any()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("aware", [True, False])
def test_nms_of_masks_is_the_greedy_rule(seed: int, aware: bool) -> None:
    boxes, scores, classes = scene(seed)
    masks = masks_of(boxes, seed)
    groups = classes.tolist() if aware else [0] * len(boxes)
    expected: list[int] = []
    for j in ranked(scores.tolist()):
        if all(groups[i] != groups[j] or mask_iou_of(masks[i], masks[j]) <= 0.3 for i in expected):
            expected.append(j)
    found = mask_nms(RleMasks.encode(masks), scores, classes if aware else None, threshold=0.3)
    assert found.tolist() == expected
    assert len(expected) < len(boxes)


def test_masks_compared_by_matrix_product_have_the_iou_of_run_lengths() -> None:
    boxes, _, _ = scene(9)
    masks = masks_of(boxes, 9)
    masks[3] = False
    rle = RleMasks.encode(masks)
    np.testing.assert_allclose(mask_iou(masks).numpy(), rle.iou(rle), rtol=1e-6)


@pytest.mark.parametrize("classes", [None, torch.zeros(0, dtype=torch.int64)])
def test_nothing_stays_nothing(classes: torch.Tensor | None) -> None:
    boxes, scores, masks = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, 5, 5, dtype=torch.bool)
    assert len(soft_nms(boxes, scores, classes).kept) == 0
    assert len(fast_nms(boxes, scores, classes)) == 0
    assert len(matrix_nms(masks, scores, classes)) == 0
    assert len(mask_nms(RleMasks.encode(masks), scores, classes)) == 0


def test_copies_of_a_mask_lose_all_score_and_boxes_without_area_harm_nobody() -> None:
    masks = torch.ones(3, 2, 2, dtype=torch.bool)
    assert matrix_nms(masks, torch.tensor([0.3, 0.9, 0.5]), decay="linear").tolist() == [
        0,
        pytest.approx(0.9),
        0,
    ]
    boxes = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 2, 2]])
    assert fast_nms(boxes, torch.tensor([0.9, 0.8, 0.7])).tolist() == [0, 1, 2]
    assert soft_nms(boxes, torch.tensor([0.9, 0.8, 0.7])).scores.tolist() == pytest.approx([0.9, 0.8, 0.7])


@pytest.mark.parametrize("settings", [{"decay": "cubic"}, {"sigma": 0.0}])
def test_settings_that_are_none_are_named(settings) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        soft_nms(torch.zeros(1, 4), torch.ones(1), **settings)
    with pytest.raises(ValueError, match=next(iter(settings))):
        matrix_nms(torch.ones(1, 2, 2).bool(), torch.ones(1), **settings)
