"""DMNet: the authors' numbers, and filters of each image against a loop."""

import pytest
import torch
from torch.nn import functional as F

from pixelwise.models import dmnet, dmnet_resnet101
from pixelwise.models.dmnet import DynamicConvolution


def test_the_head_has_as_many_parameters_as_the_authors_have() -> None:
    with torch.device("meta"):
        model = dmnet_resnet101(19)
    assert sum(p.numel() for part in (model.contexts, model.head) for p in part.parameters()) == 27_283_987
    assert [block.conv2.dilation[0] for block in model.encoder.body.layer4] == [2, 4, 4]


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("size", [(6, 4), (1, 3)])
def test_each_image_is_convolved_with_filters_of_its_own(size: tuple[int, int], side: int) -> None:
    layer, x = DynamicConvolution(6, 4, side).double().eval(), torch.randn(2, 6, *size, dtype=torch.float64)
    layer.norm_act[0].running_mean.normal_()
    with torch.no_grad():
        channels = F.pad(layer.reduce(x), [side // 2] * 4)
        found = torch.zeros(2, 4, *size, dtype=torch.float64)
        for b in range(2):
            filters = layer.filters[1](F.adaptive_avg_pool2d(x[b : b + 1], side))[0]  # c side side
            for c in range(4):
                for i in range(size[0]):
                    for j in range(size[1]):
                        window = channels[b, c, i : i + side, j : j + side]
                        found[b, c, i, j] = (window * filters[c]).sum()
        torch.testing.assert_close(layer(x), layer.norm_act(found))


def test_another_image_makes_other_filters() -> None:
    layer = DynamicConvolution(6, 4, 3).eval()
    with torch.no_grad():
        assert not torch.allclose(*layer.filters(torch.randn(2, 6, 5, 5)))


def test_the_second_loss_is_there_while_training_only() -> None:
    model, image = dmnet(3, encoder="tiny"), torch.rand(2, 3, 65, 97)
    assert [map.shape for map in model.train()(image).aux_logits] == [(2, 3, 65, 97)]
    assert model.eval()(image).aux == ()
