"""DPT: tokens of a vision transformer are reassembled into maps of four scales and fused as in RefineNet.

Reassembling (Sec. 3.1, Fig. 1 centre) joins the class token to every patch, puts the patches back to their
places and resamples them to strides 4, 8, 16 and 32. Fusion blocks (Fig. 1 right) take them from coarse to
fine, each doubling the resolution. `dpt_hybrid` takes its two finest maps from the ResNet that embeds the
patches. A second classifier reads the fusion before the last while training (Sec. 4.2; its weight is 0.2).

`from_transformers_dpt` reads the weights of transformers' `DPTForSemanticSegmentation`, into which the
authors' (github.com/isl-org/DPT) were converted.

Departures: the residual unit that the authors' coarsest fusion block stores but never uses is left out. Maps
of a grid with an odd number of patches are resized to the size of the map that they are added to, as in
transformers; the authors take multiples of 32 pixels alone.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import StemPolicy, TokenEncoder, make_token_encoder
from ..layers import BatchNorm2d, ConvNormAct, enlarge, resize_like, size_of, without_padding
from ..types import BuiltBy, DenseLogits, DenseModel, Paper, Tokens

PAPER = Paper(
    "Vision Transformers for Dense Prediction",
    "Ranftl, Bochkovskiy, Koltun",
    "ICCV",
    2021,
    "https://arxiv.org/abs/2103.13413",
)

QUARTERS = (1 / 4, 2 / 4, 3 / 4, 1)


class Reassemble(nn.Module):
    """Tokens of one layer -> a map (Sec. 3.1: read, concatenate, resample).

    Args:
        d: channels of the tokens.
        c: channels of the map.
        layer: which of the given layers: the first two are upsampled by 4 and 2, the last is halved.
    """

    def __init__(self, d: int, c: int, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.readout = nn.Sequential(nn.Linear(2 * d, d), nn.GELU())
        self.project = nn.Conv2d(d, c, 1)
        self.resample: nn.Module
        if layer < 2:
            factor = 4 >> layer
            self.resample = nn.ConvTranspose2d(c, c, factor, stride=factor)
        else:
            self.resample = nn.Identity() if layer == 2 else nn.Conv2d(c, c, 3, stride=2, padding=1)

    def forward(self, tokens: Tokens) -> Float[Tensor, "b c _ _"]:
        """The map."""
        patches = tokens.patches(self.layer)
        whole = tokens.class_tokens(self.layer)[:, :1].expand_as(patches)
        x = self.readout(torch.cat([patches, whole], dim=2)).transpose(1, 2).contiguous()
        map: Tensor = self.resample(self.project(x.unflatten(2, tokens.grid)))
        return map


class ResidualConvUnit(nn.Module):
    """Residual convolution unit of RefineNet, here with batch norm.

    Args:
        c: channels of input and output.
    """

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.norm1 = BatchNorm2d(c)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.norm2 = BatchNorm2d(c)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Add what two convolutions, each behind a ReLU, find."""
        inner = self.norm1(self.conv1(x.relu()))
        refined: Tensor = x + self.norm2(self.conv2(inner.relu()))
        return refined


class Fusion(nn.Module):
    """Fusion block (Fig. 1 right): add a map of the encoder, refine, double the resolution.

    Args:
        c: channels of input and output.
        lowest: whether there is nothing to add, as in the first block.
    """

    def __init__(self, c: int, *, lowest: bool = False) -> None:
        super().__init__()
        self.adapt = None if lowest else ResidualConvUnit(c)
        self.refine = ResidualConvUnit(c)
        self.project = nn.Conv2d(c, c, 1)

    def forward(
        self, x: Float[Tensor, "b c h w"], map: Float[Tensor, "b c _ _"] | None = None
    ) -> Float[Tensor, "b c _ _"]:
        """Fuse `x`, from the block before, with a map of the encoder."""
        if self.adapt is not None and map is not None:
            x = x + self.adapt(resize_like(map, x))
        fused: Tensor = self.project(enlarge(self.refine(x), 2, align_corners=True))
        return fused


