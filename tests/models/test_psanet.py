"""PSANet: the authors' numbers, and collect and distribute against a loop over all pairs."""

import pytest
import torch

from pixelwise.layers import resize
from pixelwise.models import psanet, psanet_resnet101
from pixelwise.models.psanet import PointwiseAttention


def test_parameters_are_as_many_as_the_authors_have_with_and_without_the_second_loss() -> None:
    with torch.device("meta"):
        model = psanet_resnet101(150)
    count = sum(p.numel() for p in model.parameters())
    assert count == 72_265_964
    assert count - sum(p.numel() for p in model.aux_head.parameters()) == 69_867_606
    assert {block.conv2.dilation[0] for block in model.encoder.body.layer3} == {2}
    assert {block.conv2.dilation[0] for block in model.encoder.body.layer4} == {4}


@pytest.mark.parametrize("distribute", [False, True])
@pytest.mark.parametrize("mask_size", [3, 7, 11])  # smaller than the map, as far as it, beyond it
@pytest.mark.parametrize("size", [(8, 5), (1, 7)])
def test_each_branch_is_its_loop(size: tuple[int, int], mask_size: int, distribute: bool) -> None:
    layer = PointwiseAttention(6, 4, mask_size, distribute=distribute).double().eval()
    x, half = torch.randn(2, 6, *size, dtype=torch.float64), mask_size // 2
    h, w = (size[0] + 1) // 2, (size[1] + 1) // 2
    places = [(i, j) for i in range(h) for j in range(w)]
    with torch.no_grad():
        features = resize(layer.reduce(x), (h, w), align_corners=True)
        said = layer.attention(features).unflatten(1, (mask_size, mask_size))

        def score(b: int, speaker: tuple[int, int], other: tuple[int, int]) -> float:
            down, right = other[0] - speaker[0] + half, other[1] - speaker[1] + half
            if not (0 <= down < mask_size and 0 <= right < mask_size):
                return 0.0
            return said[b, down, right, speaker[0], speaker[1]].item()

        expected = torch.zeros(2, 4, h, w, dtype=torch.float64)
        for b in range(2):
            for taker in places:
                pairs = [(giver, taker) if distribute else (taker, giver) for giver in places]
                weights = torch.tensor([score(b, *pair) for pair in pairs], dtype=torch.float64).softmax(0)
                for weight, giver in zip(weights, places, strict=True):
                    expected[b, :, taker[0], taker[1]] += weight * features[b, :, giver[0], giver[1]]
        torch.testing.assert_close(layer(x), expected)


def test_a_mask_needs_a_centre() -> None:
    with pytest.raises(ValueError, match="mask_size must be odd, so that it has a centre, got 58"):
        psanet(3, encoder="tiny", mask_size=58)


def test_the_second_loss_is_there_while_training_only() -> None:
    model, image = psanet(3, encoder="tiny", mask_size=5), torch.rand(2, 3, 65, 97)
    assert [map.shape for map in model.train()(image).aux_logits] == [(2, 3, 65, 97)]
    assert model.eval()(image).aux == ()
