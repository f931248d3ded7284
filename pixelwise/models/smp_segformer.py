"""SegFormer as in the library Segmentation Models PyTorch (SMP), for those who have trained with it.

SMP's decoder has 256 channels for every encoder, and reads the map of stride 2 too where the encoder has one.
With a MiT this is the SegFormer of the paper (`segformer.py`) but for its last resizing, with the corners
aligned; `from_smp_segformer` reads the files
smp-hub/segformer-* of the Hugging Face hub.

Departures: images are normalised inside, as SMP's preprocessing does, and may have any size.
"""

import re

from torch import Tensor

from ..encoders import Encoder, StemPolicy, make_encoder
from ..types import BuiltBy, Paper
from .segformer import SegFormer
from .smp import Names, load_smp_weights, smp_arguments

PAPER = Paper(
    "Segmentation Models PyTorch, version 0.4",
    "Iakubovskii",
    "GitHub",
    2025,
    "https://github.com/qubvel-org/segmentation_models.pytorch",
)


def smp_segformer(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet34",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
) -> SegFormer:
    """SMP's SegFormer on any encoder; `width` is that of the decoder."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem)
    return SegFormer(made, num_classes, width=width, align_corners=True)


_DECODER: Names = (
    # Their linear layers stand in the order of coarse to fine.
    (r"^decoder\.mlp_stage\.(\d)\.linear\.", lambda match: f"project.c{5 - int(match[1])}."),
    (r"^decoder\.fuse_stage\.", "fuse."),
    (r"^head\.", "head.1."),
)
_MIT: Names = (
    (r"^encoder\.body\.patch_embed([1-4])\.proj\.", r"stage\1.embed."),
    (r"^encoder\.body\.patch_embed([1-4])\.norm\.", r"stage\1.embed_norm."),
    (r"^encoder\.body\.block([1-4])\.", r"stage\1.blocks."),
    (r"^encoder\.body\.norm([1-4])\.", r"stage\1.norm."),
    (r"^stage(\d)\.", lambda match: f"encoder.body.c{int(match[1]) + 1}."),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.dwconv\.dwconv\.", ".ffn.dwconv."),
    (r"\.mlp\.", ".ffn."),
)


def from_smp_segformer(state_dict: dict[str, Tensor], *, encoder: str) -> SegFormer:
    """A network trained as `Segformer` of SMP, with equal logits, in eval mode.

    Args:
        state_dict: `smp_model.state_dict()`.
        encoder: `encoder_name` as given to SMP: "mit_b0" to "mit_b5", or one that `from_smp` takes.

    Raises:
        ValueError: if the encoder is not supported, or the weights do not fit.
    """
    of_mit = re.fullmatch(r"mit_b[0-5]", encoder) is not None
    # A name of timm's is not looked up there.
    arguments = smp_arguments(state_dict, f"tu-{encoder}" if of_mit else encoder)
    fused = state_dict.get("decoder.fuse_stage.0.weight")
    arguments["width"] = 256 if fused is None else len(fused)
    model = smp_segformer(**arguments)
    names = (*_MIT, *_DECODER) if of_mit else _DECODER
    weights = {  # a linear layer of the decoder is a 1x1 convolution here
        key: x[..., None, None] if re.search(r"^decoder\..*\.linear\.weight$", key) else x
        for key, x in state_dict.items()
    }
    load_smp_weights(model, weights, names, f"Segformer with {encoder!r}")
    model.built_by = BuiltBy("smp_segformer", arguments)
    return model
