"""Encoders: a pyramid of feature maps from an image."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from ..types import STAGES
from .base import Encoder as Encoder
from .dense_swin import SWIN_SIZES, DenseSwin as DenseSwin, SwinSize as SwinSize
from .dilated_densenet import DilatedDenseNet as DilatedDenseNet
from .from_transformers import rename_transformers_encoder as rename_transformers_encoder
from .hrnet import BRANCHES, HRNet as HRNet, fit_hrnet_weights as fit_hrnet_weights
from .published import (
    WeightsUnavailable as WeightsUnavailable,
    fetch as fetch,
    fetch_torchvision as fetch_torchvision,
    timm_has_weights,
)
from .timm import (
    StemPolicy as StemPolicy,
    TimmEncoder as TimmEncoder,
    blocks_of as blocks_of,
    dilate as dilate,
    maps_of_blocks as maps_of_blocks,
)
from .tiny import Tiny as Tiny
from .torchvision import (
    MobileNetV3Large as MobileNetV3Large,
    fold_frozen_norms as fold_frozen_norms,
)
from .vgg import VGG16 as VGG16
from .vit import (
    Interpolation as Interpolation,
    TokenEncoder as TokenEncoder,
    make_token_encoder as make_token_encoder,
)
from .wide_resnet import WideResNet38 as WideResNet38
from .xception import AlignedXception as AlignedXception


class Named(NamedTuple):
    """An encoder that is not timm's.

    Attributes:
        build: takes the arguments of `make_encoder` by name, after the encoder.
        has_weights: whether pretrained weights are published.
    """

    build: Callable[..., Encoder]
    has_weights: bool = True


def _tiny(
    *, in_channels: int, pretrained: bool, output_stride: int, stages: Sequence[str] | None, stem: StemPolicy
) -> Encoder:
    if pretrained:
        raise WeightsUnavailable("no pretrained weights are published for 'tiny'")
    return Tiny(in_channels=in_channels, output_stride=output_stride, stages=stages or STAGES)


def _mobilenet_v3_large(
    *, in_channels: int, pretrained: bool, output_stride: int, stages: Sequence[str] | None, stem: StemPolicy
) -> Encoder:
    return MobileNetV3Large(
        in_channels=in_channels,
        pretrained=pretrained,
        output_stride=output_stride,
        stages=stages or STAGES,
        stem=stem,
    )


def _hrnet(
    width: int,
    *,
    in_channels: int,
    pretrained: bool,
    output_stride: int,
    stages: Sequence[str] | None,
    stem: StemPolicy,
) -> Encoder:
    if output_stride != 32:
        raise ValueError(f"backbone 'hrnet{width}' cannot be dilated to stride {output_stride}")
    return HRNet(width, in_channels=in_channels, stages=stages or BRANCHES, pretrained=pretrained, stem=stem)


def _vgg16(
    window: int,
    *,
    in_channels: int,
    pretrained: bool,
    output_stride: int,
    stages: Sequence[str] | None,
    stem: StemPolicy,
) -> Encoder:
    return VGG16(
        window,
        in_channels=in_channels,
        pretrained=pretrained,
        output_stride=output_stride,
        stages=stages or STAGES,
        stem=stem,
    )


def _dilated_densenet(
    *, in_channels: int, pretrained: bool, output_stride: int, stages: Sequence[str] | None, stem: StemPolicy
) -> Encoder:
    return DilatedDenseNet(
        "densenet161",
        in_channels=in_channels,
        pretrained=pretrained,
        output_stride=output_stride,
        stages=stages or STAGES,
        stem=stem,
    )


def _aligned_xception(
    depth: int,
    *,
    in_channels: int,
    pretrained: bool,
    output_stride: int,
    stages: Sequence[str] | None,
    stem: StemPolicy,
) -> Encoder:
    return AlignedXception(
        depth,
        in_channels=in_channels,
        pretrained=pretrained,
        output_stride=output_stride,
        stages=stages or STAGES,
        stem=stem,
    )


def _dense_swin(
    size: str,
    *,
    in_channels: int,
    pretrained: bool,
    output_stride: int,
    stages: Sequence[str] | None,
    stem: StemPolicy,
) -> Encoder:
    if output_stride != 32:
        raise ValueError(f"backbone 'swin_{size}' cannot be dilated to stride {output_stride}")
    return DenseSwin(
        SWIN_SIZES[size],
        in_channels=in_channels,
        pretrained=pretrained,
        stages=stages or STAGES[1:],
        stem=stem,
    )


# The encoders that are not timm's, by name; every other name is one of timm's backbones. timm's `hrnet_w18`
# adds convolutions behind the branches of HRNet; `hrnet18` gives the branches themselves. `vgg16_dilated`
# pools 2x2 squares, `vgg16_atrous` 3x3 squares. `swin_tiny` and so on are those of dense prediction.
ENCODERS: Mapping[str, Named] = {
    "tiny": Named(_tiny, has_weights=False),
    "mobilenet_v3_large": Named(_mobilenet_v3_large),
    **{f"hrnet{width}": Named(partial(_hrnet, width)) for width in (18, 32, 48)},
    "densenet161_dilated": Named(_dilated_densenet),
    "vgg16_dilated": Named(partial(_vgg16, 2)),
    "vgg16_atrous": Named(partial(_vgg16, 3)),
    **{f"swin_{size}": Named(partial(_dense_swin, size)) for size in SWIN_SIZES},
    **{f"aligned_xception{depth}": Named(partial(_aligned_xception, depth)) for depth in (65, 71)},
}


def has_weights(name: str) -> bool:
    """Whether pretrained weights are published for the encoder `name`; nothing is fetched."""
    return ENCODERS[name].has_weights if name in ENCODERS else timm_has_weights(name)


def make_encoder(
    encoder: str | Encoder,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    output_stride: int = 32,
    stages: Sequence[str] | None = None,
    stem: StemPolicy = "repeat",
) -> Encoder:
    """An encoder by name, or `encoder` itself if it fits.

    Names are those of `ENCODERS` and of timm's backbones. The arguments are those of `TimmEncoder`; one
    that is given ready-made keeps its own.

    Raises:
        ValueError: see `TimmEncoder`; or if a given encoder lacks a stage or has other channels.
    """
    if isinstance(encoder, Encoder):
        if missing := [stage for stage in stages or () if stage not in encoder.stages]:
            raise ValueError(f"the encoder must give {', '.join(stages or ())}: it lacks {missing[0]}")
        if encoder.in_channels != in_channels:
            raise ValueError(f"the encoder takes {encoder.in_channels} channels, not {in_channels}")
        return encoder
    build = ENCODERS[encoder].build if encoder in ENCODERS else partial(TimmEncoder, encoder)
    return build(
        in_channels=in_channels,
        pretrained=pretrained,
        output_stride=output_stride,
        stages=stages,
        stem=stem,
    )
