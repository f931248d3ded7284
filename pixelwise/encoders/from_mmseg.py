"""Weights of the backbones of OpenMMLab's mmsegmentation under our names."""

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

from torch import Tensor

from ..layers import IMAGENET_MEAN, IMAGENET_STD, Normalize
from .from_transformers import swin_sizes
from .timm import DEEP_STEM

_PREFIX = "backbone."
_VIT_RENAMES = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^ln1\.", "norm."),
    (r"^layers\.", "blocks."),
    (r"\.ln([12])\.", r".norm\1."),
    (r"\.attn\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.attn\.out_proj\.", ".attn.proj."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
)
# By channels and number of blocks; the last is for tests.
_VITS = {
    (192, 12): "vit_tiny_patch16_384",
    (384, 12): "vit_small_patch16_384",
    (768, 12): "vit_base_patch16_384",
    (1024, 24): "vit_large_patch16_384",
    (32, 4): "tiny",
}
_DISTILLED: Mapping[int, str] = {  # by channels
    192: "deit_tiny_distilled_patch16_224",
    384: "deit_small_distilled_patch16_224",
    768: "deit_base_distilled_patch16_384",
}
_SWIN_RENAMES = (
    (r"^patch_embed\.proj(?:ection)?\.", "body.c2.downsample.proj."),
    (r"^patch_embed\.norm\.", "body.c2.downsample.norm."),
    # Their patches are merged at the end of a stage, ours at the start of the next. The authors of Swin
    # say `layers` where OpenMMLab says `stages`.
    (r"^(?:stages|layers)\.(\d)\.downsample\.", lambda found: f"body.c{int(found[1]) + 3}.downsample."),
    (r"^(?:stages|layers)\.(\d)\.", lambda found: f"body.c{int(found[1]) + 2}."),
    (r"^norm(\d)\.", lambda found: f"norms.c{int(found[1]) + 2}."),
    (r"\.attn\.(?:w_msa\.)?", ".attention.attention."),
    (r"\.ffn\.layers\.0\.0\.", ".ffn.fc1."),
    (r"\.ffn\.layers\.1\.", ".ffn.fc2."),
    (r"\.mlp\.", ".ffn."),
)


def rename_vit(
    names: tuple[tuple[str, str], ...], state_dict: Mapping[str, Tensor], prefix: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The plain ViT in the state dict of a network for dense prediction.

    Args:
        names: theirs without the prefix, as regular expressions, and timm's, in the order of application;
            none where they are the same.
        state_dict: of the network.
        prefix: of the names of the ViT.

    Returns:
        Arguments of `make_token_encoder`, and the weights of `TokenEncoder` with names that begin with
        "encoder.".

    Raises:
        ValueError: if there is no ViT with patches of 16 pixels in one of the published sizes.
    """
    weights = {}
    for key, tensor in state_dict.items():
        if key.startswith(prefix):
            key = key.removeprefix(prefix)
            for theirs, ours in names:
                key = re.sub(theirs, ours, key)
            weights[f"encoder.body.{key}"] = tensor
    try:
        _, positions, d = weights["encoder.body.pos_embed"].shape
        filters = weights["encoder.body.patch_embed.proj.weight"]
    except KeyError as error:
        raise ValueError(f"state_dict holds no plain ViT: {error} is missing") from error
    depth = len({key.split(".")[3] for key in weights if key.startswith("encoder.body.blocks.")})
    name = _DISTILLED.get(d) if "encoder.body.dist_token" in weights else _VITS.get((d, depth))
    if name is None or filters.shape[2:] != (16, 16):
        patch = " x ".join(map(str, filters.shape[2:]))
        sizes = f"{d} channels, {depth} blocks and patches of {patch} pixels"
        raise ValueError(f"state_dict is that of no published ViT: it has {sizes}")
    image_size = 16 * isqrt(positions)
    return {"encoder": name, "in_channels": filters.shape[1], "image_size": image_size}, weights


def read_mmseg_vit(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The plain ViT in a state dict of mmsegmentation; see `rename_vit`.

    Raises:
        ValueError: if it holds no such ViT.
    """
    return rename_vit(_VIT_RENAMES, state_dict, _PREFIX)


def imagenet_normalize(in_channels: int) -> dict[str, Tensor]:
    """Mean and standard deviation of ImageNet as weights of an encoder; none for images that are not RGB."""
    if in_channels != len(IMAGENET_MEAN):
        return {}
    state = Normalize(IMAGENET_MEAN, IMAGENET_STD).state_dict()
    return {f"encoder.normalize.{key}": tensor for key, tensor in state.items()}


def read_mmseg_swin(
    state_dict: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], int, tuple[int, ...], int]:
    """The Swin Transformer in a state dict of mmsegmentation, or of the code of Swin's authors.

    OpenMMLab merges patches channel by channel, the authors and we pixel by pixel: weights are reordered.

    Returns:
        The weights of `SwinTransformer`, the heads of its first stage, the blocks of each, and its window.

    Raises:
        ValueError: if it holds no Swin Transformer.
    """
    by_channel = any(key.startswith(f"{_PREFIX}stages.") for key in state_dict)
    weights = {}
    for key, tensor in state_dict.items():
        if not key.startswith(_PREFIX) or key.endswith(("relative_position_index", "attn_mask")):
            continue
        key = key.removeprefix(_PREFIX)
        for theirs, ours in _SWIN_RENAMES:
            key = re.sub(theirs, ours, key)
        if by_channel and re.match(r"body\.c[3-5]\.downsample\.", key):
            tensor = _pixel_by_pixel(tensor)
        weights[key] = tensor
    return weights, *swin_sizes(weights)


