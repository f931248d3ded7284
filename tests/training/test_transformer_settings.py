"""What the training of transformers needs: who decays, how fast each block learns, blocks computed twice."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import pixelwise as pw
from pixelwise.training import Recipe, make_experiment, make_plan, parameter_groups, run
from pixelwise.training.gradient_checkpointing import checkpoint_blocks
from pixelwise.training.optim import steps_to_the_end
from pixelwise.types import Model

MakeRecipe = Callable[..., Recipe]


def on_meta(name: str, **arguments: object) -> Model:
    with torch.device("meta"):
        return pw.build(name, 5, **arguments)


# --- weight decay ---------------------------------------------------------------------

TABLE = "attention.attention.relative_position_bias_table"
SWIN_BLOCKS = {"c2": 2, "c3": 2, "c4": 6, "c5": 2}
SWIN_TABLES = {
    f"encoder.body.{stage}.blocks.{i}.{TABLE}" for stage, count in SWIN_BLOCKS.items() for i in range(count)
}
PARTS = {  # arrays of several axes that are no weights of a layer
    "segmenter": (
        {"encoder": "vit_small_patch14_reg4_dinov2"},
        {
            "encoder.body.cls_token",
            "encoder.body.reg_token",
            "encoder.body.pos_embed",
            "decoder.class_token",
        },
    ),
    "setr_naive": (
        {"encoder": "beit_base_patch16_224"},
        {f"encoder.relative_positions.{i}" for i in range(12)},
    ),
    "eomt_base": (
        {},
        {"encoder.body.cls_token", "encoder.body.reg_token", "encoder.body.pos_embed", "queries"},
    ),
    "segformer_b0": ({}, set()),
    "pvt_tiny": ({}, {f"encoder.body.{stage}.pos_embed" for stage in SWIN_BLOCKS}),
    "swin_tiny_upernet": ({}, SWIN_TABLES),
    "mask2former_swin_tiny": (
        {},
        {"queries", "query_pos_embed", "level_embed", "pixel_decoder.level_embed"} | SWIN_TABLES,
    ),
    "maskformer_resnet50": ({}, {"queries"}),
}


@pytest.mark.parametrize("name", PARTS)
def test_norms_biases_positions_tables_tokens_and_queries_do_not_decay(name: str) -> None:
    arguments, expected = PARTS[name]
    model = on_meta(name, **arguments)
    undecayed = {
        key for group in parameter_groups(model, lr=1.0, weight_decay=0.1) for key in names_in(model, group)
        if not group["weight_decay"]
    }  # fmt: skip
    of_one_axis = {key for key, p in model.named_parameters() if p.ndim == 1}
    assert undecayed - of_one_axis == expected
    assert of_one_axis <= undecayed
    assert {key for key in undecayed if key.endswith("norm.weight")}


def names_in(model: nn.Module, group: dict) -> list[str]:
    held = {id(p) for p in group["params"]}
    return [key for key, p in model.named_parameters() if id(p) in held]


# --- layer-wise decay of the learning rate -------------------------------------------------------------


def rates(model: Model, **settings: float) -> dict[str, float]:
    groups = parameter_groups(model, lr=1.0, **settings)
    found = {key: group["lr"] for group in groups for key in names_in(model, group)}
    assert len(found) == len(list(model.parameters()))
    return found


def test_each_block_of_a_plain_vit_learns_slower_than_the_one_behind_it() -> None:
    model = on_meta("eomt", encoder="tiny", blocks=2)  # four blocks
    found = rates(model, layer_decay=0.5, encoder_lr_factor=0.8)
    for key, rate in found.items():
        if not key.startswith("encoder."):
            wanted = 1.0
        elif "blocks." in key:
            wanted = 0.8 * 0.5 ** (4 - int(key.split("blocks.")[1][0]))
        elif "norm" in key:
            wanted = 0.8
        else:
            wanted = 0.8 * 0.5**5
        assert rate == pytest.approx(wanted), key
    assert {"encoder.body.cls_token", "encoder.body.pos_embed", "encoder.body.patch_embed.proj.weight"} < {
        key for key, rate in found.items() if rate == pytest.approx(0.8 * 0.5**5)
    }


def test_blocks_of_a_pyramid_are_counted_through_its_stages() -> None:
    found = rates(on_meta("swin_tiny_upernet"), layer_decay=0.9)
    number = 0
    for stage, count in SWIN_BLOCKS.items():
        for i in range(count):
            number += 1
            prefix = f"encoder.body.{stage}.blocks.{i}."
            own = [rate for key, rate in found.items() if key.startswith(prefix)]
            assert own == pytest.approx([0.9 ** (13 - number)] * len(own))
    assert found["encoder.body.c2.downsample.proj.weight"] == pytest.approx(0.9**13)
    assert found["encoder.body.c3.downsample.reduction.weight"] == pytest.approx(0.9 ** (13 - 3))
    assert found["encoder.norms.c2.weight"] == 1
    assert {rate for key, rate in found.items() if not key.startswith("encoder.")} == {1.0}


def test_a_table_of_positions_learns_like_its_block() -> None:
    names = ["body.pos_embed", "body.blocks.0.weight", "body.blocks.1.weight", "body.norm.weight"]
    steps = steps_to_the_end([*names, "relative_positions.0", "relative_positions.1"])
    assert list(steps.values()) == [3, 2, 1, 0, 2, 1]


def test_a_layer_decay_of_one_leaves_the_groups_as_they_are() -> None:
    model = on_meta("eomt", encoder="tiny")
    assert len(parameter_groups(model, lr=1.0, weight_decay=0.1, layer_decay=1.0)) == 4
    assert len(parameter_groups(model, lr=1.0, weight_decay=0.1, layer_decay=0.9)) == 3 + 2 * 5


def test_an_encoder_without_blocks_is_told_in_a_sentence(tiny: MakeRecipe) -> None:
    with pytest.raises(ValueError, match=r"layer_decay must be 1 where the encoder has no blocks, .*PSPNet"):
        make_experiment(tiny(layer_decay=0.8))
    with pytest.raises(ValueError, match=r"layer_decay must be a number above 0 and at most 1, got 1\.5"):
        tiny(layer_decay=1.5)


def test_the_layer_decay_of_a_recipe_reaches_the_optimiser(tiny: MakeRecipe) -> None:
    arguments = {"encoder": "tiny", "image_size": 32}
    recipe = tiny(model="segmenter", model_arguments=arguments, layer_decay=0.5, lr=0.1)
    optimizer, _ = (module := make_experiment(recipe).module).optimization.make(module.model)
    found = sorted({group["lr"] for group in optimizer.param_groups})
    assert found == pytest.approx([0.1 * 0.5**i for i in range(5, -1, -1)])


# --- gradient checkpointing ---------------------------------------------------------------------


def gradients(model: Model) -> tuple[list[torch.Tensor], int]:
    """The gradient of every parameter, and how often a linear layer of the first block was computed."""
    calls = []
    first = next(m for key, m in model.named_modules() if ".0." in key and isinstance(m, nn.Linear))
    first.register_forward_hook(lambda *_: calls.append(1))
    torch.manual_seed(1)
    image = torch.rand(2, 3, 64, 96)
    output = model.train()(image)
    scores = output.coarse if isinstance(output, pw.DenseLogits) else output.mask_logits
    (scores.square().mean() + scores.mean()).backward()
    return [torch.zeros(()) if p.grad is None else p.grad for p in model.parameters()], len(calls)


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("segmenter", {"encoder": "tiny", "drop_path": 0.5}),  # dropout of 0.1 in the decoder
        ("eomt", {"encoder": "tiny", "blocks": 2, "num_queries": 4}),  # masks at random
        ("maskformer", {"encoder": "tiny", "width": 8, "blocks": 2, "num_queries": 4}),  # dropout
        ("mask2former", {"encoder": "tiny", "width": 8, "blocks": 1, "num_queries": 4}),
        pytest.param("segformer_b0", {}, marks=pytest.mark.slow),
    ],
)
def test_checkpointed_blocks_are_computed_twice_and_change_no_gradient(
    name: str, arguments: dict[str, object]
) -> None:
    torch.manual_seed(0)
    model = pw.build(name, 3, **arguments)
    again = pw.build(name, 3, **arguments)
    again.load_state_dict(model.state_dict())
    assert checkpoint_blocks(again) > 0
    (expected, once), (found, twice) = gradients(model), gradients(again)
    assert twice == 2 * once > 0
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)
    with torch.no_grad():
        image = torch.rand(1, 3, 64, 64)
        scores = [m.eval()(image) for m in (model, again)]
    torch.testing.assert_close(*scores)


def test_blocks_with_batch_norm_stay_as_they_are() -> None:
    with pytest.raises(ValueError, match=r"gradient_checkpointing is for networks of blocks .*PSPNet has no"):
        checkpoint_blocks(pw.build("pspnet", 3, encoder="tiny"))


def test_a_run_with_gradient_checkpointing_gives_the_same_weights(tiny: MakeRecipe, tmp_path) -> None:
    arguments = {"encoder": "tiny", "image_size": 32}
    weights = []
    for on in (False, True):
        recipe = tiny(
            model="segmenter", model_arguments=arguments, steps=3, epochs=None, gradient_checkpointing=on,
            out=str(tmp_path / str(on)), choose=False,
        )  # fmt: skip
        result = run(recipe, progress=False, report=False)
        weights.append(pw.load(result.last).model.state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(one, weights[1][key]) for key, one in weights[0].items())


# --- networks that bring their own loss ----------------------------------------------------------------

MASKS = {"model": "maskformer", "model_arguments": {"encoder": "tiny", "width": 8, "num_queries": 4}}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"loss": "dice"}, "loss, got 'dice'"),
        ({"class_weights": "balanced"}, "class_weights, got 'balanced'"),
        ({"class_weights": (1.0, 3.0)}, "class_weights"),
        ({"label_smoothing": 0.1}, r"label_smoothing, got 0\.1"),
        ({"aux_weight": 0.2}, r"aux_weight, got 0\.2"),
    ],
)
def test_a_loss_that_a_network_of_masks_would_not_use_is_refused(
    tiny: MakeRecipe, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=f"the loss is that of the network's paper: leave out {words}"):
        make_experiment(tiny(**MASKS, **changes))


def test_a_network_of_masks_trains_with_the_loss_of_its_paper_where_none_is_chosen(tiny: MakeRecipe) -> None:
    module = make_experiment(tiny(**MASKS)).module
    assert not isinstance(module.criterion, pw.losses.Criterion)


@pytest.mark.slow
def test_a_plan_leaves_the_loss_of_a_network_of_masks_alone(boxes) -> None:
    given = {"data": str(boxes), **MASKS, "crop": (32, 32), "batch_size": 2, "workers": 0}
    planned = make_plan(given, budget=None)
    assert planned.recipe.loss == "cross_entropy"
    assert planned.recipe.class_weights == "none"
    assert not isinstance(make_experiment(planned.recipe).module.criterion, pw.losses.Criterion)
