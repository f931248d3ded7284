"""SINet: portraits are cut out by a network small enough for any telephone.

A spatial squeeze block sees a map through two thin branches, some of which shrink it first: much context
for few multiplications (Sec. 3.3, Fig. 4). The decoder does without most of the finer features: where the
coarse scores are sure, information blocking keeps the finer map out, so that it mends borders only (Sec. 3.2,
Fig. 2).

The network with two classes has 0.087 million parameters. `from_sinet` reads the authors' weights
(github.com/clovaai/ext_portrait_segmentation), trained on portraits of 224 x 224 pixels.

Departures: maps are resized to the size of their partner, so that images of any size work. A new network
normalises with ImageNet's mean and standard deviation; the authors' own come with their weights. Their
training in two steps, encoder first, and their additional loss at the border are not taken over.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders.timm import per_channel
from ..layers import IMAGENET_MEAN, IMAGENET_STD, BatchNorm2d, Normalize, resize, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper

PAPER = Paper(
    "SINet: Extreme Lightweight Portrait Segmentation Networks with Spatial Squeeze Module and Information "
    "Blocking Decoder",
    "Park, Sjösund, Yoo, Monet, Bang, Kwak",
    "WACV",
    2020,
    "https://arxiv.org/abs/1911.09099",
)

Branch = tuple[int, int]  # side of the depthwise convolution, factor by which the map is shrunk before it

# Two branches for each spatial squeeze module: at a quarter of the image's size, and at an eighth.
QUARTER: tuple[tuple[Branch, Branch], ...] = (((3, 1), (5, 1)), ((3, 1), (3, 1)))
EIGHTH: tuple[tuple[Branch, Branch], ...] = (
    ((3, 1), (5, 1)),
    ((3, 1), (3, 1)),
    ((5, 1), (3, 2)),
    ((5, 2), (3, 4)),
    ((3, 1), (3, 1)),
    ((5, 1), (5, 1)),
    ((3, 2), (3, 4)),
    ((3, 1), (5, 2)),
)
STEM, SHALLOW, MIDDLE, DEEP = 12, 16, 48, 96  # channels
# Of blue, green and red in 0..255; the authors divide by both the standard deviation and 255.
AUTHORS_MEAN = (107.304565, 115.69884, 132.35703)
AUTHORS_STD = (63.97182, 65.1337, 68.29726)


def norm(channels: int) -> BatchNorm2d:
    """Batch norm with the authors' epsilon."""
    return BatchNorm2d(channels, eps=1e-3)


class NormAct(nn.Module):
    """Batch norm and PReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = norm(channels)
        self.act = nn.PReLU(channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalised, activated."""
        activated: Tensor = self.act(self.bn(x))
        return activated


class ConvPReLU(NormAct):
    """Convolution, batch norm, PReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__(c_out)
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)

    def forward(self, x: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b _ _ _"]:
        """Convolved."""
        return super().forward(self.conv(x))


class SqueezeExcitation(nn.Module):
    """Channels weighed by their means; PReLU takes the sigmoid's place.

    Args:
        channels: of the input.
        reduced: channels between the two layers; one layer alone where there are as many.
    """

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(channels, reduced), nn.PReLU(reduced)]
        if reduced < channels:
            layers += [nn.Linear(reduced, channels), nn.PReLU(channels)]
        self.dense = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Weighed."""
        return x * self.dense(x.mean((2, 3)))[..., None, None]


