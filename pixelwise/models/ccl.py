"""CCL: what a place holds, less what its surroundings hold; scores of all layers weighed pixel by pixel.

A context contrasted local block subtracts from a 3x3 convolution one that looks at the surroundings through
dilation 5 (paper Fig. 3, Sec. 3.1). Six of them follow c5. Each of these blocks, and many blocks of the
ResNet, score all classes; a gate per score, which knows the gates before it, weighs the sum at every pixel
(Fig. 5, Sec. 3.2). That is done at strides 32, 16 and 8, each sum being one of the scores of the next.

Widths, the averaging before the dilated convolution, the order of the gates, their recurrence and their
refinement are those of the authors' MatConvNet code (github.com/henghuiding/CCL, the network with scores
down to stride 8), which the paper does not tell. Every second block of ResNet-101's c4 takes part there.
Other encoders than ResNets give one map per stage.

Departures: batch norm of the ResNet keeps its place inside the blocks as in timm; class-wise transposed
convolutions are cut where a map of odd size was halved; the last upsampling is plain bilinear.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, blocks_of, make_encoder, maps_of_blocks
from ..layers import BatchNorm2d, fit, size_of
from ..ops import bilinear_kernel
from ..types import DenseLogits, DenseModel, Paper

PAPER = Paper(
    "Context Contrasted Feature and Gated Multi-scale Aggregation for Scene Segmentation",
    "Ding, Jiang, Shuai, Liu, Wang",
    "CVPR",
    2018,
    "https://openaccess.thecvf.com/content_cvpr_2018/html/Ding_Context_Contrasted_Feature_CVPR_2018_paper.html",
)

NUM_BLOCKS = 6
DILATION = 5
STAGES = ("c5", "c4", "c3")
SCORED = 12  # about so many blocks of a stage are scored


class ContextContrastedLocal(nn.Module):
    """Local less context (Fig. 3): both are 3x3 convolutions, the second of averages and dilated.

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = BatchNorm2d(channels)
        self.local = nn.Conv2d(channels, channels, 3, padding=1)
        self.average = nn.AvgPool2d(DILATION, stride=1, padding=DILATION // 2, count_include_pad=False)
        self.context = nn.Conv2d(channels, channels, 3, padding=DILATION, dilation=DILATION)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Their difference, where it is positive."""
        x = self.norm(x)
        return F.relu(self.local(x) - self.context(self.average(x)))


class Score(nn.Sequential):
    """Scores of a map of the network: two 1x1 convolutions with batch norm between them."""

    def __init__(self, c_in: int, width: int, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(c_in, width, 1),
            BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, num_classes, 1),
        )


class Gate(nn.Sequential):
    """How much the scores of a map are worth at each pixel, by that map alone."""

    def __init__(self, c_in: int) -> None:
        super().__init__(BatchNorm2d(c_in), nn.ReLU(), nn.Conv2d(c_in, 1, 1), nn.Sigmoid())


class GatedSum(nn.Module):
    """Sum of scores with weights per pixel (Fig. 5).

    The gates are read one after the other by a recurrent unit of a single channel, refined together, and
    made to sum to the number of scores, so equal gates give the plain sum.

    Args:
        c_maps: channels of each map that is scored.
        width: channels inside a score.
        num_classes: k.
        carries: whether scores and state of a coarser sum come first.
    """

    def __init__(self, c_maps: Sequence[int], width: int, num_classes: int, *, carries: bool) -> None:
        super().__init__()
        self.scores = nn.ModuleList(Score(c, width, num_classes) for c in c_maps)
        self.gates = nn.ModuleList(Gate(c) for c in c_maps)
        self.first = None if carries else nn.Conv2d(1, 1, 1)
        self.up_scores = upsampling(num_classes) if carries else None
        self.up_state = upsampling(1) if carries else None
        count = len(c_maps) + carries
        self.refine = nn.Sequential(BatchNorm2d(count), nn.Conv2d(count, count, 1))

    def forward(
        self, maps: Sequence[Float[Tensor, "b _ h w"]], step: nn.Conv2d, coarser: Sequence[Tensor] = ()
    ) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b 1 h w"]]:
        """The sum, and the last state of the recurrent unit.

        Args:
            maps: deepest first.
            step: the recurrent unit, from state and gate to the next state; that of all strides.
            coarser: what the sum of the stride before gave, unless this is the first.
        """
        scores = [score(x) for score, x in zip(self.scores, maps, strict=True)]
        gates = [gate(x) for gate, x in zip(self.gates, maps, strict=True)]
        if self.first is None:
            size = size_of(maps[0], 1)
            scores.insert(0, fit(self.up_scores(coarser[0]), size))  # type: ignore[misc]
            states = [fit(self.up_state(coarser[1]), size)]  # type: ignore[misc]
        else:
            states = [torch.tanh(self.first(gates.pop(0)))]
        for gate in gates:
            states.append(torch.tanh(step(torch.cat([states[-1], gate], dim=1))))
        together = torch.cat(states, dim=1)  # b p h w
        weights = len(scores) * (together + self.refine(together)).softmax(1)
        total = torch.stack([w * s for w, s in zip(weights.split(1, dim=1), scores, strict=True)]).sum(0)
        return total, states[-1]


def upsampling(channels: int) -> nn.ConvTranspose2d:
    """Doubles a map, each channel by itself; bilinear to begin with."""
    layer = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, groups=channels, bias=False)
    with torch.no_grad():
        layer.weight.copy_(bilinear_kernel(4).expand_as(layer.weight))
    return layer


class CCL(DenseModel):
    """ResNet, six context contrasted local blocks, gated sums at strides 32, 16 and 8.

    Args:
        encoder: gives c3, c4 and c5.
        num_classes: number of channels k of the logits.
        width: channels of the blocks and inside scores.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, width: int = 512) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.adapt = nn.Sequential(nn.Conv2d(encoder.channels.c5, width, 1), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList(ContextContrastedLocal(width) for _ in range(NUM_BLOCKS))
        blocks = blocks_of(encoder)
        self.scored = {stage: scored_blocks(len(blocks.get(stage, [encoder]))) for stage in STAGES}
        self.sums = nn.ModuleList()
        for stage in STAGES:
            c_maps = [getattr(encoder.channels, stage)] * len(self.scored[stage])
            deepest = stage == STAGES[0]
            c_maps = [width] * NUM_BLOCKS + c_maps if deepest else c_maps
            self.sums.append(GatedSum(c_maps, width, num_classes, carries=not deepest))
        self.step = nn.Conv2d(2, 1, 1)
        with torch.no_grad():  # as in the authors' code: a new gate counts twice the state, against it
            self.step.weight.copy_(torch.tensor([-0.12, 0.24]).view(1, 2, 1, 1))

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        maps = maps_of_blocks(self.encoder, image)
        contrasted = [self.adapt(maps[STAGES[0]][-1])]
        for block in self.blocks:
            contrasted.append(block(contrasted[-1]))
        coarser: Sequence[Tensor] = ()
        for stage, gated_sum in zip(STAGES, self.sums, strict=True):
            chosen = [maps[stage][i] for i in self.scored[stage]]
            if stage == STAGES[0]:
                chosen = contrasted[:0:-1] + chosen
            coarser = gated_sum(chosen, self.step, coarser)
        return DenseLogits(coarser[0], size)  # b k H/8 W/8


def scored_blocks(count: int) -> list[int]:
    """Which of the blocks of a stage are scored, deepest first: about every n-th, and the last.

    >>> scored_blocks(4), scored_blocks(23)
    ([3, 2, 1, 0], [22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0])
    """
    each = max(1, (count - 1) // (SCORED - 1))
    return sorted({*range(0, count, each), count - 1}, reverse=True)


# --- builders -------------------------------------------------------------------------------------


def ccl(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 512,
) -> CCL:
    """CCL on any encoder; a ResNet gives scores of its blocks, others of their stages."""
    made = make_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=("c3", "c4", "c5")
    )
    return CCL(made, num_classes, width=width)


def ccl_resnet101(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> CCL:
    """The paper's network on ResNet-101."""
    return ccl(num_classes, encoder="resnet101", in_channels=in_channels, pretrained=pretrained, stem=stem)
