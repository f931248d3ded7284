"""PSPNet: let every pixel see the whole scene before it is classified.

The last feature map is averaged over 1x1, 2x2, 3x3 and 6x6 grids; the four summaries are
resized back and concatenated to it (paper Fig. 3, Sec. 3.2). A second loss on c4 eases the
training of the deep encoder (Sec. 4, weight 0.4).

Departures: the authors' ResNet starts with three 3x3 convolutions where timm's plain ones have one 7x7
(take `encoder="resnet50c"` for theirs); their pooling windows are fixed to the training crop, ours adapt to
the image; their resizing aligns corners, ours pixel centres.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, make_encoder
from ..layers import ConvNormAct, resize_like, size_of
from ..types import DenseLogits, DenseModel, Paper
from .fcn import FCNHead

PAPER = Paper(
    "Pyramid Scene Parsing Network",
    "Zhao, Shi, Qi, Wang, Jia",
    "CVPR",
    2017,
    "https://arxiv.org/abs/1612.01105",
)


class PyramidPooling(nn.Module):
    """Pyramid pooling module (Sec. 3.2). The output has twice the channels of the input.

    Args:
        c_in: channels of the input.
        bins: side of each grid that the map is averaged over.
    """

    def __init__(self, c_in: int, bins: tuple[int, ...] = (1, 2, 3, 6)) -> None:
        super().__init__()
        c_bin = c_in // len(bins)
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(b), ConvNormAct(c_in, c_bin, 1)) for b in bins
        )
        self.channels = c_in + len(bins) * c_bin

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ h w"]:
        """The map and its four summaries, concatenated."""
        return torch.cat([x, *(resize_like(pool(x), x) for pool in self.pools)], dim=1)


class PSPNet(DenseModel):
    """Encoder of output stride 8, pyramid pooling, one 3x3 convolution, classifier.

    Args:
        encoder: gives c5, and c4 where `aux`; the paper dilates a ResNet so that both have stride 8.
        num_classes: number of channels k of the logits.
        aux: whether to train with the second loss on c4.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, aux: bool = True) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.context = PyramidPooling(encoder.channels.c5)
        c = encoder.channels.c5 // 4
        self.head = nn.Sequential(
            ConvNormAct(self.context.channels, c), nn.Dropout2d(0.1), nn.Conv2d(c, num_classes, 1)
        )
        self.aux_head = FCNHead(encoder.channels.c4, num_classes) if aux else None

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        coarse = self.head(self.context(features.c5))  # b k H/8 W/8
        if self.aux_head is None or not self.training:
            return DenseLogits(coarse, size)
        return DenseLogits(coarse, size, aux=(self.aux_head(features.c4),))


def pspnet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    output_stride: int = 8,
    aux: bool = True,
) -> PSPNet:
    """PSPNet on any encoder that can be dilated."""
    stages = ("c4", "c5") if aux else ("c5",)
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        output_stride=output_stride,
        stages=stages,
    )
    return PSPNet(made, num_classes, aux=aux)


def pspnet_resnet50(num_classes: int, *, in_channels: int = 3, pretrained: bool = False) -> PSPNet:
    """The paper's PSPNet on ResNet-50."""
    return pspnet(num_classes, encoder="resnet50c", in_channels=in_channels, pretrained=pretrained)


def pspnet_resnet101(num_classes: int, *, in_channels: int = 3, pretrained: bool = False) -> PSPNet:
    """The paper's PSPNet on ResNet-101."""
    return pspnet(num_classes, encoder="resnet101c", in_channels=in_channels, pretrained=pretrained)
