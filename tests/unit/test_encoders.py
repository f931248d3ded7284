"""Encoders: any backbone, any image channels, nothing that is not needed."""

import copy
import inspect
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import timm
import torch
from torch import Tensor, nn

from pixelwise import models
from pixelwise.encoders import (
    ENCODERS,
    Encoder,
    HRNet,
    MobileNetV3Large,
    TimmEncoder,
    Tiny,
    WeightsUnavailable,
    dilate,
    fetch_torchvision,
    has_weights,
    make_encoder,
)
from pixelwise.encoders.hrformer import HRFORMER_SIZES
from pixelwise.encoders.mit import MIT_SIZES
from pixelwise.encoders.timm import adapt_stem
from pixelwise.layers import IMAGENET_MEAN, Normalize
from pixelwise.registry import build, list_models
from pixelwise.types import STAGES

SWIN = "swin_tiny_patch4_window7_224"


def sizes(encoder: Encoder, height: int, width: int) -> dict[str, tuple[int, ...]]:
    with torch.no_grad():
        features = encoder.eval()(torch.rand(1, encoder.in_channels, height, width))
    return {stage: tuple(map.shape[1:]) for stage, map in features.maps.items()}


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def redraw(module: nn.Module) -> None:
    """Random numbers where layers begin with constants, so that no branch is switched off."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.min() == parameter.max():
                parameter.add_(0.2 * torch.randn_like(parameter))
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(std=0.2)
                layer.running_var.uniform_(0.5, 1.5)


def without_gradient(encoder: Encoder) -> list[str]:
    """Names of parameters that claim to be trained and are not."""
    encoder.train().zero_grad()
    features = encoder(torch.rand(2, encoder.in_channels, 64, 96))
    torch.stack([map.sum() for map in features.maps.values()]).sum().backward()
    return [key for key, p in encoder.named_parameters() if p.requires_grad and p.grad is None]


# --- what every encoder promises ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "tiny",
        "resnet18",
        "mobilenetv3_small_050",
        "mobilenet_v3_large",
        "densenet121",
        "convnext_atto",
        SWIN,
        "dla34",
    ],
)
@pytest.mark.parametrize("in_channels", [3, 4])
def test_maps_have_the_announced_channels_and_strides_at_odd_sizes(name: str, in_channels: int) -> None:
    encoder = make_encoder(name, in_channels=in_channels)
    found = sizes(encoder, 65, 97)
    assert tuple(found) == encoder.stages
    for stage, (c, h, w) in found.items():
        stride = getattr(encoder.strides, stage)
        assert stride == 2 ** int(stage[1])
        assert c == getattr(encoder.channels, stage)
        assert h in (-(-65 // stride), -(-65 // stride) - 1)
        assert w in (-(-97 // stride), -(-97 // stride) - 1)
    assert [getattr(encoder.channels, s) > 0 for s in STAGES] == [s in encoder.stages for s in STAGES]


@pytest.mark.parametrize(
    "name",
    ["tiny", "resnet18", "efficientnet_b0", "mobilenetv4_conv_small", "mobilenet_v3_large", "convnext_atto"],
)
def test_what_lies_behind_the_last_stage_is_cut_off(name: str) -> None:
    whole, part = make_encoder(name), make_encoder(name, stages=("c2", "c3"))
    assert num_parameters(part) < num_parameters(whole) / 2
    assert part.channels.c1 == part.channels.c5 == 0
    assert not without_gradient(part)
    assert all(p.requires_grad for p in part.parameters())
    part.load_state_dict({k: v for k, v in whole.state_dict().items() if k in part.state_dict()})
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(part.eval()(image).c3, whole.eval()(image).c3)


def test_a_resnet_cut_behind_layer2_has_the_parameters_of_its_layers() -> None:
    encoder, whole = TimmEncoder("resnet18", stages=("c3",)), timm.create_model("resnet18")
    layers = (whole.conv1, whole.bn1, whole.layer1, whole.layer2)
    assert num_parameters(encoder) == sum(num_parameters(layer) for layer in layers)


def test_parameters_that_no_map_needs_are_frozen_where_they_cannot_be_cut() -> None:
    encoder = TimmEncoder("hrnet_w18_small", stages=("c2", "c3"))
    assert any(not p.requires_grad for p in encoder.parameters())
    assert not without_gradient(encoder)


def test_stages_come_finest_first_whatever_the_order_of_the_request() -> None:
    for name in ("tiny", "resnet18", "mobilenet_v3_large"):
        encoder = make_encoder(name, stages=("c5", "c2"))
        assert encoder.stages == ("c2", "c5")
        assert [map[-1] for map in sizes(encoder, 64, 64).values()] == [16, 2]


def test_building_and_probing_leave_an_encoder_in_training_mode() -> None:
    assert all(module.training for module in TimmEncoder("resnet18").modules())


def test_the_image_is_normalised_with_the_numbers_of_the_backbone() -> None:
    assert TimmEncoder("resnet18").normalize.mean.flatten().tolist() == pytest.approx(IMAGENET_MEAN)
    assert TimmEncoder("inception_v4").normalize.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    four = TimmEncoder("resnet18", in_channels=4).normalize.mean.flatten().tolist()
    assert four == pytest.approx([sum(IMAGENET_MEAN) / 3] * 4)


def test_padding_for_swin_repeats_the_border_and_is_cut_off_again() -> None:
    encoder = TimmEncoder(SWIN).eval()
    image = torch.rand(1, 3, 65, 97)
    padded = nn.functional.pad(image, (0, 3, 0, 3), mode="replicate")
    with torch.no_grad():
        small, large = encoder(image), encoder(padded)
    assert encoder.multiple == 4
    torch.testing.assert_close(small.c3, large.c3)


@pytest.mark.parametrize(("name", "multiple"), [("resnet18", 1), (SWIN, 4), ("hrnet_w18_small", 32)])
def test_images_are_padded_no_further_than_a_backbone_needs(name: str, multiple: int) -> None:
    assert TimmEncoder(name).multiple == multiple


# --- dilation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["tiny", "resnet18", "efficientnet_b0", "convnext_atto"])
def test_dilated_stages_keep_their_name_and_size(name: str, output_stride: int) -> None:
    encoder = make_encoder(name, output_stride=output_stride)
    found = sizes(encoder, 64, 96)
    assert found["c5"][1:] == (64 // output_stride, 96 // output_stride)
    assert encoder.strides.c5 == output_stride
    assert encoder.strides.c4 == output_stride
    assert num_parameters(encoder) == num_parameters(make_encoder(name))


def test_a_dilated_resnet_is_the_one_of_torchvision_until_it_is_dilated_fully() -> None:
    from torchvision.models import resnet50

    encoder = TimmEncoder("resnet50", output_stride=8, stages=("c5",))
    peer = resnet50(weights=None, replace_stride_with_dilation=(False, True, True))

    def dilations(stages: list[nn.Module]) -> list[list[int]]:
        return [[block.conv2.dilation[0] for block in stage] for stage in stages]

    ours = [encoder.body.layer3, encoder.body.layer4]
    assert dilations(ours) == dilations([peer.layer3, peer.layer4]) == [[1, 2, 2, 2, 2, 2], [2, 4, 4]]
    dilate(encoder, "c4", 2)
    dilate(encoder, "c5", 4, 8, 16)
    assert dilations(ours) == [[2] * 6, [4, 8, 16]]
    assert sizes(encoder, 64, 96)["c5"][1:] == (8, 12)


def test_dilating_what_strides_or_is_no_resnet_is_refused() -> None:
    with pytest.raises(ValueError, match="stage c5 strides"):
        dilate(TimmEncoder("resnet18"), "c5", 2)
    with pytest.raises(ValueError, match="needs an encoder that is a ResNet"):
        dilate(TimmEncoder("convnext_atto"), "c5", 2)
    with pytest.raises(ValueError, match="has that stage"):
        dilate(TimmEncoder("resnet18", stages=("c3",)), "c5", 2)


# --- image channels and pretrained weights --------------------------------------------------------


def test_colour_filters_are_repeated_averaged_or_filled_with_zeros() -> None:
    colour = torch.arange(6.0).view(2, 3, 1, 1)  # filters (0, 1, 2) and (3, 4, 5)
    other = torch.rand(4)

    def adapted(n: int, stem: str) -> list[list[float]]:
        source, target = {"stem": colour, "other": other}, {"stem": torch.empty(2, n, 1, 1), "other": other}
        result = adapt_stem(source, target, stem)
        assert result["other"] is other
        return result["stem"].flatten(1).tolist()

    assert adapted(6, "repeat")[1] == pytest.approx([1.5, 2, 2.5, 1.5, 2, 2.5])
    assert adapted(4, "repeat")[0] == pytest.approx([0, 0.75, 1.5, 0])
    for stem in ("repeat", "mean", "zero"):
        assert adapted(1, stem) == [[3], [12]]
    assert adapted(6, "mean")[1] == pytest.approx([2] * 6)
    assert adapted(4, "zero") == [[0, 1, 2, 0], [3, 4, 5, 0]]
    assert adapted(3, "zero") == colour.flatten(1).tolist()


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Tensor]:
    """Weights that timm takes from a file where it would fetch them."""
    weights = timm.create_model("resnet18").state_dict()
    torch.save(weights, tmp_path / "resnet18.pth")
    monkeypatch.setattr("pixelwise.encoders.published._cached", lambda config: str(tmp_path / "resnet18.pth"))
    return weights


@pytest.mark.parametrize(
    ("in_channels", "stem"), [(1, "repeat"), (3, "repeat"), (4, "mean"), (6, "repeat"), (6, "zero")]
)
def test_pretrained_weights_are_carried_over(
    published: dict[str, Tensor], in_channels: int, stem: str
) -> None:
    encoder = make_encoder("resnet18", in_channels=in_channels, pretrained=True, stem=stem, stages=("c4",))
    weights = encoder.body.state_dict()
    assert torch.equal(weights["layer3.1.conv2.weight"], published["layer3.1.conv2.weight"])
    colour, ours = published["conv1.weight"], weights["conv1.weight"]
    assert ours.shape == (64, in_channels, 7, 7)
    expected = {
        (1, "repeat"): colour.sum(1, keepdim=True),
        (3, "repeat"): colour,
        (4, "mean"): colour.mean(1, keepdim=True).expand(-1, 4, -1, -1) * 3 / 4,
        (6, "repeat"): torch.cat([colour, colour], dim=1) / 2,
        (6, "zero"): torch.cat([colour, torch.zeros_like(colour)], dim=1),
    }[in_channels, stem]
    torch.testing.assert_close(ours, expected)


def test_weights_of_torchvision_are_carried_over(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.models

    build, seen = torchvision.models.mobilenet_v3_large, {}

    def offline(*, weights: str | None, dilated: bool) -> nn.Module:
        seen["weights"] = weights
        seen["model"] = build(weights=None, dilated=dilated)
        seen["colour"] = seen["model"].features[0][0].weight.detach().clone()
        return seen["model"]

    monkeypatch.setattr(torchvision.models, "mobilenet_v3_large", offline)
    monkeypatch.setattr("pixelwise.encoders.torchvision.check_reachable", lambda name, url: None)
    encoder = make_encoder("mobilenet_v3_large", pretrained=True, in_channels=4, stem="zero", stages=("c3",))
    assert seen["weights"] == "IMAGENET1K_V1"
    assert torch.equal(encoder.body[0][0].weight[:, :3], seen["colour"])
    assert not encoder.body[0][0].weight[:, 3:].any()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large"])
def test_weights_that_cannot_be_had_are_named(monkeypatch: pytest.MonkeyPatch, name: str, tmp_path) -> None:
    def unreachable(request: object, timeout: float) -> None:
        raise URLError("no network")

    monkeypatch.setattr("pixelwise.encoders.published._cached", lambda config: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(
        WeightsUnavailable, match=rf"weights of '{name}' cannot be had: no connection to \S+ \(no"
    ):
        make_encoder(name, pretrained=True)


def test_classifiers_of_torchvision_are_read_from_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailable, match="weights of 'alexnet' cannot be had: they are not in the"):
        fetch_torchvision("alexnet")
    (tmp_path / "checkpoints").mkdir()
    torch.save({"features.0.bias": torch.ones(2)}, tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth")
    assert fetch_torchvision("alexnet")["features.0.bias"].tolist() == [1, 1]


def test_without_the_network_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelwise.encoders.published._cached", lambda config: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delattr("urllib.request.urlopen")
    with pytest.raises(WeightsUnavailable, match="HF_HUB_OFFLINE is set"):
        make_encoder("resnet18", pretrained=True)


@pytest.mark.parametrize("name", ["tiny", "mobilenetv3_large_075"])
def test_an_encoder_without_published_weights_says_so(name: str) -> None:
    assert not has_weights(name)


def test_the_tiny_encoder_cannot_be_pretrained() -> None:
    with pytest.raises(WeightsUnavailable, match="no pretrained weights are published for 'tiny'"):
        make_encoder("tiny", pretrained=True)


def test_a_grey_image_gives_what_the_same_image_in_colour_gives(published: dict[str, Tensor]) -> None:
    grey = make_encoder("resnet18", in_channels=1, pretrained=True).eval()
    colour = make_encoder("resnet18", pretrained=True).eval()
    image = torch.rand(2, 1, 65, 97)
    with torch.no_grad():
        # The three colours have means and deviations of their own, which one channel cannot have.
        colour.normalize = Normalize((grey.normalize.mean.item(),) * 3, (grey.normalize.std.item(),) * 3)
        expected, found = colour(image.expand(-1, 3, -1, -1)), grey(image)
    assert grey.normalize.mean.item() == pytest.approx(sum(IMAGENET_MEAN) / 3)
    for stage in STAGES:
        torch.testing.assert_close(found[stage], expected[stage], atol=1e-4, rtol=1e-4)


def test_a_stem_that_moves_space_into_channels_keeps_its_pixels_apart() -> None:
    colours = torch.arange(12.0).view(1, 12, 1, 1)  # four pixels of three colours
    grey = adapt_stem({"stem": colours}, {"stem": torch.empty(1, 4, 1, 1)}, "repeat")["stem"]
    assert grey.flatten().tolist() == [3, 12, 21, 30]


def test_every_builder_that_takes_pretrained_takes_the_stem_policy() -> None:
    for name in list_models():
        known = inspect.signature(getattr(models, name)).parameters
        assert ("pretrained" in known) == ("stem" in known), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fcn32s_vgg16", "segnet"])
def test_vgg_sums_the_colours_for_a_grey_image(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vgg = timm.create_model("vgg16_bn" if name == "segnet" else "vgg16").state_dict()
    module = sys.modules[getattr(models, name).__module__]
    monkeypatch.setattr(module, "fetch", lambda name: vgg)
    model = build(name, 2, in_channels=1, pretrained=True)
    first = next(p for p in model.parameters() if p.ndim == 4)
    torch.testing.assert_close(first.data, vgg["features.0.weight"].sum(1, keepdim=True))
    filled = build(name, 2, in_channels=4, pretrained=True, stem="zero")
    assert not next(p for p in filled.parameters() if p.ndim == 4)[:, 3:].any()


# --- Swin at any size -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"),
    [
        (SWIN, (228, 260)),
        pytest.param(SWIN, (224, 224), marks=pytest.mark.slow),
        pytest.param(SWIN, (256, 480), marks=pytest.mark.slow),
        pytest.param("swin_s3_tiny_224", (256, 288), marks=pytest.mark.slow),
        pytest.param("swinv2_tiny_window8_256", (288, 320), marks=pytest.mark.slow),
    ],
)
def test_swin_is_the_one_that_timm_builds_for_the_size_of_the_image(name: str, size: tuple[int, int]) -> None:
    encoder = TimmEncoder(name).eval()
    redraw(encoder)
    peer = timm.create_model(name, features_only=True, img_size=size).eval()
    peer.load_state_dict(encoder.body.state_dict())
    image = torch.rand(1, 3, *size)
    with torch.no_grad():
        found, expected = encoder(image), peer(encoder.normalize(image))
    for stage, map in zip(encoder.stages, expected, strict=True):
        map = map.permute(0, 3, 1, 2) if encoder.last_axis_is_channels else map
        torch.testing.assert_close(found[stage], map, atol=1e-4, rtol=1e-4)
    assert len(list(expected[-1].flatten().unique())) > 1000


@pytest.mark.slow
def test_the_other_second_swin_shifts_too_where_its_windows_are_those_it_was_published_with() -> None:
    encoder = TimmEncoder("swinv2_cr_tiny_ns_224").eval()
    redraw(encoder)
    # Left alone, timm lets these windows grow with the image.
    peer = timm.create_model("swinv2_cr_tiny_ns_224", features_only=True, img_size=(256, 224), window_size=7)
    peer.load_state_dict(encoder.body.state_dict())
    image = torch.rand(1, 3, 256, 224)
    with torch.no_grad():
        torch.testing.assert_close(
            encoder(image).c5, peer.eval()(encoder.normalize(image))[-1], atol=1e-4, rtol=1e-4
        )


def small_swin(family: str, monkeypatch: pytest.MonkeyPatch) -> TimmEncoder:
    """One of timm's own Swins with fewer channels and blocks, but all four stages."""
    published = {
        "v1": ("swin_tiny_patch4_window7_224", {}),
        "v2": ("swinv2_tiny_window8_256", {}),
        "v2_cr": ("swinv2_cr_tiny_ns_224", {"window_size": 7}),
    }
    name, more = published[family]
    small = {"embed_dim": 8, "depths": (2, 2, 1, 2), "num_heads": (1, 2, 2, 4), **more}
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, **(small | options)))
    encoder = TimmEncoder(name).eval()
    redraw(encoder)
    return encoder


