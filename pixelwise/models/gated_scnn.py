"""Gated-SCNN: a stream of its own draws the shapes, and is told by the other where to look.

Beside the usual network (regular stream) a thin one works at the size of the image (Fig. 2). It begins with
the first map of the regular stream; gates made of deeper maps let pass what belongs to borders of classes
(gated convolution, Eq. 1, 2). It gives a map of edges, which joins the image's own gradients and enters the
atrous spatial pyramid pooling as one more branch (Sec. 3.1).

Both streams learn together (Sec. 3.2). To the cross-entropy of the pixels are added: 20 times the balanced
cross-entropy of the edges, whose targets are made of the labels; the cross-entropy of pixels on edges that
are surely found; and the difference between the gradients of predicted and true classes (dual task, Eq. 4 to
6), where Gumbel softmax draws the predicted ones so that gradients flow (Eq. 7).

The image's gradients are Canny edges, computed by fixed convolutions, so that they export (`canny`).

Departures from the authors' code (github.com/nv-tlabs/GSCNN), which departs from the paper here: Canny sees
the image, not its normalised copy cast to bytes; the edge loss takes scores, not probabilities passed as
scores; gradients are central differences of smoothed maps as in the paper, where the code skips both; the
border of the image is no edge. A convolution that nothing uses, and six biases that the norm behind them
takes away, are left out.
"""

import math
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, WideResNet38, make_encoder
from ..encoders.hrnet import BasicBlock
from ..layers import BatchNorm2d, ConvNormAct, resize, resize_like, size_of
from ..losses import cross_entropy, loss_parts
from ..types import Batch, DenseLogits, DenseModel, Paper, value

PAPER = Paper(
    "Gated-SCNN: Gated Shape CNNs for Semantic Segmentation",
    "Takikawa, Acuna, Jampani, Fidler",
    "ICCV",
    2019,
    "https://arxiv.org/abs/1907.05740",
)

RATES = (12, 24, 36)  # of the atrous convolutions at output stride 8
EDGE_WEIGHT = 20.0
SURE = 0.8  # probability of an edge above which its pixels count once more
TEMPERATURE = 0.5  # of the Gumbel softmax
WEAK, STRONG = 10 / 255, 100 / 255  # thresholds of Canny's hysteresis
# Of a disk of radius 2, the half in which no offset is the negative of another.
DISK = ((0, 1), (0, 2), (1, -1), (1, 0), (1, 1), (2, 0))


# --- edges of the image ---------------------------------------------------------------------------


def canny(image: Float[Tensor, "b c H W"], steps: int = 16) -> Float[Tensor, "b 1 H W"]:
    """1 on the edges of the image, 0 elsewhere (Canny 1986), by fixed convolutions and comparisons.

    Sobel gradients of each channel, |dx| + |dy|, of which the largest channel counts; values that a neighbour
    across the edge exceeds are dropped; what is above 100 (of 255) stays, and what is above 10 if it touches
    what stays. An edge is followed for `steps` pixels in this way; the usual algorithm goes to its end.

    Args:
        image: values in [0, 1].
        steps: how far weak edges are followed.
    """
    b, c, height, width = image.shape
    line = image.new_tensor([[-1.0, 0.0, 1.0]])
    smooth = image.new_tensor([[1.0, 2.0, 1.0]])
    sobel = torch.stack([smooth.T @ line, line.T @ smooth])[:, None]  # 2 1 3 3
    padded = F.pad(image.reshape(b * c, 1, height, width), (1, 1, 1, 1), mode="replicate")
    gradients = F.conv2d(padded, sobel).reshape(b, c, 2, height, width)
    strength, channel = gradients.abs().sum(2).max(1, keepdim=True)  # b 1 H W
    chosen = gradients.gather(1, channel[:, :, None].expand(b, 1, 2, height, width))[:, 0]
    dx, dy = chosen[:, :1], chosen[:, 1:]
    around = F.pad(strength, (1, 1, 1, 1))

    def beside(i: int, j: int) -> Tensor:
        return around[:, :, 1 + i : 1 + i + height, 1 + j : 1 + j + width]

    def peak(i: int, j: int) -> Tensor:
        return (strength > beside(-i, -j)) & (strength >= beside(i, j))

    # The edge runs across the gradient: within 22.5 degrees of an axis, or along a diagonal.
    slope = math.tan(math.pi / 8)
    level, upright = dy.abs() < slope * dx.abs(), dx.abs() < slope * dy.abs()
    falling = dx * dy > 0
    # Not torch.where: ONNX Runtime has it for numbers only.
    diagonal = (falling & peak(1, 1)) | (~falling & peak(1, -1))
    thin = (level & peak(0, 1)) | (~level & ((upright & peak(1, 0)) | (~upright & diagonal)))
    weak = (thin & (strength > WEAK)).to(image.dtype)
    edges = (thin & (strength > STRONG)).to(image.dtype)
    for _ in range(steps):
        edges = weak * F.max_pool2d(edges, 3, 1, 1)
    return edges


