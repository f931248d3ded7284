"""Swin Transformer with UPerNet: attention within shifted windows, decoded by a feature pyramid.

The encoder (`encoders/swin_transformer.py`) is the authors' for segmentation, each of whose stages ends in a
layer norm; UPerNet (`upernet.py`) decodes its four maps (Sec. 4.3 and A2.3).

`from_transformers_swin` reads transformers' UPerNet on Swin, and so the files openmmlab/upernet-swin-* of the
Hugging Face hub; `from_mmseg_swin` those of OpenMMLab's model zoo and of the authors.

Departures: none known.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..encoders import (
    SWIN_SIZES,
    StemPolicy,
    SwinTransformer,
    pretrained_swin,
    read_mmseg_swin,
    read_transformers_swin,
)
from ..types import Paper
from .upernet import STAGES, UPerNet, head_arguments, load_upernet, rename_mmseg_head

PAPER = Paper(
    "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
    "Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo",
    "ICCV",
    2021,
    "https://arxiv.org/abs/2103.14030",
)


def swin_upernet(
    num_classes: int,
    *,
    heads: int = 3,
    depths: tuple[int, ...] = (2, 2, 6, 2),
    window: int = 7,
    in_channels: int = 3,
    width: int = 512,
    aux_width: int | None = 256,
) -> UPerNet:
    """Swin Transformer of any size with UPerNet; see `SwinTransformer` and `UPerNet`."""
    encoder = SwinTransformer(heads, depths, window=window, in_channels=in_channels, stages=STAGES)
    return UPerNet(encoder, num_classes, width=width, aux_width=aux_width)


def _published(size: str, num_classes: int, in_channels: int, pretrained: bool, stem: StemPolicy) -> UPerNet:
    heads, depths, window, _ = SWIN_SIZES[size]
    encoder = SwinTransformer(heads, depths, window=window, in_channels=in_channels, stages=STAGES)
    if pretrained:
        pretrained_swin(size, encoder, stem)
    return UPerNet(encoder, num_classes)


def swin_tiny_upernet(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> UPerNet:
    """Swin-T with UPerNet: 60 million parameters."""
    return _published("swin_tiny", num_classes, in_channels, pretrained, stem)


def swin_small_upernet(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> UPerNet:
    """Swin-S with UPerNet: 81 million parameters."""
    return _published("swin_small", num_classes, in_channels, pretrained, stem)


def swin_base_upernet(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> UPerNet:
    """Swin-B with UPerNet: 121 million parameters."""
    return _published("swin_base", num_classes, in_channels, pretrained, stem)


def swin_large_upernet(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> UPerNet:
    """Swin-L with windows of 12x12 tokens and UPerNet: 234 million parameters."""
    return _published("swin_large", num_classes, in_channels, pretrained, stem)


# --- weights --------------------------------------------------------------------------------------


def from_transformers_swin(
    state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None
) -> UPerNet:
    """Weights of transformers' UperNetForSemanticSegmentation on a Swin backbone, in eval mode.

    Args:
        state_dict: of a model, or of a file of the hub, such as openmmlab/upernet-swin-tiny.
        config: not needed; classes and sizes are read from the weights.

    Raises:
        ValueError: if it is not a state dict of that network.
    """
    head_arguments(state_dict)  # looks for the head before the encoder is read
    return _loaded(state_dict, *read_transformers_swin(state_dict, "backbone."))


def from_mmseg_swin(state_dict: Mapping[str, Tensor]) -> UPerNet:
    """Weights of OpenMMLab's UPerNet on Swin (github.com/open-mmlab/mmsegmentation), in eval mode.

    The files of the authors (github.com/SwinTransformer) are read as well.

    Args:
        state_dict: what a file of theirs holds under `state_dict`.

    Raises:
        ValueError: if it is not a state dict of that network.
    """
    head = rename_mmseg_head(state_dict)
    head_arguments(head)  # looks for the head before the encoder is read
    return _loaded(head, *read_mmseg_swin(state_dict))


def _loaded(
    head: Mapping[str, Tensor],
    encoder: dict[str, Tensor],
    heads: int,
    depths: tuple[int, ...],
    window: int,
) -> UPerNet:
    """The network of a head in the names of transformers and of an encoder in ours."""
    in_channels = encoder["body.c2.downsample.proj.weight"].shape[1]
    arguments = {"heads": heads, "depths": depths, "window": window, "in_channels": in_channels}
    weights = {f"encoder.{key}": tensor for key, tensor in encoder.items()}
    return load_upernet(swin_upernet, arguments, head, weights, "UPerNet on Swin")
