"""DeepLab v1: atrous convolution keeps stride 8 and a large field of view; a dense CRF finds the borders.

VGG16 strides only three times; the convolutions behind the fourth pooling are dilated by 2. Its first fully
connected layer becomes a 3x3 convolution dilated by 12 with 1024 channels, which sees 224 pixels at a small
part of the cost of the 7x7 original (Sec. 3.2, Table 2, "DeepLab-LargeFOV": 20.5 million weights).
MSc-LargeFOV adds fine features: the image and the first four pooled maps each pass a 3x3 and a 1x1
convolution of 128 channels, which are joined to the coarse features before the classifier (Sec. 4.3).

The CRF is applied afterwards (`--crf-like deeplabv1_voc`, Sec. 2.3 and 4.2).

Departures: features are joined at stride 8, where the 3x3 convolutions of finer maps stride (the paper does
not say how; the sum of one classifier per map, which the release has, is the same function). Images of 8n+1
pixels have their cells on its pixels as in the release; others are resized with aligned corners. The 3x3 of
the first fully connected layer start from random numbers, not from VGG16's thinned out.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import resize_like, size_of
from ..types import STAGES, DenseLogits, DenseModel, Paper
from .vgg import initialize_relu

PAPER = Paper(
    "Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs",
    "Chen, Papandreou, Kokkinos, Murphy, Yuille",
    "ICLR",
    2015,
    "https://arxiv.org/abs/1412.7062",
)


class FieldOfView(nn.Sequential):
    """VGG16's first two fully connected layers, the first thinned out to an atrous 3x3 convolution.

    Args:
        c_in: channels of the input.
        rate: of the 3x3 convolution.
        c_out: channels of both.
    """

    def __init__(self, c_in: int, rate: int, c_out: int = 1024) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, 3, padding=rate, dilation=rate),  # fc6
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(c_out, c_out, 1),  # fc7
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
        )
        initialize_relu(self)


class FineFeatures(nn.Sequential):
    """Two convolutions that bring a map to the coarse one's stride (Sec. 4.3).

    Args:
        c_in: channels of the input.
        stride: of the coarse map in cells of this one.
    """

    def __init__(self, c_in: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(c_in, 128, 3, stride, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(128, 128, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
        )
        initialize_relu(self)


def classifier(c_in: int, num_classes: int) -> nn.Conv2d:
    """1x1 convolution that begins with a Gaussian of standard deviation 0.01 (Sec. 4.1)."""
    layer = nn.Conv2d(c_in, num_classes, 1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class DeepLabV1(DenseModel):
    """DeepLab-LargeFOV: atrous encoder, large field of view, classifier.

    Args:
        encoder: gives c5, of stride 8 in the paper.
        num_classes: number of channels k of the logits.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.pool = nn.AvgPool2d(3, 1, 1)  # the release smooths VGG16's last map
        self.context = FieldOfView(encoder.channels.c5, rate=12)
        self.head = classifier(1024, num_classes)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        x = self.context(self.pool(self.encoder(image).c5))  # b 1024 H/8 W/8
        return DenseLogits(self.head(x), size, align_corners=True)


class DeepLabV1MSc(DenseModel):
    """DeepLab-MSc-LargeFOV: fine features beside those of the large field of view.

    Args:
        encoder: gives all stages.
        num_classes: number of channels k of the logits.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.pool = nn.AvgPool2d(3, 1, 1)
        self.context = FieldOfView(encoder.channels.c5, rate=12)
        coarse = encoder.strides.c5
        channels = (encoder.in_channels, *encoder.channels[:4])
        strides = (coarse, *(coarse // stride for stride in encoder.strides[:4]))
        self.fine = nn.ModuleList(map(FineFeatures, channels, strides))
        self.head = classifier(1024 + 5 * 128, num_classes)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        x = self.context(self.pool(features.c5))  # b 1024 H/8 W/8
        maps = (self.encoder.normalize(image), *(features[stage] for stage in STAGES[:4]))
        fine = [resize_like(layer(map), x) for layer, map in zip(self.fine, maps, strict=True)]
        return DenseLogits(self.head(torch.cat([x, *fine], 1)), size, align_corners=True)


def deeplabv1_largefov(
    num_classes: int,
    *,
    encoder: str | Encoder = "vgg16_atrous",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> DeepLabV1:
    """The paper's DeepLab-LargeFOV on VGG16, or on any encoder that can be dilated."""
    made = make_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, output_stride=8, stages=("c5",), stem=stem
    )
    return DeepLabV1(made, num_classes)


def deeplabv1_msc(
    num_classes: int,
    *,
    encoder: str | Encoder = "vgg16_atrous",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> DeepLabV1MSc:
    """The paper's DeepLab-MSc-LargeFOV on VGG16, or on any encoder with all stages that can be dilated."""
    made = make_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, output_stride=8, stages=STAGES, stem=stem
    )
    return DeepLabV1MSc(made, num_classes)
