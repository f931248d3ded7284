"""scikit-image's methods through our interface: the same labels, and odd images."""

from collections.abc import Callable

import numpy as np
import pytest
import skimage.segmentation

from pixelwise.algorithms.images import ColorSpace
from pixelwise.algorithms.segmentation import Segmentation
from pixelwise.algorithms.superpixels import felzenszwalb, otsu, random_walker, slic, watershed

RANDOM = np.random.default_rng(0)
METHODS: dict[str, Callable[[np.ndarray], Segmentation]] = {
    "slic": lambda image: slic(image, 4, space="rgb"),
    "felzenszwalb": felzenszwalb,
    "watershed": watershed,
    "watershed with a number": lambda image: watershed(image, 3),
    "random walker": lambda image: random_walker(image, np.ones(image.shape[:2], int)),
    "otsu": otsu,
}
COLORFUL = RANDOM.integers(0, 256, (40, 50, 3), dtype=np.uint8)


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = set(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    return len(pairs) == len(np.unique(a)) == len(np.unique(b))


def test_labels_are_those_of_scikit_image() -> None:
    full = COLORFUL.copy()
    full[0, 0], full[0, 1] = 0, 255  # what scikit-image would stretch is already at both ends
    theirs = skimage.segmentation.slic(full, 30, start_label=0, channel_axis=2)
    assert same_partition(slic(full, 30).label_map.labels.numpy(), theirs)
    theirs = skimage.segmentation.felzenszwalb(COLORFUL / 255, 100, 0.8, 20, channel_axis=2)
    assert same_partition(felzenszwalb(COLORFUL).label_map.labels.numpy(), theirs)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "image",
    [np.zeros((1, 1, 3)), np.full((6, 7), 40_000, np.uint16), np.ones((5, 6, 5)), np.zeros((1, 8, 3))],
    ids=["one pixel", "16 bits", "5 channels", "one row"],
)
def test_constant_images_of_any_kind_get_labels(name: str, image: np.ndarray) -> None:
    labels = METHODS[name](image).label_map.labels
    assert labels.shape == image.shape[:2]
    assert labels.min() == 0


@pytest.mark.parametrize("name", METHODS)
def test_values_that_are_not_finite_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not finite"):
        METHODS[name](np.full((4, 4, 3), np.nan))


def test_markers_flood_to_the_edge_between_them() -> None:
    image = np.zeros((10, 20), np.uint8)
    image[:, 10:] = 200
    markers = np.zeros((10, 20), int)
    markers[5, 2], markers[5, 17] = 1, 2
    for method in (watershed, random_walker):
        labels = method(image, markers).label_map.labels
        assert (labels[:, :9] == 0).all()
        assert (labels[:, 11:] == 1).all()


@pytest.mark.parametrize("space", ["rgb", "lab"])
def test_superpixels_end_where_a_thing_ends(space: ColorSpace) -> None:
    image = np.full((60, 90, 3), (40, 60, 90), np.uint8)
    image[13:47, 22:65] = (200, 180, 40)  # between the places of a regular grid
    labels = slic(image, 24, space=space).label_map.labels.numpy()
    inside = np.unique(labels[13:47, 22:65])
    assert np.isin(labels, inside).sum() <= 34 * 43 + 40


@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_walk_on_a_constant_image_ends_at_the_nearer_marker(level: int) -> None:
    markers = np.zeros((5, 11), int)
    markers[:, 0], markers[:, 10] = 2, 7
    labels = random_walker(np.full((5, 11, 3), level, np.uint8), markers).label_map.labels
    assert (labels[:, :5] == 0).all()
    assert (labels[:, 6:] == 1).all()


def test_a_number_of_floods_is_kept() -> None:
    assert watershed(COLORFUL, 5).num_segments == 5


def test_markers_that_do_not_fit_are_refused() -> None:
    for method in (watershed, random_walker):
        with pytest.raises(ValueError, match="markers of that size"):
            method(COLORFUL, np.ones((3, 3), int))
        with pytest.raises(ValueError, match="there must be a label"):
            method(COLORFUL, np.zeros((40, 50), int))


def test_brightness_falls_into_classes() -> None:
    image = np.array([[10, 11, 100, 102, 240, 250]], np.uint8)
    assert otsu(image, 3).label_map.labels.tolist() == [[0, 0, 1, 1, 2, 2]]
    with pytest.raises(ValueError, match=r"in 2\.\.5, got 9"):
        otsu(image, 9)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="num_segments"):
        slic(COLORFUL, 0)
    with pytest.raises(ValueError, match="compactness"):
        slic(COLORFUL, compactness=0)
    with pytest.raises(ValueError, match="scale must be above 0"):
        felzenszwalb(COLORFUL, scale=0)
    with pytest.raises(ValueError, match="beta"):
        random_walker(COLORFUL, np.ones((40, 50), int), beta=0)
