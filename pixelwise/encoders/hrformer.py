"""HRFormer (Yuan et al. 2021): HRNet whose residual blocks are transformer blocks.

The branches, their transitions and their exchanges are those of HRNet (`hrnet.py`). A block (Fig. 1) attends
within windows of 7x7 tokens that are not shifted; a 3x3 depth-wise convolution in its feed-forward network
lets neighbouring windows know each other (Sec. 3). Maps are filled up with zeros on all four sides to whole
windows, and the attention sees these zeros, as in the authors' code (github.com/HRNet/HRFormer).

Exchanges differ from HRNet's: a branch reaches a coarser one by depth-wise strided convolutions, a finer one
by repetition of its values.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import IMAGENET_MEAN, IMAGENET_STD, BatchNorm2d, Normalize, resize_like
from ..types import Features
from .base import Encoder
from .hrnet import STEM, Bottleneck, make_transition
from .pvt import LEVELS, chosen_stages, pyramid_of
from .swin_transformer import ShiftedWindowAttention
from .timm import per_channel
from .transformer import Block, drop_path_rates, initialize

MODULES = (1, 4, 2)  # of stages 2, 3 and 4
BLOCKS = 2  # of stage 1, and of each branch of a module
HRFORMER_SIZES = {"hrformer_small": (32, 1), "hrformer_base": (78, 2)}  # width and heads of the finest branch


class ConvFFN(nn.Module):
    """1x1 convolution to four times the channels, 3x3 depth-wise, 1x1; batch norm and GELU after each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = 4 * channels
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, c, 1), BatchNorm2d(c), nn.GELU()),
            *(nn.Conv2d(c, c, 3, padding=1, groups=c), BatchNorm2d(c), nn.GELU()),
            *(nn.Conv2d(c, channels, 1), BatchNorm2d(channels), nn.GELU()),
        )

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Transform every token with what its neighbours know."""
        return self.layers(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class HRFormerModule(nn.Module):
    """Transformer blocks on every branch, then every wanted branch becomes the sum of all.

    Args:
        widths: channels of each branch, finest first.
        heads: of each branch.
        outputs: numbers of the branches that are wanted.
        window: rows and columns of a window.
        drop_paths: probability to drop a residual branch, for each block.
    """

    def __init__(
        self,
        widths: Sequence[int],
        heads: Sequence[int],
        outputs: Sequence[int],
        *,
        window: int,
        drop_paths: Sequence[float],
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(
                    Block(c, ShiftedWindowAttention(c, n, window, centred=True), ConvFFN(c), drop_path=rate)
                    for rate in drop_paths
                )
            )
            for c, n in zip(widths, heads, strict=True)
        )
        self.fuse_layers = nn.ModuleDict(
            {str(i): nn.ModuleList(_bridge(widths, j, i) for j in range(len(widths))) for i in outputs}
        )

    def forward(self, maps: Sequence[Float[Tensor, "b _ _ _"]]) -> list[Float[Tensor, "b _ _ _"]]:
        """The wanted branches, finest first."""
        maps = [
            branch(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            for branch, x in zip(self.branches, maps, strict=True)
        ]
        fused = []
        for target, bridges in self.fuse_layers.items():
            assert isinstance(bridges, nn.ModuleList)
            like = maps[int(target)]
            arrived = [bridge(x) for bridge, x in zip(bridges, maps, strict=True)]
            for source in range(int(target) + 1, len(maps)):
                # Repeated values of odd maps are one row or column too many.
                repeated = F.interpolate(arrived[source], scale_factor=2.0 ** (source - int(target)))
                arrived[source] = resize_like(repeated, like, align_corners=True)
            fused.append(F.relu(sum(arrived[1:], arrived[0])))
        return fused


def _bridge(widths: Sequence[int], source: int, target: int) -> nn.Module:
    """From one branch to the channels (and, where it is coarser, to the size) of another."""
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(
            nn.Conv2d(widths[source], widths[target], 1, bias=False), BatchNorm2d(widths[target])
        )
    steps = []
    for i in range(source, target):
        c_in, c_out = widths[source], widths[target] if i == target - 1 else widths[source]
        step = (
            *(nn.Conv2d(c_in, c_in, 3, 2, 1, groups=c_in, bias=False), BatchNorm2d(c_in)),
            *(nn.Conv2d(c_in, c_out, 1, bias=False), BatchNorm2d(c_out)),
        )
        steps.append(nn.Sequential(*step) if i == target - 1 else nn.Sequential(*step, nn.ReLU()))
    return nn.Sequential(*steps)


class HRFormer(Encoder):
    """HRFormer: four branches of width w, 2w, 4w and 8w at strides 4, 8, 16 and 32.

    Args:
        width: w, channels of the finest branch; 32 and 78 were published for segmentation.
        heads: of the finest branch; each coarser one has twice as many.
        in_channels: of the image.
        stages: the branches to give, "c2" to "c5"; the last exchange makes no others.
        window: rows and columns of a window; 13 and 15 were published for the base size too.
        drop_path: probability to drop a residual branch of the last block; it grows from 0 in the first.
        modules: exchange modules of stages 2, 3 and 4.
        blocks: bottlenecks of stage 1, and transformer blocks of each branch of a module.

    Raises:
        ValueError: on another stage.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        in_channels: int = 3,
        stages: Sequence[str] = LEVELS,
        window: int = 7,
        drop_path: float = 0.2,
        modules: tuple[int, int, int] = MODULES,
        blocks: int = BLOCKS,
    ) -> None:
        super().__init__()
        self.stages = chosen_stages("HRFormer", stages)
        self.in_channels = in_channels
        widths = [width * 2**i for i in range(4)]
        self.channels, self.strides = pyramid_of(widths, self.stages)
        self.normalize = Normalize(
            per_channel(IMAGENET_MEAN, in_channels), per_channel(IMAGENET_STD, in_channels)
        )

        self.conv1 = nn.Conv2d(in_channels, STEM, 3, 2, 1, bias=False)
        self.bn1 = BatchNorm2d(STEM)
        self.conv2 = nn.Conv2d(STEM, STEM, 3, 2, 1, bias=False)
        self.bn2 = BatchNorm2d(STEM)
        expanded = 4 * STEM
        self.layer1 = nn.Sequential(*(Bottleneck(expanded if i else STEM, expanded) for i in range(blocks)))

        rates = iter(drop_path_rates(drop_path, [blocks] * sum(modules)))
        last = [LEVELS.index(stage) for stage in self.stages]

        def stage(number: int, count: int) -> nn.Sequential:
            outputs = [list(range(number))] * count
            if number == 4:
                outputs[-1] = last
            return nn.Sequential(
                *(
                    HRFormerModule(
                        widths[:number],
                        [heads * 2**i for i in range(number)],
                        wanted,
                        window=window,
                        drop_paths=next(rates),
                    )
                    for wanted in outputs
                )
            )

        self.transition1 = make_transition([expanded], widths[:2])
        self.stage2 = stage(2, modules[0])
        self.transition2 = make_transition(widths[:2], widths[:3])
        self.stage3 = stage(3, modules[1])
        self.transition3 = make_transition(widths[:3], widths)
        self.stage4 = stage(4, modules[2])
        self.apply(initialize)

    def forward(self, image: Float[Tensor, "b c H W"]) -> Features:
        """The maps of `stages`."""
        x = F.relu(self.bn1(self.conv1(self.normalize(image))))
        x = F.relu(self.bn2(self.conv2(x)))
        maps = [self.layer1(x)]
        for step, stage in (
            (self.transition1, self.stage2),
            (self.transition2, self.stage3),
            (self.transition3, self.stage4),
        ):
            # A new branch starts from the coarsest one that there is.
            sources = [*maps, maps[-1]]
            maps = stage([change(x) for change, x in zip(step, sources, strict=True)])
        return Features(dict(zip(self.stages, maps, strict=True)))
