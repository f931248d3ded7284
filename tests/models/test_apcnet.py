"""APCNet: the authors' numbers, and each pixel's sum over regions against a loop."""

import pytest
import torch

from pixelwise.models import apcnet, apcnet_resnet101
from pixelwise.models.apcnet import AdaptiveContext


def test_the_head_has_as_many_parameters_as_the_authors_have() -> None:
    with torch.device("meta"):
        model = apcnet_resnet101(19)
    assert sum(p.numel() for part in (model.contexts, model.head) for p in part.parameters()) == 30_465_605
    assert [context.affinity[0].out_channels for context in model.contexts] == [1, 4, 9, 36]
    assert [block.conv2.dilation[0] for block in model.encoder.body.layer4] == [2, 4, 4]


@pytest.mark.parametrize("size", [(6, 4), (5, 3), (1, 2)])
@pytest.mark.parametrize("grid", [1, 2, 3])
def test_each_pixel_weighs_the_regions_for_itself(grid: int, size: tuple[int, int]) -> None:
    layer, x = AdaptiveContext(6, 4, grid).double().eval(), torch.randn(2, 6, *size, dtype=torch.float64)
    with torch.no_grad():
        own, regions = layer.reduce(x), layer.regions(x)
        whole = layer.whole[1](own.mean((2, 3), keepdim=True))
        found = torch.zeros_like(own)
        for i in range(size[0]):
            for j in range(size[1]):
                logits = layer.affinity[0](own[:, :, i, j, None, None] + whole)[:, :, 0, 0]
                for number in range(grid**2):
                    region = regions[:, :, number // grid, number % grid]
                    found[:, :, i, j] += logits[:, number : number + 1].sigmoid() * region
        expected = layer.fuse(torch.relu(layer.residual(found) + own))
        torch.testing.assert_close(layer(x), expected)


def test_one_image_trains_though_a_grid_of_one_has_one_value_per_channel() -> None:
    layer = AdaptiveContext(6, 4, 1).train()
    layer(torch.rand(1, 6, 4, 5)).sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_the_second_loss_is_there_while_training_only() -> None:
    model, image = apcnet(3, encoder="tiny"), torch.rand(2, 3, 65, 97)
    assert [map.shape for map in model.train()(image).aux_logits] == [(2, 3, 65, 97)]
    assert model.eval()(image).aux == ()
