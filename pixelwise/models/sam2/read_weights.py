"""Published weights of SAM 2, of its authors and of transformers."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...types import BuiltBy
from .sizes import SIZES, published
from .video_network import SAM2, Version, colors_of

Names = tuple[tuple[str, str], ...]  # theirs, as regular expressions, and ours
_OF_AUTHORS: Names = (
    (r"^image_encoder\.trunk\.patch_embed\.proj\.", "encoder.patches."),
    (r"^image_encoder\.trunk\.", "encoder."),
    (r"^(encoder\.blocks\.\d+)\.attn\.qkv\.", r"\1.qkv."),
    (r"^(encoder\.blocks\.\d+)\.attn\.proj\.", r"\1.attention_out."),
    (r"^(encoder\.blocks\.\d+)\.proj\.", r"\1.shortcut."),
    (r"^(encoder\.blocks\.\d+)\.mlp\.layers\.0\.", r"\1.perceptron.0."),
    (r"^(encoder\.blocks\.\d+)\.mlp\.layers\.1\.", r"\1.perceptron.2."),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv\.", r"neck.convs.\1."),
    (r"^memory_encoder\.mask_downsampler\.encoder\.", "memory_encoder.mask_downsampler."),
    (r"^memory_encoder\.fuser\.layers\.", "memory_encoder.fuser."),
    (r"^sam_(prompt_encoder|mask_decoder)\.", r"\1."),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale2."),
    (r"^(mask_decoder\.transformer\..*)\.mlp\.layers\.0\.", r"\1.mlp.lin1."),
    (r"^(mask_decoder\.transformer\..*)\.mlp\.layers\.1\.", r"\1.mlp.lin2."),
)
_OF_TRANSFORMERS: Names = (
    (r"^vision_encoder\.backbone\.patch_embed\.projection\.", "encoder.patches."),
    (r"^vision_encoder\.backbone\.", "encoder."),
    (r"^(encoder\.blocks\.\d+)\.layer_norm", r"\1.norm"),
    (r"^(encoder\.blocks\.\d+)\.attn\.qkv\.", r"\1.qkv."),
    (r"^(encoder\.blocks\.\d+)\.attn\.proj\.", r"\1.attention_out."),
    (r"^(encoder\.blocks\.\d+)\.proj\.", r"\1.shortcut."),
    (r"^(encoder\.blocks\.\d+)\.mlp\.proj_in\.", r"\1.perceptron.0."),
    (r"^(encoder\.blocks\.\d+)\.mlp\.proj_out\.", r"\1.perceptron.2."),
    (r"^vision_encoder\.neck\.", "neck."),
    (
        r"^shared_image_embedding\.positional_embedding$",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^mask_decoder\.upscale_conv(\d)\.", r"mask_decoder.upscale\1."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.upscale_norm."),
    (r"^(mask_decoder\.transformer\..*)\.mlp\.proj_in\.", r"\1.mlp.lin1."),
    (r"^(mask_decoder\.transformer\..*)\.mlp\.proj_out\.", r"\1.mlp.lin2."),
    (r"^mask_decoder\.transformer\.layer_norm_final_attn\.", "mask_decoder.transformer.norm_final_attn."),
    (r"^memory_encoder\.feature_projection\.", "memory_encoder.pix_feat_proj."),
    (r"^memory_encoder\.projection\.", "memory_encoder.out_proj."),
    (r"^memory_encoder\.mask_downsampler\.final_conv\.", "memory_encoder.mask_downsampler.12."),
    (r"^memory_encoder\.memory_fuser\.layers\.", "memory_encoder.fuser."),
    (r"\.depthwise_conv\.", ".dwconv."),
    (r"\.pointwise_conv(\d)\.", r".pwconv\1."),
    (r"^(memory_encoder\.fuser\.\d)\.scale$", r"\1.gamma"),
    (r"^memory_temporal_positional_encoding$", "maskmem_tpos_enc"),
    (r"^no_memory_embedding$", "no_mem_embed"),
    (r"^no_memory_positional_encoding$", "no_mem_pos_enc"),
    (r"^no_object_pointer$", "no_obj_ptr"),
    (r"^object_pointer_proj\.", "obj_ptr_proj."),
    (r"^temporal_positional_encoding_projection_layer\.", "obj_ptr_tpos_proj."),
    (r"^occlusion_spatial_embedding_parameter$", "no_obj_embed_spatial"),
    (r"\.o_proj\.", ".out_proj."),
    # Perceptrons of three layers: the first, the one between, the last.
    (r"\.layers\.0\.(weight|bias)$", r".layers.1.\1"),
    (r"\.proj_in\.", ".layers.0."),
    (r"\.proj_out\.", ".layers.2."),
    (r"\.layer_norm(\d?)\.", r".norm\1."),
)


# What a model for images lacks, and what no file holds.
_OF_VIDEOS = (
    "memory_",
    "maskmem_",
    "mask_downsample.",
    "no_mem_pos_enc",
    "no_obj_",
    "obj_ptr_",
    "normalize.",
)


def from_sam2(state_dict: Mapping[str, Tensor], image_size: int = 1024) -> SAM2:
    """Weights of the authors' `sam2` in our model, in eval mode; of SAM 2 and SAM 2.1 in their four sizes.

    Args:
        state_dict: what a file of theirs, such as sam2.1_hiera_tiny.pt, holds under `model`.
        image_size: side in pixels of the square that the encoder sees.

    Raises:
        ValueError: if it is that of another network.
    """
    return _loaded(_renamed(state_dict, _OF_AUTHORS), image_size)


def from_transformers_sam2(state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> SAM2:
    """Weights of transformers' `Sam2VideoModel` in our model, in eval mode.

    Those of `Sam2Model` lack the memory, and are for images alone: what they lack stays as it was drawn.

    Args:
        state_dict: of a model, or of a file of the hub, such as facebook/sam2.1-hiera-tiny.
        config: tells the size of the square that the encoder sees; 1024 pixels without it.

    Raises:
        ValueError: if it is that of another network.
    """
    weights: dict[str, Tensor] = {}
    for key, tensor in _renamed(state_dict, _OF_TRANSFORMERS).items():
        if key == "prompt_encoder.point_embed.weight":
            for number, row in enumerate(tensor.split(1)):
                weights[f"prompt_encoder.point_embeddings.{number}.weight"] = row
        elif layer := re.match(r"memory_encoder\.mask_downsampler\.layers\.(\d)\.(conv|norm)\.(.*)", key):
            number = 3 * int(layer[1]) + (layer[2] == "norm")
            weights[f"memory_encoder.mask_downsampler.{number}.{layer[3]}"] = tensor
        elif key != "prompt_encoder.shared_embedding.positional_embedding":  # a copy
            weights[key] = tensor
    settings = dict(config or {})
    side = settings.get("image_size") or dict(settings.get("prompt_encoder_config") or {}).get("image_size")
    return _loaded(weights, int(side or 1024))


def _renamed(state_dict: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    renamed = {}
    for key, tensor in state_dict.items():
        for theirs, ours in names:
            key = re.sub(theirs, ours, key)
        renamed[key] = tensor
    return renamed


def _loaded(weights: dict[str, Tensor], image_size: int) -> SAM2:
    try:
        width, in_channels = weights["encoder.patches.weight"].shape[:2]
        depth = len({key.split(".")[2] for key in weights if key.startswith("encoder.blocks.")})
        names = [name for name, size in SIZES.items() if (size.width, sum(size.depths)) == (width, depth)]
        if not names:
            raise ValueError(f"there is no size with {width} channels and {depth} blocks")
        version: Version = "2.1" if "obj_ptr_tpos_proj.weight" in weights else "2.0"
        own = {f"normalize.{key}": one for key, one in colors_of(in_channels).state_dict().items()}
        if "memory_attention.norm.weight" in weights:
            with torch.device("meta"):  # nothing is drawn at random
                model = published(names[0], image_size, version, in_channels)
            model = model.to_empty(device="cpu")
        else:  # of a model for images
            model = published(names[0], image_size, version, in_channels)
            own = {key: one for key, one in model.state_dict().items() if key.startswith(_OF_VIDEOS)}
        model.load_state_dict(weights | own)
    except (KeyError, RuntimeError, ValueError) as error:
        problem = " ".join(str(error).split())[:200]
        raise ValueError(f"state_dict is not that of a SAM 2: {problem}") from error
    arguments = {"image_size": image_size, "version": version, "in_channels": in_channels}
    model.built_by = BuiltBy(names[0], arguments)
    return model.eval()
