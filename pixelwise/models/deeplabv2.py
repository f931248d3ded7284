"""DeepLab v2: atrous spatial pyramid pooling, and the best of three image sizes.

Four classifiers look at the last map, of stride 8, with atrous convolutions of different rates, and their
scores are added (Sec. 3.2, Fig. 4 and 7). On ResNet-101 each is one 3x3 convolution to the classes; on VGG16
each has fully connected layers of its own. The ResNet sees the image at 1, 0.75 and 0.5 of its size; at
every cell and class the largest of the three scores counts (Sec. 4.1.1, "multi-scale inputs with
max fusion"). In training the scores of every size are `aux`: the authors give all four losses the same
weight (`aux_weight=1`).

The CRF is applied afterwards (`--crf-like deeplabv2_voc`, Sec. 3.3).

`deeplabv2_caffe` has the authors' ResNet, as github.com/kazuto1011/deeplab-pytorch rebuilds it: blocks
stride in the first 1x1 convolution, the first pooling rounds up, and resizing does not align corners.
`from_kazuto1011` reads the weights of that package.

Departures: other ResNets are timm's, which stride in the 3x3 convolution of a block; batch norms learn, the
authors freeze them (`freeze`). Labels are not shrunk, scores are resized to them.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, blocks_of, dilate, make_encoder, stride_in_first
from ..layers import resize, resize_like, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper
from .deeplabv1 import FieldOfView, classifier

PAPER = Paper(
    "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully "
    "Connected CRFs",
    "Chen, Papandreou, Kokkinos, Murphy, Yuille",
    "PAMI 2018",
    2016,
    "https://arxiv.org/abs/1606.00915",
)

RATES = (6, 12, 18, 24)  # ASPP-L
SCALES = (1.0, 0.75, 0.5)


class ASPPSum(nn.Module):
    """Atrous spatial pyramid pooling: a sum of classifiers with different fields of view.

    Args:
        branches: each takes the map and gives scores of the same size.
    """

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """The sum."""
        return torch.stack([branch(x) for branch in self.branches]).sum(0)


def atrous_classifier(c_in: int, num_classes: int, rate: int) -> nn.Conv2d:
    """3x3 convolution to the classes that begins with a Gaussian of standard deviation 0.01."""
    layer = nn.Conv2d(c_in, num_classes, 3, padding=rate, dilation=rate)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class DeepLabV2(DenseModel):
    """Atrous encoder, sum of classifiers, maximum over image sizes.

    Args:
        encoder: gives c5.
        head: scores of every cell of c5.
        num_classes: number of channels k of the logits.
        scales: sizes at which the image is seen, the first of them 1.

    Raises:
        ValueError: if the scales do not begin with 1, or one of them is not above 0 and at most 1.
    """

    align_corners = True

    def __init__(self, encoder: Encoder, head: ASPPSum, num_classes: int, scales: Sequence[float]) -> None:
        super().__init__()
        if not scales or scales[0] != 1 or not all(0 < scale <= 1 for scale in scales):
            raise ValueError(f"scales must be 1 and numbers between 0 and 1, got {tuple(scales)}")
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder, self.head, self.scales = encoder, head, tuple(scales)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        maps = [self.head(self.encoder(self.shrink(image, scale)).c5) for scale in self.scales]
        fused = maps[0]
        for map in maps[1:]:
            fused = torch.maximum(fused, resize_like(map, fused, align_corners=self.align_corners))
        aux = tuple(maps) if self.training and len(maps) > 1 else ()
        return DenseLogits(fused, size, aux, align_corners=self.align_corners)

    def shrink(self, image: Float[Tensor, "b c H W"], scale: float) -> Float[Tensor, "b c _ _"]:
        """The image at another size."""
        return shrunk(image, scale)


def shrunk(image: Float[Tensor, "b c H W"], scale: float) -> Float[Tensor, "b c _ _"]:
    """The image with `scale` times as many steps between its pixels along each axis, corners aligned."""
    if scale == 1:
        return image
    part = Fraction(scale).limit_denominator(1000)
    height, width = (
        (length - 1) * part.numerator // part.denominator + 1 for length in (image.shape[-2], image.shape[-1])
    )
    return resize(image, (height, width), align_corners=True)


class CaffeDeepLabV2(DeepLabV2):
    """As `DeepLabV2`, but no resizing aligns corners."""

    align_corners = False
    minimum_size = 2  # half of it must be left

    def shrink(self, image: Float[Tensor, "b c H W"], scale: float) -> Float[Tensor, "b c _ _"]:
        """The image at `scale` times its size, rounded down; pixels lie 1 / `scale` apart."""
        return image if scale == 1 else F.interpolate(image, scale_factor=scale, mode="bilinear")


class PoolUp(nn.Module):
    """Maxima of windows of 3x3, two apart; sizes are rounded up as with `ceil_mode=True`, exportably."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c _ _"]:
        """Pool."""
        return F.max_pool2d(F.pad(x, (1, 2, 1, 2), value=-torch.inf), 3, 2)


