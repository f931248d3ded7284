"""HRNet for segmentation; that its body gives timm's features is tested in test_pose.py."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.encoders import HRNet
from pixelwise.models import (
    HighResolutionPyramid,
    HRNetV1,
    HRNetV2,
    HRNetV2p,
    from_hrnet_segmentation,
    hrnetv1_w32,
    hrnetv2,
    hrnetv2_w18,
    hrnetv2_w32,
    hrnetv2_w48,
    hrnetv2p_w32,
)
from pixelwise.types import DenseModel


def redrawn(module: nn.Module) -> nn.Module:
    """Weights and statistics of a size that makes every branch count."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.1)
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module.eval()


@pytest.mark.parametrize(
    ("builder", "published"),
    [
        (hrnetv1_w32, 28_537_299),  # the authors' body as for key points, and two 1x1 convolutions
        (hrnetv2_w18, 9_641_119),
        (hrnetv2_w32, 29_546_515),
        (hrnetv2_w48, 65_859_379),
        (hrnetv2p_w32, 33_415_251),
    ],
)
def test_parameters_are_as_many_as_the_authors_have(
    builder: Callable[..., DenseModel], published: int
) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in builder(19).parameters()) == published


@pytest.mark.parametrize("kind", [HRNetV1, HRNetV2, HRNetV2p])
def test_every_head_scores_at_a_quarter_of_an_image_of_any_size(kind: type[DenseModel]) -> None:
    torch.manual_seed(0)
    body = HRNet(4, modules=(1, 1, 1), blocks=1, upsampling="bilinear")
    model = redrawn(kind(body, 3))
    for size, coarse in (((65, 97), (17, 25)), ((32, 44), (8, 11))):
        with torch.no_grad():
            output = model(torch.rand(2, 3, *size))
        assert output.coarse.shape == (2, 3, *coarse)
        assert output.logits.shape == (2, 3, *size)
        assert output.coarse.std((2, 3)).min() > 0


def test_v1_reads_the_finest_branch_and_v2_all_of_them() -> None:
    body = HRNet(4, modules=(1, 1, 1), blocks=1)
    assert HRNetV1(body, 3).head[0].in_channels == 4
    assert HRNetV2(body, 3).head[0].in_channels == 4 + 8 + 16 + 32


@pytest.mark.parametrize("kind", [HRNetV1, HRNetV2p])
def test_every_parameter_learns_from_one_image(kind: type[DenseModel]) -> None:
    stages = ("c2",) if kind is HRNetV1 else ("c2", "c3", "c4", "c5")
    model = redrawn(
        kind(HRNet(4, stages=stages, modules=(1, 1, 1), blocks=1, upsampling="bilinear"), 3)
    ).train()
    model(torch.rand(1, 3, 64, 64)).logits.square().sum().backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_levels_of_v2p_are_means_of_squares() -> None:
    pyramid = HighResolutionPyramid(6, 5)
    x = torch.rand(2, 6, 17, 24)
    with torch.no_grad():
        levels, reduced = pyramid(x), pyramid.reduce(x)
        assert [tuple(level.shape[2:]) for level in levels] == [(17, 24), (8, 12), (4, 6), (2, 3)]
        means = reduced[:, :, :16].unflatten(3, (3, 8)).unflatten(2, (2, 8)).mean((3, 5))
        torch.testing.assert_close(levels[3], pyramid.out[3](means))


# --- the authors' weights ---------------------------------------------------------------------------


def authors_weights(width: int, num_classes: int) -> dict[str, Tensor]:
    """Random weights of a small HRNetV2 under the authors' keys, of which the body's are ours."""
    model = redrawn(hrnetv2(num_classes, width=width, modules=(1, 1, 1), blocks=1))
    weights = {key: x for key, x in model.encoder.state_dict().items() if not key.startswith("normalize")}
    return weights | {f"last_layer.{key}": x for key, x in model.head.state_dict().items()}


def authors_forward(weights: dict[str, Tensor], image: Tensor) -> Tensor:
    """The authors' network with one module per stage and one block per branch, up to its coarse scores."""

    def conv(key: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = weights[f"{key}.weight"]
        return F.conv2d(x, weight, weights.get(f"{key}.bias"), stride, weight.shape[-1] // 2)

    def norm(key: str, x: Tensor) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(weights[f"{key}.{name}"] for name in names))

    def up(x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)

    x = F.relu(norm("bn1", conv("conv1", image, 2)))
    x = F.relu(norm("bn2", conv("conv2", x, 2)))
    y = F.relu(norm("layer1.0.bn1", conv("layer1.0.conv1", x)))
    y = F.relu(norm("layer1.0.bn2", conv("layer1.0.conv2", y)))
    y = norm("layer1.0.bn3", conv("layer1.0.conv3", y))
    maps = [F.relu(y + norm("layer1.0.downsample.1", conv("layer1.0.downsample.0", x)))]
    for stage in (2, 3, 4):
        before, key = f"transition{stage - 1}", f"stage{stage}.0"
        opened = F.relu(norm(f"{before}.{stage - 1}.0.1", conv(f"{before}.{stage - 1}.0.0", maps[-1], 2)))
        if stage == 2:
            maps = [F.relu(norm(f"{before}.0.1", conv(f"{before}.0.0", maps[0])))]
        maps = [*maps, opened]
        for i, x in enumerate(maps):
            block = f"{key}.branches.{i}.0"
            y = F.relu(norm(f"{block}.bn1", conv(f"{block}.conv1", x)))
            maps[i] = F.relu(x + norm(f"{block}.bn2", conv(f"{block}.conv2", y)))
        fused = []
        for i, own in enumerate(maps):
            total = own.clone()
            for j, x in enumerate(maps):
                bridge = f"{key}.fuse_layers.{i}.{j}"
                if j > i:
                    total += up(norm(f"{bridge}.1", conv(f"{bridge}.0", x)), own)
                for step in range(i - j):
                    x = norm(f"{bridge}.{step}.1", conv(f"{bridge}.{step}.0", x, 2))
                    x = F.relu(x) if step < i - j - 1 else x
                if j < i:
                    total += x
            fused.append(F.relu(total))
        maps = fused
    x = torch.cat([maps[0], *(up(x, maps[0]) for x in maps[1:])], 1)
    return conv("last_layer.3", F.relu(norm("last_layer.1", conv("last_layer.0", x))))


def test_the_authors_weights_give_the_authors_scores() -> None:
    torch.manual_seed(5)
    weights, image = authors_weights(6, 4), torch.rand(2, 3, 65, 97)
    model = from_hrnet_segmentation(
        {"model." + key: x for key, x in weights.items()} | {"loss.weight": torch.ones(4)}
    )
    assert model.built_by.arguments["width"] == 6
    with torch.no_grad():
        expected = authors_forward(weights, model.encoder.normalize(image))
        torch.testing.assert_close(model(image).coarse, expected, atol=1e-4, rtol=1e-4)


def test_weights_of_another_network_are_refused() -> None:
    weights = authors_weights(4, 3)
    with pytest.raises(ValueError, match=r"last_layer.3.weight. is missing"):
        from_hrnet_segmentation({k: x for k, x in weights.items() if not k.startswith("last_layer")})
    with pytest.raises(ValueError, match="Missing key"):
        from_hrnet_segmentation({k: x for k, x in weights.items() if not k.startswith("last_layer.1")})
    with pytest.raises(ValueError, match="not those of this HRNet"):
        from_hrnet_segmentation({k: x for k, x in weights.items() if not k.startswith("transition1")})
