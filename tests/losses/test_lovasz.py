"""Lovász-softmax and hinge against their definition in float64 NumPy, and against SMP."""

import itertools

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor

from pixelwise.kernels.pixels.lovasz import lovasz_jaccard, softmax_gradient
from pixelwise.losses import lovasz_loss
from pixelwise.losses.lovasz import _extension, _gradient, _sorted, lovasz_reference

IGNORE = 255


def reference(errors: np.ndarray, truth: np.ndarray) -> tuple[float, np.ndarray]:
    """The plain definition at the top of losses/lovasz.py; and its slopes."""
    leaf = torch.from_numpy(errors).double().requires_grad_()
    value = lovasz_reference(leaf, torch.from_numpy(truth))
    value.backward()
    return value.item(), leaf.grad.numpy()


def by_levels(errors: np.ndarray, truth: np.ndarray) -> float:
    """The definition (equation 8 as an integral): the Jaccard loss of {error >= t}, over all t."""
    levels = np.unique(np.append(np.maximum(errors, 0), 0))
    total = 0.0
    for low, high in itertools.pairwise(levels):
        wrong = errors >= high
        hits, union = (truth & ~wrong).sum(), (truth | wrong).sum()
        total += (high - low) * (1 - hits / union)
    return total


def pixels(
    logits: Tensor, labels: Tensor, exclusive: bool, images: list[int]
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Errors, truth and "counts" of each class over some images."""
    x = np.moveaxis(logits.numpy()[images], 1, 0).reshape(logits.shape[1], -1)
    if exclusive:
        y = labels.numpy()[images].reshape(-1)
        p = np.exp(x) / np.exp(x).sum(0)
        return [(np.where(y == c, 1 - p[c], p[c]), y == c, y != IGNORE) for c in range(len(x))]
    y = np.moveaxis(labels.numpy()[images], 1, 0).reshape(len(x), -1)
    return [(np.where(t == 1, 1 - z, 1 + z), t == 1, t != IGNORE) for z, t in zip(x, y, strict=True)]


def example(*grid: int, exclusive: bool, k: int = 4) -> tuple[Tensor, Tensor]:
    """Logits, and labels of which some are ignored and the last class is nowhere."""
    logits = torch.randn(2, k, *grid, dtype=torch.float64)
    if exclusive:
        labels = torch.randint(0, k - 1, (2, *grid))
    else:
        labels = torch.randint(0, 2, (2, k, *grid))
        labels[:, -1] = 0
        labels[1, 1, -1] = IGNORE
    labels[0, ..., 0] = IGNORE
    return logits, labels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["kernel", "torch"])
@pytest.mark.parametrize("grid", [(7,), (6, 5), (3, 4, 5)])
@pytest.mark.parametrize("classes", ["present", "all"])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("exclusive", [True, False])
def test_the_value_is_that_of_the_authors_and_of_the_definition(
    dtype: torch.dtype, grid: tuple[int, ...], classes: str, per_image: bool, exclusive: bool
) -> None:
    logits, labels = example(*grid, exclusive=exclusive)
    settings = {"exclusive": exclusive, "per_image": per_image, "classes": classes}
    rows = []
    for images in [[0], [1]] if per_image else [[0, 1]]:
        row = []
        for errors, truth, valid in pixels(logits, labels, exclusive, images):
            value, _ = reference(errors[valid], truth[valid])
            assert value == pytest.approx(by_levels(errors[valid], truth[valid]))
            row.append(value if truth[valid].any() or classes == "all" else None)
        rows.append(row)
    means = [np.mean([value for value in row if value is not None]) for row in rows]
    loss = lovasz_loss(logits.to(dtype), labels, **settings)
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(np.mean(means), rel=1e-5)
    each = lovasz_loss(logits.to(dtype), labels, reduction="none", **settings)
    expected = np.array([[value or 0.0 for value in row] for row in rows])
    np.testing.assert_allclose(each.numpy(), expected if per_image else expected[0], rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["kernel", "torch"])
def test_the_gradient_of_the_hinge_is_that_of_the_authors(dtype: torch.dtype) -> None:
    logits, labels = example(9, 8, exclusive=False)
    x = logits.to(dtype, copy=True).requires_grad_()
    lovasz_loss(x, labels, exclusive=False, reduction="sum").backward()
    for c, (errors, truth, valid) in enumerate(pixels(logits, labels, False, [0, 1])):
        grad = np.zeros(len(errors))
        if truth[valid].any():
            grad[valid] = reference(errors[valid], truth[valid])[1] * np.where(truth[valid], -1, 1)
        np.testing.assert_allclose(x.grad[:, c].numpy().reshape(-1), grad, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["kernel", "torch"])
def test_the_gradient_of_lovasz_softmax_is_that_of_the_authors(dtype: torch.dtype) -> None:
    logits, labels = example(9, 8, exclusive=True)
    x = logits.to(dtype, copy=True).requires_grad_()
    lovasz_loss(x, labels, reduction="sum").backward()
    p = logits.softmax(1)
    slopes = torch.zeros_like(p)
    for c, (errors, truth, valid) in enumerate(pixels(logits, labels, True, [0, 1])):
        if truth[valid].any():
            slope = np.zeros(len(errors))
            slope[valid] = reference(errors[valid], truth[valid])[1] * np.where(truth[valid], -1, 1)
            slopes[:, c] = torch.from_numpy(slope).view(2, 9, 8)
    expected = p * (slopes - (p * slopes).sum(1, keepdim=True))
    torch.testing.assert_close(x.grad.double(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("per_image", [False, True])
def test_lovasz_softmax_is_that_of_smp(per_image: bool) -> None:
    logits, labels = example(32, 33, exclusive=True)
    labels[labels == IGNORE] = 0 if per_image else IGNORE  # SMP's flattening per image breaks with ignore
    peer = smp.losses.LovaszLoss(
        "multiclass", per_image=per_image, ignore_index=None if per_image else IGNORE
    )
    x, y = logits.float().requires_grad_(), logits.float().requires_grad_()
    ours, theirs = lovasz_loss(x, labels, per_image=per_image), peer(y, labels)
    ours.backward()
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=2e-7)  # float32 jaccards, one from the next


@pytest.mark.parametrize("per_image", [False, True])
def test_the_hinge_of_one_class_is_that_of_smp(per_image: bool) -> None:
    logits, labels = example(16, 15, exclusive=False, k=2)
    logits, labels = logits[:, :1], labels[:, :1]
    peer = smp.losses.LovaszLoss("binary", per_image=per_image, ignore_index=IGNORE)
    x, y = logits.float().requires_grad_(), logits.float().requires_grad_()
    ours = lovasz_loss(x, labels, exclusive=False, per_image=per_image, classes="all")
    theirs = peer(y[:, 0], labels[:, 0])
    ours.backward()
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=2e-7)  # float32 jaccards, one from the next


# --- the kernel ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.0, 1.0])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("absent", [False, True])
def test_the_kernel_is_the_sort_of_torch(margin: float, per_image: bool, absent: bool) -> None:
    for seed in range(6):
        random = torch.Generator().manual_seed(seed)
        b, k, n = 1 + seed % 3, 1 + seed % 4, 1 + 97 * seed
        values = torch.rand(b, k, n, generator=random)
        if margin:
            values = 2 * values - 1
        multilabel = bool(seed % 2)
        high = 2 if multilabel else k
        shape = (b, k, n) if multilabel else (b, n)
        labels = torch.randint(-1, high, shape, generator=random)
        labels = labels.to(torch.int8) if multilabel else labels
        expected = _sorted(values.double(), labels, margin, per_image, absent)
        for threads, in_place in ((1, False), (2, True)):
            inputs = values.clone().numpy()
            slopes = inputs if in_place else np.empty_like(inputs)
            losses, counts = lovasz_jaccard(
                inputs, labels.numpy(), slopes, margin, per_image, absent, threads
            )
            np.testing.assert_allclose(losses, expected[0].numpy(), rtol=1e-6)
            np.testing.assert_array_equal(counts, expected[1].numpy())
            np.testing.assert_allclose(slopes, expected[2].numpy(), rtol=1e-6)


def test_ties_change_no_value_and_sure_predictions_have_exact_ends() -> None:
    truth = np.array([[0, 1, 1, 0, 1, 0, 0, 1]], np.int8)
    for row in (np.full((1, 8), 0.5), truth, 1 - truth):
        values = row.astype(np.float32)[:, None]
        errors = np.where(truth == 1, 1 - values[0], values[0]).astype(float)[0]
        expected = by_levels(errors, truth[0] == 1)
        losses, _ = lovasz_jaccard(values, truth[:, None], np.empty_like(values), 0.0, False, False, 1)
        assert losses.item() == pytest.approx(expected)
        sort = _sorted(torch.from_numpy(values), torch.from_numpy(truth[:, None]), 0.0, False, False)
        assert sort[0].item() == pytest.approx(expected)


@pytest.mark.parametrize("n", [1, 2047, 5000])
def test_the_gradient_of_the_softmax_is_that_of_autograd(n: int) -> None:
    logits, slopes, factors = torch.randn(2, 3, n, requires_grad=True), torch.randn(2, 3, n), torch.rand(2, 3)
    p = logits.softmax(1)
    (expected,) = torch.autograd.grad(p, logits, slopes * factors[:, :, None])
    gradient = p.detach().clone().numpy()
    softmax_gradient(gradient, slopes.numpy(), factors.numpy())
    np.testing.assert_allclose(gradient, expected.numpy(), rtol=1e-5, atol=1e-7)


def test_the_operator_keeps_what_pytorch_asks_of_operators() -> None:
    values, labels = torch.rand(2, 3, 20, requires_grad=True), torch.randint(-1, 3, (2, 20))
    for sample in (values, values.detach().double().requires_grad_()):
        torch.library.opcheck(
            _extension,
            (sample, labels, True, False, True),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )
    arguments = (torch.rand(2, 3, 20), torch.rand(2, 3, 20), torch.rand(2, 3), True)
    torch.library.opcheck(_gradient, arguments, test_utils=("test_schema", "test_faketensor"))


def test_all_threads_of_torch_give_the_same_loss() -> None:
    logits, labels = example(33, 20, exclusive=True)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = lovasz_loss(logits.float(), labels)
        torch.set_num_threads(3)
        assert torch.equal(lovasz_loss(logits.float(), labels), one)
    finally:
        torch.set_num_threads(before)
