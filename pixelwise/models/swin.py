"""Swin Transformer with UPerNet: attention within shifted windows, decoded by a feature pyramid.

The encoder (`encoders/swin_transformer.py`) is the authors' for segmentation. Each of its four maps passes a
layer norm of its own before UPerNet (`upernet.py`) decodes them (Sec. 4.3 and A2.3).

`from_transformers_swin` reads transformers' UPerNet on Swin, and so the files openmmlab/upernet-swin-* of the
Hugging Face hub.

Departures: none known.
"""

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from ..encoders import SWIN_SIZES, StemPolicy, SwinTransformer, pretrained_swin
from ..types import BuiltBy, Paper
from .hrnet import count
from .upernet import STAGES, TRANSFORMERS_HEAD, UPerNet, head_arguments

PAPER = Paper(
    "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
    "Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo",
    "ICCV",
    2021,
    "https://arxiv.org/abs/2103.14030",
)

EPSILON = 1e-5  # of the layer norms


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
    return UPerNet(encoder, num_classes, width=width, aux_width=aux_width, norm_eps=EPSILON)


def _published(size: str, num_classes: int, in_channels: int, pretrained: bool, stem: StemPolicy) -> UPerNet:
    heads, depths, window, _ = SWIN_SIZES[size]
    encoder = SwinTransformer(heads, depths, window=window, in_channels=in_channels, stages=STAGES)
    if pretrained:
        pretrained_swin(size, encoder, stem)
    return UPerNet(encoder, num_classes, norm_eps=EPSILON)


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

# Version 4 of transformers, whose names the files on the hub have, and version 5.
_NAMES = (
    *TRANSFORMERS_HEAD,
    (r"^backbone\.(swin\.)?embeddings\.patch_embeddings\.projection\.", "encoder.body.c2.downsample.proj."),
    (r"^backbone\.(swin\.)?embeddings\.norm\.", "encoder.body.c2.downsample.norm."),
    # Their patches are merged at the end of a stage, ours at the start of the next.
    (
        r"^backbone\.(?:swin\.)?encoder\.layers\.(\d)\.downsample\.",
        lambda match: f"encoder.body.{STAGES[int(match[1]) + 1]}.downsample.",
    ),
    (
        r"^backbone\.(?:swin\.)?encoder\.layers\.(\d)\.",
        lambda match: f"encoder.body.{STAGES[int(match[1])]}.",
    ),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(self\.query|q_proj)\.", ".attention.attention.q."),
    (r"\.attention\.(self\.key|k_proj)\.", ".attention.attention.k."),
    (r"\.attention\.(self\.value|v_proj)\.", ".attention.attention.v."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attention.attention.proj."),
    (
        r"\.attention\.(self|relative_position_bias)\.relative_position_bias_table",
        ".attention.attention.relative_position_bias_table",
    ),
    (r"\.(intermediate\.dense|mlp\.fc1)\.", ".ffn.fc1."),
    (r"\.(output\.dense|mlp\.fc2)\.", ".ffn.fc2."),
)
# The norm behind the last block of a classifier, and what follows from the size of a window.
_UNUSED = re.compile(r"^backbone\.(swin\.)?layernorm\.|relative_position_index$")


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
    arguments = head_arguments(state_dict)
    weights: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        if not _UNUSED.search(key):
            for theirs, ours in _NAMES:
                key = re.sub(theirs, ours, key)
            weights[key] = tensor
    for key in [key for key in weights if ".attention.attention.q." in key]:
        parts = [weights.pop(key.replace(".q.", f".{one}.")) for one in "qkv"]
        weights[key.replace(".q.", ".qkv.")] = torch.cat(parts)
    try:
        table = weights["encoder.body.c2.blocks.0.attention.attention.relative_position_bias_table"]
        arguments |= {
            "heads": table.shape[1],
            "depths": tuple(count(weights, f"encoder.body.{stage}.blocks.") for stage in STAGES),
            "window": (isqrt(len(table)) + 1) // 2,
            "in_channels": weights["encoder.body.c2.downsample.proj.weight"].shape[1],
        }
    except KeyError as error:
        raise ValueError(f"state_dict is not that of UPerNet on Swin: {error} is missing") from error
    model = swin_upernet(**arguments)
    normalize = {key: tensor for key, tensor in model.state_dict().items() if ".normalize." in key}
    try:
        model.load_state_dict({**weights, **normalize})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"state_dict does not fit UPerNet on Swin: {reason}") from error
    model.built_by = BuiltBy("swin_upernet", arguments)
    return model.eval()
