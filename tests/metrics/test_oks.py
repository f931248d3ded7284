"""Object keypoint similarity."""

import math

import numpy as np
import pytest

from pixelwise.metrics.coco.keypoint_similarity import COCO_SIGMAS, keypoint_similarity


def people(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    points = random.uniform(0, 100, (n, 17, 2))
    visible = random.integers(0, 3, (n, 17))
    boxes = np.concatenate([points.min(1), np.ptp(points, axis=1)], 1)
    return points, visible, boxes[:, 2] * boxes[:, 3] / 2, boxes


def test_similarity_is_that_of_the_formula() -> None:
    target, visible, area, boxes = people(6)
    visible[3] = 0
    prediction = people(4, 1)[0]
    ours = keypoint_similarity(prediction, target, visible, area, boxes)
    for i, points in enumerate(prediction):
        for j in range(6):
            x, y, w, h = boxes[j]
            terms = []
            for k, sigma in enumerate(COCO_SIGMAS):
                dx, dy = points[k] - target[j, k]
                if not visible[j].any():
                    dx = max(0, x - w - points[k, 0], points[k, 0] - x - 2 * w)
                    dy = max(0, y - h - points[k, 1], points[k, 1] - y - 2 * h)
                if visible[j, k] or not visible[j].any():
                    terms.append(math.exp(-(dx**2 + dy**2) / (2 * area[j] * (2 * sigma) ** 2)))
            assert ours[i, j] == pytest.approx(sum(terms) / len(terms), rel=1e-9)


def test_a_perfect_person_scores_one_and_a_far_one_zero() -> None:
    target, visible, area, boxes = people(3)
    assert np.diag(keypoint_similarity(target, target, visible, area, boxes)).tolist() == [1, 1, 1]
    assert keypoint_similarity(target + 1e4, target, visible, area, boxes).max() == 0


def test_hidden_keypoints_count_for_nothing() -> None:
    target, visible, area, boxes = people(1)
    moved = np.where(visible[..., None] > 0, target, target + 50)
    assert keypoint_similarity(moved, target, visible, area, boxes).item() == 1


def test_no_persons_give_an_empty_table() -> None:
    target, visible, area, boxes = people(2)
    assert keypoint_similarity(target[:0], target, visible, area, boxes).shape == (0, 2)
    assert keypoint_similarity(target, target[:0], visible[:0], area[:0], boxes[:0]).shape == (2, 0)


def test_other_sigmas_change_the_tolerance_and_must_fit() -> None:
    target, visible, area, boxes = people(1)
    strict, loose = (
        keypoint_similarity(target + 3, target, visible, area, boxes, (sigma,) * 17).item()
        for sigma in (0.01, 0.2)
    )
    assert strict < loose < 1
    with pytest.raises(ValueError, match="one number of keypoints, got 17, 17 and 5"):
        keypoint_similarity(target, target, visible, area, boxes, (0.1,) * 5)
