"""A stack of convolutions at full resolution: the first idea for labelling every pixel, and its price.

Nothing is pooled and nothing strides, so no position is ever lost. But n layers of 3x3 filters see 2 n + 1
pixels only, where a window of 224 would take 112 layers, and every layer computes and keeps its maps at the
size of the image. All networks that halve their maps are answers to this.

The paper restores and labels images of electron microscopes by such a stack. Departures: it has five layers
of 5x5x5 filters with eight maps and sigmoids, on volumes; here are planes, 3x3 filters, batch norm and ReLU,
and as many layers as wanted.
"""

from jaxtyping import Float
from torch import Tensor, nn

from ..layers import ConvNormAct, size_of
from ..types import DenseLogits, DenseModel, Paper

PAPER = Paper(
    "Supervised Learning of Image Restoration with Convolutional Networks",
    "Jain, Murray, Roth, Turaga, Zhigulin, Briggman, Helmstaedter, Denk, Seung",
    "ICCV",
    2007,
    "https://doi.org/10.1109/ICCV.2007.4408909",
)


class FullResolutionCNN(DenseModel):
    """3x3 convolutions, then a 1x1 convolution to the scores.

    Args:
        num_classes: number of channels k of the logits.
        in_channels: of the image.
        width: channels of every layer.
        depth: number n of 3x3 layers; a score sees 2 n + 1 pixels in height and width.
    """

    minimum_size = 1
    encoder_parts = ("layers",)

    def __init__(self, num_classes: int, *, in_channels: int = 3, width: int = 64, depth: int = 8) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.layers = nn.Sequential(
            *(ConvNormAct(in_channels if i == 0 else width, width) for i in range(depth))
        )
        self.head = nn.Conv2d(width, num_classes, 1)
        for layer in self.layers.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        return DenseLogits(self.head(self.layers(image)), size)


def full_resolution_cnn(
    num_classes: int, *, in_channels: int = 3, width: int = 64, depth: int = 8
) -> FullResolutionCNN:
    """Convolutions without any downsampling."""
    return FullResolutionCNN(num_classes, in_channels=in_channels, width=width, depth=depth)
