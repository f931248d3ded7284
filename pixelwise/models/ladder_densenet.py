"""Ladder DenseNet: a heavy encoder that shares its features, and a light decoder that only blends.

DenseNet recognises, down to a 64th of the image's size; its third dense block is split in the middle by one
more pooling (Sec. 3.2). Spatial pyramid pooling adds the context of the whole image. On the way up, narrow
units blend in the encoder's maps: project the finer map, add the upsampled coarser one, one 3x3 convolution,
and the upsampled map added once more (Fig. 3). All convolutions come after batch norm and ReLU.

Each unit also predicts, before it upsamples, how often each class occurs in the window of each of its
cells; these losses count two fifths of the whole (Sec. 3.4). They are the part "pyramid" of the loss.

Structure after the authors' github.com/ivankreso/LDN (the network of 2020; the lecture's LDN-169 of 2017 is
its predecessor). `ladder_densenet` puts the ladder on any encoder.

Departures: the grids of the pyramid pooling are square on every image, as the authors' are on PASCAL VOC;
those on Cityscapes have twice as many columns. Nothing is recomputed to save memory. The coarsest map has at
least two rows and columns (the last is repeated, in images below 256 pixels), without which no program for
all sizes could be exported.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, fetch, make_encoder
from ..encoders.timm import adapt_stem, per_channel
from ..layers import IMAGENET_MEAN, IMAGENET_STD, BatchNorm2d, Normalize, at_least, fit, resize_like, size_of
from ..losses import loss_parts
from ..types import STAGES, Batch, DenseLogits, DenseModel, Features, Paper, PerStage, value

PAPER = Paper(
    "Efficient Ladder-Style DenseNets for Semantic Segmentation of Large Images",
    "Krešo, Krapac, Šegvić",
    "T-ITS",
    2020,
    "https://arxiv.org/abs/1905.05661",
)

GRIDS = (8, 4, 2, 1)
PYRAMID_SHARE = 0.4  # of the whole loss


# --- encoder --------------------------------------------------------------------------------------


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1, norm, ReLU, 3x3: the new features, put behind those that there are.

    Args:
        c_in: channels of the input.
        growth: number of new features; the 1x1 convolution makes four times as many.
    """

    def __init__(self, c_in: int, growth: int) -> None:
        super().__init__()
        self.norm1 = BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, 4 * growth, 1, bias=False)
        self.norm2 = BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b _ h w"]:
        """All features."""
        new = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(new)))], 1)


