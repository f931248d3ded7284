"""Polygons to masks beside pycocotools, and masks to polygons and back."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from pycocotools import _mask, mask as pycocotools
from scipy import ndimage

from pixelwise.rle import Polygon, RleMasks

few = settings(max_examples=150, deadline=None)
seeds, sides = st.integers(0, 2**32 - 1), st.integers(1, 90)

# Whole numbers, halves, tenths (which meet the fifths of COCO's rule) and anything, inside and outside.
coordinates = st.one_of(
    st.integers(-30, 120),
    st.integers(-60, 240).map(lambda n: n / 2),
    st.integers(-300, 1200).map(lambda n: n / 10),
    st.floats(-100, 200, allow_subnormal=False),
)
rings = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=9).map(
    lambda points: [float(number) for point in points for number in point]
)


def strings(masks: RleMasks) -> list[bytes]:
    return [rle["counts"].encode() for rle in masks.to_coco()]


@few
@given(ring=rings, height=sides, width=sides)
def test_a_polygon_is_drawn_as_pycocotools_draws_it(ring, height, width) -> None:
    expected = _mask.frPoly([ring], height, width)[0]["counts"]
    assert strings(RleMasks.from_polygons([[ring]], height, width)) == [expected]


@few
@given(parts=st.lists(rings, min_size=1, max_size=4), height=sides, width=sides)
def test_parts_are_united_as_pycocotools_unites_them(parts, height, width) -> None:
    expected = pycocotools.merge(pycocotools.frPyObjects(parts, height, width))["counts"]
    assert strings(RleMasks.from_polygons([parts, parts[:1]], height, width))[0] == expected


@pytest.mark.parametrize(
    "ring",
    [
        [3, 3, 3, 3, 3, 3],
        [2, 1, 2, 5, 2, 9],
        [1, 2, 5, 2, 9, 2],
        [0, 0, 8, 8, 0, 0],
        [0, 0, 10, 0, 10, 10, 0, 10],
        [-5, -5, 15, -5, 15, 15, -5, 15],
        [-9, -9, -5, -9, -5, -5],
        [20, 20, 30, 20, 30, 30],
        [0, 0, 10, 10, 10, 0, 0, 10],
        [0.3, 0.3, 9.7, 0.3, 9.7, 9.7, 0.3, 9.7],
        [4.5, -1e6, 5.5, -1e6, 5.5, 1e6, 4.5, 1e6],
        [-1e5, 4.5, 1e5, 4.5, 1e5, 5.5, -1e5, 5.5],
        [0, 9.9, 10, 9.9, 10, 10, 0, 10],
        [9.9, 0, 9.9, 10, 10, 10, 10, 0],
    ],
)
def test_thin_outer_and_touching_polygons_are_drawn_as_pycocotools_draws_them(ring) -> None:
    ring = [float(number) for number in ring]
    for moved in (ring, ring[2:] + ring[:2], ring[::-1]):
        expected = _mask.frPoly([moved], 10, 10)[0]["counts"]
        assert strings(RleMasks.from_polygons([[moved]], 10, 10)) == [expected]


@pytest.mark.parametrize("seed", range(3))
def test_large_polygons_are_drawn_as_pycocotools_draws_them(seed) -> None:
    random = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, 300, endpoint=False)
    for _ in range(20):
        radius = random.uniform(5, 600) * random.uniform(0.5, 1, 300)
        points = random.uniform(0, 1, 2) * (1333, 800) + radius[:, None] * np.stack(
            [np.cos(angle), np.sin(angle)], 1
        )
        ring = points.ravel()
        expected = _mask.frPoly([ring.tolist()], 800, 1333)[0]["counts"]
        assert strings(RleMasks.from_polygons([[ring]], 800, 1333)) == [expected]


@few
@given(
    boxes=st.lists(st.tuples(coordinates, coordinates, st.floats(0, 90), st.floats(0, 90)), max_size=4),
    height=sides,
    width=sides,
)
def test_boxes_are_drawn_as_pycocotools_draws_them(boxes, height, width) -> None:
    array = np.array(boxes, np.float64).reshape(-1, 4)
    expected = pycocotools.frPyObjects(array, height, width) if len(boxes) else []
    assert strings(RleMasks.from_boxes(array, height, width)) == [rle["counts"] for rle in expected]


def test_a_ring_within_a_ring_is_a_hole_only_where_asked() -> None:
    outer, inner = [0, 0, 6, 0, 6, 6, 0, 6], [2, 2, 4, 2, 4, 4, 2, 4]
    assert RleMasks.from_polygons([[outer, inner]], 6, 6).area.tolist() == [36]
    assert RleMasks.from_polygons([[outer, inner]], 6, 6, even_odd=True).area.tolist() == [32]


def test_a_mask_of_no_parts_is_empty() -> None:
    square = [0, 0, 2, 0, 2, 2, 0, 2]
    for even_odd in False, True:
        masks = RleMasks.from_polygons([[], [square], []], 3, 3, even_odd=even_odd)
        assert masks.area.tolist() == [0, 4, 0]


@pytest.mark.parametrize(
    "part, reason",
    [
        ([1, 1, 2, 2], "at least three points"),
        ([1, 1, 2, 2, 3], "at least three points"),
        ([1, 1, 2, 2, 3, 3, 4], "three points x, y in a flat list, mask 1"),
        ([1, 1, 2, 2, 3, float("nan")], "within 4e"),
        ([1, 1, 2, 2, 3, float("inf")], "within 4e"),
        ([1, 1, 2, 2, 3, 1e9], "within 4e"),
    ],
)
def test_what_is_no_polygon_is_refused(part, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        RleMasks.from_polygons([[[0, 0, 1, 0, 1, 1]], [part]], 5, 5)


@pytest.mark.compile  # the shape checker refuses these first
def test_what_holds_no_numbers_is_no_polygon() -> None:
    for part in (["a", "b"], [[0, 0], [1, 0], [1, 1]], None):
        with pytest.raises(ValueError, match="polygon"):
            RleMasks.from_polygons([[part]], 5, 5)


@few
@given(seed=seeds, height=st.integers(1, 30), width=st.integers(1, 30))
def test_outlines_drawn_again_give_the_mask(some_masks, seed, height, width) -> None:
    dense = some_masks(seed, 2, height, width)
    masks = RleMasks.encode(dense)
    polygons = masks.polygons()
    rings = [[ring for polygon in each for ring in polygon.rings] for each in polygons]
    assert RleMasks.from_polygons(rings, height, width, even_odd=True) == masks
    for mask, each in zip(dense, polygons, strict=True):
        components, count = ndimage.label(mask)
        _, holes = ndimage.label(np.pad(~mask, 1, constant_values=True), np.ones((3, 3)))
        assert len(each) == count
        assert sum(len(polygon.holes) for polygon in each) == holes - 1
        for polygon in each:
            alone = RleMasks.from_polygons([polygon.rings], height, width, even_odd=True).decode()[0]
            (label,) = np.unique(components[alone])
            assert np.array_equal(alone, components == label)


def test_outlines_turn_as_promised() -> None:
    dense = np.zeros((1, 6, 8), bool)
    dense[0, 1:6, 2:7] = True
    dense[0, 3, 4] = dense[0, 4, 5] = False  # one hole: they touch at a corner
    dense[0, 0, 7] = True  # a polygon of its own: it touches the other at a corner
    corner, block = RleMasks.encode(dense).polygons()[0]
    assert corner.outer.tolist() == [[7, 0], [8, 0], [8, 1], [7, 1]]
    assert block.outer.tolist() == [[2, 1], [7, 1], [7, 6], [2, 6]]
    (hole,) = block.holes
    assert sorted(map(tuple, hole.tolist())) == [
        (4, 3),
        (4, 4),
        (5, 3),
        (5, 4),
        (5, 4),
        (5, 5),
        (6, 4),
        (6, 5),
    ]
    assert twice_area(block.outer) == 50
    assert twice_area(hole) == -4


def twice_area(ring: np.ndarray) -> int:
    x, y = ring.T
    return int(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def test_a_polygon_gives_its_rings_flat() -> None:
    polygon = Polygon(np.array([[0, 0], [3, 0], [3, 3]]), (np.array([[1, 1], [1, 2], [2, 2]]),))
    assert [ring.tolist() for ring in polygon.rings] == [[0, 0, 3, 0, 3, 3], [1, 1, 1, 2, 2, 2]]
