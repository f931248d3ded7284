"""Wide ResNet-38: the authors' counts, their dilations, and how far a pixel sees."""

import pytest
import torch
from torch import nn

from pixelwise.encoders import WideResNet38
from pixelwise.models import wide_resnet38
from pixelwise.types import STAGES


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_are_as_many_as_the_authors_have() -> None:
    with torch.device("meta"):
        model = wide_resnet38(19)
        assert count(model.encoder) + count(model.norm) == 105_070_912
        assert count(model) == pytest.approx(124_033_875, rel=1e-4)


@pytest.mark.parametrize("variant", ["a1", "a2"])
@pytest.mark.parametrize("size", [(64, 96), (65, 97)])
def test_both_variants_have_the_same_weights_and_stride_8(variant: str, size: tuple[int, int]) -> None:
    encoder = WideResNet38(2, variant=variant, stages=("c0", *STAGES)).eval()
    assert count(encoder) == count(WideResNet38(2))
    with torch.no_grad():
        maps = encoder(torch.rand(1, 3, *size)).maps
    assert list(maps) == ["c0", *STAGES]
    assert maps["c0"].shape == (1, 2, *size)
    for stage in STAGES:
        stride = getattr(encoder.strides, stage)
        assert maps[stage].shape[1:] == (
            getattr(encoder.channels, stage),
            -(-size[0] // stride),
            -(-size[1] // stride),
        )


def dilations(encoder: WideResNet38, level: str) -> list[list[int]]:
    """Of the 3x3 convolutions of each unit of a level."""
    return [
        [c.dilation[0] for c in unit.convolutions if c.kernel_size == (3, 3)]
        for unit in encoder.levels[level]
    ]


def test_a_removed_stride_doubles_the_dilation_behind_it() -> None:
    a1, a2 = WideResNet38(2, variant="a1"), WideResNet38(2, variant="a2")
    assert dilations(a1, "5") == [[1, 2], [2, 2], [2, 2]]
    assert dilations(a2, "5") == [[2, 2], [2, 2], [2, 2]]
    for encoder in (a1, a2):
        assert dilations(encoder, "4") == [[1, 1]] * 6
        assert dilations(encoder, "6") == dilations(encoder, "7") == [[4]]
    assert [a1.levels[level][0].convolutions[0].stride[0] for level in "234567"] == [2, 2, 2, 1, 1, 1]
    assert [a2.levels[level][0].convolutions[0].stride[0] for level in "234567"] == [1, 1, 2, 1, 1, 1]


def test_a_unit_adds_its_input_before_any_norm() -> None:
    unit = WideResNet38(2).levels["3"][1].eval()
    for convolution in unit.convolutions:
        nn.init.zeros_(convolution.weight)
    x = torch.randn(1, 8, 5, 7)
    assert torch.equal(unit(x), x)


def test_levels_behind_the_last_stage_are_not_built() -> None:
    assert list(WideResNet38(2, stages=("c2", "c3")).levels) == ["2", "3", "4"]
