"""DUC-HDC: dilations without holes, and scores of a cell's pixels put into their places."""

import pytest
import torch
from torch import nn

from pixelwise.models import DUC, duc_hdc, duc_hdc_resnet101
from pixelwise.models.duc_hdc import HYBRID_C4, HYBRID_C5


def blocks(model: nn.Module, stage: int) -> list[int]:
    return [block.conv2.dilation[0] for block in model.encoder.get_submodule(f"body.layer{stage}")]


def test_parameters_are_those_of_the_authors_layers() -> None:
    """Convolutions without bias and norms with scale and shift, as their definition lists them."""
    with torch.device("meta"):
        count = sum(p.numel() for p in duc_hdc_resnet101(19).parameters())

    def conv_norm(a: int, b: int, kernel: int) -> int:
        return a * b * kernel**2 + 2 * b

    expected = conv_norm(3, 64, 3) + conv_norm(64, 64, 3) + conv_norm(64, 128, 3)
    c_in = 128
    for num_blocks, c in ((3, 64), (4, 128), (23, 256), (3, 512)):
        expected += conv_norm(c_in, 4 * c, 1)  # projection
        for _ in range(num_blocks):
            expected += conv_norm(c_in, c, 1) + conv_norm(c, c, 3) + conv_norm(c, 4 * c, 1)
            c_in = 4 * c
    expected += 4 * (2048 * 9 + 1) * 16 * 19
    assert count == expected


def test_dilations_are_those_of_the_released_network() -> None:
    with torch.device("meta"):
        model = duc_hdc_resnet101(19)
    assert blocks(model, 3) == [2, 2, 5, 9, 1, 2, 5, 9, 1, 2, 5, 9, 1, 2, 5, 9, 1, 2, 5, 9, 1, 2, 5]
    assert blocks(model, 4) == [5, 9, 17]
    assert tuple(blocks(model, 3)) == HYBRID_C4
    assert tuple(blocks(model, 4)) == HYBRID_C5


def seen(rates: tuple[int, ...]) -> torch.Tensor:
    """Which places a chain of 3-wide convolutions with these dilations sees."""
    reach = sum(rates)
    places = torch.zeros(1, 1, 2 * reach + 1)
    places[..., reach] = 1
    for rate in rates:
        places = nn.functional.conv1d(places, torch.ones(1, 1, 3), padding=rate, dilation=rate)
    return places[0, 0] > 0


def test_hybrid_dilation_leaves_no_holes_where_a_constant_rate_does() -> None:
    assert seen((1, 2, 5, 9)).all()
    assert not seen((2, 2, 2, 2)).all()


@pytest.mark.parametrize("factor", [2, 4])
def test_dense_upsampling_is_a_pixel_shuffle(factor: int) -> None:
    torch.manual_seed(factor)
    head = DUC(6, 3, factor)
    x = torch.randn(2, 6, 5, 7)
    coarse, fine = head.scores(x), head(x)
    for k in range(3):
        for i in range(factor):
            for j in range(factor):
                channel = coarse[:, k * factor**2 + i * factor + j]
                assert torch.equal(fine[:, k, i::factor, j::factor], channel)


@pytest.mark.parametrize(("cell_width", "size"), [(1, (65, 97)), (2, (33, 49)), (8, (9, 13))])
def test_scores_lie_a_cell_width_apart(cell_width: int, size: tuple[int, int]) -> None:
    model = duc_hdc(3, encoder="tiny", cell_width=cell_width).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 65, 97)).coarse.shape[-2:] == size


def test_a_cell_width_that_does_not_fit_the_stride_is_refused() -> None:
    with pytest.raises(ValueError, match="cell_width must divide the stride 8, got 3"):
        duc_hdc(3, encoder="tiny", cell_width=3)
