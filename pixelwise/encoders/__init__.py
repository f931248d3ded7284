"""Encoders: a pyramid of feature maps from an image."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from ..types import STAGES
from .base import Encoder as Encoder
from .dilated_densenet import DilatedDenseNet as DilatedDenseNet
from .from_mmseg import (
    imagenet_normalize as imagenet_normalize,
    read_mmseg_resnet as read_mmseg_resnet,
    read_mmseg_swin as read_mmseg_swin,
    read_mmseg_vit as read_mmseg_vit,
    rename_vit as rename_vit,
)
from .from_transformers import (
    read_transformers_swin as read_transformers_swin,
    rename_transformers_encoder as rename_transformers_encoder,
)
from .hrformer import HRFORMER_SIZES, HRFormer as HRFormer
from .hrnet import BRANCHES, HRNet as HRNet, fit_hrnet_weights as fit_hrnet_weights
from .mit import MIT_SIZES as MIT_SIZES, MiT as MiT
from .published import (
    WeightsUnavailable as WeightsUnavailable,
    fetch as fetch,
    fetch_file as fetch_file,
    fetch_torchvision as fetch_torchvision,
    timm_has_weights,
    timm_weights_at_hand,
)
from .pvt import (
    LEVELS,
    PVT as PVT,
    PVT_DEPTHS as PVT_DEPTHS,
    fit_pvt_weights as fit_pvt_weights,
    pretrained_pvt,
)
from .swin_transformer import (
    SWIN_SIZES as SWIN_SIZES,
    SwinTransformer as SwinTransformer,
    pretrained_swin as pretrained_swin,
    rename_timm_swin as rename_timm_swin,
)
from .timm import (
    DEEP_STEM as DEEP_STEM,
    StemPolicy as StemPolicy,
    TimmEncoder as TimmEncoder,
    blocks_of as blocks_of,
    dilate as dilate,
    maps_of_blocks as maps_of_blocks,
    stride_in_first as stride_in_first,
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
        build: takes the arguments of `make_encoder` by name, after the encoder; `stages` only if given.
        has_weights: whether pretrained weights are published.
    """

    build: Callable[..., Encoder]
    has_weights: bool = True


def _tiny(
    *,
    in_channels: int,
    pretrained: bool,
    output_stride: int,
    stages: Sequence[str] = STAGES,
    stem: StemPolicy,
) -> Encoder:
    if pretrained:
        raise WeightsUnavailable("no pretrained weights are published for 'tiny'")
    return Tiny(in_channels=in_channels, output_stride=output_stride, stages=stages)


def _hrnet(
    width: int,
    *,
    in_channels: int,
    pretrained: bool,
    output_stride: int,
    stages: Sequence[str] = BRANCHES,
    stem: StemPolicy,
) -> Encoder:
    if output_stride != 32:
        raise ValueError(f"backbone 'hrnet{width}' cannot be dilated to stride {output_stride}")
    return HRNet(width, in_channels=in_channels, stages=stages, pretrained=pretrained, stem=stem)


def pyramid_transformer(
    name: str,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    output_stride: int = 32,
    stages: Sequence[str] = LEVELS,
    stem: StemPolicy = "repeat",
) -> Encoder:
    """MiT, PVT, Swin Transformer or HRFormer by its name in `ENCODERS`; see `make_encoder`.

    Raises:
        ValueError: if it cannot be dilated, lacks a stage, or has no pretrained weights.
    """
    if output_stride != 32:
        raise ValueError(f"backbone {name!r} cannot be dilated to stride {output_stride}")
    if pretrained and not ENCODERS[name].has_weights:
        raise WeightsUnavailable(f"no pretrained weights of {name!r} are published under terms of free use")
    family, _, size = name.partition("_")
    if family == "mit":
        width, depths = MIT_SIZES[name]
        return MiT(width, depths, in_channels=in_channels, stages=stages)
    if family == "hrformer":
        width, heads = HRFORMER_SIZES[name]
        return HRFormer(width, heads, in_channels=in_channels, stages=stages)
    if family == "pvt":
        pvt = PVT(PVT_DEPTHS[size], in_channels=in_channels, stages=stages)
        if pretrained:
            pretrained_pvt(size, pvt, stem)
        return pvt
    heads, depths, window, _ = SWIN_SIZES[name]
    swin = SwinTransformer(heads, depths, window=window, in_channels=in_channels, stages=stages)
    if pretrained:
        pretrained_swin(name, swin, stem)
    return swin


# The encoders that are not timm's, by name; every other name is one of timm's backbones. timm's `hrnet_w18`
# adds convolutions behind the branches of HRNet; `hrnet18` gives the branches themselves. `vgg16_dilated`
# pools 2x2 squares, `vgg16_atrous` 3x3 squares.
ENCODERS: Mapping[str, Named] = {
    "tiny": Named(_tiny, has_weights=False),
    "mobilenet_v3_large": Named(MobileNetV3Large),
    **{f"hrnet{width}": Named(partial(_hrnet, width)) for width in (18, 32, 48)},
    "densenet161_dilated": Named(partial(DilatedDenseNet, "densenet161")),
    "vgg16_dilated": Named(partial(VGG16, 2)),
    "vgg16_atrous": Named(partial(VGG16, 3)),
    **{f"aligned_xception{depth}": Named(partial(AlignedXception, depth)) for depth in (65, 71)},
    **{name: Named(partial(pyramid_transformer, name)) for name in SWIN_SIZES},
    **{f"pvt_{size}": Named(partial(pyramid_transformer, f"pvt_{size}")) for size in PVT_DEPTHS},
    # MiT's weights are for research only, HRFormer's behind a link that no program can follow.
    **{
        name: Named(partial(pyramid_transformer, name), has_weights=False)
        for name in (*MIT_SIZES, *HRFORMER_SIZES)
    },
}


def has_weights(name: str) -> bool:
    """Whether pretrained weights are published for the encoder `name`; nothing is fetched."""
    return ENCODERS[name].has_weights if name in ENCODERS else timm_has_weights(name)


def weights_at_hand(name: str) -> bool:
    """Whether pretrained weights of the encoder `name` lie on this machine, so that nothing is fetched."""
    return name not in ENCODERS and timm_weights_at_hand(name)


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
    asked = {"stages": stages} if stages else {}  # each has stages of its own
    return build(
        in_channels=in_channels, pretrained=pretrained, output_stride=output_stride, stem=stem, **asked
    )
