"""SETR: a plain vision transformer reads the image as a sequence of patches; a decoder makes a map of it.

Every patch sees every other from the first block on, so nothing is downsampled but the patches themselves
(Sec. 3.2). Three decoders (Sec. 3.3, Fig. 1b and 1c): Naive classifies the last tokens and resizes; PUP
upsamples in four steps of two, with a convolution before each; MLA takes four layers, adds them from the
deepest up and concatenates what it makes of each at stride 4. Auxiliary classifiers read inner layers.

Where the paper leaves numbers open, those of the authors' code (github.com/fudan-zvg/SETR) are taken.
`setr_mmseg` is what OpenMMLab trained and published (github.com/open-mmlab/mmsegmentation), and
`from_mmseg_setr` reads it.

Departures: position embeddings are stored for the images of the backbone and resized for each image, where
the authors resize them once to the crop (`image_size`); no bias before a batch norm.
"""

import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import StemPolicy, TokenEncoder, imagenet_normalize, make_token_encoder, read_mmseg_vit
from ..layers import ConvNormAct, enlarge, size_of, without_padding
from ..types import BuiltBy, DenseLogits, DenseModel, Paper, Tokens

PAPER = Paper(
    "Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers",
    "Zheng, Lu, Zhao, Zhu, Luo, Wang, Fu, Feng, Xiang, Torr, Zhang",
    "CVPR",
    2021,
    "https://arxiv.org/abs/2012.15840",
)

INNER = (10 / 24, 15 / 24, 20 / 24, 1)  # depths that Naive and PUP look at
QUARTERS = (1 / 4, 2 / 4, 3 / 4, 1)  # depths that MLA joins

Decoder = Literal["naive", "pup", "mla"]


