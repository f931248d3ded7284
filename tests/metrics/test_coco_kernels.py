"""The kernels of COCO's evaluation beside plain references."""

from itertools import pairwise

import numpy as np

from pixelwise.kernels.masks import matching
from pixelwise.metrics.coco.evaluate import match_reference, precision_reference
from pixelwise.metrics.coco.shapes import Boxes, Groups, Masks
from pixelwise.rle import RleMasks

GROUPS = Groups(np.array([0, 3, 3, 7]), np.array([0, 2, 5, 9]))  # the second has no detection


def pairs() -> list[tuple[int, int]]:
    starts = zip(GROUPS.detection_start, GROUPS.target_start, strict=True)
    return [(d, t) for (d0, t0), (d1, t1) in pairwise(starts) for d in range(d0, d1) for t in range(t0, t1)]


def test_pairs_of_groups_lie_one_row_per_detection() -> None:
    rows, columns = GROUPS.pairs()
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == pairs()
    assert GROUPS.pair_start.tolist() == [0, 6, 6, 22]


def test_pieces_for_threads_cover_all_groups_once() -> None:
    for threads in (1, 2, 5):
        pieces = Groups(GROUPS.detection_start, GROUPS.target_start, threads).pieces()
        assert [g for first, last in pieces for g in range(first, last)] == [0, 1, 2]
    assert Groups(np.array([0]), np.array([0]), 2).pieces() in ([], [(0, 0)])


def test_iou_of_masks_is_that_of_their_pixels() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        height, width = random.integers(1, 40, 2)
        dense = []
        for count in (7, 9):
            masks = np.zeros((count, height, width), bool)
            for mask in masks[1:]:
                y, x = random.integers(0, height), random.integers(0, width)
                mask[y : y + random.integers(1, 20), x : x + random.integers(1, 20)] = True
                mask &= random.random((height, width)) < random.choice([0.5, 1])
            dense.append(masks)
        found, there = (Masks.of([(np.arange(len(m)), RleMasks.encode(m))]) for m in dense)
        is_crowd = random.random(9) < 0.3
        for d, t, iou in zip(*GROUPS.pairs(), found.similarity(there, is_crowd, GROUPS), strict=True):
            both = (dense[0][d] & dense[1][t]).sum()
            either = dense[0][d].sum() if is_crowd[t] else (dense[0][d] | dense[1][t]).sum()
            assert iou == (both / either if both else 0)
        np.testing.assert_array_equal(found.area, dense[0].sum((1, 2)))
        np.testing.assert_array_equal(found.boxes().xywh, RleMasks.encode(dense[0]).boxes)


def test_iou_of_boxes_is_that_of_their_pixels() -> None:
    random = np.random.default_rng(0)
    boxes = [
        np.concatenate([random.integers(0, 9, (n, 2)), random.integers(0, 9, (n, 2))], 1) for n in (7, 9)
    ]
    painted = [
        [{(x, y) for x in range(b[0], b[0] + b[2]) for y in range(b[1], b[1] + b[3])} for b in part]
        for part in boxes
    ]
    is_crowd = random.random(9) < 0.3
    found, there = (Boxes(part.astype(float)) for part in boxes)
    for d, t, iou in zip(*GROUPS.pairs(), found.similarity(there, is_crowd, GROUPS), strict=True):
        one, other = painted[0][d], painted[1][t]
        assert iou == (len(one & other) / len(one if is_crowd[t] else one | other) if one & other else 0)


def test_matches_are_those_of_the_rules() -> None:
    random = np.random.default_rng(0)
    thresholds = np.array([0.5, 0.75, 1.0])
    for _ in range(200):
        similarity = random.integers(0, 9, GROUPS.pair_start[-1]) / 8  # many ties
        is_crowd, ignored = random.random(9) < 0.3, random.random((2, 9)) < 0.3
        ignored |= is_crowd
        ignored_alone = random.random((2, 7)) < 0.3
        outcome = np.empty((2, 3, 7), np.uint8)
        starts = (GROUPS.detection_start, GROUPS.target_start, GROUPS.pair_start)
        matching.match(0, 3, *starts, similarity, is_crowd, ignored, ignored_alone, thresholds, outcome)
        for g in (0, 2):
            d = slice(*GROUPS.detection_start[g : g + 2])
            t = slice(*GROUPS.target_start[g : g + 2])
            rows = similarity[slice(*GROUPS.pair_start[g : g + 2])].reshape(d.stop - d.start, -1)
            for a in range(2):
                for n, threshold in enumerate(thresholds):
                    expected = match_reference(
                        rows, is_crowd[t], ignored[a, t], ignored_alone[a, d], threshold
                    )
                    assert outcome[a, n, d].tolist() == expected


def test_curves_are_those_of_the_definition() -> None:
    random = np.random.default_rng(0)
    recalls = np.linspace(0, 1, 11)
    for _ in range(50):
        size = int(random.integers(0, 12))
        outcome = random.integers(0, 3, (1, 1, size)).astype(np.uint8)
        score = -np.sort(-random.random(size))
        targets = int((outcome == matching.RIGHT).sum() + random.integers(1, 4))
        precision, recall, scores = (
            np.full((1, 11, 1, 1, 1), -1.0),
            np.full((1, 1, 1, 1), -1.0),
            np.zeros((1, 11, 1, 1, 1)),
        )
        matching.accumulate(
            0, 1, np.array([0, size]), np.arange(size), np.zeros(size, np.int64), score, outcome,
            np.array([[targets]]), recalls, np.array([1]), precision, recall, scores,
        )  # fmt: skip
        expected = precision_reference(outcome[0, 0], targets, recalls)
        np.testing.assert_allclose(precision[0, :, 0, 0, 0], expected)
        right = np.cumsum(outcome[0, 0] == matching.RIGHT)
        for r, least in enumerate(recalls):
            reached = [n for n in range(size) if right[n] / targets >= least]
            assert scores[0, r, 0, 0, 0] == (score[reached[0]] if reached else 0)
        assert recall[0, 0, 0, 0] == (right[-1] / targets if size else 0)
