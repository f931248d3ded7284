"""MAE, F-, S- and E-measure: against the definitions written out, pixel by pixel."""

import numpy as np
import pytest
import torch

from pixelwise.metrics import SaliencyMetrics
from pixelwise.metrics.saliency import BETA2


def case(seed: int, size: tuple[int, int] = (13, 17)) -> tuple[torch.Tensor, torch.Tensor]:
    """A map that is a little like its mask."""
    numbers = np.random.default_rng(seed)
    target = np.zeros(size, bool)
    y, x = numbers.integers(1, 5, 2)
    target[y : y + 6, x : x + 7] = True
    values = np.clip(target * 0.6 + numbers.normal(0.2, 0.2, size), 0, 1)
    return torch.from_numpy(values), torch.from_numpy(target)


def plain_f(mask: np.ndarray, target: np.ndarray) -> float:
    hits = (mask & target).sum()
    if not hits:
        return 0.0
    precision, recall = hits / mask.sum(), hits / target.sum()
    return (1 + BETA2) * precision * recall / (BETA2 * precision + recall)


def plain_e(mask: np.ndarray, target: np.ndarray) -> float:
    a, b = mask.astype(float), target.astype(float)
    if not target.any():
        worth = 1 - a
    elif target.all():
        worth = a
    else:
        a, b = a - a.mean(), b - b.mean()
        align = 2 * a * b / (a**2 + b**2 + np.spacing(1))
        worth = (align + 1) ** 2 / 4
    return worth.sum() / (target.size - 1 + np.spacing(1))


@pytest.mark.parametrize("seed", range(4))
def test_f_and_e_are_those_of_masks_at_every_threshold(seed: int) -> None:
    values, target = case(seed)
    metrics = SaliencyMetrics()
    metrics.update(values, target)
    found = metrics.compute()
    v, t = values.numpy(), target.numpy()
    v = (v - v.min()) / (v.max() - v.min())
    masks = [np.floor(v * 255) >= level for level in range(256)]
    f, e = ([measure(mask, t) for mask in masks] for measure in (plain_f, plain_e))
    own = v >= min(2 * v.mean(), 1)
    assert found.max_f == pytest.approx(max(f))
    assert found.mean_f == pytest.approx(np.mean(f))
    assert found.max_e == pytest.approx(max(e))
    assert found.mean_e == pytest.approx(np.mean(e))
    assert (found.adaptive_f, found.adaptive_e) == pytest.approx((plain_f(own, t), plain_e(own, t)))
    assert found.mae == pytest.approx(np.abs(v - t).mean())


def test_the_best_threshold_is_that_of_the_mean_over_images() -> None:
    """Not the mean of each image's best."""
    cases, metrics, single = [case(seed) for seed in range(3)], SaliencyMetrics(), []
    for values, target in cases:
        metrics.update(values, target)
        alone = SaliencyMetrics()
        alone.update(values, target)
        single.append(alone.compute())
    assert metrics.compute().max_f <= np.mean([scores.max_f for scores in single])
    assert metrics.compute().s == pytest.approx(np.mean([scores.s for scores in single]))


def test_the_s_measure_by_hand() -> None:
    # Left half object, map 0.5 there: stretched to 1, so it is perfect. Upside down, it is nothing.
    target = torch.zeros(4, 4, dtype=torch.bool)
    target[:, :2] = True
    metrics = SaliencyMetrics()
    metrics.update(target.double() / 2, target)
    assert metrics.compute().s == pytest.approx(1.0)
    metrics.reset()
    metrics.update(1 - target.double(), target)
    # Objects: 0. Regions: round(mean column 0.5) + 1 = 1 and round(1.5) + 1 = 3, so the parts are 3x1, 3x3,
    # 1x1, 1x3 of 16 pixels. The first column is all object and all missed: 0. In the others one of three
    # columns is object: means 2/3 and 1/3, variances 2/9 n/(n-1) each, covariance the negative: -4ab/(a2+b2)
    # with a = 2/3, b = 1/3 over 2 is -0.8.
    assert metrics.compute().s == 0.0


@pytest.mark.parametrize("level", [0.0, 0.25, 1.0])
def test_images_without_or_full_of_object(level: float) -> None:
    for target, worth in ((torch.zeros(4, 4), 1 - level), (torch.ones(4, 4), level)):
        metrics = SaliencyMetrics()
        metrics.update(torch.full((4, 4), level), target.bool())
        assert metrics.compute().s == pytest.approx(worth)
        assert metrics.compute().mae == pytest.approx(1 - worth)


def test_what_is_no_map_is_refused() -> None:
    metrics = SaliencyMetrics()
    with pytest.raises(ValueError, match=r"must be maps .* in a.jpg"):
        metrics.update(torch.zeros(3, 4), torch.zeros(4, 3, dtype=torch.bool), "a.jpg")
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 0 to 2"):
        metrics.update(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2, dtype=torch.bool))
