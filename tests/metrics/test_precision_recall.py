"""Average precision of pixels is scikit-learn's, and the best threshold is found by trying them all."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from pixelwise.metrics import PixelPrecisionRecall
from pixelwise.types import ClassTable

TABLE = ClassTable(("a", "b", "c"), ((0, 0, 0),) * 3, exclusive=False)


def images(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities in the middle of bins, that tell something of a target with ignored pixels."""
    random = np.random.default_rng(seed)
    target = random.integers(0, 2, (3, 20, 30))
    bins = np.clip(random.normal(400 + 200 * target, 200), 0, 999).astype(int)
    target[random.random(target.shape) < 0.1] = 255
    return torch.from_numpy((bins + 0.5) / 1000), torch.from_numpy(target)


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_that_of_scikit_learn_over_all_images(seed: int) -> None:
    curves = PixelPrecisionRecall(TABLE)
    both = [images(seed), images(seed + 100)]
    for probabilities, target in both:
        curves.update(probabilities, target)
    found = curves.compute()
    for label in range(3):
        probability = torch.cat([p[label].flatten() for p, _ in both])
        target = torch.cat([t[label].flatten() for _, t in both])
        known = target != 255
        expected = average_precision_score(target[known], probability[known])
        assert found.average_precision[label].item() == pytest.approx(expected, abs=1e-9)
        dice = [
            2 * int((above & (target[known] == 1)).sum()) / int(above.sum() + (target[known] == 1).sum())
            for threshold in np.arange(1000) / 1000
            for above in [probability[known] >= threshold]
        ]
        assert found.best_thresholds[label].item() == pytest.approx(np.argmax(dice) / 1000)
        assert found.dice[label].max().item() == pytest.approx(max(dice))


def test_a_class_that_is_nowhere_has_no_average_precision() -> None:
    curves = PixelPrecisionRecall(TABLE)
    probabilities, target = images(0)
    target[1] = 0
    curves.update(probabilities, target)
    found = curves.compute()
    assert found.average_precision.isnan().tolist() == [False, True, False]
    assert found.best_thresholds[1] == 0.5


def test_shapes_that_do_not_fit_are_told() -> None:
    with pytest.raises(ValueError, match="of 3 classes must have one shape"):
        PixelPrecisionRecall(TABLE).update(torch.rand(2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long))


@pytest.mark.compile
def test_what_is_no_probability_and_no_target_is_refused() -> None:
    curves, target = PixelPrecisionRecall(TABLE), torch.ones(len(TABLE), 2, 2).long()
    probabilities = torch.rand(len(TABLE), 2, 2)
    for wrong in (math.nan, -0.1, 1.1):
        damaged = probabilities.clone()
        damaged[1, 0, 1] = wrong
        with pytest.raises(ValueError, match=r"probabilities of class 1 must lie in \[0, 1\]"):
            curves.update(damaged, target)
    with pytest.raises(ValueError, match=r"target of class 0 must hold 0, 1 or 255 \(ignore\)"):
        curves.update(probabilities, 2 * target)
    with pytest.raises(ValueError, match="target must hold labels, which are integers, got float32"):
        curves.update(probabilities, target.float())
    assert not curves.counts.any(), "an image that is refused leaves no trace"
