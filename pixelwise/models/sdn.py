"""SDN: shallow encoder-decoders stacked one behind the other, each finding its places anew.

The first unit is an ImageNet DenseNet down to stride 16 with a decoder up to stride 4; each further one goes
down from 4 to 16 by pooling and up again by transposed convolution (paper Fig. 2, Sec. 3.1). Within a block
every layer sees all before it; between units, an encoder sees the decoder before it, and all decoders see the
first encoder (Sec. 3.2). Every decoder block is scored, and its scores are added to those that the unit
before gave at that stride; all are trained (hierarchical supervision, Sec. 3.3).

The authors gave no code. Widths 1024, 768 and 576 at strides 16, 8 and 4 and 48 channels per layer are those
on which two independent implementations agree; transposed convolutions are 4x4, blocks have two layers and
scores come from 1x1 convolutions, because with three units and 21 classes that makes 239.5 million
parameters, where 238.5 are listed for the paper's network.

Departures: dropout and the weights of the losses, which are not known, are left to the training; maps are cut
to the size of their partner, so any image size works.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import BatchNorm2d, fit, max_pool_up, size_of
from ..types import DenseLogits, DenseModel, Paper

PAPER = Paper(
    "Stacked Deconvolutional Network for Semantic Segmentation",
    "Fu, Liu, Wang, Lu",
    "arXiv",
    2017,
    "https://arxiv.org/abs/1708.04943",
)

NUM_LAYERS = 2


class DenseBlock(nn.Module):
    """Two layers that see all maps before them, then a 3x3 convolution that compresses (Fig. 2).

    Args:
        c_in: channels of the input.
        growth: channels that each layer adds.
        c_out: channels of the output.
    """

    def __init__(self, c_in: int, growth: int, c_out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, growth, 3, padding=1))
            for c in range(c_in, c_in + NUM_LAYERS * growth, growth)
        )
        self.compress = nn.Conv2d(c_in + NUM_LAYERS * growth, c_out, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ h w"]:
        """Grow and compress."""
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        compressed: Tensor = self.compress(x)
        return compressed


class Down(nn.Module):
    """Downsampling block: halves a map, joins one of the unit before (Fig. 2b)."""

    def __init__(self, c_in: int, c_partner: int, growth: int, c_out: int) -> None:
        super().__init__()
        self.block = DenseBlock(c_in + c_partner, growth, c_out)

    def forward(
        self, x: Float[Tensor, "b c _ _"], partner: Float[Tensor, "b p h w"]
    ) -> Float[Tensor, "b _ h w"]:
        """A map of the size of `partner`."""
        half = fit(max_pool_up(x)[0], size_of(partner, 1))
        joined: Tensor = self.block(torch.cat([half, partner], dim=1))
        return joined


class Up(nn.Module):
    """Upsampling block: doubles a map, joins one of the first encoder (Fig. 2c)."""

    def __init__(self, c_in: int, c_partner: int, growth: int, c_out: int) -> None:
        super().__init__()
        self.enlarge = nn.ConvTranspose2d(c_in, c_in, 4, stride=2, padding=1)
        self.block = DenseBlock(c_in + c_partner, growth, c_out)

    def forward(
        self, x: Float[Tensor, "b c _ _"], partner: Float[Tensor, "b p h w"]
    ) -> Float[Tensor, "b _ h w"]:
        """A map of the size of `partner`."""
        larger = fit(self.enlarge(x), size_of(partner, 1))
        joined: Tensor = self.block(torch.cat([larger, partner], dim=1))
        return joined


class SDN(DenseModel):
    """An encoder with a decoder, and further units behind it.

    Args:
        encoder: gives c2, c3 and c4 at strides 4, 8 and 16.
        num_classes: number of channels k of the logits.
        units: how many encoder-decoders.
        widths: channels at strides 16, 8 and 4.
        growth: channels that a layer of a block adds.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        units: int = 3,
        widths: tuple[int, int, int] = (1024, 768, 576),
        growth: int = 48,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        w16, w8, w4 = widths
        c2, c3, c4 = encoder.channels.c2, encoder.channels.c3, encoder.channels.c4
        self.compress = nn.Conv2d(c4, w16, 3, padding=1)
        self.downs8 = nn.ModuleList(Down(w4, w8, growth, w8) for _ in range(units - 1))
        self.downs16 = nn.ModuleList(Down(w8, w16, growth, w16) for _ in range(units - 1))
        self.ups8 = nn.ModuleList(Up(w16, c3, growth, w8) for _ in range(units))
        self.ups4 = nn.ModuleList(Up(w8, c2, growth, w4) for _ in range(units))
        self.scores8 = nn.ModuleList(nn.Conv2d(w8, num_classes, 1) for _ in range(units))
        self.scores4 = nn.ModuleList(nn.Conv2d(w4, num_classes, 1) for _ in range(units))

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        first = self.encoder(image)
        x16, x8, x4 = self.compress(first.c4), first.c3, first.c2
        found: list[Tensor] = []  # scores of strides 8 and 4, best first
        for unit, (up8, up4) in enumerate(zip(self.ups8, self.ups4, strict=True)):
            if unit:
                x16 = self.downs16[unit - 1](self.downs8[unit - 1](x4, x8), x16)
            x8 = up8(x16, first.c3)
            x4 = up4(x8, first.c2)
            score8, score4 = self.scores8[unit](x8), self.scores4[unit](x4)
            if found:
                score4, score8 = score4 + found[0], score8 + found[1]
            found = [score4, score8, *found]
        if not self.training:
            return DenseLogits(found[0], size)
        return DenseLogits(found[0], size, aux=tuple(found[1:]))  # b k H/4 W/4


def sdn(
    num_classes: int,
    *,
    encoder: str | Encoder = "densenet161",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    units: int = 3,
    width: int = 1024,
) -> SDN:
    """SDN on any encoder.

    Args:
        num_classes: number of channels k of the logits.
        encoder: name of a backbone, or an encoder.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: what pretrained colour filters become where the image is not RGB, see `adapt_stem`.
        units: how many encoder-decoders.
        width: channels at stride 16; three quarters of it at 8, and of that at 4.
    """
    made = make_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=("c2", "c3", "c4")
    )
    widths = width, max(3 * width // 4, 1), max(9 * width // 16, 1)
    return SDN(made, num_classes, units=units, widths=widths, growth=max(3 * width // 64, 4))


def sdn_densenet161(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    units: int = 3,
) -> SDN:
    """The paper's network of three units behind DenseNet-161."""
    return sdn(num_classes, in_channels=in_channels, pretrained=pretrained, stem=stem, units=units)
