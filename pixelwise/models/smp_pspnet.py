"""PSPNet as the library Segmentation Models PyTorch (SMP) has it.

It differs from the paper's in that the encoder stops at stride 8 instead of being dilated, in that the 1x1
bin of the pyramid has a bias and no batch norm, and in that all resizing aligns corners.

Departures: the stages behind stride 8, which SMP builds but never uses, are left out; any image size works,
with equal results where SMP accepts the size; images are normalised inside, as SMP's preprocessing does.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import ConvNormAct, resize_like, size_of
from ..types import DenseLogits, DenseModel, Paper

PAPER = Paper(
    "Segmentation Models PyTorch",
    "Iakubovskii",
    "GitHub",
    2019,
    "https://github.com/qubvel-org/segmentation_models.pytorch",
)


class SMPPyramidPooling(nn.Module):
    """Pyramid pooling; differs from the paper's in that the 1x1 bin has a bias and no batch norm.

    Args:
        c_in: channels of the input; the output has twice as many.
    """

    def __init__(self, c_in: int) -> None:
        super().__init__()
        c = c_in // 4
        whole = nn.Sequential(nn.Conv2d(c_in, c, 1), nn.ReLU(inplace=True))
        parts = (ConvNormAct(c_in, c, 1) for _ in range(3))
        self.convolutions = nn.ModuleList([whole, *parts])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ h w"]:
        """The four summaries and the map, concatenated."""
        bins = zip((1, 2, 3, 6), self.convolutions, strict=True)
        pooled = (conv(F.adaptive_avg_pool2d(x, bin)) for bin, conv in bins)
        return torch.cat([*(resize_like(p, x, align_corners=True) for p in pooled), x], dim=1)


class SMPPSPNet(DenseModel):
    """SMP's PSPNet: the encoder ends at stride 8, undilated.

    Args:
        encoder: gives c3.
        num_classes: number of channels k of the logits.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.context = SMPPyramidPooling(encoder.channels.c3)
        self.merge = ConvNormAct(2 * encoder.channels.c3, 512, 1)
        self.dropout = nn.Dropout2d(0.2)
        self.head = nn.Conv2d(512, num_classes, 3, padding=1)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        x = self.merge(self.context(self.encoder(image).c3))
        return DenseLogits(self.head(self.dropout(x)), size, align_corners=True)


def smp_pspnet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet34",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> SMPPSPNet:
    """SMP's PSPNet on the first half of any encoder."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=("c3",))
    return SMPPSPNet(made, num_classes)
