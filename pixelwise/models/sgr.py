"""SGR: pixels vote for symbols, symbols reason over a graph of knowledge, and tell the pixels.

Every pixel deals its features to M symbolic nodes (local-to-semantic voting, paper Sec. 3.1); each node joins
them with what its word means and takes over from its neighbours in a given graph (graph reasoning, Sec. 3.2);
what the nodes then know goes back to the pixels that it fits and is added to their features
(semantic-to-local mapping, Sec. 3.3, Fig. 2). The layer stands behind the atrous pyramid of a DeepLab.

The graph comes from a file with two names per line, as "cat, animal", for each of its edges; a single name is
a node by itself. Without a file the nodes are the classes, each a neighbour of all. `load_word_vectors` takes
the meanings from a file of fastText; without it they are learned.

The authors gave no code; two other implementations were consulted (github.com/julianschoep/SGRLayer is one).
As there: a ReLU behind the votes (from Fig. 2), symmetric normalisation D^-1/2 (A + I) D^-1/2, and the
mapping normalised over pixels, then over nodes.

Departures: votes are averaged over the pixels instead of summed, so that the size of the image does not
matter. The fit of pixel and node is a product of both; a linear function of the two, as the paper writes it,
loses one of its terms in each softmax, so that all pixels would be told the same.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import size_of
from ..types import DenseLogits, DenseModel, Paper
from ..wording import brief
from .dsspn import lines_of

PAPER = Paper(
    "Symbolic Graph Reasoning Meets Convolutions",
    "Liang, Hu, Zhang, Lin, Xing",
    "NeurIPS",
    2018,
    "https://papers.nips.cc/paper/7456-symbolic-graph-reasoning-meets-convolutions",
)

RATES = (6, 12, 18, 24)
WORD = 300  # numbers per word vector, as fastText has them


def graph_of(lines: Sequence[str]) -> tuple[list[str], Float[Tensor, "m m"]]:
    """Names of the nodes in the order of the lines, and the adjacency: symmetric, 1 for each edge.

    Args:
        lines: two names and a comma between them for an edge, one name for a node without.

    Raises:
        ValueError: on a line with more names, or with an empty one.

    >>> graph_of(["cat, animal", "dog, animal", "sky"])
    (['cat', 'animal', 'dog', 'sky'], tensor([[0., 1., 0., 0.],
            [1., 0., 1., 0.],
            [0., 1., 0., 0.],
            [0., 0., 0., 0.]]))
    """
    nodes: dict[str, int] = {}
    edges = []
    for line in lines:
        names = [name.strip() for name in line.split(",")]
        if len(names) > 2 or not all(names):
            raise ValueError(f"graph must have one or two names per line, got {brief(line)}")
        edges.append([nodes.setdefault(name, len(nodes)) for name in names])
    adjacency = torch.zeros(len(nodes), len(nodes))
    for edge in edges:
        adjacency[edge[0], edge[-1]] = adjacency[edge[-1], edge[0]] = float(len(edge) > 1)
    return list(nodes), adjacency


def normalized(adjacency: Float[Tensor, "m m"]) -> Float[Tensor, "m m"]:
    """D^-1/2 (A + I) D^-1/2 with the degrees D of A + I (Eq. 3)."""
    connected = adjacency.clone().fill_diagonal_(1)
    scale = connected.sum(1).rsqrt()
    return scale[:, None] * connected * scale


class SymbolicGraphReasoning(nn.Module):
    """The layer (Fig. 2): features of the pixels in, the same with knowledge out.

    Args:
        channels: of the features, D_l and D_c in the paper.
        adjacency: of the nodes.
        names: of the nodes, for word vectors.
    """

    graph: Tensor

    def __init__(self, channels: int, adjacency: Float[Tensor, "m m"], names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        m = len(adjacency)
        self.register_buffer("graph", normalized(adjacency))
        self.vote = nn.Conv2d(channels, m, 1)  # W_a
        self.to_nodes = nn.Conv2d(channels, channels, 1, bias=False)  # W_ps
        self.words = nn.Parameter(0.1 * torch.randn(m, WORD))
        self.reason = nn.Linear(channels + WORD, channels, bias=False)  # W_g
        self.of_pixels = nn.Conv2d(channels, channels, 1, bias=False)  # W_s, in two parts
        self.of_nodes = nn.Linear(channels, channels, bias=False)
        self.to_pixels = nn.Linear(channels, channels, bias=False)  # W_sp

    def load_word_vectors(self, path: Path) -> None:
        """Take what the names of the nodes mean from a text file of word vectors, and keep it fixed.

        A name of several words has the mean of their vectors.

        Args:
            path: of a file as fastText publishes it: a word and 300 numbers per line.

        Raises:
            ValueError: if the file cannot be read, or has no vector for a name.
        """
        names = [name.lower().replace("-", " ").replace("_", " ").split() for name in self.names]
        wanted = {word for words in names for word in words}
        found = {}
        try:
            with path.open(encoding="utf-8") as file:
                for line in file:
                    word, _, numbers = line.rstrip().partition(" ")
                    if word in wanted and numbers.count(" ") == WORD - 1:
                        found[word] = torch.tensor([float(number) for number in numbers.split(" ")])
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is no text file of word vectors: {error}") from error
        if missing := sorted(wanted - set(found)):
            raise ValueError(f"{path} has no vector of {WORD} numbers for {brief(missing[0])}")
        vectors = torch.stack([torch.stack([found[word] for word in words]).mean(0) for words in names])
        with torch.no_grad():
            self.words.copy_(vectors)
        self.words.requires_grad_(False)

    def voting(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m c"]:
        """What the pixels say to each node (Eq. 1, 2)."""
        votes = self.vote(x).softmax(1).flatten(2)  # b m n: what each pixel deals to the nodes, 1 in all
        values = self.to_nodes(x).flatten(2)
        return torch.relu(votes @ values.transpose(1, 2) / votes.shape[2])

    def reasoning(self, nodes: Float[Tensor, "b m c"]) -> Float[Tensor, "b m c"]:
        """Each node with its meaning and what its neighbours hold (Eq. 3)."""
        words = self.words.expand(nodes.shape[0], -1, -1)
        return torch.relu(self.graph @ self.reason(torch.cat([nodes, words], dim=2)))

    def mapping(self, nodes: Float[Tensor, "b m c"], x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """What the nodes say to each pixel (Eq. 4, 5)."""
        fit = self.of_nodes(nodes) @ self.of_pixels(x).flatten(2) / nodes.shape[2] ** 0.5  # b m n
        # Softmax over the pixels, then divided by the sum over the nodes.
        shares = fit.log_softmax(2).softmax(1)
        told = self.to_pixels(nodes).transpose(1, 2) @ shares
        return torch.relu(told).unflatten(2, (x.shape[2], x.shape[3]))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Vote, reason, map, and add (Eq. 6)."""
        return x + self.mapping(self.reasoning(self.voting(x)), x)


