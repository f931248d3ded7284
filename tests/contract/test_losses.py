"""What every loss promises, asked of all of them. A new loss is tested by these without a new line.

A loss is a module of `pixelwise.losses` that takes logits and labels and knows ignored labels and classes
that are not exclusive. Settings of its own that deserve the same questions stand in OWN; promises that a
loss cannot keep, with the reason, in EXCEPTIONS.
"""

import inspect
import math

import pytest
import torch
from torch import Tensor, nn

from pixelwise import losses

K = 3
WEIGHT = [1.0, 0.5, 0.25]
OWN: dict[str, tuple[str, dict[str, object]]] = {
    "CrossEntropy, smoothed": ("CrossEntropy", {"label_smoothing": 0.1, "weight": WEIGHT}),
    "Dice, squared": ("Dice", {"squared": True}),
    "Focal, root": ("Focal", {"gamma": 0.5}),
    "Lovasz, all per image": ("Lovasz", {"per_image": True, "classes": "all"}),
    "Ohem, half": ("Ohem", {"fraction": 0.5}),
    "Ohem, threshold": ("Ohem", {"threshold": 0.4, "min_kept": 3}),
}
# What a loss needs to say anything about images of some pixels.
SMALL: dict[str, dict[str, object]] = {"RMI": {"radius": 2, "pool": 1}}
# Name of a test: losses it is not asked of.
EXCEPTIONS: dict[str, set[str]] = {}


def is_loss(kind: object) -> bool:
    if not inspect.isclass(kind) or not issubclass(kind, nn.Module):
        return False
    asked = list(inspect.signature(kind.forward).parameters)
    known = inspect.signature(kind).parameters
    return asked[1:3] == ["logits", "labels"] and {"ignore", "exclusive", "reduction"} <= set(known)


NAMES = sorted(name for name, kind in vars(losses).items() if is_loss(kind))


class Case:
    """A loss with settings, to be made for classes that are exclusive or not."""

    def __init__(self, name: str, exclusive: bool) -> None:
        self.name, self.exclusive = name, exclusive
        self.kind_name, own = OWN.get(name, (name, {}))
        self.own = {**SMALL.get(self.kind_name, {}), **own}
        self.kind = getattr(losses, self.kind_name)

    def __call__(self, **settings: object) -> nn.Module:
        return self.kind(exclusive=self.exclusive, **{**self.own, **settings})

    def example(self, *grid: int, ignore: int = 255) -> tuple[Tensor, Tensor]:
        """Random logits and labels of two images, some of them ignored, every class there."""
        logits = torch.randn(2, K, *grid)
        if self.exclusive:
            labels = torch.arange(2 * math.prod(grid)).remainder(K)
            labels = labels[torch.randperm(len(labels))].view(2, *grid)
            labels[0, 0] = ignore
        else:
            labels = torch.arange(2 * K * math.prod(grid)).remainder(2)
            labels = labels[torch.randperm(len(labels))].view(2, K, *grid)
            labels[0, 1, 0] = ignore
        return logits, labels

    def entries(self, at: Tensor) -> Tensor:
        """Places of labels as places of logits."""
        return at[:, None].expand(-1, K, *at.shape[1:]) if self.exclusive else at

    @property
    def weight_name(self) -> str:
        return "weight" if "weight" in inspect.signature(self.kind).parameters else "alpha"