# --- shape stream ---------------------------------------------------------------------------------


class GatedConvolution(nn.Module):
    """A gate, seen from both streams, lets features of the shape stream pass (Eq. 1, 2).

    Args:
        channels: of the shape stream.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels + 1
        self.gate = nn.Sequential(
            BatchNorm2d(c),
            nn.Conv2d(c, c, 1),
            nn.ReLU(),
            nn.Conv2d(c, 1, 1, bias=False),
            BatchNorm2d(1),
            nn.Sigmoid(),
        )
        self.convolution = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.xavier_normal_(self.convolution.weight)

    def forward(
        self, x: Float[Tensor, "b c H W"], regular: Float[Tensor, "b 1 H W"]
    ) -> Float[Tensor, "b c H W"]:
        """Gated features: the residual keeps what the gate would close."""
        gated: Tensor = self.convolution(x * (self.gate(torch.cat([x, regular], 1)) + 1))
        return gated


class ShapeStream(nn.Module):
    """From the first map of the regular stream to a score of edges at every pixel (Fig. 2, lower half).

    Args:
        channels: of the first map; residual blocks have these, then a half and a quarter, at least 8.
        deeper: channels of the three maps that the gates see.
    """

    def __init__(self, channels: int, deeper: tuple[int, int, int]) -> None:
        super().__init__()
        widths = [channels, *(max(channels >> i, 8) for i in (1, 2, 3))]  # 64, 32, 16 and 8
        self.blocks = nn.ModuleList(BasicBlock(c) for c in widths[:3])
        self.reduce = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(widths))
        self.seen = nn.ModuleList(nn.Conv2d(c, 1, 1, bias=False) for c in deeper)
        self.gates = nn.ModuleList(GatedConvolution(c) for c in widths[1:])
        self.fuse = nn.Conv2d(widths[3], 1, 1, bias=False)

    def forward(
        self, first: Float[Tensor, "b _ _ _"], deeper: list[Tensor], size: tuple[int, int]
    ) -> Float[Tensor, "b 1 H W"]:
        """Scores of edges at `size`."""
        x = resize(first, size, align_corners=True)
        for block, reduce, seen, gate, map in zip(
            self.blocks, self.reduce, self.seen, self.gates, deeper, strict=True
        ):
            x = gate(reduce(block(x)), resize(seen(map), size, align_corners=True))
        scores: Tensor = self.fuse(x)
        return scores


class EdgePyramidPooling(nn.Module):
    """Atrous spatial pyramid pooling with one more branch, that of the edges.

    Args:
        c_in: channels of the input.
        c_out: channels of each branch and of the output.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvNormAct(c_in, c_out, 1))
        self.edge = ConvNormAct(1, c_out, 1)
        atrous = (ConvNormAct(c_in, c_out, dilation=rate) for rate in RATES)
        self.branches = nn.ModuleList([ConvNormAct(c_in, c_out, 1), *atrous])
        self.project = nn.Conv2d((len(RATES) + 3) * c_out, c_out, 1, bias=False)

    def forward(
        self, x: Float[Tensor, "b _ h w"], edges: Float[Tensor, "b 1 H W"]
    ) -> Float[Tensor, "b _ h w"]:
        """All branches, concatenated and projected."""
        image = resize_like(self.image(x), x, align_corners=True)
        edge = self.edge(resize_like(edges, x, align_corners=True))
        branches = [branch(x) for branch in self.branches]
        projected: Tensor = self.project(torch.cat([image, edge, *branches], 1))
        return projected