class SGR(DenseModel):
    """Dilated encoder, atrous pyramid as in DeepLab v2, symbolic graph reasoning, classifier.

    Args:
        encoder: gives c5; the paper's has output stride 8.
        num_classes: number of channels k of the logits.
        lines: of the graph, see `graph_of`; empty for a graph that joins each class to each.
        width: channels of the layer.
    """

    def __init__(
        self, encoder: Encoder, num_classes: int, lines: Sequence[str] = (), *, width: int = 256
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        names, adjacency = [str(label) for label in range(num_classes)], torch.ones(num_classes, num_classes)
        if lines:
            self.read_arguments = {"graph": list(lines)}
            names, adjacency = graph_of(lines)
        self.encoder = encoder
        self.pyramid = nn.ModuleList(
            nn.Conv2d(encoder.channels.c5, width, 3, padding=rate, dilation=rate) for rate in RATES
        )
        self.reasoning = SymbolicGraphReasoning(width, adjacency, names)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        c5 = self.encoder(image).c5
        x = torch.relu(torch.stack([atrous(c5) for atrous in self.pyramid]).sum(0))
        return DenseLogits(self.head(self.reasoning(x)), size, align_corners=True)  # b k H/8 W/8


# --- builders -------------------------------------------------------------------------------------


def sgr(
    num_classes: int,
    *,
    graph: str | Sequence[str] | None = None,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
    width: int = 256,
) -> SGR:
    """SGR on any encoder that can be dilated.

    Args:
        num_classes: number of channels k of the logits.
        graph: text file with two names per line for each edge, or these lines themselves; None for a graph
            that joins each class to each.
        encoder: name of a backbone, or an encoder.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: what pretrained colour filters become where the image is not RGB, see `adapt_stem`.
        output_stride: 8, 16 or 32.
        width: channels of the layer.

    Raises:
        ValueError: if the graph cannot be read.
    """
    lines = lines_of(graph, {}, "graph") if graph is not None else []
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c5",),
    )
    return SGR(made, num_classes, lines, width=width)


def sgr_resnet101(
    num_classes: int,
    *,
    graph: str | Sequence[str] | None = None,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> SGR:
    """The paper's network on ResNet-101 at output stride 8; for `graph` see `sgr`."""
    return sgr(
        num_classes,
        graph=graph,
        encoder="resnet101",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
    )