class Maps(nn.Module):
    """Exported programs return tensors, not features."""

    def __init__(self, encoder: TimmEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.encoder(image).maps.values())


@pytest.mark.slow
@pytest.mark.compile
@pytest.mark.parametrize("family", ["v1", "v2", "v2_cr"])
def test_a_swin_exported_once_equals_eager_at_every_size(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Maps(small_swin(family, monkeypatch)).eval()
    sizes = {2: torch.export.Dim("H", min=48, max=4096), 3: torch.export.Dim("W", min=48, max=4096)}
    program = torch.export.export(
        encoder, (torch.rand(1, 3, 97, 131),), dynamic_shapes={"image": sizes}
    ).module()
    for size in ((65, 97), (48, 224), (256, 260), (301, 87)):  # the last stage with one window and several
        image = torch.rand(1, 3, *size)
        with torch.no_grad():
            for found, expected in zip(program(image), encoder(image), strict=True):
                torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.compile
@pytest.mark.parametrize("family", ["v1", "v2", "v2_cr"])
def test_a_swin_compiles_in_one_graph(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Maps(small_swin(family, monkeypatch)).eval()
    image = torch.rand(2, 3, 65, 97)
    torch._dynamo.reset()
    with torch.no_grad():
        found = torch.compile(encoder, fullgraph=True, backend="eager")(image)
        for one, expected in zip(found, encoder(image), strict=True):
            torch.testing.assert_close(one, expected, atol=1e-4, rtol=1e-4)


def test_a_copy_of_a_swin_is_independent() -> None:
    encoder = TimmEncoder(SWIN, stages=("c2",)).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = encoder(image).c2
        copied = copy.deepcopy(encoder)
        for parameter in encoder.parameters():
            parameter.zero_()
        assert torch.equal(copied(image).c2, before)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5", "timm has no backbone 'resnet5': did you mean resnet50"),
        ("vit_tiny_patch16_224", "gives no pyramid: the strides of its maps are"),
        ("maxvit_pico_rw_256", "works at one image size only"),
    ],
)
def test_a_backbone_that_cannot_serve_is_refused_with_the_reason(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimmEncoder(name)


def test_impossible_wishes_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"gives c2, c3, c4, c5: it has no c1"):
        TimmEncoder("convnext_atto", stages=("c1", "c5"))
    with pytest.raises(ValueError, match="cannot be dilated to stride 8"):
        TimmEncoder("densenet121", output_stride=8)
    with pytest.raises(ValueError, match="cannot be dilated to stride 8"):
        MobileNetV3Large(output_stride=8)
    with pytest.raises(ValueError, match="output_stride must be 8, 16 or 32, got 4"):
        TimmEncoder("resnet18", output_stride=4)


