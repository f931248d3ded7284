"""Aligned Xception as DeepLabV3+ uses it: deeper, and with strided separable convolutions for poolings.

Every block has three separable convolutions, of which the last may stride, beside a shortcut (DeepLabV3+,
Sec. 3.2, Fig. 4). Where a block may stride no longer, the convolutions of the blocks behind it are dilated
by 2, its own are not. Keys are those of timm's `xception65` and `xception71`, whose ImageNet weights are the
authors'.

A stage is taken inside the block that strides next, behind its second convolution and before the ReLU: c2 is
where the authors' decoder takes its fine features. timm takes the same maps behind the ReLU.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import BatchNorm2d, Normalize
from ..types import STAGES, Features, PerStage
from .base import Encoder, check_output_stride
from .published import fetch
from .timm import StemPolicy, adapt_stem

EPSILON = 1e-3  # of all batch norms


class BlockPlan(NamedTuple):
    """Output channels of the three separable convolutions, and the stride of the last."""

    widths: tuple[int, int, int]
    stride: int = 1


ENTRY = {
    65: (BlockPlan((128,) * 3, 2), BlockPlan((256,) * 3, 2), BlockPlan((728,) * 3, 2)),
    71: (
        BlockPlan((128,) * 3, 2),
        BlockPlan((256,) * 3),
        BlockPlan((256,) * 3, 2),
        BlockPlan((728,) * 3),
        BlockPlan((728,) * 3, 2),
    ),
}
MIDDLE = (BlockPlan((728,) * 3),) * 16
EXIT = (BlockPlan((728, 1024, 1024), 2), BlockPlan((1536, 1536, 2048)))


class ConvNorm(nn.Module):
    """Convolution and batch norm."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.bn = BatchNorm2d(c_out, eps=EPSILON)

    def forward(self, x: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b _ _ _"]:
        """One after the other."""
        normed: Tensor = self.bn(self.conv(x))
        return normed


class SeparableConv(nn.Module):
    """Depthwise 3x3 and pointwise convolution, each with batch norm.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        stride: of the depthwise convolution.
        dilation: likewise.
        relu_inside: whether a ReLU follows each batch norm (last block); else one comes before everything.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, dilation: int, *, relu_inside: bool) -> None:
        super().__init__()
        self.relu_inside = relu_inside
        self.conv_dw = nn.Conv2d(c_in, c_in, 3, stride, dilation, dilation, groups=c_in, bias=False)
        self.bn_dw = BatchNorm2d(c_in, eps=EPSILON)
        self.conv_pw = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.bn_pw = BatchNorm2d(c_out, eps=EPSILON)

    def forward(self, x: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b _ _ _"]:
        """All four, and the ReLUs."""
        if self.relu_inside:
            x = F.relu(self.bn_dw(self.conv_dw(x)))
            return F.relu(self.bn_pw(self.conv_pw(x)))
        x = self.bn_dw(self.conv_dw(F.relu(x)))
        return self.bn_pw(self.conv_pw(x))


class XceptionBlock(nn.Module):
    """Three separable convolutions and a shortcut: a convolution where the shape changes, else the input.

    The last block of the network has none (`last`), and its ReLUs inside. `cut` leaves out what lies behind
    the second convolution.
    """

    def __init__(
        self, c_in: int, plan: BlockPlan, stride: int, dilation: int, *, last: bool = False, cut: bool = False
    ) -> None:
        super().__init__()
        self.last, self.cut = last, cut
        self.stack = nn.ModuleDict()
        for i, (a, b) in enumerate(zip((c_in, *plan.widths), plan.widths, strict=False), 1):
            if i < 3 or not cut:
                self.stack[f"conv{i}"] = SeparableConv(
                    a, b, stride if i == 3 else 1, dilation, relu_inside=last
                )
        changes = stride > 1 or c_in != plan.widths[-1]
        self.shortcut = ConvNorm(c_in, plan.widths[-1], 1, stride) if changes and not (last or cut) else None

    def forward(self, x: Float[Tensor, "b _ _ _"]) -> tuple[Tensor, Tensor]:
        """The output, and what the second convolution gives, "b _ _ _" each; the same where cut."""
        fine: Tensor = self.stack["conv2"](self.stack["conv1"](x))
        if self.cut:
            return fine, fine
        y: Tensor = self.stack["conv3"](fine)
        if self.last:
            return y, fine
        return y + (x if self.shortcut is None else self.shortcut(x)), fine


class AlignedXception(Encoder):
    """Entry flow, sixteen times the middle block, exit flow.

    Args:
        depth: 65 or 71, the number of convolutions.
        in_channels: of the image.
        pretrained: whether to load the authors' ImageNet weights, as timm offers them.
        output_stride: 32, 16 or 8.
        stages: the stages to give, in any order; what lies behind the last is cut off.
        stem: how pretrained filters take an image that is not RGB, see `TimmEncoder`.

    Raises:
        ValueError: on another output stride, or if the weights cannot be had.
    """

    def __init__(
        self,
        depth: int,
        *,
        in_channels: int = 3,
        pretrained: bool = False,
        output_stride: int = 32,
        stages: Sequence[str] = STAGES,
        stem: StemPolicy = "repeat",
    ) -> None:
        super().__init__()
        check_output_stride(output_stride)
        self.in_channels = in_channels
        self.stages = tuple(stage for stage in STAGES if stage in stages)
        self.normalize = Normalize((0.5,) * in_channels, (0.5,) * in_channels)
        self.stem = nn.Sequential(ConvNorm(in_channels, 32, 3, 2), ConvNorm(32, 64, 3))
        self.blocks = nn.Sequential()
        self.stage_at: dict[int, str] = {}
        channels, strides = dict.fromkeys(STAGES, 0), dict.fromkeys(STAGES, 0)

        plans = (*ENTRY[depth], *MIDDLE, *EXIT)
        # Each stage ends where the next block strides, c5 with the last block.
        ends = [i for i, plan in enumerate(plans) if plan.stride == 2] + [len(plans) - 1]
        end_of = dict(zip(STAGES, ends, strict=True))
        c_in, stride, dilation = 64, 2, 1
        for i, plan in enumerate(plans[: end_of[self.stages[-1]] + 1]):
            for stage in self.stages:
                if end_of[stage] == i:
                    self.stage_at[i] = stage
                    strides[stage], channels[stage] = stride, plan.widths[2 if stage == "c5" else 1]
            room = stride * plan.stride <= output_stride
            last = i == len(plans) - 1
            cut = not last and i == end_of[self.stages[-1]]
            block = XceptionBlock(c_in, plan, plan.stride if room else 1, dilation, last=last, cut=cut)
            self.blocks.append(block)
            stride, dilation = (stride * plan.stride, dilation) if room else (stride, dilation * plan.stride)
            c_in = plan.widths[-1]
        self.channels, self.strides = PerStage(**channels), PerStage(**strides)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if pretrained:
            self._load(fetch(f"xception{depth}"), stem)

    def forward(self, image: Float[Tensor, "b c H W"]) -> Features:
        """The maps of `stages`."""
        x, maps = self.normalize(image), {}
        for layer in self.stem:
            x = torch.relu(layer(x))
        for i, block in enumerate(self.blocks):
            x, fine = block(x)
            if i in self.stage_at:
                stage = self.stage_at[i]
                maps[stage] = x if stage == "c5" else fine
        return Features(maps)

    def _load(self, source: dict[str, Tensor], stem: StemPolicy) -> None:
        own = self.state_dict()
        wanted = {key: tensor for key, tensor in own.items() if not key.startswith("normalize.")}
        normalize = {key: tensor for key, tensor in own.items() if key not in wanted}
        fitting = adapt_stem(source, wanted, stem)
        self.load_state_dict(normalize | {key: fitting[key] for key in wanted})
