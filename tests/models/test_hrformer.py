"""HRFormer: the authors' structure and counts, its windows, its exchanges."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from pixelwise.encoders import HRFormer, make_encoder
from pixelwise.encoders.hrformer import HRFormerModule
from pixelwise.encoders.swin_transformer import ShiftedWindowAttention
from pixelwise.models import hrformer
from pixelwise.registry import build
from tests.models.test_segformer import redrawn


@pytest.mark.parametrize(("name", "millions"), [("hrformer_small", 13.5), ("hrformer_base", 56.2)])
def test_both_sizes_have_as_many_parameters_as_published(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = build(name, 19)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(millions * 1e6, rel=0.005)


@pytest.mark.parametrize(("name", "count"), [("hrformer_small", 13_544_882), ("hrformer_base", 50_320_098)])
def test_the_encoder_and_the_authors_classifier_have_as_many_as_they_count(name: str, count: int) -> None:
    """Counted from their code: what follows the branches has 5.65 (S) and 6.28 (B) million."""
    with torch.device("meta"):
        encoder = make_encoder(name)
    widths, head = list(encoder.channels[1:]), (32, 64, 128, 256)
    classifier = 2048 * 1000 + 1000 + 1024 * 2048 + 2048 + 2 * 2048
    for c, narrow in zip(widths, head, strict=True):
        wide = 4 * narrow
        classifier += c * narrow + narrow * 9 + narrow * wide + 2 * (narrow + narrow + wide)
        classifier += c * wide + 2 * wide  # the projection beside it
    for narrow, wider in pairwise(head):
        a, b = 4 * narrow, 4 * wider
        classifier += a * 9 + a + 2 * a + a * b + b + 2 * b
    assert sum(p.numel() for p in encoder.parameters()) + classifier == count


def test_windows_lie_around_the_middle_and_see_the_zeros_around_the_map() -> None:
    module = redrawn(ShiftedWindowAttention(6, 2, 4, centred=True))
    x = torch.rand(1, 5, 7, 6)  # filled up to 8 x 8: one row above, two below, one column at the right
    padded = F.pad(x, (0, 0, 0, 1, 1, 2))
    windows = padded.view(1, 2, 4, 2, 4, 6).transpose(2, 3).reshape(1, 4, 16, 6)
    each = torch.arange(64)
    attended = module.attention(windows.flatten(1, 2), each.view(4, 16), each)  # as they stand
    attended = attended.view(1, 2, 2, 4, 4, 6).transpose(2, 3).reshape(1, 8, 8, 6)
    torch.testing.assert_close(module(x), attended[:, 1:6, :7])


def test_coarser_branches_arrive_with_their_values_repeated() -> None:
    module = redrawn(HRFormerModule((8, 16), (1, 2), (0, 1), window=3, drop_paths=()))
    fine, coarse = torch.rand(1, 8, 5, 7), torch.rand(1, 16, 3, 4)
    up = module.fuse_layers["0"][1](coarse).repeat_interleave(2, 2).repeat_interleave(2, 3)
    up = F.interpolate(up, (5, 7), mode="bilinear", align_corners=True)
    found = module([fine, coarse])
    torch.testing.assert_close(found[0], F.relu(fine + up))
    torch.testing.assert_close(found[1], F.relu(coarse + module.fuse_layers["1"][0](fine)))


def test_every_parameter_learns_and_regions_are_a_second_output() -> None:
    model = hrformer(3, width=8, modules=(1, 1, 1), blocks=1, window=3, context=16).train()
    output = model(torch.rand(2, 3, 65, 97))
    assert output.aux[0].shape == output.coarse.shape == (2, 3, 17, 25)
    (output.coarse.square().sum() + output.aux[0].square().sum()).backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None]


def test_windows_of_other_sizes_were_published_too() -> None:
    with torch.device("meta"):
        wide = HRFormer(78, 2, window=15, modules=(1, 1, 1))
        usual = HRFormer(78, 2, modules=(1, 1, 1))
    more = sum(p.numel() for p in wide.parameters()) - sum(p.numel() for p in usual.parameters())
    heads = 2 * (1 + 1 + 1) * 2 + 4 * 3 * 2 + 8 * 2 * 2 + 16 * 2  # of all blocks
    assert more == heads * (29**2 - 13**2)
