"""LinkNet: the authors' layer list, and what a link is."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.models import linknet


def randomized(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def test_parameters_are_as_many_as_the_authors_have() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in linknet(19).parameters()) == 11_536_691


def by_hand(model: nn.Module, image: Tensor) -> Tensor:
    """The authors' layers on timm's ResNet-18, with the link taken at the input of each stage."""

    def norm_act(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        return F.relu(
            F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, 1e-3)
        )

    def up(x: Tensor, conv: nn.ConvTranspose2d, like: Tensor, stride: int) -> Tensor:
        adj = [a - ((b - 1) * stride + 1) for a, b in zip(like.shape[-2:], x.shape[-2:], strict=True)]
        return F.conv_transpose2d(x, conv.weight, conv.bias, stride, padding=1, output_padding=adj)

    body = model.encoder.body
    c1 = F.relu(body.bn1(body.conv1(model.encoder.normalize(image))))
    entries = [F.max_pool2d(c1, kernel_size=3, stride=2, padding=1)]
    for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
        entries.append(stage(entries[-1]))
    x = entries.pop()
    for i, block in enumerate(model.decoder):
        entry = entries.pop()
        x = norm_act(block.reduce[0](x), block.reduce[1][0])
        x = norm_act(up(x, block.up, entry, 1 if i == 3 else 2), block.norm_act[0])
        x = norm_act(block.expand[0](x), block.expand[1][0])
        x = F.relu(x + entry)
    x = norm_act(up(x, model.up, c1, 2), model.refine[0][0])
    x = norm_act(model.refine[1](x), model.refine[2][0])
    return F.conv_transpose2d(x, model.head.weight, model.head.bias, stride=2)


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (60, 75)])
def test_it_is_the_authors_network_at_every_size(size: tuple[int, int]) -> None:
    model, image = randomized(linknet(5)), torch.rand(1, 3, *size)
    with torch.no_grad():
        expected = by_hand(model, image)[:, :, : size[0], : size[1]]
        torch.testing.assert_close(model(image).logits, expected)


@pytest.mark.parametrize("name", ["convnext_atto", "densenet121"])
def test_encoders_without_stride_2_or_that_round_down_work_at_odd_sizes(name: str) -> None:
    model = linknet(2, encoder=name).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 71, 93)).logits.shape == (1, 2, 71, 93)


def test_weights_have_the_variance_of_the_authors() -> None:
    model = linknet(19)
    # N(0, 2 / (area * output channels)), also where a weight is stored with its input channels first
    assert model.up.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 32)), rel=0.03)
    assert model.decoder[0].expand[0].weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.03)
