"""What every method promises that takes an image and gives a segmentation, asked of all of them.

A public function of `pixelwise.algorithms` whose first argument is an image, and which gives a segmentation,
is asked without a new line here, if it needs no more than the image; what it needs more stands in NEEDED.
"""

import inspect
from collections.abc import Callable

import numpy as np
import pytest
import torch

from pixelwise import algorithms
from pixelwise.algorithms import by_name
from pixelwise.algorithms.segmentation import Segmentation

RANDOM = np.random.default_rng(0)
H, W = 14, 18
SCENE = np.full((H, W, 3), (30, 60, 90), np.uint8)
SCENE[3:11, 5:14] = (220, 180, 40)
SCENE = (SCENE + RANDOM.integers(0, 12, SCENE.shape)).astype(np.uint8)
TRUTH = np.zeros((H, W), np.int64)
TRUTH[3:11, 5:14] = 1

# Arguments that follow from the size of the image, and short runs of what would take long.
NEEDED: dict[str, Callable[[int, int], dict[str, object]]] = {
    "kmeans": lambda h, w: {"num_clusters": min(2, h * w)},
    "mini_batch_kmeans": lambda h, w: {"num_clusters": min(2, h * w), "max_steps": 5},
    "dirichlet_gibbs": lambda h, w: {"sweeps": 5},
    "normalized_cuts": lambda h, w: {"num_regions": 30},
    "grabcut": lambda h, w: {"strokes": strokes(h, w)},
    "random_walker": lambda h, w: {"markers": np.where(strokes(h, w) == 2, 0, strokes(h, w) + 1)},
    "slic": lambda h, w: {"num_segments": 20},
    "clusters_in_grid": lambda h, w: {"num_labels": min(2, h * w)},
    "clusters_in_dense_crf": lambda h, w: {"num_labels": min(2, h * w)},
}
# Refuse an image of one pixel: it cannot be foreground and background.
TWO_SIDES = {"grabcut"}


