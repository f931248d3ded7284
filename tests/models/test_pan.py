"""PAN: its pyramid and its gates; parity with SMP is in tests/parity."""

import pytest
import torch

from pixelwise.models import FeaturePyramidAttention, GlobalAttentionUpsample, pan


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 9), (8, 16)])
def test_the_pyramid_works_on_maps_of_any_size_with_one_image(size: tuple[int, int]) -> None:
    attention = FeaturePyramidAttention(6, 4).train()
    y = attention(torch.rand(1, 6, *size))
    assert y.shape == (1, 4, *size)
    assert y.isfinite().all()


def test_the_pyramid_halves_three_times_and_weighs_each_position() -> None:
    attention = FeaturePyramidAttention(6, 4).eval()
    sizes = []
    for down in (attention.down1, attention.down2, attention.down3):
        down.register_forward_hook(lambda _, __, output: sizes.append(tuple(output.shape[1:])))
    x = torch.rand(1, 6, 16, 24)
    with torch.no_grad():
        y = attention(x)
        weight = (y - attention.image(x)) / attention.middle(x)
    assert sizes == [(1, 8, 12), (1, 4, 6), (1, 2, 3)]
    known = attention.middle(x) > 1e-3
    assert known.any()
    for channel in range(1, 4):  # one weight for all channels
        both = known[0, 0] & known[0, channel]
        torch.testing.assert_close(weight[0, 0][both], weight[0, channel][both], atol=1e-3, rtol=1e-3)


def test_a_fine_map_is_gated_by_a_summary_of_the_coarse_one() -> None:
    upsample = GlobalAttentionUpsample(3, 4).eval()
    low, high = torch.rand(1, 3, 7, 9), torch.rand(1, 4, 4, 5)
    with torch.no_grad():
        coarse = torch.nn.functional.interpolate(high, (7, 9), mode="bilinear", align_corners=True)
        mean = high.mean((2, 3), keepdim=True)
        torch.testing.assert_close(upsample(low, high), coarse + upsample.low(low) * upsample.gate(mean))


def test_a_stride_that_pan_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="must be 16 or 32, got 8"):
        pan(3, encoder="tiny", output_stride=8)
