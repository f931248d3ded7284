"""Boundary IoU beside OpenCV's erosion, and boundary AP beside the authors' tool."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from pixelwise.metrics.coco.boundary_iou import (
    boundary_counts,
    boundary_iou,
    boundary_iou_per_class,
    boundary_width,
    rle_boundary_iou,
)
from pixelwise.metrics.coco.evaluate import coco_evaluate
from pixelwise.rle import RleMasks

SharedData = Callable[..., Path]

# boundary-iou-api 37d2558 (commit of the snapshot), coco_instance_api, iouType="boundary", on COCO's example
# of 100 images with "ignore": 1 in annotation 5.
OFFICIAL_AP = [
    0.22613853767802394, 0.37724756766285494, 0.22526966484810612, 0.38672431536105956, 0.27236740312792934,
    0.07554378414806896, 0.18730033302586155, 0.31224413374575694, 0.313634951816575, 0.4687404356476297,
    0.34054347826086956, 0.10387037037037035,
]  # fmt: skip


def blob(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    return ndimage.gaussian_filter(random.random((height, width)), random.uniform(1, 6)) > 0.5


def boundary(mask: np.ndarray, ratio: float) -> np.ndarray:
    """The mask less its erosion by a square, in a frame of zeros."""
    radius = max(1, round(ratio * math.hypot(*mask.shape)))
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return mask & ~cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=radius)[1:-1, 1:-1].astype(bool)


def reference(prediction: np.ndarray, target: np.ndarray, ratio: float) -> float:
    one, other = boundary(prediction, ratio), boundary(target, ratio)
    return (one & other).sum() / (one | other).sum() if (one | other).any() else math.nan


def test_boundary_iou_is_that_of_opencv_on_any_size() -> None:
    random = np.random.default_rng(0)
    for number in range(60):
        height, width = random.integers(1, 200, 2)
        prediction, target = blob(random, height, width), blob(random, height, width)
        if number % 6 == 0:
            prediction[:] = True
        if number % 7 == 0:
            target[:] = number % 2 == 0
        for ratio in (0.02, 0.1, 0.7):
            expected = reference(prediction, target, ratio)
            np.testing.assert_array_equal(boundary_iou(prediction, target, dilation_ratio=ratio), expected)


def test_masks_are_compared_in_pairs_in_any_form() -> None:
    random = np.random.default_rng(1)
    masks = np.stack([blob(random, 60, 70) for _ in range(6)]).reshape(3, 2, 60, 70)
    moved = np.roll(masks, 2, 3)
    scores = boundary_iou(masks, moved)
    assert scores.shape == (3, 2)
    np.testing.assert_array_equal(boundary_iou(torch.from_numpy(masks), torch.from_numpy(moved)), scores)
    one, other = (RleMasks.encode(part.reshape(-1, 60, 70)) for part in (masks, moved))
    np.testing.assert_array_equal(np.diag(rle_boundary_iou(one, other)), scores.ravel())


def test_the_same_mask_scores_one_and_two_empty_ones_nan() -> None:
    mask = blob(np.random.default_rng(2), 50, 50)
    assert boundary_iou(mask, mask) == 1
    assert boundary_iou(mask, ~mask) == 0
    assert np.isnan(boundary_iou(np.zeros((5, 5), bool), np.zeros((5, 5), bool)))
    assert boundary_iou(np.zeros((0, 5, 5), bool), np.zeros((0, 5, 5), bool)).shape == (0,)


def test_classes_of_label_maps_are_compared_as_masks() -> None:
    random = np.random.default_rng(3)
    for dtype in (np.uint8, np.int64):
        for _ in range(20):
            height, width, side = random.integers(1, (150, 150, 40))
            tiles = random.integers(0, 4, (height // side + 1, width // side + 1))
            target = np.kron(tiles, np.ones((side, side), int))[:height, :width].astype(dtype)
            prediction = np.roll(target, 2, 1)
            target[: height // 5] = 255
            for ratio in (0.02, 0.1):
                scores = boundary_iou_per_class(prediction, target, 4, dilation_ratio=ratio)
                for label in range(4):
                    masks = ((part == label) & (target != 255) for part in (prediction, target))
                    np.testing.assert_array_equal(scores[label], reference(*masks, ratio))


def test_counts_of_images_add_up_and_other_ignored_labels_are_told() -> None:
    target = torch.tensor([[0, 0, 1, 7], [0, 0, 1, 7]])
    prediction = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 0]])
    counts = boundary_counts(prediction, target, 2, ignore=7)
    assert counts.tolist() == [[2, 2, 4], [2, 4, 2]]
    np.testing.assert_array_equal(
        boundary_iou_per_class(prediction, target, 2, ignore=7), counts[:, 0] / [4, 4]
    )


def test_the_width_is_that_of_the_official_tool() -> None:
    assert [boundary_width(*size) for size in ((5, 5), (480, 640), (1024, 2048))] == [1, 16, 46]


def test_boundary_ap_is_the_official_one(shared_data: SharedData) -> None:
    folder = shared_data("data", "coco_eval")
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakesegm100_results.json").read_text())
    truth["annotations"][5]["ignore"] = 1
    assert coco_evaluate(truth, results, "boundary").stats.tolist() == OFFICIAL_AP


def test_a_crowd_is_compared_by_its_mask_alone() -> None:
    crowd, inside = np.zeros((2, 60, 60), bool)
    crowd[5:55, 5:55], inside[20:40, 20:40] = True, True
    there, found = RleMasks.encode(crowd[None]).to_coco()[0], RleMasks.encode(inside[None]).to_coco()[0]
    image = {"id": 1, "height": 60, "width": 60}
    thing = {"image_id": 1, "category_id": 1, "iscrowd": 1, "area": 2500.0, "segmentation": there}
    real = {**thing, "iscrowd": 0, "area": 400.0, "segmentation": found}
    truth = {"images": [image], "annotations": [thing, real], "categories": [{"id": 1}]}
    guess = {"image_id": 1, "category_id": 1, "segmentation": found}
    results = [{**guess, "score": 0.9}, {**guess, "score": 0.95}]
    assert coco_evaluate(truth, results, "boundary").ap == pytest.approx(1)  # the second is in the crowd


def test_input_that_does_not_fit_is_named() -> None:
    mask = np.zeros((4, 5), bool)
    with pytest.raises(ValueError, match="dilation_ratio must be above 0, got 0"):
        boundary_iou(mask, mask, dilation_ratio=0.0)
    target = torch.tensor([[0, 1], [1, 0]])
    with pytest.raises(
        ValueError, match=r"0\.\.1 or 255 .* got 3 in the prediction and 1 in the target at row 0"
    ):
        boundary_counts(torch.tensor([[0, 3], [1, 0]]), target, 2)
    with pytest.raises(ValueError, match="got 0 in the prediction and -1 in the target at row 1, column 1"):
        boundary_counts(target, torch.tensor([[0, 1], [1, -1]]), 2)


@pytest.mark.compile
def test_shapes_that_differ_are_named() -> None:
    with pytest.raises(ValueError, match=r"one shape \(\.\.\., h, w\), got \(4, 5\) and \(5, 4\)"):
        boundary_iou(np.zeros((4, 5), bool), np.zeros((5, 4), bool))
    with pytest.raises(ValueError, match="one shape, got"):
        boundary_counts(np.zeros((4, 5), np.uint8), np.zeros((5, 4), np.uint8), 2)
