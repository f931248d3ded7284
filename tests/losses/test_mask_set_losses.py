"""Matching and mask losses against formulas in float64 NumPy and the numbers of the official code."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pixelwise.losses.mask_set import MaskSetLoss, class_loss, mask_losses
from pixelwise.losses.matching import PixelLoss, assign, matching_cost
from pixelwise.losses.point_sampling import sample_points, uncertain_points
from pixelwise.types import MaskSet

OFFICIAL = {"focal": 0.4326021030195332, "dice": 0.5027322765641531, "cross_entropy": 1.2481913788683596}


def numpy_pixel(x: np.ndarray, g: np.ndarray, kind: str) -> float:
    p = 1 / (1 + np.exp(-x))
    if kind == "cross_entropy":
        return -(g * np.log(p) + (1 - g) * np.log(1 - p)).mean()
    return -(0.25 * (1 - p) ** 2 * g * np.log(p) + 0.75 * p**2 * (1 - g) * np.log(1 - p)).mean()


def numpy_dice(x: np.ndarray, g: np.ndarray) -> float:
    p = 1 / (1 + np.exp(-x))
    return 1 - (2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1)


def example(seed: int = 0) -> tuple[Tensor, Tensor, list[MaskSet]]:
    """Two images, six queries, four classes and no object; the second image holds nothing."""
    random = torch.Generator().manual_seed(seed)
    class_logits = torch.randn(2, 6, 5, dtype=torch.float64, generator=random)
    mask_logits = 2 * torch.randn(2, 6, 8, 10, dtype=torch.float64, generator=random)
    masks = torch.rand(3, 16, 20, generator=random) > 0.6
    targets = [
        MaskSet.of(masks, torch.tensor([3, 0, 3])),
        MaskSet.of(torch.zeros(0, 16, 20, dtype=torch.bool), torch.zeros(0, dtype=torch.long)),
    ]
    return class_logits, mask_logits, targets


# --- matching -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cross_entropy", "focal"])
@pytest.mark.parametrize("some", [False, True])
def test_a_cost_is_its_formula(kind: PixelLoss, some: bool) -> None:
    scores, x = torch.randn(5, 4, dtype=torch.float64), 2 * torch.randn(5, 30, dtype=torch.float64)
    classes, g = torch.tensor([2, 0, 2]), (torch.rand(3, 30) > 0.5).double()
    valid = torch.rand(30) > 0.3 if some else None
    ours = matching_cost(
        scores, x, classes, g, valid, class_weight=1.5, mask_weight=20.0, dice_weight=3.0, pixel_loss=kind
    )
    keep = slice(None) if valid is None else valid.numpy()
    for q, n in itertools.product(range(5), range(3)):
        here = x[q].numpy()[keep], g[n].numpy()[keep]
        p = np.exp(scores[q].numpy()) / np.exp(scores[q].numpy()).sum()
        expected = 20 * numpy_pixel(*here, kind) + 3 * numpy_dice(*here) - 1.5 * p[classes[n]]
        assert ours[q, n].item() == pytest.approx(expected)


def test_an_assignment_is_the_cheapest_of_all() -> None:
    for q, n in ((4, 3), (3, 4), (5, 5), (3, 0)):
        cost = torch.randn(q, n)
        rows, columns = assign(cost)
        if q >= n:
            totals = [
                sum(cost[r, c].item() for c, r in enumerate(one))
                for one in itertools.permutations(range(q), n)
            ]
        else:
            totals = [
                sum(cost[r, c].item() for r, c in enumerate(one))
                for one in itertools.permutations(range(n), q)
            ]
        assert cost[rows, columns].sum().item() == pytest.approx(min(totals), abs=1e-5)
        assert rows.tolist() == sorted(set(rows.tolist()))


def test_costs_of_a_diverged_network_are_matched_too() -> None:
    rows, columns = assign(torch.tensor([[torch.nan, 1.0], [0.0, torch.inf]]))
    assert rows.tolist(), columns.tolist() == ([0, 1], [1, 0])


# --- terms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cross_entropy", "focal"])
@pytest.mark.parametrize("some", [False, True])
def test_mask_losses_are_their_formulas(kind: PixelLoss, some: bool) -> None:
    x, g = 2 * torch.randn(4, 30, dtype=torch.float64), torch.rand(4, 30, dtype=torch.float64).round()
    valid = torch.rand(4, 30) > 0.3 if some else None
    pixel, dice = mask_losses(x, g, valid, pixel_loss=kind)
    for m in range(4):
        keep = slice(None) if valid is None else valid[m].numpy()
        assert pixel[m].item() == pytest.approx(numpy_pixel(x[m].numpy()[keep], g[m].numpy()[keep], kind))
        assert dice[m].item() == pytest.approx(numpy_dice(x[m].numpy()[keep], g[m].numpy()[keep]))


def test_mask_losses_are_those_of_the_official_code() -> None:
    # facebookresearch/detr 38553c9 (focal, Dice) and Mask2Former 161be51 (cross-entropy), same numbers.
    rng = np.random.default_rng(7)
    x = torch.from_numpy(3 * rng.standard_normal((5, 60)))
    g = torch.from_numpy(rng.integers(0, 2, (5, 60)).astype(float))
    focal, dice = mask_losses(x, g, pixel_loss="focal")
    cross, _ = mask_losses(x, g)
    assert focal.mean().item() == pytest.approx(OFFICIAL["focal"], rel=1e-12)
    assert dice.mean().item() == pytest.approx(OFFICIAL["dice"], rel=1e-12)
    assert cross.mean().item() == pytest.approx(OFFICIAL["cross_entropy"], rel=1e-12)


def test_no_object_weighs_a_tenth_and_the_mean_is_over_weights() -> None:
    scores = torch.randn(1, 3, 3, dtype=torch.float64)
    log_p = scores.log_softmax(-1)[0]
    ours = class_loss(scores, torch.tensor([[0, 2, 1]]), weight=torch.tensor([1.0, 5.0]))
    expected = -(log_p[0, 0] + 0.1 * log_p[1, 2] + 5 * log_p[2, 1]) / 6.1
    assert ours.item() == pytest.approx(expected.item())


# --- points -------------------------------------------------------------------------------------------


def test_points_are_read_between_the_centres_of_pixels() -> None:
    maps = torch.arange(12.0).view(1, 3, 4)
    centres = torch.tensor([[[(x + 0.5) / 4, (y + 0.5) / 3] for y in range(3) for x in range(4)]])
    torch.testing.assert_close(sample_points(maps, centres), maps.flatten(1))
    between = torch.tensor([[[2 / 4, 0.5 / 3]]])
    assert sample_points(maps, between).item() == pytest.approx(1.5)
    several = sample_points(maps.expand(5, -1, -1), centres)
    torch.testing.assert_close(several, maps.flatten(1).expand(5, -1))


def test_three_quarters_of_the_points_lie_where_the_network_is_unsure() -> None:
    step = torch.linspace(-5, 5, 100).expand(3, 50, 100)
    points = uncertain_points(step, 400)
    assert points.shape == (3, 400, 2)
    assert 0 <= points.min() <= points.max() <= 1
    near = ((points[..., 0] - 0.5).abs() < 0.15).float()
    assert (near[:, :300].mean(1) > 0.95).all()
    assert (near[:, 300:].mean(1) < 0.5).all()


def test_no_point_is_chosen_because_padding_is_unsure() -> None:
    logits, valid = torch.full((1, 20, 20), 3.0), torch.ones(20, 20, dtype=torch.bool)
    logits[:, :, 10:], valid[:, 10:] = 0.0, False
    points = uncertain_points(logits, 200, importance=1.0, valid=valid)
    assert (points[..., 0] <= 0.5).all()


# --- the whole ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cross_entropy", "focal"])
def test_the_loss_at_all_pixels_is_its_formula(kind: PixelLoss) -> None:
    class_logits, mask_logits, targets = example()
    loss = MaskSetLoss(
        class_weight=1.0, mask_weight=20.0, dice_weight=2.0, pixel_loss=kind, points=None, no_object=0.1
    )
    x = F.interpolate(mask_logits, (16, 20), mode="bilinear").numpy().reshape(2, 6, -1)
    g = targets[0].masks.double().numpy().reshape(3, -1)
    p = class_logits.softmax(-1).numpy()
    # Masks are matched at the size of the predicted ones, as the authors of MaskFormer do.
    coarse = mask_logits.numpy().reshape(2, 6, -1)
    small = targets[0].masks[:, ::2, ::2].double().numpy().reshape(3, -1)
    best = None
    for queries in itertools.permutations(range(6), 3):
        pairs = list(zip(queries, range(3), strict=True))
        cost = sum(
            20 * numpy_pixel(coarse[0, q], small[n], kind)
            + 2 * numpy_dice(coarse[0, q], small[n])
            - p[0, q, int(targets[0].classes[n])]
            for q, n in pairs
        )
        if best is None or cost < best[0]:
            best = cost, pairs
    assert best is not None
    _, pairs = best
    pixel = sum(numpy_pixel(x[0, q], g[n], kind) for q, n in pairs)
    dice = sum(numpy_dice(x[0, q], g[n]) for q, n in pairs)
    said = np.full((2, 6), 4)
    for q, n in pairs:
        said[0, q] = int(targets[0].classes[n])
    weight = np.where(said == 4, 0.1, 1.0)
    each = -np.log(np.take_along_axis(p, said[..., None], -1)[..., 0])
    parts = loss.parts(class_logits, mask_logits, targets)
    assert parts["class"].item() == pytest.approx((weight * each).sum() / weight.sum())
    assert parts["mask"].item() == pytest.approx(20 * pixel / 3)
    assert parts["dice"].item() == pytest.approx(2 * dice / 3)
    torch.testing.assert_close(
        loss(class_logits, mask_logits, targets), torch.stack(list(parts.values())).sum()
    )


def test_many_random_points_say_what_all_pixels_say() -> None:
    class_logits, mask_logits, targets = example()
    mask_logits = mask_logits.repeat_interleave(24, 2).repeat_interleave(24, 3)
    coarse = targets[0].masks[:, ::2, ::2].repeat_interleave(24, 1).repeat_interleave(24, 2)
    targets[0] = MaskSet.of(coarse, targets[0].classes)
    dense = MaskSetLoss(points=None).parts(class_logits, mask_logits, targets)
    points = MaskSetLoss(points=200_000, importance=0.0, oversample=1.0).parts(
        class_logits, mask_logits, targets
    )
    for name in dense:
        assert points[name].item() == pytest.approx(dense[name].item(), rel=0.06)


def test_the_order_of_queries_and_of_masks_does_not_matter() -> None:
    class_logits, mask_logits, targets = example()
    loss = MaskSetLoss(points=None)
    order, other = torch.randperm(6), [2, 0, 1]
    turned = [MaskSet.of(targets[0].masks[other], targets[0].classes[other]), targets[1]]
    torch.testing.assert_close(
        loss(class_logits[:, order], mask_logits[:, order], turned), loss(class_logits, mask_logits, targets)
    )


def test_a_right_answer_costs_almost_nothing() -> None:
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, :8], masks[1, 8:, :5] = True, True
    target = MaskSet.of(masks, torch.tensor([1, 0]))
    scores = torch.full((1, 4, 3), -20.0)
    for query, said in enumerate((2, 0, 2, 1)):
        scores[0, query, said] = 20.0
    logits = torch.full((1, 4, 16, 16), -20.0)
    logits[0, 3], logits[0, 1] = 40.0 * masks[0] - 20, 40.0 * masks[1] - 20
    assert MaskSetLoss(points=None)(scores, logits, [target]).item() < 1e-4
    swapped = MaskSet.of(masks, torch.tensor([0, 1]))
    assert MaskSetLoss(points=None)(scores, logits, [swapped]).item() > 1


def test_crowds_are_neither_matched_nor_learned() -> None:
    class_logits, mask_logits, targets = example()
    crowd = torch.rand(1, 16, 20) > 0.5
    with_crowd = MaskSet.of(
        torch.cat([crowd, targets[0].masks]),
        torch.cat([torch.tensor([1]), targets[0].classes]),
        is_crowd=torch.tensor([True, False, False, False]),
    )
    loss = MaskSetLoss(points=None)
    torch.testing.assert_close(
        loss(class_logits, mask_logits, [with_crowd, targets[1]]), loss(class_logits, mask_logits, targets)
    )
    few = class_logits[:, :3], mask_logits[:, :3]  # fewer queries than masks and crowd
    torch.testing.assert_close(loss(*few, [with_crowd, targets[1]]), loss(*few, targets))


@pytest.mark.parametrize("points", [None, 64])
def test_padding_has_no_say_and_no_gradient(points: int | None) -> None:
    class_logits, mask_logits, targets = example()
    valid = torch.ones(2, 16, 20, dtype=torch.bool)
    valid[:, :, 12:] = False
    mask_logits = mask_logits.repeat_interleave(2, 2).repeat_interleave(2, 3)
    other = mask_logits.clone()
    other[..., 13:] = 9.0  # column 12 is beside the last valid one, from which points may read
    loss = MaskSetLoss(points=points)
    torch.manual_seed(3)
    x = mask_logits.clone().requires_grad_()
    ours = loss(class_logits, x, targets, valid)
    torch.manual_seed(3)
    torch.testing.assert_close(loss(class_logits, other, targets, valid), ours)
    ours.backward()
    assert (x.grad[..., 13:] == 0).all()
    assert (x.grad[0] != 0).any()


@pytest.mark.parametrize("points", [None, 50])
def test_images_without_anything_teach_no_object_only(points: int | None) -> None:
    class_logits, mask_logits, targets = example()
    x, y = class_logits.requires_grad_(), mask_logits.requires_grad_()
    parts = MaskSetLoss(points=points).parts(x, y, [targets[1], targets[1]])
    sum(parts.values()).backward()
    assert parts["mask"].item() == parts["dice"].item() == 0
    assert (y.grad == 0).all()
    assert (x.grad[..., -1] < 0).all()


@pytest.mark.parametrize("points", [None, 50])
@pytest.mark.parametrize("kind", ["cross_entropy", "focal"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_and_extreme_logits_are_finite(
    points: int | None, kind: PixelLoss, dtype: torch.dtype
) -> None:
    class_logits, mask_logits, targets = example()
    x = (1e4 * class_logits.sign()).to(dtype).requires_grad_()
    y = (1e4 * mask_logits.sign()).to(dtype).requires_grad_()
    loss = MaskSetLoss(points=points, pixel_loss=kind)(x, y, targets)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert x.grad.isfinite().all()
    assert y.grad.isfinite().all()


def test_a_broken_network_is_not_hidden() -> None:
    class_logits, mask_logits, targets = example()
    mask_logits[:] = torch.nan
    assert MaskSetLoss(points=None)(class_logits, mask_logits, targets).isnan()


@pytest.mark.parametrize("kind", ["cross_entropy", "focal"])
@pytest.mark.parametrize("points", [None, 20])
def test_gradients_are_those_of_finite_differences(kind: PixelLoss, points: int | None) -> None:
    class_logits, mask_logits, targets = example()
    class_logits, mask_logits = class_logits[:, :4].clone(), mask_logits[:, :4, :3, :3].clone()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        torch.manual_seed(0)
        return MaskSetLoss(points=points, pixel_loss=kind, importance=0.0)(x, y, targets)

    assert torch.autograd.gradcheck(loss, (class_logits.requires_grad_(), mask_logits.requires_grad_()))


@pytest.mark.compile
@pytest.mark.parametrize("points", [None, 50])
def test_a_matching_does_not_break_the_graph(points: int | None) -> None:
    class_logits, mask_logits, targets = example()
    loss = MaskSetLoss(points=points)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours = compiled(class_logits, mask_logits, targets)
    if points is None:
        torch.testing.assert_close(ours, loss(class_logits, mask_logits, targets))
    assert ours.isfinite()


def test_bad_arguments_are_named() -> None:
    class_logits, mask_logits, targets = example()
    with pytest.raises(ValueError, match="scores of 2 images need masks and targets of as many, got 2 and 1"):
        MaskSetLoss()(class_logits, mask_logits, targets[:1])
    with pytest.raises(ValueError, match=r"classes of true masks must be in 0\.\.1, got 3"):
        MaskSetLoss()(class_logits[..., :3], mask_logits, targets)
    with pytest.raises((ValueError, TypeError), match="pixel_loss"):
        MaskSetLoss(pixel_loss="hinge")
    with pytest.raises(ValueError, match="points must be at least 1 or None, got 0"):
        MaskSetLoss(points=0)
    with pytest.raises(ValueError, match="oversample must be at least 1"):
        MaskSetLoss(oversample=0.5)
    with pytest.raises(ValueError, match="3 classes and no object need 3 class weights, got 4"):
        class_loss(torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.long), weight=torch.ones(4))