@pytest.mark.compile  # the shape checker would refuse it first
def test_an_unknown_stem_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="stem must be one of repeat, mean, zero"):
        TimmEncoder("resnet18", stem="tile")


def test_a_ready_encoder_is_taken_if_it_fits() -> None:
    encoder = Tiny(stages=("c3", "c5"))
    assert make_encoder(encoder, stages=("c5",)) is encoder
    with pytest.raises(ValueError, match="it lacks c2"):
        make_encoder(encoder, stages=("c2", "c5"))
    with pytest.raises(ValueError, match="takes 3 channels, not 4"):
        make_encoder(encoder, in_channels=4)


@pytest.mark.compile  # a wrong argument, on purpose
@pytest.mark.parametrize("name", ["unet", "linknet", "fpn", "pspnet", "fcn", "deeplabv3", "deeplabv3plus"])
def test_every_model_on_any_encoder_takes_a_stem_policy(name: str) -> None:
    with pytest.raises(ValueError, match="stem must be one of repeat, mean, zero, got 'half'"):
        build(name, 2, encoder="resnet18", in_channels=4, stem="half")
    with torch.device("meta"):
        model = build(name, 2, encoder="resnet18", in_channels=4, stem="zero")
    assert model.built_by is not None
    assert model.built_by.arguments["stem"] == "zero"


def test_the_branches_of_hrnet_have_a_name_of_their_own() -> None:
    encoder = make_encoder("hrnet18", in_channels=1, stages=("c2", "c4"))
    assert isinstance(encoder, HRNet)
    assert (encoder.stages, encoder.channels.c2, encoder.channels.c4) == (("c2", "c4"), 18, 72)
    with pytest.raises(ValueError, match="backbone 'hrnet18' cannot be dilated to stride 8"):
        make_encoder("hrnet18", output_stride=8)


def test_the_table_of_encoders_says_for_which_weights_are_published() -> None:
    assert {name for name in ENCODERS if not has_weights(name)} == {"tiny", *MIT_SIZES, *HRFORMER_SIZES}
    assert has_weights("resnet18")  # timm's
