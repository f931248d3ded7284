"""Argmax and softmax of scores that are resized on the way, beside torch and plain NumPy."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pixelwise.kernels.pixels.argmax import argmax, argmax_of_pixels, resized_argmax, settle
from pixelwise.kernels.pixels.resizing import resized_axis
from pixelwise.kernels.pixels.softmax import resized_confidence

SIZES = [  # h, w, H, W; torch interpolates in the kernels' order where H + W > 128
    (8, 12, 64, 96), (9, 13, 65, 97), (40, 40, 17, 190), (1, 2, 70, 70), (21, 30, 84, 120), (2, 3, 300, 5),
    (33, 47, 130, 187), (50, 60, 100, 29), (64, 64, 64, 128), (31, 200, 40, 100), (5, 7, 1, 200),
    (3, 90, 20, 2500),
]  # fmt: skip


def network_like(k: int, h: int, w: int) -> Tensor:
    """Smooth scores with a little noise, as networks give them."""
    coarse = 6 * torch.randn(1, k, h // 8 + 2, w // 8 + 2)
    smooth = F.interpolate(coarse, (h, w), mode="bicubic")[0]
    return (smooth + 0.15 * torch.randn(k, h, w)).contiguous()


def scores(kind: str, k: int, h: int, w: int) -> Tensor:
    if kind == "smooth":
        return network_like(k, h, w)
    noise = torch.randn(k, h, w)
    if kind == "ties":
        return noise.round()
    if kind == "near ties":
        return 1 + noise.round() * 2.0**-23
    if kind == "tiny":
        return noise * 1e-38
    if kind == "huge":
        return noise * 1e37
    return noise


KINDS = ["smooth", "noise", "ties", "near ties", "tiny", "huge"]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_resized_scores_are_torchs(
    kind: str, size: tuple[int, int, int, int], align_corners: bool
) -> None:
    for k in (1, 2, 5, 40):
        h, w, height, width = size
        coarse = scores(kind, k, h, w)
        fine = F.interpolate(coarse[None], (height, width), mode="bilinear", align_corners=align_corners)[0]
        labels = np.empty((height, width), np.int64)
        for threads in (1, 3):
            labels[:] = -1
            assert resized_argmax(coarse.numpy(), labels, align_corners, threads)
            np.testing.assert_array_equal(labels, fine.argmax(0).numpy())
        if kind == "huge":
            continue
        labels[:], probability = -1, np.empty((height, width), np.float32)
        assert resized_confidence(coarse.numpy(), labels, probability, align_corners)
        np.testing.assert_array_equal(labels, fine.argmax(0).numpy())
        np.testing.assert_allclose(probability, fine.softmax(0).amax(0).numpy(), rtol=2e-6)


@pytest.mark.slow
def test_labels_at_the_size_of_a_street_scene_are_torchs() -> None:
    for k in (19, 150):
        for kind in ("smooth", "noise"):
            coarse = scores(kind, k, 256, 512)
            fine = F.interpolate(coarse[None], (1024, 2048), mode="bilinear")[0].argmax(0)
            labels = np.empty((1024, 2048), np.int64)
            assert resized_argmax(coarse.numpy(), labels, False, 2)
            np.testing.assert_array_equal(labels, fine.numpy())


def test_the_weights_of_an_axis_are_those_of_the_formula() -> None:
    for source, size, align_corners in (
        (10, 37, False),
        (10, 37, True),
        (37, 10, False),
        (5, 1, True),
        (7, 7, True),
    ):
        axis = resized_axis(source, size, align_corners)
        steps = np.arange(size)
        if align_corners:
            position = steps * ((source - 1) / (size - 1) if size > 1 else 0)
        else:
            position = np.maximum((steps + 0.5) * source / size - 0.5, 0)
        values = np.random.default_rng(0).standard_normal(source)
        expected = np.interp(position, np.arange(source), values)
        found = values[axis.first] * axis.weight_of_first + values[axis.second] * axis.weight_of_second
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert (np.diff(axis.first) >= 0).all()


def test_a_pixel_is_settled_only_where_no_rounding_can_change_its_class() -> None:
    last_bit = 1 + 2.0**-23
    rows = {
        (0.0, 1.0, 0.5): 1,  # a clear lead
        (1.0, 1.0, 1.0): 0,  # the first of equals leads after any rounding
        (last_bit, 1.0, 1.0): 0,  # those behind it cannot pass
        (1.0, last_bit, 0.0): -1,  # the first may catch up
        (1.0, 0.0, last_bit): -1,
        (-5.0, -1.0, -1.0): 1,
        (0.0, 1e-40, 0.0): -1,
    }
    flat = np.array(list(rows), np.float32).T.copy()
    found = np.empty(len(rows), np.int32)
    assert settle(flat, 0, found)
    assert found.tolist() == list(rows.values())


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_told(wrong: float) -> None:
    for place in ((0, 0, 0), (4, 9, 19), (2, 5, 11)):
        coarse = np.zeros((5, 10, 20), np.float32)
        coarse[place] = wrong
        labels, probability = np.empty((80, 90), np.int64), np.empty((80, 90), np.float32)
        assert not resized_argmax(coarse, labels, False)
        assert not resized_argmax(coarse, labels, False, 2)
        assert not resized_confidence(coarse, labels, probability, False)


@pytest.mark.parametrize("pixels", [1, 7, 2048, 5000])
def test_argmax_is_torchs_with_ties_and_nan(pixels: int) -> None:
    for k in (1, 2, 21, 300):
        coarse = torch.randn(k, pixels).round()
        coarse[torch.rand(k, pixels) < 0.02] = float("nan")
        coarse[torch.rand(k, pixels) < 0.02] = float("inf")
        expected = coarse.argmax(0).numpy()
        np.testing.assert_array_equal(argmax(coarse.numpy(), 0, pixels), expected)
        middle = pixels // 3, pixels - pixels // 4
        np.testing.assert_array_equal(argmax(coarse.numpy(), *middle), expected[slice(*middle)])
        found = np.empty((1, pixels), np.int64)
        argmax_of_pixels(coarse.numpy().T.reshape(1, -1), k, found)
        np.testing.assert_array_equal(found[0], expected)


@pytest.mark.parametrize("k", [1, 2, 3, 12, 13, 40])
def test_argmax_of_a_part_of_an_image_into_a_part_of_a_map(k: int) -> None:
    scores = torch.randn(1, k, 37, 50).round().contiguous(memory_format=torch.channels_last)
    scores[torch.rand(scores.shape) < 0.01] = float("nan")
    found = np.full((40, 60), -1)
    rows = scores[0].permute(1, 2, 0).flatten(1).numpy()
    argmax_of_pixels(rows[5:30, 7 * k : 45 * k], k, found[2:27, 3:41])
    np.testing.assert_array_equal(found[2:27, 3:41], scores[0].argmax(0)[5:30, 7:45].numpy())
    assert (found == -1).sum() == found.size - 25 * 38  # nothing else is written
