"""CCNet: the authors' numbers, and criss-cross attention against a loop over row and column."""

import pytest
import torch

from pixelwise.models import ccnet, ccnet_resnet101
from pixelwise.models.ccnet import CrissCrossAttention


def test_parameters_are_as_many_as_the_authors_have_with_and_without_the_second_loss() -> None:
    with torch.device("meta"):
        model = ccnet_resnet101(19)
    count = sum(p.numel() for p in model.parameters())
    assert count == 71_287_911
    assert count - sum(p.numel() for p in model.aux_head.parameters()) == 66_558_036
    assert {block.conv2.dilation[0] for block in model.encoder.body.layer3} == {2}
    assert {block.conv2.dilation[0] for block in model.encoder.body.layer4} == {4}


@pytest.mark.parametrize("size", [(5, 7), (6, 3), (1, 4), (4, 1), (1, 1)])
def test_a_pixel_attends_to_its_row_and_column_and_once_to_itself(size: tuple[int, int]) -> None:
    layer, x = CrissCrossAttention(16).double(), torch.randn(2, 16, *size, dtype=torch.float64)
    with torch.no_grad():
        layer.gamma.fill_(0.7)
        query, key, value = layer.query(x), layer.key(x), layer.value(x)
        expected = x.clone()
        for b in range(2):
            for y in range(size[0]):
                for x_ in range(size[1]):
                    cross = [(y, u) for u in range(size[1])] + [(v, x_) for v in range(size[0]) if v != y]
                    scores = torch.stack([query[b, :, y, x_] @ key[b, :, v, u] for v, u in cross])
                    for weight, (v, u) in zip(scores.softmax(0), cross, strict=True):
                        expected[b, :, y, x_] += 0.7 * weight * value[b, :, v, u]
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("size", [(3, 4), (1, 4)])
def test_gradients_are_those_of_finite_differences(size: tuple[int, int]) -> None:
    layer, x = CrissCrossAttention(2).double(), torch.randn(1, 2, *size, dtype=torch.float64)
    torch.nn.init.constant_(layer.gamma, 0.5)
    assert torch.autograd.gradcheck(layer, x.requires_grad_())


def test_once_a_pixel_sees_its_cross_and_twice_all_pixels() -> None:
    layer = CrissCrossAttention(8).double()
    torch.nn.init.constant_(layer.gamma, 0.5)
    x = torch.randn(1, 8, 5, 6, dtype=torch.float64, requires_grad=True)

    def seen_from(y: torch.Tensor) -> torch.Tensor:
        (gradient,) = torch.autograd.grad(y[0, :, 1, 2].sum(), x)
        return gradient[0].abs().sum(0) > 0

    once = torch.zeros(5, 6, dtype=torch.bool)
    once[1], once[:, 2] = True, True
    assert torch.equal(seen_from(layer(x)), once)
    assert seen_from(layer(layer(x))).all()


def test_recurrence_adds_no_parameters() -> None:
    models = [ccnet(3, encoder="tiny", recurrence=times).eval() for times in (1, 2)]
    models[1].load_state_dict(models[0].state_dict())
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        for model in models:
            model.context.attention.gamma.fill_(1.0)
        assert not torch.equal(models[0](image).coarse, models[1](image).coarse)
