"""ESPNetv2 beyond what every model promises: its parts, and the authors' names of weights."""

import math

import pytest
import torch
from torch import nn

from pixelwise import models
from pixelwise.checkpoint import load, save
from pixelwise.models import from_edgenets
from pixelwise.models.espnetv2 import EESP, EfficientPyramidPooling, GatedSkip
from pixelwise.types import ClassTable

# The authors' table of channels at strides 2 to 16, and the millions of weights that they publish.
SIZES = {
    0.5: ((16, 32, 64, 128), 0.08),
    1.0: ((32, 64, 128, 256), 0.23),
    1.25: ((32, 80, 160, 320), None),
    1.5: ((32, 96, 192, 384), 0.47),
    2.0: ((32, 128, 256, 512), 0.79),
}
NEVER_USED = [f"base_net.level{i}_0.eesp.module_act.weight" for i in (2, 3, 4)]


def builder_of(scale: float):
    return getattr(models, f"espnetv2_s_{str(scale).replace('.', '_')}")


def authors_shapes(scale: float, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes as the authors' code gives them, written down from its structure."""
    (c1, c2, c3, c4), _ = SIZES[scale]
    inner = min(num_classes // 2, 16)
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, c: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (c,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def block(name: str, c_in: int, c_out: int, kernel: int, groups: int = 1, parts: str = "cna") -> None:
        """Encoder: .conv, .bn, .act."""
        shapes[f"{name}.conv.weight"] = (c_out, c_in // groups, kernel, kernel)
        norm(f"{name}.bn", c_out)
        if "a" in parts:
            shapes[f"{name}.act.weight"] = (c_out,)

    def cbr(name: str, c_in: int, c_out: int, kernel: int, groups: int = 1) -> None:
        """Decoder: .cbr.0, .1, .2."""
        shapes[f"{name}.cbr.0.weight"] = (c_out, c_in // groups, kernel, kernel)
        norm(f"{name}.cbr.1", c_out)
        shapes[f"{name}.cbr.2.weight"] = (c_out,)

    def eesp(name: str, c_in: int, c_out: int) -> None:
        block(f"{name}.proj_1x1", c_in, c_out // 4, 1, groups=4)
        for i in range(4):
            shapes[f"{name}.spp_dw.{i}.conv.weight"] = (c_out // 4, 1, 3, 3)
        block(f"{name}.conv_1x1_exp", c_out, c_out, 1, groups=4, parts="cn")
        norm(f"{name}.br_after_cat.bn", c_out)
        shapes[f"{name}.br_after_cat.act.weight"] = (c_out,)
        shapes[f"{name}.module_act.weight"] = (c_out,)

    def halving(name: str, c_in: int, c_out: int) -> None:
        eesp(f"{name}.eesp", c_in, c_out - c_in)
        block(f"{name}.inp_reinf.0", 3, 3, 3)
        block(f"{name}.inp_reinf.1", 3, c_out, 1, parts="cn")
        shapes[f"{name}.act.weight"] = (c_out,)

    def pyramid(name: str, c_in: int, c_out: int, last: bool = False) -> None:
        for i in range(5):
            shapes[f"{name}.stages.{i}.weight"] = (inner, 1, 3, 3)
        cbr(f"{name}.projection_layer", c_in, inner, 1)
        norm(f"{name}.merge_layer.0.br.0", 5 * inner)
        shapes[f"{name}.merge_layer.0.br.1.weight"] = (5 * inner,)
        cbr(f"{name}.merge_layer.2", 5 * inner, inner, 3, groups=inner)
        shapes[f"{name}.merge_layer.3.weight"] = (c_out, inner, 1, 1)
        if last:
            shapes[f"{name}.merge_layer.3.bias"] = (c_out,)
        else:
            norm(f"{name}.br.br.0", c_out)
            shapes[f"{name}.br.br.1.weight"] = (c_out,)

    block("base_net.level1", 3, c1, 3)
    halving("base_net.level2_0", c1, c2)
    halving("base_net.level3_0", c2, c3)
    for i in range(3):
        eesp(f"base_net.level3.{i}", c3, c3)
    halving("base_net.level4_0", c3, c4)
    for i in range(7):
        eesp(f"base_net.level4.{i}", c4, c4)
    for name, c_in, c_out in (("l1", c4, 64), ("l2", 64, 48), ("l3", 48, 32), ("l4", 32, num_classes)):
        pyramid(f"bu_dec_{name}", c_in, c_out, last=name == "l4")
    for name, c_in, c_out in (("l2", c3, 64), ("l3", c2, 48), ("l4", c1, 32)):
        groups = math.gcd(c_in, c_out)
        shapes[f"merge_enc_dec_{name}.wt_layer.1.weight"] = (c_out, c_in, 1, 1)
        cbr(f"merge_enc_dec_{name}.expansion_layer", c_in, c_out, 3, groups=groups)
        norm(f"bu_br_{name}.0", c_out)
        shapes[f"bu_br_{name}.1.weight"] = (c_out,)
    return shapes


def authors_state_dict(scale: float, num_classes: int) -> dict[str, torch.Tensor]:
    weights = {}
    for name, shape in authors_shapes(scale, num_classes).items():
        weights[name] = torch.rand(shape) + 1 if "running_var" in name else torch.rand(shape) - 0.5
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
    return weights


@pytest.mark.parametrize("scale", SIZES)
def test_every_weight_of_the_authors_finds_its_place(scale: float) -> None:
    weights = authors_state_dict(scale, 21)
    model = from_edgenets(weights)
    assert not model.training
    ours = {key: t for key, t in model.state_dict().items() if not key.startswith("normalize.")}
    assert len(ours) == len(weights) - len(NEVER_USED)
    used = [tensor for key, tensor in weights.items() if key not in NEVER_USED]
    assert sorted(float(t.double().sum()) for t in used) == sorted(
        float(t.double().sum()) for t in ours.values()
    )


@pytest.mark.parametrize("scale", [s for s, (_, published) in SIZES.items() if published])
def test_the_number_of_weights_is_the_published_one(scale: float) -> None:
    with torch.device("meta"):
        model = builder_of(scale)(21)
    count = sum(p.numel() for p in model.parameters())
    assert round(count / 1e6, 2) == SIZES[scale][1]


def test_size_classes_and_builder_are_read_from_the_weights(tmp_path) -> None:
    model = from_edgenets(authors_state_dict(0.5, 20))
    assert model.num_classes == 20
    assert model.built_by is not None
    assert model.built_by.builder == "espnetv2_s_0_5"
    save(model, tmp_path / "a.safetensors", ClassTable.of(*(f"class {i}" for i in range(20))))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        logits = model(image).logits
        assert logits.isfinite().all()
        assert torch.equal(load(tmp_path / "a.safetensors").model(image).logits, logits)


def test_weights_that_do_not_fit_are_told_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="not that of an ESPNetv2"):
        from_edgenets({"weight": torch.zeros(1)})
    weights = authors_state_dict(0.5, 21)
    del weights["base_net.level3.1.module_act.weight"]
    with pytest.raises(ValueError, match=r"1 tensors are missing.* such as units3\.1\.act\.weight"):
        from_edgenets(weights)
    weights = authors_state_dict(0.5, 21)
    weights["bu_br_l3.1.weight"] = torch.zeros(47)
    with pytest.raises(ValueError, match=r"another shape, such as merge2\.1\.weight"):
        from_edgenets(weights)


@pytest.mark.parametrize(("field", "dilations"), [(9, [1, 2, 3, 4]), (7, [1, 1, 2, 3]), (5, [1, 1, 1, 2])])
def test_branches_that_look_too_far_are_not_dilated(field: int, dilations: list[int]) -> None:
    unit = EESP(16, 16, field=field)
    assert [branch.dilation[0] for branch in unit.branches] == dilations


@pytest.mark.parametrize("size", [(8, 12), (7, 13)])
def test_a_unit_halves_or_keeps_the_map(size: tuple[int, int]) -> None:
    height, width = size
    kept = EESP(16, 16, field=9)(torch.rand(2, 16, *size))
    halved = EESP(16, 32, stride=2, field=9)(torch.rand(2, 16, *size))
    assert kept.shape == (2, 16, height, width)
    assert halved.shape == (2, 32, (height + 1) // 2, (width + 1) // 2)


def test_the_pyramid_fuses_the_five_sizes_of_each_channel_alone() -> None:
    pyramid = EfficientPyramidPooling(4, 4, 4).eval()
    fuse, seen = pyramid.fuse, []
    fuse.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for branch in pyramid.branches:
        nn.init.zeros_(branch.weight)
        branch.weight.data[2] = 1.0  # only channel 2 of every size is alive
    pyramid(torch.rand(1, 4, 12, 12) + 1)
    alive = [c for c in range(20) if seen[0][0, c].abs().max() > 0]
    assert alive == [10, 11, 12, 13, 14]


def test_a_skip_is_weighted_by_the_whole_map() -> None:
    skip = GatedSkip(8, 12).eval()
    x = torch.rand(1, 8, 6, 6)
    gate = skip.gate(x)
    assert gate.shape == (1, 12, 1, 1)
    torch.testing.assert_close(skip(x), skip.expand(x) * gate)


@pytest.mark.parametrize("num_classes", [1, 2, 21, 150])
def test_few_and_many_classes_work(num_classes: int) -> None:
    model = models.espnetv2_s_0_5(num_classes).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 32, 48)).logits.shape == (1, num_classes, 32, 48)


def test_the_decoder_ends_at_half_the_size_and_aligns_corners() -> None:
    model = models.espnetv2_s_0_5(3).eval()
    with torch.no_grad():
        output = model(torch.rand(1, 3, 64, 97))
    assert output.coarse.shape == (1, 3, 32, 49)
    assert output.align_corners
    torch.testing.assert_close(output.logits[..., -1, -1], output.coarse[..., -1, -1])


def test_the_shrunken_image_reaches_every_scale() -> None:
    model = models.espnetv2_s_0_5(3)
    model(torch.rand(1, 3, 64, 64)).logits.square().sum().backward()
    for stage in (model.down2, model.down3, model.down4):
        assert stage.reinforce[0][0].weight.grad.abs().sum() > 0
