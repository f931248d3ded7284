"""DAVIS' J and F: the official numbers, the rules one by one, bad input."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from scipy import ndimage
from torch import Tensor

from pixelwise.kernels.boundaries.boundary_f import boundary_bits, count_near, disk_reach
from pixelwise.metrics.davis.frame import boundary_accuracy, region_similarity
from pixelwise.metrics.davis.sequence import DavisMetrics, DavisScores, Statistics, davis_sequence


def video(seed: int) -> tuple[Tensor, Tensor]:
    """A prediction and a target: up to three moving squares, one of them lost for a while, some void."""
    random = np.random.default_rng(seed)
    frames, objects = int(random.integers(5, 12)), int(random.integers(1, 4))
    target = np.zeros((frames, 40, 56), np.uint8)
    for number in range(1, objects + 1):
        y, x, side = int(random.integers(2, 24)), int(random.integers(2, 30)), int(random.integers(5, 14))
        for frame in range(frames):
            target[frame, y : y + side, x + frame : x + frame + side] = number
        target[0, number, number] = number
    prediction = np.roll(target, int(random.integers(0, 3)), 2)
    prediction[random.random(frames) < 0.2] = 0
    target[:, :4, 40:] = 255
    return torch.from_numpy(prediction), torch.from_numpy(target)


def reference_boundary(mask: np.ndarray) -> np.ndarray:
    """Where a pixel differs from its neighbour to the east, south or south-east, the edge being repeated."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])


def reference_f(prediction: np.ndarray, target: np.ndarray, radius: int) -> float:
    """F by dilation with a disk."""
    one, other = reference_boundary(prediction), reference_boundary(target)
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = y**2 + x**2 <= radius**2
    if not one.any() and not other.any():
        return 1.0
    if not one.any() or not other.any():
        return 0.0
    precision = (one & ndimage.binary_dilation(other, disk)).sum() / one.sum()
    recall = (other & ndimage.binary_dilation(one, disk)).sum() / other.sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def unpacked(bits: np.ndarray, width: int) -> np.ndarray:
    return np.unpackbits(bits.astype("<u8").view(np.uint8), axis=1, bitorder="little")[:, :width].astype(bool)


shapes = st.tuples(st.integers(1, 40), st.sampled_from([1, 2, 7, 63, 64, 65, 100, 128, 130]))


# --- one frame ----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(shape=shapes, share=st.sampled_from([0.02, 0.5, 0.98]), seed=st.integers(0, 1 << 30))
def test_the_boundary_is_where_a_pixel_differs_from_its_neighbours(
    shape: tuple[int, int], share: float, seed: int
) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    assert (unpacked(boundary_bits(mask), shape[1]) == reference_boundary(mask)).all()


@settings(max_examples=60, deadline=None)
@given(
    shape=shapes,
    share=st.sampled_from([0.0, 0.01, 0.5]),
    radius=st.sampled_from([0, 1, 3, 8, 40]),
    seed=st.integers(0, 1 << 30),
)
def test_pixels_near_a_boundary_are_those_of_its_dilation_by_a_disk(
    shape: tuple[int, int], share: float, radius: int, seed: int
) -> None:
    one, other = (np.random.default_rng(seed + i).random(shape) < share for i in range(2))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    dilated = ndimage.binary_dilation(reference_boundary(other), y**2 + x**2 <= radius**2)
    boundary = reference_boundary(one)
    counted = count_near(boundary_bits(one), boundary_bits(other), disk_reach(radius))
    assert counted == (boundary.sum(), (boundary & dilated).sum())


@pytest.mark.parametrize("seed", range(8))
def test_boundary_accuracy_is_that_of_dilations(seed: int) -> None:
    random = np.random.default_rng(seed)
    masks = ndimage.gaussian_filter(random.normal(size=(2, 180, 250)), (0, 9, 9)) > 0.01
    expected = reference_f(masks[0], masks[1], 3)  # 0.008 of a diagonal of 308.06 pixels, rounded up
    assert boundary_accuracy(*torch.from_numpy(masks)) == expected


