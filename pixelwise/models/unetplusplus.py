"""UNet++: a U-Net for each depth, nested in one another, so that a trained one can be cut to any of them.

Node X^{i,j} lies i halvings below the image and j nodes away from the encoder, X^{i,0}. It doubles the node
below it, X^{i+1,j-1}, concatenates it with all nodes before it in its row, and convolves twice (paper Fig. 1,
Eq. 1). With deep supervision each node X^{0,j} of the first row has a head: that of level L_j needs only
nodes with i + j of at most j, so `pruned(j)` throws away the others (Fig. 3).

`UNetPlusPlus` is the network of the authors' first release (github.com/MrGiovanni/UNetPlusPlus): dropout, no
batch norm, transposed convolutions. `EncoderUNetPlusPlus` puts the nodes on any encoder; its layout is that
of the network of Segmentation Models PyTorch (SMP), whose weights `from_smp` reads: a row begins with the
youngest node, maps are doubled by repetition, the last node of a row has the width of a U-Net's decoder, and
the first row lies at half of the resolution, so one more block follows X^{0,4}.

In training the finer heads are `aux`; the authors weight them all alike (aux_weight 1). In evaluation the
last head speaks, the paper's fast mode; the mean of `levels` is its accurate mode.

Departures: SMP's network has the last head only; those of the other levels are 1x1 convolutions here, as in
the paper. Where a side is odd, pooling leaves out its last pixel and the doubled map is extended again.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import fit, size_of
from ..types import STAGES, BuiltBy, DenseLogits, DenseModel, Paper
from .unet import DoubleConv

PAPER = Paper(
    "UNet++: A Nested U-Net Architecture for Medical Image Segmentation",
    "Zhou, Siddiquee, Tajbakhsh, Liang",
    "DLMIA",
    2018,
    "https://arxiv.org/abs/1807.10165",
)

DEPTH = 4  # of the whole network: L4


# --- what both have in common ---------------------------------------------------------------------


class NestedUNet(DenseModel):
    """A grid of nodes with a head at the end of its first row, or at each node of it.

    Args:
        num_classes: number of channels k of the logits.
        in_channels: of the image.

    Attributes:
        nodes: by "i_j", those with j > 0 and i + j of at most the depth.
        heads: by the number of their level.
    """

    nodes: nn.ModuleDict
    heads: nn.ModuleDict

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels

    @abstractmethod
    def column(self, image: Float[Tensor, "b c H W"]) -> list[Tensor]:
        """The encoder's nodes X^{i,0}, the finest first."""

    def levels(self, image: Float[Tensor, "b c H W"]) -> tuple[Float[Tensor, "b k _ _"], ...]:
        """Scores of every level that has a head, the shallowest first."""
        maps = nested(self.column(image), self.nodes)
        return tuple(head(maps[int(level) - 1]) for level, head in self.heads.items())

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        if self.training:
            *aux, last = self.levels(image)
            return DenseLogits(last, size, aux=tuple(reversed(aux)))
        column = self.column(image)
        last_map = nested(column, self.nodes)[-1]
        return DenseLogits(self.heads[str(len(column) - 1)](last_map), size)

    def pruned(self, level: int) -> "NestedUNet":
        """A network of only the nodes that a level needs, with copies of their weights.

        Its scores are the full network's of that level. It knows how it was built, so it can be saved.

        Args:
            level: 1 to the depth of this network.

        Raises:
            ValueError: if the level has no head, or it is not known how this network was built.
        """
        if str(level) not in self.heads:
            raise ValueError(f"this network has heads at the levels {', '.join(self.heads)}, not {level}")
        if self.built_by is None or not isinstance(self.built_by.arguments.get("encoder"), str | None):
            raise ValueError(
                "pruning builds a network anew: make it with pixelwise.build and name its encoder"
            )
        arguments = {**self.built_by.arguments, "depth": level}
        made = unetplusplus(**{**arguments, "pretrained": False})
        state = self.state_dict()
        made.load_state_dict({key: state[key] for key in made.state_dict()})
        made.built_by = BuiltBy(self.built_by.builder, arguments)
        return made.train(self.training)


