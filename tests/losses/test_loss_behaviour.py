"""What every loss promises, asked of all of them."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pixelwise.losses import CrossEntropy, Dice, Focal, cross_entropy, dice_loss, focal_loss

WEIGHT = [1.0, 0.5, 2.0]
LOSSES: dict[str, Callable[..., nn.Module]] = {
    "cross_entropy": CrossEntropy,
    "weighted_cross_entropy": lambda **k: CrossEntropy(weight=WEIGHT, **k),
    "smoothed_cross_entropy": lambda **k: CrossEntropy(label_smoothing=0.1, weight=WEIGHT, **k),
    "dice": Dice,
    "weighted_dice": lambda **k: Dice(weight=WEIGHT, **k),
    "squared_dice": lambda **k: Dice(squared=True, **k),
    "focal": Focal,
    "weighted_focal": lambda **k: Focal(alpha=WEIGHT, **k),
    "root_focal": lambda **k: Focal(gamma=0.5, **k),
}
GRIDS = [(9,), (6, 5), (3, 4, 5)]


@pytest.fixture(params=LOSSES, ids=str)
def make(request: pytest.FixtureRequest) -> Callable[..., nn.Module]:
    return LOSSES[request.param]


def example(*grid: int, ignore: int = 255) -> tuple[Tensor, Tensor]:
    logits, labels = torch.randn(2, 3, *grid), torch.randint(0, 3, (2, *grid))
    labels[0, 0] = ignore
    return logits, labels


@pytest.mark.parametrize("grid", GRIDS)
def test_ignored_pixels_have_no_say_and_no_gradient(
    make: Callable[..., nn.Module], grid: tuple[int, ...]
) -> None:
    logits, labels = example(*grid)
    other = logits.clone()
    other.movedim(1, -1)[labels == 255] = torch.tensor([9.0, -7.0, 3.0])
    logits.requires_grad_()
    loss = make()(logits, labels)
    torch.testing.assert_close(make()(other, labels), loss, rtol=0, atol=0)
    loss.backward()
    assert (logits.grad.movedim(1, -1)[labels == 255] == 0).all()
    assert (logits.grad.movedim(1, -1)[labels != 255] != 0).any()


def test_any_label_can_be_the_ignored_one(make: Callable[..., nn.Module]) -> None:
    logits, labels = example(6, 5)
    expected = make()(logits, labels)
    for ignore in (-100, -1, 3, 1000):
        renamed = torch.where(labels == 255, ignore, labels)
        assert torch.equal(make(ignore=ignore)(logits, renamed), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_type_are_taken(make: Callable[..., nn.Module], dtype: torch.dtype) -> None:
    logits, labels = example(6, 5)
    assert torch.equal(make()(logits, labels.to(dtype)), make()(logits, labels))


def test_nothing_to_learn_from_costs_nothing_and_moves_nothing(make: Callable[..., nn.Module]) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = make()(logits, torch.full((2, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_classes_of_weight_zero_alone_cost_nothing() -> None:
    for loss in (cross_entropy, dice_loss):
        logits = torch.randn(1, 2, 3, 3, requires_grad=True)
        value = loss(logits, torch.ones(1, 3, 3, dtype=torch.long), weight=torch.tensor([1.0, 0.0]))
        value.backward()
        assert value.item() == 0
        assert (logits.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(
    make: Callable[..., nn.Module], dtype: torch.dtype
) -> None:
    logits, labels = example(64, 64)
    half = (8 * logits).to(dtype).requires_grad_()
    loss = make()(half, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, make()(half.detach().float(), labels), rtol=0, atol=0)
    loss.backward()
    assert half.grad.dtype == dtype
    assert half.grad.isfinite().all()


def test_a_sum_beyond_the_range_of_float16_is_finite() -> None:
    logits, labels = torch.full((1, 2, 40, 40), 100.0), torch.zeros(1, 40, 40, dtype=torch.long)
    logits[:, 0] = -100.0
    loss = cross_entropy(logits.half(), labels, reduction="sum")
    assert loss.item() == pytest.approx(200 * 1600)  # float16 ends at 65504


def test_autocast_changes_nothing(make: Callable[..., nn.Module]) -> None:
    logits, labels = example(6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        inside = make()(logits, labels)
    assert torch.equal(inside, make()(logits, labels))


@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_extreme_logits_give_finite_losses_and_gradients(
    make: Callable[..., nn.Module], extreme: float
) -> None:
    labels = torch.randint(0, 3, (2, 5, 5))
    logits = torch.zeros(2, 3, 5, 5)
    logits[:, 0] = extreme
    logits.requires_grad_()
    loss = make()(logits, labels)
    loss.backward()
    assert math.isfinite(loss.item())
    assert loss.item() > 0
    assert logits.grad.isfinite().all()


def test_a_sure_and_right_prediction_has_a_finite_gradient(make: Callable[..., nn.Module]) -> None:
    labels = torch.randint(0, 3, (2, 5, 5))
    logits = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float().mul(1e4).requires_grad_()
    make()(logits, labels).backward()
    assert logits.grad.isfinite().all()


def test_a_broken_network_is_not_hidden(make: Callable[..., nn.Module]) -> None:
    logits, labels = example(6, 5)
    logits[1, :, 3, 3] = torch.nan
    assert make()(logits, labels).isnan()


@pytest.mark.parametrize("grid", [(3, 2), (2, 2, 2)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradients_are_those_of_finite_differences(
    make: Callable[..., nn.Module], grid: tuple[int, ...], reduction: str
) -> None:
    logits, labels = example(*grid)
    loss = make(reduction=reduction)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits.double().requires_grad_())


@pytest.mark.compile
@pytest.mark.parametrize("grid", [(6, 5), (3, 4, 5)])
def test_compiles_in_one_graph(make: Callable[..., nn.Module], grid: tuple[int, ...]) -> None:
    logits, labels = example(*grid)
    loss = make()
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    x, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ours, eager = compiled(x, labels), loss(y, labels)
    torch.testing.assert_close(ours, eager)
    ours.backward()
    eager.backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_one_step_down_the_gradient_lowers_the_loss(make: Callable[..., nn.Module]) -> None:
    logits, labels = example(6, 5)
    logits.requires_grad_()
    loss = make()(logits, labels)
    loss.backward()
    assert make()(logits - 0.1 * logits.grad, labels) < loss


def test_a_module_is_its_function_with_settings() -> None:
    logits, labels = example(6, 5, ignore=7)
    weight = torch.tensor(WEIGHT)
    for module, function, settings in (
        (CrossEntropy, cross_entropy, {"weight": weight, "label_smoothing": 0.2}),
        (Dice, dice_loss, {"weight": weight, "squared": True}),
        (Focal, focal_loss, {"alpha": weight, "gamma": 3.5}),
    ):
        for reduction in ("mean", "sum", "none"):
            known = {**settings, "ignore": 7, "reduction": reduction}
            assert torch.equal(module(**known)(logits, labels), function(logits, labels, **known))


def test_weights_move_with_the_module_and_stay_out_of_its_state() -> None:
    for loss in (CrossEntropy(weight=WEIGHT), Dice(weight=WEIGHT), Focal(alpha=WEIGHT)):
        (buffer,) = loss.to("meta").buffers()
        assert buffer.device.type == "meta"
        assert loss.state_dict() == {}


@pytest.mark.parametrize("function", [cross_entropy, dice_loss, focal_loss])
def test_bad_arguments_are_named(function: Callable[..., Tensor]) -> None:
    logits, labels = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    with pytest.raises((ValueError, TypeError), match="labels"):  # TypeError where shapes are checked
        function(logits, labels[:, :2])
    with pytest.raises((ValueError, TypeError), match="labels"):
        function(logits, labels[:1])
    with pytest.raises((ValueError, TypeError), match="reduction"):
        function(logits, labels, reduction="average")
    weight = "alpha" if function is focal_loss else "weight"
    with pytest.raises((ValueError, TypeError), match=r"weight|alpha"):
        function(logits, labels, **{weight: torch.ones(2)})


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\], got 1.5"):
        CrossEntropy(label_smoothing=1.5)
    with pytest.raises(ValueError, match="gamma must be at least 0, got -1"):
        Focal(gamma=-1.0)
    with pytest.raises(ValueError, match="class weights must be finite and at least 0"):
        CrossEntropy(weight=[1.0, -1.0])
    with pytest.raises(ValueError, match="class weights must be finite and at least 0"):
        Dice(weight=[1.0, float("nan")])
    for loss in (CrossEntropy, Dice, Focal):
        with pytest.raises((ValueError, TypeError), match="reduction"):
            loss(reduction="median")
