"""Stacked Hourglass: from large to small and back again, several times; each time the joints are told.

One hourglass (Fig. 3 of the paper) halves the map four times and upsamples it back by repetition; at each
size a residual block carries the map over. Behind each hourglass heatmaps are predicted, compared with the
target, and fed into the next one together with the features (Fig. 4).

The network is that of the authors' Torch code: residual blocks are of the pre-activation form with half the
channels inside, the heatmaps have a quarter of the crop's size, and pixel values in [0, 1] are taken as they
are. Departure: crops of any size of at least 32 pixels (poolings round up), not only 256 x 256.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import BatchNorm2d, size_of
from ..types import HeatmapModel, Heatmaps, Paper

PAPER = Paper(
    "Stacked Hourglass Networks for Human Pose Estimation",
    "Newell, Yang, Deng",
    "ECCV",
    2016,
    "https://arxiv.org/abs/1603.06937",
)

MPII_JOINTS = 16
HALVINGS = 4


class Residual(nn.Module):
    """Norm, ReLU and convolution three times (1x1, 3x3, 1x1), and the input added.

    Args:
        c_in: channels of the input.
        c_out: channels of the output; half of them inside.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        c = c_out // 2
        self.body = nn.Sequential(
            BatchNorm2d(c_in),
            nn.ReLU(inplace=True),
            nn.Conv2d(c_in, c, 1),
            BatchNorm2d(c),
            nn.ReLU(inplace=True),
            nn.Conv2d(c, c, 3, padding=1),
            BatchNorm2d(c),
            nn.ReLU(inplace=True),
            nn.Conv2d(c, c_out, 1),
        )
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b _ h w"]:
        """The sum."""
        return self.body(x) + self.skip(x)


class Hourglass(nn.Module):
    """Halve the map, do the same inside, upsample it, and add what went around it.

    Args:
        channels: of all maps.
        depth: how often the map is halved.
    """

    def __init__(self, channels: int, depth: int = HALVINGS) -> None:
        super().__init__()
        self.around = Residual(channels, channels)
        self.before = Residual(channels, channels)
        self.inside = Hourglass(channels, depth - 1) if depth > 1 else Residual(channels, channels)
        self.after = Residual(channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """A map of the same size."""
        small = self.after(self.inside(self.before(F.max_pool2d(x, 2, ceil_mode=True))))
        return self.around(x) + F.interpolate(small, (x.shape[-2], x.shape[-1]), mode="nearest")


class StackedHourglass(HeatmapModel):
    """Several hourglasses, each with heatmaps of its own; those of the last one count.

    Args:
        num_joints: number of heatmaps j.
        stacks: number of hourglasses.
        in_channels: of the image.
        width: channels of the features.
    """

    def __init__(
        self, num_joints: int = MPII_JOINTS, *, stacks: int = 8, in_channels: int = 3, width: int = 256
    ) -> None:
        super().__init__()
        if stacks < 1:
            raise ValueError(f"a stacked hourglass has at least one stack, got {stacks}")
        self.num_joints, self.in_channels = num_joints, in_channels
        first = [nn.Conv2d(in_channels, width // 4, 7, 2, 3), BatchNorm2d(width // 4), nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(
            *first,
            Residual(width // 4, width // 2),
            nn.MaxPool2d(2, ceil_mode=True),
            Residual(width // 2, width // 2),
            Residual(width // 2, width),
        )
        self.hourglasses = nn.ModuleList(Hourglass(width) for _ in range(stacks))
        self.features = nn.ModuleList(
            nn.Sequential(
                Residual(width, width), nn.Conv2d(width, width, 1), BatchNorm2d(width), nn.ReLU(inplace=True)
            )
            for _ in range(stacks)
        )
        self.heads = nn.ModuleList(nn.Conv2d(width, num_joints, 1) for _ in range(stacks))
        # What the next hourglass is given of this one's features and heatmaps.
        self.feature_links = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(stacks - 1))
        self.heatmap_links = nn.ModuleList(nn.Conv2d(num_joints, width, 1) for _ in range(stacks - 1))

    def forward(self, image: Float[Tensor, "b c H W"]) -> Heatmaps:
        """One map per joint; see `HeatmapModel`. While training, `aux` has those of the earlier stacks."""
        size = size_of(image, self.minimum_size)
        x = self.stem(image)
        told: list[Tensor] = []
        for stack, hourglass in enumerate(self.hourglasses):
            features = self.features[stack](hourglass(x))
            told.append(self.heads[stack](features))
            if stack < len(self.feature_links):
                x = x + self.feature_links[stack](features) + self.heatmap_links[stack](told[-1])
        return Heatmaps(told[-1], size, aux=tuple(told[-2::-1]) if self.training else ())


# --- builders -------------------------------------------------------------------------------------


def hourglass(
    num_joints: int = MPII_JOINTS, *, stacks: int = 2, in_channels: int = 3, width: int = 256
) -> StackedHourglass:
    """Stacked Hourglass of any number of stacks and channels."""
    return StackedHourglass(num_joints, stacks=stacks, in_channels=in_channels, width=width)


def hourglass_2(num_joints: int = MPII_JOINTS, *, in_channels: int = 3) -> StackedHourglass:
    """Stacked Hourglass of two stacks: 6.7 million parameters."""
    return StackedHourglass(num_joints, stacks=2, in_channels=in_channels)


def hourglass_8(num_joints: int = MPII_JOINTS, *, in_channels: int = 3) -> StackedHourglass:
    """Stacked Hourglass of eight stacks, as published: 25.6 million parameters."""
    return StackedHourglass(num_joints, stacks=8, in_channels=in_channels)
