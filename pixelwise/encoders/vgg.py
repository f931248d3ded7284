"""VGG16's convolutions with less stride, as the first dilated networks use them.

Where a pooling may stride no longer, either it is removed ("vgg16_dilated", as Dilation8 and the Deep Parsing
Network have it), or it looks at 3x3 squares around every pixel ("vgg16_atrous", DeepLab, all of whose
poolings have 3x3 squares, so that the cells of every map lie on pixels of the image). Convolutions behind it
are dilated by 2 (Caffe's "hole").
"""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from ..layers import IMAGENET_MEAN, IMAGENET_STD, Normalize
from ..types import STAGES, Features, PerStage
from .base import Encoder, check_output_stride
from .published import fetch
from .timm import StemPolicy, adapt_stem, per_channel

# Output channels of the convolutions of each stage (Simonyan and Zisserman 2014, Table 1, column D).
WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(Encoder):
    """The thirteen convolutions and five poolings of VGG16; stage ci is what pooling i gives.

    Args:
        window: side of the squares that are pooled, 2 (VGG) or 3 (DeepLab).
        in_channels: of the image.
        pretrained: whether to load ImageNet weights, as timm offers them.
        output_stride: 32, 16 or 8.
        stages: the stages to give, in any order; those behind the last are cut off.
        stem: how pretrained filters take an image that is not RGB, see `TimmEncoder`.

    Raises:
        ValueError: on another output stride, or if the weights cannot be had.
    """

    def __init__(
        self,
        window: int,
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
        self.normalize = Normalize(
            per_channel(IMAGENET_MEAN, in_channels), per_channel(IMAGENET_STD, in_channels)
        )
        self.body = nn.ModuleDict()
        channels, strides = dict.fromkeys(STAGES, 0), dict.fromkeys(STAGES, 0)
        c_in, stride, dilation = in_channels, 1, 1
        for stage, widths in zip(STAGES[: STAGES.index(self.stages[-1]) + 1], WIDTHS, strict=False):
            layers: list[nn.Module] = []
            for width in widths:
                layers += [nn.Conv2d(c_in, width, 3, 1, dilation, dilation), nn.ReLU(inplace=True)]
                c_in = width
            if stride < output_stride:
                stride *= 2
                layers.append(nn.MaxPool2d(window, 2, (window - 1) // 2))
            else:
                dilation *= 2
                if window == 3:
                    layers.append(nn.MaxPool2d(3, 1, 1))
            self.body[stage] = nn.Sequential(*layers)
            if stage in self.stages:
                channels[stage], strides[stage] = c_in, stride
        self.channels, self.strides = PerStage(**channels), PerStage(**strides)
        for layer in self.body.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        if pretrained:
            load_convolutions(self, fetch("vgg16"), stem)

    def forward(self, image: Float[Tensor, "b c H W"]) -> Features:
        """The maps of `stages`."""
        x, maps = self.normalize(image), {}
        for stage, layers in self.body.items():
            x = layers(x)
            if stage in self.stages:
                maps[stage] = x
        return Features(maps)


def load_convolutions(encoder: VGG16, state_dict: Mapping[str, Tensor], stem: StemPolicy = "repeat") -> None:
    """Begin with the convolutions of a classifier, in place.

    Args:
        encoder: gets the weights.
        state_dict: of a VGG16 of timm or torchvision without batch norm.
        stem: how its filters take an image that is not RGB, see `TimmEncoder`.
    """
    target = encoder.body.state_dict()
    numbers = sorted({int(key.split(".")[1]) for key in state_dict if key.startswith("features.")})
    source = {}
    # Both list their convolutions in the order of the network.
    for layer, number in zip(dict.fromkeys(key.rpartition(".")[0] for key in target), numbers, strict=False):
        for name in ("weight", "bias"):
            source[f"{layer}.{name}"] = state_dict[f"features.{number}.{name}"]
    encoder.body.load_state_dict(adapt_stem(source, target, stem))
