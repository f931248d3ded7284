"""DenseASPP: atrous convolutions in a dense chain see many scales, and each pixel of them.

Five atrous layers of rates 3, 6, 12, 18 and 24 follow each other, each with the output of all before it as
its input (paper Fig. 3, Sec. 3.2). Their paths combine to far more and larger fields of view than the
parallel branches of ASPP have, and sample them more densely (Sec. 3.3).

`denseaspp_densenet161` is the authors' network for Cityscapes: a DenseNet-161 of stride 8, whose last block
is followed by a further transition that halves the channels.

Departures: none in the computation. In the authors' code the ReLU of the first layer works in place, so that
all later layers and the classifier see its input behind that ReLU too; here that ReLU is written where it
acts.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import BatchNorm2d, size_of
from ..types import DenseLogits, DenseModel, Paper

PAPER = Paper(
    "DenseASPP for Semantic Segmentation in Street Scenes",
    "Yang, Yu, Zhang, Li, Yang",
    "CVPR",
    2018,
    "https://openaccess.thecvf.com/content_cvpr_2018/html/Yang_DenseASPP_for_Semantic_CVPR_2018_paper.html",
)

RATES = (3, 6, 12, 18, 24)
MOMENTUM = 0.0003  # of the batch norms of the context


class AtrousLayer(nn.Module):
    """Norm, ReLU, 1x1 convolution; norm, ReLU, atrous 3x3 convolution; dropout.

    Args:
        c_in: channels of the input.
        width: channels of the output; the 1x1 convolution has four times as many.
        rate: of the 3x3 convolution.
        first: whether the input comes with norm and ReLU, so that both are left out.
    """

    def __init__(self, c_in: int, width: int, rate: int, *, first: bool) -> None:
        super().__init__()
        self.norm1 = None if first else BatchNorm2d(c_in, momentum=MOMENTUM)
        self.conv1 = nn.Conv2d(c_in, 4 * width, 1)
        self.norm2 = BatchNorm2d(4 * width, momentum=MOMENTUM)
        self.conv2 = nn.Conv2d(4 * width, width, 3, padding=rate, dilation=rate)
        self.dropout = nn.Dropout2d(0.1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """The new channels."""
        if self.norm1 is not None:
            x = F.relu(self.norm1(x))
        x = F.relu(self.norm2(self.conv1(x)))
        return self.dropout(self.conv2(x))


class DenseAtrousPyramid(nn.Module):
    """All layers; the output holds the input and what each layer adds, the latest first.

    Args:
        c_in: channels of the input, which comes with norm and ReLU.
        width: channels that each layer adds.
    """

    def __init__(self, c_in: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            AtrousLayer(c_in + i * width, width, rate, first=i == 0) for i, rate in enumerate(RATES)
        )
        self.channels = c_in + len(RATES) * width

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ h w"]:
        """The dense chain."""
        for layer in self.layers:
            x = torch.cat([layer(x), x], 1)
        return x


class DenseASPP(DenseModel):
    """Dilated encoder, transition, dense chain of atrous layers, classifier.

    Args:
        encoder: gives c5.
        num_classes: number of channels k of the logits.
        width: channels that each atrous layer adds.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, width: int = 128) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        c = encoder.channels.c5
        self.transition = nn.Sequential(
            BatchNorm2d(c),
            nn.ReLU(),
            nn.Conv2d(c, c // 2, 1, bias=False),
            BatchNorm2d(c // 2),
            nn.ReLU(),
        )
        self.context = DenseAtrousPyramid(c // 2, width)
        self.head = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(self.context.channels, num_classes, 1))

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        x = self.context(self.transition(self.encoder(image).c5))
        return DenseLogits(self.head(x), size, align_corners=True)  # b k H/8 W/8


def denseaspp_densenet161(
    num_classes: int,
    *,
    encoder: str | Encoder = "densenet161_dilated",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 128,
) -> DenseASPP:
    """The authors' DenseASPP on DenseNet-161, or on any encoder that can be dilated."""
    made = make_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, output_stride=8, stages=("c5",), stem=stem
    )
    return DenseASPP(made, num_classes, width=width)
