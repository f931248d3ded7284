"""FC-DenseNet: published channels and parameters, dense blocks, what is doubled on the way up."""

import math

import pytest
import torch
from torch import Tensor, nn

from pixelwise import build
from pixelwise.models.fc_densenet import DenseBlock, FCDenseNet, fc_densenet56, fc_densenet103

# Of the authors' code for 11 classes; with batch norm's statistics the paper has 1.5, 3.5 and 9.4 million.
PARAMETERS = {"fc_densenet56": 1_376_795, "fc_densenet67": 3_463_243, "fc_densenet103": 9_322_091}
STACKS = {
    "fc_densenet56": [96, 144, 192, 240, 288, 336, 384, 336, 288, 240, 192],
    "fc_densenet67": [128, 208, 288, 368, 448, 528, 608, 528, 448, 368, 288],
    "fc_densenet103": [112, 192, 304, 464, 656, 896, 1088, 816, 576, 384, 256],
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_and_stacks_are_those_of_the_authors(name: str) -> None:
    with torch.device("meta"):
        model = build(name, 11).eval()
        stacks: list[int] = []
        for module in model.modules():
            if isinstance(module, DenseBlock):
                module.register_forward_hook(
                    lambda _m, given, new: stacks.append(given[0].shape[1] + new.shape[1])
                )
        model(torch.empty(1, 3, 64, 64))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert stacks == STACKS[name]


def test_103_counts_its_layers() -> None:
    with torch.device("meta"):
        model = fc_densenet103(11)
    # 91 layers, 5 transitions down, 5 up, the first and the last.
    assert sum(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in model.modules()) == 103


def test_a_layer_sees_the_input_and_all_maps_before_it() -> None:
    block = DenseBlock(3, 2, 3).eval()
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        first = block[0](x)
        second = block[1](torch.cat([x, first], 1))
        third = block[2](torch.cat([x, first, second], 1))
        torch.testing.assert_close(block(x), torch.cat([first, second, third], 1))


def test_weights_begin_uniform_as_he_et_al_say() -> None:
    model = fc_densenet56(3, width=48)
    weight = model.down[4][3][2].weight
    bound = math.sqrt(6 / (weight.shape[1] * 9))
    assert bound * 0.99 < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_only_new_maps_are_doubled_and_they_come_before_the_skip() -> None:
    model = fc_densenet56(3, width=8).eval()
    given: dict[str, Tensor] = {}
    blocks = {"bottleneck": model.bottleneck, "up": model.up[0], "grow": model.transitions_up[0]}
    for name, module in blocks.items():
        module.register_forward_hook(lambda _m, x, y, name=name: given.update({name: x[0], f"{name} out": y}))
    model.transitions_down[4].register_forward_hook(lambda _m, x, _y: given.update(skip=x[0]))
    with torch.no_grad():
        model(torch.rand(1, 3, 32, 96))
    assert torch.equal(given["grow"], given["bottleneck out"])
    # 1 x 3 doubles to 3 x 7, cut to the skip's 2 x 6 at the end.
    assert given["grow out"].shape[-2:] == (3, 7)
    assert torch.equal(given["up"], torch.cat([given["grow out"][..., :2, :6], given["skip"]], 1))


def test_an_odd_map_needs_no_cut() -> None:
    with torch.device("meta"):
        model: FCDenseNet = fc_densenet56(3, width=4).eval()
        sizes: list[tuple[int, ...]] = []
        for grow in model.transitions_up:
            grow.register_forward_hook(lambda _m, _x, y: sizes.append(tuple(y.shape[-2:])))
        assert model(torch.empty(1, 3, 63, 33)).coarse.shape == (1, 3, 63, 33)
    assert sizes == [(3, 3), (7, 5), (15, 9), (31, 17), (63, 33)]


def test_dropout_follows_every_layer() -> None:
    with torch.device("meta"):
        model = fc_densenet56(3, width=4)
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    assert rates == [0.2] * (44 + 5)
