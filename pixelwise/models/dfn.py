"""DFN: one network makes regions consistent inside, another one makes their borders distinct.

The smooth network (Sec. 3.1) starts from a summary of the whole image and goes up: at each level a channel
attention block (CAB, Fig. 2c) lets the coarser map choose among the channels of the finer one, between two
refinement residual blocks (RRB, Fig. 2b). Scores of every level are trained, the finest is used. The border
network (Sec. 3.2) goes the other way, so that its borders come from details and know what the deep levels
know; a focal loss on the borders of the labels trains it (Eq. 6, 7: weight 0.1). It is there while training
only: evaluation does not compute it.

Layout, number of heads and settings of the losses are those of the first author's later PyTorch code
(github.com/ycszen/TorchSeg, model/dfn), whose parameters are counted in our tests. There, as here, the scores
of all four levels count fully: train with `aux_weight` 1.

Departures: a pixel lies on a border if its label differs from that of the pixel to the right or below, or
within 3 pixels of such a place, and unlabelled pixels have no border; the authors run Canny's detector on the
labels, with 0 in place of unlabelled ones, and dilate by the same 7 x 7 square. Maps are resized to the size
of their partner, so that any image size works.
"""

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import ConvNormAct, resize, resize_like, size_of
from ..losses import focal_loss, loss_parts
from ..types import Batch, DenseLogits, DenseModel, Paper, value

PAPER = Paper(
    "Learning a Discriminative Feature Network for Semantic Segmentation",
    "Yu, Wang, Peng, Gao, Yu, Sang",
    "CVPR",
    2018,
    "https://arxiv.org/abs/1804.09337",
)

STAGES = ("c2", "c3", "c4", "c5")
BORDER_WEIGHT, BORDER_SIDE = 0.1, 7  # lambda of Eq. 7; side in pixels of what a border is dilated by
GAMMA, ALPHA = 2.0, 0.25
UNKNOWN = 255


@value
class DFNLogits(DenseLogits):
    """Scores of every pixel, and while training whether it lies on a border.

    Attributes:
        borders: scores of "here is a border" from each level of the border network; empty in evaluation.
    """

    borders: tuple[Float[Tensor, "b 1 _ _"], ...] = ()


class RefinementResidual(nn.Module):
    """Refinement residual block (Fig. 2b): a 1x1 convolution to few channels, then a residual unit.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.refine = nn.Sequential(
            ConvNormAct(c_out, c_out), nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        )

    def forward(self, x: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b _ h w"]:
        """Refine the map; what follows it decides on a ReLU."""
        x = self.reduce(x)
        refined: Tensor = x + self.refine(x)
        return refined


class ChannelAttention(nn.Module):
    """Channel attention block (Fig. 2c).

    Args:
        c: channels of either map.
    """

    def __init__(self, c: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(2 * c, c, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(c, c, 1),
            nn.Sigmoid(),
        )

    def forward(
        self, low: Float[Tensor, "b c h w"], high: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Weigh the channels of `low` by what both hold, and add `high`."""
        chosen: Tensor = low * self.gate(torch.cat([low, high], dim=1)) + high
        return chosen


class DFNHead(nn.Sequential):
    """Refinement residual block to nine channels per class, classifier."""

    def __init__(self, c_in: int, num_classes: int) -> None:
        super().__init__(
            RefinementResidual(c_in, 9 * num_classes), nn.Conv2d(9 * num_classes, num_classes, 1)
        )


