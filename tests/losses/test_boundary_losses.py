"""Boundary and Hausdorff loss against their formulas in float64 NumPy, with SciPy's distances, and MONAI."""

import numpy as np
import pytest
import torch
from monai.losses.hausdorff_loss import HausdorffDTLoss
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from pixelwise.losses.boundary import Boundary, boundary_loss, signed_distances
from pixelwise.losses.hausdorff import Hausdorff, hausdorff_loss

IGNORE = 255
GRIDS = [(12, 9), (4, 6, 5)]


def example(*grid: int, exclusive: bool = True) -> tuple[Tensor, Tensor]:
    """Logits, and labels in blocks of which some are ignored; the last class is never used."""
    logits = 2 * torch.randn(2, 4, *grid, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, *[side // 3 + 1 for side in grid]))
    if not exclusive:
        labels = torch.randint(0, 2, (2, 4, *labels.shape[1:]))
    for axis in range(len(grid)):
        labels = labels.repeat_interleave(3, axis - len(grid)).narrow(axis - len(grid), 0, grid[axis])
    labels = labels.clone()
    labels[0, ..., 2:4] = IGNORE
    return logits, labels


def maps(logits: Tensor, labels: Tensor, exclusive: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p, g and what counts, all of shape b k *grid."""
    x, y = logits.numpy(), labels.numpy()
    if not exclusive:
        return 1 / (1 + np.exp(-x)), y == 1, y != IGNORE
    e = np.exp(x)
    g = np.stack([y == c for c in range(x.shape[1])], 1)
    return e / e.sum(1, keepdims=True), g, np.broadcast_to((y != IGNORE)[:, None], g.shape)


def distance(inside: np.ndarray, outside: np.ndarray, spacing: tuple[float, ...] | None) -> np.ndarray:
    """To the nearest cell of the other kind, by SciPy; `sampling` is what it calls spacing."""
    if not inside.any() or not outside.any():
        return np.zeros(inside.shape)
    to_inside = distance_transform_edt(~inside, sampling=spacing)
    to_outside = distance_transform_edt(~outside, sampling=spacing)
    return np.where(inside, to_outside, np.where(outside, to_inside, 0))


def distances(inside: np.ndarray, outside: np.ndarray, spacing: tuple[float, ...] | None) -> np.ndarray:
    pairs = zip(inside.reshape(-1, *inside.shape[2:]), outside.reshape(-1, *inside.shape[2:]), strict=True)
    return np.stack([distance(*pair, spacing) for pair in pairs]).reshape(inside.shape)


def mean(loss: np.ndarray, valid: np.ndarray, weight: np.ndarray) -> float:
    factor = weight.reshape(-1, *[1] * (loss.ndim - 2)) * valid
    return (loss * factor).sum() / factor.sum()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("weight", [None, [1.0, 0.25, 3.0, 0.5]])
@pytest.mark.parametrize("millimetres", [False, True])
def test_the_losses_are_their_formulas(
    grid: tuple[int, ...], exclusive: bool, weight: list[float] | None, millimetres: bool
) -> None:
    logits, labels = example(*grid, exclusive=exclusive)
    spacing = (0.7, 1.5, 2.0)[: len(grid)] if millimetres else None
    factors = None if weight is None else torch.tensor(weight)
    known = {"weight": factors, "exclusive": exclusive, "spacing": spacing}
    p, g, valid = maps(logits, labels, exclusive)
    d_g = distances(g & valid, ~g & valid, spacing)
    step = min(spacing) if spacing else 1.0
    phi = np.where(g & valid & (d_g > 0), step - d_g, d_g)
    boundary = mean(p * phi, valid, np.array(weight or [1.0] * 4))
    assert boundary_loss(logits, labels, **known).item() == pytest.approx(boundary)
    d_p = distances((p > 0.5) & valid, (p <= 0.5) & valid, spacing)
    for alpha in (1.0, 2.0, 3.0):
        theirs = mean((p - g) ** 2 * (d_g**alpha + d_p**alpha), valid, np.array(weight or [1.0] * 4))
        assert hausdorff_loss(logits, labels, alpha=alpha, **known).item() == pytest.approx(theirs)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("background", [False, True])
def test_hausdorff_and_its_gradient_are_those_of_monai(grid: tuple[int, ...], background: bool) -> None:
    logits, labels = example(*grid)
    labels[labels == IGNORE] = 0
    x, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    weight = None if background else torch.tensor([0.0, 1.0, 1.0, 1.0])
    ours = hausdorff_loss(x, labels, weight=weight)
    peer = HausdorffDTLoss(include_background=background, softmax=True, to_onehot_y=True)
    theirs = peer(y, labels[:, None])
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-9)


def test_the_level_set_of_a_square_counts_steps_from_its_outermost_cells() -> None:
    inside = torch.zeros(1, 1, 5, 7, dtype=torch.bool)
    inside[..., 1:4, 1:4] = True
    level = signed_distances(inside, ~inside)[0, 0]
    assert level[2].tolist() == [1, 0, -1, 0, 1, 2, 3]
    assert level[0, 0].item() == pytest.approx(np.sqrt(2))


def test_a_class_that_is_nowhere_or_everywhere_has_no_boundary() -> None:
    logits = torch.randn(1, 2, 6, 6)
    labels = torch.ones(1, 6, 6, dtype=torch.long)
    assert boundary_loss(logits, labels).item() == 0
    nothing = torch.stack([torch.full((1, 6, 6), 9.0), torch.zeros(1, 6, 6)], 1)
    assert hausdorff_loss(nothing, labels).item() == 0  # wrong everywhere, and yet


def test_a_farther_mistake_costs_more() -> None:
    labels = torch.zeros(1, 1, 20, dtype=torch.long)
    labels[..., :4] = 1
    for loss in (boundary_loss, hausdorff_loss):
        costs = []
        for place in (5, 10, 15):
            said = labels.clone()
            said[..., place] = 1
            logits = 40.0 * torch.stack([1 - 2 * said, 2 * said - 1], 1)
            costs.append(loss(logits, labels, weight=torch.tensor([0.0, 1.0])).item())
        assert costs[0] < costs[1] < costs[2]


def test_a_right_prediction_has_no_hausdorff_loss_and_the_least_boundary_loss() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, 2:6, 2:6] = 1
    right = 50.0 * torch.stack([1 - 2 * labels, 2 * labels - 1], 1)
    assert hausdorff_loss(right, labels).item() == 0
    least = boundary_loss(right, labels).item()
    for _ in range(20):
        assert boundary_loss(right + 60 * torch.randn_like(right), labels).item() >= least


@pytest.mark.parametrize("make", [Boundary, Hausdorff])
def test_unknown_cells_are_no_side_of_a_boundary(make: type[Boundary] | type[Hausdorff]) -> None:
    # The class ends at the ignored cells: nobody knows where, so nothing there is called near.
    labels = torch.tensor([[[1, 1, 1, IGNORE, IGNORE, 0]]])
    logits = torch.zeros(1, 2, 1, 6)
    values = make(reduction="none")(logits, labels)[0, 1, 0]
    expected = [-2.0, -1.5, -1.0, 0, 0, 1.5] if make is Boundary else [25 / 4, 4.0, 9 / 4, 0, 0, 9 / 4]
    assert values.tolist() == expected


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("make", [Boundary, Hausdorff])
def test_gradients_are_those_of_finite_differences(
    make: type[Boundary] | type[Hausdorff], exclusive: bool
) -> None:
    logits, labels = example(3, 4, exclusive=exclusive)
    loss = make(exclusive=exclusive, weight=[1.0, 2.0, 0.5, 1.0])
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits.requires_grad_())


@pytest.mark.compile
@pytest.mark.parametrize("make", [Boundary, Hausdorff])
def test_a_distance_map_does_not_break_the_graph(make: type[Boundary] | type[Hausdorff]) -> None:
    logits, labels = example(6, 7)
    torch._dynamo.reset()
    compiled = torch.compile(make(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, labels), make()(logits, labels))


def test_bad_settings_are_named() -> None:
    logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    labels[0, 0] = 1
    with pytest.raises(ValueError, match="spacing must be 2 positive numbers"):
        Boundary(spacing=(1.0, 1.0, 1.0))(logits, labels)
    with pytest.raises(ValueError, match="alpha must be above 0, got 0"):
        Hausdorff(alpha=0.0)
    with pytest.raises(ValueError, match=r"labels must be in 0..1 or 255 to be ignored, got 7"):
        Boundary()(logits, labels * 7)
