"""Published weights of DETR under our names: the authors' files, and those of transformers."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ...encoders import fold_frozen_norms, rename_transformers_encoder
from ...types import BuiltBy
from .network import DETR, detr, detr_resnet50_dc5
from .panoptic import DETRPanoptic, detr_panoptic

_EPSILON = 1e-5  # of the frozen norms
_RESNETS = {6: "resnet50", 23: "resnet101"}  # by the blocks of c4
_THREE = {"0": "0", "1": "2", "2": "4"}  # linear layers of a perceptron
_BACKBONES = (  # with the names of timm
    r"^backbone\.0\.body\.",
    r"^model\.backbone\.conv_encoder\.model\.(?!embedder|encoder)",
    r"^model\.backbone\.model\.(?!embedder|encoder)",
)
# The authors' names, and those of transformers in versions 4 and 5.
_RENAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^(?:input_proj|model\.input_projection)\.", "input."),
    (r"^(?:query_embed|model\.query_position_embeddings)\.weight", "queries"),
    (r"^(?:class_embed|class_labels_classifier)\.", "classes."),
    (r"^(?:bbox_embed|bbox_predictor)\.layers\.(\d)\.", r"boxes.<\1>."),
    (r"^(?:transformer\.decoder\.norm|model\.decoder\.layernorm)\.", "norm."),
    (r"^(?:transformer|model)\.encoder\.layers\.(\d+)\.self_attn\.", r"encoder_layers.\1.attention."),
    (r"^(?:transformer|model)\.encoder\.layers\.", "encoder_layers."),
    (r"^(?:transformer|model)\.decoder\.layers\.", "layers."),
    (r"\.self_attn\.", ".self_attention."),
    (r"\.(?:multihead_attn|encoder_attn)\.", ".cross_attention."),
    (r"\.(?:linear1|(?:mlp\.)?fc1)\.", ".feed_forward.0."),
    (r"\.(?:linear2|(?:mlp\.)?fc2)\.", ".feed_forward.3."),
    (r"\.(?:norm1|self_attn_layer_norm)\.", ".norms.0."),
    (r"(?<!encoder_)(layers\.\d+)\.(?:norm2|encoder_attn_layer_norm)\.", r"\1.norms.1."),
    (r"(?<!encoder_)(layers\.\d+)\.(?:norm3|final_layer_norm)\.", r"\1.norms.2."),
    (r"\.(?:norm2|final_layer_norm)\.", ".norms.1."),
    (r"^bbox_attention\.([qk])_(?:linear|proj)\.", r"attention_maps.<\1>."),
    (r"\.([qkv])_proj\.", r".<\1>."),
    (r"\.(?:out_proj|o_proj)\.", ".out."),
    (r"^mask_head\.(?:output_conv|out_lay)\.", "mask_head.out."),
    (r"^mask_head\.adapter(\d)\.", lambda found: f"mask_head.adapters.{int(found[1]) - 1}."),
    (r"^mask_head\.fpn_stages\.(\d)\.fpn_adapter\.", r"mask_head.adapters.\1."),
    (r"^mask_head\.lay(\d)\.", lambda found: f"mask_head.blocks.{int(found[1]) - 1}.0."),
    (r"^mask_head\.gn(\d)\.", lambda found: f"mask_head.blocks.{int(found[1]) - 1}.1."),
    (r"^mask_head\.conv(\d)\.", lambda found: f"mask_head.blocks.{int(found[1]) - 1}."),
    (r"^mask_head\.fpn_stages\.(\d)\.refine\.", lambda found: f"mask_head.blocks.{int(found[1]) + 2}."),
    (r"^(mask_head\.blocks\.\d)\.conv\.", r"\1.0."),
    (r"^(mask_head\.blocks\.\d)\.norm\.", r"\1.1."),
)
_LETTERS = {"q": "query", "k": "key", "v": "value"}


def from_detr(state_dict: Mapping[str, Tensor], *, dilated: bool = False) -> DETR | DETRPanoptic:
    """Weights of the authors, `detr-r50-e632da11.pth` and its kin, in our model, in eval mode.

    Args:
        state_dict: what the file has under "model". "No object" is the last of its classes; the 91 numbers
            of COCO's categories, with gaps, are its classes, 250 those of the panoptic models.
        dilated: whether it is a DC5 model, which the weights do not tell; only `detr-r50-dc5` can be read.

    Raises:
        ValueError: if it is no DETR on ResNet-50 or ResNet-101.
    """
    return _loaded(state_dict, dilated)


def from_transformers_detr(
    state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None
) -> DETR | DETRPanoptic:
    """Weights of transformers' `DetrForObjectDetection` or `DetrForSegmentation`, in eval mode.

    Args:
        state_dict: as published or trained further, with the names of version 4 or 5.
        config: tells whether the last stage is dilated; not dilated without it.

    Raises:
        ValueError: if it is none of these.
    """
    return _loaded(state_dict, bool((config or {}).get("dilation")))


def _loaded(state_dict: Mapping[str, Tensor], dilated: bool) -> DETR | DETRPanoptic:
    weights = {key.removeprefix("detr."): x for key, x in state_dict.items()}
    panoptic = any(key.startswith("mask_head.") for key in weights)
    try:
        name, renamed = _renamed(weights)
        layers = {key.split(".")[1] for key in renamed if key.startswith("layers.")}
        queries, width = renamed["queries"].shape
        arguments: dict[str, Any] = {"num_classes": len(renamed["classes.bias"]) - 1, "encoder": name}
        arguments |= {"width": width, "num_queries": queries, "blocks": len(layers)}
        builder: Callable[..., DETR | DETRPanoptic] = detr_panoptic if panoptic else detr
        if dilated and (panoptic or name != "resnet50"):
            raise ValueError("of the dilated DETRs (DC5) only the one for boxes on ResNet-50 can be read")
        if dilated:
            builder, arguments = detr_resnet50_dc5, {"num_classes": arguments["num_classes"]}
        model = builder(**arguments)
        own = {key: x for key, x in model.state_dict().items() if "encoder.normalize." in key}
        model.load_state_dict(renamed | own)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is no DETR: {error}") from error
    model.built_by = BuiltBy(builder.__name__, arguments)
    return model.eval()


def _renamed(weights: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """The name of the encoder, and all weights under our names."""
    renamed: dict[str, Tensor] = {}
    name = ""
    for prefix in ("model.backbone.conv_encoder.model.", "model.backbone.model."):
        if f"{prefix}embedder.embedder.convolution.weight" in weights:
            name, renamed = rename_transformers_encoder(weights, prefix)
            weights = {key: x for key, x in weights.items() if not key.startswith(prefix)}
    for key, tensor in weights.items():
        ours = key
        for backbone in _BACKBONES:
            ours = re.sub(backbone, "encoder.body.", ours)
        if ours == key:
            for theirs, replacement in _RENAMES:
                ours = re.sub(theirs, replacement, ours)
            ours = re.sub(r"<(\d)>", lambda found: _THREE[found[1]], ours)
            ours = re.sub(r"<([qkv])>", lambda found: _LETTERS[found[1]], ours)
        if ".in_proj_" in ours:
            stem, kind = ours.split(".in_proj_")
            for part, own in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[f"{stem}.{part}.{kind}"] = own
        else:
            renamed[ours] = tensor
    if not name:
        blocks = len({key.split(".")[3] for key in renamed if key.startswith("encoder.body.layer3.")})
        name = _RESNETS[blocks]
    return name, fold_frozen_norms(renamed, _EPSILON)
