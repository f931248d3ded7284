"""ACNet: gates that sum to one, and what each pixel takes by them."""

import pytest
import torch
from torch import nn

from pixelwise.models import acnet, acnet_resnet101
from pixelwise.models.acnet import AdaptiveContext, GlobalGate


@pytest.mark.parametrize("size", [(5, 4), (1, 3), (1, 1)])
def test_the_gate_falls_with_the_distance_from_the_mean(size: tuple[int, int]) -> None:
    gate, x = GlobalGate().double(), torch.randn(2, 6, *size, dtype=torch.float64)
    nn.init.constant_(gate.log_temperature, 0.3)
    for image, found in zip(x, gate(x), strict=True):
        distance = (image - image.mean((1, 2))[:, None, None]).norm(dim=0) / 6**0.5
        expected = (-(distance - distance.min()) / torch.tensor(0.3).exp()).exp()
        torch.testing.assert_close(found[0], expected, atol=2e-3, rtol=1e-3)
        assert found.max().item() == 1
        assert found.min() > 0


def test_a_flat_map_takes_only_the_global_feature() -> None:
    block = AdaptiveContext(4, 3).eval()
    flat = torch.ones(1, 4, 5, 6) * torch.randn(1, 4, 1, 1)
    with torch.no_grad():
        first, second = (block(flat, torch.randn(1, 3, 5, 6)) for _ in range(2))
    torch.testing.assert_close(first, second)


def test_a_pixel_unlike_the_mean_takes_local_features() -> None:
    block = AdaptiveContext(4, 3).eval()
    x, local = torch.randn(1, 4, 5, 6), torch.randn(1, 3, 5, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(x, local).sum(), local)
    gate = block.gate(x)
    assert gradient[0].abs().sum(0)[gate[0, 0] == 1].sum() == 0
    assert gradient[0].abs().sum() > 0


def test_blocks_go_from_coarse_to_fine() -> None:
    model, image = acnet(3, encoder="tiny").eval(), torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        output = model(image)
        assert output.coarse.shape[-2:] == (17, 25)
        nn.init.zeros_(model.blocks[2].local[1].weight)  # c2 gives nothing any more
        assert not torch.equal(model(image).coarse, output.coarse)


def test_the_full_network_has_stride_8_and_a_second_loss() -> None:
    with torch.device("meta"):
        model = acnet_resnet101(19)
    assert model.encoder.strides[1:] == (4, 8, 8, 8)
    assert model.aux_head is not None
    small, image = acnet(3, encoder="tiny"), torch.rand(2, 3, 64, 64)
    assert [map.shape for map in small.train()(image).aux_logits] == [(2, 3, 64, 64)]
    assert acnet(3, encoder="tiny", aux=False).train()(image).aux == ()
