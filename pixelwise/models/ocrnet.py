"""OCRNet: a pixel asks the objects of the image, not all of its pixels, what it is.

A first classifier draws soft regions, one per class (Fig. 3). Each region is described by the mean of its
pixels' features, weighted by a softmax of its scores over the image (Eq. 8). Each pixel then attends to the k
regions, by a softmax over them (Eq. 9, 10), and what it gathers is joined to its own features and classified
(Eq. 11). The first classifier learns by a second loss of weight 0.4 (Sec. 4.1), that of `aux`.

`ocrnet_resnet101` draws regions on c4 and classifies c5 of a dilated ResNet; `ocrnet_hrnet_w48` does both on
the concatenated branches of HRNet. With `_aspp`, atrous convolutions stand beside the attention (ASP-OCR of
github.com/openseg-group/openseg.pytorch). `from_hrnet_ocr` reads weights of the authors' other repository,
github.com/HRNet/HRNet-Semantic-Segmentation.

Departures: the two repositories differ. Convolutions of the attention have no bias before their norm, as in
the second; the first adds one, which changes nothing but the count of parameters.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, HRNet, StemPolicy, dilate, fit_hrnet_weights, make_encoder
from ..layers import BatchNorm2d, ConvNormAct, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper
from .hrnet import concatenate, count

PAPER = Paper(
    "Object-Contextual Representations for Semantic Segmentation",
    "Yuan, Chen, Wang",
    "ECCV",
    2020,
    "https://arxiv.org/abs/1909.11065",
)

WIDTH = 512  # channels of pixels, regions and context; keys of the attention have half of them
RATES = (24, 48, 72)  # of the atrous convolutions at stride 4


class RegionHead(nn.Sequential):
    """First classifier, whose scores are the soft object regions: convolution, norm, ReLU, dropout, 1x1.

    Args:
        c_in: channels of the input.
        width: channels between the convolutions.
        num_classes: number of regions k.
        kernel: side of the first convolution.
        dropout: probability to drop a channel.
    """

    def __init__(
        self, c_in: int, width: int, num_classes: int, *, kernel: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__(
            nn.Conv2d(c_in, width, kernel, padding=kernel // 2),
            BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(width, num_classes, 1),
        )


def gather(x: Float[Tensor, "b c h w"], regions: Float[Tensor, "b k h w"]) -> Float[Tensor, "b c k 1"]:
    """The mean of all pixels for each region, weighted by its softmax over space (Eq. 8)."""
    weights = regions.flatten(2).softmax(2)  # b k hw
    return (x.flatten(2) @ weights.transpose(1, 2))[..., None]


class ObjectAttention(nn.Module):
    """What each pixel gathers from the regions (Eq. 9, 10).

    Args:
        channels: of pixels, regions and the output.
        keys: channels in which pixels and regions are compared.
    """

    def __init__(self, channels: int, keys: int) -> None:
        super().__init__()
        self.keys = keys
        self.pixel = nn.Sequential(ConvNormAct(channels, keys, 1), ConvNormAct(keys, keys, 1))  # phi
        self.object = nn.Sequential(ConvNormAct(channels, keys, 1), ConvNormAct(keys, keys, 1))  # psi
        self.down = ConvNormAct(channels, keys, 1)  # delta
        self.up = ConvNormAct(keys, channels, 1)  # rho

    def forward(
        self, x: Float[Tensor, "b c h w"], objects: Float[Tensor, "b c k 1"]
    ) -> Float[Tensor, "b c h w"]:
        """The context of each pixel."""
        query = self.pixel(x).flatten(2).transpose(1, 2)  # b hw keys
        key, value = self.object(objects).flatten(2), self.down(objects).flatten(2)  # b keys k
        relation = (query @ key * self.keys**-0.5).softmax(2)  # b hw k
        context = (value @ relation.transpose(1, 2)).unflatten(2, x.shape[-2:])
        gathered: Tensor = self.up(context)
        return gathered


class ObjectContext(nn.Module):
    """Pixels, their object-contextual representations, and both joined (Fig. 3, Eq. 11).

    Args:
        c_in: channels of the input.
        width: channels of the output.
    """

    def __init__(self, c_in: int, width: int = WIDTH) -> None:
        super().__init__()
        self.channels = width
        self.pixels = nn.Sequential(
            nn.Conv2d(c_in, width, 3, padding=1), BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.attention = ObjectAttention(width, width // 2)
        self.project = nn.Sequential(ConvNormAct(2 * width, width, 1), nn.Dropout2d(0.05))

    def forward(
        self, x: Float[Tensor, "b _ h w"], regions: Float[Tensor, "b k h w"]
    ) -> Float[Tensor, "b _ h w"]:
        """Augmented representations of the pixels."""
        x = self.pixels(x)
        context = self.attention(x, gather(x, regions))
        joined: Tensor = self.project(torch.cat([context, x], 1))
        return joined


class AtrousObjectContext(nn.Module):
    """Object context and atrous convolutions side by side, in place of ASPP's image-level features.

    Args:
        c_in: channels of the input.
        width: channels of each branch and of the output.
        rates: of the atrous convolutions.
    """

    def __init__(self, c_in: int, width: int = WIDTH // 2, rates: tuple[int, ...] = RATES) -> None:
        super().__init__()
        self.channels = width
        self.pixels = ConvNormAct(c_in, width)
        self.attention = ObjectAttention(width, width // 2)
        atrous = (ConvNormAct(c_in, width, dilation=rate) for rate in rates)
        self.branches = nn.ModuleList([ConvNormAct(c_in, width, 1), *atrous])
        self.project = nn.Sequential(ConvNormAct((len(rates) + 2) * width, width, 1), nn.Dropout2d(0.1))

    def forward(
        self, x: Float[Tensor, "b _ h w"], regions: Float[Tensor, "b k h w"]
    ) -> Float[Tensor, "b _ h w"]:
        """Augmented representations of the pixels."""
        pixels = self.pixels(x)
        context = self.attention(pixels, gather(pixels, regions))
        joined: Tensor = self.project(torch.cat([context, *(branch(x) for branch in self.branches)], 1))
        return joined


class OCRNet(DenseModel):
    """Encoder, soft object regions, object context, classifier.

    Args:
        encoder: gives c4 and c5, or c2 to c5 where they are concatenated.
        regions: draws the regions: on c4, or on the concatenated maps.
        context: of c5, or of the concatenated maps.
        num_classes: number of channels k of the logits.
        concatenated: whether all maps are concatenated.
    """

    def __init__(
        self,
        encoder: Encoder,
        regions: RegionHead,
        context: ObjectContext | AtrousObjectContext,
        num_classes: int,
        *,
        concatenated: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.concatenated = concatenated
        self.encoder, self.regions, self.context = encoder, regions, context
        self.head = nn.Conv2d(context.channels, num_classes, 1)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        if self.concatenated:
            x = concatenate(features)
            regions = self.regions(x)
        else:
            x, regions = features.c5, self.regions(features.c4)
        coarse = self.head(self.context(x, regions))
        aux = (regions,) if self.training else ()
        return DenseLogits(coarse, size, aux, align_corners=True)


# --- builders -------------------------------------------------------------------------------------


def ocrnet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = WIDTH,
) -> OCRNet:
    """OCRNet on any encoder that can be dilated; `width` is that of pixels and regions."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=8,
        stages=("c4", "c5"),
    )
    regions = RegionHead(made.channels.c4, width, num_classes, dropout=0.05)
    return OCRNet(made, regions, ObjectContext(made.channels.c5, width), num_classes)


