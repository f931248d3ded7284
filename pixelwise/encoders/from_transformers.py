"""Weights of the backbones of transformers under our names."""

import re
from collections.abc import Mapping
from math import isqrt

from torch import Tensor, cat

from .swin_transformer import SWIN_SIZES

# Version 4 of transformers, whose names the files on the hub have, and version 5.
_SWIN_RENAMES = (
    (r"^(?:swin|model)\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "body.c2.downsample.proj."),
    (r"^embeddings\.norm\.", "body.c2.downsample.norm."),
    # Their patches are merged at the end of a stage, ours at the start of the next.
    (r"^encoder\.layers\.(\d)\.downsample\.", lambda found: f"body.c{int(found[1]) + 3}.downsample."),
    (r"^encoder\.layers\.(\d)\.", lambda found: f"body.c{int(found[1]) + 2}."),
    (r"^hidden_states_norms\.stage(\d)\.", lambda found: f"norms.c{int(found[1]) + 1}."),
    (r"^hidden_states_norms\.(\d)\.", lambda found: f"norms.c{int(found[1]) + 2}."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:self\.query|q_proj)\.", ".attention.attention.q."),
    (r"\.attention\.(?:self\.key|k_proj)\.", ".attention.attention.k."),
    (r"\.attention\.(?:self\.value|v_proj)\.", ".attention.attention.v."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attention.attention.proj."),
    (
        r"\.attention\.(?:self|relative_position_bias)\.relative_position_bias_table",
        ".attention.attention.relative_position_bias_table",
    ),
    (r"\.(?:intermediate\.dense|mlp\.fc1)\.", ".ffn.fc1."),
    (r"\.(?:output\.dense|mlp\.fc2)\.", ".ffn.fc2."),
)
_RESNET_RENAMES = (
    (r"^embedder\.embedder\.convolution\.", "body.conv1."),
    (r"^embedder\.embedder\.normalization\.", "body.bn1."),
    (r"^encoder\.stages\.(\d)\.layers\.", lambda found: f"body.layer{int(found[1]) + 1}."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"\.layer\.(\d)\.convolution\.", lambda found: f".conv{int(found[1]) + 1}."),
    (r"\.layer\.(\d)\.normalization\.", lambda found: f".bn{int(found[1]) + 1}."),
)
_RESNETS: dict[tuple[int, tuple[int, ...]], str] = {
    (2, (2, 2, 2, 2)): "resnet18",
    (2, (3, 4, 6, 3)): "resnet34",
    (3, (3, 4, 6, 3)): "resnet50",
    (3, (3, 4, 23, 3)): "resnet101",
    (3, (3, 8, 36, 3)): "resnet152",
}


def rename_transformers_encoder(
    state_dict: Mapping[str, Tensor], prefix: str
) -> tuple[str, dict[str, Tensor]]:
    """The backbone in a state dict of transformers.

    Args:
        state_dict: of a network on a Swin Transformer or a ResNet, in the names of any version.
        prefix: of the names of the backbone.

    Returns:
        The name of the encoder, see `make_encoder`, and its weights with names that begin with "encoder.".

    Raises:
        ValueError: if it is no such backbone, or of a size that has no name.
    """
    own = {key.removeprefix(prefix): x for key, x in state_dict.items() if key.startswith(prefix)}
    if any(key.startswith("embedder.") for key in own):
        weights = {_renamed(key, _RESNET_RENAMES): tensor for key, tensor in own.items()}
        name = _resnet(weights)
    else:
        weights, heads, depths, window = read_transformers_swin(state_dict, prefix)
        name = _swin(heads, depths, window)
    return name, {f"encoder.{key}": tensor for key, tensor in weights.items()}


def read_transformers_swin(
    state_dict: Mapping[str, Tensor], prefix: str
) -> tuple[dict[str, Tensor], int, tuple[int, ...], int]:
    """The Swin Transformer in a state dict of transformers.

    Args:
        state_dict: of a network, in the names of any version.
        prefix: of the names of the backbone.

    Returns:
        The weights of `SwinTransformer`, the heads of its first stage, the blocks of each, and its window.

    Raises:
        ValueError: if it holds no Swin Transformer.
    """
    own = {key.removeprefix(prefix): x for key, x in state_dict.items() if key.startswith(prefix)}
    weights = {_renamed(key, _SWIN_RENAMES): tensor for key, tensor in own.items()}
    weights = {
        key: tensor
        for key, tensor in weights.items()
        if key.startswith(("body.", "norms.")) and not key.endswith("relative_position_index")
    }
    for key in [key for key in weights if ".attention.attention.q." in key]:
        parts = [weights.pop(key.replace(".q.", f".{one}.")) for one in "qkv"]
        weights[key.replace(".q.", ".qkv.")] = cat(parts)
    return weights, *swin_sizes(weights)


def swin_sizes(weights: Mapping[str, Tensor]) -> tuple[int, tuple[int, ...], int]:
    """Heads of the first stage, blocks of each stage, and window of a `SwinTransformer` with these weights.

    Raises:
        ValueError: if they are those of another network.
    """
    table = weights.get("body.c2.blocks.0.attention.attention.relative_position_bias_table")
    if table is None:
        raise ValueError("the backbone of the state dict is neither a Swin Transformer nor a ResNet")
    depths = _depths(weights, r"body\.c(\d)\.blocks\.(\d+)\.")
    return table.shape[1], depths, (isqrt(len(table)) + 1) // 2


def _renamed(key: str, renames: tuple[tuple[str, object], ...]) -> str:
    for theirs, ours in renames:
        key = re.sub(theirs, ours, key)  # type: ignore[call-overload]
    return key


def _depths(weights: Mapping[str, Tensor], pattern: str) -> tuple[int, ...]:
    """Number of blocks of each stage."""
    blocks = {found.groups() for key in weights if (found := re.match(pattern, key))}
    stages = sorted({stage for stage, _ in blocks})
    return tuple(sum(1 for stage, _ in blocks if stage == one) for one in stages)


def _swin(heads: int, depths: tuple[int, ...], window: int) -> str:
    for name, size in SWIN_SIZES.items():
        if size[:3] == (heads, depths, window):
            return name
    raise ValueError(f"no Swin Transformer here has {heads} heads, windows of {window} and {depths} blocks")


def _resnet(weights: dict[str, Tensor]) -> str:
    depths = _depths(weights, r"body\.layer(\d)\.(\d+)\.")
    convolutions = 3 if "body.layer1.0.conv3.weight" in weights else 2
    if (convolutions, depths) not in _RESNETS:
        raise ValueError(f"no ResNet here has {depths} blocks of {convolutions} convolutions")
    return _RESNETS[convolutions, depths]
