"""FRRN: one stream keeps every pixel, the other one pools; each unit lets the two speak with each other.

A full-resolution residual unit (FRRU, Fig. 2b) joins the pooling stream with the pooled residual stream,
convolves twice, and adds what comes out, resized, to the residual stream (Eq. 4, 5). Poolings on the way
down and bilinear upsampling on the way up change the scale of the pooling stream only (Fig. 3), so gradients
reach every unit directly and borders are never lost.

`frrn_a` pools to a sixteenth of the image, `frrn_b` to a thirty-second (Table 1). Layout: the authors' code
(github.com/TobyPDE/FRRN): residual units without a ReLU behind the sum, a 1x1 convolution where the number of
channels changes, 32 channels of the residual stream, repeated upwards without interpolation. Their recipe is
bootstrapped cross-entropy (Sec. 4, here "ohem").

Departures: the border of the image is repeated at its end until the number of pixels is a multiple of the
largest pooling, and the scores are cut back, so that any image size works.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import BatchNorm2d, ConvNormAct, fit, resize, size_of
from ..types import DenseLogits, DenseModel, Paper

PAPER = Paper(
    "Full-Resolution Residual Networks for Semantic Segmentation in Street Scenes",
    "Pohlen, Hermans, Mathias, Leibe",
    "CVPR",
    2017,
    "https://arxiv.org/abs/1611.08323",
)

# Scale of each part of the pooling stream, number of its units, and channels as a multiple of the width
# (Table 1).
Part = tuple[int, int, int]
FRRN_A: tuple[Part, ...] = (
    (2, 3, 2),
    (4, 4, 4),
    (8, 2, 8),
    (16, 2, 8),
    (8, 2, 4),
    (4, 2, 4),
    (2, 2, 2),
)
FRRN_B: tuple[Part, ...] = (
    (2, 3, 2),
    (4, 4, 4),
    (8, 2, 8),
    (16, 2, 8),
    (32, 2, 8),
    (16, 2, 4),
    (8, 2, 4),
    (4, 2, 4),
    (2, 2, 2),
)


class ResidualUnit(nn.Module):
    """Residual unit (Fig. 2a).

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            ConvNormAct(c_in, c_out), nn.Conv2d(c_out, c_out, 3, padding=1, bias=False), BatchNorm2d(c_out)
        )
        self.shortcut = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b _ h w"]:
        """Add the residual."""
        total: Tensor = self.shortcut(x) + self.residual(x)
        return total


class FullResolutionResidualUnit(nn.Module):
    """Full-resolution residual unit (Fig. 2b).

    Args:
        c_in: channels of the pooling stream.
        c_out: its channels behind the unit.
        c_residual: channels of the residual stream.
        scale: pixels of the residual stream per pixel of the pooling stream.
    """

    def __init__(self, c_in: int, c_out: int, c_residual: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.join = nn.Sequential(ConvNormAct(c_in + c_residual, c_out), ConvNormAct(c_out, c_out))
        self.give_back = nn.Conv2d(c_out, c_residual, 1)

    def forward(
        self, pooled: Float[Tensor, "b _ h w"], residual: Float[Tensor, "b r H W"]
    ) -> tuple[Float[Tensor, "b _ h w"], Float[Tensor, "b r H W"]]:
        """Both streams behind the unit."""
        seen = F.max_pool2d(residual, self.scale)
        pooled = self.join(torch.cat([pooled, seen], dim=1))
        size = (residual.shape[-2], residual.shape[-1])
        return pooled, residual + F.interpolate(self.give_back(pooled), size, mode="nearest")


class FRRN(DenseModel):
    """Residual units at full resolution, the two streams, and residual units again (Fig. 3, Table 1).

    Args:
        num_classes: number of channels k of the logits.
        parts: scale, number of units and multiple of the width, of each part of the pooling stream.
        in_channels: of the image.
        width: channels of the residual units at full resolution.
        c_residual: channels of the residual stream.
    """

    encoder_parts = ("stem", "split")

    def __init__(
        self,
        num_classes: int,
        parts: Sequence[Part],
        *,
        in_channels: int = 3,
        width: int = 48,
        c_residual: int = 32,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.scales = [scale for scale, _, _ in parts]
        self.stem = nn.Sequential(
            ConvNormAct(in_channels, width, 5), *(ResidualUnit(width, width) for _ in range(3))
        )
        self.split = nn.Sequential(nn.Conv2d(width, c_residual, 1, bias=False), BatchNorm2d(c_residual))
        self.parts = nn.ModuleList()
        c = width
        for scale, count, multiple in parts:
            channels = [c, *[multiple * width] * count]
            self.parts.append(
                nn.ModuleList(
                    FullResolutionResidualUnit(a, b, c_residual, scale) for a, b in pairwise(channels)
                )
            )
            c = multiple * width
        self.last = nn.Sequential(
            ResidualUnit(c + c_residual, width), ResidualUnit(width, width), ResidualUnit(width, width)
        )
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = height, width = size_of(image, self.minimum_size)
        m = max(self.scales)
        pooled = self.stem(fit(image, (-(-height // m) * m, -(-width // m) * m)))
        residual = self.split(pooled)
        scale = 1
        for wanted, part in zip(self.scales, self.parts, strict=True):
            pooled, scale = rescaled(pooled, scale, wanted), wanted
            for unit in part.children():
                pooled, residual = unit(pooled, residual)
        joined = torch.cat([rescaled(pooled, scale, 1), residual], dim=1)
        return DenseLogits(fit(self.head(self.last(joined)), size), size)


def rescaled(x: Float[Tensor, "b c _ _"], scale: int, wanted: int) -> Float[Tensor, "b c _ _"]:
    """The pooling stream at another scale: maxima on the way down, interpolated on the way up."""
    if wanted > scale:
        return F.max_pool2d(x, wanted // scale)
    factor = scale // wanted
    return resize(x, (factor * x.shape[-2], factor * x.shape[-1]))


def frrn_a(num_classes: int, *, in_channels: int = 3, width: int = 48) -> FRRN:
    """FRRN A: the pooling stream goes down to a sixteenth, for images of a quarter of Cityscapes' size."""
    return FRRN(num_classes, FRRN_A, in_channels=in_channels, width=width)


def frrn_b(num_classes: int, *, in_channels: int = 3, width: int = 48) -> FRRN:
    """FRRN B: the pooling stream goes down to a thirty-second, for images of half of Cityscapes' size."""
    return FRRN(num_classes, FRRN_B, in_channels=in_channels, width=width)
