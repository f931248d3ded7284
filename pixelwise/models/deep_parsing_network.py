"""Deep Parsing Network: four layers behind a CNN do one pass of mean field, with rich pairwise terms.

The energy's pairwise term joins three pixels ("triple penalty", Sec. 2, Eq. 4 and 5): how far pixel j lies
from the pixels z around it in colour and position, if these have its label v; and what v at the offset of j
costs label u at i, by the best of five such "label contexts". One update of mean field

    q_i^u = softmax_u( -phi_i^u - min_k sum_v sum_j mu_k(u, v, j - i) p_j^v sum_z d(j, z) p_z^v )

is (Sec. 3, Fig. 3, Table 2)

    b12  a filter of 50 x 50 pixels, another one at each pixel: d(j, z) = w_1 |I_j - I_z|^2 + w_2 |j - z|^2;
    b13  a convolution of 9 x 9 over all labels, 5 channels per label: mu;
    b14  the minimum of the five;
    b15  its sum with the unary term, and the softmax.

b1 to b11 are VGG16 without its last two poolings: the fifth stage dilated by 2, then 7x7 dilated by 4, with
a sigmoid at the size of the image (phi = -ln p).

d is a polynomial in I_j, so that b12 needs only sums over windows, whatever the window's size: those of p,
I p and |I|^2 p, and two with weights by offset.

Departures: b12 averages over its window where the paper adds (a constant within w_1 and w_2), and counts
offsets in windows; the factor p_j^v, which the equation has, is applied behind b12. Contexts begin with small
random numbers. The paper trains in three stages, unary, penalty, contexts (`freeze`).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import resize, size_of
from ..types import DenseLogits, DenseModel, Paper
from .deeplabv1 import classifier
from .vgg import initialize_relu

PAPER = Paper(
    "Semantic Image Segmentation via Deep Parsing Network",
    "Liu, Li, Luo, Loy, Tang",
    "ICCV",
    2015,
    "https://arxiv.org/abs/1509.02634",
)

WINDOW, CONTEXT, MIXTURES = 50, 9, 5


class UnaryHead(nn.Sequential):
    """b9 to b11: VGG16's fully connected layers as convolutions, the first dilated by 4.

    Args:
        c_in: channels of the input.
        c: channels of both layers.
        num_classes: of the scores.
    """

    def __init__(self, c_in: int, c: int, num_classes: int) -> None:
        layers = nn.Sequential(
            nn.Conv2d(c_in, c, 7, padding=12, dilation=4),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(c, c, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
        )
        initialize_relu(layers)
        super().__init__(*layers, classifier(c, num_classes))


def window_sums(
    x: Float[Tensor, "b c H W"], rows: Float[Tensor, " n"], columns: Float[Tensor, " n"]
) -> Float[Tensor, "b c H W"]:
    """Sums of x over the n x n pixels around each, weighted by row and column; zero beyond the border."""
    n = len(rows)
    b = x.shape[0]
    x = F.pad(x, (n // 2, n - 1 - n // 2) * 2).flatten(0, 1)[:, None]  # b*c 1 H+n-1 W+n-1
    x = F.conv2d(F.conv2d(x, rows.view(1, 1, n, 1)), columns.view(1, 1, 1, n))
    return x[:, 0].unflatten(0, (b, -1))


class TriplePenalty(nn.Module):
    """b12: for each label, the mean distance from a pixel to those around it that have the label.

    Args:
        window: side of the surroundings in pixels.
    """

    offsets: Tensor

    def __init__(self, window: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(2))  # w_1 for colours in [0, 1], w_2 for offsets in windows
        self.register_buffer("offsets", torch.arange(window) - window // 2, persistent=False)

    def forward(
        self, p: Float[Tensor, "b k H W"], image: Float[Tensor, "b c H W"]
    ) -> Float[Tensor, "b k H W"]:
        """sum_z d(j, z) p_z^v over the window, over its number of pixels."""
        k, c, n = p.shape[1], image.shape[1], len(self.offsets)
        image = image - 0.5  # differences stay, and squares lose less
        square = image.square().sum(1, keepdim=True)
        ones = torch.full((n,), 1 / n, dtype=p.dtype, device=p.device)
        squares = (self.offsets.to(p) / n).square() / n
        # p, I p and |I|^2 p at once
        moments = torch.cat([p, *(p * one for one in image.split(1, 1)), p * square], 1)
        parts = window_sums(moments, ones, ones).split(k, 1)
        color = square * parts[0] + parts[c + 1]
        for own, sums in zip(image.split(1, 1), parts[1 : c + 1], strict=True):
            color = color - 2 * own * sums
        position = window_sums(p, squares, ones) + window_sums(p, ones, squares)
        return self.weights[0] * color + self.weights[1] * position


class MeanFieldPass(nn.Module):
    """b12 to b15: one update of mean field from probabilities of every label for itself.

    Args:
        num_classes: k.
        window: of the triple penalty, in pixels.
        context: side of the label contexts, in pixels; odd.
        mixtures: number of contexts per label, of which the best counts.
    """

    def __init__(self, num_classes: int, window: int, context: int, mixtures: int) -> None:
        super().__init__()
        self.penalty = TriplePenalty(window)
        self.contexts = nn.Conv2d(
            num_classes, num_classes * mixtures, context, padding=context // 2, bias=False
        )
        nn.init.normal_(self.contexts.weight, std=0.01)
        self.mixtures = mixtures

    def forward(
        self, scores: Float[Tensor, "b k H W"], image: Float[Tensor, "b c H W"]
    ) -> Float[Tensor, "b k H W"]:
        """Scores whose softmax are the new probabilities.

        Args:
            scores: logits of every label for itself.
            image: values in [0, 1].
        """
        p = scores.sigmoid()
        penalties = p * self.penalty(p, image)
        costs = self.contexts(penalties).unflatten(1, (-1, self.mixtures)).amin(2)
        return F.logsigmoid(scores) - costs


class DeepParsingNetwork(DenseModel):
    """Dilated encoder, unary scores at the size of the image, one pass of mean field.

    Args:
        encoder: gives c5.
        num_classes: number of channels k of the logits.
        width: a 64th of the channels of the fully connected layers, 64 in VGG16.
        window: see `MeanFieldPass`.
        context: see `MeanFieldPass`.
        mixtures: see `MeanFieldPass`.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        width: int = 64,
        window: int = WINDOW,
        context: int = CONTEXT,
        mixtures: int = MIXTURES,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.head = UnaryHead(encoder.channels.c5, 64 * width, num_classes)
        self.mean_field = MeanFieldPass(num_classes, window, context, mixtures)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        scores = resize(self.head(self.encoder(image).c5), size)  # b k H W
        return DenseLogits(self.mean_field(scores, image), size)


def deep_parsing_network(
    num_classes: int,
    *,
    encoder: str | Encoder = "vgg16_dilated",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 64,
) -> DeepParsingNetwork:
    """The paper's network on VGG16, or on any encoder that can be dilated."""
    made = make_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, output_stride=8, stages=("c5",), stem=stem
    )
    return DeepParsingNetwork(made, num_classes, width=width)
