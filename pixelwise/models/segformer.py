"""SegFormer: a pyramid of transformer blocks, and a decoder of linear layers only.

The encoder (MiT, `encoders/mit.py`) needs no positions. Its deep stages already see far, so the decoder has
nothing to add but to bring all stages together (Fig. 2, Eq. 4): a linear layer gives each the same channels,
all are resized to stride 4 and concatenated, the coarsest first; a 1x1 convolution with batch norm and ReLU
fuses them, and another one classifies.

The decoder takes the maps of any encoder. `from_transformers_segformer`, `from_nvlabs` (the authors'),
`from_mmseg_segformer` and `from_smp` read published weights. OpenMMLab's decoder differs: each linear layer
is followed by batch norm and ReLU (`normed`), and it has 256 channels in all sizes.

Departures: maps are neither resized before they are fused nor concatenated. The 1x1 convolution that fuses
them is linear, as resizing is, so each map passes its part of it at its own size, and what comes out is
resized and added up: the same at half of the cost and a fifth of the memory. Layer norms within the blocks
have the authors' epsilon, 1e-6.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import MIT_SIZES, Encoder, StemPolicy, make_encoder
from ..layers import BatchNorm2d, ConvNormAct, resize_like, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper
from .hrnet import count

PAPER = Paper(
    "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
    "Xie, Wang, Yu, Anandkumar, Alvarez, Luo",
    "NeurIPS",
    2021,
    "https://arxiv.org/abs/2105.15203",
)

STAGES = ("c2", "c3", "c4", "c5")


class SegFormer(DenseModel):
    """Encoder and all-linear decoder.

    Args:
        encoder: gives c2 and coarser maps; all that it gives are used, at the size of c2.
        num_classes: number of channels k of the logits.
        width: channels of each map in the decoder; 256 for B0 and B1, 768 for the others.
        normed: whether batch norm and ReLU follow the linear layer of each map, as OpenMMLab has it.
        align_corners: whether logits are resized to the image with corners aligned, as SMP does.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        width: int = 256,
        normed: bool = False,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder, self.align_corners = encoder, align_corners
        channels = {stage: getattr(encoder.channels, stage) for stage in encoder.stages}
        self.project = nn.ModuleDict(
            {s: ConvNormAct(c, width, 1) if normed else nn.Conv2d(c, width, 1) for s, c in channels.items()}
        )
        self.fuse = nn.Sequential(
            nn.Conv2d(len(channels) * width, width, 1, bias=False), BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.head = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(width, num_classes, 1))

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        convolution, norm, activation = self.fuse
        assert isinstance(convolution, nn.Conv2d)
        parts = convolution.weight.chunk(len(self.project), 1)
        weights = dict(zip(reversed(self.encoder.stages), parts, strict=True))
        maps = {s: F.conv2d(self.project[s](features[s]), weight) for s, weight in weights.items()}
        fused = maps.pop("c2")
        for coarser in maps.values():
            fused += resize_like(coarser, fused)
        coarse = self.head(activation(norm(fused)))  # b k H/4 W/4
        return DenseLogits(coarse, size, align_corners=self.align_corners)


# --- builders -------------------------------------------------------------------------------------


