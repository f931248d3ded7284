"""Mask2Former: classification of masks with attention within the masks (Fig. 2).

Queries become classes and masks as in MaskFormer. What is new (Sec. 3.2): a query attends only to where its
mask of the layer before lies (masked attention, Eq. 2); the layers of the decoder go through the maps of
strides 32, 16 and 8 in turn; attention to the image comes before that among the queries, which start from
learned features; and the losses are computed at sampled points (`losses/mask_set.py`). The maps come from a
pixel decoder with multi-scale deformable attention (Zhu et al. 2021, Deformable DETR).

Departures: masks for the attention are computed from pixel embeddings that are resized first, which is the
same, since both steps are linear, and cheaper. Sizes follow the maps of the encoder, so any image size works.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import resize, resize_like, size_of
from ..ops import deformable_attention
from ..types import MaskLogits, MaskModel, Paper
from .detr.transformer import HEADS, HIDDEN, Attention, FeedForward, sine_positions, tokens, xavier
from .maskformer import STAGES, MaskHead, conv_norm, load_transformers

PAPER = Paper(
    "Masked-attention Mask Transformer for Universal Image Segmentation",
    "Cheng, Misra, Schwing, Kirillov, Girdhar",
    "CVPR",
    2022,
    "https://arxiv.org/abs/2112.01527",
)

LEVELS, POINTS = 3, 4  # of the deformable attention
ENCODER_HIDDEN, ENCODER_LAYERS = 1024, 6


# --- the pixel decoder (Sec. 3.1 and 4.1) ---------------------------------------------------------


@dataclass(frozen=True)
class Levels:
    """How the pixels of several maps lie in one row.

    Attributes:
        sizes: height and width of each map.
        centres: x y of each pixel, as fractions of width and height of its map.
        pixels: width and height of a pixel of each map, likewise.
    """

    sizes: list[tuple[int, int]]
    centres: Float[Tensor, "n 2"]
    pixels: Float[Tensor, "levels 2"]


class DeformableAttention(nn.Module):
    """Each pixel of each level attends to some places around its own in every level (Deformable DETR, Eq. 3).

    At first the places lie in a direction per head, one to four pixels away, and count alike.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = math.gcd(HEADS, width)
        places = self.heads * LEVELS * POINTS
        self.offsets, self.weights = nn.Linear(width, 2 * places), nn.Linear(width, places)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], 1)
        direction = direction / direction.abs().amax(1, keepdim=True)
        steps = torch.arange(1.0, POINTS + 1)[None, None, :, None].expand(-1, LEVELS, -1, -1)
        with torch.no_grad():
            self.offsets.bias.copy_((direction[:, None, None] * steps).flatten())

    def forward(
        self, asking: Float[Tensor, "b n c"], x: Float[Tensor, "b n c"], levels: Levels
    ) -> Float[Tensor, "b n c"]:
        """What is found in `x`; `asking`, the same with positions, chooses places and weights."""
        values = [map.unflatten(1, (self.heads, -1)) for map in maps_of(self.value(x), levels)]
        shape = (self.heads, LEVELS, POINTS)
        offsets = self.offsets(asking).unflatten(2, (*shape, 2)) * levels.pixels[:, None]
        weights = self.weights(asking).unflatten(2, (self.heads, -1)).softmax(3).unflatten(3, shape[1:])
        found = deformable_attention(values, levels.centres[:, None, None, None] + offsets, weights)
        mixed: Tensor = self.out(found.flatten(2))
        return mixed


class EncoderLayer(nn.Module):
    """Deformable attention and a perceptron, a norm behind each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(width)
        self.feed_forward = FeedForward(width, ENCODER_HIDDEN)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        xavier(self.feed_forward)

    def forward(
        self, x: Float[Tensor, "b n c"], places: Float[Tensor, "1 n c"], levels: Levels
    ) -> Float[Tensor, "b n c"]:
        """The pixels of all levels."""
        x = self.norms[0](x + self.attention(x + places, x, levels))
        return self.norms[1](x + self.feed_forward(x))


class PixelDecoder(nn.Module):
    """Strides 32, 16 and 8 exchange by deformable attention; stride 4 is added as in a feature pyramid."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.input = nn.ModuleList(conv_norm(c, width, 1, bias=True) for c in reversed(channels[1:]))
        self.level_embed = nn.Parameter(torch.randn(LEVELS, width))
        self.layers = nn.ModuleList(EncoderLayer(width) for _ in range(ENCODER_LAYERS))
        self.lateral = conv_norm(channels[0], width, 1)
        self.out = conv_norm(width, width, 3)
        self.mask_features = nn.Conv2d(width, width, 1)

    def forward(
        self, maps: Sequence[Float[Tensor, "b _ _ _"]]
    ) -> tuple[Float[Tensor, "b c h w"], list[Float[Tensor, "b c _ _"]]]:
        """The embeddings of the pixels, and the maps of strides 32, 16 and 8; `maps` are finest first."""
        finest, *others = maps
        coarse = [layer(x) for layer, x in zip(self.input, reversed(others), strict=True)]
        positions = [sine_positions(x) + own for x, own in zip(coarse, self.level_embed, strict=True)]
        row, places = torch.cat([tokens(x) for x in coarse], 1), torch.cat(positions, 1)
        levels = in_a_row(coarse)
        for layer in self.layers:
            row = layer(row, places, levels)
        coarse = maps_of(row, levels)
        lateral = self.lateral(finest)
        x = F.relu(self.out(lateral + resize_like(coarse[-1], lateral)))
        return self.mask_features(x), coarse


