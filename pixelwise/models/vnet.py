"""V-Net: a U-Net for volumes with residual stages, and no pooling: convolutions halve the volume.

Fig. 2 of the paper: 5x5x5 convolutions with PReLU; a stage adds its input to what its convolutions give. A
2x2x2 convolution of stride 2 leads down and doubles the channels, a transposed one leads up and halves them,
before the map of the same size from the way down is concatenated. The network was trained with the Dice loss
with squared denominators (`losses.Dice(squared=True)`, which the paper introduced), without batch norm.

The paper's stages have 1, 2, 3, 3, 3 convolutions down and 3, 3, 2, 1 up (they give the receptive fields of
its Table 1). The network that the authors released (`vnet_released`) has 1, 1, 2, 3, 3 and 3, 2, 1, 1, and a
5x5x5 convolution with PReLU before the last one.

Departures: any number of channels, classes and voxels; volumes that 16 does not divide are extended by
repeating their border.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..layers import extend_to_multiple, volume_size
from ..types import DenseLogits, DenseModel, Paper

PAPER = Paper(
    "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation",
    "Milletari, Navab, Ahmadi",
    "3DV",
    2016,
    "https://arxiv.org/abs/1606.04797",
)

DOWN, UP = (1, 2, 3, 3, 3), (3, 3, 2, 1)  # convolutions of each stage


class ResidualStage(nn.Module):
    """5x5x5 convolutions with PReLU; the input is added before the last PReLU.

    Args:
        c_in: channels of the input.
        channels: of all convolutions.
        count: of convolutions.
    """

    def __init__(self, c_in: int, channels: int, count: int) -> None:
        super().__init__()
        inputs = [c_in] + [channels] * (count - 1)
        self.convolutions = nn.ModuleList(nn.Conv3d(c, channels, 5, padding=2) for c in inputs)
        self.activations = nn.ModuleList(nn.PReLU(channels) for _ in inputs)

    def forward(
        self, x: Float[Tensor, "b _ D H W"], residual: Float[Tensor, "b c D H W"]
    ) -> Float[Tensor, "b c D H W"]:
        """The convolutions of `x`, with `residual` added."""
        for i, (convolution, activation) in enumerate(zip(self.convolutions, self.activations, strict=True)):
            x = convolution(x)
            x = activation(x + residual if i == len(self.convolutions) - 1 else x)
        return x


class VNet(DenseModel):
    """V-Net.

    Args:
        num_classes: number of channels k of the logits.
        in_channels: of the volume.
        width: channels of the first stage; each stage below doubles them.
        down: convolutions of each stage on the way down, finest first.
        up: convolutions of each stage on the way up, coarsest first.

    Raises:
        ValueError: if there is not one stage less up than down, or the volume's channels do not divide the
            width: the first stage adds them, repeated.
    """

    tasks = ("volume",)
    minimum_size = 16

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 1,
        width: int = 16,
        down: Sequence[int] = DOWN,
        up: Sequence[int] = UP,
    ) -> None:
        super().__init__()
        if len(up) != len(down) - 1:
            raise ValueError(f"{len(down)} stages down need {len(down) - 1} up, got {len(up)}")
        if width % in_channels:
            raise ValueError(f"in_channels must divide the width {width}, got {in_channels}")
        self.num_classes, self.in_channels = num_classes, in_channels
        c = [width * 2**level for level in range(len(down))]
        self.repeats, self.multiple = width // in_channels, 2 ** (len(down) - 1)
        self.down = nn.ModuleList(
            ResidualStage(in_channels if level == 0 else c[level], c[level], count)
            for level, count in enumerate(down)
        )
        self.downsample = nn.ModuleList(
            nn.Sequential(nn.Conv3d(a, b, 2, stride=2), nn.PReLU(b)) for a, b in pairwise(c)
        )
        # On the way up a stage is as wide as its two inputs together.
        wide = [c[-1], *(2 * skip for skip in c[-2::-1])]
        skips = c[-2::-1]
        self.upsample = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose3d(a, b, 2, stride=2), nn.PReLU(b))
            for a, b in zip(wide, skips, strict=False)
        )
        self.up = nn.ModuleList(
            ResidualStage(2 * b, 2 * b, count) for b, count in zip(skips, up, strict=True)
        )
        self.head: nn.Module = nn.Conv3d(2 * width, num_classes, 1)
        self.apply(_initialise)

    def forward(self, image: Float[Tensor, "b c D H W"]) -> DenseLogits:
        """Score every voxel; see `DenseModel`."""
        size = depth, height, width = volume_size(image, self.minimum_size)
        x = extend_to_multiple(image, self.multiple)
        residual = x.repeat(1, self.repeats, 1, 1, 1)
        skips: list[Tensor] = []
        for level, stage in enumerate(self.down):
            if level:
                x = residual = self.downsample[level - 1](x)
            x = stage(x, residual)
            skips.append(x)
        for upsample, stage, skip in zip(self.upsample, self.up, skips[-2::-1], strict=True):
            x = torch.cat([upsample(x), skip], dim=1)
            x = stage(x, x)
        return DenseLogits(self.head(x)[:, :, :depth, :height, :width], size)


class VNetReleased(VNet):
    """V-Net as the authors' code has it: fewer convolutions, and one more to the classes.

    Args:
        num_classes: number of channels k of the logits.
        in_channels: of the volume.
        width: channels of the first stage; each stage below doubles them.
    """

    def __init__(self, num_classes: int, *, in_channels: int = 1, width: int = 16) -> None:
        super().__init__(
            num_classes, in_channels=in_channels, width=width, down=(1, 1, 2, 3, 3), up=(3, 2, 1, 1)
        )
        self.head = nn.Sequential(
            nn.Conv3d(2 * width, num_classes, 5, padding=2),
            nn.PReLU(num_classes),
            nn.Conv3d(num_classes, num_classes, 1),
        )
        self.head.apply(_initialise)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=0.25)  # PReLU starts with that slope
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# --- builders -------------------------------------------------------------------------------------


def vnet(num_classes: int, *, in_channels: int = 1, width: int = 16) -> VNet:
    """V-Net as in the paper's Fig. 2 and Table 1."""
    return VNet(num_classes, in_channels=in_channels, width=width)


def vnet_released(num_classes: int, *, in_channels: int = 1, width: int = 16) -> VNetReleased:
    """V-Net as in the authors' code: 62.0 million parameters for two classes."""
    return VNetReleased(num_classes, in_channels=in_channels, width=width)
