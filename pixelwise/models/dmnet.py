"""DMNet: filters that each image makes for itself, in several sizes.

A dynamic convolutional module averages the map over a k x k grid and turns the result into one k x k filter
per channel, with which it convolves the map (paper Sec. 3.2, Fig. 3): the kernel grows with the scale that it
looks for, and its weights follow the content. Modules with k of 1, 3, 5 and 7 run side by side (Sec. 3.3,
Fig. 2). A second loss on c4 eases training.

`dmnet_resnet101` is the authors' network (github.com/Junjun2016/DMNet) as OpenMMLab trains it: the ResNet
starts with three 3x3 convolutions of 32, 32 and 64 channels. `dmnet` takes any encoder as it is.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import BatchNorm2d, ConvNormAct, size_of
from ..types import DenseLogits, DenseModel, Paper
from .fcn import FCNHead

PAPER = Paper(
    "Dynamic Multi-Scale Filters for Semantic Segmentation",
    "He, Deng, Qiao",
    "ICCV",
    2019,
    "https://openaccess.thecvf.com/content_ICCV_2019/html/"
    "He_Dynamic_Multi-Scale_Filters_for_Semantic_Segmentation_ICCV_2019_paper.html",
)

FILTER_SIZES = (1, 3, 5, 7)


class DynamicConvolution(nn.Module):
    """Dynamic convolutional module (Sec. 3.2, Fig. 3).

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        size: k, side of the filters, odd.
    """

    def __init__(self, c_in: int, c_out: int, size: int) -> None:
        super().__init__()
        self.filters = nn.Sequential(nn.AdaptiveAvgPool2d(size), nn.Conv2d(c_in, c_out, 1))
        self.reduce = ConvNormAct(c_in, c_out, 1)
        self.norm_act = nn.Sequential(BatchNorm2d(c_out), nn.ReLU(inplace=True))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ h w"]:
        """Make the filters and convolve each channel of each image with its own."""
        filters = self.filters(x).flatten(0, 1)  # bc k k
        channels = self.reduce(x)
        b, c = channels.shape[:2]
        if torch.compiler.is_exporting():  # ONNX has no number of groups that follows from the batch
            found = _shifted_sum(channels, filters.unflatten(0, (b, c)))
        else:
            together = channels.reshape(1, b * c, *channels.shape[2:])
            found = F.conv2d(together, filters[:, None], padding=filters.shape[-1] // 2, groups=b * c)
        normed: Tensor = self.norm_act(found.view(channels.shape))
        return normed


def _shifted_sum(x: Float[Tensor, "b c h w"], filters: Float[Tensor, "b c k k"]) -> Float[Tensor, "b c h w"]:
    """Each channel of each image convolved with its own filter: the shifted channels, weighted and added."""
    height, width, side = x.shape[-2], x.shape[-1], filters.shape[-1]
    padded = F.pad(x, [side // 2] * 4)
    return sum(
        (
            padded[:, :, i : i + height, j : j + width] * filters[:, :, i : i + 1, j : j + 1]
            for i in range(side)
            for j in range(side)
        ),
        start=torch.zeros_like(x),
    )


class DMNet(DenseModel):
    """Dilated encoder, dynamic convolutions beside it, one 3x3 convolution, classifier.

    Args:
        encoder: gives c5, and c4 where `aux`; in the paper both have stride 8.
        num_classes: number of channels k of the logits.
        aux: whether to train with the second loss on c4.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, aux: bool = True) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        # A quarter, as the authors have it; with fewer channels small encoders cannot tell classes apart.
        c_in, c = encoder.channels.c5, max(encoder.channels.c5 // 4, 8)
        self.contexts = nn.ModuleList(DynamicConvolution(c_in, c, size) for size in FILTER_SIZES)
        self.head = nn.Sequential(
            ConvNormAct(c_in + len(FILTER_SIZES) * c, c), nn.Dropout2d(0.1), nn.Conv2d(c, num_classes, 1)
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


def dmnet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
    aux: bool = True,
) -> DMNet:
    """DMNet on any encoder that can be dilated."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c4", "c5") if aux else ("c5",),
    )
    return DMNet(made, num_classes, aux=aux)


def dmnet_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    aux: bool = True,
) -> DMNet:
    """The authors' DMNet on ResNet-101."""
    return dmnet(
        num_classes, encoder="resnet101c", in_channels=in_channels, pretrained=pretrained, stem=stem, aux=aux
    )