def _pixel_by_pixel(x: Tensor) -> Tensor:
    """Merged patches along the last axis: (channel, row, column) becomes (column, row, channel)."""
    return x.unflatten(-1, (-1, 2, 2)).transpose(-3, -1).flatten(-3)


_RESNETS: Mapping[tuple[int, ...], str] = {
    (3, 4, 6, 3): "resnet50",
    (3, 4, 23, 3): "resnet101",
    (3, 8, 36, 3): "resnet152",
}
_BASIC_RESNETS: Mapping[tuple[int, ...], str] = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet34"}


def read_mmseg_resnet(state_dict: Mapping[str, Tensor]) -> tuple[str, int, dict[str, Tensor]]:
    """The ResNet in a state dict of mmsegmentation.

    Returns:
        Its name for `make_encoder` (resnet50c starts with three 3x3 convolutions), the channels of the image,
        and its weights with names that begin with "encoder.body.".

    Raises:
        ValueError: if there is no ResNet of a published size.
    """
    weights = {}
    for key, tensor in state_dict.items():
        if key.startswith(_PREFIX):
            block, _, rest = key.removeprefix(_PREFIX).partition(".")
            if block == "stem":
                position, _, rest = rest.partition(".")
                block = DEEP_STEM.get(position, position)
            weights[f"encoder.body.{block}.{rest}"] = tensor
    deep = "encoder.body.conv1.0.weight" in weights
    first = weights.get(f"encoder.body.conv1.{'0.' if deep else ''}weight")
    if first is None:
        raise ValueError("state_dict holds no ResNet: its first convolution is missing")
    depths = tuple(
        len({key.split(".")[3] for key in weights if key.startswith(f"encoder.body.layer{i}.")})
        for i in (1, 2, 3, 4)
    )
    sizes = _RESNETS if "encoder.body.layer1.0.conv3.weight" in weights else _BASIC_RESNETS
    name = sizes.get(depths)
    if name is None or (deep and sizes is _BASIC_RESNETS):
        blocks = ", ".join(map(str, depths))
        stem = "three convolutions" if deep else "one convolution"
        raise ValueError(f"state_dict holds no ResNet that is known: {blocks} blocks behind {stem}")
    return name + ("c" if deep else ""), first.shape[1], weights
