"""PANet: Mask R-CNN whose features go up the pyramid again, and whose regions see all levels (Fig. 1).

Three changes. A bottom-up path behind the feature pyramid: details of P2 reach the coarsest level through
fewer than ten layers instead of the whole encoder (Sec. 3.1, Fig. 2). Adaptive feature pooling: each region
is pooled from every level, each level has a first layer of its own, and the maximum of what they say goes on
(Sec. 3.2, Fig. 3). Fully-connected fusion: beside the convolutions that draw the mask, a fully connected
branch, for which places differ, draws one for all classes, and both are added (Sec. 3.3, Fig. 4).

The network is not the pyramid attention network (`pan.py`). Departures: group norms of the authors' code, as
in their baseline; the box head is the code's (four convolutions, one hidden layer).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..types import AssignedBoxes, Paper
from .fast_rcnn import BoxHead
from .faster_rcnn import STAGES, FasterRCNN, RegionProposalNetwork
from .feature_pyramid import FeaturePyramid, RegionPooling
from .mask_rcnn import MaskHead, MaskRCNN

PAPER = Paper(
    "Path Aggregation Network for Instance Segmentation",
    "Liu, Qi, Qin, Shi, Jia",
    "CVPR",
    2018,
    "https://arxiv.org/abs/1803.01534",
)


def norm_act(c_in: int, c_out: int, *, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, group norm of 32 groups (fewer where there are fewer channels), ReLU."""
    convolution = nn.Conv2d(c_in, c_out, 3, stride, 1)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.Sequential(convolution, nn.GroupNorm(math.gcd(32, c_out), c_out), nn.ReLU(inplace=True))


class PathAggregation(FeaturePyramid):
    """A feature pyramid, and a path from its finest to its coarsest level (Sec. 3.1).

    Args:
        channels: of the encoder's stages, finest first.
        c_out: channels of every level.
    """

    def __init__(self, channels: Sequence[int], c_out: int = 256) -> None:
        super().__init__(channels, c_out)
        self.down = nn.ModuleList(norm_act(c_out, c_out, stride=2) for _ in channels[1:])
        self.fused = nn.ModuleList(norm_act(c_out, c_out) for _ in channels[1:])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """N2 to N5, each of the size of its map."""
        first, *coarser = super().forward(maps)
        levels = [first]
        for down, fused, level in zip(self.down, self.fused, coarser, strict=True):
            levels.append(fused(down(levels[-1]) + level))
        return levels


class AdaptivePooling(RegionPooling):
    """RoIAlign of each region in every level (Sec. 3.2)."""

    def forward(self, levels: Sequence[Tensor], regions: AssignedBoxes) -> Float[Tensor, "l r c size size"]:
        """Pool; the arguments are those of `RegionPooling`."""
        rois = torch.cat([regions.image[:, None], regions.boxes], 1)
        return torch.stack([self.pool(level, number, rois) for number, level in enumerate(levels)])


class LargestOfLevels(nn.Module):
    """A layer for each level; of what they say, the maximum goes on (Fig. 3).

    Args:
        width: channels of the levels.
        num_levels: how many there are.
    """

    def __init__(self, width: int, num_levels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(norm_act(width, width) for _ in range(num_levels))

    def forward(self, x: Float[Tensor, "l r c s s"]) -> Float[Tensor, "r c s s"]:
        """The maximum at each place and of each channel."""
        return torch.stack([layer(own) for layer, own in zip(self.layers, x, strict=True)]).amax(0)


class AdaptiveBoxHead(BoxHead):
    """Names regions and corrects their boxes, from all levels.

    Args:
        width: channels of the levels; the hidden layer has four times as many.
        num_classes: number of classes k of objects.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__(width, num_classes)
        shared = [norm_act(width, width) for _ in range(3)]
        hidden = [nn.Flatten(), nn.Linear(width * self.SIZE**2, 4 * width), nn.ReLU()]
        self.features = nn.Sequential(LargestOfLevels(width, len(STAGES)), *shared, *hidden)


class FusedMaskHead(MaskHead):
    """Draws a mask per class, to which a fully connected branch adds one for all classes (Sec. 3.3).

    Args:
        width: channels of the levels, and of the head.
        num_classes: number of classes k of objects.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__(width, num_classes)
        self.first = nn.Sequential(
            LargestOfLevels(width, len(STAGES)), *(norm_act(width, width) for _ in range(2))
        )
        self.convolutions = nn.Sequential(norm_act(width, width))
        self.connected = nn.Sequential(
            norm_act(width, width),
            norm_act(width, width // 2),
            nn.Flatten(),
            nn.Linear(width // 2 * self.SIZE**2, (2 * self.SIZE) ** 2),
        )

    def forward(self, x: Float[Tensor, "l m c 14 14"]) -> Float[Tensor, "m k1 28 28"]:
        """Scores within the boxes."""
        x = self.first(x)
        drawn = self.logits(F.relu(self.upsample(self.convolutions(x))))
        side = 2 * self.SIZE
        scores: Tensor = drawn + self.connected(x).view(-1, 1, side, side)
        return scores


class PANet(MaskRCNN):
    """Mask R-CNN with the three changes.

    Args:
        encoder: gives c2 to c5.
        num_classes: number of classes k of objects.
        width: channels of the pyramid.
        min_size: see `FasterRCNN`.
        max_size: see `FasterRCNN`.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        width: int = 256,
        min_size: int | None = 800,
        max_size: int = 1333,
    ) -> None:
        detector = FasterRCNN(
            encoder,
            PathAggregation(encoder.channels[1:], width),
            RegionProposalNetwork(width),
            AdaptiveBoxHead(width, num_classes),
            min_size=min_size,
            max_size=max_size,
        )
        detector.pooling = AdaptivePooling(BoxHead.SIZE)
        super().__init__(detector, FusedMaskHead(width, num_classes))
        self.pooling = AdaptivePooling(MaskHead.SIZE)


# --- builders -------------------------------------------------------------------------------------


def panet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    min_size: int | None = 800,
    max_size: int = 1333,
) -> PANet:
    """PANet on any encoder; the arguments are those of `faster_rcnn`."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return PANet(made, num_classes, width=width, min_size=min_size, max_size=max_size)


def panet_resnet50(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
    max_size: int = 1333,
) -> PANet:
    """The paper's PANet on ResNet-50."""
    return panet(
        num_classes,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        min_size=min_size,
        max_size=max_size,
    )
