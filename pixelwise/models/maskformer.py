"""MaskFormer: semantic and panoptic segmentation as classification of masks (Fig. 2).

Pixels are not classified one by one. A transformer decoder turns a set of learned queries into pairs of a
class and a mask: the mask is where the query's embedding agrees with the embedding of a pixel (Sec. 3.3).
The classes have one more, "no object", for queries that stand for nothing. In training, queries and true
masks are matched one to one at least cost (Sec. 3.2); one network, one loss and one training serve semantic,
instance and panoptic segmentation (`losses/mask_set.py`, `decode.py`).

Departures: sizes follow the maps of the encoder, so any image size works. Every layer of the decoder has a
loss, as in the authors' code.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder, rename_transformers_encoder
from ..layers import size_of
from ..losses import MaskSetLoss, loss_parts, mask_set_parts
from ..types import Batch, BuiltBy, MaskLogits, MaskModel, Paper, value
from .detr.transformer import DecoderLayer, perceptron, sine_positions, tokens

PAPER = Paper(
    "Per-Pixel Classification is Not All You Need for Semantic Segmentation",
    "Cheng, Schwing, Kirillov",
    "NeurIPS",
    2021,
    "https://arxiv.org/abs/2107.06278",
)

STAGES = ("c2", "c3", "c4", "c5")


@value
class MaskFormerLogits(MaskLogits):
    """`MaskLogits` that are learned with MaskFormer's loss."""


