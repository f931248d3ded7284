"""EMANet: describe the map by a few bases, found by expectation maximisation, and draw it again from them.

Attention to all pixels costs their number squared. Here pixels attend to 64 bases only, and the bases to the
pixels, in turns: the E step assigns pixels to bases, the M step makes each base the mean of its pixels (paper
Sec. 3.2, Eq. 9 to 11). The map drawn from the bases has low rank, so noise is gone; it is added to the
original (Sec. 3.3, Fig. 2). Each image starts from bases that are moving averages over training (Sec. 3.3).

`emanet_resnet50`, `emanet_resnet101` and `emanet_resnet152` are the authors' networks
(github.com/XiaLiPKU/EMANet): their ResNet starts with three 3x3 convolutions, and the last two blocks are
dilated by 8 and 16. `emanet` takes any encoder as it is.

As in the authors' code, no gradient flows through the iterations, so the convolution before them keeps its
first weights; here it is frozen, which says so. Departures: the moving average is taken in the forward pass,
like that of a batch norm, and over all processes of a distributed training; norms have the usual momentum of
0.1, where the authors take 3e-4.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, dilate, make_encoder
from ..layers import BatchNorm2d, ConvNormAct, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper

PAPER = Paper(
    "Expectation-Maximization Attention Networks for Semantic Segmentation",
    "Li, Zhong, Wu, Yang, Lin, Liu",
    "ICCV",
    2019,
    "https://arxiv.org/abs/1907.13426",
)

NUM_BASES, NUM_ITERATIONS = 64, 3
MOMENTUM = 0.9  # share of the old bases in the moving average
DILATIONS = (2, 8, 16)  # of the three blocks of c5
EPSILON = 1e-6


class EMAttention(nn.Module):
    """Expectation-maximisation attention unit (Sec. 3.3, Fig. 2).

    Args:
        channels: of the input and the output.
        num_bases: how many bases k there are.

    Attributes:
        bases: those that each image starts from: moving averages, a part of the state like a batch norm's.
    """

    bases: Tensor

    def __init__(self, channels: int, num_bases: int = NUM_BASES) -> None:
        super().__init__()
        start = torch.randn(1, channels, num_bases) * math.sqrt(2 / num_bases)
        self.register_buffer("bases", unit(start))
        self.project = nn.Conv2d(channels, channels, 1).requires_grad_(False)
        self.restore = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), BatchNorm2d(channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Find the bases, draw the map from them, and add it."""
        with torch.no_grad():
            pixels = self.project(x).flatten(2)  # b c hw
            bases = self.bases.expand(x.shape[0], -1, -1)
            for _ in range(NUM_ITERATIONS):
                assigned = (pixels.transpose(1, 2) @ bases).softmax(2)  # E: b hw k
                share = assigned / (assigned.sum(1, keepdim=True) + EPSILON)
                bases = unit(pixels @ share)  # M: b c k
            drawn = (bases @ assigned.transpose(1, 2)).unflatten(2, x.shape[2:])
            if self.training:
                self._remember(bases)
        return F.relu(self.restore(F.relu(drawn)) + x)

    def _remember(self, bases: Float[Tensor, "b c k"]) -> None:
        """Move the bases towards the mean of those of all images, whatever process has them."""
        total = bases.sum(0, keepdim=True, dtype=self.bases.dtype)
        count = total.new_tensor(len(bases))
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(total)
            distributed.all_reduce(count)
        self.bases.mul_(MOMENTUM).add_((1 - MOMENTUM) * total / count)


def unit(bases: Float[Tensor, "b c k"]) -> Float[Tensor, "b c k"]:
    """Each base divided by its length."""
    return bases / (EPSILON + bases.norm(dim=1, keepdim=True))


class EMANet(DenseModel):
    """Dilated encoder, attention to bases, two convolutions.

    Args:
        encoder: gives c5, in the paper with stride 8.
        num_classes: number of channels k of the logits.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        # A quarter, as the authors have it; with fewer channels small encoders cannot tell classes apart.
        c = max(encoder.channels.c5 // 4, 16)
        self.reduce = ConvNormAct(encoder.channels.c5, c)
        self.attention = EMAttention(c)
        self.head = nn.Sequential(
            ConvNormAct(c, c // 2), nn.Dropout2d(0.1), nn.Conv2d(c // 2, num_classes, 1)
        )

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        x = self.attention(self.reduce(self.encoder(image).c5))
        return DenseLogits(self.head(x), size, align_corners=True)  # b k H/8 W/8


def emanet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
) -> EMANet:
    """EMANet on any encoder that can be dilated."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c5",),
    )
    return EMANet(made, num_classes)


def emanet_resnet50(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> EMANet:
    """The authors' EMANet on ResNet-50."""
    return _with_grid(num_classes, "resnet50s", in_channels, pretrained, stem)


def emanet_resnet101(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> EMANet:
    """The authors' EMANet on ResNet-101."""
    return _with_grid(num_classes, "resnet101s", in_channels, pretrained, stem)


def emanet_resnet152(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> EMANet:
    """The authors' EMANet on ResNet-152."""
    return _with_grid(num_classes, "resnet152s", in_channels, pretrained, stem)


def _with_grid(
    num_classes: int, encoder: str, in_channels: int, pretrained: bool, stem: StemPolicy
) -> EMANet:
    model = emanet(num_classes, encoder=encoder, in_channels=in_channels, pretrained=pretrained, stem=stem)
    dilate(model.encoder, "c5", *DILATIONS)
    return model


_BODY = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_PARTS = {
    "fc0.conv": "reduce.0",
    "fc0.bn": "reduce.1",
    "emau.mu": "attention.bases",
    "emau.conv1": "attention.project",
    "emau.conv2": "attention.restore",
    "fc1.0.conv": "head.0.0",
    "fc1.0.bn": "head.0.1",
    "fc2": "head.2",
}  # theirs -> ours


def from_emanet(state_dict: Mapping[str, Tensor]) -> EMANet:
    """Weights of the authors' EMANet (github.com/XiaLiPKU/EMANet) in our model, in eval mode.

    Args:
        state_dict: as `torch.load(path, weights_only=True)["net"]` gives it, with or without `module.` before
            each key.

    Raises:
        ValueError: if it is not a state dict of an EMANet on ResNet-50, 101 or 152.
    """
    weights = {}
    for key, tensor in state_dict.items():
        key = key.removeprefix("module.")
        if key.startswith("extractor."):
            _, position, rest = key.split(".", 2)
            key = f"encoder.body.{_BODY.get(position, position)}.{rest}"
        else:
            part = next((part for part in _PARTS if key.startswith(part)), "")
            key = _PARTS.get(part, "") + key.removeprefix(part)
        weights[key] = tensor
    builders = (emanet_resnet152, emanet_resnet101, emanet_resnet50)
    last = ("encoder.body.layer3.35.conv1.weight", "encoder.body.layer3.22.conv1.weight", "")
    builder = next(b for b, key in zip(builders, last, strict=True) if not key or key in weights)
    try:
        arguments: dict[str, Any] = {
            "num_classes": len(weights["head.2.weight"]),
            "in_channels": weights["encoder.body.conv1.0.weight"].shape[1],
        }
        model = builder(**arguments)
        own = {key: x for key, x in model.state_dict().items() if key.startswith("encoder.normalize.")}
        model.load_state_dict(weights | own)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of the authors' EMANet: {error}") from error
    model.built_by = BuiltBy(builder.__name__, arguments)
    return model.eval()