class SplitDenseNet(Encoder):
    """DenseNet whose third block is pooled in its middle; parameters have torchvision's (and timm's) names.

    It gives the maps at the ends of the blocks, and that before the split: c2, c3, c4 (the split), c5 (end of
    block 3) and c6, of strides 4 to 64.

    Args:
        layers: of each of the four blocks.
        growth: new features of each layer.
        in_channels: of the image.
        pretrained: timm's name of the weights; none without it.
        stem: how pretrained filters take an image that is not RGB, see `TimmEncoder`.
    """

    def __init__(
        self,
        layers: Sequence[int],
        growth: int = 32,
        *,
        in_channels: int = 3,
        pretrained: str | None = None,
        stem: StemPolicy = "repeat",
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.stages = (*STAGES[1:], "c6")
        self.normalize = Normalize(
            per_channel(IMAGENET_MEAN, in_channels), per_channel(IMAGENET_STD, in_channels)
        )
        c = 2 * growth
        self.features = nn.ModuleDict(
            {"conv0": nn.Conv2d(in_channels, c, 7, 2, 3, bias=False), "norm0": BatchNorm2d(c)}
        )
        self.split = layers[2] // 2
        self.widths = []
        for number, count in enumerate(layers, 1):
            block = nn.ModuleDict()
            for i in range(count):
                if (number, i) == (3, self.split):
                    self.widths.append(c)
                block[f"denselayer{i + 1}"] = DenseLayer(c, growth)
                c += growth
            self.features[f"denseblock{number}"] = block
            self.widths.append(c)
            if number < len(layers):
                self.features[f"transition{number}"] = nn.ModuleDict(
                    {"norm": BatchNorm2d(c), "conv": nn.Conv2d(c, c // 2, 1, bias=False)}
                )
                c //= 2
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        self.channels = PerStage(0, *self.widths[:4])
        self.strides = PerStage(0, 4, 8, 16, 32)
        if pretrained is not None:
            own = self.state_dict()
            weights = {key: x for key, x in fetch(pretrained).items() if key in own}
            kept = {key: x for key, x in own.items() if key not in weights}
            self.load_state_dict(adapt_stem(weights | kept, own, stem))

    def forward(self, image: Float[Tensor, "b c H W"]) -> Features:
        """The maps of `stages`."""
        features = self.features
        x = F.relu(features["norm0"](features["conv0"](self.normalize(image))))
        x = F.max_pool2d(x, 2)
        maps = []
        for number in range(1, 5):
            block = features[f"denseblock{number}"]
            assert isinstance(block, nn.ModuleDict)
            for i, layer in enumerate(block.values()):
                if (number, i) == (3, self.split):
                    maps.append(x)
                    x = F.avg_pool2d(x, 2)
                x = layer(x)
            maps.append(x)
            if number < 4:
                step = features[f"transition{number}"]
                assert isinstance(step, nn.ModuleDict)
                x = step["conv"](F.relu(step["norm"](x)))
                if number == 3:
                    x = fit(x, (at_least(x.shape[-2], 4), at_least(x.shape[-1], 4)))
                x = F.avg_pool2d(x, 2)
        return Features(dict(zip(self.stages, maps, strict=True)))


# --- decoder --------------------------------------------------------------------------------------


class NormActConv(nn.Sequential):
    """Batch norm, ReLU, convolution."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, *, bias: bool = False) -> None:
        super().__init__(
            BatchNorm2d(c_in),
            nn.ReLU(),
            nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=bias),
        )


class GridPooling(nn.Module):
    """Spatial pyramid pooling: means over grids, projected, beside the map itself (Sec. 3.3).

    Args:
        c_in: channels of the input.
        width: channels of the reduced map and of the output; each grid has a quarter of them.
    """

    def __init__(self, c_in: int, width: int) -> None:
        super().__init__()
        self.reduce = NormActConv(c_in, width, 1)
        self.grids = nn.ModuleList(NormActConv(width, width // 4, 1) for _ in GRIDS)
        self.fuse = NormActConv(width + len(GRIDS) * (width // 4), width, 1)

    def forward(self, x: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b _ h w"]:
        """The map and its means, fused."""
        x = self.reduce(x)
        views = [x]
        for grid, project in zip(GRIDS, self.grids, strict=True):
            views.append(resize_like(project(F.adaptive_avg_pool2d(x, grid)), x))
        fused: Tensor = self.fuse(torch.cat(views, 1))
        return fused


class LadderUnit(nn.Module):
    """Blend a map of the encoder into the coarser one of the decoder (Fig. 3).

    Args:
        c_in: channels of the coarser map.
        c_skip: channels of the encoder's.
        c_out: channels of the output.
        narrow: channels before the 3x3 convolution where `c_in` is more.
    """

    def __init__(self, c_in: int, c_skip: int, c_out: int, narrow: int = 128) -> None:
        super().__init__()
        self.skip = NormActConv(c_skip, c_in, 1)
        self.narrow = NormActConv(c_in, narrow, 1) if c_in > narrow else nn.Identity()
        self.blend = NormActConv(min(c_in, narrow), c_out)
        self.shortcut = NormActConv(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(
        self, x: Float[Tensor, "b _ _ _"], skip: Float[Tensor, "b _ h w"]
    ) -> Float[Tensor, "b _ h w"]:
        """The blend at the size of the encoder's map."""
        x = resize_like(x, skip)
        blended: Tensor = self.blend(self.narrow(self.skip(skip) + x)) + self.shortcut(x)
        return blended


# --- the network ----------------------------------------------------------------------------------


@value
class LadderLogits(DenseLogits):
    """Scores of every pixel, and of the classes' shares in windows of several sizes.

    Attributes:
        pyramid: scores of the coarser maps, coarsest first; only while training.
    """

    pyramid: tuple[Float[Tensor, "b k _ _"], ...] = ()

    @property
    def aux_logits(self) -> tuple[Float[Tensor, "b k *grid"], ...]:
        """The pyramid at the size of the image."""
        return tuple(self._resize(scores) for scores in self.pyramid)


@loss_parts.register
def pyramid_losses(output: LadderLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """What the levels get: "pyramid", so that with a loss of the pixels it makes up two fifths (Sec. 3.4)."""
    if not output.pyramid:
        return {}
    parts = [window_loss(scores, batch.labels) for scores in output.pyramid]
    return {"pyramid": PYRAMID_SHARE / (1 - PYRAMID_SHARE) * torch.stack(parts).mean()}


def window_loss(scores: Float[Tensor, "b k h w"], labels: Tensor, *, ignore: int = 255) -> Float[Tensor, ""]:
    """Cross-entropy between each cell's scores and the shares of the classes in its window.

    Args:
        scores: of a coarse map.
        labels: one class per pixel "b H W", or 0 and 1 per class and pixel "b k H W".
        ignore: label of pixels that do not count.
    """
    exclusive, k = labels.ndim == 3, scores.shape[1]
    known = labels != ignore
    safe = torch.where(known, labels, 0).long()
    if exclusive:
        known = known[:, None]
        truth = F.one_hot(safe, k).movedim(-1, 1) * known
    else:
        truth = safe
    size = (scores.shape[-2], scores.shape[-1])
    seen = F.adaptive_avg_pool2d(known.to(scores.dtype), size)  # share of known pixels, b 1 or k, h w
    shares = F.adaptive_avg_pool2d(truth.to(scores.dtype), size) / seen.clamp(min=1e-6)
    if exclusive:
        loss = -(shares * scores.log_softmax(1)).sum(1, keepdim=True)
    else:
        loss = F.binary_cross_entropy_with_logits(scores, shares, reduction="none")
    counts = seen > 0
    return (loss * counts).sum() / counts.sum().clamp(min=1)


class LadderDenseNet(DenseModel):
    """Encoder, spatial pyramid pooling, one ladder unit per finer map, classifier.

    Args:
        encoder: its coarsest map is pooled, all others are blended in.
        channels: of its maps, finest first.
        num_classes: number of channels k of the logits.
        width: channels of the two finest units; coarser ones have twice, the context four times as many.
    """

    output = LadderLogits

    def __init__(
        self, encoder: Encoder, channels: Sequence[int], num_classes: int, *, width: int = 128
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.minimum_size = 2 ** (len(channels) + 1)  # each pooling halves the map
        self.encoder = encoder
        self.context = GridPooling(channels[-1], 4 * width)
        self.units, self.levels = nn.ModuleList(), nn.ModuleList()
        c = 4 * width
        for i, skip in reversed(list(enumerate(channels[:-1]))):
            c_out = width if i < 2 else 2 * width
            self.levels.append(NormActConv(c, num_classes, 1, bias=True))
            self.units.append(LadderUnit(c, skip, c_out, width))
            c = c_out
        self.head = NormActConv(c, num_classes, 1, bias=True)
        for module in (*self.levels, self.head):
            nn.init.xavier_normal_(module[2].weight)

    def forward(self, image: Float[Tensor, "b c H W"]) -> LadderLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        *skips, x = self.encoder(image).maps.values()
        x = self.context(x)
        pyramid = []
        for unit, level, skip in zip(self.units, self.levels, reversed(skips), strict=True):
            if self.training:
                pyramid.append(level(x))
            x = unit(x, skip)
        return LadderLogits(self.head(x), size, pyramid=tuple(pyramid))  # b k H/4 W/4


# --- builders -------------------------------------------------------------------------------------


def ladder_densenet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 128,
) -> LadderDenseNet:
    """The ladder on any encoder, whose c2 to c4 are blended into its c5."""
    stages = STAGES[1:]
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=stages)
    return LadderDenseNet(made, made.channels[1:], num_classes, width=width)


def ladder_densenet121(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> LadderDenseNet:
    """Ladder DenseNet-121: 10.3 million parameters."""
    weights = "densenet121.tv_in1k" if pretrained else None
    encoder = SplitDenseNet((6, 12, 24, 16), in_channels=in_channels, pretrained=weights, stem=stem)
    return LadderDenseNet(encoder, encoder.widths, num_classes)


def ladder_densenet169(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> LadderDenseNet:
    """Ladder DenseNet-169: 16.4 million parameters."""
    weights = "densenet169.tv_in1k" if pretrained else None
    encoder = SplitDenseNet((6, 12, 32, 32), in_channels=in_channels, pretrained=weights, stem=stem)
    return LadderDenseNet(encoder, encoder.widths, num_classes)