def ocrnet_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> OCRNet:
    """The paper's OCRNet on a dilated ResNet-101."""
    model = ocrnet(
        num_classes, encoder="resnet101s", in_channels=in_channels, pretrained=pretrained, stem=stem
    )
    dilate(model.encoder, "c4", 2)
    dilate(model.encoder, "c5", 4)
    return model


def ocrnet_hrnet(
    num_classes: int,
    *,
    width: int = 48,
    modules: tuple[int, int, int] = (1, 4, 3),
    blocks: int = 4,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> OCRNet:
    """OCRNet on an HRNet of any width and depth; see `HRNet`."""
    encoder = HRNet(
        width,
        in_channels=in_channels,
        upsampling="bilinear",
        pretrained=pretrained,
        stem=stem,
        modules=modules,
        blocks=blocks,
    )
    c = sum(encoder.channels)
    regions = RegionHead(c, c, num_classes, kernel=1)
    return OCRNet(encoder, regions, ObjectContext(c), num_classes, concatenated=True)


def ocrnet_hrnet_w48(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> OCRNet:
    """OCRNet on HRNet-W48: 70.4 million parameters."""
    return ocrnet_hrnet(num_classes, width=48, in_channels=in_channels, pretrained=pretrained, stem=stem)


def ocrnet_hrnet_w48_aspp(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> OCRNet:
    """OCRNet on HRNet-W48 with atrous convolutions beside the attention."""
    encoder = HRNet(48, in_channels=in_channels, upsampling="bilinear", pretrained=pretrained, stem=stem)
    c = sum(encoder.channels)
    regions = RegionHead(c, WIDTH, num_classes)
    return OCRNet(encoder, regions, AtrousObjectContext(c), num_classes, concatenated=True)


# --- weights --------------------------------------------------------------------------------------

_ATTENTION = r"^ocr_distri_head\.object_context_block\.f_"
_RENAMED = (
    (r"^aux_head\.3\.", "regions.4."),
    (r"^aux_head\.", "regions."),
    (r"^conv3x3_ocr\.", "context.pixels."),
    # Their norms are in pairs with a ReLU.
    (_ATTENTION + r"(pixel|object)\.0\.", r"context.attention.\1.0.0."),
    (_ATTENTION + r"(pixel|object)\.1\.0\.", r"context.attention.\1.0.1."),
    (_ATTENTION + r"(pixel|object)\.2\.", r"context.attention.\1.1.0."),
    (_ATTENTION + r"(pixel|object)\.3\.0\.", r"context.attention.\1.1.1."),
    (_ATTENTION + r"(down|up)\.0\.", r"context.attention.\1.0."),
    (_ATTENTION + r"(down|up)\.1\.0\.", r"context.attention.\1.1."),
    (r"^ocr_distri_head\.conv_bn_dropout\.0\.", "context.project.0.0."),
    (r"^ocr_distri_head\.conv_bn_dropout\.1\.0\.", "context.project.0.1."),
    (r"^cls_head\.", "head."),
)


def from_hrnet_ocr(state_dict: Mapping[str, Tensor]) -> OCRNet:
    """Weights of HRNet with object context (github.com/HRNet/HRNet-Semantic-Segmentation), in eval mode.

    Args:
        state_dict: as `torch.load(path, weights_only=True)` gives it, with or without `module.` or `model.`
            before each key.

    Raises:
        ValueError: if it is not a state dict of that network; one without object context is read by
            `from_hrnet_segmentation`.
    """
    theirs = {key.removeprefix("module.").removeprefix("model."): x for key, x in state_dict.items()}
    try:
        arguments: dict[str, Any] = {
            "num_classes": len(theirs["cls_head.weight"]),
            "width": len(theirs["stage2.0.branches.0.0.conv1.weight"]),
            "modules": tuple(count(theirs, f"stage{stage}.") for stage in (2, 3, 4)),
            "blocks": count(theirs, "layer1."),
            "in_channels": theirs["conv1.weight"].shape[1],
        }
    except KeyError as error:
        raise ValueError(f"state_dict is not that of HRNet with object context: it lacks {error}") from error
    model = ocrnet_hrnet(**arguments)
    model.encoder.load_state_dict(fit_hrnet_weights(theirs, model.encoder.state_dict()))
    heads = {}
    for key, tensor in theirs.items():
        for pattern, name in _RENAMED:
            if re.match(pattern, key):
                heads[re.sub(pattern, name, key)] = tensor
                break
    missing, unexpected = model.load_state_dict(heads, strict=False)
    if wrong := [*(key for key in missing if not key.startswith("encoder.")), *unexpected]:
        raise ValueError(f"state_dict is not that of HRNet with object context: {wrong[0]} does not fit")
    model.built_by = BuiltBy("ocrnet_hrnet", arguments)
    return model.eval()
