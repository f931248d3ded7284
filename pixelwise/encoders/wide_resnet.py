"""Wide ResNet-38 (Wu et al. 2016): fewer, wider residual units, activated before they convolve.

    level      1    2    3    4      5       6            7
    units      -    3    3    6      3       1            1
    channels   64   128  256  512    1024    2048         4096

Two ways to shrink the image come from the paper's Table 1; both keep stride 8 here and dilate what follows:

    A1   the first convolution of levels 2, 3 and 4 strides
    A2   max pooling before levels 2 and 3, and the first convolution of level 4 strides

Dilation is that of the code with which each was published: where A1's authors take a stride away, the first
convolution keeps the dilation of the level before (github.com/itijyou/ademxapp); all of A2's level 5 has
dilation 2, of levels 6 and 7 dilation 4 (github.com/nv-tlabs/GSCNN).
"""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import IMAGENET_MEAN, IMAGENET_STD, BatchNorm2d, Normalize
from ..types import STAGES, Features, PerStage
from .base import Encoder
from .timm import per_channel

Variant = Literal["a1", "a2"]

UNITS = (3, 3, 6, 3, 1, 1)  # of levels 2 to 7
STAGE_OF_LEVEL = {2: "c1", 3: "c2", 4: "c3", 5: "c4", 7: "c5"}


class WideUnit(nn.Module):
    """Batch norm, ReLU and convolution, two or three times, and the input added (Fig. 1 of He et al. 2016b).

    Args:
        c_in: channels of the input.
        widths: channels after each convolution: two 3x3 ones, or a 1x1, a 3x3 and a 1x1.
        stride: of the first convolution.
        dilations: of the first 3x3 convolution, and of the second.
        dropout: probability to drop a value before the last convolution.
    """

    def __init__(
        self,
        c_in: int,
        widths: Sequence[int],
        *,
        stride: int = 1,
        dilations: tuple[int, int] = (1, 1),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        kernels = (3, 3) if len(widths) == 2 else (1, 3, 1)
        first, second = dilations
        rates = (first, second) if len(widths) == 2 else (1, second, 1)
        self.norms, self.convolutions = nn.ModuleList(), nn.ModuleList()
        c = c_in
        for i, (width, kernel, rate) in enumerate(zip(widths, kernels, rates, strict=True)):
            self.norms.append(BatchNorm2d(c))
            step, padding = stride if i == 0 else 1, rate * (kernel // 2)
            self.convolutions.append(nn.Conv2d(c, width, kernel, step, padding, rate, bias=False))
            c = width
        self.dropout = nn.Dropout(dropout)
        changes = stride != 1 or c_in != c
        self.projection = nn.Conv2d(c_in, c, 1, stride, bias=False) if changes else None

    def forward(self, x: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b _ _ _"]:
        """The sum; it is not activated."""
        y = F.relu(self.norms[0](x))
        total = x if self.projection is None else self.projection(y)
        for i, convolution in enumerate(self.convolutions):
            if i:
                y = F.relu(self.norms[i](y))
            if i == len(self.convolutions) - 1:
                y = self.dropout(y)
            y = convolution(y)
        return total + y


class WideResNet38(Encoder):
    """Wide ResNet-38 at output stride 8, without its last batch norm and classifier.

    Args:
        width: channels of level 1; 64 in the paper.
        variant: "a1" or "a2", see the top of this file.
        in_channels: of the image.
        stages: the stages to give, c1 to c5; also "c0", level 1 at the size of the image. All levels up to
            the last stage are built.
    """

    def __init__(
        self,
        width: int = 64,
        *,
        variant: Variant = "a1",
        in_channels: int = 3,
        stages: Sequence[str] = STAGES,
    ) -> None:
        super().__init__()
        self.in_channels, self.variant = in_channels, variant
        self.stages = tuple(stage for stage in ("c0", *STAGES) if stage in stages)
        w = width
        widths: dict[int, tuple[int, ...]] = {
            2: (2 * w, 2 * w),
            3: (4 * w, 4 * w),
            4: (8 * w, 8 * w),
            5: (8 * w, 16 * w),
            6: (8 * w, 16 * w, 32 * w),
            7: (16 * w, 32 * w, 64 * w),
        }
        last = next(level for level, stage in reversed(STAGE_OF_LEVEL.items()) if stage in self.stages)
        strides = {2, 3, 4} if variant == "a1" else {4}
        self.normalize = Normalize(
            per_channel(IMAGENET_MEAN, in_channels), per_channel(IMAGENET_STD, in_channels)
        )
        self.level1 = nn.Conv2d(in_channels, w, 3, padding=1, bias=False)
        self.levels = nn.ModuleDict()
        c = w
        for level, units in zip(range(2, last + 1), UNITS, strict=False):
            rate = {5: 2, 6: 4, 7: 4}.get(level, 1)
            blocks = []
            for i in range(units):
                kept = 1 if (variant, level, i) == ("a1", 5, 0) else rate
                blocks.append(
                    WideUnit(
                        c,
                        widths[level],
                        stride=2 if level in strides and i == 0 else 1,
                        dilations=(kept, rate),
                        dropout={6: 0.3, 7: 0.5}.get(level, 0.0),
                    )
                )
                c = widths[level][-1]
            self.levels[str(level)] = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        given = {stage: level for level, stage in STAGE_OF_LEVEL.items() if stage in self.stages}
        self.channels = PerStage(*(widths[given[s]][-1] if s in given else 0 for s in STAGES))
        self.strides = PerStage(
            *(stride if s in given else 0 for s, stride in zip(STAGES, (2, 4, 8, 8, 8), strict=True))
        )

    def forward(self, image: Float[Tensor, "b c H W"]) -> Features:
        """The maps of `stages`."""
        x = self.level1(self.normalize(image))
        maps = {"c0": x} if "c0" in self.stages else {}
        for name, level in self.levels.items():
            if self.variant == "a2" and name in ("2", "3"):
                x = F.max_pool2d(x, 3, 2, 1)
            x = level(x)
            stage = STAGE_OF_LEVEL.get(int(name))
            if stage in self.stages:
                maps[stage] = x
        return Features(maps)
