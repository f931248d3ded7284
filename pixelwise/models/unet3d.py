"""3-D U-Net: the U-Net with all its operations in three dimensions.

Fig. 2 of the paper: four levels of two 3x3x3 convolutions, each with batch norm and ReLU; the second one
doubles the channels, before the pooling and not after it, to avoid a bottleneck. Transposed convolutions keep
the channels on the way back.

Departures: convolutions are padded, so that there are as many scores as voxels (the paper's lose the border
and give 44 x 44 x 28 scores for 132 x 132 x 116 voxels); volumes that the three poolings do not divide are
extended by repeating their border. Batch norm has a scale and a shift per channel, which the 19 069 955
parameters of the paper do not count.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import extend_to_multiple, volume_size
from ..types import DenseLogits, DenseModel, Paper

PAPER = Paper(
    "3D U-Net: Learning Dense Volumetric Segmentation from Sparse Annotation",
    "Çiçek, Abdulkadir, Lienkamp, Brox, Ronneberger",
    "MICCAI",
    2016,
    "https://arxiv.org/abs/1606.06650",
)

LEVELS = 4


class ConvNormAct3d(nn.Sequential):
    """A 3x3x3 convolution with batch norm and ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(nn.Conv3d(c_in, c_out, 3, padding=1), nn.BatchNorm3d(c_out), nn.ReLU(inplace=True))


class UNet3D(DenseModel):
    """3-D U-Net, padded.

    Args:
        num_classes: number of channels k of the logits.
        in_channels: of the volume.
        width: channels of the first convolution; 32 in the paper.
    """

    tasks = ("volume",)
    minimum_size = 16

    def __init__(self, num_classes: int, *, in_channels: int = 1, width: int = 32) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        c = [width * 2**level for level in range(LEVELS + 1)]
        inputs = [in_channels, *c[1:LEVELS]]
        self.down = nn.ModuleList(
            nn.Sequential(ConvNormAct3d(a, b), ConvNormAct3d(b, 2 * b))
            for a, b in zip(inputs, c, strict=False)
        )
        below, skip = c[:1:-1], c[-2:0:-1]
        self.up = nn.ModuleList(nn.ConvTranspose3d(a, a, 2, stride=2, bias=False) for a in below)
        self.merge = nn.ModuleList(
            nn.Sequential(ConvNormAct3d(a + b, b), ConvNormAct3d(b, b))
            for a, b in zip(below, skip, strict=True)
        )
        self.head = nn.Conv3d(2 * width, num_classes, 1)

    def forward(self, image: Float[Tensor, "b c D H W"]) -> DenseLogits:
        """Score every voxel; see `DenseModel`."""
        size = volume_size(image, self.minimum_size)
        x = extend_to_multiple(image, 2 ** (LEVELS - 1))
        skips: list[Tensor] = []
        for level in self.down:
            x = level(F.max_pool3d(x, 2) if skips else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = merge(torch.cat([skip, up(x)], dim=1))
        depth, height, width = size
        return DenseLogits(self.head(x)[:, :, :depth, :height, :width], size)


# --- builder --------------------------------------------------------------------------------------


def unet3d(num_classes: int, *, in_channels: int = 1, width: int = 32) -> UNet3D:
    """3-D U-Net, padded, with batch norm."""
    return UNet3D(num_classes, in_channels=in_channels, width=width)