class DPT(DenseModel):
    """ViT, reassembled maps, four fusion blocks, a head at stride 2.

    Args:
        encoder: gives four layers and a class token; maps of convolutional stages take the place of the
            first layers.
        num_classes: number of channels k of the logits.
        channels: of the reassembled maps, finest first; None for d/4, d/2, d and d of the encoder, or those
            of its convolutional stages.
        width: channels of the fusion.
        aux: whether to train with a second classifier.

    Raises:
        ValueError: if the encoder has no class token, or `channels` are not four.
    """

    def __init__(
        self,
        encoder: TokenEncoder,
        num_classes: int,
        *,
        channels: Sequence[int] | None = None,
        width: int = 256,
        aux: bool = True,
    ) -> None:
        super().__init__()
        if not encoder.num_class_tokens:
            raise ValueError("DPT reads the class token: the encoder has none")
        d = encoder.channels
        of_stages = encoder.map_channels[:2]
        channels = (d // 4, d // 2, d, d) if channels is None else tuple(channels)
        if len(channels) != 4:
            raise ValueError(f"channels must be those of four maps, got {len(channels)}")
        channels = (*of_stages, *channels[len(of_stages) :])
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.minimum_size = max(self.minimum_size, encoder.patch_size)
        self.encoder = encoder
        self.reassemble = nn.ModuleList(Reassemble(d, channels[i], i) for i in range(len(of_stages), 4))
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 3, padding=1, bias=False) for c in channels)
        self.fusions = nn.ModuleList(Fusion(width, lowest=i == 0) for i in range(4))
        self.head = dense_head(width, num_classes)
        self.aux_head = dense_head(width, num_classes) if aux else None

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        padded = self.encoder.padded(size)
        tokens = self.encoder(image)
        maps = [*tokens.maps[:2], *(block(tokens) for block in self.reassemble)]  # strides 4, 8, 16, 32
        f4, f8, f16, f32 = (lateral(map) for lateral, map in zip(self.laterals, maps, strict=True))
        x = self.fusions[0](f32)
        x = self.fusions[1](x, f16)
        before = self.fusions[2](x, f8)
        coarse = self.head(self.fusions[3](before, f4))  # b k H/2 W/2
        coarse = without_padding(coarse, size, padded, align_corners=True)
        if self.aux_head is None or not self.training:
            return DenseLogits(coarse, size, align_corners=True)
        aux = without_padding(self.aux_head(before), size, padded, align_corners=True)
        return DenseLogits(coarse, size, aux=(aux,), align_corners=True)


def dense_head(c: int, num_classes: int) -> nn.Sequential:
    """3x3 convolution, dropout, classifier; its resize is left to the output."""
    return nn.Sequential(ConvNormAct(c, c), nn.Dropout(0.1), nn.Conv2d(c, num_classes, 1))


def dpt(
    num_classes: int,
    *,
    encoder: str | TokenEncoder = "vit_base_patch16_384",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    image_size: int | None = None,
    channels: Sequence[int] | None = None,
    width: int = 256,
    aux: bool = True,
) -> DPT:
    """DPT on any plain ViT that has a class token."""
    made = make_token_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        depths=QUARTERS,
        norm=False,
        interpolation="bilinear",
        image_size=image_size,
    )
    return DPT(made, num_classes, channels=channels, width=width, aux=aux)


def dpt_large(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    aux: bool = True,
) -> DPT:
    """DPT-Large: ViT-Large with patches of 16 pixels."""
    return dpt(
        num_classes,
        encoder="vit_large_patch16_384",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        aux=aux,
    )


def dpt_hybrid(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    aux: bool = True,
) -> DPT:
    """DPT-Hybrid: ViT-Base on the maps of a ResNet-50."""
    return dpt(
        num_classes,
        encoder="vit_base_r50_s16_384",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        aux=aux,
    )


# --- from the state dicts of transformers ---------------------------------------------------------

