"""GoogLeNet: blocks that look at a map with filters of several sizes at once.

An Inception block (paper Fig. 2b) concatenates a 1x1, a 3x3 and a 5x5 convolution and a max pooling, the
larger filters behind 1x1 convolutions that reduce the channels; nine of them follow three convolutions (Table
1). Not built by itself: FCN-32s starts from it (`fcn32s.py`). Modules have torchvision's names, so that its
weights fit.

Departures, all torchvision's: batch norm in place of biases, and the filters of the third branch are 3x3, not
5x5. The two auxiliary classifiers and the last layers are left out.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import BatchNorm2d, max_pool_up
from ..types import Paper

PAPER = Paper(
    "Going Deeper with Convolutions",
    "Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich",
    "CVPR 2015",
    2014,
    "https://arxiv.org/abs/1409.4842",
)

# Channels of each block: of the 1x1 filters; of the 3x3 ones, reduced and given; likewise of the third
# branch; behind the pooling (Table 1).
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class Convolution(nn.Module):
    """Convolution that keeps the size at stride 1 unless told otherwise, batch norm, ReLU."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, *, stride: int = 1, padding: int | None = None
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)
        self.bn = BatchNorm2d(c_out, eps=0.001)

    def forward(self, x: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b _ _ _"]:
        """The maps."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    """Four branches, concatenated.

    Args:
        c_in: channels of the input.
        c: channels of the branches, as in `INCEPTION`.
    """

    def __init__(self, c_in: int, c: tuple[int, ...]) -> None:
        super().__init__()
        self.branch1 = Convolution(c_in, c[0], 1)
        self.branch2 = nn.Sequential(Convolution(c_in, c[1], 1), Convolution(c[1], c[2], 3))
        self.branch3 = nn.Sequential(Convolution(c_in, c[3], 1), Convolution(c[3], c[4], 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), Convolution(c_in, c[5], 1))

    def forward(self, x: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b _ h w"]:
        """The maps of all branches."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class GoogLeNetFeatures(nn.Module):
    """All up to the last average pooling, stride 32; 1024 channels.

    Args:
        in_channels: of the image.
        padding: zeros around the image; 3 in the classifier.
        width: channels of the first convolution; all others shrink and grow with it.

    Attributes:
        channels: of the output.
    """

    def __init__(self, *, in_channels: int = 3, padding: int = 3, width: int = 64) -> None:
        super().__init__()
        self.conv1 = Convolution(in_channels, width, 7, stride=2, padding=padding)
        self.conv2 = Convolution(width, width, 1)
        self.conv3 = Convolution(width, 3 * width, 3)
        c = 3 * width
        for name, published in INCEPTION.items():
            widths = tuple(channels * width // 64 for channels in published)
            self.add_module(f"inception{name}", Inception(c, widths))
            c = widths[0] + widths[2] + widths[4] + widths[5]
        self.channels = c

    def forward(self, x: Float[Tensor, "b c H W"]) -> Float[Tensor, "b _ _ _"]:
        """The last map of a normalised image; poolings round up."""
        x, _ = max_pool_up(self.conv1(x), 3)
        x, _ = max_pool_up(self.conv3(self.conv2(x)), 3)
        for name in INCEPTION:
            x = getattr(self, f"inception{name}")(x)
            if name in ("3b", "4e"):
                x, _ = max_pool_up(x, 3 if name == "3b" else 2)
        return x
