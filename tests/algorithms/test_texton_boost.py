"""TextonBoost: its parts against plain references, the whole on textures that only layout tells apart."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from pixelwise.algorithms.images import colors_of
from pixelwise.algorithms.texton_boost import (
    TextonBoost,
    load_texton_boost,
    save_texton_boost,
    train_texton_boost,
)
from pixelwise.algorithms.textons import Textons, filter_bank
from pixelwise.kernels.classical.texton_boost import best_stump, count_texton, fractions
from pixelwise.types import ClassTable, LabelMap, Sample

RANDOM = np.random.default_rng(0)


def textures(seed: int, size: tuple[int, int] = (48, 64)) -> Sample:
    """Stripes along and across in the same two colours, and a flat third class; a margin is ignored."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    edge = random.integers(24, 40)
    labels = np.where(columns < edge, 0, 1)
    labels[: random.integers(8, 16)] = 2
    stripes = np.where(labels == 0, rows // 2 % 2, columns // 2 % 2) * 120 + 60
    stripes[labels == 2] = 120
    image = stripes[..., None] + random.normal(0, 12, (*size, 3))
    labels[:, :2] = 255
    tensor = torch.from_numpy((image / 255).clip(0, 1).astype(np.float32)).permute(2, 0, 1)
    return Sample(tensor, LabelMap(torch.from_numpy(labels)), str(seed))


CLASSES = ClassTable.of("lying", "standing", "flat")
SMALL = {"num_textons": 16, "rounds": 60, "candidates": 40, "reach": 12, "step": 2}


@pytest.fixture(scope="module")
def model() -> TextonBoost:
    return train_texton_boost([textures(seed) for seed in range(4)], CLASSES, **SMALL)


def test_there_are_17_filters_in_the_order_of_the_paper() -> None:
    image = RANDOM.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    responses, lab = filter_bank(image), colors_of(image, "lab")
    assert responses.shape == (30, 40, 17)
    assert np.allclose(responses[..., 4], gaussian_filter(lab[..., 1], 2, mode="mirror", truncate=3))
    ramp = np.repeat(np.linspace(0, 1, 60)[None], 50, axis=0)[..., None].repeat(3, 2)
    slopes = filter_bank(ramp)[25, 30, 9:13]
    assert (slopes[:2] > 0.5).all()  # along x, of sigma 2 and 4
    assert np.abs(slopes[2:]).max() < 1e-9  # along y
    flat = filter_bank(np.full((40, 40, 3), 0.5))
    assert np.abs(flat[..., 13:]).max() < 0.01 * flat[0, 0, 0]  # Laplacians, but for sampling


def test_a_texton_is_the_nearest_whitened_centre() -> None:
    image = RANDOM.integers(0, 256, (20, 25, 3), dtype=np.uint8)
    textons = Textons.of([image], 7)
    white = (filter_bank(image) - textons.mean) @ textons.whitening
    assert np.allclose(np.cov(white.reshape(-1, 17).T, bias=True), np.eye(17), atol=1e-6)
    away = np.linalg.norm(white[:, :, None] - textons.centers, axis=3)
    assert (textons.map(image) == away.argmin(2)).mean() > 0.999  # float32 in the kernel


def test_features_count_textons_in_rectangles() -> None:
    maps = RANDOM.integers(0, 3, (2, 9, 11)).astype(np.int16)
    total = np.zeros((2, 10, 12), np.int32)
    count_texton(maps, 1, total)
    places = np.array(list(itertools.product(range(2), range(9), range(11))))
    values = np.empty(len(places), np.float32)
    for rectangle in ([-2, -3, 1, 4], [2, 1, 6, 3], [-30, -30, -20, -20]):
        fractions(total, places, np.array(rectangle), values)
        top, left, bottom, right = rectangle
        for (i, y, x), value in zip(places, values, strict=True):
            rows = [r for r in range(y + top, y + bottom) if 0 <= r < 9]
            columns = [c for c in range(x + left, x + right) if 0 <= c < 11]
            covered = sum(maps[i, r, c] == 1 for r in rows for c in columns)
            assert value == pytest.approx(covered / ((bottom - top) * (right - left)))


def squared_error(weights: np.ndarray, z: np.ndarray, high: np.ndarray, member: np.ndarray) -> float:
    """Of the best values above and below for the members, and the best constant for each other class."""
    fitted = (weights * z).sum(0) / weights.sum(0) * np.ones_like(z)
    for side in (high, ~high):
        if side.any() and member.any():
            part = weights[side][:, member]
            fitted[np.ix_(side, member)] = (part * z[side][:, member]).sum() / part.sum()
    return float((weights * (z - fitted) ** 2).sum())


def test_a_stump_fits_as_well_as_least_squares_of_the_classes_it_says() -> None:
    subsets = [np.array(m, bool) for m in itertools.product([0, 1], repeat=4)][1:]
    thresholds, shared = np.linspace(0, 1, 6, endpoint=False), np.empty(4, np.int64)
    for _ in range(10):
        values, labels = RANDOM.random(80).astype(np.float32), RANDOM.integers(0, 4, 80)
        weights = RANDOM.random((80, 4)).astype(np.float32)
        gain, at, above, below = best_stump(values, labels, weights, thresholds, shared)
        z, high = np.where(labels[:, None] == np.arange(4), 1.0, -1.0), values > thresholds[at]
        found = squared_error(weights, z, high, shared > 0)
        assert found == pytest.approx(weights.sum() - gain, rel=1e-5)
        alone = [m for m in subsets if m.sum() == 1]
        assert (
            found <= min(squared_error(weights, z, values > t, m) for t in thresholds for m in alone) + 1e-4
        )
        part = weights[high][:, shared > 0]
        assert above == pytest.approx((part * z[high][:, shared > 0]).sum() / part.sum(), rel=1e-4)
        assert below != above


def test_textures_are_told_apart(model: TextonBoost) -> None:
    assert model.trace[-1] < 0.5 * model.trace[0]
    sample = textures(100)
    known = sample.target.labels.numpy() != 255
    truth = sample.target.labels.numpy()[known]
    p = model.probabilities(sample.image)
    assert np.allclose(p.sum(2), 1)
    boosted = (p.argmax(2)[known] == truth).mean()
    found = model.segment(sample.image, colors=True)
    smooth = (found.label_map.labels.numpy()[known] == truth).mean()
    plain = model.segment(sample.image).label_map.labels.numpy()
    assert (plain[known] == truth).mean() > 0.8
    assert boosted > 0.75
    assert smooth > max(0.8, boosted)


def test_a_model_is_kept_in_a_file(model: TextonBoost, tmp_path: Path) -> None:
    save_texton_boost(model, tmp_path / "model.safetensors")
    again = load_texton_boost(tmp_path / "model.safetensors")
    image = textures(5).image
    assert (again.probabilities(image) == model.probabilities(image)).all()
    assert again.trace == model.trace
    (tmp_path / "other.safetensors").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"other.safetensors is no TextonBoost model"):
        load_texton_boost(tmp_path / "other.safetensors")


def test_a_seed_repeats_a_training(model: TextonBoost) -> None:
    again = train_texton_boost([textures(seed) for seed in range(4)], CLASSES, **SMALL)
    assert again.trace == model.trace
    assert (again.features == model.features).all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: train_texton_boost([], CLASSES), "at least one image"),
        (lambda: train_texton_boost([textures(0)], CLASSES, rounds=0), "rounds"),
        (lambda: train_texton_boost([textures(0)], ClassTable.of("a", "b")), r"labels 0..2, the table has 2"),
        (
            lambda: train_texton_boost([Sample(torch.zeros(3, 8, 8), None, "bare")], CLASSES),
            "'bare' has no labels",
        ),
        (
            lambda: train_texton_boost(
                [Sample(torch.zeros(3, 8, 8), LabelMap(torch.full((8, 8), 255)), "void")],
                CLASSES,
                num_textons=1,
            ),
            "no labelled pixel",
        ),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
