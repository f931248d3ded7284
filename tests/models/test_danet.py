"""DANet: the authors' numbers, and both attentions against loops over all pairs."""

import pytest
import torch

from pixelwise.models import danet, danet_resnet50, danet_resnet101
from pixelwise.models.danet import ChannelAttention, PositionAttention

SIZES = [(5, 7), (1, 3), (4, 4)]


@pytest.mark.parametrize(
    ("builder", "published"),
    [
        pytest.param(danet_resnet50, 47_462_651, marks=pytest.mark.slow),  # that of 101 less 17 blocks of c4
        (danet_resnet101, 66_454_779),
    ],
)
def test_parameters_and_multi_grid_are_those_of_the_authors(builder, published: int) -> None:
    with torch.device("meta"):
        model = builder(19)
    assert sum(p.numel() for p in model.parameters()) == published
    assert [block.conv2.dilation[0] for block in model.encoder.body.layer4] == [4, 8, 16]
    assert [block.conv2.dilation[0] for block in model.encoder.body.layer3][:2] == [1, 2]


@pytest.mark.parametrize("size", SIZES)
def test_position_attention_is_a_weighted_mean_over_all_pixels(size: tuple[int, int]) -> None:
    layer, x = PositionAttention(16).double(), torch.randn(2, 16, *size, dtype=torch.float64)
    with torch.no_grad():
        layer.gamma.fill_(0.7)
        query, key, value = layer.query(x), layer.key(x), layer.value(x)
        places = [(i, j) for i in range(size[0]) for j in range(size[1])]
        expected = x.clone()
        for b in range(2):
            for i, j in places:
                scores = torch.stack([query[b, :, i, j] @ key[b, :, v, u] for v, u in places])
                weights = scores.exp() / scores.exp().sum()
                for weight, (v, u) in zip(weights, places, strict=True):
                    expected[b, :, i, j] += 0.7 * weight * value[b, :, v, u]
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("size", SIZES)
def test_channel_attention_prefers_unlike_channels(size: tuple[int, int]) -> None:
    layer, x = ChannelAttention().double(), torch.randn(2, 6, *size, dtype=torch.float64)
    with torch.no_grad():
        layer.gamma.fill_(-0.4)
        expected = x.clone()
        for b in range(2):
            for c in range(6):
                scores = torch.stack([-(x[b, c] * x[b, other]).sum() for other in range(6)])
                for weight, other in zip(scores.softmax(0), range(6), strict=True):
                    expected[b, c] += -0.4 * weight * x[b, other]
        torch.testing.assert_close(layer(x), expected)


def test_both_attentions_start_as_the_identity_and_can_leave_it() -> None:
    x = torch.randn(1, 8, 3, 5)
    for layer in (PositionAttention(8), ChannelAttention()):
        found = layer(x)
        assert torch.equal(found, x)
        (found * torch.randn_like(found)).sum().backward()
        assert layer.gamma.grad.abs().item() > 0


def test_each_branch_is_trained_by_a_classifier_of_its_own() -> None:
    model, image = danet(3, encoder="tiny"), torch.rand(2, 3, 65, 97)
    assert [map.shape for map in model.train()(image).aux_logits] == [(2, 3, 65, 97)] * 2
    assert model.eval()(image).aux == ()