def strokes(h: int, w: int) -> np.ndarray:
    """The first row and column are background, the middle is foreground."""
    known = np.full((h, w), 2)
    known[0], known[:, 0] = 0, 0
    known[h // 2, w // 2] = 1
    return known


def gives_segmentation(thing: object) -> bool:
    if not inspect.isfunction(thing) or next(iter(inspect.signature(thing).parameters), "") != "image":
        return False
    result = inspect.signature(thing).return_annotation
    return inspect.isclass(result) and issubclass(result, Segmentation)


PUBLIC = {name: thing for name, thing in vars(algorithms).items() if gives_segmentation(thing)}
METHODS = {**PUBLIC, **{way.run.__name__: way.run for way in by_name.METHODS.values()}}
WITH_SPACE = [name for name, run in METHODS.items() if "space" in inspect.signature(run).parameters]
SEEDED = [name for name, run in METHODS.items() if "seed" in inspect.signature(run).parameters]
# Numbers that are the most that there may be; the others are refused where there are fewer pixels.
AT_MOST = {
    ("slic", "num_segments"),
    ("normalized_cuts", "num_regions"),
    ("dirichlet_variational", "max_components"),
}
NUMBERS = {"num_clusters", "num_segments", "num_labels", "num_classes", "max_components", "num_regions"}


def segment(name: str, image: np.ndarray | torch.Tensor, **arguments: object) -> Segmentation:
    """Run a method; in RGB unless told, so that any number of channels will do."""
    if isinstance(image, torch.Tensor):
        h, w = image.shape[-2:]
    else:
        h, w = image.shape[:2]
    rgb = {"space": "rgb"} if name in WITH_SPACE else {}
    return METHODS[name](image, **{**rgb, **NEEDED.get(name, lambda h, w: {})(h, w), **arguments})


def labels_of(found: Segmentation) -> np.ndarray:
    """Labels, looked at."""
    labels = found.label_map.labels
    assert labels.dtype == torch.int64
    assert labels.min() >= 0
    assert all(np.isfinite(found.trace))
    assert bool(found.trace) <= bool(found.objective)
    return labels.numpy()


def test_every_method_is_on_the_command_line() -> None:
    offered = {way.run for way in by_name.METHODS.values()}
    assert set(PUBLIC.values()) <= offered | {algorithms.dense_crf}


@pytest.mark.parametrize("name", METHODS)
def test_an_image_of_one_pixel_is_one_segment(name: str) -> None:
    if name in TWO_SIDES:
        with pytest.raises(ValueError, match="both background and foreground"):
            segment(name, np.full((1, 1, 3), 9, np.uint8))
        return
    found = segment(name, np.full((1, 1, 3), 9, np.uint8))
    assert labels_of(found).shape == (1, 1)
    assert found.num_segments == 1


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_constant_image_comes_to_an_end(name: str, level: int) -> None:
    assert labels_of(segment(name, np.full((H, W, 3), level, np.uint8))).shape == (H, W)


@pytest.mark.parametrize("name", WITH_SPACE)
def test_a_constant_image_comes_to_an_end_in_lab_too(name: str) -> None:
    assert labels_of(segment(name, np.full((H, W, 3), 77, np.uint8), space="lab")).shape == (H, W)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(name: str, bad: float) -> None:
    image = SCENE / 255.0
    image[2, 3, 1] = bad
    with pytest.raises(ValueError, match="not finite"):
        segment(name, image)


@pytest.mark.parametrize("name", METHODS)
def test_more_segments_than_pixels_are_refused_or_too_many_to_find(name: str) -> None:
    asked = NUMBERS & set(inspect.signature(METHODS[name]).parameters)
    for number in asked:
        if (name, number) not in AT_MOST:
            with pytest.raises(ValueError, match="7"):  # the message says what came
                segment(name, SCENE[:2, :3], **{number: 7})
        else:
            assert labels_of(segment(name, SCENE[:2, :3], **{number: 7})).max() < 6


@pytest.mark.parametrize("name", METHODS)
def test_no_segment_at_all_is_refused(name: str) -> None:
    for number in NUMBERS & set(inspect.signature(METHODS[name]).parameters):
        for count in (0, -1):
            with pytest.raises(ValueError, match=str(count)):
                segment(name, SCENE, **{number: count})


@pytest.mark.parametrize("name", METHODS)
def test_16_bits_give_what_8_bits_give(name: str) -> None:
    eight = labels_of(segment(name, SCENE))
    sixteen = labels_of(segment(name, SCENE.astype(np.uint16) * 257))
    assert (eight == sixteen).mean() > 0.97  # floating-point values differ in their last digit


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(name: str, channels: int) -> None:
    image = np.repeat(SCENE[..., :1], channels, axis=2)
    assert labels_of(segment(name, image)).shape == (H, W)


@pytest.mark.parametrize("name", WITH_SPACE)
def test_lab_wants_three_channels_and_says_what_to_do(name: str) -> None:
    with pytest.raises(ValueError, match="Lab needs an image of 3 channels, got 5: take the space rgb"):
        segment(name, np.repeat(SCENE[..., :1], 5, axis=2), space="lab")


@pytest.mark.parametrize("name", WITH_SPACE)
@pytest.mark.compile
def test_an_unknown_colour_space_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be rgb or lab, got 'hsv'"):
        segment(name, SCENE, space="hsv")


@pytest.mark.parametrize("name", METHODS)
def test_a_tensor_gives_what_an_array_gives(name: str) -> None:
    array = labels_of(segment(name, SCENE))
    tensor = labels_of(segment(name, torch.from_numpy(SCENE).permute(2, 0, 1)))
    assert (array == tensor).all()


@pytest.mark.parametrize("name", METHODS)
def test_the_image_is_left_as_it_was(name: str) -> None:
    image = SCENE.copy()
    segment(name, image)
    assert (image == SCENE).all()


@pytest.mark.parametrize("name", SEEDED)
def test_a_seed_gives_the_same_again(name: str) -> None:
    first, second = (segment(name, SCENE, seed=3) for _ in range(2))
    assert (first.label_map.labels == second.label_map.labels).all()
    assert first.trace == second.trace


@pytest.mark.parametrize("name", METHODS)
def test_a_bright_thing_on_dark_ground_is_found(name: str) -> None:
    labels = labels_of(segment(name, SCENE))
    # The share of pixels that a segment's majority explains.
    right = sum(
        max(int((TRUTH[labels == label] == side).sum()) for side in (0, 1)) for label in np.unique(labels)
    )
    assert right / TRUTH.size > 0.95


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(1, 9, 3), (9, 1, 3)])
def test_a_single_row_or_column(name: str, shape: tuple[int, int, int]) -> None:
    image = RANDOM.integers(0, 256, shape).astype(np.uint8)
    assert labels_of(segment(name, image)).shape == shape[:2]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.compile
def test_what_is_no_image_is_refused(name: str) -> None:
    for shape in ((0, 4, 3), (2, 3, 4, 3)):
        with pytest.raises(ValueError, match="the image must be an array H W or H W c"):
            METHODS[name](np.zeros(shape), **NEEDED.get(name, lambda h, w: {})(4, 4))
