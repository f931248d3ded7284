"""Dilation8 and Dilation10: the authors' counts, an identity to begin with, exact cells at every border."""

import pytest
import torch
from torch.nn import functional as F

from pixelwise.models import dilation8, dilation10
from pixelwise.models.dilation import basic_context, large_context, load_vgg16, reflected


@pytest.mark.parametrize(
    ("builder", "num_classes", "published"), [(dilation8, 21, 141_149_720), (dilation10, 19, 134_373_043)]
)
def test_parameters_are_as_many_as_in_the_authors_files(builder, num_classes: int, published: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in builder(num_classes).parameters()) == published


@pytest.mark.parametrize("make", [large_context, lambda k: basic_context(k, (1, 1, 2, 4, 8, 16, 32, 64, 1))])
def test_the_context_module_begins_as_the_identity(make) -> None:
    context = make(3)
    for layer in context[::2]:
        with torch.no_grad():
            layer.weight[layer.weight < layer.weight.max() / 2] = 0  # the noise
    x = torch.rand(2, 3, 11, 17)
    with torch.no_grad():
        torch.testing.assert_close(context(x), x, atol=1e-5, rtol=1e-5)


def test_the_noise_of_the_identity_is_small_and_there() -> None:
    torch.manual_seed(0)
    context, x = large_context(3), torch.rand(1, 3, 70, 70)
    with torch.no_grad():
        change = (context(x) - x).abs()
    assert 1e-5 < change.mean() < 0.2


def test_the_image_continues_by_reflection_however_small() -> None:
    x = torch.arange(5.0).expand(1, 1, 4, 5)
    row = reflected(x)[0, 0, 0]
    wave = [0, 1, 2, 3, 4, 3, 2, 1]
    expected = [wave[i % 8] for i in range(-186, 8 + 186)]
    assert row.tolist() == expected
    assert reflected(x).shape[-2:] == (8 + 2 * 186, 8 + 2 * 186)


@pytest.mark.parametrize("size", [(16, 24), (17, 31), (2, 9)])
def test_there_is_one_cell_for_every_eight_pixels_begun(size: tuple[int, int]) -> None:
    model = dilation8(3, width=1).eval()
    with torch.no_grad():
        features = model.encoder(torch.rand(1, 3, *size))
    assert features.shape[-2:] == (-(-size[0] // 8), -(-size[1] // 8))


def test_cells_of_dilation8_lie_on_every_eighth_pixel() -> None:
    model = dilation8(2, width=1)
    coarse = torch.randn(1, 2, 4, 5)
    fine = model.upsample(coarse)
    assert torch.equal(fine[:, :, ::8, ::8], coarse)
    torch.testing.assert_close(fine[:, :, 4, 0], (coarse[:, :, 0, 0] + coarse[:, :, 1, 0]) / 2)


def test_upsampling_of_dilation10_is_bilinear_within_and_does_not_learn() -> None:
    model = dilation10(2, width=1)
    assert not model.transposed.weight.requires_grad
    coarse = torch.randn(1, 2, 4, 5)
    expected = F.interpolate(coarse, scale_factor=8, mode="bilinear", align_corners=False)
    found = model.upsample(coarse)
    assert found.shape == expected.shape
    torch.testing.assert_close(found[:, :, 4:-4, 4:-4], expected[:, :, 4:-4, 4:-4])


def test_a_classifier_of_imagenet_goes_in_whole() -> None:
    from torchvision.models import vgg16

    with torch.device("meta"):
        theirs, ours = vgg16(), dilation8(2).encoder
        load_vgg16(ours, theirs.state_dict())


def test_pretrained_weights_need_their_width() -> None:
    with pytest.raises(ValueError, match="pretrained weights are for width 64, got 2"):
        dilation8(2, pretrained=True, width=2)
