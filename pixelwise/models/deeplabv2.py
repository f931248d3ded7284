"""DeepLab v2: atrous spatial pyramid pooling, and the best of three image sizes.

Four classifiers look at the last map, of stride 8, with atrous convolutions of different rates, and their
scores are added (Sec. 3.2, Fig. 4 and 7). On ResNet-101 each is one 3x3 convolution to the classes; on VGG16
each has fully connected layers of its own. The ResNet sees the image at 1, 0.75 and 0.5 of its size; at
every cell and class the largest of the three scores counts (Sec. 4.1.1, "multi-scale inputs with
max fusion"). In training the scores of every size are `aux`: the authors give all four losses the same
weight (`aux_weight=1`).

The CRF is applied afterwards (`--crf-like deeplabv2_voc`, Sec. 3.3).

Departures: ResNets are timm's, which stride in the 3x3 convolution of a block, the authors' in the first 1x1;
batch norms learn, the authors freeze them (`freeze`). Labels are not shrunk, scores are resized to them.
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, dilate, make_encoder
from ..layers import resize, resize_like, size_of
from ..types import DenseLogits, DenseModel, Paper
from .deeplabv1 import FieldOfView, classifier

PAPER = Paper(
    "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully "
    "Connected CRFs",
    "Chen, Papandreou, Kokkinos, Murphy, Yuille",
    "PAMI 2018",
    2016,
    "https://arxiv.org/abs/1606.00915",
)

RATES = (6, 12, 18, 24)  # ASPP-L
SCALES = (1.0, 0.75, 0.5)


class ASPPSum(nn.Module):
    """Atrous spatial pyramid pooling: a sum of classifiers with different fields of view.

    Args:
        branches: each takes the map and gives scores of the same size.
    """

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """The sum."""
        return torch.stack([branch(x) for branch in self.branches]).sum(0)


def atrous_classifier(c_in: int, num_classes: int, rate: int) -> nn.Conv2d:
    """3x3 convolution to the classes that begins with a Gaussian of standard deviation 0.01."""
    layer = nn.Conv2d(c_in, num_classes, 3, padding=rate, dilation=rate)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class DeepLabV2(DenseModel):
    """Atrous encoder, sum of classifiers, maximum over image sizes.

    Args:
        encoder: gives c5.
        head: scores of every cell of c5.
        num_classes: number of channels k of the logits.
        scales: sizes at which the image is seen, the first of them 1.

    Raises:
        ValueError: if the scales do not begin with 1, or one of them is not above 0 and at most 1.
    """

    def __init__(self, encoder: Encoder, head: ASPPSum, num_classes: int, scales: Sequence[float]) -> None:
        super().__init__()
        if not scales or scales[0] != 1 or not all(0 < scale <= 1 for scale in scales):
            raise ValueError(f"scales must be 1 and numbers between 0 and 1, got {tuple(scales)}")
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder, self.head, self.scales = encoder, head, tuple(scales)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        maps = [self.head(self.encoder(shrunk(image, scale)).c5) for scale in self.scales]
        fused = maps[0]
        for map in maps[1:]:
            fused = torch.maximum(fused, resize_like(map, fused, align_corners=True))
        aux = tuple(maps) if self.training and len(maps) > 1 else ()
        return DenseLogits(fused, size, aux, align_corners=True)


def shrunk(image: Float[Tensor, "b c H W"], scale: float) -> Float[Tensor, "b c _ _"]:
    """The image with `scale` times as many steps between its pixels along each axis, corners aligned."""
    if scale == 1:
        return image
    part = Fraction(scale).limit_denominator(1000)
    height, width = (
        (length - 1) * part.numerator // part.denominator + 1 for length in (image.shape[-2], image.shape[-1])
    )
    return resize(image, (height, width), align_corners=True)


def deeplabv2(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet101",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
    scales: Sequence[float] = SCALES,
) -> DeepLabV2:
    """DeepLab v2 on any encoder that can be dilated."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c5",),
    )
    head = ASPPSum([atrous_classifier(made.channels.c5, num_classes, rate) for rate in RATES])
    return DeepLabV2(made, head, num_classes, scales)


def deeplabv2_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    scales: Sequence[float] = SCALES,
) -> DeepLabV2:
    """The paper's DeepLab v2 on ResNet-101."""
    model = deeplabv2(
        num_classes,
        encoder="resnet101",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        scales=scales,
    )
    dilate(model.encoder, "c4", 2)
    dilate(model.encoder, "c5", 4)
    return model


def deeplabv2_vgg16(
    num_classes: int,
    *,
    encoder: str | Encoder = "vgg16_atrous",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> DeepLabV2:
    """The paper's DeepLab v2 on VGG16, whose branches have fully connected layers of their own."""
    made = make_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, output_stride=8, stages=("c5",), stem=stem
    )
    branches = [
        nn.Sequential(FieldOfView(made.channels.c5, rate), classifier(1024, num_classes)) for rate in RATES
    ]
    return DeepLabV2(made, ASPPSum(branches), num_classes, scales=(1.0,))
