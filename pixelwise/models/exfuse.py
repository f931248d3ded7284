"""ExFuse: meaning for the fine maps, and detail for the coarse ones, before the two are fused.

A GCN (`gcn.py`) in which (Fig. 3)

- the encoder has its blocks dealt evenly over the stages, {8, 8, 9, 8} instead of {3, 4, 23, 3} (layer
  rearrangement, Sec. 3.2), and learns to classify at every stage (`SemanticSupervision`, Fig. 4);
- a semantic embedding branch (SEB, Fig. 5) multiplies each fine map by what a 3x3 convolution makes of every
  coarser one;
- scores of c5 are doubled by a pixel shuffle and trained with a loss of their own (explicit channel
  resolution embedding, ECRE, Fig. 6);
- every position of the last map scores its 3x3 neighbours, and each of these averages what is said of it
  (densely adjacent prediction, DAP, Eq. 3, Fig. 7).

No code of the authors is known. Settled here: kernels are 7x7; a batch norm and a ReLU follow each
convolution of the SEB, without which products of four maps have no scale; the DAP is at stride 4, behind one
3x3 convolution to nine channels per class. ResNeXt-131, of which the paper says no more, has {8, 8, 19, 8}
blocks: 3 x 43 convolutions, stem and classifier are 131 layers. ResNeXts have 32 groups of 4 channels.

Departures: positions beyond the border vote for nobody, and an average is over those that do; maps are
resized or cut to the size of their partner, so that any image size works.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import ConvNormAct, Normalize, fit, resize_like, size_of
from ..types import DenseLogits, DenseModel, Features, Paper, PerStage
from .gcn import BoundaryRefinement, Doubling, GlobalConvolution

PAPER = Paper(
    "ExFuse: Enhancing Feature Fusion for Semantic Segmentation",
    "Zhang, Zhang, Peng, Cheng, Sun",
    "ECCV",
    2018,
    "https://arxiv.org/abs/1804.03821",
)

STAGES = ("c2", "c3", "c4", "c5")


# --- the encoder ----------------------------------------------------------------------------------


class RearrangedResNet(Encoder):
    """A ResNet or ResNeXt with any number of bottlenecks per stage (Sec. 3.2, layer rearrangement).

    Keys of `body` are those of timm and torchvision.

    Args:
        blocks: number of bottlenecks of each stage.
        groups: of the 3x3 convolutions.
        c_group: channels of each group in the first stage.
        in_channels: of the image.
    """

    def __init__(
        self, blocks: tuple[int, int, int, int], *, groups: int = 1, c_group: int = 64, in_channels: int = 3
    ) -> None:
        super().__init__()
        import timm  # takes a second: only those who build an encoder pay it

        self.in_channels, self.stages = in_channels, STAGES
        self.channels, self.strides = PerStage(0, 256, 512, 1024, 2048), PerStage(0, 4, 8, 16, 32)
        self.normalize = Normalize()
        if in_channels != 3:
            self.normalize = Normalize((0.5,) * in_channels, (0.25,) * in_channels)
        self.body: nn.Module = timm.create_model(
            "resnet101",
            layers=blocks,
            cardinality=groups,
            base_width=c_group,
            in_chans=in_channels,
            features_only=True,
            out_indices=(1, 2, 3, 4),
        )

    def forward(self, image: Float[Tensor, "b c H W"]) -> Features:
        """The maps of c2 to c5."""
        return Features(dict(zip(STAGES, self.body(self.normalize(image)), strict=True)))


class SemanticSupervision(nn.Module):
    """A classifier of images at every stage of an encoder, for its pretraining (Fig. 4).

    Pretrain it, and give its `encoder` to `exfuse`. The early stages then know classes before they are
    fused; settled here: 3x3 convolution to 256 channels, global average, linear layer.

    Args:
        encoder: gives c2 to c5.
        num_classes: of the images.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.early_heads = nn.ModuleList(
            nn.Sequential(
                ConvNormAct(c, 256), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, num_classes)
            )
            for c in encoder.channels[1:4]
        )
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(encoder.channels.c5, num_classes)
        )

    def forward(self, image: Float[Tensor, "b c H W"]) -> list[Tensor]:
        """Scores "b k" of the image from c5, then from c2 to c4: train with the sum of their losses."""
        features = self.encoder(image)
        early = (features.c2, features.c3, features.c4)
        return [
            self.head(features.c5),
            *(head(map) for head, map in zip(self.early_heads, early, strict=True)),
        ]


# --- the network ----------------------------------------------------------------------------------


