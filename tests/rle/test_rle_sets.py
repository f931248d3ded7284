"""IoU, merging and suppression of masks beside pycocotools; complements."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from pycocotools import mask as pycocotools

from pixelwise.rle import RleMasks

few = settings(max_examples=80, deadline=None)
seeds, sides = st.integers(0, 2**32 - 1), st.integers(1, 220)


def as_bytes(masks: RleMasks) -> list[dict[str, Any]]:
    return [{**rle, "counts": rle["counts"].encode()} for rle in masks.to_coco()]


@few
@given(seed=seeds, height=sides, width=sides)
def test_the_iou_is_that_of_pycocotools_to_the_last_bit(some_masks, seed, height, width) -> None:
    ours = RleMasks.encode(some_masks(seed, 4, height, width))
    other = RleMasks.encode(some_masks(seed + 1, 3, height, width))
    crowd = np.random.default_rng(seed).random(3) < 0.5
    expected = pycocotools.iou(as_bytes(ours), as_bytes(other), crowd.astype(np.uint8))
    assert np.array_equal(ours.iou(other, crowd), expected)
    assert np.array_equal(ours.iou(other), pycocotools.iou(as_bytes(ours), as_bytes(other), [0, 0, 0]))


def test_the_iou_is_that_of_dense_masks_and_one_with_itself() -> None:
    random = np.random.default_rng(0)
    dense = random.random((6, 130, 70)) < random.random((6, 1, 1))
    masks = RleMasks.encode(dense)
    flat = dense.reshape(6, -1).astype(int)
    shared = flat @ flat.T
    area = flat.sum(1)
    assert np.array_equal(masks.iou(masks), shared / (area[:, None] + area - shared))
    assert np.array_equal(masks.iou(masks, np.ones(6, bool)), shared / area[:, None])
    assert masks.iou(masks).diagonal().tolist() == [1] * 6


def test_masks_that_share_nothing_and_empty_ones_have_an_iou_of_zero() -> None:
    dense = np.zeros((3, 100, 100), bool)
    dense[0, :10], dense[1, 90:] = True, True
    masks = RleMasks.encode(dense)
    assert masks.iou(masks).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_crowds_go_with_the_masks() -> None:
    masks = RleMasks.encode(np.ones((2, 3, 3), bool))
    with pytest.raises(ValueError, match="one value for each of 2 masks"):
        masks.iou(masks, np.zeros(3, bool))


@few
@given(seed=seeds, height=sides, width=sides, n=st.integers(1, 6))
def test_merging_gives_the_strings_of_pycocotools(some_masks, seed, height, width, n) -> None:
    masks = RleMasks.encode(some_masks(seed, n, height, width))
    for intersect in False, True:
        expected = pycocotools.merge(as_bytes(masks), intersect=intersect)
        assert as_bytes(masks.merge(intersect=intersect)) == [expected]


def test_a_union_and_an_intersection_are_those_of_dense_masks() -> None:
    dense = np.random.default_rng(0).random((3, 40, 90)) < 0.7
    masks = RleMasks.encode(dense)
    assert np.array_equal(masks.merge().decode()[0], dense.any(0))
    assert np.array_equal(masks.merge(intersect=True).decode()[0], dense.all(0))
    assert np.array_equal(masks.complement().decode(), ~dense)


@few
@given(seed=seeds, threshold=st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_suppression_keeps_what_the_rule_keeps(some_masks, seed, threshold) -> None:
    masks = RleMasks.encode(some_masks(seed, 8, 30, 40))
    iou = masks.iou(masks)
    kept: list[int] = []
    for i in range(8):
        if all(iou[i, k] <= threshold for k in kept):
            kept.append(i)
    assert masks.non_maximum_suppression(threshold).tolist() == kept


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (17, 23), (0, 4), (3, 0)])
def test_masks_of_a_map_are_those_of_each_of_its_numbers(shape: tuple[int, int]) -> None:
    chance = np.random.default_rng(3)
    for dtype in (np.int64, np.uint8, np.int32, np.uint16):
        for highest in (1, 2, 6):
            numbers = chance.integers(0, highest, shape).astype(dtype)
            ids = chance.permutation(8).tolist()
            alone = [RleMasks.encode((numbers == number)[None]) for number in ids]
            together = RleMasks.from_map(numbers, ids)
            assert together.to_coco() == RleMasks.concatenate(alone).to_coco()
            assert np.array_equal(together.counts, RleMasks.concatenate(alone).counts)
    assert len(RleMasks.from_map(np.zeros(shape, np.int64), [])) == 0


def test_negative_numbers_and_numbers_beyond_all_ids_are_in_no_mask() -> None:
    numbers = np.array([[-3, -1, 0], [5, 99, -1]])
    assert RleMasks.from_map(numbers, [5, -1]).area.tolist() == [1, 2]
    assert RleMasks.from_map(np.array([[255, 1]], np.uint8), [1]).area.tolist() == [1]
    with pytest.raises(ValueError, match="must differ"):
        RleMasks.from_map(numbers, [1, 1])
