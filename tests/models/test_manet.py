"""MA-Net: the attention of its two blocks; parity with SMP is in tests/parity."""

import torch

from pixelwise.models.manet import FusionAttention, PositionAttention


def test_the_weights_of_all_pairs_of_positions_sum_to_one() -> None:
    block = PositionAttention(6, c_pair=4)
    x = torch.randn(2, 6, 3, 5)
    with torch.no_grad():
        top, center, bottom = (layer(x).flatten(2) for layer in (block.top, block.center, block.bottom))
        expected = torch.empty(2, 15, 6)
        for image in range(2):
            pairs = torch.tensor(
                [[float(center[image, :, i] @ top[image, :, j]) for j in range(15)] for i in range(15)]
            )
            shares = pairs.exp() / pairs.exp().sum()
            for i in range(15):
                expected[image, i] = sum(shares[i, j] * bottom[image, :, j] for j in range(15))
        wanted = block.out(x + expected.reshape(2, 6, 3, 5))
        torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-4)


def test_each_channel_is_gated_by_both_maps() -> None:
    block = FusionAttention(4, 3, 5).eval()
    seen = []
    block.merge.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x, skip = torch.randn(1, 4, 4, 5), torch.randn(1, 3, 7, 9)
    with torch.no_grad():
        block(x, skip)
        high = torch.nn.functional.interpolate(block.high(x), (7, 9), mode="nearest")
        gate = block.high_gate(high) + block.low_gate(skip)
    assert gate.shape == (1, 3, 1, 1)
    torch.testing.assert_close(seen[0], torch.cat([high * gate, skip], 1))
