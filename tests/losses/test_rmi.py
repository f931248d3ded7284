"""Region mutual information against its formula in float64 NumPy and against the authors' code."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pixelwise.losses.rmi import RMI, rmi_loss

IGNORE = 255


def example(*grid: int, seed: int = 7) -> tuple[Tensor, Tensor]:
    """Logits, and labels in blocks of four cells of which the first three rows of one image are ignored."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((2, 3, *grid))
    labels = np.kron(
        rng.integers(0, 3, (2, *[side // 4 for side in grid])), np.ones((1, *[4] * len(grid)), int)
    )
    labels[0, :3] = IGNORE
    return torch.from_numpy(logits), torch.from_numpy(labels)


def multilabel(labels: Tensor) -> Tensor:
    """One map per class, ignored together."""
    return torch.stack([torch.where(labels == IGNORE, IGNORE, (labels == c).long()) for c in range(3)], 1)


def pooled(x: np.ndarray, pool: int) -> np.ndarray:
    """Mean of blocks; half a block of zeros in front, as much behind as is needed."""
    x = np.pad(x, pool // 2)
    x = x[tuple(slice(0, side // pool * pool) for side in x.shape)]
    for axis in range(x.ndim):
        x = np.add.reduceat(x, np.arange(0, x.shape[axis], pool), axis) / pool
    return x


def numpy_rmi(p: np.ndarray, y: np.ndarray, radius: int, pool: int) -> float:
    """Of one image and class: log-determinant by eigenvalues, inverse by numpy.linalg.inv."""
    views = []
    for maps in (p, y):
        small = pooled(maps, pool)
        windows = np.lib.stride_tricks.sliding_window_view(small, (radius,) * small.ndim)
        vectors = windows.reshape(-1, radius**small.ndim)
        views.append((vectors - vectors.mean(0)).T)
    a, b = views
    identity = np.eye(len(a))
    m = b @ b.T - b @ a.T @ np.linalg.inv(a @ a.T + 5e-4 * identity) @ a @ b.T
    return 0.5 * np.log(np.linalg.eigvalsh(m + 5e-4 * identity)).sum() / len(a)


@pytest.mark.parametrize("grid, radius, pool", [((40, 36), 3, 4), ((24, 20), 3, 3), ((16, 12, 12), 2, 2)])
@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("weight", [None, [1.0, 0.25, 3.0]])
def test_rmi_is_its_formula(
    grid: tuple[int, ...], radius: int, pool: int, exclusive: bool, weight: list[float] | None
) -> None:
    logits, labels = example(*grid)
    x, valid = logits.numpy(), (labels != IGNORE).numpy()[:, None]
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True) if exclusive else 1 / (1 + np.exp(-x))
    y = np.stack([labels.numpy() == c for c in range(3)], 1).astype(float)
    each = np.array(
        [[numpy_rmi((p * valid)[b, c], y[b, c], radius, pool) for c in range(3)] for b in range(2)]
    )
    said = labels if exclusive else multilabel(labels)
    known = {"exclusive": exclusive, "radius": radius, "pool": pool}
    np.testing.assert_allclose(rmi_loss(logits, said, reduction="none", **known), each, rtol=1e-6)
    factors = np.array(weight or [1.0] * 3)
    expected = (each * factors).sum() / (2 * factors.sum())
    ours = rmi_loss(logits, said, weight=None if weight is None else torch.tensor(weight), **known)
    assert ours.item() == pytest.approx(expected)


@pytest.mark.parametrize("pool, theirs", [(4, 0.8587421774864197), (3, 3.679708480834961)])
def test_the_sum_over_classes_is_that_of_the_authors_code(pool: int, theirs: float) -> None:
    # ZJULearning/RMI, 1846461 (average pooling), on `example(40, 36)`; it ends in float32.
    logits, labels = example(40, 36)
    ours = rmi_loss(logits, multilabel(labels), exclusive=False, pool=pool, reduction="sum") / 2
    assert ours.item() == pytest.approx(theirs, rel=1e-6)


def test_a_class_that_an_image_lacks_is_left_out() -> None:
    logits, labels = example(24, 24)
    labels[0][labels[0] == 2] = 1
    each = rmi_loss(logits, labels, reduction="none")
    assert (each != 0).tolist() == [[True, True, False], [True, True, True]]
    assert rmi_loss(logits, labels).item() == pytest.approx(each.sum().item() / 5)


def test_the_more_a_prediction_tells_of_the_structure_the_lower_the_loss() -> None:
    _, labels = example(48, 48)
    right = torch.nn.functional.one_hot(labels.where(labels != IGNORE, 0), 3).movedim(-1, 1).double()
    noise = torch.randn_like(right)
    losses = [
        rmi_loss(8 * (share * right + (1 - share) * noise), labels).item() for share in (0, 0.5, 0.8, 1)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 1


def test_large_and_certain_maps_stay_finite_in_float32() -> None:
    labels = torch.randint(0, 2, (1, 40, 40)).repeat_interleave(20, 1).repeat_interleave(20, 2)
    for sign in (1.0, -1.0):
        logits = sign * 1e4 * torch.stack([1 - 2 * labels, 2 * labels - 1], 1).float()
        logits.requires_grad_()
        loss = rmi_loss(logits, labels)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()


def test_a_broken_network_gives_nan_and_no_error() -> None:
    logits, labels = example(24, 24)
    logits[1, 0, 5, 5] = torch.nan
    assert rmi_loss(logits, labels).isnan()


@pytest.mark.parametrize("exclusive", [True, False])
def test_gradients_are_those_of_finite_differences(exclusive: bool) -> None:
    logits, labels = example(8, 8)
    said = labels if exclusive else multilabel(labels)
    loss = RMI(exclusive=exclusive, radius=2, pool=2, weight=[1.0, 2.0, 0.5])
    assert torch.autograd.gradcheck(lambda x: loss(x, said), logits.requires_grad_())


@pytest.mark.compile
def test_compiles_in_one_graph() -> None:
    logits, labels = example(24, 24)
    torch._dynamo.reset()
    compiled = torch.compile(RMI(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, labels), RMI()(logits, labels))


def test_bad_settings_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"neighbourhoods of 3 pooled cells .* got \(2, 2\) after pooling by 4"
    ):
        rmi_loss(torch.zeros(1, 2, 6, 6), torch.zeros(1, 6, 6, dtype=torch.long))
    with pytest.raises(ValueError, match="radius and pool must be at least 1, got 0 and 4"):
        RMI(radius=0)
