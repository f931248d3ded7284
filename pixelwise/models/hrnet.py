"""HRNet for segmentation: what the branches of high and low resolution know together names each pixel.

The body (`encoders/hrnet.py`) keeps a branch at a quarter of the image's size from first to last, adds
coarser branches one by one, and exchanges between all of them again and again (Fig. 2, Sec. 3). Three heads
read its last exchange (Fig. 4):

    V1   the finest branch alone
    V2   all branches, brought to the finest size and concatenated
    V2p  those of V2, reduced to 256 channels and averaged to the levels of a feature pyramid

V1 and V2 classify by two 1x1 convolutions. Branches are upsampled bilinearly with aligned corners, as in the
authors' code for segmentation (github.com/HRNet/HRNet-Semantic-Segmentation), whose weights
`from_hrnet_segmentation` reads; the network of the ImageNet weights (`pretrained`) repeats values instead.

Departures: V2p is the paper's for detection. Here its four finest levels carry the semantic branch of
Panoptic FPN (`fpn.py`); the fifth, of stride 64, serves large boxes only and is left out.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, HRNet, StemPolicy, fit_hrnet_weights
from ..layers import BatchNorm2d, resize_like, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Features, Paper
from .fpn import SemanticBranch

PAPER = Paper(
    "Deep High-Resolution Representation Learning for Visual Recognition",
    "Wang, Sun, Cheng, Jiang, Deng, Zhao, Liu, Mu, Tan, Wang, Liu, Xiao",
    "TPAMI",
    2020,
    "https://arxiv.org/abs/1908.07919",
)

LEVELS = 4  # of V2p: strides 4, 8, 16 and 32
LEVEL_CHANNELS = 256


def concatenate(features: Features) -> Float[Tensor, "b _ h w"]:
    """All maps of an encoder at the size of the finest, one after the other (Fig. 4b)."""
    finest, *coarser = features.maps.values()
    return torch.cat([finest, *(resize_like(x, finest, align_corners=True) for x in coarser)], 1)


class PixelHead(nn.Sequential):
    """Classifier of every pixel: 1x1 convolution that keeps the channels, batch norm, ReLU, 1x1 convolution.

    Args:
        c_in: channels of the input.
        num_classes: number of channels k of the logits.
    """

    def __init__(self, c_in: int, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_in, 1),
            BatchNorm2d(c_in),
            nn.ReLU(inplace=True),
            nn.Conv2d(c_in, num_classes, 1),
        )
        for convolution in (self[0], self[3]):
            assert isinstance(convolution, nn.Conv2d)
            nn.init.normal_(convolution.weight, std=0.001)


class HRNetV1(DenseModel):
    """The finest branch and a classifier (Fig. 4a).

    Args:
        encoder: gives c2.
        num_classes: number of channels k of the logits.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.head = PixelHead(encoder.channels.c2, num_classes)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        return DenseLogits(self.head(self.encoder(image).c2), size, align_corners=True)  # b k H/4 W/4


class HRNetV2(DenseModel):
    """All branches, concatenated, and a classifier (Fig. 4b).

    Args:
        encoder: gives c2 to c5.
        num_classes: number of channels k of the logits.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.head = PixelHead(sum(encoder.channels), num_classes)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        return DenseLogits(self.head(concatenate(self.encoder(image))), size, align_corners=True)


class HighResolutionPyramid(nn.Module):
    """Levels of a feature pyramid from the concatenated branches (Fig. 4c).

    One 1x1 convolution without norm, averages over squares of side 1, 2, 4 and 8, and a 3x3 convolution for
    each level.

    Args:
        c_in: channels of the concatenated branches.
        c_out: channels of every level.
    """

    def __init__(self, c_in: int, c_out: int = LEVEL_CHANNELS) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(c_in, c_out, 1)
        self.out = nn.ModuleList(nn.Conv2d(c_out, c_out, 3, padding=1) for _ in range(LEVELS))
        for convolution in (self.reduce, *self.out):
            assert isinstance(convolution, nn.Conv2d)
            nn.init.kaiming_uniform_(convolution.weight, a=1)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)

    def forward(self, x: Float[Tensor, "b _ h w"]) -> list[Tensor]:
        """The levels, finest first; an incomplete square at the border is left out."""
        x = self.reduce(x)
        return [out(F.avg_pool2d(x, 2**i) if i else x) for i, out in enumerate(self.out)]


class HRNetV2p(DenseModel):
    """A feature pyramid from all branches (Fig. 4c), and the semantic branch of Panoptic FPN.

    Args:
        encoder: gives c2 to c5.
        num_classes: number of channels k of the logits.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.decoder = HighResolutionPyramid(sum(encoder.channels))
        self.head = SemanticBranch(LEVEL_CHANNELS, LEVELS, num_classes)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        levels = self.decoder(concatenate(self.encoder(image)))
        return DenseLogits(self.head(levels), size)  # b k H/4 W/4


