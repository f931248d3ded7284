"""DeepLabV3+: DeepLabV3 as the encoder of a small decoder that recovers the edges of objects.

The output of the atrous spatial pyramid pooling is resized to stride 4, joined with c2 reduced to 48
channels, and refined by two 3x3 convolutions (Sec. 3.1, Fig. 2; Sec. 4.1 for the numbers).

On the aligned Xception of the authors (`deeplabv3plus_xception65`, their network for VOC, and
`deeplabv3plus_xception71`, for Cityscapes) the 3x3 convolutions of context and decoder are separable, and c2
is taken inside a block, before the residual is added. On other encoders they are dense, as in the authors'
ResNet variant.

Departures: on other encoders c2 is taken behind the last block of its stage, the authors' ResNet takes it
inside the last but one, before the residual is added.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import ConvNormAct, resize_like, size_of
from ..types import DenseLogits, DenseModel, Paper
from .deeplabv3 import ASPP, MULTI_GRID, atrous_rates, dilate_with_multi_grid

PAPER = Paper(
    "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
    "Chen, Zhu, Papandreou, Schroff, Adam",
    "ECCV",
    2018,
    "https://arxiv.org/abs/1802.02611",
)


class SeparableConv(nn.Sequential):
    """Depthwise 3x3 convolution, which may be atrous, and pointwise one, both with norm and ReLU (Fig. 3)."""

    def __init__(self, c_in: int, c_out: int, *, dilation: int = 1) -> None:
        super().__init__(ConvNormAct(c_in, c_in, dilation=dilation, groups=c_in), ConvNormAct(c_in, c_out, 1))


class DeepLabV3Plus(DenseModel):
    """Dilated encoder, atrous spatial pyramid pooling, decoder at stride 4.

    Args:
        encoder: gives c2 and c5.
        num_classes: number of channels k of the logits.
        rates: of the atrous convolutions.
        convolution: makes the 3x3 convolutions of context and decoder, with norm and ReLU.
    """

    align_corners = True

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        rates: Sequence[int],
        *,
        convolution: Callable[..., nn.Module] = ConvNormAct,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.context = ASPP(encoder.channels.c5, rates, convolution=convolution)
        self.skip = ConvNormAct(encoder.channels.c2, 48, 1)
        self.decoder = nn.Sequential(convolution(256 + 48, 256), convolution(256, 256))
        self.head = nn.Conv2d(256, num_classes, 1)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        fine = self.skip(features.c2)
        coarse = resize_like(self.context(features.c5), fine, align_corners=self.align_corners)
        x = self.decoder(torch.cat([coarse, fine], dim=1))  # b 256 H/4 W/4
        return DenseLogits(self.head(x), size, align_corners=self.align_corners)


def deeplabv3plus(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 16,
    multi_grid: Sequence[int] | None = None,
) -> DeepLabV3Plus:
    """DeepLabV3+ on any encoder; arguments as for `deeplabv3`."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c2", "c5"),
    )
    if multi_grid is not None:
        dilate_with_multi_grid(made, multi_grid)
    return DeepLabV3Plus(made, num_classes, atrous_rates(made))


def deeplabv3plus_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 16,
) -> DeepLabV3Plus:
    """The paper's DeepLabV3+ on ResNet-101."""
    return deeplabv3plus(
        num_classes,
        encoder="resnet101",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        multi_grid=MULTI_GRID,
    )


def deeplabv3plus_xception65(
    num_classes: int,
    *,
    encoder: str | Encoder = "aligned_xception65",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 16,
) -> DeepLabV3Plus:
    """The paper's DeepLabV3+ on aligned Xception-65, with separable convolutions."""
    return _separable(num_classes, encoder, in_channels, pretrained, stem, output_stride)


def deeplabv3plus_xception71(
    num_classes: int,
    *,
    encoder: str | Encoder = "aligned_xception71",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 16,
) -> DeepLabV3Plus:
    """The paper's DeepLabV3+ on aligned Xception-71, with separable convolutions."""
    return _separable(num_classes, encoder, in_channels, pretrained, stem, output_stride)


def _separable(
    num_classes: int,
    encoder: str | Encoder,
    in_channels: int,
    pretrained: bool,
    stem: StemPolicy,
    output_stride: int,
) -> DeepLabV3Plus:
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c2", "c5"),
    )
    return DeepLabV3Plus(made, num_classes, atrous_rates(made), convolution=SeparableConv)
