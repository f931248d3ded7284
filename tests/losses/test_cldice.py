"""clDice against its formula in float64 NumPy with SciPy's filters, and MONAI without its smoothing."""

import numpy as np
import pytest
import torch
from monai.losses import cldice as monai_cldice
from monai.losses.cldice import SoftclDiceLoss
from scipy import ndimage
from torch import Tensor

from pixelwise.losses.cldice import ClDice, cldice_loss, soft_skeleton

IGNORE = 255
GRIDS = [(14, 11), (7, 8, 6)]


def tubes(*grid: int, images: int = 2) -> Tensor:
    """Random walks, a cell thick, then thickened: 1 on them."""
    rng = np.random.default_rng(5)
    labels = np.zeros((images, *grid), bool)
    for image in labels:
        place = np.array(grid) // 2
        for _ in range(12):
            image[tuple(place)] = True
            axis = rng.integers(len(grid))
            place[axis] = np.clip(place[axis] + rng.choice([-1, 1]), 0, grid[axis] - 1)
        image |= ndimage.binary_dilation(image)
    return torch.from_numpy(labels.astype(np.int64))


def numpy_skeleton(x: np.ndarray, iterations: int) -> np.ndarray:
    """Algorithm 1 of the paper on one map; the border of an image takes nothing away and adds nothing."""
    cross = ndimage.generate_binary_structure(x.ndim, 1)
    square = np.ones((3,) * x.ndim, bool)

    def erode(x: np.ndarray) -> np.ndarray:
        return ndimage.minimum_filter(x, footprint=cross, mode="constant", cval=np.inf)

    def open_(x: np.ndarray) -> np.ndarray:
        return ndimage.maximum_filter(erode(x), footprint=square, mode="constant", cval=-np.inf)

    skeleton = np.maximum(x - open_(x), 0)
    for _ in range(iterations):
        x = erode(x)
        skeleton = skeleton + (1 - skeleton) * np.maximum(x - open_(x), 0)
    return skeleton


def numpy_loss(p: np.ndarray, g: np.ndarray, iterations: int) -> float | None:
    """Of one class: p and g are b *grid."""
    s_p = np.stack([numpy_skeleton(one, iterations) for one in p])
    s_g = np.stack([numpy_skeleton(one, iterations) for one in g])
    if not s_g.sum():
        return None
    precision, sensitivity = (s_p * g).sum() / s_p.sum(), (s_g * p).sum() / s_g.sum()
    return 1 - 2 * precision * sensitivity / (precision + sensitivity)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_a_soft_skeleton_is_that_of_algorithm_1_and_of_monai(grid: tuple[int, ...], iterations: int) -> None:
    maps = torch.rand(2, 3, *grid, dtype=torch.float64)
    ours = soft_skeleton(maps, iterations)
    theirs = [[numpy_skeleton(one.numpy(), iterations) for one in image] for image in maps]
    np.testing.assert_allclose(ours.numpy(), np.array(theirs), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(ours, monai_cldice.soft_skel(maps, iterations))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("weight", [None, [1.0, 0.25, 3.0]])
def test_cldice_is_its_formula(grid: tuple[int, ...], weight: list[float] | None) -> None:
    logits, labels = 2 * torch.randn(2, 3, *grid, dtype=torch.float64), tubes(*grid)  # class 2 is not there
    p, y = logits.softmax(1).numpy(), labels.numpy()
    losses = [numpy_loss(p[:, c], (y == c).astype(float), 2) for c in range(3)]
    there = [c for c, loss in enumerate(losses) if loss is not None]
    assert 1 in there
    assert 2 not in there
    factors = np.array(weight or [1.0] * 3)[there]
    expected = np.average([losses[c] for c in there], weights=factors)
    known = {"iterations": 2, "weight": None if weight is None else torch.tensor(weight)}
    assert cldice_loss(logits, labels, **known).item() == pytest.approx(expected)
    each = cldice_loss(logits, labels, iterations=2, reduction="none")
    np.testing.assert_allclose(each.numpy(), [losses[c] if c in there else 0 for c in range(3)])
    assert cldice_loss(logits, labels, iterations=2, reduction="sum").item() == pytest.approx(
        each.sum().item()
    )


@pytest.mark.parametrize("grid", GRIDS)
def test_cldice_and_its_gradient_are_those_of_monai_without_smoothing(grid: tuple[int, ...]) -> None:
    logits, labels = 2 * torch.randn(1, 1, *grid, dtype=torch.float64), tubes(*grid, images=1)[:, None]
    x, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ours = cldice_loss(x, labels, exclusive=False)
    peer = SoftclDiceLoss(sigmoid=True, smooth_nr=0, smooth_dr=0, smooth=1e-14)
    theirs = peer(y, labels.double())
    torch.testing.assert_close(ours, theirs)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_smoothing_makes_an_empty_prediction_of_a_short_tube_cheap() -> None:
    labels = torch.zeros(1, 1, 9, 9, dtype=torch.long)
    labels[..., 4, 3:6] = 1
    empty = torch.full((1, 1, 9, 9), -50.0)
    assert cldice_loss(empty, labels, exclusive=False).item() == 1
    assert SoftclDiceLoss(sigmoid=True)(empty, labels.float()).item() < 0.7


def test_a_gap_in_a_vessel_costs_more_than_a_thinner_vessel() -> None:
    labels = torch.zeros(1, 15, 30, dtype=torch.long)
    labels[:, 5:10] = 1
    thin, broken = labels.clone(), labels.clone()
    thin[:, [5, 9]] = 0
    broken[..., 12:18] = 0  # takes less than thinning does
    assert broken.sum() > thin.sum()
    costs = [
        cldice_loss(
            50.0 * torch.stack([1 - 2 * said, 2 * said - 1], 1), labels, weight=torch.tensor([0.0, 1.0])
        )
        for said in (thin, broken)
    ]
    assert costs[0] < costs[1]


def test_ignored_cells_are_as_if_outside_the_image() -> None:
    logits, labels = torch.randn(1, 2, 9, 12), tubes(9, 12, images=1)
    cut = torch.nn.functional.pad(labels, (0, 5, 2, 0), value=IGNORE)
    wide = torch.nn.functional.pad(logits, (0, 5, 2, 0), value=7.0)
    torch.testing.assert_close(cldice_loss(wide, cut), cldice_loss(logits, labels))


def test_a_region_too_thick_to_thin_has_no_skeleton_and_is_left_out() -> None:
    labels = torch.ones(1, 9, 9, dtype=torch.long)
    logits = torch.randn(1, 2, 9, 9, requires_grad=True)
    loss = cldice_loss(logits, labels)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("exclusive", [True, False])
def test_gradients_are_those_of_finite_differences(exclusive: bool) -> None:
    logits = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    labels = tubes(5, 6, images=1)
    labels[0, 0, :2] = IGNORE
    if not exclusive:
        labels = torch.stack([labels, labels.flip(-1)], 1)
    loss = ClDice(exclusive=exclusive, iterations=1)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits)


def test_a_probability_near_nothing_has_a_finite_gradient() -> None:
    for extreme in (-40.0, -80.0, -95.0, -1e4):
        logits = torch.full((1, 1, 14, 11), extreme, requires_grad=True)
        cldice_loss(logits, tubes(14, 11, images=1)[:, None], exclusive=False).backward()
        assert logits.grad.isfinite().all()


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="iterations must be at least 0, got -1"):
        ClDice(iterations=-1)
