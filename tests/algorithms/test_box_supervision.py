"""BoxSup: which regions are proposed, and which of them a box takes with and without a network."""

import numpy as np
import pytest

from pixelwise.algorithms import Region, choose_regions, propose_regions

SIZE = (24, 32)
TRUTH = np.zeros(SIZE, bool)
TRUTH[5:15, 6:14] = True
TRUTH[7:9, 14:18] = True  # an L, whose box holds background too
BOX = np.array([[6, 5, 18, 15]])
ONE = np.array([1])


def picture() -> np.ndarray:
    random = np.random.default_rng(0)
    grey = np.where(TRUTH, 200, 40) + random.integers(-6, 7, SIZE)
    return np.repeat(grey[..., None], 3, 2).astype(np.uint8)


def region(box: tuple[int, int, int, int], mask: np.ndarray | None = None) -> Region:
    left, top, right, bottom = box
    return Region(box, np.ones((bottom - top, right - left), bool) if mask is None else mask)


def iou(labels: np.ndarray) -> float:
    return (TRUTH & (labels == 1)).sum() / (TRUTH | (labels == 1)).sum()


def test_a_bright_thing_is_among_the_proposals_and_its_box_finds_it() -> None:
    regions = propose_regions(picture(), scales=(60.0,), clusters=(2,), thresholds=(16.0,))
    labels = choose_regions(regions, BOX, ONE, SIZE)
    filled = np.zeros(SIZE, int)
    filled[5:15, 6:18] = 1
    assert iou(labels) > 0.95
    assert iou(filled) < 0.75
    assert len({(one.box, one.mask.tobytes()) for one in regions}) == len(regions)


def test_holes_are_filled_and_specks_left_out() -> None:
    image = np.full((20, 20, 3), 30, np.uint8)
    image[4:14, 4:14], image[8:10, 8:10], image[17, 17] = 220, 30, 220
    regions = propose_regions(image, scales=(), clusters=(2,), thresholds=())
    assert [one.mask.all() for one in regions if one.box == (4, 4, 14, 14)] == [True]
    assert all(one.mask.sum() >= 12 for one in regions)


def test_without_a_network_the_box_that_fits_best_decides() -> None:
    regions = [region((6, 5, 18, 12)), region((6, 5, 18, 14)), region((0, 0, 32, 24))]
    labels = choose_regions(regions, BOX, ONE, SIZE)
    assert labels[5:14, 6:18].all()
    assert not labels[14].any()


def test_the_network_outvotes_the_box_and_the_weight_says_by_how_much() -> None:
    whole, part = region((6, 5, 18, 15)), region((6, 5, 16, 15), TRUTH[5:15, 6:16])
    probabilities = np.where(TRUTH, 0.9, 0.1)
    probabilities = np.stack([1 - probabilities, probabilities])
    sure = choose_regions([whole, part], BOX, ONE, SIZE, probabilities)
    deaf = choose_regions([whole, part], BOX, ONE, SIZE, probabilities, weight=0.0)
    assert iou(sure) > 0.9
    assert deaf[5:15, 6:18].all()


def test_the_cost_is_that_of_the_definition() -> None:
    """Of two regions with one box, that with the smaller mean of -log p is taken, counted by hand."""
    random = np.random.default_rng(5)
    probabilities = random.dirichlet(np.ones(2), SIZE).transpose(2, 0, 1)
    masks = [random.random((10, 12)) < 0.5 for _ in range(6)]
    regions = [region((6, 5, 18, 15), mask) for mask in masks]
    labels = choose_regions(regions, BOX, ONE, SIZE, probabilities)
    loss = -np.log(probabilities)[:, 5:15, 6:18]
    by_hand = [sum(loss[int(m[i, j]), i, j] for i in range(10) for j in range(12)) for m in masks]
    assert (labels[5:15, 6:18].astype(bool) == masks[int(np.argmin(by_hand))]).all()


def test_a_box_without_a_region_is_filled_and_small_boxes_lie_above() -> None:
    boxes = np.array([[10, 8, 14, 12], [6, 5, 18, 15]])
    labels = choose_regions([], boxes, np.array([2, 1]), SIZE)
    assert (labels[8:12, 10:14] == 2).all()
    assert (labels == 1).sum() == 10 * 12 - 16


def test_a_region_is_cut_at_its_box() -> None:
    labels = choose_regions([region((5, 4, 18, 16))], BOX, ONE, SIZE)
    assert labels.sum() == 10 * 12


def test_the_lot_takes_one_of_the_best() -> None:
    regions = [region((6, 5, 18, 15 - cut)) for cut in range(4)]
    random = np.random.default_rng(0)
    heights = {
        int(choose_regions(regions, BOX, ONE, SIZE, among=3, random=random)[:, 8].sum()) for _ in range(40)
    }
    assert heights == {10, 9, 8}


def test_boxes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"box \[6, 5, 33, 15\] does not lie in an image of 32 x 24"):
        choose_regions([], np.array([[6, 5, 33, 15]]), ONE, SIZE)
    with pytest.raises(ValueError, match="1 boxes need as many classes, got 2"):
        choose_regions([], BOX, np.array([1, 2]), SIZE)
