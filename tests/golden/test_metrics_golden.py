"""Frozen numbers of losses and scores on maps that a formula draws, the same on every machine."""

import pytest
import torch
from torch import Tensor

from pixelwise.losses import cross_entropy, dice_loss, focal_loss
from pixelwise.metrics import Scores, confusion_matrix
from pixelwise.metrics.pixels.band import band_scores
from pixelwise.metrics.pixels.calibration import calibration
from pixelwise.metrics.pixels.confusion import confusion_from_logits
from pixelwise.types import ClassTable

CLASSES = ClassTable.of("sky", "road", "car", "tram")  # no pixel is a tram, none is predicted so
HEIGHT, WIDTH = 24, 40

MATRIX = [[362, 0, 6, 0], [17, 269, 50, 0], [41, 15, 104, 0], [0, 0, 0, 0]]
IOU = [181 / 213, 269 / 351, 13 / 27]
ACCURACY = [181 / 184, 269 / 336, 13 / 20]
DICE = [181 / 197, 269 / 310, 13 / 20]
BAND = [[96, 0, 6, 0], [17, 52, 41, 0], [38, 12, 38, 0], [0, 0, 0, 0]]  # within 2 pixels of a boundary
FROM_LOGITS = [[91, 108, 80, 89], [99, 51, 58, 128], [60, 26, 42, 32], [0, 0, 0, 0]]
CALIBRATION = (0.3724404527741, 0.8706748217246)
LOSSES = {
    "cross_entropy": 1.957251957681675,
    "weighted": 2.0378211071750103,
    "dice": 0.7241080739565295,
    "squared": 0.6393119140986837,
    "focal": 2.0641958374632225,
}


def maps() -> tuple[Tensor, Tensor]:
    """Prediction and target: a horizon, a box that the prediction shifts by (2, 3), a strip without label."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")

    def scene(down: int, right: int) -> Tensor:
        labels = (rows >= 12 + down // 2).long()
        box = (rows >= 8 + down) & (rows < 18 + down) & (columns >= 10 + right) & (columns < 26 + right)
        return torch.where(box, 2, labels)

    target = scene(0, 0)
    target[:, -4:] = 255
    return scene(2, 3), target


def logits() -> Tensor:
    """Smooth scores of four classes."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    maps = [2 * torch.sin(0.3 * (c + 1) * rows + 0.2 * columns + c) for c in range(4)]
    return torch.stack(maps)[None].double()


def test_the_matrix_is_the_frozen_one() -> None:
    # Boxes of 10 x 16 overlap in 8 x 13 = 104 pixels; 24 x 36 pixels are labelled.
    matrix = confusion_matrix(*maps(), len(CLASSES))
    assert matrix.tolist() == MATRIX
    assert matrix[2, 2] == 104
    assert matrix.sum() == 864


@pytest.mark.parametrize(("absent", "extra", "divisor"), [("exclude", 0, 3), ("zero", 0, 4), ("one", 1, 4)])
def test_the_scores_are_the_frozen_ones(absent: str, extra: int, divisor: int) -> None:
    scores = Scores(confusion_matrix(*maps(), len(CLASSES)), CLASSES, absent)
    assert scores.as_dict() == pytest.approx(
        {
            "pixel_accuracy": 245 / 288,
            "mean_accuracy": (sum(ACCURACY) + extra) / divisor,
            "mean_iou": (sum(IOU) + extra) / divisor,
            "frequency_weighted_iou": 504070 / 672867,
            "mean_dice": (sum(DICE) + extra) / divisor,
        },
        abs=1e-14,
    )


def test_the_losses_are_the_frozen_ones() -> None:
    target = maps()[1][None]
    weight = torch.tensor([0.5, 1.0, 4.0, 2.0])
    values = {
        "cross_entropy": cross_entropy(logits(), target),
        "weighted": cross_entropy(logits(), target, weight=weight, label_smoothing=0.1),
        "dice": dice_loss(logits(), target),
        "squared": dice_loss(logits(), target, squared=True),
        "focal": focal_loss(logits(), target, alpha=weight),
    }
    assert {name: value.item() for name, value in values.items()} == pytest.approx(LOSSES, rel=1e-6)


def test_kappa_and_the_band_are_the_frozen_ones() -> None:
    scores = Scores(confusion_matrix(*maps(), len(CLASSES)), CLASSES)
    # p_o = 735 / 864; p_e = (368 * 420 + 336 * 284 + 160 * 160) / 864^2
    assert scores.kappa == pytest.approx((735 * 864 - 275584) / (864**2 - 275584), abs=1e-14)
    assert band_scores(*maps(), CLASSES, 2).matrix.tolist() == BAND


def test_scores_from_logits_are_the_frozen_ones() -> None:
    _, target = maps()
    assert confusion_from_logits(logits(), target[None]).tolist() == FROM_LOGITS
    assert confusion_from_logits(logits().float(), target[None]).tolist() == FROM_LOGITS
    probability = logits().softmax(1)
    table = calibration(probability.amax(1), probability.argmax(1), target[None])
    assert table.expected_error == pytest.approx(CALIBRATION[0], rel=1e-9)
    assert table.maximum_error == pytest.approx(CALIBRATION[1], rel=1e-9)
