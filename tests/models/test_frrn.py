"""FRRN: the published numbers and its two streams."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pixelwise.models import frrn_a, frrn_b
from pixelwise.models.frrn import FullResolutionResidualUnit, ResidualUnit


@pytest.mark.parametrize(("builder", "published"), [(frrn_a, 17.7e6), (frrn_b, 24.8e6)])
def test_parameters_are_as_many_as_published(builder, published: float) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in builder(19).parameters()) == pytest.approx(published, rel=5e-3)


@pytest.mark.parametrize(("builder", "coarsest"), [(frrn_a, 16), (frrn_b, 32)])
def test_the_pooling_stream_goes_down_and_up_again(builder, coarsest: int) -> None:
    model = builder(3, width=2).eval()
    seen = []
    for part in model.parts:
        for unit in part:
            unit.register_forward_hook(lambda _, __, streams: seen.append([s.shape[-1] for s in streams]))
    with torch.no_grad():
        output = model(torch.rand(1, 3, 33, 65))
    assert output.coarse.shape == (1, 3, 33, 65)
    full = -(-65 // coarsest) * coarsest
    assert {residual for _, residual in seen} == {full}
    scales = [full // pooled for pooled, _ in seen]
    assert max(scales) == coarsest
    assert scales[:9] == [2, 2, 2, 4, 4, 4, 4, 8, 8]
    assert scales[-6:] == [8, 8, 4, 4, 2, 2]


def test_a_unit_adds_to_the_residual_stream_what_it_finds() -> None:
    unit = FullResolutionResidualUnit(3, 5, 2, scale=4).eval()
    pooled, residual = torch.randn(1, 3, 3, 2), torch.randn(1, 2, 12, 8)
    with torch.no_grad():
        found, carried = unit(pooled, residual)
        expected = unit.join(torch.cat([pooled, F.max_pool2d(residual, 4)], 1))
        given = unit.give_back(expected)
    torch.testing.assert_close(found, expected)
    for y in range(12):
        for x in range(8):
            torch.testing.assert_close(carried[..., y, x] - residual[..., y, x], given[..., y // 4, x // 4])


def test_a_residual_unit_ends_with_the_sum() -> None:
    plain, wider = ResidualUnit(3, 3).eval(), ResidualUnit(3, 4).eval()
    x = torch.randn(1, 3, 5, 6)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), x + plain.residual(x))
        torch.testing.assert_close(wider(x), wider.shortcut(x) + wider.residual(x))
        assert plain(x).min() < 0
    assert isinstance(plain.shortcut, nn.Identity)
