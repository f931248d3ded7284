"""Dilation8 and Dilation10: a front end without the last two poolings, and a module that gathers context.

The front end is VGG16 whose last two poolings are removed: the fifth stage is dilated by 2, the first fully
connected layer, a 7x7 convolution, by 4 (Sec. 4). It pads nothing; the image is continued by reflection. The
context module is a plain chain of 3x3 convolutions on the scores of the classes whose dilation doubles from
layer to layer, so that it sees the whole image at full resolution (Sec. 3, Table 1). It begins as the
identity (Eq. 4 and 5): from random weights it does not learn.

`dilation8` is the network for VOC, with the large context module whose channels grow (Table 1, "Large").
`dilation10` is that for Cityscapes: the basic module, two layers longer, and fixed bilinear upsampling.

Departures: images are RGB with ImageNet's mean and standard deviation; Dilation8 interpolates scores where
the authors interpolate probabilities. The authors train front end, context module and both in turn (`freeze`
and `--init-from`); from a classifier of ImageNet, both learn at once too.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import StemPolicy, fetch
from ..layers import fit, resize, size_of
from ..ops import bilinear_kernel
from ..types import DenseLogits, DenseModel, Paper
from .vgg import VGG16, caffe_names, convolutionize, copy_layers, initialize_relu, vgg_normalize

PAPER = Paper(
    "Multi-Scale Context Aggregation by Dilated Convolutions",
    "Yu, Koltun",
    "ICLR",
    2016,
    "https://arxiv.org/abs/1511.07122",
)

MARGIN = 186  # pixels that the front end loses on each side
STRIDE = 8
LARGE = ((1, 2), (1, 2), (2, 4), (4, 8), (8, 16), (16, 32), (1, 32))  # dilation, channels per class


class FrontEnd(nn.Module):
    """VGG16 without padding, with three poolings; layers have Caffe's names.

    Args:
        in_channels: of the image.
        width: channels of the first layers, 64 in VGG16; all others are multiples.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.normalize = vgg_normalize(in_channels)
        c = in_channels
        for stage, widths in enumerate(VGG16, 1):
            for i, channels in enumerate(widths, 1):
                c_out = channels * width // 64
                self.add_module(f"conv{stage}_{i}", nn.Conv2d(c, c_out, 3, dilation=2 if stage == 5 else 1))
                c = c_out
        self.fc6 = nn.Conv2d(c, 64 * width, 7, dilation=4)
        self.fc7 = nn.Conv2d(64 * width, 64 * width, 1)
        self.dropout = nn.Dropout(0.5)
        initialize_relu(self)

    def forward(self, image: Float[Tensor, "b c H W"]) -> Float[Tensor, "b _ h w"]:
        """Features of stride 8, one cell for every eight pixels begun."""
        x = reflected(self.normalize(image))
        for stage, widths in enumerate(VGG16, 1):
            for i in range(1, len(widths) + 1):
                x = F.relu(getattr(self, f"conv{stage}_{i}")(x))
            if stage <= 3:
                x = F.max_pool2d(x, 2)
        x = self.dropout(F.relu(self.fc6(x)))
        return self.dropout(F.relu(self.fc7(x)))