@pytest.fixture(params=[True, False], ids=["exclusive", "multilabel"])
def exclusive(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(params=[*NAMES, *OWN])
def case(request: pytest.FixtureRequest, exclusive: bool) -> Case:
    found = Case(request.param, exclusive)
    test = request.node.originalname
    if found.kind_name in EXCEPTIONS.get(test, ()):
        pytest.skip("see EXCEPTIONS")
    return found


def test_losses_are_found() -> None:
    assert {"CrossEntropy", "Dice", "Focal", "Lovasz"} <= set(NAMES)
    assert {kind for kind, _ in OWN.values()} <= set(NAMES)
    assert set().union(*EXCEPTIONS.values()) <= set(NAMES)
    assert set(EXCEPTIONS) <= set(globals())


# --- what does not count ------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(9, 8), (3, 4, 5)])
def test_ignored_labels_have_no_say_and_no_gradient(case: Case, grid: tuple[int, ...]) -> None:
    logits, labels = case.example(*grid)
    ignored = case.entries(labels == 255)
    other = torch.where(ignored, 9 * torch.randn_like(logits), logits).requires_grad_()
    logits.requires_grad_()
    loss, same = case()(logits, labels), case()(other, labels)
    torch.testing.assert_close(same, loss, rtol=0, atol=0)
    loss.backward()
    same.backward()
    assert (logits.grad[ignored] == 0).all()
    assert (logits.grad[~ignored] != 0).any()
    torch.testing.assert_close(other.grad, logits.grad, rtol=0, atol=0)


def test_any_label_can_be_the_ignored_one(case: Case) -> None:
    logits, labels = case.example(6, 5)
    expected = case()(logits, labels)
    for ignore in (-100, -1, 3, 1000):
        renamed = torch.where(labels == 255, ignore, labels)
        assert torch.equal(case(ignore=ignore)(logits, renamed), expected)


def test_nothing_to_learn_from_costs_nothing_and_moves_nothing(case: Case) -> None:
    logits, labels = case.example(9, 8)
    logits.requires_grad_()
    for reduction in ("mean", "sum", "none"):
        loss = case(reduction=reduction)(logits, torch.full_like(labels, 255))
        (grad,) = torch.autograd.grad(loss.sum(), logits)
        assert (loss == 0).all()
        assert (grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_type_are_taken(case: Case, dtype: torch.dtype) -> None:
    logits, labels = case.example(6, 5)
    assert torch.equal(case()(logits, labels.to(dtype)), case()(logits, labels))


def test_an_ignored_label_beyond_the_type_of_the_labels_ignores_nothing(case: Case) -> None:
    logits, labels = case.example(6, 5)
    labels = torch.where(labels == 255, 0, labels)
    expected = case()(logits, labels)
    assert torch.equal(case(ignore=256)(logits, labels.to(torch.uint8)), expected)
    assert torch.equal(case(ignore=-1)(logits, labels.to(torch.uint8)), expected)


# --- reductions and weights ---------------------------------------------------------------------------


def test_the_sum_is_that_of_the_parts_and_the_mean_is_none_of_them(case: Case) -> None:
    logits, labels = case.example(9, 8)
    parts, total, mean = (case(reduction=name)(logits, labels) for name in ("none", "sum", "mean"))
    assert parts.ndim >= 1
    assert total.shape == mean.shape == ()
    torch.testing.assert_close(parts.sum(), total)
    assert parts.min() <= mean <= parts.max()


def test_weights_of_one_change_nothing_and_others_do(case: Case) -> None:
    logits, labels = case.example(9, 8)
    if case.weight_name == "alpha" and not case.exclusive:
        pytest.skip("alpha is a balance there, not a weight")
    plain = case(**{case.weight_name: None})(logits, labels)
    torch.testing.assert_close(case(**{case.weight_name: [1.0] * K})(logits, labels), plain)
    assert not torch.isclose(case(**{case.weight_name: [1.0, 0.0, 0.0]})(logits, labels), plain)


def test_classes_of_weight_zero_alone_cost_nothing(case: Case) -> None:
    if case.weight_name == "alpha" and not case.exclusive:
        pytest.skip("alpha is a balance there, not a weight")
    logits, labels = case.example(9, 8)
    logits.requires_grad_()
    loss = case(**{case.weight_name: [0.0] * K})(logits, labels)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_weights_move_with_the_module_and_stay_out_of_its_state(case: Case) -> None:
    loss = case(**{case.weight_name: WEIGHT})
    assert {buffer.device.type for buffer in loss.to("meta").buffers()} == {"meta"}
    assert loss.state_dict() == {}


def test_a_module_is_its_function_with_settings(case: Case) -> None:
    wanted = case.kind_name.lower()
    found = [
        function
        for name, function in vars(losses).items()
        if inspect.isfunction(function) and name.replace("_", "") in (wanted, wanted + "loss")
    ]
    assert len(found) == 1
    logits, labels = case.example(9, 8, ignore=7)
    for reduction in ("mean", "sum", "none"):
        known = {**case.own, "ignore": 7, "reduction": reduction, "exclusive": case.exclusive}
        tensors = {case.weight_name: torch.tensor(WEIGHT)}
        module = case.kind(**{**known, case.weight_name: WEIGHT})
        assert torch.equal(module(logits, labels), found[0](logits, labels, **{**known, **tensors}))


# --- numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(case: Case, dtype: torch.dtype) -> None:
    logits, labels = case.example(16, 16)
    half = (8 * logits).to(dtype).requires_grad_()
    loss = case()(half, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, case()(half.detach().float(), labels), rtol=0, atol=0)
    loss.backward()
    assert half.grad.dtype == dtype
    assert half.grad.isfinite().all()


def test_autocast_changes_nothing(case: Case) -> None:
    logits, labels = case.example(9, 8)
    results = []
    for enabled in (True, False):
        x = logits.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = case()(x, labels)
            loss.backward()
        results.append((loss.detach(), x.grad))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_extreme_logits_give_finite_losses_and_gradients(case: Case, extreme: float) -> None:
    logits, labels = case.example(9, 8)
    logits = torch.zeros_like(logits)
    logits[:, 0] = extreme
    logits.requires_grad_()
    loss = case()(logits, labels)
    loss.backward()
    assert math.isfinite(loss.item())
    assert loss.item() > 0
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("sure", [1e4, -1e4])
def test_a_sure_prediction_right_or_wrong_has_a_finite_gradient(case: Case, sure: float) -> None:
    logits, labels = case.example(9, 8)
    if case.exclusive:
        truth = nn.functional.one_hot(labels.clamp_max(K - 1), K).movedim(-1, 1)
    else:
        truth = (labels == 1).long()
    logits = (sure * (2 * truth - 1)).float().requires_grad_()
    loss = case()(logits, labels)
    loss.backward()
    assert math.isfinite(loss.item())
    assert logits.grad.isfinite().all()


def test_a_broken_network_is_not_hidden(case: Case) -> None:
    logits, labels = case.example(9, 8)
    logits[1, :, 3, 3] = torch.nan
    assert case()(logits, labels).isnan()


@pytest.mark.parametrize("grid, reduction", [((3, 4), "mean"), ((2, 2, 2), "none")])
def test_gradients_are_those_of_finite_differences(case: Case, grid: tuple[int, ...], reduction: str) -> None:
    logits, labels = case.example(*grid)
    loss = case(reduction=reduction, **({case.weight_name: WEIGHT} if reduction == "mean" else {}))
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits.double().requires_grad_())


def test_the_float32_gradient_is_that_of_float64(case: Case) -> None:
    logits, labels = case.example(16, 16)
    grads = []
    for dtype in (torch.float32, torch.float64):
        x = logits.to(dtype, copy=True).requires_grad_()
        case()(x, labels).backward()
        grads.append(x.grad.double())
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-4 * grads[1].abs().max().item())


