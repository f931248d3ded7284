"""PSPNet: let every pixel see the whole scene before it is classified.

The last feature map is averaged over 1x1, 2x2, 3x3 and 6x6 grids; the four summaries are
resized back and concatenated to it (paper Fig. 3, Sec. 3.2). A second loss on c4 eases the
training of the deep encoder (Sec. 4, weight 0.4).

`pspnet_resnet50` and `pspnet_resnet101` are the authors' networks: their ResNet starts with three 3x3
convolutions and dilates every block of c4 and c5. `from_semseg` reads the authors' weights
(github.com/hszhao/semseg). `pspnet` takes any encoder as it is.

Departures: the pooling windows of the first, Caffe, release are fixed to the training crop; here, as in
semseg, they adapt to the image.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import DEEP_STEM, Encoder, StemPolicy, dilate, make_encoder
from ..layers import ConvNormAct, resize_like, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper
from .fcn import FCNHead

PAPER = Paper(
    "Pyramid Scene Parsing Network",
    "Zhao, Shi, Qi, Wang, Jia",
    "CVPR",
    2017,
    "https://arxiv.org/abs/1612.01105",
)


class PyramidPooling(nn.Module):
    """Pyramid pooling module (Sec. 3.2). The output has twice the channels of the input.

    Args:
        c_in: channels of the input.
        bins: side of each grid that the map is averaged over.
    """

    def __init__(self, c_in: int, bins: tuple[int, ...] = (1, 2, 3, 6)) -> None:
        super().__init__()
        c_bin = c_in // len(bins)
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(b), ConvNormAct(c_in, c_bin, 1)) for b in bins
        )
        self.channels = c_in + len(bins) * c_bin

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ h w"]:
        """The map and its four summaries, concatenated."""
        return torch.cat([x, *(resize_like(pool(x), x, align_corners=True) for pool in self.pools)], dim=1)


class PSPNet(DenseModel):
    """Encoder of output stride 8, pyramid pooling, one 3x3 convolution, classifier.

    Args:
        encoder: gives c5, and c4 where `aux`; the paper dilates a ResNet so that both have stride 8.
        num_classes: number of channels k of the logits.
        aux: whether to train with the second loss on c4.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, aux: bool = True) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.context = PyramidPooling(encoder.channels.c5)
        c = encoder.channels.c5 // 4
        self.head = nn.Sequential(
            ConvNormAct(self.context.channels, c), nn.Dropout2d(0.1), nn.Conv2d(c, num_classes, 1)
        )
        self.aux_head = FCNHead(encoder.channels.c4, num_classes) if aux else None

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        coarse = self.head(self.context(features.c5))  # b k H/8 W/8
        if self.aux_head is None or not self.training:
            return DenseLogits(coarse, size, align_corners=True)
        return DenseLogits(coarse, size, aux=(self.aux_head(features.c4),), align_corners=True)


def pspnet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
    aux: bool = True,
) -> PSPNet:
    """PSPNet on any encoder that can be dilated."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c4", "c5") if aux else ("c5",),
    )
    return PSPNet(made, num_classes, aux=aux)


def pspnet_resnet50(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    aux: bool = True,
) -> PSPNet:
    """The authors' PSPNet on ResNet-50."""
    model = pspnet(
        num_classes, encoder="resnet50s", in_channels=in_channels, pretrained=pretrained, stem=stem, aux=aux
    )
    return _dilated_fully(model)


def pspnet_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    aux: bool = True,
) -> PSPNet:
    """The authors' PSPNet on ResNet-101."""
    model = pspnet(
        num_classes, encoder="resnet101s", in_channels=in_channels, pretrained=pretrained, stem=stem, aux=aux
    )
    return _dilated_fully(model)


def _dilated_fully(model: PSPNet) -> PSPNet:
    dilate(model.encoder, "c4", 2)
    dilate(model.encoder, "c5", 4)
    return model


def from_semseg(state_dict: dict[str, Tensor]) -> PSPNet:
    """Weights of the authors' PSPNet (github.com/hszhao/semseg) in our model, in eval mode.

    Args:
        state_dict: as `torch.load(path, weights_only=True)["state_dict"]` gives it, with or without
            `module.` before each key.

    Raises:
        ValueError: if it is not a state dict of a PSPNet on ResNet-50 or ResNet-101.
    """
    weights = {}
    for key, tensor in state_dict.items():
        block, _, rest = key.removeprefix("module.").partition(".")
        if block == "layer0":
            position, _, name = rest.partition(".")
            key = f"encoder.body.{DEEP_STEM.get(position, position)}.{name}"
        elif block.startswith("layer"):
            key = f"encoder.body.{block}.{rest}"
        elif block == "ppm":  # features.<bin>.<1: convolution, 2: batch norm>.<name>
            _, bin, position, name = rest.split(".")
            key = f"context.pools.{bin}.1.{int(position) - 1}.{name}"
        elif block == "cls":
            position, _, name = rest.partition(".")
            key = f"head.{'2' if position == '4' else f'0.{position}'}.{name}"
        else:
            key = f"aux_head.{rest}"
        weights[key] = tensor
    try:
        builder = pspnet_resnet101 if "encoder.body.layer3.22.conv1.weight" in weights else pspnet_resnet50
        arguments: dict[str, Any] = {
            "num_classes": len(weights["head.2.weight"]),
            "in_channels": weights["encoder.body.conv1.0.weight"].shape[1],
            "aux": "aux_head.0.weight" in weights,
        }
        model = builder(**arguments)
        own = {key: x for key, x in model.state_dict().items() if key.startswith("encoder.normalize.")}
        model.load_state_dict(weights | own)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of a PSPNet from semseg: {error}") from error
    model.built_by = BuiltBy(builder.__name__, arguments)
    return model.eval()
