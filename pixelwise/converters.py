"""Networks of other libraries, by the name that they give themselves.

Each paper's file in `models/` reads its own weights; this file only tells which one does. A further network
of transformers is one line in `_READERS`, one of OpenMMLab a line in `_MMSEG`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from .models import (
    from_mmseg_cnn,
    from_mmseg_convnext,
    from_mmseg_segformer,
    from_mmseg_segmenter,
    from_mmseg_setr,
    from_mmseg_swin,
    from_mmseg_upernet,
    from_nvlabs,
    from_transformers_convnext,
    from_transformers_detr,
    from_transformers_dpt,
    from_transformers_eomt,
    from_transformers_mask2former,
    from_transformers_maskformer,
    from_transformers_sam2,
    from_transformers_segformer,
    from_transformers_swin,
    from_whai362_pvt,
)
from .types import Model
from .wording import brief

Settings = Mapping[str, Any]
Reader = Callable[[Mapping[str, Tensor], Settings], Model]


class PeerConfig(Protocol):
    """What is needed of a configuration of transformers."""

    def to_dict(self) -> dict[str, Any]:
        """The settings by name."""


class PeerModel(Protocol):
    """What is needed of a model of transformers."""

    config: PeerConfig

    def state_dict(self) -> dict[str, Tensor]:
        """The weights by name."""


def _upernet(state_dict: Mapping[str, Tensor], config: Settings) -> Model:
    backbone = str(dict(config.get("backbone_config") or {}).get("model_type"))
    if backbone not in _UPERNETS:
        raise ValueError(f"UPerNet is read on {' or '.join(_UPERNETS)}, not on {backbone}")
    return _UPERNETS[backbone](state_dict, config)


_UPERNETS: Mapping[str, Reader] = {"swin": from_transformers_swin, "convnext": from_transformers_convnext}
_READERS: Mapping[str, Reader] = {
    "SegformerForSemanticSegmentation": from_transformers_segformer,
    "UperNetForSemanticSegmentation": _upernet,
    "DPTForSemanticSegmentation": from_transformers_dpt,
    "MaskFormerForInstanceSegmentation": from_transformers_maskformer,
    "Mask2FormerForUniversalSegmentation": from_transformers_mask2former,
    "EomtForUniversalSegmentation": from_transformers_eomt,
    "DetrForObjectDetection": from_transformers_detr,
    "DetrForSegmentation": from_transformers_detr,
    "Sam2VideoModel": from_transformers_sam2,
    "Sam2Model": from_transformers_sam2,
}
# A name that only this network has, and who reads it. The first that is there decides.
_MMSEG: Mapping[str, Callable[[Mapping[str, Tensor]], Model]] = {
    "backbone.layers.0.0.projection.weight": from_mmseg_segformer,
    "decode_head.linear_c1.proj.weight": from_nvlabs,
    "backbone.pos_embed1": from_whai362_pvt,
    "backbone.downsample_layers.0.0.weight": from_mmseg_convnext,
    "backbone.stages.0.blocks.0.attn.w_msa.qkv.weight": from_mmseg_swin,
    "backbone.layers.0.blocks.0.attn.qkv.weight": from_mmseg_swin,
    "decode_head.up_convs.0.0.conv.weight": from_mmseg_setr,
    "backbone.layers.0.attn.attn.in_proj_weight": from_mmseg_segmenter,
    "decode_head.lateral_convs.0.conv.weight": from_mmseg_upernet,  # on ResNet, as others are above
    "backbone.stage4.0.fuse_layers.0.1.0.weight": from_mmseg_cnn,
    "backbone.layer1.0.conv1.weight": from_mmseg_cnn,
}


def from_transformers(
    source: PeerModel | Mapping[str, Tensor], config: PeerConfig | Settings | None = None
) -> Model:
    """The network of transformers with equal outputs, in eval mode.

    transformers itself is not needed: a state dict and the `config.json` beside it are enough.

    Args:
        source: a model of transformers, or its state dict with the names of version 4 or 5.
        config: beside a state dict, the configuration, as such or as the mapping in `config.json`.

    Raises:
        ValueError: if the configuration is missing or names a network that cannot be read, or the weights do
            not fit it.
    """
    if isinstance(source, Mapping):
        if config is None:
            raise ValueError("config must be given beside a state dict: it tells which network that is")
        weights, told = source, config
        name = ""
    else:
        weights, told = source.state_dict(), source.config if config is None else config
        name = type(source).__name__
    settings: Settings = told if isinstance(told, Mapping) else told.to_dict()
    names = [name, *(settings.get("architectures") or ())]
    for one in names:
        if one in _READERS:
            return _READERS[one](weights, settings)
    found = " or ".join(brief(one) for one in names if one) or "none"
    raise ValueError(f"config must name one of the networks {', '.join(_READERS)}, got {found}")


def from_mmseg(state_dict: Mapping[str, Tensor]) -> Model:
    """The network of OpenMMLab's mmsegmentation with equal outputs, in eval mode.

    mmsegmentation itself is not needed. Reads FCN, PSPNet, DeepLabV3, DeepLabV3+ and UPerNet on ResNet,
    HRNet, SETR, Segmenter, SegFormer, UPerNet on Swin and on ConvNeXt, and what authors built upon it:
    NVlabs' SegFormer, UPerNet of Swin and ConvNeXt, PVT's semantic FPN.

    Args:
        state_dict: what a file of theirs holds under `state_dict`.

    Raises:
        ValueError: if it is that of another network, or does not fit.
    """
    for name, reader in _MMSEG.items():
        if name in state_dict:
            return reader(state_dict)
    first = ", ".join(map(brief, list(state_dict)[:3])) or "nothing"
    raise ValueError(f"state_dict is that of no network of mmsegmentation that can be read: it holds {first}")
