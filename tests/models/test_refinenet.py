"""RefineNet: the released numbers and its blocks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pixelwise.models import (
    ChainedResidualPooling,
    ResidualConvUnit,
    refinenet,
    refinenet_resnet101,
    refinenet_resnet152,
)


@pytest.mark.parametrize(
    ("builder", "counted"),
    [
        (refinenet_resnet101, 118_052_437),
        pytest.param(refinenet_resnet152, 118_052_437 + 60_192_808 - 44_549_160, marks=pytest.mark.slow),
    ],
)
def test_parameters_are_as_many_as_in_the_released_layout(builder, counted: int) -> None:
    # Of ResNet-152 none was counted: it has as many more as torchvision's classifiers say.
    with torch.device("meta"):
        assert sum(p.numel() for p in builder(21).parameters()) == counted


def test_a_unit_is_a_residual_block_that_keeps_its_input() -> None:
    unit = ResidualConvUnit(3)
    x = torch.randn(1, 3, 5, 6)
    before = x.clone()
    with torch.no_grad():
        y = unit(x)
        conv1, conv2 = unit.conv1, unit.conv2
        hidden = F.conv2d(x.clamp(min=0), conv1.weight, conv1.bias, padding=1).clamp(min=0)
        torch.testing.assert_close(y, before + F.conv2d(hidden, conv2.weight, padding=1))
    assert torch.equal(x, before)
    assert conv2.bias is None


def test_chained_poolings_see_wider_and_wider_windows() -> None:
    block = ChainedResidualPooling(2)
    for stage in block.stages:
        nn.init.dirac_(stage[1].weight)
    x = torch.randn(1, 2, 21, 23)
    with torch.no_grad():
        positive = x.relu()
        expected = positive + sum(
            F.max_pool2d(positive, side, stride=1, padding=side // 2) for side in (5, 9, 13, 17)
        )
        torch.testing.assert_close(block(x), expected)


def test_the_finest_path_gets_what_lies_below() -> None:
    model = refinenet(3, encoder="tiny", width=8).eval()
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        whole = model(image)
        assert whole.coarse.shape == (1, 3, 17, 25)
        for carry in model.carry:
            nn.init.zeros_(carry.weight)
        features = model.encoder(image)
        alone = model.head(model.blocks[-1](features.c2, torch.zeros(1, 8, 9, 13)))
        torch.testing.assert_close(model(image).coarse, alone)
    assert not torch.equal(whole.coarse, alone)
