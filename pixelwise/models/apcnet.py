"""APCNet: context from regions of several sizes, each pixel choosing its own weights for them.

An adaptive context module averages the map over an s x s grid of regions. Each pixel gives each region a
weight, which it finds from its own features and those of the whole image (global-guided local affinity, paper
Sec. 3.2, Fig. 3), and takes the weighted sum of the regions. Modules with grids of 1, 2, 3 and 6 run side by
side (Sec. 3.3, Fig. 2). A second loss on c4 eases training.

`apcnet_resnet101` is the authors' network (github.com/Junjun2016/APCNet) as OpenMMLab trains it: the ResNet
starts with three 3x3 convolutions of 32, 32 and 64 channels. `apcnet` takes any encoder as it is.

As in the authors' code, weights come from a sigmoid, so those of a pixel need not sum to 1, and each module
ends with a further 1x1 convolution, which the paper does not show.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import ConvNormAct, size_of
from ..types import DenseLogits, DenseModel, Paper
from .fcn import FCNHead

PAPER = Paper(
    "Adaptive Pyramid Context Network for Semantic Segmentation",
    "He, Deng, Zhou, Wang, Qiao",
    "CVPR",
    2019,
    "https://openaccess.thecvf.com/content_CVPR_2019/html/"
    "He_Adaptive_Pyramid_Context_Network_for_Semantic_Segmentation_CVPR_2019_paper.html",
)

GRIDS = (1, 2, 3, 6)


class AdaptiveContext(nn.Module):
    """Adaptive context module (Sec. 3.2, Fig. 3).

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        grid: s, side of the grid of regions.
    """

    def __init__(self, c_in: int, c_out: int, grid: int) -> None:
        super().__init__()
        self.reduce = ConvNormAct(c_in, c_out, 1)
        self.regions = nn.Sequential(nn.AdaptiveAvgPool2d(grid), ConvNormAct(c_in, c_out, 1))
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvNormAct(c_out, c_out, 1))
        self.affinity = nn.Sequential(nn.Conv2d(c_out, grid**2, 1), nn.Sigmoid())
        self.residual = ConvNormAct(c_out, c_out, 1)
        self.fuse = ConvNormAct(c_out, c_out, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ h w"]:
        """Weigh the regions at each pixel and add their sum."""
        regions = self.regions(x).flatten(2)  # b c ss
        x = self.reduce(x)
        affinity = self.affinity(x + self.whole(x))  # b ss h w
        found = (regions @ affinity.flatten(2)).unflatten(2, x.shape[2:])
        fused: Tensor = self.fuse(F.relu(self.residual(found) + x))
        return fused


class APCNet(DenseModel):
    """Dilated encoder, adaptive context modules beside it, one 3x3 convolution, classifier.

    Args:
        encoder: gives c5, and c4 where `aux`; in the paper both have stride 8.
        num_classes: number of channels k of the logits.
        aux: whether to train with the second loss on c4.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, aux: bool = True) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        # Fewer than eight channels behind a ReLU may all be dead where they stand for the whole image.
        c_in, c = encoder.channels.c5, max(encoder.channels.c5 // 4, 8)
        self.contexts = nn.ModuleList(AdaptiveContext(c_in, c, grid) for grid in GRIDS)
        self.head = nn.Sequential(
            ConvNormAct(c_in + len(GRIDS) * c, c), nn.Dropout2d(0.1), nn.Conv2d(c, num_classes, 1)
        )
        self.aux_head = FCNHead(encoder.channels.c4, num_classes) if aux else None

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        x = features.c5
        coarse = self.head(torch.cat([x, *(context(x) for context in self.contexts)], dim=1))
        if self.aux_head is None or not self.training:
            return DenseLogits(coarse, size)  # b k H/8 W/8
        return DenseLogits(coarse, size, aux=(self.aux_head(features.c4),))


def apcnet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
    aux: bool = True,
) -> APCNet:
    """APCNet on any encoder that can be dilated."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c4", "c5") if aux else ("c5",),
    )
    return APCNet(made, num_classes, aux=aux)


def apcnet_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    aux: bool = True,
) -> APCNet:
    """The authors' APCNet on ResNet-101."""
    return apcnet(
        num_classes, encoder="resnet101c", in_channels=in_channels, pretrained=pretrained, stem=stem, aux=aux
    )