def nested(column: Sequence[Tensor], nodes: nn.ModuleDict) -> list[Tensor]:
    """The nodes of the first row behind the encoder's: X^{0,1}, X^{0,2}, ...

    Args:
        column: the encoder's nodes, the finest first.
        nodes: by "i_j"; each takes the node below it and all before it in its row.
    """
    rows = [[x] for x in column]
    for j in range(1, len(rows)):
        for i in range(len(rows) - j):
            rows[i].append(nodes[f"{i}_{j}"](rows[i + 1][j - 1], rows[i]))
    return rows[0][1:]


def places(depth: int) -> list[tuple[int, int]]:
    """Row i and number j of the nodes of a network of that depth.

    Raises:
        ValueError: if the depth is not 1 to 4.

    >>> places(2)
    [(0, 1), (0, 2), (1, 1)]
    """
    if not 1 <= depth <= DEPTH:
        raise ValueError(f"depth must be 1 to {DEPTH}, got {depth}")
    return [(i, j) for i in range(depth) for j in range(1, depth - i + 1)]


# --- the paper's ----------------------------------------------------------------------------------


class Unit(nn.Sequential):
    """Two 3x3 convolutions, each with ReLU and dropout."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(c_out, c_out, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
        )


class Node(nn.Module):
    """Doubles the node below, concatenates the row, convolves.

    Args:
        c_below: channels of the node below.
        c: channels of each node of the row, this one among them.
        count: number of nodes before it in its row.
    """

    def __init__(self, c_below: int, c: int, count: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(c_below, c, 2, stride=2)
        self.unit = Unit((count + 1) * c, c)

    def forward(self, below: Float[Tensor, "b _ _ _"], row: list[Tensor]) -> Float[Tensor, "b _ h w"]:
        """`row` holds the nodes before it, the encoder's first."""
        x = fit(self.up(below), size_of(row[0], 1))
        merged: Tensor = self.unit(torch.cat([x, *row], dim=1))
        return merged


class UNetPlusPlus(NestedUNet):
    """The authors' network.

    Args:
        num_classes: number of channels k of the logits.
        in_channels: of the image.
        width: channels of the finest row; each row below doubles them.
        depth: of the deepest U-Net in it: 4, or less for a pruned one.
        deep_supervision: whether every level has a head, instead of the last alone.
    """

    encoder_parts = ("down",)

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        width: int = 32,
        depth: int = DEPTH,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__(num_classes, in_channels)
        grid = places(depth)
        c = [width * 2**i for i in range(depth + 1)]
        self.down = nn.ModuleList(Unit(a, b) for a, b in zip([in_channels, *c[:-1]], c, strict=True))
        self.nodes = nn.ModuleDict({f"{i}_{j}": Node(c[i + 1], c[i], j) for i, j in grid})
        levels = range(1 if deep_supervision else depth, depth + 1)
        self.heads = nn.ModuleDict({str(level): nn.Conv2d(width, num_classes, 1) for level in levels})
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.ConvTranspose2d):
                nn.init.xavier_uniform_(module.weight)
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def column(self, image: Float[Tensor, "b c H W"]) -> list[Tensor]:
        """The encoder's nodes X^{i,0}, the finest first."""
        maps: list[Tensor] = []
        for unit in self.down:
            maps.append(unit(F.max_pool2d(maps[-1], 2) if maps else image))
        return maps


# --- on any encoder -------------------------------------------------------------------------------


class RepeatingNode(nn.Module):
    """Doubles the node below by repetition, concatenates the row, the youngest first, and convolves."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.unit = DoubleConv(c_in, c_out)

    def forward(self, below: Float[Tensor, "b _ _ _"], row: list[Tensor]) -> Float[Tensor, "b _ h w"]:
        """`row` holds the nodes before it, the encoder's first."""
        x = F.interpolate(below, size_of(row[0], 1), mode="nearest")
        merged: Tensor = self.unit(torch.cat([x, *reversed(row)], dim=1))
        return merged


