"""GrabCut and interactive graph cuts, on images whose foreground is known."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from pixelwise.algorithms.grabcut import ColorModel, grabcut, graph_cut

RANDOM = np.random.default_rng(0)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A disc of two colours on a background of two others, with noise."""
    rows, columns = np.mgrid[:60, :80]
    truth = (rows - 28) ** 2 + (columns - 42) ** 2 < 18**2
    image = np.where((columns % 16 < 8)[..., None], [40, 90, 40], [60, 130, 60])
    image[truth] = [200, 60, 60]
    image[truth & (rows < 26)] = [220, 180, 90]
    return (image + RANDOM.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8), truth


def iou(labels: np.ndarray, truth: np.ndarray) -> float:
    return (labels.astype(bool) & truth).sum() / (labels.astype(bool) | truth).sum()


def test_a_model_costs_what_its_gaussians_say() -> None:
    colors = RANDOM.normal(size=(50, 3)) * [1, 5, 9]
    components = RANDOM.integers(0, 2, 50)
    model = ColorModel.of(colors, components)
    costs = model.costs(colors)
    for m in (0, 1):
        part = colors[components == m]
        covariance = np.cov(part.T, bias=True) + 0.01 * np.eye(3)
        expected = -multivariate_normal(part.mean(0), covariance).logpdf(colors) - np.log(len(part) / 50)
        assert np.allclose(costs[:, m], expected)


def test_a_box_around_a_thing_is_enough() -> None:
    image, truth = scene()
    found = grabcut(image, box=(18, 6, 66, 52))
    assert iou(found.label_map.labels.numpy(), truth) > 0.97
    assert found.converged
    assert all(b <= a + 1e-6 * abs(a) for a, b in zip(found.trace, found.trace[1:], strict=False))


def test_strokes_hold_over_everything() -> None:
    image, truth = scene()
    strokes = np.full(truth.shape, 2)
    strokes[5:8, 5:8] = 1  # a piece of background that is called foreground
    strokes[25:28, 40:44] = 0  # and the other way round
    labels = grabcut(image, box=(18, 6, 66, 52), strokes=strokes).label_map.labels.numpy()
    assert (labels[5:8, 5:8] == 1).all()
    assert (labels[25:28, 40:44] == 0).all()
    labels = graph_cut(image, np.where(truth & (strokes == 2), 2, strokes)).label_map.labels.numpy()
    assert (labels[25:28, 40:44] == 0).all()


def test_one_cut_from_strokes_finds_the_thing() -> None:
    image, truth = scene()
    strokes = np.full(truth.shape, 2)
    strokes[28, 30:54] = strokes[16:40, 42] = 1
    strokes[2:4] = strokes[57:59] = 0
    assert iou(graph_cut(image, strokes).label_map.labels.numpy(), truth) > 0.95


def test_without_strokes_the_two_sides_are_dark_and_bright() -> None:
    image = np.where(np.arange(20) < 9, 30, 210)[None].repeat(12, 0) + RANDOM.normal(0, 10, (12, 20))
    labels = graph_cut(image.clip(0, 255).astype(np.uint8)).label_map.labels
    assert labels.tolist() == (np.arange(20) >= 9).astype(int)[None].repeat(12, 0).tolist()


@pytest.mark.parametrize(
    "image",
    [np.zeros((1, 1, 3)), np.full((6, 7), 40_000, np.uint16), np.ones((5, 6, 5)), np.zeros((1, 8, 3))],
    ids=["one pixel", "16 bits", "5 channels", "one row"],
)
def test_constant_images_of_any_kind_get_labels(image: np.ndarray) -> None:
    assert not graph_cut(image).label_map.labels.any()
    size = image.shape[:2]
    if size != (1, 1):
        strokes = np.full(size, 2)
        strokes[0, 0], strokes[-1, -1] = 0, 1
        for method in (lambda: grabcut(image, strokes=strokes), lambda: graph_cut(image, strokes)):
            labels = method().label_map.labels
            assert labels[0, 0] == 0
            assert labels[-1, -1] == 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda image: grabcut(image), "a box or strokes"),
        (lambda image: grabcut(image, box=(5, 5, 5, 9)), "box must be left, top, right, bottom inside"),
        (lambda image: grabcut(image, box=(0, 0, 10, 10)), "for both background and foreground"),
        (lambda image: grabcut(image, strokes=np.full((10, 10), 7)), "strokes must be 0"),
        (lambda image: grabcut(image, strokes=np.zeros((3, 3), int)), "strokes of that size"),
        (lambda image: grabcut(image, box=(1, 1, 9, 9), strength=-1), "strength must be at least 0"),
        (lambda image: graph_cut(image, np.full((10, 10), 1)), "there is no background"),
        (lambda image: graph_cut(image, np.full((10, 10), 2)), "there is no background"),
        (lambda image: graph_cut(image * np.nan), "not finite"),
    ],
)
def test_what_cannot_be_cut_is_refused(call: Callable[[np.ndarray], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(RANDOM.random((10, 10, 3)))


def test_a_portrait_is_cut_out(shared_data: Callable[..., Path]) -> None:
    from PIL import Image

    image = np.asarray(Image.open(shared_data("data", "skimage_images", "astronaut.png")).convert("RGB"))
    labels = grabcut(image, box=(20, 1, 450, 512), max_steps=3).label_map.labels
    assert 0.2 < labels.float().mean() < 0.8
    assert labels[100:180, 190:260].float().mean() > 0.95  # her face