# The encoders by channels and number of blocks, and whether a ResNet embeds the patches.
_ENCODERS = {
    (32, 4, False): "tiny",
    (192, 12, False): "vit_tiny_patch16_384",
    (384, 12, False): "vit_small_patch16_384",
    (768, 12, False): "vit_base_patch16_384",
    (1024, 24, False): "vit_large_patch16_384",
    (768, 12, True): "vit_base_r50_s16_384",
}
_NAMES = (  # theirs, as regular expressions, and ours
    (r"^dpt\.embeddings\.cls_token", "encoder.body.cls_token"),
    (r"^dpt\.embeddings\.position_embeddings", "encoder.body.pos_embed"),
    (r"^dpt\.embeddings\.(patch_embeddings\.)?projection\.", "encoder.body.patch_embed.proj."),
    (r"^dpt\.embeddings\.backbone\.bit\.", "encoder.body.patch_embed.backbone."),
    (r"\.backbone\.embedder\.convolution\.", ".backbone.stem.conv."),
    (r"\.backbone\.embedder\.norm\.", ".backbone.stem.norm."),
    (r"\.backbone\.encoder\.stages\.(\d)\.layers\.", r".backbone.stages.\1.blocks."),
    (r"^dpt\.encoder\.layer\.", "encoder.body.blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(\.blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"^neck\.reassemble_stage\.readout_projects\.(\d)\.0\.", r"reassemble.\1.readout.0."),
    (r"^neck\.reassemble_stage\.layers\.(\d)\.projection\.", r"reassemble.\1.project."),
    (r"^neck\.reassemble_stage\.layers\.(\d)\.resize\.", r"reassemble.\1.resample."),
    (r"^neck\.convs\.", "laterals."),
    (r"^neck\.fusion_stage\.layers\.", "fusions."),
    (r"\.residual_layer1\.", ".adapt."),
    (r"\.residual_layer2\.", ".refine."),
    (r"^(fusions\.\d)\.projection\.", r"\1.project."),
    (r"\.convolution([12])\.", r".conv\1."),
    (r"\.batch_norm([12])\.", r".norm\1."),
    (r"^head\.head\.([01])\.", r"head.0.\1."),
    (r"^head\.head\.4\.", "head.2."),
    (r"^auxiliary_head\.head\.([01])\.", r"aux_head.0.\1."),
    (r"^auxiliary_head\.head\.4\.", "aux_head.2."),
)


def from_transformers_dpt(state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> DPT:
    """Weights of transformers' `DPTForSemanticSegmentation` in our model, with equal logits, in eval mode.

    The auxiliary classifier, which reads the last fusion there, is carried over to the fusion before it.

    Args:
        state_dict: of a model, or of a file of the hub, such as Intel/dpt-large-ade.
        config: its configuration, as `config.json` or `model.config.to_dict()` holds it, to be held against
            what is read from the weights; None where it is not at hand.

    Raises:
        ValueError: if it is none of the ViTs of the paper, or of another kind of readout or fusion.
    """
    try:
        weights = _renamed(state_dict)
        hybrid = "encoder.body.patch_embed.backbone.stem.conv.weight" in weights
        first = "backbone.stem.conv.weight" if hybrid else "proj.weight"
        positions = weights["encoder.body.pos_embed"]
        num_blocks = sum(key.endswith(".attn.qkv.weight") for key in weights)
        arguments: dict[str, Any] = {
            "num_classes": len(weights["head.2.bias"]),
            "encoder": _ENCODERS[positions.shape[2], num_blocks, hybrid],
            "in_channels": weights[f"encoder.body.patch_embed.{first}"].shape[1],
            "image_size": 16 * math.isqrt(positions.shape[1] - 1),
            "channels": [weights[f"laterals.{i}.weight"].shape[1] for i in range(4)],
            "width": len(weights["laterals.0.weight"]),
            "aux": "aux_head.2.bias" in weights,
        }
        model = dpt(**arguments)
        own = {key: tensor for key, tensor in model.state_dict().items() if ".normalize." in key}
        model.load_state_dict(weights | own)
    except (KeyError, RuntimeError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"state_dict is not that of a DPT of transformers: {problem}") from error
    wanted = {
        "num_attention_heads": model.encoder.num_heads,
        "readout_type": "project",
        "hidden_act": "gelu",
    }
    for key, ours in wanted.items():
        if (theirs := (config or {}).get(key, ours)) != ours:
            raise ValueError(f"config must have {key} {ours!r} for this network, got {theirs!r}")
    model.built_by = BuiltBy("dpt", arguments)
    return model.eval()


def _renamed(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of transformers by our names: those of attention joined, those that are never used left out."""
    weights: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        if key.startswith(("dpt.layernorm.", "dpt.pooler.", "neck.fusion_stage.layers.0.residual_layer1.")):
            continue
        if ".attention.attention.key." in key or ".attention.attention.value." in key:
            continue
        if ".attention.attention.query." in key:
            parts = [state_dict[key.replace(".query.", f".{part}.")] for part in ("query", "key", "value")]
            key, tensor = key.replace(".attention.attention.query.", ".attn.qkv."), torch.cat(parts)
        for theirs, ours in _NAMES:
            key = re.sub(theirs, ours, key)
        weights[key] = tensor
    # Where a ResNet gives the first two maps, only the others are reassembled.
    if "reassemble.0.project.weight" not in weights:
        moved = {key: key.replace("reassemble.2.", "reassemble.0.") for key in weights}
        moved = {key: new.replace("reassemble.3.", "reassemble.1.") for key, new in moved.items()}
        weights = {moved[key]: tensor for key, tensor in weights.items()}
    return weights