def in_a_row(maps: Sequence[Float[Tensor, "b c _ _"]]) -> Levels:
    """How the pixels of the maps lie, one map after the other."""
    sizes, centres, pixels = [], [], []
    for x in maps:
        height, width = x.shape[-2:]
        down = (torch.arange(height, device=x.device, dtype=x.dtype) + 0.5) / height
        along = (torch.arange(width, device=x.device, dtype=x.dtype) + 0.5) / width
        own = torch.stack([along.expand(height, -1), down[:, None].expand(-1, width)], 2).flatten(0, 1)
        sizes.append((height, width))
        centres.append(own)
        pixels.append(2 * own[0])  # the first centre lies half a pixel from the corner
    return Levels(sizes, torch.cat(centres), torch.stack(pixels))


def maps_of(row: Float[Tensor, "b n c"], levels: Levels) -> list[Float[Tensor, "b c _ _"]]:
    """The maps whose pixels lie in a row."""
    parts = row.split([height * width for height, width in levels.sizes], 1)
    return [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, levels.sizes, strict=True)]


# --- the transformer decoder (Sec. 3.2) -----------------------------------------------------------


class MaskedDecoderLayer(nn.Module):
    """Attention to the image within the mask, attention among the queries, perceptron (Fig. 2, right)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cross_attention = Attention(width)
        self.self_attention = Attention(width)
        self.feed_forward = FeedForward(width, HIDDEN)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        xavier(self)

    def forward(
        self,
        x: Float[Tensor, "b q c"],
        places: Float[Tensor, "1 q c"],
        memory: Float[Tensor, "b n c"],
        memory_places: Float[Tensor, "1 n c"],
        seen: Bool[Tensor, "b q n"],
    ) -> Float[Tensor, "b q c"]:
        """The queries `x`, of which each looks where `seen` is true."""
        x = self.norms[0](x + self.cross_attention(x + places, memory + memory_places, memory, seen))
        x = self.norms[1](x + self.self_attention(x + places, x + places, x))
        return self.norms[2](x + self.feed_forward(x))


def seen_by(mask_logits: Float[Tensor, "b q h w"]) -> Bool[Tensor, "b q n"]:
    """Where a query may look: in its mask, or everywhere where that is empty (Eq. 3)."""
    inside = (mask_logits.detach() >= 0).flatten(2)  # a probability of a half
    return inside | ~inside.any(2, keepdim=True)


class Mask2Former(MaskModel):
    """Encoder, pixel decoder, transformer decoder with masked attention.

    Args:
        encoder: gives four stages.
        num_classes: k.
        width: channels, a multiple of 4.
        num_queries: most segments of an image.
        rounds: how often the decoder goes through the three levels (L in Sec. 3.2.2).

    Raises:
        ValueError: if `width` is no multiple of 4.
    """

    def __init__(
        self, encoder: Encoder, num_classes: int, width: int = 256, num_queries: int = 100, rounds: int = 3
    ) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"width must be a multiple of 4, got {width}")
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.pixel_decoder = PixelDecoder([getattr(encoder.channels, stage) for stage in STAGES], width)
        self.queries = nn.Parameter(torch.randn(num_queries, width))
        self.query_pos_embed = nn.Parameter(torch.randn(num_queries, width))
        self.level_embed = nn.Parameter(torch.randn(LEVELS, width))
        self.layers = nn.ModuleList(MaskedDecoderLayer(width) for _ in range(LEVELS * rounds))
        self.head = MaskHead(width, num_classes)

    def forward(self, image: Float[Tensor, "b c H W"]) -> MaskLogits:
        """See `MaskModel.forward`; in training the queries give masks before each layer as well."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        pixels, levels = self.pixel_decoder([features[stage] for stage in STAGES])
        coarse = [resize(pixels, (x.shape[-2], x.shape[-1])) for x in levels]
        places = [sine_positions(x) for x in levels]
        memories = [tokens(x) + own for x, own in zip(levels, self.level_embed, strict=True)]
        x = self.queries.expand(image.shape[0], -1, -1)
        earlier = []
        for number, layer in enumerate(self.layers):
            level = number % LEVELS
            seen = seen_by(self.head(x, coarse[level])[1])
            if self.training:
                classes, masks = self.head(x, pixels)
                earlier.append(MaskLogits(classes, masks, size))
            x = layer(x, self.query_pos_embed[None], memories[level], places[level], seen)
        classes, masks = self.head(x, pixels)
        return MaskLogits(classes, masks, size, tuple(earlier))


