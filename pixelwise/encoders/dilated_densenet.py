"""DenseNet of stride 8 or 16: transitions lose their pooling, and the blocks behind them are dilated.

As DenseASPP has it (Yang et al., CVPR 2018). Channels are still halved between blocks, so that ImageNet
weights fit. Keys are timm's.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ..layers import IMAGENET_MEAN, IMAGENET_STD, Normalize
from ..types import STAGES, Features, PerStage
from .base import Encoder, check_output_stride
from .published import fetch
from .timm import StemPolicy, adapt_stem, per_channel

_ENDS = ("norm0", "denseblock1", "denseblock2", "denseblock3", "denseblock4")


class DilatedDenseNet(Encoder):
    """A DenseNet of timm without its last norm; c1 is the stem's map, c2 to c5 those of the four blocks.

    Args:
        name: of a DenseNet of timm, such as "densenet161".
        in_channels: of the image.
        pretrained: whether to load timm's weights.
        output_stride: 32, 16 or 8.
        stages: the stages to give, in any order; what lies behind the last is cut off.
        stem: how pretrained filters take an image that is not RGB, see `TimmEncoder`.

    Raises:
        ValueError: on another output stride, or if the weights cannot be had.
    """

    def __init__(
        self,
        name: str,
        *,
        in_channels: int = 3,
        pretrained: bool = False,
        output_stride: int = 32,
        stages: Sequence[str] = STAGES,
        stem: StemPolicy = "repeat",
    ) -> None:
        super().__init__()
        import timm  # takes a second: only those who build an encoder pay it

        check_output_stride(output_stride)
        network: Any = timm.create_model(name, in_chans=in_channels)
        if pretrained:
            network.load_state_dict(adapt_stem(fetch(name), network.state_dict(), stem))
        self.in_channels = in_channels
        self.stages = tuple(stage for stage in STAGES if stage in stages)
        self.normalize = Normalize(
            per_channel(IMAGENET_MEAN, in_channels), per_channel(IMAGENET_STD, in_channels)
        )
        given = {end: stage for end, stage in zip(_ENDS, STAGES, strict=True) if stage in stages}
        channels = {"c1": network.feature_info[0]["num_chs"]}
        strides = {"c1": 2}
        self.body = nn.Sequential()
        stride, dilation = 4, 1
        for part, layer in network.features.named_children():
            self.body.add_module(part, layer)
            if part.startswith("transition") and stride < output_stride:
                stride *= 2
            elif part.startswith("transition"):
                layer.pool = nn.Identity()
                dilation *= 2
            elif part.startswith("denseblock"):
                stage = STAGES[int(part[-1])]
                channels[stage], strides[stage] = _num_channels(layer), stride
                for convolution in layer.modules():
                    if isinstance(convolution, nn.Conv2d) and convolution.kernel_size == (3, 3):
                        convolution.dilation = convolution.padding = (dilation, dilation)
            if given.get(part) == self.stages[-1]:
                break
        self.stage_at = given
        self.channels = PerStage(*(channels[s] if s in self.stages else 0 for s in STAGES))
        self.strides = PerStage(*(strides[s] if s in self.stages else 0 for s in STAGES))

    def forward(self, image: Float[Tensor, "b c H W"]) -> Features:
        """The maps of `stages`."""
        x, maps = self.normalize(image), {}
        for part, layer in self.body.named_children():
            x = layer(x)
            if part in self.stage_at:
                maps[self.stage_at[part]] = x
        return Features(maps)


def _num_channels(block: Any) -> int:
    """Channels that a dense block gives: those of its last layer's input, and what that layer adds."""
    *_, last = block.children()
    return int(last.conv1.in_channels + last.conv2.out_channels)
