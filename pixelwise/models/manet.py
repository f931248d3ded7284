"""MA-Net: a U-Net that attends to positions at its lowest level and to channels wherever it joins two maps.

The position-wise attention block (PAB, Fig. 3) relates every position of the last map to every other; the
multi-scale fusion attention block (MFAB, Fig. 4) gates the upsampled map by what it and the skip hold,
channel by channel, before the two are convolved together.

The layout is that of the MAnet in Segmentation Models PyTorch, whose weights `from_smp_manet` reads. As
there, the softmax of the PAB runs over all pairs of positions at once, and its result, positions x channels,
is laid out as a map without being transposed.

Departures: maps are resized to the size of their partner instead of being upsampled 2x, so any image size
works, with equal results where SMP accepts the size.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import ConvNormAct, size_of
from ..types import STAGES, BuiltBy, DenseLogits, DenseModel, Paper
from .smp import load_smp_weights, smp_arguments
from .unet import DoubleConv

PAPER = Paper(
    "MA-Net: A Multi-Scale Attention Network for Liver and Tumor Segmentation",
    "Fan, Wang, Li, Wang",
    "IEEE Access",
    2020,
    "https://ieeexplore.ieee.org/document/9201310",
)


class PositionAttention(nn.Module):
    """Position-wise attention block (Fig. 3).

    Args:
        c: channels of input and output.
        c_pair: channels in which two positions are compared.
    """

    def __init__(self, c: int, c_pair: int = 64) -> None:
        super().__init__()
        self.top = nn.Conv2d(c, c_pair, 1)
        self.center = nn.Conv2d(c, c_pair, 1)
        self.bottom = nn.Conv2d(c, c, 3, padding=1)
        self.out = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Add to each position what the others hold."""
        pairs = self.center(x).flatten(2).transpose(1, 2) @ self.top(x).flatten(2)  # b hw hw
        shares = pairs.flatten(1).softmax(1).view_as(pairs)
        seen = shares @ self.bottom(x).flatten(2).transpose(1, 2)  # b hw c
        attended: Tensor = self.out(x + seen.reshape(x.shape))
        return attended


class ChannelGate(nn.Sequential):
    """A factor in (0, 1) for each channel: global pooling, two 1x1 convolutions, sigmoid.

    Args:
        c: channels of the map.
        reduction: of the channels between the two.
    """

    def __init__(self, c: int, reduction: int = 16) -> None:
        inner = max(1, c // reduction)
        super().__init__(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(c, inner, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, c, 1),
            nn.Sigmoid(),
        )


class FusionAttention(nn.Module):
    """Multi-scale fusion attention block (Fig. 4).

    Args:
        c_in: channels of the lower map.
        c_skip: channels of the skip.
        c_out: channels of the output.
    """

    def __init__(self, c_in: int, c_skip: int, c_out: int) -> None:
        super().__init__()
        self.high = nn.Sequential(ConvNormAct(c_in, c_in), ConvNormAct(c_in, c_skip, 1))
        self.low_gate, self.high_gate = ChannelGate(c_skip), ChannelGate(c_skip)
        self.merge = DoubleConv(2 * c_skip, c_out)

    def forward(
        self, x: Float[Tensor, "b _ _ _"], skip: Float[Tensor, "b _ h w"]
    ) -> Float[Tensor, "b _ h w"]:
        """Bring `x` to the size of `skip`, gate it, merge the two."""
        x = F.interpolate(self.high(x), (skip.shape[-2], skip.shape[-1]), mode="nearest")
        x = x * (self.high_gate(x) + self.low_gate(skip))
        merged: Tensor = self.merge(torch.cat([x, skip], dim=1))
        return merged


class MANet(DenseModel):
    """Encoder, position-wise attention, four fusion attention blocks, two convolutions at image size.

    Args:
        encoder: gives all five stages.
        num_classes: number of channels k of the logits.
        width: channels of the decoder at full resolution; each level below doubles them.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, width: int = 16) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        c1, c2, c3, c4, c5 = encoder.channels
        c = [16 * width, 8 * width, 4 * width, 2 * width]
        self.context = PositionAttention(c5)
        self.decoder = nn.ModuleList(
            FusionAttention(below, skip, c_out)
            for below, skip, c_out in zip([c5, *c], [c4, c3, c2, c1], c, strict=False)
        )
        self.last = DoubleConv(2 * width, width)
        self.head = nn.Conv2d(width, num_classes, 3, padding=1)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        x = self.context(features.c5)
        skips = (features.c4, features.c3, features.c2, features.c1)
        for block, skip in zip(self.decoder, skips, strict=True):
            x = block(x, skip)
        x = self.last(F.interpolate(x, size, mode="nearest"))
        return DenseLogits(self.head(x), size)


def manet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet34",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 16,
) -> MANet:
    """MA-Net on any encoder that has a stage of stride 2."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return MANet(made, num_classes, width=width)


# SMP's names on the left, as regular expressions.
_NAMES = (
    (r"^decoder\.center\.(\w+?)_conv\.", r"context.\1."),
    (r"^decoder\.blocks\.4\.conv1\.", "last.0."),
    (r"^decoder\.blocks\.4\.conv2\.", "last.1."),
    (r"^decoder\.blocks\.(\d)\.hl_conv\.", r"decoder.\1.high."),
    (r"^decoder\.blocks\.(\d)\.SE_ll\.", r"decoder.\1.low_gate."),
    (r"^decoder\.blocks\.(\d)\.SE_hl\.", r"decoder.\1.high_gate."),
    (r"^decoder\.blocks\.(\d)\.conv1\.", r"decoder.\1.merge.0."),
    (r"^decoder\.blocks\.(\d)\.conv2\.", r"decoder.\1.merge.1."),
)


def from_smp_manet(state_dict: dict[str, Tensor], *, encoder: str) -> MANet:
    """A MAnet trained with SMP, with equal logits, in eval mode; sizes of the decoder are SMP's defaults.

    Args:
        state_dict: `smp_model.state_dict()`.
        encoder: `encoder_name` as given to SMP, see `from_smp`.

    Raises:
        ValueError: if the encoder is not supported, or the weights do not fit.
    """
    arguments = smp_arguments(state_dict, encoder)
    model = manet(**arguments)
    load_smp_weights(model, state_dict, _NAMES, f"MAnet with {encoder!r}")
    model.built_by = BuiltBy("manet", arguments)
    return model
