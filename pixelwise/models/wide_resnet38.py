"""Wide ResNet-38: a shallower, wider residual network is the better start for segmentation.

Seen as an ensemble, a very deep residual network trains its paths only up to some length; widening the
units within that length wins on both ImageNet and segmentation (Sec. 3, Table 1). This is the authors'
network A1 at stride 8 (`encoders/wide_resnet.py`) with their classifier of two convolutions of dilation 12
(Sec. 4.2, "2 conv."), which they train with hard examples only (`loss="ohem"`).

Departures: scores are resized bilinearly; the authors resize them by cubic splines and train on every eighth
label.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import WideResNet38
from ..layers import BatchNorm2d, size_of
from ..types import DenseLogits, DenseModel, Paper

PAPER = Paper(
    "Wider or Deeper: Revisiting the ResNet Model for Visual Recognition",
    "Wu, Shen, van den Hengel",
    "arXiv",
    2016,
    "https://arxiv.org/abs/1611.10080",
)

RATE = 12  # dilation of both convolutions of the classifier


class WideResNetSegmentation(DenseModel):
    """Wide ResNet-38, its last norm, and a classifier of two dilated convolutions.

    Args:
        encoder: gives c5, not activated.
        num_classes: number of channels k of the logits.
    """

    def __init__(self, encoder: WideResNet38, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        c = encoder.channels.c5
        self.norm = BatchNorm2d(c)
        self.head = nn.Sequential(
            nn.Conv2d(c, c // 8, 3, padding=RATE, dilation=RATE),
            nn.ReLU(inplace=True),
            nn.Conv2d(c // 8, num_classes, 3, padding=RATE, dilation=RATE),
        )

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        x = F.relu(self.norm(self.encoder(image).c5))
        return DenseLogits(self.head(x), size)  # b k H/8 W/8


def wide_resnet38(num_classes: int, *, width: int = 64, in_channels: int = 3) -> WideResNetSegmentation:
    """Wide ResNet-38 A1: 124 million parameters; `width` is the number of channels of its first level."""
    encoder = WideResNet38(width, variant="a1", in_channels=in_channels, stages=("c5",))
    return WideResNetSegmentation(encoder, num_classes)
