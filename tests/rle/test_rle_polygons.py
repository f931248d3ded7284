"""Polygons to masks beside pycocotools, and masks to polygons and back."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from pycocotools import _mask, mask as pycocotools
from scipy import ndimage

from pixelwise.rle import Polygon, RleMasks
from pixelwise.rle.banded import BandedOutlines

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


# --- in bands -------------------------------------------------------------------------------------


def in_bands(labels: np.ndarray, cuts: list[int], folder) -> list[list[list[list[list[int]]]]]:
    bands = [band for band in np.split(labels, cuts) if len(band)]
    with BandedOutlines(bands, folder) as outlines:
        found = [
            [[ring.tolist() for ring in rings] for rings in outlines.polygons(label)]
            for label in range(labels.max() + 1)
        ]
        assert [outlines.count(label) for label in range(len(found))] == list(map(len, found))
        counted = {label: int((labels == label).sum()) for label in range(len(found))}
        assert outlines.areas == {label: area for label, area in counted.items() if area}
    return found


def whole(labels: np.ndarray) -> list[list[list[list[list[int]]]]]:
    masks = RleMasks.from_map(labels, list(range(labels.max() + 1)))
    return [
        [[ring.tolist() for ring in (one.outer, *one.holes)] for one in polygons]
        for polygons in masks.polygons()
    ]


@few
@given(seed=seeds, height=st.integers(1, 12), width=st.integers(1, 12), k=st.integers(1, 3), data=st.data())
def test_polygons_of_bands_are_those_of_the_whole_map(seed, height, width, k, data, tmp_path_factory) -> None:
    labels = np.random.default_rng(seed).integers(-1, k, (height, width))
    labels[0, 0] = max(labels[0, 0], 0)
    cuts = sorted(data.draw(st.sets(st.integers(1, height), max_size=5)))
    assert in_bands(labels, cuts, tmp_path_factory.getbasetemp()) == whole(labels)


def test_regions_that_many_bands_cut_are_joined_with_their_holes(tmp_path) -> None:
    drawn = np.random.default_rng(0).normal(size=(3, 300, 400))
    labels = ndimage.gaussian_filter(drawn, (0, 3, 3)).argmax(0)
    labels[20:280, 200:203] = 2  # crosses every band
    expected = whole(labels)
    assert max(len(rings) for polygons in expected for rings in polygons) > 3  # there are holes
    for cuts in ([], [150], list(range(7, 300, 7)), list(range(1, 300))):
        assert in_bands(labels, cuts, tmp_path) == expected
    assert not list(tmp_path.iterdir())


def test_memory_of_polygons_in_bands_is_that_of_a_band(tmp_path) -> None:
    def peak(height: int) -> int:
        random = np.random.default_rng(0)
        bands = (ndimage.zoom(random.integers(0, 3, (8, 64)), 8, order=0) for _ in range(height // 64))
        tracemalloc.start()
        try:
            with BandedOutlines(bands, tmp_path) as outlines:
                assert sum(outlines.areas.values()) == height * 512
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(128)
    assert peak(64 * 128) < 1.5 * peak(64 * 16) + 128 * 512 * 7 * 8  # and some numbers of each outline