def segformer(
    num_classes: int,
    *,
    encoder: str | Encoder = "mit_b2",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 768,
    normed: bool = False,
) -> SegFormer:
    """SegFormer's decoder on any encoder; for `width` and `normed` see `SegFormer`."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return SegFormer(made, num_classes, width=width, normed=normed)


def segformer_b0(num_classes: int, *, in_channels: int = 3) -> SegFormer:
    """SegFormer-B0: 3.8 million parameters."""
    return segformer(num_classes, encoder="mit_b0", in_channels=in_channels, width=256)


def segformer_b1(num_classes: int, *, in_channels: int = 3) -> SegFormer:
    """SegFormer-B1: 13.7 million parameters."""
    return segformer(num_classes, encoder="mit_b1", in_channels=in_channels, width=256)


def segformer_b2(num_classes: int, *, in_channels: int = 3) -> SegFormer:
    """SegFormer-B2: 27.5 million parameters."""
    return segformer(num_classes, encoder="mit_b2", in_channels=in_channels, width=768)


def segformer_b3(num_classes: int, *, in_channels: int = 3) -> SegFormer:
    """SegFormer-B3: 47.3 million parameters."""
    return segformer(num_classes, encoder="mit_b3", in_channels=in_channels, width=768)


def segformer_b4(num_classes: int, *, in_channels: int = 3) -> SegFormer:
    """SegFormer-B4: 64.1 million parameters."""
    return segformer(num_classes, encoder="mit_b4", in_channels=in_channels, width=768)


def segformer_b5(num_classes: int, *, in_channels: int = 3) -> SegFormer:
    """SegFormer-B5: 84.7 million parameters."""
    return segformer(num_classes, encoder="mit_b5", in_channels=in_channels, width=768)


# --- weights --------------------------------------------------------------------------------------

Names = tuple[tuple[str, str], ...]  # theirs, as regular expressions, and ours

# Version 4 of transformers, whose names the files on the hub have, and version 5.
_TRANSFORMERS: Names = (
    (r"^segformer\.encoder\.patch_embeddings\.(\d)\.proj\.", r"stage\1.embed."),
    (r"^segformer\.encoder\.patch_embeddings\.(\d)\.layer_norm\.", r"stage\1.embed_norm."),
    (r"^segformer\.encoder\.layer_norm\.(\d)\.", r"stage\1.norm."),
    (r"^segformer\.encoder\.block\.(\d)\.", r"stage\1.blocks."),
    (r"^segformer\.stages\.(\d)\.patch_embeddings\.proj\.", r"stage\1.embed."),
    (r"^segformer\.stages\.(\d)\.patch_embeddings\.layer_norm\.", r"stage\1.embed_norm."),
    (r"^segformer\.stages\.(\d)\.layer_norm\.", r"stage\1.norm."),
    (r"^segformer\.stages\.(\d)\.", r"stage\1."),
    (r"\.layer_norm_([12])\.", r".norm\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(self\.query|q_proj)\.", ".attention.q."),
    (r"\.attention\.(self\.key|k_proj)\.", ".attention.k."),
    (r"\.attention\.(self\.value|v_proj)\.", ".attention.v."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attention.proj."),
    (r"\.attention\.(self\.sr|sequence_reduction\.sequence_reduction)\.", ".attention.sr."),
    (r"\.attention\.(self|sequence_reduction)\.layer_norm\.", ".attention.norm."),
    (r"\.mlp\.(dense|fc)([12])\.", r".ffn.fc\2."),
    (r"\.mlp\.dwconv\.dwconv\.", ".ffn.dwconv."),
    (r"^decode_head\.(linear_c|linear_projections)\.(\d)\.proj\.", r"project.stage\2."),
    (r"^decode_head\.linear_fuse\.", "fuse.0."),
    (r"^decode_head\.batch_norm\.", "fuse.1."),
    (r"^decode_head\.classifier\.", "head.1."),
)
_MMSEG: Names = (
    (r"^backbone\.layers\.(\d)\.0\.projection\.", r"stage\1.embed."),
    (r"^backbone\.layers\.(\d)\.0\.norm\.", r"stage\1.embed_norm."),
    (r"^backbone\.layers\.(\d)\.1\.", r"stage\1.blocks."),
    (r"^backbone\.layers\.(\d)\.2\.", r"stage\1.norm."),
    (r"\.attn\.attn\.in_proj_", ".attention.in_proj."),
    (r"\.attn\.attn\.out_proj\.", ".attention.proj."),
    (r"\.attn\.(sr|norm)\.", r".attention.\1."),
    (r"\.ffn\.layers\.0\.", ".ffn.fc1."),
    (r"\.ffn\.layers\.1\.", ".ffn.dwconv."),
    (r"\.ffn\.layers\.4\.", ".ffn.fc2."),
    (r"^decode_head\.convs\.(\d)\.conv\.", r"project.stage\1.0."),
    (r"^decode_head\.convs\.(\d)\.bn\.", r"project.stage\1.1."),
    (r"^decode_head\.fusion_conv\.conv\.", "fuse.0."),
    (r"^decode_head\.fusion_conv\.bn\.", "fuse.1."),
    (r"^decode_head\.conv_seg\.", "head.1."),
)
_NVLABS: Names = (
    *(
        pair
        for i in range(4)
        for pair in (
            (rf"^backbone\.patch_embed{i + 1}\.proj\.", f"stage{i}.embed."),
            (rf"^backbone\.patch_embed{i + 1}\.norm\.", f"stage{i}.embed_norm."),
            (rf"^backbone\.block{i + 1}\.", f"stage{i}.blocks."),
            (rf"^backbone\.norm{i + 1}\.", f"stage{i}.norm."),
            (rf"^decode_head\.linear_c{i + 1}\.proj\.", f"project.stage{i}."),
        )
    ),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.dwconv\.dwconv\.", ".ffn.dwconv."),
    (r"\.mlp\.", ".ffn."),
    (r"^decode_head\.linear_fuse\.conv\.", "fuse.0."),
    (r"^decode_head\.linear_fuse\.bn\.", "fuse.1."),
    (r"^decode_head\.linear_pred\.", "head.1."),
)


def from_transformers_segformer(
    state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None
) -> SegFormer:
    """Weights of transformers' SegformerForSemanticSegmentation, in eval mode.

    Args:
        state_dict: of a model, or of a file of the hub, such as nvidia/segformer-b0-finetuned-ade-512-512.
        config: not needed; classes and size are read from the weights.

    Raises:
        ValueError: if it is not a state dict of that network in one of the published sizes.
    """
    return _converted(state_dict, _TRANSFORMERS, normed=False)


def from_mmseg_segformer(state_dict: Mapping[str, Tensor]) -> SegFormer:
    """Weights of OpenMMLab's SegFormer (github.com/open-mmlab/mmsegmentation), in eval mode.

    Args:
        state_dict: what a file of theirs holds under `state_dict`.

    Raises:
        ValueError: if it is not a state dict of that network in one of the published sizes.
    """
    return _converted(state_dict, _MMSEG, normed=True)


def from_nvlabs(state_dict: Mapping[str, Tensor]) -> SegFormer:
    """Weights of the authors' SegFormer (github.com/NVlabs/SegFormer), in eval mode.

    Args:
        state_dict: what a file of theirs holds under `state_dict`.

    Raises:
        ValueError: if it is not a state dict of that network in one of the published sizes.
    """
    used = {key: tensor for key, tensor in state_dict.items() if not key.startswith("decode_head.conv_seg.")}
    return _converted(used, _NVLABS, normed=False)


def _converted(state_dict: Mapping[str, Tensor], names: Names, *, normed: bool) -> SegFormer:
    weights = {}
    for key, tensor in state_dict.items():
        for theirs, ours in names:
            key = re.sub(theirs, ours, key)
        weights[re.sub(r"^stage(\d)|(?<=^project\.)stage(\d)", _stage_name, key)] = tensor
    for key in [key for key in weights if ".attention.k." in key]:
        pair = weights.pop(key), weights.pop(key.replace(".k.", ".v."))
        weights[key.replace(".k.", ".kv.")] = torch.cat(pair)
    for key in [key for key in weights if ".attention.in_proj." in key]:
        joined = weights.pop(key)
        q, kv = joined.split([len(joined) // 3, 2 * len(joined) // 3])
        weights[key.replace("in_proj", "q")], weights[key.replace("in_proj", "kv")] = q, kv
    if normed and "fuse.0.weight" in weights:  # theirs concatenates the finest map first
        weights["fuse.0.weight"] = torch.cat(weights["fuse.0.weight"].chunk(len(STAGES), 1)[::-1], 1)
    try:
        first = weights["encoder.body.c2.embed.weight"]
        depths = tuple(count(weights, f"encoder.body.{stage}.blocks.") for stage in STAGES)
        arguments: dict[str, Any] = {
            "num_classes": len(weights["head.1.weight"]),
            "encoder": next(name for name, size in MIT_SIZES.items() if size == (len(first), depths)),
            "in_channels": first.shape[1],
            "width": len(weights["fuse.0.weight"]),
            "normed": normed,
        }
    except KeyError as error:
        raise ValueError(f"state_dict is not that of a SegFormer: {error} is missing") from error
    except StopIteration:
        sizes = f"a first stage of {len(first)} channels and {depths} blocks"
        raise ValueError(f"state_dict is that of no published size of SegFormer: it has {sizes}") from None
    model = segformer(**arguments)
    own = model.state_dict()
    for key, tensor in weights.items():  # 1x1 convolutions are linear layers there or here
        if key in own and tensor.shape[:2] == own[key].shape[:2] and tensor.numel() == own[key].numel():
            weights[key] = tensor.reshape(own[key].shape)
    normalize = {key: tensor for key, tensor in own.items() if ".normalize." in key}
    try:
        model.load_state_dict({**weights, **normalize})
    except RuntimeError as error:
        raise ValueError(
            f"state_dict does not fit SegFormer: {' '.join(str(error).split())[:200]}"
        ) from error
    model.built_by = BuiltBy("segformer", arguments)
    return model.eval()


def _stage_name(match: re.Match[str]) -> str:
    """c2 to c5 for stages 0 to 3, in the encoder where the name begins with the stage."""
    of_encoder, of_decoder = match.groups()
    return f"encoder.body.{STAGES[int(of_encoder)]}" if of_encoder else STAGES[int(of_decoder)]
