"""Semantic FPN: torchvision's pyramid, and the branch as Panoptic FPN draws it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pixelwise.models import fpn
from pixelwise.models.feature_pyramid import FeaturePyramid
from pixelwise.models.fpn import SemanticBranch


def test_the_pyramid_is_the_one_of_torchvision() -> None:
    from torchvision.ops import FeaturePyramidNetwork

    channels = (8, 12, 16, 20)
    peer, pyramid = FeaturePyramidNetwork(list(channels), 24), FeaturePyramid(channels, 24)
    names = {"inner_blocks": "lateral", "layer_blocks": "out"}
    weights = {}
    for key, tensor in peer.state_dict().items():  # such as inner_blocks.2.0.weight
        block, level, _, name = key.split(".")
        weights[f"{names[block]}.{level}.{name}"] = tensor
    pyramid.load_state_dict(weights)
    maps = [
        torch.rand(2, c, *size)
        for c, size in zip(channels, [(33, 49), (17, 25), (9, 13), (5, 7)], strict=True)
    ]
    expected = peer({str(i): map for i, map in enumerate(maps)})
    for ours, theirs in zip(pyramid(maps), expected.values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_each_level_is_convolved_and_doubled_until_stride_4_and_the_levels_are_summed() -> None:
    branch = SemanticBranch(64, 4, 5)
    assert [len(level.convolutions) for level in branch.levels] == [1, 1, 2, 3]
    levels = [torch.rand(1, 64, 32 >> i, 48 >> i) for i in range(4)]
    total = 0.0
    for i, level in enumerate(levels):
        for conv, norm, _ in branch.levels[i].convolutions:
            level = F.relu(F.group_norm(F.conv2d(level, conv.weight, padding=1), 32, norm.weight, norm.bias))
            if i:
                level = F.interpolate(level, scale_factor=2, mode="bilinear", align_corners=False)
        total = total + level
    torch.testing.assert_close(branch(levels), branch.head(total))


def test_the_decoder_has_as_many_parameters_as_the_paper_describes() -> None:
    with torch.device("meta"):
        model = fpn(19, encoder="resnet50")
    pyramid = sum(c * 256 + 256 for c in (256, 512, 1024, 2048)) + 4 * (256 * 256 * 9 + 256)
    branch = 4 * 256 * 128 * 9 + (1 + 2) * 128 * 128 * 9 + (1 + 1 + 2 + 3) * 2 * 128
    assert sum(p.numel() for p in model.parameters()) == 23_508_032 + pyramid + branch + 128 * 19 + 19


@pytest.mark.parametrize("name", ["convnext_atto", "vgg11"])
def test_any_encoder_works_at_odd_sizes_and_scores_have_stride_4(name: str) -> None:
    model = fpn(3, encoder=name).eval()
    with torch.no_grad():
        output = model(torch.rand(1, 3, 70, 101))
    assert output.coarse.shape[-2:] == (17, 25)
    assert output.logits.shape == (1, 3, 70, 101)


def test_weights_start_as_in_detectron2() -> None:
    model = fpn(3, encoder="tiny")
    conv: nn.Conv2d = model.head.levels[3].convolutions[1][0]
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    assert model.decoder.out[0].bias.abs().sum() == 0
