"""DeepLabV3 and V3+: rates and multi-grid of the papers, at every output stride."""

import pytest
import torch
from torch import nn

from pixelwise.models import (
    ASPP,
    deeplabv3,
    deeplabv3_resnet50,
    deeplabv3_resnet101,
    deeplabv3_torchvision,
    deeplabv3plus,
    deeplabv3plus_resnet101,
    deeplabv3plus_xception65,
    deeplabv3plus_xception71,
)


@pytest.mark.parametrize(
    ("builder", "published"), [(deeplabv3_resnet101, 58_040_661), (deeplabv3plus_resnet101, 59_344_309)]
)
def test_parameters_are_as_many_as_counted_elsewhere(builder, published: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in builder(21).parameters()) == published


def dilations(model: nn.Module, layer: str) -> list[int]:
    stage = dict(model.encoder.body.named_children())[layer]
    return [block.conv2.dilation[0] for block in stage]


@pytest.mark.parametrize(
    "builder", [deeplabv3_resnet50, pytest.param(deeplabv3plus_resnet101, marks=pytest.mark.slow)]
)
def test_the_last_stage_has_the_multi_grid_of_the_paper(builder) -> None:
    with torch.device("meta"):
        coarse, fine = builder(2), builder(2, output_stride=8)
    assert dilations(coarse, "layer4") == [2, 4, 8]
    assert set(dilations(coarse, "layer3")) == {1}
    assert dilations(fine, "layer4") == [4, 8, 16]
    assert set(dilations(fine, "layer3")) == {2}
    assert [branch[0].dilation[0] for branch in coarse.context.branches] == [1, 6, 12, 18]
    assert [branch[0].dilation[0] for branch in fine.context.branches] == [1, 12, 24, 36]


def test_weights_of_one_output_stride_fit_the_other() -> None:
    coarse, fine = (deeplabv3(2, encoder="resnet18", output_stride=stride).eval() for stride in (16, 8))
    fine.load_state_dict(coarse.state_dict())
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert coarse(image).coarse.shape[-2:] == (4, 6)
        assert fine(image).coarse.shape[-2:] == (8, 12)


def test_an_encoder_that_cannot_be_dilated_works_at_stride_32() -> None:
    with pytest.raises(ValueError, match="cannot be dilated to stride 16"):
        deeplabv3(2, encoder="swin_tiny_patch4_window7_224")
    model = deeplabv3(2, encoder="swin_tiny_patch4_window7_224", output_stride=32).eval()
    assert [branch[0].dilation[0] for branch in model.context.branches] == [1, 3, 6, 9]
    with torch.no_grad():
        assert model(torch.rand(1, 3, 65, 97)).logits.shape == (1, 2, 65, 97)


def test_a_multi_grid_needs_a_resnet() -> None:
    with pytest.raises(ValueError, match="needs an encoder that is a ResNet"):
        deeplabv3(2, encoder="tiny", multi_grid=(1, 2, 4))


def test_a_multi_grid_needs_a_stage_without_stride() -> None:
    with pytest.raises(ValueError, match="c5 strides"):
        deeplabv3(2, encoder="resnet18", output_stride=32, multi_grid=(1, 2))


def test_image_features_reach_every_pixel() -> None:
    context = ASPP(8, (6, 12, 18)).eval()
    x = torch.zeros(1, 8, 65, 65)
    far = x.clone()
    far[..., 0, 0] = 1  # 64 pixels from the opposite corner, which no atrous convolution spans
    with torch.no_grad():
        assert not torch.equal(context(x)[..., -1, -1], context(far)[..., -1, -1])


def test_one_image_trains_though_the_image_features_have_one_value_per_channel() -> None:
    context = ASPP(8, (6, 12, 18)).train()
    context(torch.rand(1, 8, 4, 6)).sum().backward()
    assert all(p.grad.isfinite().all() for p in context.parameters())


def test_the_decoder_scores_at_stride_4_and_sees_c2() -> None:
    model = deeplabv3plus(3, encoder="resnet18").eval()
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        output = model(image)
        assert output.coarse.shape[-2:] == (17, 25)
        nn.init.zeros_(model.skip[1].weight)
        assert not torch.equal(model(image).coarse, output.coarse)


def test_the_second_loss_of_torchvision_is_there_while_training_only() -> None:
    image = torch.rand(2, 3, 64, 64)
    model = deeplabv3_torchvision(3, encoder="tiny")
    assert len(model.train()(image).aux_logits) == 1
    assert model.eval()(image).aux == ()
    assert deeplabv3_torchvision(3, encoder="tiny", aux=False).train()(image).aux == ()


@pytest.mark.parametrize(
    ("builder", "trunk"),
    [(deeplabv3plus_xception65, 37_867_312), (deeplabv3plus_xception71, 40_289_736)],
)
def test_on_xception_the_decoder_is_separable(builder, trunk: int) -> None:
    with torch.device("meta"):
        model = builder(21)
    count = sum(p.numel() for p in model.parameters())

    def separable(a: int, b: int) -> int:
        return 9 * a + 2 * a + a * b + 2 * b

    context = 2 * (2048 + 2) * 256 + 3 * separable(2048, 256) + (5 * 256 + 2) * 256
    decoder = (256 + 2) * 48 + separable(304, 256) + separable(256, 256) + 257 * 21
    assert count == trunk + context + decoder
    if trunk < 38e6:
        assert count == pytest.approx(41.1e6, rel=0.005)  # the authors' checkpoint
