"""Objects that tiles cut are one object again, and no seam is left."""

import numpy as np
import pytest
import torch
from skimage.draw import disk
from skimage.measure import label
from torch import Tensor

from pixelwise.predict.joining import as_boxes, as_masks, objects_in_tiles, painted
from pixelwise.tiling import grid
from pixelwise.types import Boxes, MaskSet

SIZE = (300, 420)


def scene(radii: tuple[int, int], count: int, seed: int = 0) -> np.ndarray:
    """Discs that do not touch, of two classes: labels 0, 1, 2."""
    random = np.random.default_rng(seed)
    picture, placed = np.zeros(SIZE, np.uint8), 0
    while placed < count:
        radius = int(random.integers(*radii))
        place = disk(random.integers(radius, np.array(SIZE) - radius), radius, shape=SIZE)
        near = disk((place[0].mean(), place[1].mean()), radius + 4, shape=SIZE)
        if not picture[near].any():
            picture[place] = 1 + placed % 2
            placed += 1
    return picture


def find(image: Tensor) -> MaskSet:
    """Connected regions of one brightness are objects."""
    numbers = label(image[0, 0].numpy().astype(int), background=0, connectivity=1)
    masks = torch.from_numpy(numbers) == torch.arange(1, numbers.max() + 1)[:, None, None]
    classes = torch.tensor([int(image[0, 0][mask][0]) - 1 for mask in masks], dtype=torch.int64)
    return MaskSet.of(masks, classes, torch.linspace(0.9, 0.5, len(masks)))


def boxes_of(image: Tensor) -> Boxes:
    found = find(image)
    return Boxes.of(found.boxes.boxes, found.classes, found.scores)


def read(picture: np.ndarray):
    image = torch.from_numpy(picture).float()[None, None]
    return lambda place: image[(..., *place)]


def as_set(found: MaskSet) -> set[tuple[int, bytes]]:
    return {
        (int(label), np.packbits(mask.numpy()).tobytes())
        for label, mask in zip(found.classes, found.dense, strict=True)
    }


@pytest.mark.parametrize("tile, overlap", [((96, 96), 40), ((128, 64), 48), ((300, 420), 0), ((70, 90), 45)])
def test_objects_that_fit_into_the_overlap_are_those_of_the_whole_image(
    tile: tuple[int, int], overlap: int
) -> None:
    picture = scene((4, 14), 60)
    parts = objects_in_tiles(find, read(picture), grid(SIZE, tile, overlap, "crop"))
    whole = find(torch.from_numpy(picture).float()[None, None])
    assert len(parts) == 60
    assert as_set(as_masks(parts, SIZE)) == as_set(whole)


@pytest.mark.parametrize("overlap", [1, 8, 30])
def test_objects_that_are_larger_than_a_tile_are_joined_without_seams(overlap: int) -> None:
    picture = scene((30, 60), 6, seed=3)
    parts = objects_in_tiles(find, read(picture), grid(SIZE, (64, 64), overlap, "crop"))
    found = as_masks(parts, SIZE)
    assert as_set(found) == as_set(find(torch.from_numpy(picture).float()[None, None]))
    assert (found.scores.diff() <= 0).all()


def test_a_touching_object_of_another_class_stays_apart() -> None:
    picture = np.zeros(SIZE, np.uint8)
    picture[100:140, 20:200], picture[100:140, 200:400] = 1, 2
    parts = objects_in_tiles(find, read(picture), grid(SIZE, (64, 64), 16, "crop"))
    assert sorted((part.label, int(part.mask.sum())) for part in parts) == [(0, 7200), (1, 8000)]


def test_boxes_are_joined_like_masks() -> None:
    picture = scene((4, 50), 12, seed=1)
    found = as_boxes(objects_in_tiles(boxes_of, read(picture), grid(SIZE, (96, 96), 32, "crop")))
    whole = find(torch.from_numpy(picture).float()[None, None]).boxes.boxes
    assert sorted(map(tuple, found.boxes.tolist())) == sorted(map(tuple, whole.tolist()))


def test_a_map_of_ids_is_painted_in_rows() -> None:
    picture = scene((4, 14), 20)
    parts = objects_in_tiles(find, read(picture), grid(SIZE, (96, 96), 40, "crop"))
    rows = [painted(parts, start, min(start + 77, SIZE[0]), SIZE[1]) for start in range(0, SIZE[0], 77)]
    ids = np.concatenate(rows)
    assert ((ids > 0) == (picture > 0)).all()
    assert set(np.unique(ids)) == set(range(21))


def test_an_image_without_objects_has_none() -> None:
    parts = objects_in_tiles(find, read(np.zeros(SIZE, np.uint8)), grid(SIZE, (96, 96), 40, "crop"))
    assert len(as_masks(parts, SIZE)) == 0
    assert len(as_boxes(parts)) == 0
