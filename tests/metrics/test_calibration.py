"""Confidence against accuracy."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from pixelwise.metrics.pixels.calibration import Calibration, CalibrationMetrics, calibration


def example() -> tuple[Tensor, Tensor, Tensor]:
    probability = (3 * torch.randn(2, 5, 40, 50)).softmax(1)
    target = torch.where(torch.rand(2, 40, 50) < 0.6, probability.argmax(1), torch.randint(0, 5, (2, 40, 50)))
    target[:, :4] = 255
    return probability, target, probability.amax(1)


@pytest.mark.parametrize("bins", [1, 10, 15, 100])
def test_errors_are_those_of_the_papers_sums(bins: int) -> None:
    probability, target, confidence = example()
    table = calibration(confidence, probability.argmax(1), target, bins=bins)
    valid = target != 255
    sure = confidence[valid].double().numpy()
    right = (probability.argmax(1) == target)[valid].numpy()
    gaps, shares = [], []
    for m in range(bins):
        inside = (sure > m / bins) & (sure <= (m + 1) / bins)
        if inside.any():
            gaps.append(abs(right[inside].mean() - sure[inside].mean()))
            shares.append(inside.mean())
    assert table.expected_error == pytest.approx(np.dot(gaps, shares), abs=1e-12)
    assert table.maximum_error == pytest.approx(max(gaps), abs=1e-12)
    assert table.counted == valid.sum()


def test_errors_are_those_of_torchmetrics() -> None:
    probability, target, confidence = example()
    table = calibration(confidence, probability.argmax(1), target)
    for norm, mine in (("l1", table.expected_error), ("max", table.maximum_error)):
        theirs = multiclass_calibration_error(
            probability, target, num_classes=5, n_bins=15, norm=norm, ignore_index=255
        )
        assert mine == pytest.approx(theirs.item(), rel=1e-5)


def test_a_model_that_is_as_sure_as_it_is_right_has_no_error() -> None:
    confidence = torch.tensor([0.75] * 4 + [0.5] * 2 + [1.0])
    right = torch.tensor([1, 1, 1, 0, 1, 0, 1])
    table = calibration(confidence, right, torch.ones(7, dtype=torch.long), bins=10)
    assert table.expected_error == 0
    assert table.maximum_error == 0


def test_bins_are_open_below_and_closed_above() -> None:
    confidence = torch.tensor([0.0, 0.5, 0.500001, 1.0], dtype=torch.float64)
    labels = torch.zeros(4, dtype=torch.long)
    rows = calibration(confidence, labels, labels, bins=2).rows()
    assert [row.pixels for row in rows] == [2, 2]
    assert rows[0] == (0.0, 0.5, 2, 0.25, 1.0)


def test_a_bin_without_pixels_is_nan_and_weighs_nothing() -> None:
    table = calibration(torch.tensor([0.9]), torch.tensor([0]), torch.tensor([0]), bins=3)
    assert math.isnan(table.rows()[0].confidence)
    assert math.isnan(table.rows()[0].accuracy)
    assert table.gaps.isnan().tolist() == [True, True, False]
    assert table.expected_error == pytest.approx(0.1)
    assert table.maximum_error == pytest.approx(0.1)


def test_batches_and_processes_add_up() -> None:
    probability, target, confidence = example()
    whole = calibration(confidence, probability.argmax(1), target)
    metrics = CalibrationMetrics()
    for i in range(2):
        metrics.update(confidence[i], probability.argmax(1)[i], target[i])
    found = metrics.compute()
    assert torch.equal(found.pixels, whole.pixels)
    assert torch.equal(found.right, whole.right)
    torch.testing.assert_close(found.confidence, whole.confidence)
    metrics.distributed_available_fn = lambda: True
    metrics.dist_sync_fn = lambda state, group=None: [state, state]
    metrics.update(confidence[0, :0], target[0, :0], target[0, :0])
    assert torch.equal(metrics.compute().pixels, 2 * whole.pixels)
    assert metrics.compute().expected_error == pytest.approx(whole.expected_error)


def test_a_map_larger_than_a_piece_is_binned_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    probability, target, confidence = example()
    whole = calibration(confidence, probability.argmax(1), target)
    monkeypatch.setattr("pixelwise.metrics.pixels.calibration._AT_ONCE", 77)
    pieces = calibration(confidence, probability.argmax(1), target)
    assert torch.equal(pieces.pixels, whole.pixels)
    assert pieces.expected_error == pytest.approx(whole.expected_error, rel=1e-12)


def test_nothing_labelled_gives_nan_with_a_warning() -> None:
    labels = torch.full((3,), 255)
    table = calibration(torch.full((3,), 0.5), labels, labels)
    for name in ("expected_error", "maximum_error"):
        with pytest.warns(UserWarning, match="no labelled pixel was counted"):
            assert math.isnan(getattr(table, name))


def test_logits_and_wrong_shapes_are_refused() -> None:
    labels = torch.zeros(2, dtype=torch.long)
    for wrong in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match="probabilities, not logits"):
            calibration(torch.tensor([0.5, wrong]), labels, labels)
    calibration(torch.tensor([0.5, 7.0]), labels, torch.tensor([0, 255]))  # an ignored pixel may say anything
    with pytest.raises(ValueError, match="at least one bin"):
        CalibrationMetrics(bins=0)
    with pytest.raises(ValueError, match="at least one bin"):
        calibration(torch.rand(2), labels, labels, bins=0)
    with pytest.raises((ValueError, TypeError), match=r"shape|target"):
        calibration(torch.rand(2), labels, labels[:1])


def test_tables_add_up_by_their_counts() -> None:
    probability, target, confidence = example()
    one, other = (calibration(confidence[i], probability.argmax(1)[i], target[i]) for i in range(2))
    both = Calibration(one.pixels + other.pixels, one.right + other.right, one.confidence + other.confidence)
    assert both.counted == (target != 255).sum()
