"""Cross-entropy and focal loss against formulas written again in float64 NumPy, and peers."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from pixelwise.losses import cross_entropy, focal_loss

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


def test_the_mean_divides_by_the_labels_that_count() -> None:
    logits, labels = example(6, 5)
    count = int((labels != IGNORE).sum())
    for loss in (cross_entropy, focal_loss):
        total = loss(logits, labels, reduction="sum")
        assert total.item() / count == pytest.approx(loss(logits, labels).item())
    per_pixel = cross_entropy(logits, labels, reduction="none")
    assert per_pixel.shape == labels.shape
    assert (per_pixel[labels == IGNORE] == 0).all()


def test_the_sum_of_an_image_is_averaged_over_images_for_fcn() -> None:
    logits, labels = example(6, 5, b=3)
    sums = [
        F.cross_entropy(x[None], y[None], ignore_index=IGNORE, reduction="sum")
        for x, y in zip(logits, labels, strict=True)
    ]
    torch.testing.assert_close(cross_entropy(logits, labels, reduction="image_sum"), torch.stack(sums).mean())


def test_focal_without_focus_is_cross_entropy() -> None:
    logits, labels = example(6, 5)
    torch.testing.assert_close(focal_loss(logits, labels, gamma=0.0), cross_entropy(logits, labels))


# --- maps of weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("exclusive", [True, False])
def test_the_weight_of_a_pixel_multiplies_that_of_its_label(
    weight: list[float] | None, exclusive: bool
) -> None:
    logits, labels = example(6, 5) if exclusive else multilabel_example(6, 5)
    maps = torch.rand(2, 6, 5, dtype=torch.float64)
    maps[0, 0, 0] = torch.nan  # is ignored
    factors = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    settings = {"weight": factors, "exclusive": exclusive}
    parts = cross_entropy(logits, labels, reduction="none", **settings)
    of_label = torch.ones(4).double() if factors is None else factors
    if exclusive:
        share = of_label[labels.clamp_max(3)] * maps
    else:
        share = of_label[:, None, None] * maps[:, None]
        maps = maps[:, None].expand(logits.shape)
    valid = labels != IGNORE
    total, count = (parts * maps)[valid].sum(), share.expand(labels.shape)[valid].sum()
    maps = maps if exclusive else maps[:, 0]
    for reduction, expected in (("sum", total), ("mean", total / count)):
        loss = cross_entropy(logits, labels, pixel_weight=maps, reduction=reduction, **settings)
        torch.testing.assert_close(loss, expected)


def test_a_map_of_ones_changes_nothing() -> None:
    logits, labels = example(6, 5)
    weight = torch.tensor(WEIGHTS[1])
    ones = torch.ones(labels.shape)
    torch.testing.assert_close(
        cross_entropy(logits, labels, weight=weight, pixel_weight=ones),
        cross_entropy(logits, labels, weight=weight),
    )


# --- a sigmoid per class --------------------------------------------------------------------------------


def multilabel_example(*grid: int, b: int = 2, k: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits, and labels of which some are ignored and the last class is nowhere."""
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(b, k, *grid, dtype=torch.float64, generator=random)
    labels = torch.randint(0, 2, (b, k, *grid), generator=random)
    labels[:, -1] = 0
    labels[0, :, 0] = labels[1, 1, -1] = IGNORE
    return logits, labels


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_multilabel_cross_entropy_is_its_formula(
    grid: tuple[int, ...], weight: list[float] | None, smoothing: float
) -> None:
    logits, labels = multilabel_example(*grid)
    x, y = (np.moveaxis(part.numpy(), 1, -1).reshape(-1, 4) for part in (logits, labels))
    p = 1 / (1 + np.exp(-x))
    target = y * (1 - smoothing) + smoothing / 2
    terms = -(target * np.log(p) + (1 - target) * np.log(1 - p))
    factors = np.broadcast_to(weight or [1.0] * 4, x.shape)
    valid = y != IGNORE
    ours = cross_entropy(
        logits,
        labels,
        exclusive=False,
        weight=None if weight is None else torch.tensor(weight),
        label_smoothing=smoothing,
    )
    assert ours.item() == pytest.approx((terms * factors)[valid].sum() / factors[valid].sum())


def test_multilabel_cross_entropy_and_its_gradient_are_those_of_pytorch() -> None:
    logits, labels = multilabel_example(6, 5)
    valid = labels != IGNORE
    x, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ours = cross_entropy(x, labels, exclusive=False)
    theirs = F.binary_cross_entropy_with_logits(y[valid], labels[valid].double())
    ours.backward()
    theirs.backward()
    torch.testing.assert_close((ours, x.grad), (theirs, y.grad))


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_multilabel_focal_and_its_gradient_are_those_of_torchvision(
    alpha: float | None, gamma: float
) -> None:
    logits, labels = multilabel_example(6, 5)
    valid = labels != IGNORE
    x, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ours = focal_loss(
        x, labels, exclusive=False, gamma=gamma, alpha=None if alpha is None else torch.full((4,), alpha)
    )
    theirs = sigmoid_focal_loss(
        y[valid], labels[valid].double(), alpha=-1 if alpha is None else alpha, gamma=gamma, reduction="mean"
    )
    ours.backward()
    theirs.backward()
    torch.testing.assert_close((ours, x.grad), (theirs, y.grad))


def test_each_class_of_a_multilabel_focal_loss_has_its_own_alpha() -> None:
    logits, labels = multilabel_example(6, 5)
    alpha = torch.tensor([0.1, 0.25, 0.5, 0.9], dtype=torch.float64)
    total = focal_loss(logits, labels, exclusive=False, alpha=alpha, reduction="sum")
    one_by_one = [
        focal_loss(logits[:, [c]], labels[:, [c]], exclusive=False, alpha=alpha[[c]], reduction="sum")
        for c in range(4)
    ]
    torch.testing.assert_close(total, torch.stack(one_by_one).sum())
