"""VGG16 and aligned Xception with less stride: timm's features, dilations, and what is cut off."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from pixelwise.encoders import VGG16, AlignedXception, make_encoder
from pixelwise.encoders.vgg import load_convolutions

NAMES = ("vgg16_dilated", "vgg16_atrous", "aligned_xception65", "aligned_xception71")
STAGES = ("c1", "c2", "c3", "c4", "c5")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_channels_and_strides_are_as_announced_at_odd_sizes(name: str, output_stride: int) -> None:
    with torch.device("meta"):
        encoder = make_encoder(name, in_channels=4, output_stride=output_stride).eval()
        features = encoder(torch.rand(1, 4, 65, 97))
    assert tuple(features.maps) == encoder.stages == STAGES
    for number, (stage, map) in enumerate(features.maps.items(), 1):
        stride = getattr(encoder.strides, stage)
        assert stride == min(2**number, output_stride)
        assert map.shape[1] == getattr(encoder.channels, stage)
        for side, length in zip(map.shape[2:], (65, 97), strict=True):
            assert side in (-(-length // stride), -(-length // stride) - 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_stride_that_is_not_possible_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="output_stride must be 8, 16 or 32, got 4"):
        make_encoder(name, output_stride=4)


@pytest.mark.parametrize("name", NAMES)
def test_what_lies_behind_the_last_stage_is_cut_off(name: str) -> None:
    with torch.device("meta"):
        whole, part = make_encoder(name), make_encoder(name, stages=("c2", "c3"))
        assert part.channels.c1 == part.channels.c5 == 0
        assert set(part.state_dict()) < set(whole.state_dict())
        features = part.train()(torch.rand(2, 3, 64, 96))
        torch.stack([map.sum() for map in features.maps.values()]).sum().backward()
    assert [key for key, p in part.named_parameters() if p.grad is None] == []


def test_vgg16_of_stride_32_has_the_features_of_timm() -> None:
    torch.manual_seed(4)
    peer = timm.create_model("vgg16", features_only=False).features.eval()
    encoder = VGG16(2).eval()
    load_convolutions(encoder, {f"features.{key}": tensor for key, tensor in peer.state_dict().items()})
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        torch.testing.assert_close(encoder(image).c5, peer(encoder.normalize(image)))


def test_vgg16_is_dilated_behind_the_fourth_pooling_only() -> None:
    for name in ("vgg16_dilated", "vgg16_atrous"):
        with torch.device("meta"):
            body = make_encoder(name, output_stride=8).body
        rates = {
            stage: {layer.dilation[0] for layer in layers if isinstance(layer, nn.Conv2d)}
            for stage, layers in body.items()
        }
        assert rates == {"c1": {1}, "c2": {1}, "c3": {1}, "c4": {1}, "c5": {2}}


def timm_features(depth: int, output_stride: int) -> nn.Module:
    """timm's network without its unused classifier, norms and statistics redrawn."""
    model = timm.create_model(f"xception{depth}", features_only=True, output_stride=output_stride).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("depth", [65, 71])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_aligned_xception_has_the_features_of_timm(depth: int, output_stride: int) -> None:
    torch.manual_seed(depth + output_stride)
    peer = timm_features(depth, output_stride)
    encoder = AlignedXception(depth, output_stride=output_stride).eval()
    theirs = peer.state_dict()
    renamed = {key.replace("blocks_", "blocks.").replace("stem_", "stem."): theirs[key] for key in theirs}
    own = {key: t for key, t in encoder.state_dict().items() if key.startswith("normalize.")}
    encoder.load_state_dict(renamed | own)
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        expected, found = peer(encoder.normalize(image)), encoder(image)
    for map, stage in zip(expected, STAGES, strict=True):
        # timm takes the inner stages behind the ReLU
        ours = found[stage] if stage == "c5" else F.relu(found[stage])
        torch.testing.assert_close(ours, map, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("depth", "published"), [(65, 37_867_312), (71, 40_289_736)])
def test_aligned_xception_has_as_many_parameters_as_timm(depth: int, published: int) -> None:
    with torch.device("meta"):
        encoder = AlignedXception(depth)
    assert sum(p.numel() for p in encoder.parameters()) == published


@pytest.mark.parametrize(("output_stride", "exit_rates"), [(32, (1, 1)), (16, (1, 2)), (8, (2, 4))])
def test_a_block_that_strides_no_longer_dilates_those_behind_it(
    output_stride: int, exit_rates: tuple[int, int]
) -> None:
    with torch.device("meta"):
        blocks = AlignedXception(65, output_stride=output_stride).blocks
    rates = [{c.conv_dw.dilation[0] for c in block.stack.values()} for block in blocks]
    middle = 2 if output_stride == 8 else 1
    assert rates == [{1}] * 3 + [{middle}] * 16 + [{rate} for rate in exit_rates]
