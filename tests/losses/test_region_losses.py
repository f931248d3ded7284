"""Dice, Jaccard and Tversky losses against their formulas in float64 NumPy, and right peers."""

import monai.losses
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor

from pixelwise.losses import (
    dice_loss,
    focal_tversky_loss,
    generalised_dice_loss,
    jaccard_loss,
    tversky_loss,
)

IGNORE = 255
K = 4
GRIDS = [(7,), (6, 5), (3, 4, 5)]
WEIGHTS = [None, [1.0, 0.25, 3.0, 0.5]]


def example(*grid: int, exclusive: bool = True) -> tuple[Tensor, Tensor]:
    """Logits, and labels of which some are ignored and the last class is nowhere."""
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, K, *grid, dtype=torch.float64, generator=random)
    if exclusive:
        labels = torch.randint(0, K - 1, (2, *grid), generator=random)
    else:
        labels = torch.randint(0, 2, (2, K, *grid), generator=random)
        labels[:, -1] = 0
        labels[1, 1, -1] = IGNORE
    labels[0, ..., 0] = IGNORE
    return logits, labels


def pixels(logits: Tensor, labels: Tensor, exclusive: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Probabilities and truth of the pixels that count, class by class."""
    x = np.moveaxis(logits.numpy(), 1, -1).reshape(-1, K)
    if exclusive:
        e = np.exp(x)
        p = e / e.sum(-1, keepdims=True)
        y = labels.numpy().reshape(-1)
        return [(p[y != IGNORE, c], (y == c)[y != IGNORE].astype(float)) for c in range(K)]
    p = 1 / (1 + np.exp(-x))
    y = np.moveaxis(labels.numpy(), 1, -1).reshape(-1, K)
    return [(p[y[:, c] != IGNORE, c], (y[:, c] == 1)[y[:, c] != IGNORE].astype(float)) for c in range(K)]


FORMULAS = {
    "dice": (dice_loss, lambda p, g: 1 - 2 * (p * g).sum() / (p.sum() + g.sum())),
    "squared dice": (
        lambda *a, **k: dice_loss(*a, squared=True, **k),
        lambda p, g: 1 - 2 * (p * g).sum() / ((p**2).sum() + (g**2).sum()),
    ),
    "jaccard": (jaccard_loss, lambda p, g: 1 - (p * g).sum() / (p + g - p * g).sum()),
    "tversky": (
        tversky_loss,
        lambda p, g: (
            1 - (p * g).sum() / ((p * g).sum() + 0.3 * (p * (1 - g)).sum() + 0.7 * ((1 - p) * g).sum())
        ),
    ),
    "focal tversky": (
        lambda *a, **k: focal_tversky_loss(*a, alpha=0.4, beta=0.6, gamma=2.0, **k),
        lambda p, g: (
            (1 - (p * g).sum() / ((p * g).sum() + 0.4 * (p * (1 - g)).sum() + 0.6 * ((1 - p) * g).sum()))
            ** (1 / 2.0)
        ),
    ),
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("name", FORMULAS)
def test_losses_of_regions_are_their_formulas(
    name: str, exclusive: bool, weight: list[float] | None, grid: tuple[int, ...]
) -> None:
    function, formula = FORMULAS[name]
    logits, labels = example(*grid, exclusive=exclusive)
    ours = function(
        logits, labels, exclusive=exclusive, weight=None if weight is None else torch.tensor(weight)
    )
    classes = [formula(p, g) for p, g in pixels(logits, labels, exclusive)[:-1]]
    assert ours.item() == pytest.approx(np.average(classes, weights=None if weight is None else weight[:-1]))
    each = function(logits, labels, exclusive=exclusive, reduction="none")
    assert each.tolist() == pytest.approx([*classes, 0.0])


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("exclusive", [True, False])
def test_generalised_dice_is_its_formula_for_each_image(exclusive: bool, weight: list[float] | None) -> None:
    logits, labels = example(6, 5, exclusive=exclusive)
    images = []
    for i in range(2):
        above = below = 0.0
        for c, (p, g) in enumerate(pixels(logits[i : i + 1], labels[i : i + 1], exclusive)):
            if g.sum() > 0:
                w = (1.0 if weight is None else weight[c]) / g.sum() ** 2
                above += w * (p * g).sum()
                below += w * (p + g).sum()
        images.append(1 - 2 * above / below)
    settings = {"exclusive": exclusive, "weight": None if weight is None else torch.tensor(weight)}
    assert generalised_dice_loss(logits, labels, **settings).item() == pytest.approx(np.mean(images))
    each = generalised_dice_loss(logits, labels, reduction="none", **settings)
    assert each.tolist() == pytest.approx(images)


# --- V-Net's formula ----------------------------------------------------------------------------------


def test_the_squared_dice_of_one_undecided_pixel_is_four_fifths_with_slope_0_96() -> None:
    # p = 1/2, g = 1: D = 2 p g / (p^2 + g^2) = 0.8 and dD/dp = 0.96; dp/dlogit = p (1 - p) = 1/4.
    logits = torch.zeros(1, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    loss = dice_loss(logits, torch.ones(1, 1, 1, dtype=torch.long), squared=True)
    loss.backward()
    assert loss.item() == pytest.approx(1 - 0.8)
    assert logits.grad[0, 1].item() == pytest.approx(-0.96 / 4)


def test_the_gradient_of_squared_dice_is_that_of_the_paper() -> None:
    logits = torch.randn(1, 1, 30, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 2, (1, 1, 30))
    dice_loss(logits, labels, exclusive=False, squared=True).backward()
    p, g = 1 / (1 + np.exp(-logits.detach().numpy()[0, 0])), labels.numpy()[0, 0]
    squares, overlap = (p**2).sum() + (g**2).sum(), (p * g).sum()
    slope = 2 * (g * squares - 2 * p * overlap) / squares**2  # dD/dp, V-Net Sec. 3
    np.testing.assert_allclose(logits.grad.numpy()[0, 0], -slope * p * (1 - p))


# --- relations and peers ----------------------------------------------------------------------------------


def test_dice_of_a_perfect_prediction_is_zero_and_of_a_wrong_one_is_one_however_many_classes_are_absent() -> (
    None
):
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    for k in (2, 3, 150):
        right = torch.full((1, k, 4, 4), -50.0)
        right[:, 0] = 50.0
        wrong = right.roll(1, 1)
        for loss in (dice_loss, jaccard_loss, tversky_loss, generalised_dice_loss):
            assert loss(right, labels).item() == pytest.approx(0, abs=1e-6)
            assert loss(wrong, labels).item() == pytest.approx(1)
    # What a peer says to the wrong prediction over three classes: a third, by dividing by absent classes.
    wrong = torch.full((1, 3, 4, 4), -50.0)
    wrong[:, 1] = 50.0
    for peer in (smp.losses.DiceLoss("multiclass"), smp.losses.JaccardLoss("multiclass")):
        assert peer(wrong, labels).item() == pytest.approx(1 / 3, abs=1e-3)


def test_jaccard_and_dice_are_tversky_with_equal_factors() -> None:
    logits, labels = example(6, 5)
    each = {"reduction": "none"}
    torch.testing.assert_close(
        tversky_loss(logits, labels, alpha=0.5, beta=0.5, **each), dice_loss(logits, labels, **each)
    )
    jaccard = jaccard_loss(logits, labels, **each)
    torch.testing.assert_close(tversky_loss(logits, labels, alpha=1.0, beta=1.0, **each), jaccard)
    dice = 1 - dice_loss(logits, labels, **each)[:-1]
    torch.testing.assert_close(1 - jaccard[:-1], dice / (2 - dice))


def all_present() -> tuple[Tensor, Tensor]:
    logits, labels = example(8, 8)
    labels[0, 1, :K] = torch.arange(K)
    labels[1, 1, :K] = torch.arange(K)
    return logits.float(), labels


@pytest.mark.parametrize("weight", WEIGHTS)
def test_dice_is_that_of_smp_when_every_class_is_there(weight: list[float] | None) -> None:
    logits, labels = all_present()
    theirs = smp.losses.DiceLoss("multiclass", ignore_index=IGNORE, class_weights=weight)(logits, labels)
    ours = dice_loss(logits, labels, weight=None if weight is None else torch.tensor(weight))
    torch.testing.assert_close(ours, theirs)


def test_tversky_is_that_of_smp_when_every_class_is_there() -> None:
    logits, labels = all_present()
    theirs = smp.losses.TverskyLoss("multiclass", ignore_index=IGNORE, alpha=0.3, beta=0.7)
    torch.testing.assert_close(tversky_loss(logits, labels), theirs(logits, labels))


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (dice_loss, monai.losses.DiceLoss),
        (jaccard_loss, lambda **k: monai.losses.DiceLoss(jaccard=True, **k)),
        (tversky_loss, lambda **k: monai.losses.TverskyLoss(alpha=0.3, beta=0.7, **k)),
    ],
)
@pytest.mark.parametrize("exclusive", [True, False])
def test_losses_are_those_of_monai_where_nothing_is_ignored_and_every_class_is_there(
    ours: object, theirs: object, exclusive: bool
) -> None:
    logits = torch.randn(2, K, 6, 5)
    labels = torch.randint(0, K if exclusive else 2, (2, 1 if exclusive else K, 6, 5))
    activation = {"softmax": True, "to_onehot_y": True} if exclusive else {"sigmoid": True}
    peer = theirs(batch=True, smooth_nr=0.0, smooth_dr=0.0, **activation)
    torch.testing.assert_close(
        ours(logits, labels[:, 0] if exclusive else labels, exclusive=exclusive), peer(logits, labels)
    )


def test_generalised_dice_is_that_of_monai_when_every_class_is_in_every_image() -> None:
    logits, labels = torch.randn(2, K, 8, 8), torch.arange(2 * 64).remainder(K).view(2, 8, 8)
    labels[0, :, :4] = 1
    peer = monai.losses.GeneralizedDiceLoss(softmax=True, to_onehot_y=True, smooth_nr=0.0, smooth_dr=0.0)
    torch.testing.assert_close(generalised_dice_loss(logits, labels), peer(logits, labels[:, None]))


# --- which pixels are summed up ----------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [dice_loss, jaccard_loss, tversky_loss])
def test_the_loss_of_a_batch_counts_the_pixels_of_all_its_images_together(loss: object) -> None:
    logits, labels = example(6, 5)
    temporary = loss(torch.cat([*logits], -1)[None], torch.cat([*labels], -1)[None])
    torch.testing.assert_close(loss(logits, labels), temporary)


def test_an_image_in_which_nothing_counts_has_no_part_in_generalised_dice() -> None:
    logits, labels = example(6, 5)
    alone = generalised_dice_loss(logits[:1], labels[:1])
    labels[1] = IGNORE
    torch.testing.assert_close(generalised_dice_loss(logits, labels), alone)


def test_sums_of_many_pixels_do_not_stop_at_the_precision_of_float32() -> None:
    n = (1 << 24) + (1 << 22)  # one by one, ones add up to 2^24 in float32 and no further
    logits = torch.full((1, 1, n), 20.0)
    labels = torch.zeros(1, n, dtype=torch.long)
    loss = dice_loss(logits, labels)
    assert loss.item() == pytest.approx(0, abs=1e-6)