# --- builders -------------------------------------------------------------------------------------


def mask2former(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    num_queries: int = 100,
    blocks: int = 3,
) -> Mask2Former:
    """Mask2Former on any encoder.

    Args:
        num_classes: number of classes k, without "no object".
        encoder: name, see `make_encoder`, or an encoder with four stages.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: how pretrained filters take an image that is not RGB, see `TimmEncoder`.
        width: channels, a multiple of 4.
        num_queries: most segments of an image.
        blocks: how often the decoder goes through the three levels, a layer for each.
    """
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return Mask2Former(made, num_classes, width, num_queries, blocks)


def mask2former_resnet50(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> Mask2Former:
    """The paper's Mask2Former on ResNet-50."""
    return _on("resnet50", num_classes, in_channels, pretrained, stem)


def mask2former_resnet101(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> Mask2Former:
    """The paper's Mask2Former on ResNet-101."""
    return _on("resnet101", num_classes, in_channels, pretrained, stem)


def mask2former_swin_tiny(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> Mask2Former:
    """The paper's Mask2Former on Swin-T."""
    return _on("swin_tiny", num_classes, in_channels, pretrained, stem)


def mask2former_swin_small(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> Mask2Former:
    """The paper's Mask2Former on Swin-S."""
    return _on("swin_small", num_classes, in_channels, pretrained, stem)


def mask2former_swin_base(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> Mask2Former:
    """The paper's Mask2Former on Swin-B with windows of 12."""
    return _on("swin_base_window12", num_classes, in_channels, pretrained, stem)


def mask2former_swin_large(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    num_queries: int = 200,
) -> Mask2Former:
    """The paper's Mask2Former on Swin-L with windows of 12, and 200 queries."""
    return _on("swin_large", num_classes, in_channels, pretrained, stem, num_queries)


def _on(
    encoder: str, k: int, in_channels: int, pretrained: bool, stem: StemPolicy, num_queries: int = 100
) -> Mask2Former:
    return mask2former(
        k,
        encoder=encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        num_queries=num_queries,
    )


# --- weights of transformers ----------------------------------------------------------------------

_RENAMES = (
    (r"^decoder\.level_embed", "pixel_decoder.level_embed"),
    (r"^decoder\.input_projections\.", "pixel_decoder.input."),
    (r"^decoder\.encoder\.layers\.", "pixel_decoder.layers."),
    (r"^decoder\.mask_projection\.", "pixel_decoder.mask_features."),
    (r"^decoder\.adapter_1\.", "pixel_decoder.lateral."),
    (r"^decoder\.layer_1\.", "pixel_decoder.out."),
    (r"(pixel_decoder.*)self_attn_layer_norm\.", r"\1norms.0."),
    (r"(pixel_decoder.*)final_layer_norm\.", r"\1norms.1."),
    (r"self_attn\.sampling_offsets\.", "attention.offsets."),
    (r"self_attn\.attention_weights\.", "attention.weights."),
    (r"self_attn\.value_proj\.", "attention.value."),
    (r"self_attn\.output_proj\.", "attention.out."),
    (r"^transformer_module\.queries_embedder\.weight", "query_pos_embed"),
    (r"^transformer_module\.queries_features\.weight", "queries"),
    (r"^transformer_module\.level_embed\.weight", "level_embed"),
    (r"^transformer_module\.decoder\.layernorm\.", "head.norm."),
    (r"^transformer_module\.decoder\.layers\.", "layers."),
    (r"^transformer_module\.decoder\.mask_predictor\.mask_embedder\.(\d)\.0\.", r"head.masks.{\1}."),
    (r"^class_predictor\.", "head.classes."),
    (r"cross_attn_layer_norm\.", "norms.0."),
    (r"self_attn_layer_norm\.", "norms.1."),
    (r"final_layer_norm\.", "norms.2."),
    (r"cross_attn\.", "cross_attention."),
    (r"self_attn\.", "self_attention."),
    (r"\.fc1\.", ".feed_forward.0."),
    (r"\.fc2\.", ".feed_forward.3."),
)


def from_transformers_mask2former(
    state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None
) -> Mask2Former:
    """Weights of transformers' `Mask2FormerForUniversalSegmentation`; raises a ValueError for others.

    Args:
        state_dict: on a Swin Transformer or a ResNet, as published or trained further.
        config: not needed; all sizes are read from the weights.
    """
    parts = {}
    for key, tensor in state_dict.items():
        if "cross_attn.in_proj_" in key:
            for name, part in zip("qkv", tensor.chunk(3), strict=True):
                parts[key.replace("in_proj_", f"{name}_proj.")] = part
        else:
            parts[key] = tensor
    made: Mask2Former = load_transformers(mask2former, parts, _RENAMES, LEVELS)
    return made
