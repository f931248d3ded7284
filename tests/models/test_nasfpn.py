"""NAS-FPN: the published graph drawn by hand, merging by its definition, published counts."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from pixelwise.models import NASFPNCell, nasfpn, nasfpn_efficientnet_b7, nasfpn_efficientnet_l2
from pixelwise.models.nasfpn import attend, brought, halved

SIZES = ((16, 20), (8, 10), (4, 5), (2, 3), (1, 2))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("builder", "name", "millions"),
    [
        (nasfpn_efficientnet_b7, "tf_efficientnet_b7", 71),
        pytest.param(nasfpn_efficientnet_l2, "tf_efficientnet_l2", 485, marks=pytest.mark.slow),
    ],
)
def test_parameters_are_as_many_as_published(builder, name: str, millions: int) -> None:
    """The paper's Table 6 counts the classifier of the EfficientNet too."""
    with torch.device("meta"):
        model, whole = builder(21), timm.create_model(name)
    total = count(model) - count(model.encoder) + count(whole)
    assert int(total / 1e6) == millions  # the table has whole millions


def test_a_cell_is_the_published_graph() -> None:
    """Every connection, written out; the depth of the graph is what the cell must get right."""
    torch.manual_seed(0)
    cell = NASFPNCell(3).eval()
    p3, p4, p5, p6, p7 = levels = [torch.randn(2, 3, *size) for size in SIZES]

    def up(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, like.shape[2:], mode="nearest")

    def down(x: torch.Tensor, times: int) -> torch.Tensor:
        for _ in range(times):
            x = F.max_pool2d(x, 2, ceil_mode=True)
        return x

    def pooled(coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        return coarse + fine * torch.sigmoid(coarse.flatten(2).max(2).values[..., None, None])

    with torch.no_grad():
        n = cell.nodes
        n5 = n[0](pooled(up(p6, p4), p4))
        n6 = n[1](p4 + n5)
        n7 = n[2](p3 + up(n6, p3))
        n8 = n[3](n6 + down(n7, 1))
        n9 = n[4](pooled(down(n8, 1), down(n7, 2)) + p5)
        n10 = n[5](pooled(down(n9, 2), down(n6, 3)) + p7)
        n11 = n[6](pooled(up(n10, p6), down(n9, 1)))
        found = cell(levels)
    for ours, expected in zip(found, (n7, n8, n9, n11, n10), strict=True):
        torch.testing.assert_close(ours, expected)


def test_maps_are_halved_by_maxima_and_doubled_by_repetition() -> None:
    x = torch.arange(15.0).view(1, 1, 3, 5)
    assert halved(x)[0, 0].tolist() == [[6, 8, 9], [11, 13, 14]]
    assert torch.equal(brought(x, 4, 6, (1, 2)), torch.tensor([[[[13.0, 14.0]]]]))
    assert brought(x, 4, 3, (6, 10))[0, 0, :2, :4].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]


def test_attention_weighs_the_finer_map_by_the_maximum_of_the_coarser() -> None:
    coarse = torch.tensor([[[[0.0, -3.0]], [[50.0, 1.0]]]])
    fine = torch.ones(1, 2, 1, 2)
    torch.testing.assert_close(attend(coarse, fine), coarse + torch.tensor([0.5, 1.0])[:, None, None])


@pytest.mark.parametrize("size", [(32, 32), (65, 97), (33, 200)])
def test_any_image_is_scored_at_a_quarter_of_its_size(size: tuple[int, int]) -> None:
    model = nasfpn(3, encoder="tiny", width=4, blocks=2).eval()
    with torch.no_grad():
        output = model(torch.rand(1, 3, *size))
    assert output.coarse.shape == (1, 3, -(-size[0] // 4), -(-size[1] // 4))
    assert output.logits.shape == (1, 3, *size)