# --- builders -------------------------------------------------------------------------------------


def hrnetv1_w32(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> HRNetV1:
    """HRNetV1-W32: 28.5 million parameters."""
    encoder = HRNet(
        32,
        in_channels=in_channels,
        stages=("c2",),
        upsampling="bilinear",
        pretrained=pretrained,
        stem=stem,
    )
    return HRNetV1(encoder, num_classes)


def hrnetv2(
    num_classes: int,
    *,
    width: int = 32,
    modules: tuple[int, int, int] = (1, 4, 3),
    blocks: int = 4,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> HRNetV2:
    """HRNetV2 of any width and depth; see `HRNet`."""
    encoder = HRNet(
        width,
        in_channels=in_channels,
        upsampling="bilinear",
        pretrained=pretrained,
        stem=stem,
        modules=modules,
        blocks=blocks,
    )
    return HRNetV2(encoder, num_classes)


def hrnetv2_w18(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> HRNetV2:
    """HRNetV2-W18: 9.6 million parameters."""
    return hrnetv2(num_classes, width=18, in_channels=in_channels, pretrained=pretrained, stem=stem)


def hrnetv2_w32(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> HRNetV2:
    """HRNetV2-W32: 29.5 million parameters."""
    return hrnetv2(num_classes, width=32, in_channels=in_channels, pretrained=pretrained, stem=stem)


def hrnetv2_w48(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> HRNetV2:
    """HRNetV2-W48: 65.9 million parameters."""
    return hrnetv2(num_classes, width=48, in_channels=in_channels, pretrained=pretrained, stem=stem)


def hrnetv2p_w32(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> HRNetV2p:
    """HRNetV2p-W32 with the semantic branch of Panoptic FPN: 33.4 million parameters."""
    encoder = HRNet(32, in_channels=in_channels, upsampling="bilinear", pretrained=pretrained, stem=stem)
    return HRNetV2p(encoder, num_classes)


# --- weights --------------------------------------------------------------------------------------


def from_hrnet_segmentation(state_dict: Mapping[str, Tensor]) -> HRNetV2:
    """Weights of the authors' HRNetV2 (github.com/HRNet/HRNet-Semantic-Segmentation), in eval mode.

    Args:
        state_dict: as `torch.load(path, weights_only=True)` gives it, with or without `module.` or `model.`
            before each key.

    Raises:
        ValueError: if it is not a state dict of that network; one with object-contextual representations is
            read by `from_hrnet_ocr`.
    """
    weights = {key.removeprefix("module.").removeprefix("model."): x for key, x in state_dict.items()}
    try:
        width = len(weights["stage2.0.branches.0.0.conv1.weight"])
        num_classes, first = len(weights["last_layer.3.weight"]), weights["conv1.weight"]
    except KeyError as error:
        raise ValueError(f"state_dict is not that of HRNetV2 for segmentation: {error} is missing") from error
    arguments: dict[str, Any] = {
        "num_classes": num_classes,
        "width": width,
        "modules": tuple(count(weights, f"stage{stage}.") for stage in (2, 3, 4)),
        "blocks": count(weights, "layer1."),
        "in_channels": first.shape[1],
    }
    model = hrnetv2(**arguments)
    model.encoder.load_state_dict(fit_hrnet_weights(weights, model.encoder.state_dict()))
    head = {key.removeprefix("last_layer."): x for key, x in weights.items() if key.startswith("last_layer.")}
    try:
        model.head.load_state_dict(head)
    except RuntimeError as error:
        raise ValueError(f"state_dict is not that of HRNetV2 for segmentation: {error}") from error
    model.built_by = BuiltBy("hrnetv2", arguments)
    return model.eval()


def count(weights: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered parts there are: `layer1.0` to `layer1.3` are 4."""
    numbers = {int(key.removeprefix(prefix).split(".")[0]) for key in weights if key.startswith(prefix)}
    return max(numbers, default=-1) + 1