def test_the_gradient_can_be_asked_for_twice_and_inputs_stay_as_they_are(case: Case) -> None:
    logits, labels = case.example(9, 8)
    kept, kept_labels = logits.clone(), labels.clone()
    logits.requires_grad_()
    loss = case()(logits, labels)
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (second,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert torch.equal(logits, kept)
    assert torch.equal(labels, kept_labels)


def test_the_layout_of_the_memory_does_not_matter(case: Case) -> None:
    logits, labels = case.example(9, 8)
    results = []
    for layout in (
        lambda x: x,
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: torch.stack([x, x], -1)[..., 0],
    ):
        x = layout(logits.clone()).requires_grad_()
        own = labels.mT.contiguous().mT
        loss = case()(x, own)
        loss.backward()
        results.append((loss.detach(), x.grad.contiguous()))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_one_step_down_the_gradient_lowers_the_loss(case: Case) -> None:
    logits, labels = case.example(9, 8)
    logits.requires_grad_()
    loss = case()(logits, labels)
    loss.backward()
    step = 0.01 * loss.item() / logits.grad.square().sum()
    assert case()(logits - step * logits.grad, labels) < loss


# --- compilation --------------------------------------------------------------------------------------


def compiled_equals_eager(case: Case, grid: tuple[int, ...], backend: str) -> None:
    logits, labels = case.example(*grid)
    loss = case(**{case.weight_name: WEIGHT})
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    x, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ours, eager = compiled(x, labels), loss(y, labels)
    torch.testing.assert_close(ours, eager)
    ours.backward()
    eager.backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.compile
def test_compiles_in_one_graph(case: Case) -> None:
    compiled_equals_eager(case, (9, 8), "eager")


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.parametrize("grid", [(9, 8), (3, 4, 5)])
def test_the_compiled_gradient_is_the_eager_one(case: Case, grid: tuple[int, ...]) -> None:
    compiled_equals_eager(case, grid, "aot_eager")


# --- mistakes -----------------------------------------------------------------------------------------


def test_bad_arguments_are_named(case: Case) -> None:
    logits, labels = case.example(9, 8)
    with pytest.raises((ValueError, TypeError), match="labels"):  # TypeError where shapes are checked
        case()(logits, labels[..., :2])
    with pytest.raises((ValueError, TypeError), match="labels"):
        case()(logits, labels[:1])
    with pytest.raises((ValueError, TypeError), match="reduction"):
        case(reduction="average")
    with pytest.raises((ValueError, TypeError), match=r"weight|alpha"):
        case(**{case.weight_name: [1.0, 1.0]})(logits, labels)
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="class weights must be finite and at least 0"):
            case(**{case.weight_name: [1.0, wrong, 1.0]})


def test_labels_for_the_other_kind_of_classes_are_named(case: Case) -> None:
    logits, _ = case.example(9, 8)
    _, labels = Case(case.name, not case.exclusive).example(9, 8)
    with pytest.raises((ValueError, TypeError), match="labels"):
        case()(logits, labels)


def test_a_label_that_is_no_class_is_named_on_the_cpu(case: Case) -> None:
    logits, labels = case.example(9, 8)
    for wrong in (-1, 7):
        bad = labels.clone()
        bad[1, -1, -1] = wrong
        with pytest.raises(ValueError, match=f"labels .* got {wrong}"):
            case()(logits, bad)
