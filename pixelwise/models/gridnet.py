"""GridNet: a grid of streams, from full resolution down, along which a network may take any path.

Streams run from left to right, each with half the resolution and twice the channels of the one above (Fig.
1). Residual units carry a stream from column to column, in the left half subsampling units lead down, in the
right half upsampling units lead up, and what meets is added (Sec. 3). Convolution-deconvolution networks,
U-Nets and full-resolution residual networks are paths through the grid (Fig. 2): cut the other connections.

Short paths would learn first and starve the low streams. So residual units are dropped at random while
training, each for the whole batch (Sec. 3.3): with probability 0.1, without any rescaling.

The layout is that of the authors' Torch code (github.com/Fourure/GridNet): batch norm on the image, three
columns each way, 16 to 256 channels, a batch norm on the scores. Its first column of the right half still
has convolutions in its residual units, later ones transposed convolutions, and so here.

Departures: maps are cut to the size of their partner, so that any image size works.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..layers import BatchNorm2d, fit, size_of
from ..types import DenseLogits, DenseModel, Paper

PAPER = Paper(
    "Residual Conv-Deconv Grid Network for Semantic Segmentation",
    "Fourure, Emonet, Fromont, Muselet, Tremeau, Wolf",
    "BMVC",
    2017,
    "https://arxiv.org/abs/1707.07958",
)


class TotalDropout(nn.modules.dropout._DropoutNd):
    """Drops the whole batch with probability p, or keeps it as it is: nothing is rescaled (Sec. 3.3)."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Zeros, or the input."""
        if not self.training:
            return input
        return input * (torch.rand((), device=input.device) >= self.p)


def up_convolution(c_in: int, c_out: int, *, stride: int = 1) -> nn.ConvTranspose2d:
    """3x3 transposed convolution that keeps the size, or doubles it."""
    return nn.ConvTranspose2d(c_in, c_out, 3, stride, padding=1, output_padding=stride - 1)


def unit(c_in: int, first: nn.Module, c_out: int, second: nn.Module) -> nn.Sequential:
    """Batch norm, ReLU, `first`, batch norm, ReLU, `second`."""
    return nn.Sequential(BatchNorm2d(c_in), nn.ReLU(), first, BatchNorm2d(c_out), nn.ReLU(), second)


class ResidualUnit(nn.Module):
    """From one column to the next in the same stream (Fig. 1, green).

    Args:
        c: channels of the stream.
        drop: probability to drop the residual while training.
        transposed: whether its convolutions are transposed.
    """

    def __init__(self, c: int, *, drop: float, transposed: bool) -> None:
        super().__init__()
        if transposed:
            self.residual = unit(c, up_convolution(c, c), c, up_convolution(c, c))
        else:
            self.residual = unit(c, nn.Conv2d(c, c, 3, padding=1), c, nn.Conv2d(c, c, 3, padding=1))
        self.drop = TotalDropout(drop)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Add the residual."""
        total: Tensor = x + self.drop(self.residual(x))
        return total


class SubsamplingUnit(nn.Sequential):
    """From a stream to the one below (Fig. 1, red)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        first = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)
        super().__init__(*unit(c_in, first, c_out, nn.Conv2d(c_out, c_out, 3, padding=1)))


class UpsamplingUnit(nn.Sequential):
    """From a stream to the one above (Fig. 1, yellow)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        first = up_convolution(c_in, c_out, stride=2)
        super().__init__(*unit(c_in, first, c_out, up_convolution(c_out, c_out)))


class DownColumn(nn.Module):
    """A column of the left half: every stream takes its own past and what the stream above now holds.

    Args:
        channels: of each stream, finest first.
        drop: probability to drop each residual.
        first: whether there is no past.
    """

    def __init__(self, channels: list[int], *, drop: float, first: bool = False) -> None:
        super().__init__()
        self.vertical = nn.ModuleList(SubsamplingUnit(a, b) for a, b in pairwise(channels))
        self.horizontal = nn.ModuleList(
            ResidualUnit(c, drop=drop, transposed=False) for c in ([] if first else channels)
        )

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        """The streams behind the column; the first column is given the finest stream alone."""
        if not self.horizontal:
            found = list(streams)
            for down in self.vertical:
                found.append(down(found[-1]))
            return found
        found = [self.horizontal[0](streams[0])]
        for residual, down, x in zip(self.horizontal[1:], self.vertical, streams[1:], strict=True):
            found.append(residual(x) + down(found[-1]))
        return found


class UpColumn(nn.Module):
    """A column of the right half: every stream takes its own past and what the stream below now holds.

    Args:
        channels: of each stream, finest first.
        drop: probability to drop each residual.
        transposed: whether the convolutions of the residual units are transposed.
    """

    def __init__(self, channels: list[int], *, drop: float, transposed: bool) -> None:
        super().__init__()
        self.vertical = nn.ModuleList(UpsamplingUnit(b, a) for a, b in pairwise(channels))
        self.horizontal = nn.ModuleList(ResidualUnit(c, drop=drop, transposed=transposed) for c in channels)

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        """The streams behind the column."""
        found = [self.horizontal[-1](streams[-1])]
        for number in reversed(range(len(self.vertical))):
            x = streams[number]
            above = fit(self.vertical[number](found[0]), (x.shape[-2], x.shape[-1]))
            found.insert(0, self.horizontal[number](x) + above)
        return found


class GridNet(DenseModel):
    """A grid of streams and columns (Fig. 1).

    Args:
        num_classes: number of channels k of the logits.
        in_channels: of the image.
        width: channels of the finest stream; each below has twice as many.
        streams: their number.
        columns: of either half.
        drop: probability to drop a residual unit while training.
    """

    encoder_parts = ("stem", "down")

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        width: int = 16,
        streams: int = 5,
        columns: int = 3,
        drop: float = 0.1,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        c = [width * 2**level for level in range(streams)]
        self.stem = nn.Sequential(
            BatchNorm2d(in_channels), *biased(in_channels, width), *biased(width, width)
        )
        self.down = nn.ModuleList(DownColumn(c, drop=drop, first=i == 0) for i in range(columns))
        self.up = nn.ModuleList(UpColumn(c, drop=drop, transposed=i > 0) for i in range(columns))
        self.head = nn.Sequential(
            up_convolution(width, num_classes),
            BatchNorm2d(num_classes),
            nn.ReLU(),
            up_convolution(num_classes, num_classes),
            BatchNorm2d(num_classes),
        )

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        streams = [self.stem(image)]
        for column in (*self.down, *self.up):
            streams = column(streams)
        return DenseLogits(self.head(streams[0]), size)


def biased(c_in: int, c_out: int) -> nn.Sequential:
    """3x3 convolution with bias, batch norm, ReLU."""
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1), BatchNorm2d(c_out), nn.ReLU())


def gridnet(
    num_classes: int,
    *,
    in_channels: int = 3,
    width: int = 16,
    streams: int = 5,
    columns: int = 3,
    drop: float = 0.1,
) -> GridNet:
    """GridNet, by default the authors' of five streams and six columns."""
    return GridNet(
        num_classes, in_channels=in_channels, width=width, streams=streams, columns=columns, drop=drop
    )
