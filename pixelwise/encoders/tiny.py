"""A five-convolution encoder for tests and documentation. Not a paper."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from ..layers import ConvNormAct, Normalize
from ..types import STAGES, Features, PerStage
from .base import Encoder, check_output_stride


class Tiny(Encoder):
    """One 3x3 convolution per stage; strides 2, 4, 8, 16, 32, dilated beyond `output_stride`.

    Args:
        in_channels: of the image.
        output_stride: 8, 16 or 32.
        stages: the stages to give, in any order; those behind the last are cut off.
    """

    def __init__(
        self, *, in_channels: int = 3, output_stride: int = 32, stages: Sequence[str] = STAGES
    ) -> None:
        super().__init__()
        check_output_stride(output_stride)
        widths = (4, 8, 8, 16, 16)
        self.in_channels = in_channels
        self.stages = tuple(stage for stage in STAGES if stage in stages)
        self.normalize = Normalize((0.5,) * in_channels, (0.25,) * in_channels)
        self.body = nn.ModuleDict()
        channels, strides = dict.fromkeys(STAGES, 0), dict.fromkeys(STAGES, 0)
        c_in, stride, dilation = in_channels, 1, 1
        for stage, width in zip(STAGES[: STAGES.index(self.stages[-1]) + 1], widths, strict=False):
            if stride == output_stride:
                dilation *= 2
            self.body[stage] = ConvNormAct(
                c_in, width, stride=1 if stride == output_stride else 2, dilation=dilation
            )
            c_in, stride = width, min(2 * stride, output_stride)
            if stage in self.stages:
                channels[stage], strides[stage] = width, stride
        self.channels, self.strides = PerStage(**channels), PerStage(**strides)

    def forward(self, image: Float[Tensor, "b c H W"]) -> Features:
        """The maps of `stages`."""
        x, maps = self.normalize(image), {}
        for stage, convolution in self.body.items():
            x = convolution(x)
            if stage in self.stages:
                maps[stage] = x
        return Features(maps)
