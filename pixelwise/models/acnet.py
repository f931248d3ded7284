"""ACNet: how much of the whole image, and how much of its surroundings, does each pixel need?

An adaptive context block compares each pixel with the mean of the map. Pixels that look like the mean belong
to what fills the image and take the global feature; the less a pixel looks like it, the more it takes of the
finer features around it: the two gates of a pixel sum to one (paper Sec. 3.2 and 3.3, Fig. 2). Blocks follow
one another from coarse to fine features. A second loss on c4 eases training.

No code was published, and the paper leaves open what is settled here. The gate of a pixel is the exponential
of minus the root mean square difference between its features and their mean, less the smallest such distance
in the image, over a temperature that is learned and starts at 1. Local features enter twice in turn: they are
gated, concatenated and convolved. Three blocks take c4, c3 and c2, with a quarter of the channels of c5.

`acnet_resnet101` has the ResNet of DANet, by the same authors, without its multi-grid; `acnet` takes any
encoder as it is.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import ConvNormAct, resize_like, size_of
from ..types import DenseLogits, DenseModel, Paper
from .fcn import FCNHead

PAPER = Paper(
    "Adaptive Context Network for Scene Parsing",
    "Fu, Liu, Wang, Li, Bao, Tang, Lu",
    "ICCV",
    2019,
    "https://arxiv.org/abs/1911.01664",
)

NUM_TURNS = 2  # how often a block takes its local features
STAGES = ("c4", "c3", "c2")  # of the local features of each block


class GlobalGate(nn.Module):
    """How much each pixel looks like the mean of the map: 1 for the one that does most, else less."""

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
        """Compare every pixel with the mean."""
        difference = x - x.mean((2, 3), keepdim=True)
        distance = (difference.square().mean(1, keepdim=True) + 1e-6).sqrt()
        further = distance - distance.amin((2, 3), keepdim=True)
        return (-further / self.log_temperature.exp()).exp()


class AdaptiveContext(nn.Module):
    """Adaptive context block (Fig. 2): global and local context, weighed at each pixel.

    Args:
        channels: of the input and the output.
        c_local: channels of the local features.
    """

    def __init__(self, channels: int, c_local: int) -> None:
        super().__init__()
        self.gate = GlobalGate()
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvNormAct(channels, channels, 1))
        self.local = ConvNormAct(c_local, channels, 1)
        self.turns = nn.ModuleList(ConvNormAct(2 * channels, channels) for _ in range(NUM_TURNS))

    def forward(
        self, x: Float[Tensor, "b c _ _"], local: Float[Tensor, "b l h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Give each pixel what it needs, at the size of the local features."""
        x = resize_like(x, local, align_corners=True)
        gate = self.gate(x)
        whole = gate * self.whole(x)
        local = (1 - gate) * self.local(local)
        for turn in self.turns:
            x = turn(torch.cat([x, local], dim=1))
        return x + whole


class ACNet(DenseModel):
    """Dilated encoder, adaptive context blocks from coarse to fine, classifier.

    Args:
        encoder: gives c2, c3, c4 and c5; in the paper the last three have stride 8.
        num_classes: number of channels k of the logits.
        aux: whether to train with the second loss on c4.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, aux: bool = True) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        c = encoder.channels.c5 // 4
        self.reduce = ConvNormAct(encoder.channels.c5, c)
        self.blocks = nn.ModuleList(AdaptiveContext(c, getattr(encoder.channels, stage)) for stage in STAGES)
        self.head = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(c, num_classes, 1))
        self.aux_head = FCNHead(encoder.channels.c4, num_classes) if aux else None

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        x = self.reduce(features.c5)
        for stage, block in zip(STAGES, self.blocks, strict=True):
            x = block(x, features[stage])
        coarse = self.head(x)  # b k H/4 W/4
        if self.aux_head is None or not self.training:
            return DenseLogits(coarse, size, align_corners=True)
        return DenseLogits(coarse, size, aux=(self.aux_head(features.c4),), align_corners=True)


def acnet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
    aux: bool = True,
) -> ACNet:
    """ACNet on any encoder that can be dilated."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c2", "c3", "c4", "c5"),
    )
    return ACNet(made, num_classes, aux=aux)


def acnet_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    aux: bool = True,
) -> ACNet:
    """ACNet on ResNet-101."""
    return acnet(
        num_classes, encoder="resnet101", in_channels=in_channels, pretrained=pretrained, stem=stem, aux=aux
    )
