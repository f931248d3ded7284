"""EfficientFCN: the authors' numbers, and codewords made and assembled one by one."""

import pytest
import torch

from pixelwise.models import efficientfcn, efficientfcn_resnet101
from pixelwise.models.efficientfcn import HolisticallyGuidedDecoder


@pytest.mark.parametrize(
    ("num_codewords", "published"),
    [(256, 7_672_891), pytest.param(600, 9_145_211, marks=pytest.mark.slow)],
)
def test_the_decoder_has_as_many_parameters_as_the_authors_have(num_codewords: int, published: int) -> None:
    with torch.device("meta"):
        model = efficientfcn_resnet101(59, num_codewords=num_codewords)
    behind = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("encoder."))
    assert behind == published
    assert {block.conv2.dilation[0] for block in model.encoder.body.layer4} == {1}


@pytest.mark.parametrize("sizes", [((2, 3), (5, 7)), ((1, 1), (2, 4))])
def test_a_place_is_a_combination_of_codewords(sizes: tuple[tuple[int, int], ...]) -> None:
    layer = HolisticallyGuidedDecoder(6, 4, 3).double().eval()
    coarse, fine = (torch.randn(2, 6, *size, dtype=torch.float64) for size in sizes)
    with torch.no_grad():
        base, logits, guide = layer.base(coarse), layer.weights(coarse), layer.guide(fine)
        assembled = torch.zeros_like(guide)
        for b in range(2):
            codewords = []
            for n in range(3):
                weight = logits[b, n].exp() / logits[b, n].exp().sum()
                codewords.append((base[b] * weight).sum((1, 2)))
            coefficients = layer.coefficients((guide[b] + base[b].mean((1, 2))[:, None, None])[None])[0]
            for i in range(sizes[1][0]):
                for j in range(sizes[1][1]):
                    parts = [coefficients[n, i, j] * codewords[n] for n in range(3)]
                    assembled[b, :, i, j] = torch.stack(parts).sum(0) / 3**0.5
        torch.testing.assert_close(layer(coarse, fine), layer.fuse(torch.cat([assembled, guide], 1)))


def test_scores_have_stride_8_though_nothing_is_dilated() -> None:
    model, image = efficientfcn(3, encoder="tiny", num_codewords=5).eval(), torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        assert model(image).coarse.shape == (1, 3, 9, 13)
    assert model.encoder.strides[2:] == (8, 16, 32)
