"""Learning rates over time, over parts of the model, and none at all."""

import math

import pytest
import torch
from torch import nn

import pixelwise as pw
from pixelwise.training import Optimization, freeze, parameter_groups
from pixelwise.training.schedule import factor
from pixelwise.types import DenseModel


def test_poly_is_the_published_formula() -> None:
    at = factor("poly", 100)
    assert [at(step) for step in (0, 50, 99)] == pytest.approx([1.0, 0.5**0.9, 0.01**0.9])


def test_cosine_halves_in_the_middle_and_ends_near_zero() -> None:
    at = factor("cosine", 100)
    assert at(0) == 1.0
    assert at(50) == pytest.approx(0.5)
    assert at(99) == pytest.approx((1 + math.cos(math.pi * 0.99)) / 2)


def test_step_falls_to_a_tenth_at_each_drop() -> None:
    at = factor("step", 12, warmup_steps=2, drops=(0.5, 0.8))
    assert [at(step) for step in (2, 6, 7, 9, 10, 11)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("name", ["poly", "cosine", "step", "constant"])
def test_warm_up_rises_linearly_to_the_whole_rate_and_then_it_never_rises(name: str) -> None:
    at = factor(name, 20, warmup_steps=4)
    assert [at(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    later = [at(step) for step in range(4, 21)]
    assert later == sorted(later, reverse=True)
    assert all(0 < x <= 1 for x in later[:-1])


def test_a_warm_up_longer_than_the_training_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup_steps must be at most the number of steps 3, got 4"):
        factor("poly", 3, warmup_steps=4)


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="schedule must be one of poly, cosine, linear, step, constant"):
        factor("stairs", 3)


def test_every_parameter_is_in_one_group_and_vectors_do_not_decay() -> None:
    model = pw.build("pspnet", 3, encoder="tiny")
    groups = parameter_groups(model, lr=1.0, encoder_lr_factor=0.1, weight_decay=0.5)
    assert len(groups) == 4
    placed = [id(p) for group in groups for p in group["params"]]
    assert sorted(placed) == sorted(id(p) for p in model.parameters())
    of_encoder = {id(p) for p in model.encoder.parameters()}
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.5 if parameter.ndim > 1 else 0.0)
            assert group["lr"] == (0.1 if id(parameter) in of_encoder else 1.0)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "rmsprop"])
def test_the_schedule_keeps_the_ratio_of_encoder_and_rest(name: str) -> None:
    model = pw.build("pspnet", 3, encoder="tiny")
    optimization = Optimization(10, name, lr=0.2, encoder_lr_factor=0.1, schedule="poly")
    optimizer, schedule = optimization.make(model)
    for step in range(5):
        rates = {group["name"].split(",")[0]: group["lr"] for group in optimizer.param_groups}
        assert rates["rest"] == pytest.approx(0.2 * (1 - step / 10) ** 0.9)
        assert rates["encoder"] == pytest.approx(rates["rest"] / 10)
        optimizer.step()
        schedule.step()


def test_frozen_parts_have_no_gradient_and_are_in_no_group() -> None:
    model = pw.build("pspnet", 3, encoder="tiny")
    frozen = freeze(model, ("encoder", "head.2.bias"))
    assert frozen == (model.encoder,)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "head.2.weight" in trained
    assert "head.2.bias" not in trained
    assert not any(name.startswith("encoder") for name in trained)
    placed = [p for group in parameter_groups(model, lr=1.0) for p in group["params"]]
    assert len(placed) == len(trained)


def test_a_part_that_does_not_exist_is_told_with_a_suggestion() -> None:
    model = pw.build("pspnet", 3, encoder="tiny")
    with pytest.raises(ValueError, match="no part 'encodr': did you mean 'encoder'"):
        freeze(model, ("encodr",))
    with pytest.raises(ValueError, match="its parts are encoder, context"):
        freeze(model, ("zzzzzzzzzzz",))
    with pytest.raises(ValueError, match="has no part 'enc'"):
        freeze(model, ("enc",))


def test_a_model_that_is_frozen_whole_cannot_be_trained() -> None:
    model = pw.build("unet_bilinear", 2, width=2)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter is left to train"):
        parameter_groups(model, lr=1.0)


def test_weight_decay_shrinks_weights_only() -> None:
    model = pw.build("unet_bilinear", 2, width=2)
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer, _ = Optimization(1, "adamw", lr=0.1, weight_decay=0.5, schedule="constant").make(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.head.weight, before["head.weight"] * 0.95)
    assert torch.equal(model.head.bias, before["head.bias"])


def test_momentum_and_drops_reach_rmsprop() -> None:
    model = pw.build("unet_bilinear", 2, width=2)
    optimization = Optimization(
        4, "rmsprop", lr=1.0, momentum=0.3, weight_decay=0.2, schedule="step", drops=(0.5,)
    )
    optimizer, schedule = optimization.make(model)
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.3}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.2}
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1])


@pytest.mark.parametrize(
    "name", ["fcn8s_vgg16", "espnetv2_s_0_5", "unet", "unet_original", "segnet_basic", "linknet"]
)
def test_every_model_has_an_encoder_that_takes_its_own_learning_rate(name: str) -> None:
    with torch.device("meta"):
        model = pw.build(name, 3)
    groups = parameter_groups(model, lr=1.0, encoder_lr_factor=0.1)
    assert {group["lr"] for group in groups} == {0.1, 1.0}
    first = next(p for p in model.parameters() if p.ndim == 4)
    (holder,) = [group for group in groups if any(p is first for p in group["params"])]
    assert holder["lr"] == 0.1


def test_a_factor_that_matches_nothing_is_refused() -> None:
    model = pw.build("pspnet", 3, encoder="tiny")
    freeze(model, ("encoder",))
    with pytest.raises(
        ValueError, match=r"encoder_lr_factor must be 1 where no encoder is trained, got 0\.1"
    ):
        parameter_groups(model, lr=1.0, encoder_lr_factor=0.1)


def test_position_embeddings_bias_tables_and_norms_of_any_shape_do_not_decay() -> None:
    class Odd(DenseModel):
        def __init__(self) -> None:
            super().__init__()
            self.pos_embed = nn.Parameter(torch.ones(1, 4, 2))
            self.cls_token = nn.Parameter(torch.ones(1, 1, 2))
            self.attn = nn.Module()
            self.attn.relative_position_bias_table = nn.Parameter(torch.ones(9, 2))
            self.attn.attention_biases = nn.Parameter(torch.ones(2, 9))
            self.norm = nn.LayerNorm((2, 2))
            self.head = nn.Linear(2, 2)

        def forward(self, image: torch.Tensor) -> pw.DenseLogits:
            raise NotImplementedError

    decaying = [name for name, role in Odd().parameter_roles().items() if role.decays]
    assert decaying == ["head.weight"]


def test_the_bias_tables_of_swin_do_not_decay() -> None:
    with torch.device("meta"):
        model = pw.build("unet", 3, encoder="swin_tiny_patch4_window7_224")
    roles = model.parameter_roles()
    tables = [role for name, role in roles.items() if "bias_table" in name]
    assert len(tables) == 12
    assert all(role.of_encoder and not role.decays for role in tables)
    assert roles["encoder.body.layers_0.blocks.0.attn.qkv.weight"] == (True, True)
