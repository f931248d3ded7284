"""NAS-FPN: a feature pyramid whose connections were searched for, on EfficientNet.

The search found one small graph that merges maps of any sizes in pairs (Fig. 6). It is repeated seven times
over P3 to P7. A merging takes two maps, resized, and either adds them or lets the global maximum of the
coarser one weigh the finer ("global pooling", Fig. 4); ReLU, a separable 3x3 convolution and a norm follow.
What no node uses is added to the output of its level.

Zoph et al. 2020 (Rethinking Pre-training and Self-training, arXiv:2006.06882, Sec. 4.3) segment with it: all
levels are resized to a quarter of the image and added, three 3x3 convolutions and a classifier follow.
Structure after their github.com/tensorflow/tpu (models/official/detection).

Departures: P6, P7 and maps that are brought to coarser levels round sizes up, and P6 and P7 have at least two
rows and columns (the last is repeated), without which no program for all sizes could be exported. Norms keep
PyTorch's momentum; the authors' 0.997 suits their 20 000 steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import BatchNorm2d, at_least, fit, resize, size_of
from ..types import DenseLogits, DenseModel, Features, Paper

PAPER = Paper(
    "NAS-FPN: Learning Scalable Feature Pyramid Architecture for Object Detection",
    "Ghiasi, Lin, Pang, Le",
    "CVPR",
    2019,
    "https://arxiv.org/abs/1904.07392",
)

STAGES = ("c3", "c4", "c5")
LEVELS = (3, 4, 5, 6, 7)
WIDTH, CELLS = 256, 7


@dataclass(frozen=True)
class Merge:
    """A node of the cell: its level, how two earlier nodes are merged, and which; 0 to 4 are the inputs."""

    level: int
    how: Literal["sum", "attention"]
    inputs: tuple[int, int]
    is_output: bool = False


# The published cell.
CELL = (
    Merge(4, "attention", (1, 3)),  # 5
    Merge(4, "sum", (1, 5)),  # 6
    Merge(3, "sum", (0, 6), is_output=True),  # 7
    Merge(4, "sum", (6, 7), is_output=True),  # 8
    Merge(5, "attention", (7, 8), is_output=True),  # 9
    Merge(7, "attention", (6, 9), is_output=True),  # 10
    Merge(6, "attention", (9, 10), is_output=True),  # 11
)


def halved(x: Float[Tensor, "b c _ _"]) -> Float[Tensor, "b c _ _"]:
    """Maxima of 2x2 squares; odd sizes are rounded up. The result has at least two rows and columns."""
    height, width = x.shape[-2:]
    x = fit(x, (at_least(height, 3), at_least(width, 3)))
    return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 2)


def brought(
    x: Float[Tensor, "b c _ _"], level: int, target: int, size: tuple[int, int]
) -> Float[Tensor, "b c _ _"]:
    """A map of one level at another: maxima on the way to coarser ones, repetition to finer ones."""
    if target < level:
        return F.interpolate(x, size, mode="nearest")
    for _ in range(target - level):
        x = halved(x)
    return fit(x, size) if target > level else x


def attend(coarse: Float[Tensor, "b c h w"], fine: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Global pooling: the coarser map, and the finer one times the sigmoid of the coarser one's maximum."""
    return coarse + fine * coarse.amax((2, 3), keepdim=True).sigmoid()


class MergingNode(nn.Sequential):
    """What follows a merging: ReLU, separable 3x3 convolution, batch norm."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1),
            BatchNorm2d(channels, eps=1e-3),
        )


class NASFPNCell(nn.Module):
    """One pass of five levels through the published graph.

    Args:
        channels: of every level.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.nodes = nn.ModuleList(MergingNode(channels) for _ in CELL)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """P3 to P7 again, of the same sizes."""
        sizes = {level: (x.shape[-2], x.shape[-1]) for level, x in zip(LEVELS, levels, strict=True)}
        maps, at = list(levels), list(LEVELS)
        used = [False] * (len(LEVELS) + len(CELL))
        outputs = {}
        for merge, node in zip(CELL, self.nodes, strict=True):
            size = sizes[merge.level]
            first, second = (brought(maps[i], at[i], merge.level, size) for i in merge.inputs)
            for i in merge.inputs:
                used[i] = True
            if merge.how == "sum":
                x = first + second
            else:
                i, j = merge.inputs
                x = attend(first, second) if at[i] >= at[j] else attend(second, first)
            if merge.is_output:
                for i in range(len(maps)):
                    if not used[i] and at[i] == merge.level:
                        used[i] = True
                        x = x + maps[i]
            maps.append(node(x))
            at.append(merge.level)
            if merge.is_output:
                outputs[merge.level] = maps[-1]
        return [outputs[level] for level in LEVELS]


class NASFPN(DenseModel):
    """Encoder, cells of NAS-FPN, fusion of all levels, three convolutions, classifier.

    Args:
        encoder: gives c3, c4 and c5.
        num_classes: number of channels k of the logits.
        width: channels of every level.
        cells: how many follow each other.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, width: int = WIDTH, cells: int = CELLS) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1), BatchNorm2d(width, eps=1e-3)) for c in encoder.channels[2:]
        )
        self.cells = nn.ModuleList(NASFPNCell(width) for _ in range(cells))
        convolutions: list[nn.Module] = []
        for _ in range(3):
            convolutions += [
                nn.Conv2d(width, width, 3, padding=1),
                BatchNorm2d(width, eps=1e-3),
                nn.ReLU(inplace=True),
            ]
        classifier = nn.Conv2d(width, num_classes, 1)
        nn.init.normal_(classifier.weight, std=0.01)
        self.head = nn.Sequential(*convolutions, classifier)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features: Features = self.encoder(image)
        levels = [lateral(features[stage]) for lateral, stage in zip(self.lateral, STAGES, strict=True)]
        levels += [halved(levels[-1])]
        levels += [halved(levels[-1])]
        for cell in self.cells:
            levels = cell(levels)
        quarter = ((size[0] + 3) // 4, (size[1] + 3) // 4)
        total = resize(levels[0], quarter)
        for level in levels[1:]:
            total = total + resize(level, quarter)
        return DenseLogits(self.head(total), size)


# --- builders -------------------------------------------------------------------------------------


def nasfpn(
    num_classes: int,
    *,
    encoder: str | Encoder = "tf_efficientnet_b7",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = WIDTH,
    blocks: int = CELLS,
) -> NASFPN:
    """NAS-FPN for segmentation on any encoder; `blocks` is the number of cells."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return NASFPN(made, num_classes, width=width, cells=blocks)


def nasfpn_efficientnet_b7(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> NASFPN:
    """NAS-FPN on EfficientNet-B7: 67.5 million parameters without the classifier of the EfficientNet."""
    return nasfpn(num_classes, in_channels=in_channels, pretrained=pretrained, stem=stem)


def nasfpn_efficientnet_l2(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> NASFPN:
    """NAS-FPN on EfficientNet-L2."""
    return nasfpn(
        num_classes,
        encoder="tf_efficientnet_l2",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
    )
