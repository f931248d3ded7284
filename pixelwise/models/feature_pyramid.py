"""Feature pyramid network: maps of equal width at every scale, all rich in semantics (Fig. 2d, 3).

The encoder's maps get equal channels by 1x1 convolutions. From the coarsest on, each is enlarged twice
(nearest neighbour) and added to the next finer one, and a 3x3 convolution takes away the traces of the
enlargement (Sec. 3). A region is pooled from the level that suits its size (Sec. 4.2, Eq. 1).

Departures: maps are resized to the size of their partner instead of being doubled, so any image size works.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import BatchNorm2d
from ..types import AssignedBoxes, Paper

PAPER = Paper(
    "Feature Pyramid Networks for Object Detection",
    "Lin, Dollár, Girshick, He, Hariharan, Belongie",
    "CVPR",
    2017,
    "https://arxiv.org/abs/1612.03144",
)

CANONICAL_SIZE, CANONICAL_LEVEL = 224, 4  # a region as large as an image of ImageNet comes from P4 (Eq. 1)
SAMPLES = 2  # of RoIAlign along each axis of a bin


class FeaturePyramid(nn.Module):
    """Top-down pathway with lateral connections (Sec. 3).

    Args:
        channels: of the encoder's stages, finest first.
        c_out: channels of every level.
        norm: whether a batch norm follows every convolution, which then has no bias (torchvision's v2).
    """

    def __init__(self, channels: Sequence[int], c_out: int = 256, *, norm: bool = False) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_convolution(c, c_out, 1, norm) for c in channels)
        self.out = nn.ModuleList(_convolution(c_out, c_out, 3, norm) for _ in channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One level per map, finest first, each of the size of its map."""
        levels = [lateral(map) for lateral, map in zip(self.lateral, maps, strict=True)]
        for i in reversed(range(len(levels) - 1)):
            levels[i] = levels[i] + F.interpolate(levels[i + 1], levels[i].shape[-2:], mode="nearest")
        return [out(level) for out, level in zip(self.out, levels, strict=True)]


def _convolution(c_in: int, c_out: int, kernel: int, norm: bool) -> nn.Module:
    convolution = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=not norm)
    return nn.Sequential(convolution, BatchNorm2d(c_out)) if norm else convolution


class P6P7(nn.Module):
    """Two coarser levels by strided convolutions of the last one (Lin et al. 2017, RetinaNet, Sec. 4).

    Args:
        c_in: channels of the map that they are made of: the encoder's last, or the coarsest level.
        c_out: channels of both.
    """

    def __init__(self, c_in: int, c_out: int = 256) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(c_out, c_out, 3, stride=2, padding=1)
        for convolution in (self.p6, self.p7):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "b _ _ _"]) -> list[Tensor]:
        """P6 and P7, of half and of a quarter of the size."""
        p6 = self.p6(x)
        return [p6, self.p7(F.relu(p6))]


def subsampled(level: Float[Tensor, "b c _ _"]) -> Float[Tensor, "b c _ _"]:
    """Every second value: the level P6 for the largest anchors (Sec. 4.1, footnote)."""
    return level[..., ::2, ::2]


def level_of(boxes: Float[Tensor, "r 4"], num_levels: int, *, finest: int = 2) -> Int64[Tensor, " r"]:
    """The level a region is pooled from, 0 being P2: k = floor(4 + log2(sqrt(w h) / 224)) (Eq. 1).

    Args:
        boxes: in pixels.
        num_levels: how many there are.
        finest: which of the paper's levels the first one is, 2 being P2.

    >>> level_of(torch.tensor([[0.0, 0.0, 224.0, 224.0], [0.0, 0.0, 100.0, 50.0]]), 4)
    tensor([2, 0])
    """
    size = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level = (CANONICAL_LEVEL + (size / CANONICAL_SIZE).log2() + 1e-6).floor()
    return level.clamp(finest, finest + num_levels - 1).long() - finest


class RegionPooling(nn.Module):
    """RoIAlign of each region in its level.

    Args:
        size: side of the result.
        finest: which of the paper's levels the first one is, 2 being P2, of stride 4.

    Attributes:
        samples: of RoIAlign along each axis of a bin; 0 for about one per pixel of the level.
        aligned: see `ops.roi_align`; weights of torchvision want False.
    """

    def __init__(self, size: int, *, finest: int = 2) -> None:
        super().__init__()
        self.size, self.finest = size, finest
        self.samples, self.aligned = SAMPLES, False

    def forward(self, levels: Sequence[Tensor], regions: AssignedBoxes) -> Float[Tensor, "r c size size"]:
        """Pool.

        Args:
            levels: finest first, each of half the resolution of the one before.
            regions: where to look.
        """
        first, size = levels[0], self.size
        rois = torch.cat([regions.image[:, None], regions.boxes], 1)
        level = level_of(regions.boxes, len(levels), finest=self.finest)
        pooled = first.new_zeros(rois.shape[0], first.shape[1], size, size)
        for number, map in enumerate(levels):
            here = (level == number).nonzero()[:, 0]
            pooled[here] = self.pool(map, number, rois[here])
        return pooled

    def pool(
        self, level: Float[Tensor, "b c _ _"], number: int, rois: Float[Tensor, "r 5"]
    ) -> Float[Tensor, "r c size size"]:
        """RoIAlign in one level; regions have the number of their image in front."""
        from torchvision.ops import roi_align

        scale = 0.5 ** (self.finest + number)
        pooled = roi_align(level.float(), rois, self.size, scale, self.samples, self.aligned)
        return pooled.to(level.dtype)
