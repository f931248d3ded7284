"""FC-DenseNet, "the Tiramisu": a U-Net whose blocks stack every new map on all that came before.

A layer is batch norm, ReLU, 3x3 convolution to a few new maps (the growth rate), dropout; in a dense block
each layer sees the block's input and all new maps (paper Fig. 2). On the way down the whole stack is kept as
a skip and halved (transition down, Table 1). On the way up only the new maps of the last block are doubled
(transition up) and put before the skip, or the stack would grow too large (Fig. 1, Sec. 3.2).

Channels are those of the authors' code (github.com/SimJeg/FC-DenseNet). The numbers of the paper's Table 2
for the decoder of FC-DenseNet103 are 16 too small, as their README says: 1088, 816, 576, 384, 256. All
convolutions have a bias; weights begin as He et al.'s uniform ones.

Departures: batch norm uses running statistics in evaluation; the authors use those of the image at hand
(`for m in model.modules(): if isinstance(m, nn.BatchNorm2d): m.train()` does the same). Any size works: the
doubled map has 2 n + 1 rows and columns, enough for the skip of an odd one too; what is too much is cut off
at the end, as there.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..layers import BatchNorm2d, fit, size_of
from ..types import DenseLogits, DenseModel, Paper

PAPER = Paper(
    "The One Hundred Layers Tiramisu: Fully Convolutional DenseNets for Semantic Segmentation",
    "Jégou, Drozdzal, Vazquez, Romero, Bengio",
    "CVPR Workshops 2017",
    2016,
    "https://arxiv.org/abs/1611.09326",
)


class Layer(nn.Sequential):
    """Batch norm, ReLU, convolution, dropout (Table 1)."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3) -> None:
        super().__init__(
            BatchNorm2d(c_in),
            nn.ReLU(inplace=True),
            nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2),
            nn.Dropout(0.2),
        )


class DenseBlock(nn.ModuleList):
    """Layers that each see the input and what all layers before them gave (Fig. 2).

    Args:
        c_in: channels of the input.
        growth: channels that each layer gives.
        layers: number of layers.
    """

    def __init__(self, c_in: int, growth: int, layers: int) -> None:
        super().__init__(Layer(c_in + i * growth, growth) for i in range(layers))

    def forward(self, x: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b _ h w"]:
        """The new maps of all layers, without the input."""
        new: list[Tensor] = []
        for layer in self:
            new.append(layer(torch.cat([x, *new], dim=1)))
        return torch.cat(new, dim=1)


class TransitionDown(nn.Sequential):
    """A layer with a 1x1 convolution, and max pooling (Table 1)."""

    def __init__(self, c: int) -> None:
        super().__init__(Layer(c, c, 1), nn.MaxPool2d(2))


class FCDenseNet(DenseModel):
    """Five dense blocks down, one between, five up.

    Args:
        num_classes: number of channels k of the logits.
        growth: channels that each layer adds.
        layers: number of layers of each of the eleven blocks.
        in_channels: of the image.
        width: channels of the first convolution.
    """

    encoder_parts = ("first", "down", "transitions_down")

    def __init__(
        self,
        num_classes: int,
        growth: int,
        layers: tuple[int, ...],
        *,
        in_channels: int = 3,
        width: int = 48,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        half = len(layers) // 2
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.down, self.transitions_down = nn.ModuleList(), nn.ModuleList()
        c, skips = width, []
        for count in layers[:half]:
            self.down.append(DenseBlock(c, growth, count))
            c += growth * count
            skips.append(c)
            self.transitions_down.append(TransitionDown(c))
        self.bottleneck = DenseBlock(c, growth, layers[half])
        self.up, self.transitions_up = nn.ModuleList(), nn.ModuleList()
        for before, count in zip(layers[half:], layers[half + 1 :], strict=False):
            new = growth * before
            self.transitions_up.append(nn.ConvTranspose2d(new, new, 3, stride=2))
            c = new + skips.pop()
            self.up.append(DenseBlock(c, growth, count))
        self.head = nn.Conv2d(c + growth * layers[-1], num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        stack, skips = self.first(image), []
        for block, shrink in zip(self.down, self.transitions_down, strict=True):
            stack = torch.cat([stack, block(stack)], dim=1)
            skips.append(stack)
            stack = shrink(stack)
        new = self.bottleneck(stack)
        for grow, block in zip(self.transitions_up, self.up, strict=True):
            skip = skips.pop()
            stack = torch.cat([fit(grow(new), size_of(skip, 1)), skip], dim=1)
            new = block(stack)
        return DenseLogits(self.head(torch.cat([stack, new], dim=1)), size)


def fc_densenet56(num_classes: int, *, in_channels: int = 3, width: int = 48) -> FCDenseNet:
    """Four layers in each block, growth rate 12 (a quarter of the width)."""
    return FCDenseNet(num_classes, width // 4, (4,) * 11, in_channels=in_channels, width=width)


def fc_densenet67(num_classes: int, *, in_channels: int = 3, width: int = 48) -> FCDenseNet:
    """Five layers in each block, growth rate 16 (a third of the width)."""
    return FCDenseNet(num_classes, width // 3, (5,) * 11, in_channels=in_channels, width=width)


def fc_densenet103(num_classes: int, *, in_channels: int = 3, width: int = 48) -> FCDenseNet:
    """Four to fifteen layers in a block, growth rate 16 (a third of the width)."""
    layers = (4, 5, 7, 10, 12, 15, 12, 10, 7, 5, 4)
    return FCDenseNet(num_classes, width // 3, layers, in_channels=in_channels, width=width)