def reflected(x: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c _ _"]:
    """`x` continued by reflection, again and again if it is small, by the margin and to whole cells."""

    def positions(length: int) -> Tensor:
        wanted = torch.arange(-MARGIN, length + -length % STRIDE + MARGIN, device=x.device).abs()
        period = 2 * length - 2
        wanted = wanted % period
        return torch.minimum(wanted, period - wanted)

    return x[:, :, positions(x.shape[-2])][..., positions(x.shape[-1])]


def identity_convolution(
    c_in: int, c_out: int, num_classes: int, kernel: int = 3, *, dilation: int = 1, padding: int = 0
) -> nn.Conv2d:
    """Convolution that passes the channels of each class on to those of the same class (Eq. 5), and noise."""
    layer = nn.Conv2d(c_in, c_out, kernel, padding=padding, dilation=dilation)
    value = num_classes / c_out
    nn.init.normal_(layer.weight, std=0.01 * value)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    group_out = torch.arange(c_out) * num_classes // c_out
    group_in = torch.arange(c_in) * num_classes // c_in
    same = group_out[:, None] == group_in  # c_out c_in
    with torch.no_grad():
        layer.weight[:, :, kernel // 2, kernel // 2] = torch.where(
            same.to(layer.weight.device), value, layer.weight[:, :, kernel // 2, kernel // 2]
        )
    return layer


def large_context(num_classes: int) -> nn.Sequential:
    """The large context module: all padding comes before its first layer (Table 1)."""
    layers: list[nn.Module] = []
    c_in, padding = num_classes, sum(dilation for dilation, _ in LARGE)
    for dilation, multiplier in LARGE:
        c_out = multiplier * num_classes
        layers.append(identity_convolution(c_in, c_out, num_classes, dilation=dilation, padding=padding))
        layers.append(nn.ReLU(inplace=True))
        c_in, padding = c_out, 0
    return nn.Sequential(*layers, identity_convolution(c_in, num_classes, num_classes, 1))


def basic_context(num_classes: int, dilations: Sequence[int]) -> nn.Sequential:
    """The basic context module: as many channels as classes throughout (Table 1)."""
    layers: list[nn.Module] = []
    for d in dilations:
        layers.append(identity_convolution(num_classes, num_classes, num_classes, dilation=d, padding=d))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers, identity_convolution(num_classes, num_classes, num_classes, 1))


class Dilation(DenseModel):
    """Front end, scores, context module.

    Args:
        context: takes scores and gives better ones.
        num_classes: number of channels k of the logits.
        in_channels: of the image.
        width: see `FrontEnd`.
    """

    minimum_size = 2

    def __init__(
        self, context: nn.Module, num_classes: int, *, in_channels: int = 3, width: int = 64
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.encoder = FrontEnd(in_channels, width)
        self.head = nn.Conv2d(64 * width, num_classes, 1)
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.context = context

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        coarse = self.context(self.head(self.encoder(image)))  # b k H/8 W/8
        return DenseLogits(fit(self.upsample(coarse), size), size)

    def upsample(self, coarse: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k _ _"]:
        """Scores of pixels; cell i lies at pixel 8 i."""
        height, width = ((length - 1) * STRIDE + 1 for length in (coarse.shape[-2], coarse.shape[-1]))
        return resize(coarse, (height, width), align_corners=True)


class DilationWithTransposed(Dilation):
    """As `Dilation`, with bilinear upsampling by a transposed convolution that does not learn."""

    def __init__(
        self, context: nn.Module, num_classes: int, *, in_channels: int = 3, width: int = 64
    ) -> None:
        super().__init__(context, num_classes, in_channels=in_channels, width=width)
        self.transposed = nn.ConvTranspose2d(
            num_classes, num_classes, 16, STRIDE, 4, groups=num_classes, bias=False
        )
        self.transposed.weight.requires_grad_(False).copy_(bilinear_kernel(16).expand(num_classes, 1, 16, 16))

    def upsample(self, coarse: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k _ _"]:
        """Scores of pixels; cell i covers pixels 8 i to 8 i + 7."""
        scores: Tensor = self.transposed(coarse)
        return scores


def load_vgg16(front_end: FrontEnd, state_dict: Mapping[str, Tensor], stem: StemPolicy = "repeat") -> None:
    """Begin with a classifier of ImageNet: all its layers but the last, in place.

    Args:
        front_end: gets the weights.
        state_dict: of a VGG16 of torchvision or timm without batch norm.
        stem: what its colour filters become where the image is not RGB, see `adapt_stem`.

    Raises:
        ValueError: if the weights are others.
    """
    layers = caffe_names(state_dict)
    for name, kernel in (("fc6", 7), ("fc7", 1)):
        if (weight := layers.get(f"{name}.weight")) is not None:
            layers[f"{name}.weight"] = convolutionize(weight.flatten(1), kernel)
    keys = [key for key in front_end.state_dict() if not key.startswith("normalize.")]
    copy_layers(layers, front_end, keys, stem)


def dilation8(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 64,
) -> Dilation:
    """The paper's network for VOC: front end and large context module."""
    model = Dilation(large_context(num_classes), num_classes, in_channels=in_channels, width=width)
    return _begun(model, pretrained, stem, width)


def dilation10(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 64,
) -> Dilation:
    """The paper's network for Cityscapes: front end and basic context module of ten layers."""
    context = basic_context(num_classes, (1, 1, 2, 4, 8, 16, 32, 64, 1))
    model = DilationWithTransposed(context, num_classes, in_channels=in_channels, width=width)
    return _begun(model, pretrained, stem, width)


def _begun(model: Dilation, pretrained: bool, stem: StemPolicy, width: int) -> Dilation:
    if pretrained and width != 64:
        raise ValueError(f"pretrained weights are for width 64, got {width}")
    if pretrained:
        load_vgg16(model.encoder, fetch("vgg16"), stem)
    return model
