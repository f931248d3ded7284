"""DeepLab v2: the published size, a sum of classifiers, the maximum over image sizes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pixelwise.models import deeplabv2, deeplabv2_caffe, deeplabv2_resnet101, deeplabv2_vgg16


def test_parameters_are_as_many_as_reimplementations_have() -> None:
    with torch.device("meta"):
        model = deeplabv2_resnet101(21)
    assert sum(p.numel() for p in model.parameters()) == 44_048_532


def test_vgg16_has_four_times_the_fully_connected_layers() -> None:
    with torch.device("meta"):
        model = deeplabv2_vgg16(21)
    branch = (9 * 512 + 1) * 1024 + 1025 * 1024 + 1025 * 21
    assert sum(p.numel() for p in model.parameters()) == 14_714_688 + 4 * branch


def test_every_block_of_the_last_stages_is_dilated() -> None:
    with torch.device("meta"):
        encoder = deeplabv2_resnet101(21).encoder
    rates = {
        stage: {
            layer.dilation[0]
            for layer in encoder.get_submodule(f"body.layer{stage - 1}").modules()
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
        }
        for stage in (4, 5)
    }
    assert rates == {4: {2}, 5: {4}}
    assert encoder.strides.c5 == 8


def test_pyramid_pooling_adds_scores() -> None:
    torch.manual_seed(1)
    head = deeplabv2(3, encoder="tiny").head
    x = torch.randn(1, 16, 9, 13)
    expected = sum(
        F.conv2d(x, branch.weight, branch.bias, padding=rate, dilation=rate)
        for branch, rate in zip(head.branches, (6, 12, 18, 24), strict=True)
    )
    torch.testing.assert_close(head(x), expected)


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (33, 50)])
def test_the_largest_score_of_three_image_sizes_counts(size: tuple[int, int]) -> None:
    torch.manual_seed(2)
    model = deeplabv2(3, encoder="tiny").eval()
    image = torch.rand(2, 3, *size)
    with torch.no_grad():
        found = model(image).coarse
        maps = []
        for numerator, denominator in ((1, 1), (3, 4), (1, 2)):
            smaller = [(side - 1) * numerator // denominator + 1 for side in size]
            seen = F.interpolate(image, smaller, mode="bilinear", align_corners=True)
            coarse = model.head(model.encoder(seen).c5)
            maps.append(F.interpolate(coarse, found.shape[2:], mode="bilinear", align_corners=True))
    torch.testing.assert_close(found, torch.stack(maps).amax(0), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(found, maps[0])


def test_every_image_size_has_a_loss_in_training() -> None:
    model = deeplabv2(3, encoder="tiny").train()
    output = model(torch.rand(2, 3, 65, 97))
    assert [map.shape[-2:] for map in output.aux] == [(9, 13), (7, 10), (5, 7)]
    assert model.eval()(torch.rand(1, 3, 65, 97)).aux == ()
    assert deeplabv2_vgg16(3, encoder="tiny").train()(torch.rand(1, 3, 65, 97)).aux == ()


@pytest.mark.parametrize("scales", [(), (0.5, 1.0), (1.0, 1.5), (1.0, 0.0)])
def test_scales_that_do_not_begin_with_one_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="scales must be 1 and numbers between 0 and 1"):
        deeplabv2(3, encoder="tiny", scales=scales)


def test_the_authors_resnet_strides_first_and_pools_up() -> None:
    with torch.device("meta"):
        model = deeplabv2_caffe(21)
    assert sum(p.numel() for p in model.parameters()) == 44_048_532
    first = model.encoder.get_submodule("body.layer2.0")
    assert (first.conv1.stride, first.conv2.stride) == ((2, 2), (1, 1))
    x = torch.randn(2, 3, 17, 24)
    expected = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
    assert torch.equal(model.encoder.get_submodule("body.maxpool")(x), expected)


@pytest.mark.parametrize("size", [(64, 96), (65, 99), (2, 33)])
def test_the_authors_scales_align_no_corners(size: tuple[int, int]) -> None:
    torch.manual_seed(3)
    model = deeplabv2_caffe(3, encoder="tiny").eval()
    image = torch.rand(2, 3, *size)
    with torch.no_grad():
        maps = [model.head(model.encoder(image).c5)]
        for scale in (0.75, 0.5):
            map = model.head(model.encoder(F.interpolate(image, scale_factor=scale, mode="bilinear")).c5)
            maps.append(F.interpolate(map, maps[0].shape[2:], mode="bilinear"))
        output = model(image)
    assert torch.equal(output.coarse, torch.stack(maps).amax(0))
    assert not output.align_corners
