"""PAN: attention by a small pyramid of convolutions at the top, and by what lies above on the way down.

Feature pyramid attention (FPA, Fig. 3) multiplies the last map by what 7x7, 5x5 and 3x3 convolutions see of
it at a half, a quarter and an eighth of its size, and adds a summary of the whole. Global attention
upsampling (GAU, Fig. 4) gates each finer map by a summary of the coarser one before the two are added.

The layout is that of the PAN in Segmentation Models PyTorch, whose weights `from_smp` reads: there the
pyramid has one channel and is halved by max pooling, where the paper strides its convolutions.

Departures: maps of odd size are halved up, and resized to the size of their partner; a map of fewer than 16
cells along a side goes into the pyramid with its border repeated. So any image size works; results equal
SMP's where sides are multiples of 128 pixels from 256 on (at output stride 16). SMP's convolutions have
biases in front of batch norms, which change nothing; here they have none.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, dilate, make_encoder
from ..layers import BatchNorm2d, ConvNormAct, fit, resize_like, size_of
from ..types import DenseLogits, DenseModel, Paper

PAPER = Paper(
    "Pyramid Attention Network for Semantic Segmentation",
    "Li, Xiong, An, Wang",
    "BMVC",
    2018,
    "https://arxiv.org/abs/1805.10180",
)

STAGES = ("c2", "c3", "c4", "c5")
LEAST = 16  # cells along each side of the map that the pyramid sees


def halve_up() -> nn.Sequential:
    """Maxima of 2x2 squares; odd sizes are rounded up."""
    return nn.Sequential(nn.ConstantPad2d((0, 1, 0, 1), -math.inf), nn.MaxPool2d(2))


class FeaturePyramidAttention(nn.Module):
    """Feature pyramid attention (Fig. 3).

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvNormAct(c_in, c_out, 1))
        self.middle = ConvNormAct(c_in, c_out, 1)
        self.down1 = nn.Sequential(halve_up(), ConvNormAct(c_in, 1, 7))
        self.down2 = nn.Sequential(halve_up(), ConvNormAct(1, 1, 5))
        self.down3 = nn.Sequential(halve_up(), ConvNormAct(1, 1), ConvNormAct(1, 1))
        self.up2 = ConvNormAct(1, 1, 5)
        self.up1 = ConvNormAct(1, 1, 7)

    def forward(self, x: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b _ h w"]:
        """The map, weighted by its pyramid, and its summary."""
        size = (x.shape[-2], x.shape[-1])
        # An exported program tells a side of 1 from longer ones: the coarsest map has at least 2.
        least = torch.sym_max(size[0], LEAST), torch.sym_max(size[1], LEAST)
        wide = fit(x, least)  # type: ignore[arg-type]
        x1 = self.down1(wide)  # b 1 h/2 w/2
        x2 = self.down2(x1)
        x3 = self.down3(x2)
        x2 = self.up2(x2)
        x2 = x2 + resize_like(x3, x2, align_corners=True)
        x1 = self.up1(x1)
        x1 = x1 + resize_like(x2, x1, align_corners=True)
        weight = fit(resize_like(x1, wide, align_corners=True), size)
        attended: Tensor = self.middle(x) * weight
        return attended + self.image(x)


class GlobalAttentionUpsample(nn.Module):
    """Global attention upsampling (Fig. 4).

    Args:
        c_low: channels of the finer map.
        c: channels of the coarser map and of the output.
    """

    def __init__(self, c_low: int, c: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Sequential(nn.Conv2d(c, c, 1, bias=False), BatchNorm2d(c)),
            nn.Sigmoid(),
        )
        self.low = ConvNormAct(c_low, c)

    def forward(
        self, low: Float[Tensor, "b _ h w"], high: Float[Tensor, "b c _ _"]
    ) -> Float[Tensor, "b c h w"]:
        """Gate `low` by `high`, and add `high`."""
        fine: Tensor = self.low(low)
        return resize_like(high, fine, align_corners=True) + fine * self.gate(high)


class PAN(DenseModel):
    """Dilated encoder, feature pyramid attention, three global attention upsamplings.

    Args:
        encoder: gives c2 to c5.
        num_classes: number of channels k of the logits.
        width: channels of the decoder.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, width: int = 32) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        _, c2, c3, c4, c5 = encoder.channels
        self.context = FeaturePyramidAttention(c5, width)
        self.decoder = nn.ModuleList(GlobalAttentionUpsample(c, width) for c in (c4, c3, c2))
        self.head = nn.Conv2d(width, num_classes, 3, padding=1)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        x = self.context(features.c5)
        for upsample, low in zip(self.decoder, (features.c4, features.c3, features.c2), strict=True):
            x = upsample(low, x)
        return DenseLogits(self.head(x), size, align_corners=True)  # b k H/4 W/4


def pan(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet101",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 16,
    fully_dilated: bool = False,
    width: int = 32,
) -> PAN:
    """PAN on any encoder that can be dilated.

    Args:
        num_classes: number of channels k of the logits.
        encoder: name of a backbone, or an encoder.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: what pretrained colour filters become where the image is not RGB, see `adapt_stem`.
        output_stride: 16 or 32.
        fully_dilated: whether the first 3x3 convolution of a dilated ResNet stage is dilated like the
            others, as SMP does with its own encoders.
        width: channels of the decoder.

    Raises:
        ValueError: on another output stride; see also `make_encoder`.
    """
    if output_stride not in (16, 32):
        raise ValueError(f"output_stride must be 16 or 32, got {output_stride}")
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=STAGES,
    )
    if fully_dilated and output_stride == 16:
        dilate(made, "c5", 2)
    return PAN(made, num_classes, width=width)