def test_a_mask_scores_one_against_itself_and_zero_against_nothing() -> None:
    square, nothing = torch.zeros(9, 9, dtype=torch.bool), torch.zeros(9, 9, dtype=torch.bool)
    square[2:6, 2:6] = True
    for score in (region_similarity, boundary_accuracy):
        assert score(square, square) == score(nothing, nothing) == 1
        assert score(square, nothing) == score(nothing, square) == 0
    everything = ~nothing
    assert boundary_accuracy(everything, nothing) == 1  # neither has a boundary
    assert region_similarity(everything, nothing) == 0


def test_void_pixels_do_not_count() -> None:
    target, void = torch.zeros(2, 12, 12, dtype=torch.bool)
    target[:, :6] = void[:, 6:] = True
    prediction = torch.ones_like(target)
    assert region_similarity(prediction, target, void) == boundary_accuracy(prediction, target, void) == 1
    assert region_similarity(prediction, target) == 0.5


@pytest.mark.compile
def test_other_shapes_are_told() -> None:
    one, other = torch.zeros(2, 2, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)
    for score in (region_similarity, boundary_accuracy):
        with pytest.raises(ValueError, match=r"one shape, got \(2, 2\) and \(2, 3\)"):
            score(one, other)
    video = torch.zeros(4, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="one shape"):
        davis_sequence(video[1:], video, task="unsupervised")


def test_a_tolerance_is_a_fraction() -> None:
    one = torch.zeros(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="tolerance must be a fraction"):
        boundary_accuracy(one, one, tolerance=3.0)


# --- over frames --------------------------------------------------------------------------------------


def test_quarters_share_their_ends() -> None:
    assert tuple(Statistics.of(np.array([0.25]))) == (0.25, 0, 0)
    assert tuple(Statistics.of(np.array([1.0, 0.5]))) == (0.75, 0.5, 0.5)
    decay = Statistics.of(np.arange(8, 0, -1) / 8).decay
    assert decay == (8 + 7 + 6) / 24 - (3 + 2 + 1) / 24
    with pytest.raises(ValueError, match="at least one frame"):
        Statistics.of(np.zeros(0))


def test_the_decay_of_a_long_video_is_that_of_its_first_and_last_quarter() -> None:
    per_frame = np.linspace(1, 0, 1001)
    # davis2017-evaluation ac7c43f keeps the ends 0, 250, 500, 750, 1000 in 8 bits: 0, 250, 244, 238, 232,
    # and the mean of frames 238..232, which are none, is nan.
    assert Statistics.of(per_frame).decay == pytest.approx(0.75)


# --- sequences ----------------------------------------------------------------------------------------


# davis2017-evaluation ac7c43f on videos 0..5: mean, recall and decay of J, then of F, over all objects.
OFFICIAL: dict[str, Any] = {
    "semi-supervised": [
        0.6238839285714285,
        0.7132936507936508,
        -0.07982804232804232,
        0.7208891369047619,
        0.7653769841269841,
        -0.1388888888888889,
    ],
    "unsupervised": [
        0.6567936671471808,
        0.7486111111111112,
        -0.1547751605128004,
        0.7606646825396827,
        0.8069444444444446,
        -0.21097883597883602,
    ],
}


@pytest.mark.parametrize("task", ["semi-supervised", "unsupervised"])
def test_seeded_videos_score_as_in_the_official_tool(task: Any) -> None:
    metrics = DavisMetrics(task)
    for seed in range(6):
        metrics.update(*video(seed))
    scores = metrics.compute()
    # The official tool adds the objects of the unsupervised task in another order.
    assert [*scores.j, *scores.f] == pytest.approx(OFFICIAL[task], rel=1e-14, abs=1e-15)


def test_the_sample_of_davis_scores_as_in_the_official_tool(shared_data: Callable[..., Path]) -> None:
    folder = shared_data("data", "davis_sample") / "car-shadow"

    def read(name: str) -> Tensor:
        return torch.from_numpy(
            np.stack([np.array(Image.open(p)) for p in sorted((folder / name).glob("*.png"))])
        )

    target = (read("annotations") > 0).byte()
    # davis2017-evaluation ac7c43f on the same frames.
    expected: dict[Any, tuple[str, list[float]]] = {
        "semi-supervised": (
            "results_osvos",
            [0.9284015952829885, 1.0, 0.11028022983041497, 0.9174071827386898, 1.0, 0.1697486757837553],
        ),
        "unsupervised": (
            "results_rvos",
            [0.9195785329881255, 1.0, 0.0024189752188664704, 0.9574679286966106, 1.0, -0.05993804379428591],
        ),
    }
    for task, (name, numbers) in expected.items():
        metrics = DavisMetrics(task)
        metrics.update(read(name), target, "car-shadow")
        scores = metrics.compute()
        assert [*scores.j, *scores.f] == numbers


