"""Piecewise training of a CRF whose unary and pairwise potentials are CNNs.

Cells of a coarse map are the nodes of a CRF. Every node is connected with all nodes in a box around it
("surrounding") and with all in a box above it ("above/below"; Sec. 3, Fig. 3). A feature network sees the
image at three sizes and pools each map over squares of 5 and 9 cells ("sliding pyramid pooling", Sec. 3.4,
Fig. 4 and 5). From the features of a node, two layers give the scores of its k labels; from those of two
connected nodes, two layers per relation give the scores of their k * k pairs of labels, which know their
order (Sec. 3.2 and 3.3).

Training is piecewise (Sec. 4.2): every potential learns as a classifier of its own node or pair, and no
inference is needed. Prediction is mean field over all potentials, three iterations (Sec. 4.1), on the nodes;
a dense CRF may refine it (`--crf`).

Departures: the box reaches a fixed number of nodes, 5 to each side, where the paper's side is 0.4 of the
map's shorter one (the same for images of about 450 pixels), so that one exported program serves every size.
The sixth block of convolutions is two of 3x3, whose widths the paper leaves open. The nodes are the cells of
the largest of the three maps. The unary scores learn from every pixel, as those of every network here do;
the pairwise ones from the nodes.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import isqrt

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import resize, resize_like, size_of
from ..losses import cross_entropy, loss_parts
from ..types import Batch, DenseLogits, DenseModel, Paper, value
from .deeplabv1 import classifier
from .vgg import initialize_relu

PAPER = Paper(
    "Efficient Piecewise Training of Deep Structured Models for Semantic Segmentation",
    "Lin, Shen, van den Hengel, Reid",
    "CVPR",
    2016,
    "https://arxiv.org/abs/1504.01013",
)

SCALES = (Fraction(6, 5), Fraction(4, 5), Fraction(2, 5))
POOLED = (5, 9)
ITERATIONS = 3


@value
class PiecewiseLogits(DenseLogits):
    """Scores of every pixel and, in training, of every connected pair of nodes.

    In training `coarse` are the unary scores, in evaluation those after mean field.

    Attributes:
        surrounding: scores of the pairs of labels of each node and each of the m nodes around it.
        above: likewise with the nodes above it.
    """

    surrounding: Float[Tensor, "b k k m n"] | None = None
    above: Float[Tensor, "b k k m n"] | None = None


class Box(nn.Module):
    """The nodes in a box beside each node, as `unfold` lists them.

    Args:
        reach: nodes to each side; the box has 2 * reach + 1 rows and columns.
        above: whether the box lies above the node; else around it, and holds all but the node itself.
    """

    others: Tensor

    def __init__(self, reach: int, *, above: bool) -> None:
        super().__init__()
        self.side = 2 * reach + 1
        top, bottom = (self.side, -1) if above else (reach, reach)
        self.padding = (reach, reach, top, bottom)
        middle = self.side**2 // 2
        others = [place for place in range(self.side**2) if above or place != middle]
        self.register_buffer("others", torch.tensor(others), persistent=False)

    def neighbours(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c m n"]:
        """Values at the m places in the box of each of n = h * w nodes; 0 beyond the border."""
        columns = F.unfold(F.pad(x, self.padding), self.side)
        return columns.unflatten(1, (-1, self.side**2))[:, :, self.others]

    def returned(self, values: Float[Tensor, "b c m n"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """Sums over what all nodes say to those in their boxes: the transpose of `neighbours`."""
        b, c, _, n = values.shape
        whole = values.new_zeros(b, c, self.side**2, n).index_copy(2, self.others, values)
        left, right, top, bottom = self.padding
        padded = (size[0] + top + bottom, size[1] + left + right)
        sums = F.fold(whole.flatten(1, 2), padded, self.side)
        return F.pad(sums, (-left, -right, -top, -bottom))


class PairwiseNet(nn.Module):
    """Scores of the pairs of labels of two nodes from both their features (Sec. 3.3).

    The first layer sees both features one behind the other, which is the sum of a layer on either.

    Args:
        c_in: channels of the features.
        width: channels of the hidden layer.
        num_classes: k.
        box: where the second nodes lie.
    """

    def __init__(self, c_in: int, width: int, num_classes: int, box: Box) -> None:
        super().__init__()
        self.box, self.num_classes = box, num_classes
        self.first = nn.Conv2d(c_in, width, 1)
        self.second = nn.Conv2d(c_in, width, 1, bias=False)
        initialize_relu(self)
        self.scores = classifier(width, num_classes**2)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k k m n"]:
        """For n nodes and the m in the box of each: scores of the labels of the node, and of the other."""
        one = self.first(features).flatten(2)[:, :, None]  # b c 1 n
        other = self.box.neighbours(self.second(features))  # b c m n
        scores = self.scores(F.relu(one + other))
        return scores.unflatten(1, (self.num_classes, self.num_classes))


def mean_field(
    unary: Float[Tensor, "b k h w"],
    pairwise: Sequence[tuple[Box, Float[Tensor, "b k k _ n"]]],
    num_iterations: int = ITERATIONS,
) -> Float[Tensor, "b k h w"]:
    """Scores whose softmax are the marginals of mean field, all nodes updated at once.

    Args:
        unary: scores of the labels of every node.
        pairwise: boxes, and the scores of the pairs of labels in each.
        num_iterations: how often.
    """
    size = (unary.shape[-2], unary.shape[-1])
    scores = unary
    for _ in range(num_iterations):
        q = scores.softmax(1)
        scores = unary
        for box, potentials in pairwise:
            to_first = torch.einsum("bkjmn,bjmn->bkn", potentials, box.neighbours(q))
            to_other = torch.einsum("bkjmn,bkn->bjmn", potentials, q.flatten(2))
            scores = scores + to_first.reshape(unary.shape) + box.returned(to_other, size)
    return scores


class FeatureNet(nn.Module):
    """FeatMap-Net: features of the nodes from three sizes of the image (Fig. 4 and 5).

    Args:
        encoder: gives c5.
        width: channels d of the sixth block.
    """

    def __init__(self, encoder: Encoder, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.block = nn.Sequential(
            nn.Conv2d(encoder.channels.c5, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        initialize_relu(self.block)
        self.pools = nn.ModuleList(nn.MaxPool2d(side, 1, side // 2) for side in POOLED)
        self.channels = len(SCALES) * (1 + len(POOLED)) * width

    def forward(self, image: Float[Tensor, "b c H W"]) -> Float[Tensor, "b _ h w"]:
        """Maps of all sizes, pooled and not, at the resolution of the largest."""
        maps: list[Tensor] = []
        for scale in SCALES:
            height, width = (
                length * scale.numerator // scale.denominator for length in (image.shape[-2], image.shape[-1])
            )
            x = self.block(self.encoder(resize(image, (height, width))).c5)
            x = torch.cat([x, *(pool(x) for pool in self.pools)], 1)
            maps.append(resize_like(x, maps[0]) if maps else x)
        return torch.cat(maps, 1)


class PiecewiseCRF(DenseModel):
    """Feature network, unary network, one pairwise network per relation.

    Args:
        encoder: gives c5, of stride 16 in the paper.
        num_classes: number of channels k of the logits.
        width: channels of the features of one image size, and of all hidden layers.
        reach: nodes from a node to the border of its box.
    """

    tasks = ("semantic",)
    output = PiecewiseLogits
    minimum_size = 40  # the smallest of the three images must keep a cell
    encoder_parts = ("features",)

    def __init__(self, encoder: Encoder, num_classes: int, *, width: int = 512, reach: int = 5) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.features = FeatureNet(encoder, width)
        c = self.features.channels
        self.unary = nn.Sequential(
            nn.Conv2d(c, width, 1), nn.ReLU(inplace=True), classifier(width, num_classes)
        )
        initialize_relu(self.unary[:-1])
        self.surrounding = PairwiseNet(c, width, num_classes, Box(reach, above=False))
        self.above = PairwiseNet(c, width, num_classes, Box(reach, above=True))

    def forward(self, image: Float[Tensor, "b c H W"]) -> PiecewiseLogits:
        """Score every pixel; in training every potential for itself, see `PiecewiseLogits`."""
        size = size_of(image, self.minimum_size)
        features = self.features(image)
        unary = self.unary(features)
        surrounding, above = self.surrounding(features), self.above(features)
        if self.training:
            return PiecewiseLogits(unary, size, surrounding=surrounding, above=above)
        pairwise = ((self.surrounding.box, surrounding), (self.above.box, above))
        return PiecewiseLogits(mean_field(unary, pairwise), size)


def pairs_of_labels(labels: Int64[Tensor, "b h w"], box: Box, num_classes: int) -> Int64[Tensor, "b m n"]:
    """Number of the pair of labels, first * k + second, of every node and of those in its box.

    -1 where one of the two lies beyond the border or has no label (one that is no class).
    """
    known = torch.where((labels >= 0) & (labels < num_classes), labels + 1, 0)
    first = known.flatten(1)[:, None]
    second = box.neighbours(known[:, None].float())[:, 0].long()  # b m n
    pairs = (first - 1) * num_classes + second - 1
    return torch.where((first > 0) & (second > 0), pairs, -1)


@loss_parts.register
def _(output: PiecewiseLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """Cross-entropy of every pairwise potential for itself (Sec. 4.2); nodes have the label of their middle.

    The unary potentials are the scores, which the loss of every pixel trains. In evaluation nothing is added.
    """
    if output.surrounding is None or output.above is None:
        return {}
    k, size = output.coarse.shape[1], output.coarse.shape[2:]
    labels = F.interpolate(batch.labels[:, None].float(), size, mode="nearest-exact")[:, 0].long()
    labels = torch.where((labels >= 0) & (labels < k), labels, -1)
    parts = {}
    reach = isqrt(output.above.shape[3]) // 2
    for name, potentials in (("surrounding", output.surrounding), ("above", output.above)):
        box = Box(reach, above=name == "above").to(labels.device)
        pairs = pairs_of_labels(labels, box, k)
        parts[name] = cross_entropy(potentials.flatten(1, 2), pairs, ignore=-1)
    return parts


def piecewise_crf(
    num_classes: int,
    *,
    encoder: str | Encoder = "vgg16_dilated",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 512,
) -> PiecewiseCRF:
    """The paper's CRF on VGG16 of stride 16, or on any encoder that can be dilated."""
    made = make_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, output_stride=16, stages=("c5",), stem=stem
    )
    return PiecewiseCRF(made, num_classes, width=width)
