"""DenseASPP: the authors' count, and their module with its ReLU in place."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pixelwise.encoders import DilatedDenseNet, TimmEncoder
from pixelwise.models import denseaspp_densenet161
from pixelwise.models.denseaspp import RATES, DenseAtrousPyramid


def redraw(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
            nn.init.normal_(layer.running_mean, std=0.3)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)


def test_parameters_are_as_many_as_in_the_authors_code() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in denseaspp_densenet161(19).parameters()) == 35_395_427


def test_every_layer_sees_the_input_behind_the_relu_and_all_layers_before() -> None:
    torch.manual_seed(6)
    context = DenseAtrousPyramid(10, 4).eval()
    redraw(context)
    features = torch.randn(2, 10, 9, 13)
    x = features.clone()
    with torch.no_grad():
        for i, (layer, rate) in enumerate(zip(context.layers, RATES, strict=True)):
            # the authors' first ReLU works in place, on what is concatenated afterwards
            y = x.relu_() if i == 0 else F.relu(layer.norm1(x))
            y = F.relu(layer.norm2(F.conv2d(y, layer.conv1.weight, layer.conv1.bias)))
            y = F.conv2d(y, layer.conv2.weight, layer.conv2.bias, padding=rate, dilation=rate)
            x = torch.cat((y, x), dim=1)
        torch.testing.assert_close(context(F.relu(features)), x)


def test_the_last_blocks_are_dilated_and_transitions_do_not_pool() -> None:
    with torch.device("meta"):
        encoder = denseaspp_densenet161(19).encoder
        features = encoder.eval()(torch.rand(1, 3, 64, 96))
    assert features.c5.shape == (1, 2208, 8, 12)
    rates = {
        number: {
            layer.dilation[0]
            for layer in encoder.body.get_submodule(f"denseblock{number}").modules()
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
        }
        for number in (1, 2, 3, 4)
    }
    assert rates == {1: {1}, 2: {1}, 3: {2}, 4: {4}}


def test_undilated_it_has_the_features_of_timm() -> None:
    torch.manual_seed(7)
    ours, theirs = DilatedDenseNet("densenet121").eval(), TimmEncoder("densenet121").eval()
    redraw(ours)
    weights = {key.replace("body.", "body.features_"): t for key, t in ours.state_dict().items()}
    theirs.load_state_dict({k: t for k, t in weights.items() if k in theirs.state_dict()}, strict=False)
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        found, expected = ours(image), theirs(image)
    for stage in ("c1", "c2", "c3", "c4"):
        torch.testing.assert_close(found[stage], expected[stage])


@pytest.mark.parametrize("stages", [("c2",), ("c3", "c4")])
def test_what_lies_behind_the_last_stage_is_cut_off(stages: tuple[str, ...]) -> None:
    with torch.device("meta"):
        encoder = DilatedDenseNet("densenet121", stages=stages)
        maps = encoder.train()(torch.rand(2, 3, 64, 64)).maps
        torch.stack([map.sum() for map in maps.values()]).sum().backward()
    assert tuple(maps) == stages
    assert all(p.grad is not None for p in encoder.parameters())
