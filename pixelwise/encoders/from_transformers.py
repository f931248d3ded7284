"""Weights of the backbones of transformers under our names."""

import re

from torch import Tensor, cat

from .dense_swin import SWIN_SIZES

_SWIN_RENAMES = (
    (r"^(?:swin|model)\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "body.patch_embed.proj."),
    (r"^embeddings\.norm\.", "body.patch_embed.norm."),
    (r"^encoder\.layers\.", "body.layers."),
    (r"layernorm_before\.", "norm1."),
    (r"layernorm_after\.", "norm2."),
    (r"attention\.self\.", "attention."),
    (r"attention\.(?:output\.dense|o_proj)\.", "attn.proj."),
    (
        r"attention\.(?:relative_position_bias\.)?relative_position_bias_table",
        "attn.relative_position_bias_table",
    ),
    (r"attention\.(?:q_proj|query)\.", "attn.q."),
    (r"attention\.(?:k_proj|key)\.", "attn.k."),
    (r"attention\.(?:v_proj|value)\.", "attn.v."),
    (r"(?:intermediate\.dense|mlp\.fc1)\.", "mlp.fc1."),
    (r"(?:(?<!mlp\.)output\.dense|mlp\.fc2)\.", "mlp.fc2."),
    (r"layers\.(\d)\.downsample\.", lambda found: f"layers.{int(found[1]) + 1}.downsample."),
    (r"^hidden_states_norms\.stage(\d)\.", lambda found: f"norms.c{int(found[1]) + 1}."),
    (r"^hidden_states_norms\.(\d)\.", lambda found: f"norms.c{int(found[1]) + 2}."),
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


def rename_transformers_encoder(state_dict: dict[str, Tensor], prefix: str) -> tuple[str, dict[str, Tensor]]:
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
        weights = {_renamed(key, _SWIN_RENAMES): tensor for key, tensor in own.items()}
        weights = {key: x for key, x in weights.items() if key.startswith(("body.", "norms."))}
        weights = _joined({key: x for key, x in weights.items() if "relative_position_index" not in key})
        name = _swin(weights)
    return name, {f"encoder.{key}": tensor for key, tensor in weights.items()}


def _renamed(key: str, renames: tuple[tuple[str, object], ...]) -> str:
    for theirs, ours in renames:
        key = re.sub(theirs, ours, key)  # type: ignore[call-overload]
    return key


def _joined(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values in one layer, as timm has them."""
    joined = {}
    for key, tensor in weights.items():
        if ".attn.q." in key:
            parts = [weights[key.replace(".attn.q.", f".attn.{part}.")] for part in "qkv"]
            joined[key.replace(".attn.q.", ".attn.qkv.")] = cat(parts)
        elif ".attn.k." not in key and ".attn.v." not in key:
            joined[key] = tensor
    return joined


def _depths(weights: dict[str, Tensor], pattern: str) -> tuple[int, ...]:
    """Number of blocks of each stage."""
    blocks = {found.groups() for key in weights if (found := re.match(pattern, key))}
    stages = sorted({stage for stage, _ in blocks})
    return tuple(sum(1 for stage, _ in blocks if stage == one) for one in stages)


def _swin(weights: dict[str, Tensor]) -> str:
    if "body.patch_embed.proj.weight" not in weights:
        raise ValueError("the backbone of the state dict is neither a Swin Transformer nor a ResNet")
    depths = _depths(weights, r"body\.layers\.(\d)\.blocks\.(\d+)\.")
    width = len(weights["body.patch_embed.proj.weight"])
    table = weights["body.layers.0.blocks.0.attn.relative_position_bias_table"]
    window = (round(len(table) ** 0.5) + 1) // 2
    for name, size in SWIN_SIZES.items():
        if (size.width, size.depths, size.window) == (width, depths, window):
            return f"swin_{name}"
    raise ValueError(
        f"no Swin Transformer here has {width} channels, windows of {window} and {depths} blocks"
    )


def _resnet(weights: dict[str, Tensor]) -> str:
    depths = _depths(weights, r"body\.layer(\d)\.(\d+)\.")
    convolutions = 3 if "body.layer1.0.conv3.weight" in weights else 2
    if (convolutions, depths) not in _RESNETS:
        raise ValueError(f"no ResNet here has {depths} blocks of {convolutions} convolutions")
    return _RESNETS[convolutions, depths]