# --- the network ----------------------------------------------------------------------------------


@value
class EdgeLogits(DenseLogits):
    """Scores of every pixel, and of edges between classes.

    Attributes:
        edges: scores at the size of the image; above 0 is an edge; None in evaluation.
    """

    edges: Float[Tensor, "b 1 H W"] | None = None


class GatedSCNN(DenseModel):
    """Regular stream, shape stream, fusion.

    Args:
        encoder: gives c1, c2, c3 and c5, of stride 8, and the first map.
        first: name and channels of the map that the shape stream begins with.
        num_classes: number of channels k of the logits.
        width: a quarter of the channels of the pyramid pooling's branches and of the decoder.
    """

    output = EdgeLogits

    def __init__(
        self, encoder: Encoder, first: tuple[str, int], num_classes: int, *, width: int = 64
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.first, channels = first
        c = encoder.channels
        self.shape = ShapeStream(channels, (c.c2, c.c3, c.c5))
        self.mix = nn.Conv2d(2, 1, 1, bias=False)  # of the edges and the image's gradients
        self.context = EdgePyramidPooling(c.c5, 4 * width)
        self.fine = nn.Conv2d(c.c1, 48, 1, bias=False)
        self.head = nn.Sequential(
            ConvNormAct(4 * width + 48, 4 * width),
            ConvNormAct(4 * width, 4 * width),
            nn.Conv2d(4 * width, num_classes, 1, bias=False),
        )

    def forward(self, image: Float[Tensor, "b c H W"]) -> EdgeLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        edges = self.shape(features[self.first], [features.c2, features.c3, features.c5], size)
        with torch.no_grad():
            gradients = canny(image)
        borders = self.mix(torch.cat([edges.sigmoid(), gradients], 1)).sigmoid()
        fine = self.fine(features.c1)
        x = resize_like(self.context(features.c5, borders), fine, align_corners=True)
        coarse = self.head(torch.cat([fine, x], 1))  # b k H/2 W/2
        return EdgeLogits(coarse, size, edges=edges if self.training else None)


# --- losses ---------------------------------------------------------------------------------------


def edge_targets(
    labels: Integer[Tensor, "b ..."], *, ignore: int = 255
) -> tuple[Bool[Tensor, "b H W"], Bool[Tensor, "b H W"]]:
    """Which pixels have another class within two pixels of their centre, and for which that is asked.

    Args:
        labels: one class per pixel "b H W", or 0 and 1 per class and pixel "b k H W".
        ignore: label of pixels that do not count, also as neighbours.
    """
    maps = labels if labels.ndim == 4 else labels[:, None]
    height, width = maps.shape[-2:]
    known = maps != ignore
    edges = torch.zeros_like(known)
    for i, j in DISK:
        # Pixels and their partners i rows below and j columns to the right.
        here = (..., slice(0, height - i), slice(max(-j, 0), width - max(j, 0)))
        there = (..., slice(i, height), slice(max(j, 0), width + min(j, 0)))
        differ = (maps[here] != maps[there]) & known[here] & known[there]
        edges[here] |= differ
        edges[there] |= differ
    return edges.any(1), known.any(1)


def edge_loss(
    scores: Float[Tensor, "b H W"], edges: Bool[Tensor, "b H W"], known: Bool[Tensor, "b H W"]
) -> Float[Tensor, ""]:
    """Cross-entropy of edges, weighted so that edges and the rest count alike (Sec. 3.2)."""
    positive, negative = (edges & known).sum(), (~edges & known).sum()
    share = negative / (positive + negative).clamp(min=1)
    weight = torch.where(edges, share, 1 - share) * known
    loss = F.binary_cross_entropy_with_logits(scores, edges.to(scores.dtype), reduction="none")
    return (weight * loss).sum() / known.sum().clamp(min=1)


def strength_of_change(maps: Float[Tensor, "b k H W"]) -> Float[Tensor, "b k H W"]:
    """Length of the gradient of each map, smoothed first, over the root of 2 (Eq. 4)."""
    k = maps.shape[1]
    bell = maps.new_tensor([1.0, 2.0, 1.0]) / 4
    padded = F.pad(maps, (2, 2, 2, 2), mode="replicate")
    smooth = F.conv2d(padded, (bell[:, None] * bell).expand(k, 1, 3, 3), groups=k)
    dx = (smooth[..., 1:-1, 2:] - smooth[..., 1:-1, :-2]) / 2
    dy = (smooth[..., 2:, 1:-1] - smooth[..., :-2, 1:-1]) / 2
    return ((dx.square() + dy.square() + 1e-12) / 2).sqrt()


def dual_task_loss(
    logits: Float[Tensor, "b k H W"], labels: Integer[Tensor, "b ..."], *, ignore: int = 255
) -> Float[Tensor, ""]:
    """How far the borders of predicted classes lie from those of the true ones (Eq. 5, 6).

    The mean difference of both strengths of change where the prediction changes, and where the truth does,
    half of each.
    """
    exclusive = labels.ndim == 3
    known = (labels != ignore) if labels.ndim == 4 else (labels != ignore)[:, None]
    if exclusive:
        truth = F.one_hot(torch.where(known[:, 0], labels, 0).long(), logits.shape[1]).movedim(-1, 1)
        predicted = F.gumbel_softmax(logits.float(), tau=TEMPERATURE, dim=1)
    else:
        truth, predicted = torch.where(known, labels, 0), logits.float().sigmoid()
    found = strength_of_change(torch.where(known, predicted, 0))
    wanted = strength_of_change(torch.where(known, truth, 0).to(found.dtype))
    difference = (found - wanted).abs()
    parts = []
    for strength in (found, wanted):
        changes = strength.detach() > 1e-4
        parts.append((difference * changes).sum() / changes.sum().clamp(min=1))
    return torch.stack(parts).mean()


@loss_parts.register
def shape_losses(output: EdgeLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """What the paper adds: "edges", "on_edges" and "dual_task" (Sec. 3.2)."""
    if output.edges is None:
        return {}
    labels, scores = batch.labels, output.edges[:, 0].float()
    edges, known = edge_targets(labels)
    sure = scores.detach().sigmoid() > SURE
    on_edges = torch.where(sure if labels.ndim == 3 else sure[:, None], labels, 255)
    return {
        "edges": EDGE_WEIGHT * edge_loss(scores, edges, known),
        "on_edges": cross_entropy(output.logits, on_edges, exclusive=labels.ndim == 3),
        "dual_task": dual_task_loss(output.logits, labels),
    }


# --- builders -------------------------------------------------------------------------------------


def gated_scnn(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 64,
) -> GatedSCNN:
    """Gated-SCNN on any encoder that can be dilated; the shape stream begins with its c1."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=8,
        stages=("c1", "c2", "c3", "c5"),
    )
    return GatedSCNN(made, ("c1", made.channels.c1), num_classes, width=width)


def gated_scnn_wide_resnet38(num_classes: int, *, in_channels: int = 3) -> GatedSCNN:
    """The paper's network on Wide ResNet-38 A2: 137.3 million parameters."""
    stages = ("c0", "c1", "c2", "c3", "c5")
    encoder = WideResNet38(variant="a2", in_channels=in_channels, stages=stages)
    return GatedSCNN(encoder, ("c0", 64), num_classes)
