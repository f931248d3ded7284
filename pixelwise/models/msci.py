"""MSCI: maps of two neighbouring scales talk to each other through two chains of LSTM units.

Each of a pair of maps begins a chain of convolutional LSTM units; at every step either chain hears what the
other one holds, the coarse one resized up by a transposed convolution, the fine one down by a strided one
(paper Fig. 2 and 3, Sec. 3.1, 3.2). After the last step the pair becomes one map at the finer scale. Pairs of
c2, c3, c4 and c5 give three maps, these give two, and these one, from which classes are predicted.

The authors gave no code. Settled here: maps are reduced to 256 channels; chains take three steps, their units
are the usual LSTM with 3x3 convolutions, share their weights over the steps, and begin with the map as hidden
state and an empty cell; the map that leaves a pair is the sum of both hidden states and of the fine map.

Departure: context is gathered on the grid of the maps, as the equations of the main text have it, not over
super-pixels (Sec. 3.3), which the authors compute beforehand with a detector of edges.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import ConvNormAct, fit, size_of
from ..types import DenseLogits, DenseModel, Paper

PAPER = Paper(
    "Multi-Scale Context Intertwining for Semantic Segmentation",
    "Lin, Ji, Lischinski, Cohen-Or, Huang",
    "ECCV",
    2018,
    "https://openaccess.thecvf.com/content_ECCV_2018/html/Di_Lin_Multi-Scale_Context_Intertwining_ECCV_2018_paper.html",
)

STAGES = ("c2", "c3", "c4", "c5")


class LSTMUnit(nn.Module):
    """One step of a chain (Eq. 1 to 6): an LSTM whose products are 3x3 convolutions.

    Args:
        channels: of the message, of the hidden state and of the cell.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(2 * channels, 4 * channels, 3, padding=1)

    def forward(
        self,
        message: Float[Tensor, "b c h w"],
        hidden: Float[Tensor, "b c h w"],
        cell: Float[Tensor, "b c h w"],
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """The next hidden state and the next cell."""
        keep, take, show, new = self.gates(torch.cat([message, hidden], dim=1)).chunk(4, dim=1)
        cell = keep.sigmoid() * cell + take.sigmoid() * new.tanh()
        return show.sigmoid() * cell.tanh(), cell


class Intertwining(nn.Module):
    """Two chains over maps of neighbouring scales (Fig. 3).

    Args:
        channels: of both maps and of the result.
        steps: length of the chains.
    """

    def __init__(self, channels: int, *, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.up = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)
        self.down = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.fine_unit, self.coarse_unit = LSTMUnit(channels), LSTMUnit(channels)

    def forward(
        self, fine: Float[Tensor, "b c h w"], coarse: Float[Tensor, "b c _ _"]
    ) -> Float[Tensor, "b c h w"]:
        """What both know, at the size of `fine`."""
        size, smaller = size_of(fine, 1), size_of(coarse, 1)
        h, c = fine, torch.zeros_like(fine)
        h_coarse, c_coarse = coarse, torch.zeros_like(coarse)
        for _ in range(self.steps):
            to_fine, to_coarse = fit(self.up(h_coarse), size), fit(self.down(h), smaller)
            h, c = self.fine_unit(to_fine, h, c)
            h_coarse, c_coarse = self.coarse_unit(to_coarse, h_coarse, c_coarse)
        return fine + h + fit(self.up(h_coarse), size)


class MSCI(DenseModel):
    """Encoder, a triangle of intertwined pairs (Fig. 2), classifier.

    Args:
        encoder: gives c2, c3, c4 and c5, each with half the size of the one before.
        num_classes: number of channels k of the logits.
        width: channels of all maps behind the encoder.
        steps: length of the chains.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, width: int = 256, steps: int = 3) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.reduce = nn.ModuleList(ConvNormAct(getattr(encoder.channels, s), width, 1) for s in STAGES)
        self.levels = nn.ModuleList(
            nn.ModuleList(Intertwining(width, steps=steps) for _ in range(pairs))
            for pairs in range(len(STAGES) - 1, 0, -1)
        )
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        maps = [reduce(features[stage]) for reduce, stage in zip(self.reduce, STAGES, strict=True)]
        for pairs in self.levels:
            assert isinstance(pairs, nn.ModuleList)
            maps = [pair(*both) for pair, both in zip(pairs, pairwise(maps), strict=True)]
        return DenseLogits(self.head(maps[0]), size)  # b k H/4 W/4


# --- builders -------------------------------------------------------------------------------------


def msci(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    steps: int = 3,
) -> MSCI:
    """MSCI on any encoder; `steps` is the length of the chains."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return MSCI(made, num_classes, width=width, steps=steps)


def msci_resnet152(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> MSCI:
    """The paper's network on ResNet-152."""
    return msci(num_classes, encoder="resnet152", in_channels=in_channels, pretrained=pretrained, stem=stem)
