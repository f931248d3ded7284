"""Encoding, decoding, COCO's strings, and sets as sequences, beside pycocotools and NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as pycocotools

from pixelwise.rle import RleMasks

few = settings(max_examples=60, deadline=None)
shapes = st.tuples(st.integers(0, 4), st.integers(1, 90), st.integers(1, 90))
seeds = st.integers(0, 2**32 - 1)


def peer_rles(masks: np.ndarray) -> list[dict[str, Any]]:
    stacked = np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))
    return pycocotools.encode(stacked) if len(masks) else []


def strings(rles: list[dict[str, Any]]) -> list[str]:
    return [c.decode() if isinstance(c := rle["counts"], bytes) else c for rle in rles]


def plain_runs(mask: np.ndarray) -> list[int]:
    flat = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff([0, *changes, mask.size]).tolist()


def check_everything(masks: np.ndarray) -> None:
    height, width = masks.shape[1:]
    encoded = RleMasks.encode(masks)
    peers = peer_rles(masks)
    assert strings(encoded.to_coco()) == strings(peers)
    assert [one.counts.tolist() for one in encoded] == [plain_runs(mask) for mask in masks]
    assert RleMasks.encode(np.asfortranarray(masks.transpose(1, 2, 0)).transpose(2, 0, 1)) == encoded
    assert np.array_equal(encoded.decode(), masks)
    assert RleMasks.from_coco(peers, size=(height, width)) == encoded
    if len(masks):
        assert np.array_equal(encoded.area, pycocotools.area(peers))
        assert np.array_equal(encoded.boxes, pycocotools.toBbox(peers))


@few
@given(st.data(), shapes)
def test_masks_are_written_and_read_as_pycocotools_does(data, shape) -> None:
    check_everything(data.draw(arrays(np.bool_, shape)))


@few
@given(seed=seeds, n=st.integers(1, 3), height=st.integers(1, 300), width=st.integers(1, 300))
def test_masks_of_all_kinds_are_written_and_read_as_pycocotools_does(
    some_masks, seed, n, height, width
) -> None:
    check_everything(some_masks(seed, n, height, width))


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (1, 1), (64, 64), (65, 129), (1200, 900)])
@pytest.mark.parametrize("seed", range(4))
def test_masks_of_narrow_and_large_images_are_written_and_read(some_masks, shape, seed) -> None:
    check_everything(some_masks(seed, 2, *shape))


def test_empty_and_full_masks_have_one_and_two_runs() -> None:
    masks = RleMasks.encode(np.stack([np.zeros((3, 4), bool), np.ones((3, 4), bool)]))
    assert masks.counts.tolist() == [12, 0, 12]
    assert masks.offsets.tolist() == [0, 1, 3]
    assert masks.area.tolist() == [0, 12]
    assert masks.boxes.tolist() == [[0, 0, 0, 0], [0, 0, 4, 3]]


@pytest.mark.parametrize("shape", [(0, 5, 6), (0, 0, 0), (2, 0, 5), (2, 5, 0)])
def test_no_masks_and_masks_without_pixels_work_everywhere(shape) -> None:
    masks = RleMasks.encode(np.zeros(shape, np.uint8))
    n, height, width = shape
    assert len(masks) == n
    assert masks.decode().shape == shape
    assert RleMasks.from_coco(masks.to_coco(), size=(height, width)) == masks
    assert masks.area.tolist() == [0] * n
    assert masks.boxes.shape == (n, 4)
    assert masks.iou(masks).shape == (n, n)
    assert masks.merge().area.tolist() == [0]
    assert masks.merge(intersect=True).area.tolist() == [0 if n else height * width]
    assert masks.non_maximum_suppression(0.5).tolist() == list(range(n))
    assert masks.erode(1) == masks.boundary() == masks[:] == masks.complement().complement() == masks
    assert masks.polygons() == [[]] * n
    assert masks.crop(0, 0, width, height) == masks
    assert masks.resize(height, width) == masks
    assert RleMasks.concatenate([masks, masks]).decode().shape == (2 * n, height, width)
    assert RleMasks.from_polygons([], height, width) == masks[:0]
    assert RleMasks.from_boxes(np.zeros((0, 4)), height, width) == masks[:0]


def test_every_value_but_zero_is_set() -> None:
    mask = np.array([[[0, 3, 2], [255, 0, 1]]], np.uint8)
    assert RleMasks.encode(mask) == RleMasks.encode(mask != 0)
    columns = np.asfortranarray(mask[0])[None]
    assert RleMasks.encode(columns) == RleMasks.encode(mask != 0)


def test_tensors_slices_and_several_threads_give_the_same_runs(some_masks) -> None:
    masks = some_masks(3, 7, 70, 90)
    encoded = RleMasks.encode(masks)
    assert RleMasks.encode(torch.from_numpy(masks)) == encoded
    assert RleMasks.encode(masks.view(np.uint8), threads=3) == encoded
    assert RleMasks.encode(np.repeat(masks, 2, axis=2)[:, :, ::2]) == encoded
    for threads in 2, 20:
        assert np.array_equal(encoded.decode(threads=threads), masks)


def test_counts_may_be_compressed_or_not_even_side_by_side() -> None:
    masks = RleMasks.encode(np.random.default_rng(0).random((3, 9, 11)) < 0.5)
    first, second, third = masks.to_coco()
    mixed = [first, {"size": [9, 11], "counts": masks[1].counts.tolist()}, third]
    assert RleMasks.from_coco(mixed) == masks
    assert RleMasks.from_coco([{**first, "counts": first["counts"].encode()}, second, third]) == masks


def test_long_runs_and_large_steps_survive_the_string() -> None:
    runs = np.array([1, 2**31 - 5, 3, 7, 2**31 - 50, 4], np.uint32)
    height, width = 1, int(runs.sum(dtype=np.int64))
    masks = RleMasks(runs, np.array([0, 6]), height, width)
    peer = pycocotools.frPyObjects([{"size": [height, width], "counts": runs.tolist()}], height, width)
    assert strings(masks.to_coco()) == strings(peer)
    assert RleMasks.from_coco(masks.to_coco()) == masks


def test_a_run_of_no_length_counts_for_nothing() -> None:
    masks = RleMasks.from_coco([{"size": [2, 3], "counts": [3, 0, 1, 1, 1, 0]}])
    plain = RleMasks.encode(masks.decode())
    assert plain.counts.tolist() == [4, 1, 1]
    assert masks.area.tolist() == [1]
    assert masks.boxes.tolist() == plain.boxes.tolist()
    assert masks.iou(plain).tolist() == [[1]]
    for same in (masks.merge(), masks.crop(0, 0, 3, 2), masks.resize(2, 3), masks.erode(0)):
        assert same == plain


def test_a_set_is_a_sequence() -> None:
    dense = np.random.default_rng(1).random((5, 6, 7)) < 0.5
    masks = RleMasks.encode(dense)
    assert len(masks) == 5
    assert np.array_equal(masks[2].decode()[0], dense[2])
    assert np.array_equal(masks[-1].decode()[0], dense[-1])
    for index in (slice(1, 4), slice(None, None, -2), [3, 0, 3], np.array([4, 1]), np.arange(5) % 2 == 0, []):
        assert np.array_equal(masks[index].decode(), dense[index])
    assert RleMasks.concatenate(list(masks)) == masks
    assert masks != masks[::-1]
    assert masks != "masks"
    with pytest.raises(IndexError):
        masks[5]


@pytest.mark.parametrize(
    "rle, reason",
    [
        ({"size": [2, 2], "counts": [1, 2]}, "mask 0 fill 3 pixels of a mask of 2 x 2"),
        ({"size": [2, 2], "counts": [5, -1]}, "fill 4 pixels and one is -1"),
        ({"size": [2, 2], "counts": [2**40]}, "one is 1099511627776"),
        ({"size": [2, 2], "counts": []}, "mask 0 fill 0 pixels"),
        ({"size": [2, 2], "counts": ""}, "mask 0 fill 0 pixels"),
        ({"size": [2, 2], "counts": "1"}, "mask 0 fill 1 pixels"),
        ({"size": [2, 2], "counts": [[4]]}, "whole numbers"),
        ({"size": [2, 2], "counts": [4.0]}, "whole numbers"),
        ({"size": [2, 2], "counts": [[4], [1, 2]]}, "flat list"),
        ({"size": [2, 2], "counts": None}, "whole numbers"),
        ({"size": [2, 2], "counts": "P"}, "ends within a number"),
        ({"size": [2, 2], "counts": b"4 "}, "cannot be in a string"),
        ({"size": [2, 2], "counts": "é"}, "cannot be in a string"),
        ({"size": [2, 2], "counts": "oooooooooooooooooooooo1"}, "negative or longer than the mask"),
        ({"size": [2, 2], "counts": "O"}, "negative or longer than the mask"),
        ({"size": [2, 2]}, "size .height, width. and counts"),
        ({"size": [2], "counts": "4"}, "size .height, width. and counts"),
        ({"size": [2.5, 2], "counts": "5"}, "two whole numbers"),
        ({"size": [2, -2], "counts": "4"}, "two whole numbers"),
        ({"size": [2**20, 2**20], "counts": "4"}, "2\\*\\*32"),
    ],
)
def test_wrong_dictionaries_are_refused(rle, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        RleMasks.from_coco([rle])


def test_masks_of_one_set_have_one_size() -> None:
    small, large = ({"size": [2, side], "counts": [2 * side]} for side in (2, 3))
    with pytest.raises(ValueError, match="one size"):
        RleMasks.from_coco([small, large])
    with pytest.raises(ValueError, match="size"):
        RleMasks.from_coco([small], size=(2, 3))
    with pytest.raises(ValueError, match="one size"):
        RleMasks.concatenate([RleMasks.from_coco([small]), RleMasks.from_coco([large])])
    with pytest.raises(ValueError, match="one size"):
        RleMasks.from_coco([small]).iou(RleMasks.from_coco([large]))
    with pytest.raises(ValueError, match="at least one"):
        RleMasks.concatenate([])


def test_a_wrong_mask_is_named() -> None:
    good, bad = {"size": [2, 2], "counts": "4"}, {"size": [2, 2], "counts": "3"}
    with pytest.raises(ValueError, match="mask 2 fill 3 pixels"):
        RleMasks.from_coco([good, good, bad])
    with pytest.raises(ValueError, match=r"mask 1 is a string .* ends within a number"):
        RleMasks.from_coco([{"size": [2, 2], "counts": [4]}, {"size": [2, 2], "counts": "P"}])


@pytest.mark.parametrize("offsets", [[0], [0, 3], [1, 2], [0, 0, 2], [0, 3, 2], [0, -1, 2]])
def test_offsets_that_leave_the_runs_are_refused(offsets) -> None:
    with pytest.raises(ValueError, match=r"offsets|run lengths"):
        RleMasks(np.array([1, 3], np.uint32), np.array(offsets), 2, 2)


@pytest.mark.compile  # the shape checker refuses these first
def test_arrays_of_wrong_type_or_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="bool or uint8"):
        RleMasks.encode(np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match="n H W"):
        RleMasks.encode(np.zeros((3, 4), bool))
    with pytest.raises(ValueError, match="flat array of uint32"):
        RleMasks(np.array([4]), np.array([0, 1]), 2, 2)