class SmoothNetwork(nn.Module):
    """Scores of four levels, coarse to fine (Sec. 3.1).

    Args:
        channels: of the encoder's maps, coarse to fine.
        num_classes: number of channels k of the logits.
        width: channels of every level.
    """

    def __init__(self, channels: tuple[int, ...], num_classes: int, width: int) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvNormAct(channels[0], width, 1))
        self.before = nn.ModuleList(RefinementResidual(c, width) for c in channels)
        self.attention = nn.ModuleList(ChannelAttention(width) for _ in channels)
        self.after = nn.ModuleList(RefinementResidual(width, width) for _ in channels)
        self.heads = nn.ModuleList(DFNHead(width, num_classes) for _ in channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Scores of each level; without training, of the finest only."""
        x = self.image(maps[0])
        scores = []
        for number, map in enumerate(maps):
            low = F.relu(self.before[number](map))
            low = self.attention[number](low, resize_like(x, low, align_corners=True))
            x = F.relu(self.after[number](low))
            if self.training or number == len(maps) - 1:
                scores.append(self.heads[number](x))
        return scores


class BorderNetwork(nn.Module):
    """Borders of four levels, fine to coarse, all at the size of the finest (Sec. 3.2).

    Args:
        channels: of the encoder's maps, fine to coarse.
        width: channels of every level.
    """

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.before = nn.ModuleList(RefinementResidual(c, width) for c in channels)
        self.after = nn.ModuleList(RefinementResidual(width, width) for _ in channels[1:])
        self.heads = nn.ModuleList(DFNHead(width, 1) for _ in channels)

    def forward(self, maps: list[Tensor]) -> tuple[Float[Tensor, "b 1 h w"], ...]:
        """Scores of "here is a border" from each level."""
        x = F.relu(self.before[0](maps[0]))
        scores = [self.heads[0](x)]
        for before, after, head, map in zip(
            self.before[1:], self.after, self.heads[1:], maps[1:], strict=True
        ):
            x = F.relu(after(x + resize_like(F.relu(before(map)), x, align_corners=True)))
            scores.append(head(x))
        return tuple(scores)


class DFN(DenseModel):
    """Encoder, smooth network, border network (Fig. 2a).

    Args:
        encoder: gives c2 to c5.
        num_classes: number of channels k of the logits.
        width: channels of the smooth network.
        c_border: channels of the border network.
    """

    output = DFNLogits

    def __init__(self, encoder: Encoder, num_classes: int, *, width: int = 512, c_border: int = 21) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        channels = tuple(encoder.channels[1:])
        self.smooth = SmoothNetwork(channels[::-1], num_classes, width)
        self.border = BorderNetwork(channels, c_border)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DFNLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        maps = [features[stage] for stage in STAGES]
        *coarser, finest = self.smooth(maps[::-1])
        borders = self.border(maps) if self.training else ()
        return DFNLogits(finest, size, tuple(coarser[::-1]), align_corners=True, borders=borders)


# --- the border loss ------------------------------------------------------------------------------


def borders_of(labels: Integer[Tensor, "b *k H W"], num_classes: int) -> Integer[Tensor, "b 1 H W"]:
    """1 where regions meet, 0 elsewhere, `UNKNOWN` where nobody knows the label.

    Args:
        labels: one class per pixel; or 0 or 1 for each class and pixel. Any other label is ignored.
        num_classes: number of classes k.

    >>> borders_of(torch.tensor([[[0, 0, 0, 0, 1, 1, 1, 1, 1]]]), 2).tolist()
    [[[[1, 1, 1, 1, 1, 1, 1, 0, 0]]]]
    """
    each = labels[:, None] if labels.ndim == 3 else labels  # b k H W, k = 1 for exclusive classes
    known = (each >= 0) & (each < (num_classes if labels.ndim == 3 else 2))
    met = torch.zeros_like(each, dtype=torch.bool)
    both = known[..., :-1] & known[..., 1:]
    met[..., :-1] |= both & (each[..., :-1] != each[..., 1:])
    both = known[..., :-1, :] & known[..., 1:, :]
    met[..., :-1, :] |= both & (each[..., :-1, :] != each[..., 1:, :])
    lines = met.any(1, keepdim=True).float()
    near = F.max_pool2d(lines, BORDER_SIDE, stride=1, padding=BORDER_SIDE // 2)
    return torch.where(known.all(1, keepdim=True), near.long(), UNKNOWN)


@loss_parts.register
def _(output: DFNLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    if not output.borders:
        return {}
    target = borders_of(batch.labels, output.coarse.shape[1])
    height, width = target.shape[-2:]
    losses = []
    for scores in output.borders:
        full = resize(scores, (height, width), align_corners=True)
        alpha = full.new_tensor([ALPHA])
        losses.append(focal_loss(full, target, ignore=UNKNOWN, alpha=alpha, exclusive=False, gamma=GAMMA))
    return {"border": BORDER_WEIGHT * torch.stack(losses).sum()}


# --- builders -------------------------------------------------------------------------------------


def dfn(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet101s",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 512,
) -> DFN:
    """DFN on any encoder."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return DFN(made, num_classes, width=width)


def dfn_resnet101(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> DFN:
    """The authors' DFN on a ResNet-101 that starts with three 3x3 convolutions."""
    return dfn(num_classes, encoder="resnet101s", in_channels=in_channels, pretrained=pretrained, stem=stem)