class SemanticEmbedding(nn.Module):
    """Semantic embedding branch of one level (Fig. 5).

    Args:
        c: channels of the map.
        c_coarser: channels of each coarser map.
    """

    def __init__(self, c: int, c_coarser: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(ConvNormAct(c_in, c) for c_in in c_coarser)

    def forward(self, x: Float[Tensor, "b c h w"], coarser: list[Tensor]) -> Float[Tensor, "b c h w"]:
        """The product of the map and all coarser ones."""
        for branch, map in zip(self.branches, coarser, strict=True):
            x = x * resize_like(branch(map), x)
        return x


class DenselyAdjacentPrediction(nn.Module):
    """Densely adjacent prediction (Eq. 3): channel (l, m) of a position scores its neighbour (l, m).

    Args:
        side: of the square of neighbours; odd.
    """

    def __init__(self, side: int = 3) -> None:
        super().__init__()
        self.side = side

    def forward(self, votes: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ h w"]:
        """The mean over l, m of channel (k, l, m) at (i + l - side // 2, j + m - side // 2)."""
        reach, (h, w) = self.side // 2, votes.shape[-2:]
        rows, columns = (torch.arange(n, device=votes.device) for n in (h, w))
        padded = F.pad(votes, (reach,) * 4).unflatten(1, (-1, self.side**2))  # b k side^2 h+ w+
        total = torch.zeros_like(padded[:, :, 0, reach : reach + h, reach : reach + w])
        count = torch.zeros_like(total[0, 0])
        for number in range(self.side**2):
            down, right = divmod(number, self.side)
            total = total + padded[:, :, number, down : down + h, right : right + w]
            row, column = rows + down - reach, columns + right - reach
            here = ((row >= 0) & (row < h))[:, None] & ((column >= 0) & (column < w))
            count = count + here.to(votes.dtype)
        return total / count


class ExFuse(DenseModel):
    """GCN with semantic embedding, channel resolution embedding and densely adjacent prediction (Fig. 3).

    Args:
        encoder: gives c2 to c5.
        num_classes: number of channels k of the logits.
        kernel: side of the large kernels.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, kernel: int = 7) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        k, (c2, c3, c4, c5) = num_classes, encoder.channels[1:]
        self.embeddings = nn.ModuleList(
            SemanticEmbedding(c, coarser) for c, coarser in ((c4, (c5,)), (c3, (c5, c4)), (c2, (c5, c4, c3)))
        )
        self.top = GlobalConvolution(c5, 4 * k, kernel)
        self.shuffle = nn.PixelShuffle(2)
        self.levels = nn.ModuleList(GlobalConvolution(c, k, kernel) for c in (c4, c3, c2))
        self.refine_levels = nn.ModuleList(BoundaryRefinement(k) for _ in range(3))
        self.refine = nn.ModuleList(BoundaryRefinement(k) for _ in range(3))
        self.doublings = nn.ModuleList(Doubling(k) for _ in range(2))
        self.head = nn.Sequential(nn.Conv2d(k, 9 * k, 3, padding=1), DenselyAdjacentPrediction(3))

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        maps = [features.c5, features.c4, features.c3, features.c2]
        x = explicit = self.shuffle(self.top(features.c5))  # b k H/16 W/16
        for number, map in enumerate(maps[1:]):
            level = self.levels[number](self.embeddings[number](map, maps[: number + 1]))
            level_size = (level.shape[-2], level.shape[-1])
            x = fit(x, level_size) if number == 0 else self.doublings[number - 1](x, level_size)
            x = self.refine[number](x + self.refine_levels[number](level))
        coarse = self.head(x)  # b k H/4 W/4
        return DenseLogits(coarse, size, aux=(explicit,) if self.training else ())


def exfuse(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet101",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    kernel: int = 7,
) -> ExFuse:
    """ExFuse on any encoder."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return ExFuse(made, num_classes, kernel=kernel)


def exfuse_resnet101(num_classes: int, *, in_channels: int = 3) -> ExFuse:
    """The paper's ExFuse on a rearranged ResNet-101, of which no pretrained weights are published."""
    return ExFuse(RearrangedResNet((8, 8, 9, 8), in_channels=in_channels), num_classes)


def exfuse_resnext101(num_classes: int, *, in_channels: int = 3) -> ExFuse:
    """The paper's ExFuse on a rearranged ResNeXt-101."""
    encoder = RearrangedResNet((8, 8, 9, 8), groups=32, c_group=4, in_channels=in_channels)
    return ExFuse(encoder, num_classes)


def exfuse_resnext131(num_classes: int, *, in_channels: int = 3) -> ExFuse:
    """The paper's ExFuse on ResNeXt-131, its best."""
    encoder = RearrangedResNet((8, 8, 19, 8), groups=32, c_group=4, in_channels=in_channels)
    return ExFuse(encoder, num_classes)
