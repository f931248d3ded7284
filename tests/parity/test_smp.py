"""State dicts of Segmentation Models PyTorch load into our networks with the same logits."""

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from pixelwise.checkpoint import load, save
from pixelwise.models import from_smp_manet
from pixelwise.models.smp import from_smp
from pixelwise.types import ClassTable, DenseModel

ARCHITECTURES = ["Unet", "UnetPlusPlus", "FPN", "Linknet", "PSPNet", "DeepLabV3", "DeepLabV3Plus"]
TOLERANCE = 1e-4


def peer(architecture: str, encoder: str = "resnet18", *, seed: int = 3, **arguments: object) -> nn.Module:
    """A random network of SMP whose batch norms have seen something; no parameter is constant."""
    torch.manual_seed(seed)
    model = getattr(smp, architecture)(encoder, encoder_weights=None, classes=5, **arguments)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.min() == parameter.max():  # layer scales and biases that begin with a constant
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def difference(theirs: nn.Module, ours: DenseModel, height: int, width: int, channels: int = 3) -> float:
    image = torch.rand(2, channels, height, width)
    normalize = ours.encoder.normalize
    with torch.no_grad():
        expected = theirs(normalize(image))
        got = ours(image).logits
    assert got.shape == expected.shape == (2, 5, height, width)
    assert expected.std() > 1e-3, "a constant peer shows nothing"
    return float((got - expected).abs().max())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_equal_at_several_sizes(architecture: str) -> None:
    theirs = peer(architecture)
    ours = from_smp(theirs.state_dict(), architecture, encoder="resnet18")
    assert not ours.training
    for size in ((64, 96), (128, 96), (32, 32)):
        assert difference(theirs, ours, *size) <= TOLERANCE


def test_the_unet_is_equal_at_odd_sizes() -> None:
    theirs = peer("Unet")
    ours = from_smp(theirs.state_dict(), "Unet", encoder="resnet18")
    for size in ((65, 97), (75, 50)):
        assert difference(theirs, ours, *size) <= TOLERANCE


@pytest.mark.parametrize(
    "encoder",
    [
        "tu-convnext_atto",
        "tu-mobilenetv3_small_050",
        "tu-regnetx_002",
        pytest.param("tu-convnext_nano", marks=pytest.mark.slow),
        pytest.param("tu-efficientnet_b0", marks=pytest.mark.slow),
        pytest.param("tu-pvt_v2_b0", marks=pytest.mark.slow),
        pytest.param("tu-poolformer_s12", marks=pytest.mark.slow),
        pytest.param("tu-mobilenetv4_conv_small", marks=pytest.mark.slow),
    ],
)
def test_the_unet_is_equal_at_odd_sizes_on_any_backbone_of_timm(encoder: str) -> None:
    theirs = peer("Unet", encoder, seed=11)
    ours = from_smp(theirs.state_dict(), "Unet", encoder=encoder)
    for size in ((65, 97), (75, 50), (99, 131)):
        assert difference(theirs, ours, *size) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "size"),
    [("Unet", (224, 224)), ("Unet", (256, 288)), ("Unet", (228, 260)), ("FPN", (256, 288))],
)
def test_swin_is_equal_at_the_size_that_smp_builds_it_for(architecture: str, size: tuple[int, int]) -> None:
    encoder = "tu-swin_tiny_patch4_window7_224"
    theirs = peer(architecture, encoder, seed=5, img_size=size)
    ours = from_smp(theirs.state_dict(), architecture, encoder=encoder)
    assert difference(theirs, ours, *size) <= 5 * TOLERANCE


@pytest.mark.slow
def test_a_swin_for_smaller_images_is_refused_by_the_shape_of_its_bias_tables() -> None:
    encoder = "tu-swin_tiny_patch4_window7_224"
    theirs = peer("FPN", encoder, img_size=128)
    with pytest.raises(ValueError, match=r"of another shape, such as encoder\.body"):
        from_smp(theirs.state_dict(), "FPN", encoder=encoder)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("architecture", ["DeepLabV3", "DeepLabV3Plus"])
@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_dilation_follows_smp_and_timm(architecture: str, encoder: str, output_stride: int) -> None:
    theirs = peer(architecture, encoder, encoder_output_stride=output_stride)
    ours = from_smp(theirs.state_dict(), architecture, encoder=encoder, output_stride=output_stride)
    assert difference(theirs, ours, 64, 96) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("encoder", ["resnet34", "resnet50", "resnext50_32x4d", "tu-resnet26d"])
def test_logits_are_equal_with_larger_encoders(architecture: str, encoder: str) -> None:
    theirs = peer(architecture, encoder)
    ours = from_smp(theirs.state_dict(), architecture, encoder=encoder)
    assert difference(theirs, ours, 64, 96) <= TOLERANCE


@pytest.mark.parametrize("encoder", ["tu-mobilenetv3_small_050", "tu-convnext_atto"])
@pytest.mark.parametrize("architecture", ["FPN", "PSPNet"])
def test_backbones_of_timm_go_by_tu_names(architecture: str, encoder: str) -> None:
    theirs = peer(architecture, encoder)
    ours = from_smp(theirs.state_dict(), architecture, encoder=encoder)
    assert difference(theirs, ours, 64, 96) <= TOLERANCE


