"""SINet: the published count, the authors' layout of weights, blocking of information, squeezing of space."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.models import from_sinet, sinet
from pixelwise.models.sinet import EIGHTH, QUARTER, SpatialSqueezeBlock, SpatialSqueezeModule


def redrawn(module: nn.Module) -> nn.Module:
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.1)
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
        if isinstance(part, nn.PReLU):
            nn.init.uniform_(part.weight, 0.1, 0.4)
    return module.eval()


def test_parameters_are_as_many_as_published() -> None:
    assert sum(p.numel() for p in sinet(2).parameters()) == pytest.approx(0.087e6, rel=0.005)


def authors_weights(model: nn.Module) -> dict[str, Tensor]:
    """A model's weights under the authors' names, in their order of colours."""
    found = {}
    for key, tensor in model.state_dict().items():
        if key.startswith("normalize."):
            continue
        key = key.replace("encoder.join", "encoder.BR").replace(".join.", ".BR.")
        key = key.replace(".c1.weight", ".c1.conv.weight").replace("head.", "classifier.1.")
        found[key.replace("encoder.classifier.", "encoder.classifier.conv.")] = tensor
    found["encoder.level1.conv.weight"] = found["encoder.level1.conv.weight"].flip(1)
    return found


def authors_forward(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The authors' network on a normalised image, whose size is a multiple of 32."""

    def conv(key: str, x: Tensor, stride: int = 1, depthwise: bool = False) -> Tensor:
        weight = weights[f"{key}.weight"]
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)

    def norm(key: str, x: Tensor) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(weights[f"{key}.{name}"] for name in names), eps=1e-3)

    def norm_act(key: str, x: Tensor) -> Tensor:
        return F.prelu(norm(f"{key}.bn", x), weights[f"{key}.act.weight"])

    def up(x: Tensor, factor: int) -> Tensor:
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True)

    def down(key: str, x: Tensor) -> Tensor:
        x = conv(f"{key}.conv.0", x, 2)
        y = F.avg_pool2d(x, x.shape[2:]).flatten(1)
        for i in (0, 2):
            dense = f"{key}.conv.1.dense"
            if f"{dense}.{i}.weight" in weights:
                y = F.linear(y, weights[f"{dense}.{i}.weight"], weights[f"{dense}.{i}.bias"])
                y = F.prelu(y, weights[f"{dense}.{i + 1}.weight"])
        return norm_act(key, conv(f"{key}.conv.2", x * y[..., None, None]))

    def squeeze(key: str, x: Tensor, branches: tuple[tuple[int, int], ...]) -> Tensor:
        y = conv(f"{key}.c1.conv", x)
        b, c, h, w = y.shape
        y = y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        views = []
        for number, (_, factor) in enumerate(branches, 1):
            block = f"{key}.d{number}"
            z = F.avg_pool2d(y, factor) if factor > 1 else y
            z = F.prelu(
                norm(f"{block}.conv.1", conv(f"{block}.conv.0", z)), weights[f"{block}.act_conv1x1.0.weight"]
            )
            z = conv(f"{block}.act_conv1x1.1", z)
            views.append(norm(f"{block}.bn", up(z, factor) if factor > 1 else z))
        y = torch.cat(views, 1)
        return norm_act(f"{key}.BR", x + y if x.shape == y.shape else y)

    x = norm_act("encoder.level1", conv("encoder.level1.conv", x, 2))
    first = second = down("encoder.level2_0", x)
    for i, branches in enumerate(QUARTER):
        second = squeeze(f"encoder.level2.{i}", second, branches)
    third = deep = down("encoder.level3_0", norm_act("encoder.BR2", torch.cat([first, second], 1)))
    for i, branches in enumerate(EIGHTH):
        deep = squeeze(f"encoder.level3.{i}", deep, branches)
    scores = conv("encoder.classifier.conv", norm_act("encoder.BR3", torch.cat([third, deep], 1)))
    scores = norm("bn_3", up(scores, 2))
    gate = 1 - scores.softmax(1).max(1, keepdim=True).values
    fine = norm_act("level2_C", conv("level2_C.conv", second))
    return conv("classifier.1", up(norm("bn_2", up(fine * gate + scores, 2)), 2))


def test_the_authors_weights_give_the_authors_scores() -> None:
    torch.manual_seed(0)
    theirs = authors_weights(redrawn(sinet(3)))
    model = from_sinet({f"module.{key}": x for key, x in theirs.items()})
    image = torch.rand(2, 3, 96, 64)
    mean = torch.tensor([107.304565, 115.69884, 132.35703]).view(3, 1, 1)
    std = torch.tensor([63.97182, 65.1337, 68.29726]).view(3, 1, 1)
    blue_first = 255 * image.flip(1)
    with torch.no_grad():
        expected = authors_forward(theirs, (blue_first - mean) / std / 255)
        torch.testing.assert_close(model(image).logits, expected, atol=1e-4, rtol=1e-4)
    assert model.built_by.arguments == {"num_classes": 3}


def test_weights_of_another_network_are_refused() -> None:
    theirs = authors_weights(sinet(2))
    with pytest.raises(ValueError, match="not that of SINet"):
        from_sinet({key: x for key, x in theirs.items() if "BR3" not in key})


def test_where_the_coarse_scores_are_sure_the_finer_map_is_kept_out() -> None:
    torch.manual_seed(1)
    model = redrawn(sinet(2))
    nn.init.zeros_(model.encoder.classifier.weight)
    image = torch.rand(1, 3, 64, 64)

    def answer(certainty: float, fine: float) -> Tensor:
        model.bn_3.weight.data.zero_()
        model.bn_3.bias.data = torch.tensor([certainty, -certainty])
        model.level2_C.bn.bias.data = torch.tensor([fine, 0.0])
        with torch.no_grad():
            return model(image).logits

    assert torch.equal(answer(60.0, 0.0), answer(60.0, 5.0))
    assert not torch.allclose(answer(0.1, 0.0), answer(0.1, 5.0))


@pytest.mark.parametrize("size", [(32, 32), (65, 97), (47, 224)])
def test_squeezed_branches_come_back_to_the_size_of_the_map(size: tuple[int, int]) -> None:
    block = SpatialSqueezeBlock(4, 6, (3, 4))
    assert block(torch.rand(2, 4, *size)).shape == (2, 6, *size)
    with torch.no_grad():
        assert sinet(2).eval()(torch.rand(1, 3, *size)).coarse.shape == (1, 2, *size)


def test_both_branches_see_channels_of_both_groups() -> None:
    module = SpatialSqueezeModule(8, 8, ((3, 1), (3, 1))).eval()
    seen: list[Tensor] = []
    module.d1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.rand(1, 8, 5, 5)
    with torch.no_grad():
        module(x)
        plain = module.c1(x)
    assert torch.equal(seen[0], plain[:, [0, 2, 1, 3]])
