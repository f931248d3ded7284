"""HRNet (Sun et al. 2019; Wang et al. 2020): the high resolution is kept, and lower ones join beside it.

    stem, 1/4 -- stage 1 --+-- stage 2 --+-- stage 3 --+-- stage 4 --  c2, 1/4
                           |      ><     |      ><     |      ><
                           +-- stage 2 --+-- stage 3 --+-- stage 4 --  c3, 1/8
                                         +-- stage 3 --+-- stage 4 --  c4, 1/16
                                                       +-- stage 4 --  c5, 1/32

At the end of each module (><) every branch becomes the sum of all, each brought to its size and channels.
Branches are upsampled by repetition, as in the authors' networks for classification and key points; those for
segmentation interpolate bilinearly with the corners aligned, on parameters of the same shapes.

The parameters have the names of the authors' (and timm's), so that their weights load as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import IMAGENET_MEAN, IMAGENET_STD, BatchNorm2d, ConvNormAct, Normalize, resize, resize_like
from ..types import STAGES, Features, PerStage
from .base import Encoder
from .published import fetch
from .timm import StemPolicy, adapt_stem, per_channel

Upsampling = Literal["nearest", "bilinear", "bilinear_unaligned"]

BRANCHES = STAGES[1:]  # c2 to c5
MODULES = (1, 4, 3)  # of stages 2, 3 and 4
BLOCKS = 4  # of stage 1, and of each branch of a module
STEM = 64


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the input added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The sum, then ReLU."""
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Bottleneck(nn.Module):
    """1x1 to a quarter of the output's channels, 3x3, 1x1, and the input added, projected where needed."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        c = c_out // 4
        self.conv1 = nn.Conv2d(c_in, c, 1, bias=False)
        self.bn1 = BatchNorm2d(c)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(c)
        self.conv3 = nn.Conv2d(c, c_out, 1, bias=False)
        self.bn3 = BatchNorm2d(c_out)
        self.downsample = (
            nn.Identity()
            if c_in == c_out
            else nn.Sequential(nn.Conv2d(c_in, c_out, 1, bias=False), BatchNorm2d(c_out))
        )

    def forward(self, x: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b _ h w"]:
        """The sum, then ReLU."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ExchangeModule(nn.Module):
    """Residual blocks on every branch, then every branch becomes the sum of all.

    Args:
        widths: channels of each branch, finest first.
        outputs: numbers of the branches that are wanted.
        blocks: of each branch.
        upsampling: how coarser branches reach the size of finer ones.
    """

    def __init__(
        self, widths: Sequence[int], outputs: Sequence[int], *, blocks: int, upsampling: Upsampling
    ) -> None:
        super().__init__()
        self.upsampling = upsampling
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(c) for _ in range(blocks))) for c in widths)
        self.fuse_layers = nn.ModuleDict(
            {str(i): nn.ModuleList(_bridge(widths, j, i) for j in range(len(widths))) for i in outputs}
        )

    def forward(self, maps: Sequence[Float[Tensor, "b _ _ _"]]) -> list[Float[Tensor, "b _ _ _"]]:
        """The wanted branches, finest first."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for target, bridges in self.fuse_layers.items():
            assert isinstance(bridges, nn.ModuleList)
            i, like = int(target), maps[int(target)]
            arrived = [bridge(x) for bridge, x in zip(bridges, maps, strict=True)]
            # Finer branches arrive with the right size.
            arrived[i + 1 :] = [self._resized(x, like, 2**n) for n, x in enumerate(arrived[i + 1 :], 1)]
            fused.append(F.relu(sum(arrived[1:], arrived[0])))
        return fused

    def _resized(
        self, x: Float[Tensor, "b c _ _"], like: Float[Tensor, "b _ h w"], factor: int
    ) -> Float[Tensor, "b c h w"]:
        if self.upsampling == "bilinear":
            return resize_like(x, like, align_corners=True)
        if self.upsampling == "bilinear_unaligned":
            return resize_like(resize(x, (factor * x.shape[-2], factor * x.shape[-1])), like)
        return F.interpolate(x, (like.shape[-2], like.shape[-1]), mode="nearest")


def _bridge(widths: Sequence[int], source: int, target: int) -> nn.Module:
    """From one branch to the channels (and, where it is coarser, to the size) of another."""
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(
            nn.Conv2d(widths[source], widths[target], 1, bias=False), BatchNorm2d(widths[target])
        )
    halvings: list[nn.Module] = [
        ConvNormAct(widths[source], widths[source], stride=2) for _ in range(target - source - 1)
    ]
    last = nn.Conv2d(widths[source], widths[target], 3, 2, 1, bias=False)
    return nn.Sequential(*halvings, nn.Sequential(last, BatchNorm2d(widths[target])))


class HRNet(Encoder):
    """HRNet: four branches of width w, 2w, 4w and 8w at strides 4, 8, 16 and 32.

    Args:
        width: channels of the finest branch; 18, 32, 40, 44, 48 and 64 were published.
        in_channels: of the image.
        stages: the branches to give, "c2" to "c5"; the last exchange makes no others.
        upsampling: see the top of this file.
        pretrained: whether to load the authors' ImageNet weights, as timm offers them.
        stem: how pretrained filters take an image that is not RGB, see `TimmEncoder`.
        modules: exchange modules of stages 2, 3 and 4.
        blocks: residual blocks of stage 1, and of each branch of a module.

    Raises:
        ValueError: on another stage, or if there are no pretrained weights.
    """

    def __init__(
        self,
        width: int,
        *,
        in_channels: int = 3,
        stages: Sequence[str] = BRANCHES,
        upsampling: Upsampling = "nearest",
        pretrained: bool = False,
        stem: StemPolicy = "repeat",
        modules: tuple[int, int, int] = MODULES,
        blocks: int = BLOCKS,
    ) -> None:
        super().__init__()
        if missing := [stage for stage in stages if stage not in BRANCHES]:
            raise ValueError(f"HRNet gives {', '.join(BRANCHES)}: it has no {missing[0]}")
        if upsampling not in get_args(Upsampling):
            raise ValueError(
                f"upsampling must be one of {', '.join(get_args(Upsampling))}, got {upsampling!r}"
            )
        self.in_channels = in_channels
        self.stages = tuple(stage for stage in BRANCHES if stage in stages)
        widths = [width * 2**i for i in range(4)]
        given = [stage in self.stages for stage in BRANCHES]
        self.channels = PerStage(0, *(c if there else 0 for c, there in zip(widths, given, strict=True)))
        self.strides = PerStage(0, *(4 * 2**i if there else 0 for i, there in enumerate(given)))
        self.normalize = Normalize(
            per_channel(IMAGENET_MEAN, in_channels), per_channel(IMAGENET_STD, in_channels)
        )

        self.conv1 = nn.Conv2d(in_channels, STEM, 3, 2, 1, bias=False)
        self.bn1 = BatchNorm2d(STEM)
        self.conv2 = nn.Conv2d(STEM, STEM, 3, 2, 1, bias=False)
        self.bn2 = BatchNorm2d(STEM)
        expanded = 4 * STEM
        self.layer1 = nn.Sequential(*(Bottleneck(expanded if i else STEM, expanded) for i in range(blocks)))

        def stage(number: int, count: int) -> nn.Sequential:
            last = [i for i, there in enumerate(given) if there]
            outputs = [list(range(number))] * count
            if number == 4:
                outputs[-1] = last
            return nn.Sequential(
                *(ExchangeModule(widths[:number], o, blocks=blocks, upsampling=upsampling) for o in outputs)
            )

        self.transition1 = make_transition([expanded], widths[:2])
        self.stage2 = stage(2, modules[0])
        self.transition2 = make_transition(widths[:2], widths[:3])
        self.stage3 = stage(3, modules[1])
        self.transition3 = make_transition(widths[:3], widths)
        self.stage4 = stage(4, modules[2])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.001)  # the authors'; batch norm sets the scale
        if pretrained:
            self.load_state_dict(_imagenet(width, self.state_dict(), stem))

    def forward(self, image: Float[Tensor, "b c H W"]) -> Features:
        """The maps of `stages`."""
        x = F.relu(self.bn1(self.conv1(self.normalize(image))))
        x = F.relu(self.bn2(self.conv2(x)))
        maps = [self.layer1(x)]
        for transition, stage in (
            (self.transition1, self.stage2),
            (self.transition2, self.stage3),
            (self.transition3, self.stage4),
        ):
            # A new branch starts from the coarsest one that there is.
            sources = [*maps, maps[-1]]
            maps = stage([step(x) for step, x in zip(transition, sources, strict=True)])
        return Features(dict(zip(self.stages, maps, strict=True)))


def make_transition(before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
    """Adapt the channels of the branches that there are, and open one more at half the size."""
    kept = [nn.Identity() if a == b else ConvNormAct(a, b) for a, b in zip(before, after, strict=False)]
    return nn.ModuleList([*kept, nn.Sequential(ConvNormAct(before[-1], after[-1], stride=2))])


def fit_hrnet_weights(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in `source` that an `HRNet` has, and its own mean and standard deviation of the image.

    Args:
        source: state dict of the authors' HRNet for any task, or of timm's, without a prefix.
        target: state dict of the `HRNet`.

    Raises:
        ValueError: if weights are missing or have another shape.
    """
    weights = {}
    for key, own in target.items():
        weights[key] = own if key.startswith("normalize.") else source.get(key, own)
        if key not in source and not key.startswith("normalize."):
            raise ValueError(f"the weights are not those of this HRNet: {key} is missing")
        if weights[key].shape != own.shape:
            shapes = f"{tuple(weights[key].shape)}, expected {tuple(own.shape)}"
            raise ValueError(f"the weights are not those of this HRNet: {key} has the shape {shapes}")
    return weights


def _imagenet(width: int, target: dict[str, Tensor], stem: StemPolicy) -> dict[str, Tensor]:
    import timm  # takes a second: only those who load weights pay it

    name = f"hrnet_w{width}"
    if not timm.is_model(name):
        raise ValueError(f"there are no pretrained weights of an HRNet of width {width}")
    return fit_hrnet_weights(adapt_stem(fetch(name), target, stem), target)