def deeplabv2(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet101",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
    scales: Sequence[float] = SCALES,
) -> DeepLabV2:
    """DeepLab v2 on any encoder that can be dilated."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c5",),
    )
    head = ASPPSum([atrous_classifier(made.channels.c5, num_classes, rate) for rate in RATES])
    return DeepLabV2(made, head, num_classes, scales)


def deeplabv2_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    scales: Sequence[float] = SCALES,
) -> DeepLabV2:
    """The paper's DeepLab v2 on ResNet-101."""
    model = deeplabv2(
        num_classes,
        encoder="resnet101",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        scales=scales,
    )
    dilate(model.encoder, "c4", 2)
    dilate(model.encoder, "c5", 4)
    return model


def deeplabv2_vgg16(
    num_classes: int,
    *,
    encoder: str | Encoder = "vgg16_atrous",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> DeepLabV2:
    """The paper's DeepLab v2 on VGG16, whose branches have fully connected layers of their own."""
    made = make_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, output_stride=8, stages=("c5",), stem=stem
    )
    branches = [
        nn.Sequential(FieldOfView(made.channels.c5, rate), classifier(1024, num_classes)) for rate in RATES
    ]
    return DeepLabV2(made, ASPPSum(branches), num_classes, scales=(1.0,))


def deeplabv2_caffe(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet101",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    scales: Sequence[float] = SCALES,
) -> CaffeDeepLabV2:
    """DeepLab v2 with the habits of the authors' network, which change a ResNet of bottlenecks only."""
    made = make_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, output_stride=8, stages=("c5",), stem=stem
    )
    if blocks_of(made):
        stride_in_first(made)
        dilate(made, "c4", 2)
        dilate(made, "c5", 4)
        made.get_submodule("body").register_module("maxpool", PoolUp())
    head = ASPPSum([atrous_classifier(made.channels.c5, num_classes, rate) for rate in RATES])
    return CaffeDeepLabV2(made, head, num_classes, scales)


# Red, green and blue in 0..255, as the package subtracts it.
CAFFE_MEAN = (122.675, 116.669, 104.008)
STAGE = {"layer2": 1, "layer3": 2, "layer4": 3, "layer5": 4}
_LAYERS = {"reduce.conv": "conv1", "reduce.bn": "bn1", "conv3x3.conv": "conv2", "conv3x3.bn": "bn2"}
_LAYERS |= {"increase.conv": "conv3", "increase.bn": "bn3"}
_LAYERS |= {"shortcut.conv": "downsample.0", "shortcut.bn": "downsample.1"}


def _renamed(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the package under our names.

    Raises:
        KeyError, ValueError: at a name that is none of the network's.
    """
    weights = {}
    for key, tensor in state_dict.items():
        key = key.removeprefix("module.").removeprefix("base.")
        part, _, rest = key.partition(".")
        if part == "aspp":
            weights[f"head.branches.{rest.removeprefix('c')}"] = tensor
        elif part == "layer1":
            name = rest.replace("conv1.conv.", "conv1.").replace("conv1.bn.", "bn1.")
            weights[f"encoder.body.{name}"] = tensor
        else:
            block, _, rest = rest.partition(".")
            layer, _, name = rest.rpartition(".")
            place = f"layer{STAGE[part]}.{int(block.removeprefix('block')) - 1}"
            weights[f"encoder.body.{place}.{_LAYERS.get(layer, layer)}.{name}"] = tensor
    return weights


def from_kazuto1011(state_dict: Mapping[str, Tensor]) -> CaffeDeepLabV2:
    """Weights of github.com/kazuto1011/deeplab-pytorch on ResNet-101 in our model, in eval mode.

    Its images are BGR in 0..255 less a mean colour; ours is RGB in [0, 1], with the first filters turned
    round.

    Args:
        state_dict: of its `DeepLabV2_ResNet101_MSC`, as `torch.load(path, weights_only=True)` gives it, with
            or without `module.` before each key.

    Raises:
        ValueError: if it is not a state dict of that network.
    """
    try:
        weights = _renamed(state_dict)
        arguments: dict[str, Any] = {"num_classes": len(weights["head.branches.0.weight"])}
        model = deeplabv2_caffe(**arguments)
        weights["encoder.body.conv1.weight"] = weights["encoder.body.conv1.weight"].flip(1)
        weights["encoder.normalize.mean"] = torch.tensor(CAFFE_MEAN).view(1, 3, 1, 1) / 255
        weights["encoder.normalize.std"] = torch.full((1, 3, 1, 1), 1 / 255)
        model.load_state_dict(weights)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"state_dict is not that of a DeepLab v2 of deeplab-pytorch: {error}") from error
    model.built_by = BuiltBy("deeplabv2_caffe", arguments)
    return model.eval()
