"""DeepLabV3 and DeepLabV3+ as the library Segmentation Models PyTorch (SMP) has them.

They differ from the papers in that the atrous rates are 12, 24 and 36 at any output stride, in that all
resizing aligns corners, and, in V3+, in separable convolutions without batch norm between their two parts.
SMP's own ResNets also dilate the first 3x3 convolution of a dilated stage, which timm's do not.

Departures: any image size works, with equal results where SMP accepts the size; a batch of one image
trains.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, dilate, make_encoder
from ..layers import BatchNorm2d, ConvNormAct, resize_like, size_of
from ..types import DenseLogits, DenseModel, Paper
from .deeplabv3 import ASPP

PAPER = Paper(
    "Segmentation Models PyTorch",
    "Iakubovskii",
    "GitHub",
    2019,
    "https://github.com/qubvel-org/segmentation_models.pytorch",
)

RATES = (12, 24, 36)


class SeparableConv(nn.Sequential):
    """3x3 convolution per channel, 1x1 convolution across channels, batch norm, ReLU."""

    def __init__(self, c_in: int, c_out: int, *, dilation: int = 1) -> None:
        per_channel = nn.Conv2d(c_in, c_in, 3, padding=dilation, dilation=dilation, groups=c_in, bias=False)
        across = nn.Conv2d(c_in, c_out, 1, bias=False)
        super().__init__(nn.Sequential(per_channel, across), BatchNorm2d(c_out), nn.ReLU(inplace=True))


class SeparableASPP(nn.Module):
    """Atrous spatial pyramid pooling as in DeepLabV3, but with separable atrous convolutions.

    Args:
        c_in: channels of the input; the output has 256.
        rates: of the atrous convolutions.
    """

    def __init__(self, c_in: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        atrous = (SeparableConv(c_in, 256, dilation=rate) for rate in rates)
        self.branches = nn.ModuleList([ConvNormAct(c_in, 256, 1), *atrous])
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvNormAct(c_in, 256, 1))
        self.project = nn.Sequential(ConvNormAct((len(rates) + 2) * 256, 256, 1), nn.Dropout(0.5))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 256 h w"]:
        """All branches, concatenated and projected."""
        views = [*(branch(x) for branch in self.branches), resize_like(self.image(x), x)]
        return self.project(torch.cat(views, dim=1))


class SMPDeepLabV3(DenseModel):
    """SMP's DeepLabV3.

    Args:
        encoder: gives c5, dilated.
        num_classes: number of channels k of the logits.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.context = ASPP(encoder.channels.c5, RATES, dropout=0.5)
        self.merge = ConvNormAct(256, 256)
        self.head = nn.Conv2d(256, num_classes, 1)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        x = self.merge(self.context(self.encoder(image).c5))
        return DenseLogits(self.head(x), size, align_corners=True)


class SMPDeepLabV3Plus(DenseModel):
    """SMP's DeepLabV3+.

    Args:
        encoder: gives c2, and c5, dilated.
        num_classes: number of channels k of the logits.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.context = nn.Sequential(SeparableASPP(encoder.channels.c5, RATES), SeparableConv(256, 256))
        self.skip = ConvNormAct(encoder.channels.c2, 48, 1)
        self.merge = SeparableConv(48 + 256, 256)
        self.head = nn.Conv2d(256, num_classes, 1)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        fine = self.skip(features.c2)
        coarse = resize_like(self.context(features.c5), fine, align_corners=True)
        x = self.merge(torch.cat([coarse, fine], dim=1))  # b 256 H/4 W/4
        return DenseLogits(self.head(x), size, align_corners=True)


def smp_deeplabv3(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet34",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
    fully_dilated: bool = False,
) -> SMPDeepLabV3:
    """SMP's DeepLabV3 on any encoder that can be dilated.

    Args:
        num_classes: number of channels k of the logits.
        encoder: name of a backbone, or an encoder.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: what pretrained colour filters become where the image is not RGB, see `adapt_stem`.
        output_stride: 8 or 16.
        fully_dilated: whether the first 3x3 convolution of a dilated ResNet stage is dilated like the
            others. SMP does so with its own encoders; timm, and so SMP's "tu-" encoders, do not.
    """
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c5",),
    )
    if fully_dilated:
        _dilate_fully(made, output_stride)
    return SMPDeepLabV3(made, num_classes)


def smp_deeplabv3plus(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet34",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 16,
    fully_dilated: bool = False,
) -> SMPDeepLabV3Plus:
    """SMP's DeepLabV3+ on any encoder that can be dilated; arguments as for `smp_deeplabv3`."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c2", "c5"),
    )
    if fully_dilated:
        _dilate_fully(made, output_stride)
    return SMPDeepLabV3Plus(made, num_classes)


def _dilate_fully(encoder: Encoder, output_stride: int) -> None:
    for stage, stride in (("c4", 16), ("c5", 32)):
        if stride > output_stride:
            dilate(encoder, stage, stride // output_stride)
