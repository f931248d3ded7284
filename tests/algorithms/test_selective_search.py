"""Selective search: a hierarchy of regions, whose boxes hold the objects."""

import numpy as np
import pytest

from pixelwise.algorithms import selective_search
from pixelwise.algorithms.selective_search import hierarchy, similarity


def scene() -> np.ndarray:
    """Two discs and a striped box on a wall."""
    y, x = np.mgrid[:80, :100]
    image = np.full((80, 100, 3), (40, 60, 80), np.uint8)
    image[(y - 20) ** 2 + (x - 25) ** 2 < 144] = (220, 40, 40)
    image[(y - 55) ** 2 + (x - 70) ** 2 < 225] = (40, 200, 60)
    image[50:70, 8:30] = np.where((x // 2 % 2 == 0)[50:70, 8:30, None], (250, 250, 250), (120, 120, 120))
    noise = np.random.default_rng(0).integers(0, 8, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def iou(boxes: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    corner, opposite = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    shared = (opposite - corner).clip(0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2] - box[0]) * (box[3] - box[1])
    return shared / (areas - shared)


@pytest.mark.parametrize("box", [(13, 8, 38, 33), (55, 40, 86, 71), (8, 50, 30, 70)])
def test_every_object_has_a_box(box: tuple[int, int, int, int]) -> None:
    boxes = selective_search(scene())
    assert iou(boxes, box).max() > 0.8
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    assert (boxes[:, 2:] - boxes[:, :2] >= 8).all()


def test_the_hierarchy_ends_in_one_region_of_the_whole_image_and_counts_as_if_counted_anew() -> None:
    colors = scene() / 255
    labels = np.arange(8).repeat(10)[:, None] * 10 + np.arange(10).repeat(10)
    regions = hierarchy(colors, labels)
    assert len(regions) == 2 * 80 - 1
    last = regions[-1]
    assert (last.size, last.box) == (8000, (0, 0, 100, 80))
    (whole,) = hierarchy(colors, np.zeros((80, 100), np.int64))
    np.testing.assert_allclose(last.colors, whole.colors, atol=1e-9)
    np.testing.assert_allclose(last.texture, whole.texture, atol=1e-9)
    assert last.colors.sum() == pytest.approx(1)
    assert last.texture.sum() == pytest.approx(1)


def test_of_two_neighbours_the_more_similar_one_is_merged_first() -> None:
    colors = np.zeros((10, 30, 3))
    colors[:, 10:20], colors[:, 20:] = 0.02, 1.0
    regions = hierarchy(colors, np.arange(3).repeat(10)[None].repeat(10, 0))
    assert regions[3].box == (0, 0, 20, 10)
    assert similarity(regions[0], regions[0], 300) > similarity(regions[0], regions[2], 300)


def test_grey_images_and_a_single_pixel_are_taken() -> None:
    assert len(selective_search(scene()[..., :1])) > 2
    assert selective_search(np.zeros((1, 1, 3), np.uint8)).shape == (0, 4)
