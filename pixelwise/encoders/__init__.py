"""Encoders: a pyramid of feature maps from an image."""

from collections.abc import Sequence

from ..types import STAGES
from .base import Encoder as Encoder
from .hrnet import HRNet as HRNet, fit_hrnet_weights as fit_hrnet_weights
from .published import (
    WeightsUnavailable as WeightsUnavailable,
    fetch as fetch,
    has_weights as has_weights,
)
from .timm import (
    StemPolicy as StemPolicy,
    TimmEncoder as TimmEncoder,
    dilate as dilate,
)
from .tiny import Tiny as Tiny
from .torchvision import (
    MobileNetV3Large as MobileNetV3Large,
    fold_frozen_norms as fold_frozen_norms,
)


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

    Names are those of timm's backbones, "mobilenet_v3_large" for torchvision's, and "tiny". The arguments are
    those of `TimmEncoder`; an encoder that is given ready-made keeps its own.

    Raises:
        ValueError: see `TimmEncoder`; or if a given encoder lacks a stage or has other channels.
    """
    if isinstance(encoder, Encoder):
        if missing := [stage for stage in stages or () if stage not in encoder.stages]:
            raise ValueError(f"the encoder must give {', '.join(stages or ())}: it lacks {missing[0]}")
        if encoder.in_channels != in_channels:
            raise ValueError(f"the encoder takes {encoder.in_channels} channels, not {in_channels}")
        return encoder
    if encoder == "tiny":
        if pretrained:
            raise WeightsUnavailable("no pretrained weights are published for 'tiny'")
        return Tiny(in_channels=in_channels, output_stride=output_stride, stages=stages or STAGES)
    if encoder == "mobilenet_v3_large":
        return MobileNetV3Large(
            in_channels=in_channels,
            pretrained=pretrained,
            output_stride=output_stride,
            stages=stages or STAGES,
            stem=stem,
        )
    return TimmEncoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        output_stride=output_stride,
        stages=stages,
        stem=stem,
    )
