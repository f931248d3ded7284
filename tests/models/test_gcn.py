"""GCN: its kernels are large and separable, and its upsampling begins bilinear."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pixelwise.models import BoundaryRefinement, GlobalConvolution, gcn
from pixelwise.models.gcn import Doubling


def test_two_chains_are_one_convolution_with_a_large_kernel_of_low_rank() -> None:
    block = GlobalConvolution(3, 2, 7).double()
    x = torch.randn(1, 3, 9, 12, dtype=torch.float64)
    dense = torch.zeros(2, 3, 7, 7, dtype=torch.float64)
    with torch.no_grad():
        for first, second in (block.left, block.right):
            nn.init.zeros_(first.bias)
            nn.init.zeros_(second.bias)
            w1, w2 = first.weight.squeeze(), second.weight.squeeze()  # c_out c_in 7
            rows, columns = (w1, w2) if first.kernel_size == (7, 1) else (w2, w1)
            product = "miy,omx->oiyx" if first.kernel_size == (7, 1) else "omy,mix->oiyx"
            dense += torch.einsum(product, rows, columns)
        torch.testing.assert_close(block(x), F.conv2d(x, dense, padding=3))


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel must be odd, got 14"):
        gcn(3, encoder="tiny", kernel=14)


def test_refinement_adds_to_the_scores() -> None:
    block = BoundaryRefinement(3)
    x = torch.randn(1, 3, 5, 6)
    with torch.no_grad():
        torch.testing.assert_close(block(x) - x, block.conv2(block.conv1(x).relu()), atol=1e-6, rtol=1e-5)
        nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(block.conv2.bias)
        assert torch.equal(block(x), x)


@pytest.mark.parametrize("size", [(8, 12), (7, 11)])
def test_doubling_begins_as_bilinear_upsampling(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 4, 6)
    with torch.no_grad():
        doubled = Doubling(3)(x, size)
    wanted = F.interpolate(x, scale_factor=2, mode="bilinear")[..., : size[0], : size[1]]
    torch.testing.assert_close(doubled[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1])


def test_scores_reach_the_size_of_the_image() -> None:
    model = gcn(3, encoder="tiny", kernel=3)
    assert model(torch.rand(1, 3, 65, 97)).coarse.shape == (1, 3, 65, 97)
    assert sum(isinstance(module, BoundaryRefinement) for module in model.modules()) == 9