class DownSampling(NormAct):
    """Depthwise separable convolution of stride 2 with squeeze-excitation in between.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        divide: by which the squeeze-excitation reduces its channels.
    """

    def __init__(self, c_in: int, c_out: int, divide: int) -> None:
        super().__init__(c_out)
        self.conv = nn.Sequential(
            nn.Conv2d(c_in, c_in, 3, 2, 1, groups=c_in, bias=False),
            SqueezeExcitation(c_in, c_in // divide),
            nn.Conv2d(c_in, c_out, 1, bias=False),
        )

    def forward(self, x: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b _ _ _"]:
        """At half the size."""
        return super().forward(self.conv(x))


class SpatialSqueezeBlock(nn.Module):
    """Shrink, depthwise convolution, PReLU, 1x1 convolution, enlarge (Fig. 4b).

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        branch: side of the convolution, and factor of the shrinking.
    """

    def __init__(self, c_in: int, c_out: int, branch: Branch) -> None:
        super().__init__()
        kernel, self.factor = branch
        self.conv = nn.Sequential(
            nn.Conv2d(c_in, c_in, kernel, 1, kernel // 2, groups=c_in, bias=False), norm(c_in)
        )
        self.act_conv1x1 = nn.Sequential(nn.PReLU(c_in), nn.Conv2d(c_in, c_out, 1, bias=False))
        self.bn = norm(c_out)

    def forward(self, x: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b _ h w"]:
        """What the branch sees."""
        size = (x.shape[-2], x.shape[-1])
        if self.factor > 1:
            x = F.avg_pool2d(x, self.factor)
        x = self.act_conv1x1(self.conv(x))
        if self.factor > 1:
            x = resize(x, size, align_corners=True)
        seen: Tensor = self.bn(x)
        return seen


class SpatialSqueezeModule(nn.Module):
    """Two spatial squeeze blocks on half of the channels each (Fig. 4a).

    Args:
        c_in: channels of the input; it is added where the output has as many.
        c_out: channels of the output.
        branches: of the two blocks.
    """

    def __init__(self, c_in: int, c_out: int, branches: tuple[Branch, Branch]) -> None:
        super().__init__()
        half = c_out // 2
        self.adds = c_in == c_out
        self.c1 = nn.Conv2d(c_in, half, 1, groups=2, bias=False)
        self.d1 = SpatialSqueezeBlock(half, half, branches[0])
        self.d2 = SpatialSqueezeBlock(half, half, branches[1])
        self.join = NormAct(c_out)

    def forward(self, x: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b _ h w"]:
        """Both views, concatenated."""
        # Channel shuffle: each of the two groups of the 1x1 convolution reaches every pair of channels.
        y = self.c1(x).unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        y = torch.cat([self.d1(y), self.d2(y)], 1)
        joined: Tensor = self.join(x + y if self.adds else y)
        return joined


class SINetEncoder(nn.Module):
    """To coarse scores at an eighth of the image's size.

    Args:
        in_channels: of the image.
        num_classes: number of channels k of the scores.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.level1 = ConvPReLU(in_channels, STEM, 3, stride=2)
        self.level2_0 = DownSampling(STEM, SHALLOW, 1)
        self.level2 = nn.ModuleList(
            SpatialSqueezeModule(MIDDLE if i else SHALLOW, MIDDLE, branches)
            for i, branches in enumerate(QUARTER)
        )
        self.join2 = NormAct(SHALLOW + MIDDLE)
        self.level3_0 = DownSampling(SHALLOW + MIDDLE, MIDDLE, 2)
        self.level3 = nn.ModuleList(
            SpatialSqueezeModule(DEEP if i else MIDDLE, DEEP, branches) for i, branches in enumerate(EIGHTH)
        )
        self.join3 = NormAct(MIDDLE + DEEP)
        self.classifier = nn.Conv2d(MIDDLE + DEEP, num_classes, 1, bias=False)

    def forward(
        self, image: Float[Tensor, "b c H W"]
    ) -> tuple[Float[Tensor, "b _ _ _"], Float[Tensor, "b _ _ _"], tuple[int, int]]:
        """The map at a quarter, the scores at an eighth, and the size of the map at a half."""
        x = self.level1(image)
        half = (x.shape[-2], x.shape[-1])
        start = middle = self.level2_0(x)
        for module in self.level2:
            middle = module(middle)
        start = deep = self.level3_0(self.join2(torch.cat([start, middle], 1)))
        for module in self.level3:
            deep = module(deep)
        return middle, self.classifier(self.join3(torch.cat([start, deep], 1))), half


class SINet(DenseModel):
    """Encoder of spatial squeeze modules, decoder with information blocking (Fig. 2).

    Args:
        num_classes: number of channels k of the logits.
        in_channels: of the image.
    """

    def __init__(self, num_classes: int, *, in_channels: int = 3) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.normalize = Normalize(
            per_channel(IMAGENET_MEAN, in_channels), per_channel(IMAGENET_STD, in_channels)
        )
        self.encoder = SINetEncoder(in_channels, num_classes)
        self.bn_3 = norm(num_classes)
        self.level2_C = ConvPReLU(MIDDLE, num_classes, 1)
        self.bn_2 = norm(num_classes)
        self.head = nn.Conv2d(num_classes, num_classes, 3, padding=1, bias=False)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        middle, scores, half = self.encoder(self.normalize(image))
        quarter = (middle.shape[-2], middle.shape[-1])
        scores = self.bn_3(resize(scores, quarter, align_corners=True))
        doubt = 1 - scores.softmax(1).amax(1, keepdim=True)  # the finer map passes where this is high
        scores = scores + doubt * self.level2_C(middle)
        scores = self.bn_2(resize(scores, half, align_corners=True))
        return DenseLogits(self.head(resize(scores, size, align_corners=True)), size)  # b k H W


def sinet(num_classes: int, *, in_channels: int = 3) -> SINet:
    """SINet for portraits: 0.087 million parameters with two classes."""
    return SINet(num_classes, in_channels=in_channels)


# --- weights --------------------------------------------------------------------------------------

_RENAMED = (
    (r"^encoder\.BR([23])\.", r"encoder.join\1."),
    (r"\.BR\.", ".join."),
    (r"\.c1\.conv\.", ".c1."),
    (r"^encoder\.classifier\.conv\.", "encoder.classifier."),
    (r"^classifier\.1\.", "head."),
)


def from_sinet(state_dict: Mapping[str, Tensor]) -> SINet:
    """Weights of the authors (github.com/clovaai/ext_portrait_segmentation) in our model, in eval mode.

    The authors' images are blue, green, red; the first filters are turned to red, green, blue.

    Args:
        state_dict: as `torch.load(path, weights_only=True)` gives it, with or without `module.` before each
            key.

    Raises:
        ValueError: if it is not a state dict of that network.
    """
    weights = {}
    for key, tensor in state_dict.items():
        name = key.removeprefix("module.")
        for theirs, ours in _RENAMED:
            name = re.sub(theirs, ours, name)
        weights[name] = tensor
    try:
        first, head = weights["encoder.level1.conv.weight"], weights["head.weight"]
        if first.shape[1] != 3:
            raise ValueError(f"SINet's published weights take 3 image channels, got {first.shape[1]}")
        arguments: dict[str, Any] = {"num_classes": len(head)}
        model = sinet(**arguments)
        weights["encoder.level1.conv.weight"] = first.flip(1)
        weights["normalize.mean"] = torch.tensor(AUTHORS_MEAN).flip(0).view(1, 3, 1, 1) / 255
        weights["normalize.std"] = torch.tensor(AUTHORS_STD).flip(0).view(1, 3, 1, 1)
        model.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of SINet: {error}") from error
    model.built_by = BuiltBy("sinet", arguments)
    return model.eval()