@pytest.mark.parametrize(
    "architecture",
    ["Linknet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("FPN", "PSPNet"))],
)
def test_vgg_encoders_are_taken(architecture: str) -> None:
    theirs = peer(architecture, "vgg11_bn")
    ours = from_smp(theirs.state_dict(), architecture, encoder="vgg11_bn")
    assert difference(theirs, ours, 64, 96) <= TOLERANCE


def test_image_channels_are_read_from_the_weights() -> None:
    theirs = peer("FPN", in_channels=4)
    ours = from_smp(theirs.state_dict(), "FPN", encoder="resnet18")
    assert ours.in_channels == 4
    assert difference(theirs, ours, 64, 96, channels=4) <= TOLERANCE


def test_layers_that_smp_never_uses_are_left_out() -> None:
    theirs = peer("PSPNet", aux_params={"classes": 3})
    stored = {key for key in theirs.state_dict() if key.startswith("encoder.layer4.")}
    ours = from_smp(theirs.state_dict(), "PSPNet", encoder="resnet18")
    assert stored
    assert not any("layer3" in key or "layer4" in key for key in ours.state_dict())
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected, _ = theirs(ours.encoder.normalize(image))
        torch.testing.assert_close(ours(image).logits, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_converted_network_can_be_saved_and_loaded(architecture: str, tmp_path) -> None:
    ours = from_smp(peer(architecture).state_dict(), architecture, encoder="resnet18")
    save(ours, tmp_path / "a.safetensors", ClassTable.of(*"abcde"))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "a.safetensors").model(image).logits, ours(image).logits)


def test_what_is_not_supported_is_said_in_one_sentence() -> None:
    weights = peer("FPN").state_dict()
    with pytest.raises(ValueError, match=r"one of SMP's unet, unetplusplus, fpn.* got 'MAnet'"):
        from_smp(weights, "MAnet", encoder="resnet18")
    with pytest.raises(ValueError, match="'mobilenet_v2' is not supported"):
        from_smp(weights, "FPN", encoder="mobilenet_v2")
    with pytest.raises(ValueError, match="centre block"):
        from_smp(weights, "Unet", encoder="vgg16_bn")
    with pytest.raises(ValueError, match="does not fit SMP's FPN with 'resnet34'"):
        from_smp(weights, "FPN", encoder="resnet34")
    with pytest.raises(ValueError, match="does not fit SMP's Linknet"):
        from_smp(weights, "Linknet", encoder="resnet18")
    with pytest.raises(ValueError, match="only SMP's DeepLabs and PAN"):
        from_smp(weights, "FPN", encoder="resnet18", output_stride=8)
    with pytest.raises(ValueError, match="not that of a segmentation network"):
        from_smp({"weight": torch.zeros(1)}, "FPN", encoder="resnet18")


def test_a_missing_weight_is_noticed() -> None:
    weights = peer("FPN").state_dict()
    del weights["encoder.layer4.0.conv1.weight"]
    with pytest.raises(ValueError, match="layer4"):
        from_smp(weights, "FPN", encoder="resnet18")


def test_full_dilation_is_for_resnets() -> None:
    from pixelwise.models.smp_deeplabv3 import smp_deeplabv3

    with pytest.raises(ValueError, match="is a ResNet"):
        smp_deeplabv3(3, encoder="tiny", fully_dilated=True)


@pytest.mark.parametrize("output_stride", [16, 32])
@pytest.mark.parametrize("encoder", ["resnet18", pytest.param("tu-resnet18", marks=pytest.mark.slow)])
def test_pan_is_equal_where_its_pyramid_needs_no_rounding(encoder: str, output_stride: int) -> None:
    theirs = peer("PAN", encoder, encoder_output_stride=output_stride)
    ours = from_smp(theirs.state_dict(), "PAN", encoder=encoder, output_stride=output_stride)
    # Its attention multiplies rounding, which differs between processors: up to 1.6e-4 were seen.
    assert difference(theirs, ours, 16 * output_stride, 24 * output_stride) <= 3 * TOLERANCE


def test_pan_reads_the_default_stride_and_can_be_saved(tmp_path) -> None:
    ours = from_smp(peer("PAN", seed=9).state_dict(), "PAN", encoder="resnet18")
    assert ours.encoder.strides.c5 == 16
    save(ours, tmp_path / "a.safetensors", ClassTable.of(*"abcde"))
    image = torch.rand(1, 3, 50, 70)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "a.safetensors").model(image).logits, ours(image).logits)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-mobilenetv3_small_050"])
def test_manet_is_equal(encoder: str) -> None:
    theirs = peer("MAnet", encoder, seed=4)
    ours = from_smp_manet(theirs.state_dict(), encoder=encoder)
    for size in ((64, 96), (160, 64), (32, 32)):
        assert difference(theirs, ours, *size) <= TOLERANCE
    assert ours.built_by.builder == "manet"


def test_weights_of_another_network_are_no_manet() -> None:
    with pytest.raises(ValueError, match="does not fit SMP's MAnet with 'resnet18'"):
        from_smp_manet(peer("FPN").state_dict(), encoder="resnet18")
    with pytest.raises(ValueError, match="'mobilenet_v2' is not supported"):
        from_smp_manet(peer("FPN").state_dict(), encoder="mobilenet_v2")