def test_the_numbers_of_proposals_do_not_matter_but_those_of_objects_do() -> None:
    _, target = video(4)
    swapped = target.clone()
    swapped[target == 1], swapped[target == 2] = 2, 1
    swapped[target == 255] = 0
    free = davis_sequence(swapped, target, task="unsupervised")
    assert [(one.id, one.proposal) for one in free[:2]] == [(1, 2), (2, 1)]
    assert all((one.j == 1).all() and (one.f == 1).all() for one in free)
    bound = davis_sequence(swapped, target, task="semi-supervised")
    assert [one.proposal for one in bound[:2]] == [1, 2]
    assert all((one.j == 0).all() for one in bound[:2])


def test_objects_that_nobody_proposed_score_zero() -> None:
    prediction, target = torch.zeros(4, 8, 8, dtype=torch.uint8), torch.zeros(4, 8, 8, dtype=torch.uint8)
    target[:, 1:3, 1:3], target[:, 5:7, 5:7] = 1, 2
    prediction[:, 5:7, 5:7] = 1
    first, second = davis_sequence(prediction, target, task="unsupervised")
    assert (first.proposal, second.proposal) == (None, 1)
    assert first.j.tolist() == [0] * 4
    assert second.j.tolist() == [1] * 4


def test_objects_are_those_of_the_first_frame() -> None:
    target = torch.zeros(4, 8, 8, dtype=torch.uint8)
    target[:, 1:3, 1:3] = 1
    target[1:, 5:7, 5:7] = 2
    [only] = davis_sequence((target == 1).byte(), target, task="semi-supervised")
    assert only.j.tolist() == [1, 1]


@pytest.mark.parametrize(
    "frames, high, task, message",
    [
        (2, 1, "semi-supervised", "needs at least three frames, got 2 in target in boat"),
        (0, 0, "unsupervised", "needs at least one frame in target, got none in boat"),
        (4, 2, "semi-supervised", r"prediction in boat has the object 2, but the task allows 0\.\.1"),
        (4, 21, "unsupervised", r"has the object 21, but the task allows 0\.\.20"),
    ],
)
def test_sequences_that_cannot_be_scored_are_told(frames: int, high: int, task: Any, message: str) -> None:
    target = torch.zeros(frames, 4, 4, dtype=torch.uint8)
    target[:, 1, 1] = 1
    with pytest.raises(ValueError, match=message):
        DavisMetrics(task).update(high * target, target, "boat")


def test_other_mistakes_are_told() -> None:
    empty = torch.zeros(4, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="first frame of the target has no object"):
        davis_sequence(empty, empty, task="unsupervised")
    with pytest.raises(AttributeError, match="frozen"):
        DavisScores(torch.zeros(0, 6, dtype=torch.float64)).objects = empty


@pytest.mark.compile
def test_an_unknown_task_is_told() -> None:
    wrong: Any = "supervised"
    with pytest.raises(ValueError, match="task must be semi-supervised or unsupervised, got 'supervised'"):
        DavisMetrics(wrong)


def test_without_objects_the_score_is_nan_with_a_warning() -> None:
    scores = DavisScores(torch.zeros(0, 6, dtype=torch.float64))
    with pytest.warns(UserWarning, match="no object"):
        assert np.isnan(scores.j.mean)
    assert "no object" in repr(scores)


def test_states_of_two_processes_add_up() -> None:
    whole, parts = DavisMetrics("semi-supervised"), [DavisMetrics("semi-supervised") for _ in range(2)]
    for seed in range(4):
        for metrics in (whole, parts[seed % 2]):
            metrics.update(*video(seed))
    parts[0].dist_sync_fn = lambda mine, group=None: [mine, torch.cat(parts[1].objects)]
    parts[0].distributed_available_fn = lambda: True
    assert tuple(parts[0].compute().f) == pytest.approx(tuple(whole.compute().f))
    assert len(parts[0].compute().objects) == len(whole.compute().objects)
