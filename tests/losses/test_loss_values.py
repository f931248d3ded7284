"""Losses against formulas written again in float64 NumPy, worked numbers, and peers where they are right."""

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.nn import functional as F

from pixelwise.losses import cross_entropy, dice_loss, focal_loss

IGNORE = 255


def example(*grid: int, b: int = 2, k: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits, and labels of which the first row is ignored and the last class is never used."""
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(b, k, *grid, dtype=torch.float64, generator=random)
    labels = torch.randint(0, k - 1, (b, *grid), generator=random)
    labels[:, 0] = IGNORE
    return logits, labels


def softmax(logits: Tensor) -> np.ndarray:
    """p of every counted pixel and class, n k; from exponentials, without any log-sum-exp."""
    x = np.moveaxis(logits.numpy(), 1, -1)
    e = np.exp(x)
    return e / e.sum(-1, keepdims=True)


def counted_pixels(logits: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    valid = labels.numpy() != IGNORE
    return softmax(logits)[valid], labels.numpy()[valid]


def numpy_cross_entropy(logits: Tensor, labels: Tensor, weight: np.ndarray, smoothing: float = 0.0) -> float:
    p, y = counted_pixels(logits, labels)
    k = p.shape[1]
    total = share = 0.0
    for pixel, label in zip(p, y, strict=True):
        target = np.full(k, smoothing / k)
        target[label] += 1 - smoothing
        total += -(target * weight * np.log(pixel)).sum()
        share += weight[label]
    return total / share


def numpy_dice(logits: Tensor, labels: Tensor, weight: np.ndarray, power: int = 1) -> float:
    p, y = counted_pixels(logits, labels)
    losses, weights = [], []
    for c in np.unique(y):
        g = (y == c).astype(float)
        losses.append(1 - 2 * (p[:, c] * g).sum() / ((p[:, c] ** power).sum() + (g**power).sum()))
        weights.append(weight[c])
    return np.average(losses, weights=weights)


def numpy_focal(logits: Tensor, labels: Tensor, alpha: np.ndarray, gamma: float) -> float:
    p, y = counted_pixels(logits, labels)
    p_true = p[np.arange(len(y)), y]
    return (alpha[y] * (1 - p_true) ** gamma * -np.log(p_true)).mean()


GRIDS = [(7,), (6, 5), (3, 4, 5)]
WEIGHTS = [None, [1.0, 0.25, 3.0, 0.5]]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_its_formula(
    grid: tuple[int, ...], weight: list[float] | None, smoothing: float
) -> None:
    logits, labels = example(*grid)
    ours = cross_entropy(
        logits, labels, weight=None if weight is None else torch.tensor(weight), label_smoothing=smoothing
    )
    assert ours.item() == pytest.approx(
        numpy_cross_entropy(logits, labels, np.array(weight or [1.0] * 4), smoothing)
    )


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("squared", [False, True])
def test_dice_is_its_formula(grid: tuple[int, ...], weight: list[float] | None, squared: bool) -> None:
    logits, labels = example(*grid)
    ours = dice_loss(logits, labels, weight=None if weight is None else torch.tensor(weight), squared=squared)
    theirs = numpy_dice(logits, labels, np.array(weight or [1.0] * 4), power=2 if squared else 1)
    assert ours.item() == pytest.approx(theirs)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("alpha", WEIGHTS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_is_its_formula(grid: tuple[int, ...], alpha: list[float] | None, gamma: float) -> None:
    logits, labels = example(*grid)
    ours = focal_loss(logits, labels, gamma=gamma, alpha=None if alpha is None else torch.tensor(alpha))
    assert ours.item() == pytest.approx(numpy_focal(logits, labels, np.array(alpha or [1.0] * 4), gamma))


# --- reductions and denominators --------------------------------------------------------------------


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_and_its_gradient_are_those_of_pytorch(
    weight: list[float] | None, smoothing: float, reduction: str
) -> None:
    logits, labels = example(6, 5)
    factors = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    results = []
    for function, ignored in (
        (cross_entropy, {"ignore": IGNORE}),
        (F.cross_entropy, {"ignore_index": IGNORE}),
    ):
        x = logits.clone().requires_grad_()
        loss = function(x, labels, weight=factors, label_smoothing=smoothing, reduction=reduction, **ignored)
        loss.sum().backward()
        results.append((loss.detach(), x.grad))
    torch.testing.assert_close(results[0], results[1])


def test_the_weighted_mean_of_cross_entropy_divides_by_weights_and_that_of_focal_by_pixels() -> None:
    logits, labels = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 0, 1, IGNORE]]])
    weight = torch.tensor([1.0, 4.0])
    log2 = np.log(2)
    assert cross_entropy(logits, labels, weight=weight).item() == pytest.approx(
        log2
    )  # (1+1+4) log 2 / (1+1+4)
    assert focal_loss(logits, labels, gamma=0.0, alpha=weight).item() == pytest.approx(6 * log2 / 3)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_sum_and_none_agree_with_the_mean(reduction: str) -> None:
    logits, labels = example(6, 5)
    count = int((labels != IGNORE).sum())
    for loss, divisor in ((cross_entropy, count), (focal_loss, count), (dice_loss, 3)):  # 3 classes are there
        total = loss(logits, labels, reduction=reduction)
        assert total.sum().item() / divisor == pytest.approx(loss(logits, labels).item())
    per_pixel = cross_entropy(logits, labels, reduction="none")
    assert per_pixel.shape == labels.shape
    assert (per_pixel[labels == IGNORE] == 0).all()
    per_class = dice_loss(logits, labels, reduction="none")
    assert per_class.shape == (4,)
    assert per_class[3] == 0


def test_focal_without_focus_is_cross_entropy() -> None:
    logits, labels = example(6, 5)
    torch.testing.assert_close(focal_loss(logits, labels, gamma=0.0), cross_entropy(logits, labels))


# --- Dice ----------------------------------------------------------------------------------------------


def test_the_squared_dice_of_one_undecided_pixel_is_four_fifths_with_slope_0_96() -> None:
    # p = 1/2, g = 1: D = 2 p g / (p^2 + g^2) = 0.8 and dD/dp = 0.96; dp/dlogit = p (1 - p) = 1/4.
    logits = torch.zeros(1, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    loss = dice_loss(logits, torch.ones(1, 1, 1, dtype=torch.long), squared=True)
    loss.backward()
    assert loss.item() == pytest.approx(1 - 0.8)
    assert logits.grad[0, 1].item() == pytest.approx(-0.96 / 4)


def test_dice_of_a_perfect_prediction_is_zero_and_of_a_wrong_one_is_one_however_many_classes_are_absent() -> (
    None
):
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    for k in (2, 3, 150):
        right = torch.full((1, k, 4, 4), -50.0)
        right[:, 0] = 50.0
        wrong = right.roll(1, 1)
        assert dice_loss(right, labels).item() == pytest.approx(0, abs=1e-6)
        assert dice_loss(wrong, labels).item() == pytest.approx(1)
    # What a peer says to the wrong prediction over three classes: a third, by dividing by absent classes.
    peer = smp.losses.DiceLoss("multiclass")
    wrong = torch.full((1, 3, 4, 4), -50.0)
    wrong[:, 1] = 50.0
    assert peer(wrong, labels).item() == pytest.approx(1 / 3, abs=1e-3)


@pytest.mark.parametrize("weight", [None, [1.0, 0.25, 3.0]])
def test_dice_is_that_of_smp_when_every_class_is_there(weight: list[float] | None) -> None:
    logits, labels = example(8, 8, k=4)
    logits = logits[:, :3].float()  # the fourth class is the one that no label holds
    theirs = smp.losses.DiceLoss("multiclass", ignore_index=IGNORE, class_weights=weight)(logits, labels)
    ours = dice_loss(logits, labels, weight=None if weight is None else torch.tensor(weight))
    torch.testing.assert_close(ours, theirs)


def test_the_dice_of_a_batch_counts_the_pixels_of_all_its_images_together() -> None:
    logits, labels = example(6, 5)
    beside = dice_loss(torch.cat([*logits], -1)[None], torch.cat([*labels], -1)[None])
    torch.testing.assert_close(dice_loss(logits, labels), beside)