class Map(nn.Module):
    """Norm of the tokens of one layer, at their places.

    Args:
        d: channels of the tokens.
        layer: which of the given layers.
    """

    def __init__(self, d: int, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.norm = nn.LayerNorm(d, eps=1e-6)

    def forward(self, tokens: Tokens) -> Float[Tensor, "b d h w"]:
        """The map of the layer."""
        x = self.norm(tokens.patches(self.layer)).transpose(1, 2).contiguous()
        return x.unflatten(2, tokens.grid)


class Enlarge(nn.Module):
    """Bilinear upsampling by a whole factor."""

    def __init__(self, factor: int, *, align_corners: bool = False) -> None:
        super().__init__()
        self.factor, self.align_corners = factor, align_corners

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c _ _"]:
        """Resize."""
        return enlarge(x, self.factor, align_corners=self.align_corners)


def naive_head(d: int, num_classes: int, layer: int, width: int = 256) -> nn.Sequential:
    """Naive upsampling (Sec. 3.3.1): two 1x1 convolutions; the resize is left to the output."""
    return nn.Sequential(Map(d, layer), ConvNormAct(d, width, 1), nn.Conv2d(width, num_classes, 1))


def pup_head(d: int, num_classes: int, width: int = 256) -> nn.Sequential:
    """Progressive upsampling (Sec. 3.3.2): four 3x3 convolutions; the last resize is left to the output."""
    steps: list[nn.Module] = [Map(d, -1), ConvNormAct(d, width)]
    for _ in range(3):
        steps += [Enlarge(2), ConvNormAct(width, width)]
    return nn.Sequential(*steps, nn.Conv2d(width, num_classes, 1))


def one_step_head(
    d: int, num_classes: int, layer: int, width: int = 256, *, kernel: int = 3
) -> nn.Sequential:
    """A convolution, upsampling by four, a 1x1 convolution: the auxiliary classifiers of PUP."""
    return nn.Sequential(
        Map(d, layer), ConvNormAct(d, width, kernel), Enlarge(4), nn.Conv2d(width, num_classes, 1)
    )


class SETR(DenseModel):
    """Plain ViT, a decoder on its last layer, auxiliary classifiers on inner ones.

    Args:
        encoder: gives the layers that the heads read.
        head: tokens -> scores.
        aux_heads: likewise, the deepest first; they are used while training.
        num_classes: number of channels k of the logits.
    """

    def __init__(
        self, encoder: TokenEncoder, head: nn.Module, aux_heads: list[nn.Sequential], num_classes: int
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.minimum_size = max(self.minimum_size, encoder.patch_size)
        self.encoder, self.head = encoder, head
        self.aux_heads = nn.ModuleList(aux_heads)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        padded = self.encoder.padded(size)
        tokens = self.encoder(image)
        coarse = without_padding(self.head(tokens), size, padded)
        heads = self.aux_heads if self.training else ()
        return DenseLogits(coarse, size, tuple(without_padding(head(tokens), size, padded) for head in heads))


class SETRMLA(DenseModel):
    """Plain ViT and multi-level feature aggregation (Sec. 3.3.3, Fig. 1c).

    Args:
        encoder: gives four layers.
        num_classes: number of channels k of the logits.
        width: channels of each level; half as many go into the sum of all.
        aux: whether to train with a classifier on each level.
        align_corners: whether levels are upsampled with corners aligned.
    """

    def __init__(
        self,
        encoder: TokenEncoder,
        num_classes: int,
        *,
        width: int = 256,
        aux: bool = True,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.minimum_size = max(self.minimum_size, encoder.patch_size)
        self.encoder = encoder
        d, half = encoder.channels, width // 2
        levels = range(4)
        self.laterals = nn.ModuleList(nn.Sequential(Map(d, i), ConvNormAct(d, width, 1)) for i in levels)
        self.merges = nn.ModuleList(ConvNormAct(width, width) for _ in levels)
        self.levels = nn.ModuleList(
            nn.Sequential(
                ConvNormAct(width, half),
                ConvNormAct(half, half),
                Enlarge(4, align_corners=align_corners),
            )
            for _ in levels
        )
        self.head = nn.Conv2d(4 * half, num_classes, 3, padding=1)
        self.aux_heads = nn.ModuleList(
            nn.Conv2d(width, num_classes, 1, bias=False) for _ in (levels if aux else ())
        )

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        padded = self.encoder.padded(size)
        tokens = self.encoder(image)
        totals = accumulate((lateral(tokens) for lateral in reversed(self.laterals)), torch.add)
        maps = [merge(total) for merge, total in zip(reversed(self.merges), totals, strict=True)]
        levels = [level(map) for level, map in zip(reversed(self.levels), maps, strict=True)]
        coarse = without_padding(self.head(torch.cat(levels, dim=1)), size, padded)  # b k H/4 W/4
        aux = zip(self.aux_heads, maps, strict=True) if self.training and len(self.aux_heads) else ()
        return DenseLogits(coarse, size, tuple(without_padding(head(map), size, padded) for head, map in aux))


def _encoder(
    encoder: str | TokenEncoder,
    depths: tuple[float | int, ...],
    in_channels: int,
    pretrained: bool,
    stem: StemPolicy,
    image_size: int | None,
    prefix: bool = False,
) -> TokenEncoder:
    """A ViT as SETR takes it: without final norm and, unless `prefix`, without class token."""
    return make_token_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        depths=depths,
        norm=False,
        prefix=prefix,
        interpolation="bilinear",
        image_size=image_size,
    )


def setr_naive(
    num_classes: int,
    *,
    encoder: str | TokenEncoder = "vit_large_patch16_384",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    image_size: int | None = None,
    width: int = 256,
    aux: bool = True,
) -> SETR:
    """SETR-Naive on ViT-Large or any plain ViT."""
    made = _encoder(encoder, INNER, in_channels, pretrained, stem, image_size)
    d = made.channels
    aux_heads = [naive_head(d, num_classes, layer, width) for layer in (2, 1, 0) if aux]
    return SETR(made, naive_head(d, num_classes, -1, width), aux_heads, num_classes)


def setr_pup(
    num_classes: int,
    *,
    encoder: str | TokenEncoder = "vit_large_patch16_384",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    image_size: int | None = None,
    width: int = 256,
    aux: bool = True,
) -> SETR:
    """SETR-PUP on ViT-Large or any plain ViT."""
    made = _encoder(encoder, INNER, in_channels, pretrained, stem, image_size)
    d = made.channels
    aux_heads = [one_step_head(d, num_classes, layer, width) for layer in (3, 2, 1, 0) if aux]
    return SETR(made, pup_head(d, num_classes, width), aux_heads, num_classes)


def setr_mla(
    num_classes: int,
    *,
    encoder: str | TokenEncoder = "vit_large_patch16_384",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    image_size: int | None = None,
    width: int = 256,
    aux: bool = True,
) -> SETRMLA:
    """SETR-MLA on ViT-Large or any plain ViT."""
    made = _encoder(encoder, QUARTERS, in_channels, pretrained, stem, image_size)
    return SETRMLA(made, num_classes, width=width, aux=aux)


def setr_mmseg(
    num_classes: int,
    *,
    decoder: Decoder = "pup",
    encoder: str | TokenEncoder = "vit_large_patch16_384",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    image_size: int | None = None,
    width: int = 256,
) -> DenseModel:
    """OpenMMLab's SETR, without its auxiliary classifiers.

    The class token takes part in the encoder of Naive and PUP; Naive has one convolution less before the
    scores and upsamples in two steps of four; MLA upsamples without aligned corners.
    """
    mla = decoder == "mla"
    depths = QUARTERS if mla else INNER[-1:]
    made = _encoder(encoder, depths, in_channels, pretrained, stem, image_size, prefix=not mla)
    if mla:
        return SETRMLA(made, num_classes, width=width, aux=False, align_corners=False)
    d = made.channels
    naive = one_step_head(d, num_classes, -1, width, kernel=1)
    return SETR(made, naive if decoder == "naive" else pup_head(d, num_classes, width), [], num_classes)


# --- weights --------------------------------------------------------------------------------------

# OpenMMLab's names, as regular expressions, and ours.
_UP = (
    (r"^decode_head\.norm\.", "head.0.norm."),
    (r"^decode_head\.up_convs\.(\d)\.0\.", lambda found: f"head.{2 * int(found[1]) + 1}."),
)
_MLA = (  # their levels begin with the deepest
    (r"^neck\.norm\.(\d)\.", r"laterals.\1.0.norm."),
    (r"^neck\.mla\.channel_proj\.(\d)\.", r"laterals.\1.1."),
    (r"^neck\.mla\.feat_extract\.(\d)\.", lambda found: f"merges.{3 - int(found[1])}."),
    (r"^decode_head\.up_convs\.(\d)\.", lambda found: f"levels.{3 - int(found[1])}."),
)
_LAST = {"naive": "head.3.", "pup": "head.8.", "mla": "head."}  # where the scores are made


def from_mmseg_setr(state_dict: Mapping[str, Tensor]) -> DenseModel:
    """Weights of OpenMMLab's SETR (github.com/open-mmlab/mmsegmentation), in eval mode.

    Auxiliary classifiers, which only training needs, are left out. Images are normalised as for ImageNet.

    Args:
        state_dict: what a file of theirs holds under `state_dict`.

    Raises:
        ValueError: if it is not a state dict of that network in one of the sizes of ViT.
    """
    arguments, weights = read_mmseg_vit(state_dict)
    decoder = "naive" if "decode_head.up_convs.1.0.conv.weight" not in state_dict else "pup"
    if "neck.norm.0.weight" in state_dict:
        decoder = "mla"
    last = _LAST[decoder]
    for key, tensor in state_dict.items():
        if not key.startswith(("backbone.", "auxiliary_head.")):
            for theirs, ours in _MLA if decoder == "mla" else _UP:
                key = re.sub(theirs, ours, key)
            key = key.replace("decode_head.conv_seg.", last)
            weights[key.replace(".conv.", ".0.").replace(".bn.", ".1.")] = tensor
    try:
        if decoder == "mla":
            weights["head.weight"] = F.pad(weights["head.weight"], (1, 1, 1, 1))  # a 1x1 kernel among zeros
            weights["encoder.body.pos_embed"] = weights["encoder.body.pos_embed"][:, 1:]
            del weights["encoder.body.cls_token"]
        arguments |= {
            "num_classes": len(weights[f"{last}weight"]),
            "decoder": decoder,
            "width": len(weights["laterals.0.1.0.weight" if decoder == "mla" else "head.1.0.weight"]),
        }
        model = setr_mmseg(**arguments)
        own = model.state_dict()
        normalize = {key: tensor for key, tensor in own.items() if ".normalize." in key}
        model.load_state_dict(normalize | imagenet_normalize(model.in_channels) | weights)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"state_dict is not that of OpenMMLab's SETR: {reason}") from error
    model.built_by = BuiltBy("setr_mmseg", arguments)
    return model.eval()