class FullResolutionHead(nn.Module):
    """The head of L4: one more doubling and two convolutions before the scores."""

    def __init__(self, c_in: int, c: int, num_classes: int) -> None:
        super().__init__()
        self.last = DoubleConv(c_in, c)
        self.score = nn.Conv2d(c, num_classes, 3, padding=1)
        nn.init.xavier_uniform_(self.score.weight)
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b k _ _"]:
        """Scores of twice the size."""
        scores: Tensor = self.score(self.last(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        return scores


class EncoderUNetPlusPlus(NestedUNet):
    """The nodes on an encoder.

    Args:
        encoder: gives c1 to c5, or down to the stage below as many rows as `depth` says.
        num_classes: number of channels k of the logits.
        width: channels of the last block, at full resolution; the last node of each row below doubles them.
        depth: of the deepest U-Net in it: 4, or less for a pruned one, which scores at half resolution.
        deep_supervision: whether every level has a head, instead of the last alone.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        width: int = 16,
        depth: int = DEPTH,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__(num_classes, encoder.in_channels)
        self.encoder, self.depth = encoder, depth
        # Channels of node X^{i,j}: those of the encoder's stage, at the end of a row those of a decoder.
        c = {(i, 0): channels for i, channels in enumerate(encoder.channels)}
        self.nodes = nn.ModuleDict()
        for i, j in sorted(places(depth), key=lambda place: place[1]):
            c[i, j] = width * 2 ** (i + 1) if i + j == DEPTH else c[i, 0]
            self.nodes[f"{i}_{j}"] = RepeatingNode(c[i + 1, j - 1] + j * c[i, 0], c[i, j])
        levels = range(1 if deep_supervision else depth, depth + 1)
        self.heads = nn.ModuleDict(
            {str(level): nn.Conv2d(c[0, level], num_classes, 1) for level in levels if level < DEPTH}
        )
        if depth == DEPTH:
            self.heads[str(DEPTH)] = FullResolutionHead(c[0, DEPTH], width, num_classes)
        for module in (*self.nodes.modules(), *self.heads.modules()):
            if isinstance(module, nn.Conv2d) and module.bias is None:
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")

    def column(self, image: Float[Tensor, "b c H W"]) -> list[Tensor]:
        """The encoder's nodes X^{i,0}, the finest first."""
        features = self.encoder(image)
        return [features[stage] for stage in STAGES[: self.depth + 1]]


# --- builder --------------------------------------------------------------------------------------


def unetplusplus(
    num_classes: int,
    *,
    encoder: str | Encoder | None = None,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int | None = None,
    depth: int = DEPTH,
    deep_supervision: bool = True,
) -> UNetPlusPlus | EncoderUNetPlusPlus:
    """UNet++ with its own encoder; or its nodes on any encoder that has a stage of stride 2.

    Args:
        num_classes: number of channels k of the logits.
        encoder: name of a backbone or an encoder; None for the network's own.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: what pretrained colour filters become where the image is not RGB, see `adapt_stem`.
        width: channels at full resolution; None for 32, or 16 on an encoder.
        depth: 4 for L4, the whole network; 1 to 3 for what pruning leaves of it.
        deep_supervision: whether every level has a head and learns; without, nothing can be pruned.

    Raises:
        ValueError: if pretrained weights are asked for where there is no encoder, or the depth is not 1 to 4;
            see also `make_encoder`.
    """
    if encoder is None:
        if pretrained:
            raise ValueError("pretrained=True needs an encoder, such as encoder='resnet34'")
        return UNetPlusPlus(
            num_classes,
            in_channels=in_channels,
            width=width or 32,
            depth=depth,
            deep_supervision=deep_supervision,
        )
    made = make_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES[: depth + 1]
    )
    return EncoderUNetPlusPlus(
        made, num_classes, width=width or 16, depth=depth, deep_supervision=deep_supervision
    )
