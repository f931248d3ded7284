"""FastFCN: the authors' numbers, an undilated encoder, and each of its heads."""

import pytest
import torch
from torch import nn

from pixelwise.losses import Criterion, CrossEntropy
from pixelwise.models import fastfcn, fastfcn_resnet50
from pixelwise.models.fastfcn import JointPyramidUpsampling
from pixelwise.types import Batch

HEADS = ("encnet", "psp", "deeplabv3")


def test_joint_pyramid_upsampling_has_as_many_parameters_as_the_authors_have() -> None:
    with torch.device("meta"):
        model = fastfcn_resnet50(21)
    assert sum(p.numel() for p in model.upsampling.parameters()) == 19_735_552
    assert model.head.reduce[0].kernel_size == (1, 1)
    assert {block.conv2.dilation[0] for block in model.encoder.body.layer4} == {1}
    assert model.encoder.strides[2:] == (8, 16, 32)


def test_the_finest_map_decides_the_size_and_every_map_counts() -> None:
    upsampling = JointPyramidUpsampling(3, 4, 5, 2).eval()
    maps = [torch.randn(1, c, h, w, requires_grad=True) for c, h, w in ((3, 9, 13), (4, 5, 7), (5, 3, 4))]
    joint = upsampling(*maps)
    assert joint.shape == (1, 8, 9, 13)
    assert all(gradient.any() for gradient in torch.autograd.grad(joint.square().sum(), maps))


def test_branches_look_one_two_four_and_eight_cells_far() -> None:
    upsampling = JointPyramidUpsampling(1, 1, 1, 1).eval()
    for module in upsampling.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
    joint = torch.zeros(1, 3, 21, 21, requires_grad=True)
    for branch, reach in zip(upsampling.branches, (1, 2, 4, 8), strict=True):
        (gradient,) = torch.autograd.grad(branch[1](branch[0](joint))[0, :, 10, 10].sum(), joint)
        seen = gradient[0, 0].nonzero()[:, 0].unique().tolist()
        assert seen == [10 - reach, 10, 10 + reach]


@pytest.mark.parametrize("head", HEADS)
def test_each_head_scores_at_stride_8_and_trains(head: str) -> None:
    model, image = fastfcn(3, encoder="tiny", head=head), torch.rand(2, 3, 65, 97)
    with torch.no_grad():
        assert model.eval()(image).coarse.shape == (2, 3, 9, 13)
    output, batch = model.train()(image), Batch.of(image, torch.randint(0, 3, (2, 65, 97)))
    parts = Criterion(CrossEntropy()).parts(output, batch)
    assert ("semantic_encoding" in parts) == (head == "encnet")
    torch.stack(list(parts.values())).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_another_head_is_refused() -> None:
    with pytest.raises(ValueError, match="head must be encnet, psp or deeplabv3, got 'fcn'"):
        fastfcn(3, encoder="tiny", head="fcn")