@loss_parts.register
def maskformer_losses(output: MaskFormerLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Class, focal loss and Dice loss of whole masks with the authors' weights 1, 20 and 1 (Sec. 4.1)."""
    loss = MaskSetLoss(class_weight=1.0, mask_weight=20.0, dice_weight=1.0, pixel_loss="focal", points=None)
    return mask_set_parts(output, batch, loss)


# --- MaskFormer -----------------------------------------------------------------------------------


def conv_norm(c_in: int, c_out: int, kernel: int, *, bias: bool = False) -> nn.Sequential:
    """Convolution and group norm of 32 groups, of fewer where there are few channels."""
    convolution = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=bias)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.GroupNorm(math.gcd(32, c_out // 2), c_out))


class PixelDecoder(nn.Module):
    """A feature pyramid that ends in an embedding of every pixel at stride 4 (Sec. 3.3)."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(conv_norm(c, width, 1) for c in channels[:-1])
        self.out = nn.ModuleList(conv_norm(c, width, 3) for c in [width] * len(self.lateral) + [channels[-1]])
        self.mask_features = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, maps: Sequence[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b c h w"]:
        """Maps are given finest first; the result has the size of the first."""
        *finer, coarsest = maps
        x = F.relu(self.out[-1](coarsest))
        for level in reversed(range(len(finer))):
            lateral = self.lateral[level](finer[level])
            x = F.relu(self.out[level](lateral + F.interpolate(x, lateral.shape[-2:], mode="nearest")))
        embedding: Tensor = self.mask_features(x)
        return embedding


class MaskHead(nn.Module):
    """What a query says: its class, and the embedding of its mask (Fig. 2, on the right)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, num_classes + 1)
        self.masks = perceptron(width, width)

    def forward(
        self, x: Float[Tensor, "b q c"], pixels: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b q k1"], Float[Tensor, "b q h w"]]:
        """Scores of the classes and of the masks."""
        x = self.norm(x)
        return self.classes(x), torch.einsum("bqc,bchw->bqhw", self.masks(x), pixels)


class MaskFormer(MaskModel):
    """Encoder, pixel decoder, transformer decoder.

    Args:
        encoder: gives four stages.
        num_classes: k.
        width: channels, a multiple of 4.
        num_queries: most segments of an image.
        layers: of the transformer decoder.

    Raises:
        ValueError: if `width` is no multiple of 4.
    """

    output = MaskFormerLogits

    def __init__(
        self, encoder: Encoder, num_classes: int, width: int = 256, num_queries: int = 100, layers: int = 6
    ) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"width must be a multiple of 4, got {width}")
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        channels = [getattr(encoder.channels, stage) for stage in STAGES]
        self.pixel_decoder = PixelDecoder(channels, width)
        self.input = nn.Conv2d(channels[-1], width, 1)
        self.queries = nn.Parameter(torch.randn(num_queries, width))
        self.layers = nn.ModuleList(DecoderLayer(width) for _ in range(layers))
        self.head = MaskHead(width, num_classes)

    def forward(self, image: Float[Tensor, "b c H W"]) -> MaskFormerLogits:
        """See `MaskModel.forward`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        pixels = self.pixel_decoder([features[stage] for stage in STAGES])
        memory = self.input(features.c5)
        places = sine_positions(memory)
        memory, queries = tokens(memory), self.queries[None]
        x = torch.zeros_like(queries).expand(image.shape[0], -1, -1)
        earlier: list[MaskLogits] = []
        for number, layer in enumerate(self.layers):
            if self.training and number:
                classes, masks = self.head(x, pixels)
                earlier.append(MaskLogits(classes, masks, size))
            x = layer(x, queries, memory, places)
        classes, masks = self.head(x, pixels)
        return MaskFormerLogits(classes, masks, size, tuple(earlier))


# --- builders -------------------------------------------------------------------------------------


def maskformer(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    num_queries: int = 100,
    blocks: int = 6,
) -> MaskFormer:
    """MaskFormer on any encoder.

    Args:
        num_classes: number of classes k, without "no object".
        encoder: name, see `make_encoder`, or an encoder with four stages.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: how pretrained filters take an image that is not RGB, see `TimmEncoder`.
        width: channels, a multiple of 4.
        num_queries: most segments of an image.
        blocks: layers of the transformer decoder.
    """
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return MaskFormer(made, num_classes, width, num_queries, blocks)


def maskformer_resnet50(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> MaskFormer:
    """The paper's MaskFormer on ResNet-50."""
    return _on("resnet50", num_classes, in_channels, pretrained, stem)


def maskformer_resnet101(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> MaskFormer:
    """The paper's MaskFormer on ResNet-101."""
    return _on("resnet101", num_classes, in_channels, pretrained, stem)


def maskformer_swin_tiny(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> MaskFormer:
    """The paper's MaskFormer on Swin-T."""
    return _on("swin_tiny", num_classes, in_channels, pretrained, stem)


def maskformer_swin_small(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> MaskFormer:
    """The paper's MaskFormer on Swin-S."""
    return _on("swin_small", num_classes, in_channels, pretrained, stem)


def maskformer_swin_base(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> MaskFormer:
    """The paper's MaskFormer on Swin-B with windows of 12."""
    return _on("swin_base_window12", num_classes, in_channels, pretrained, stem)


def maskformer_swin_large(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> MaskFormer:
    """The paper's MaskFormer on Swin-L with windows of 12."""
    return _on("swin_large", num_classes, in_channels, pretrained, stem)


def _on(encoder: str, k: int, in_channels: int, pretrained: bool, stem: StemPolicy) -> MaskFormer:
    return maskformer(k, encoder=encoder, in_channels=in_channels, pretrained=pretrained, stem=stem)


# --- weights of transformers ----------------------------------------------------------------------

_RENAMES: tuple[tuple[str, str], ...] = (
    (r"decoder\.fpn\.stem\.", "pixel_decoder.out.3."),
    (r"decoder\.fpn\.layers\.(\d)\.proj\.", r"pixel_decoder.lateral.<\1>."),
    (r"decoder\.fpn\.layers\.(\d)\.block\.", r"pixel_decoder.out.<\1>."),
    (r"decoder\.mask_projection\.", "pixel_decoder.mask_features."),
    (r"transformer_module\.queries_embedder\.weight", "queries"),
    (r"transformer_module\.input_projection\.", "input."),
    (r"transformer_module\.decoder\.layernorm\.", "head.norm."),
    (r"transformer_module\.decoder\.layers\.", "layers."),
    (r"self_attn_layer_norm\.", "norms.0."),
    (r"encoder_attn_layer_norm\.", "norms.1."),
    (r"final_layer_norm\.", "norms.2."),
    (r"self_attn\.", "self_attention."),
    (r"encoder_attn\.", "cross_attention."),
    (r"\.(?:mlp\.)?fc1\.", ".feed_forward.0."),
    (r"\.(?:mlp\.)?fc2\.", ".feed_forward.3."),
    (r"^class_predictor\.", "head.classes."),
    (r"^mask_embedder\.(\d)\.0\.", r"head.masks.{\1}."),
)
_PROJECTIONS = {"q": "query", "k": "key", "v": "value", "o": "out", "out": "out"}


def from_transformers_maskformer(
    state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None
) -> MaskFormer:
    """Weights of transformers' `MaskFormerForInstanceSegmentation` in our model, in eval mode.

    Args:
        state_dict: on a Swin Transformer or a ResNet, as published or trained further.
        config: not needed; all sizes are read from the weights.

    Raises:
        ValueError: if it is none of these.
    """
    made: MaskFormer = load_transformers(maskformer, state_dict, _RENAMES)
    return made


def load_transformers(
    builder: Callable[..., Any],
    state_dict: Mapping[str, Tensor],
    renames: Sequence[tuple[str, str]],
    layers_per_block: int = 1,
) -> Any:
    """A network of mask classification with weights of transformers; raises a ValueError for others.

    Args:
        builder: of the network.
        state_dict: theirs.
        renames: patterns of their names, and ours, in the order in which they are applied; <n> is turned into
            2 - n (levels from the finest on), {n} into 2 n (linear layers of a perceptron).
        layers_per_block: of the transformer decoder.
    """
    encoder = "model.pixel_level_module.encoder."
    try:
        name, weights = rename_transformers_encoder(state_dict, encoder)
        for key, tensor in state_dict.items():
            if key.startswith((encoder, "criterion.")):
                continue
            key = re.sub(r"^model\.(pixel_level_module\.|(?=transformer_module))", "", key)
            for theirs, ours in renames:
                key = re.sub(theirs, ours, key)
            key = re.sub(r"(?<=_attention\.)(\w+)_proj", lambda found: _PROJECTIONS[found[1]], key)
            key = re.sub(r"<(\d)>", lambda found: str(2 - int(found[1])), key)
            weights[re.sub(r"\{(\d)\}", lambda found: str(2 * int(found[1])), key)] = tensor
        layers = {key.split(".")[1] for key in weights if key.startswith("layers.")}
        queries, width = weights["queries"].shape
        arguments: dict[str, Any] = {"num_classes": len(weights["head.classes.bias"]) - 1, "encoder": name}
        arguments |= {"width": width, "num_queries": queries, "blocks": len(layers) // layers_per_block}
        model = builder(**arguments)
        own = {key: x for key, x in model.state_dict().items() if "encoder.normalize." in key}
        model.load_state_dict(weights | own)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is no {builder.__name__} of transformers: {error}") from error
    model.built_by = BuiltBy(builder.__name__, arguments)
    return model.eval()
