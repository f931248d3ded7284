"""A classifier of windows labels a pixel by the window around it; slid over an image, it labels them all.

The classifier is the network of one scale of the paper (Sec. 4.1): three layers of 7x7 filters with tanh, the
first two followed by 2x2 max pooling, take a window of 46 x 46 pixels to a single place, and a linear layer
gives its class. `slide` cuts the window out around every pixel, or every n-th, and classifies each by itself.

Windows that overlap compute the same things again. `forward` computes each once, for the whole image: filters
slide over the map instead of the window, and where pooling would skip every second place, it keeps all and
the filters behind it skip instead (they are dilated). The two give identical maps; the script
`bench/patch_classifier.py` prints what that saves.

Departures: one scale of three, no Laplacian pyramid; red, green and blue from -1 to 1 in place of locally
normalised YUV; every filter sees all maps of the layer before; what lies beyond the image is grey. The window
has an even side: the labelled pixel is the first behind its middle.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import Normalize, size_of
from ..types import DenseLogits, DenseModel, Paper

PAPER = Paper(
    "Learning Hierarchical Features for Scene Labeling",
    "Farabet, Couprie, Najman, LeCun",
    "PAMI",
    2013,
    "https://doi.org/10.1109/TPAMI.2012.231",
)

WINDOW = 46  # pixels: three layers of 7x7 filters and two poolings leave one place of them


class PatchClassifier(DenseModel):
    """A classifier of windows, and its dense form.

    Args:
        num_classes: number of channels k of the logits.
        in_channels: of the image.
        width: maps of the second layer; the first has a quarter, the third four times as many.
    """

    minimum_size = 1
    encoder_parts = ("conv1", "conv2", "conv3")

    def __init__(self, num_classes: int, *, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.normalize = Normalize((0.5,) * in_channels, (0.5,) * in_channels)
        first = max(1, width // 4)
        self.conv1 = nn.Conv2d(in_channels, first, 7)
        self.conv2 = nn.Conv2d(first, width, 7)
        self.conv3 = nn.Conv2d(width, 4 * width, 7)
        self.head = nn.Conv2d(4 * width, num_classes, 1)

    def classify(self, windows: Float[Tensor, "b c 46 46"]) -> Float[Tensor, "b k"]:
        """Scores of the classes of normalised windows."""
        x = F.max_pool2d(torch.tanh(self.conv1(windows)), 2)
        x = F.max_pool2d(torch.tanh(self.conv2(x)), 2)
        scores: Tensor = self.head(torch.tanh(self.conv3(x)))
        return scores.flatten(1)

    def slide(self, image: Float[Tensor, "b c H W"], stride: int = 1) -> Float[Tensor, "b k _ _"]:
        """Scores of the windows around every `stride`-th pixel in height and width, each by itself."""
        columns = self.bordered(image).unfold(2, WINDOW, stride).unfold(3, WINDOW, stride)
        rows = []
        for row in columns.unbind(2):  # b c w 46 46
            windows = row.transpose(1, 2).flatten(0, 1)
            rows.append(self.classify(windows).unflatten(0, (len(image), -1)))
        return torch.stack(rows, 1).permute(0, 3, 1, 2)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        x = torch.tanh(self.conv1(self.bordered(image)))
        x = F.max_pool2d(x, 2, stride=1)
        x = torch.tanh(F.conv2d(x, self.conv2.weight, self.conv2.bias, dilation=2))
        x = F.max_pool2d(x, 2, stride=1, dilation=2)
        x = torch.tanh(F.conv2d(x, self.conv3.weight, self.conv3.bias, dilation=4))
        return DenseLogits(self.head(x), size)

    def bordered(self, image: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c _ _"]:
        """The normalised image with zeros around it, so that every pixel has a window."""
        before = WINDOW // 2
        behind = WINDOW - 1 - before
        return F.pad(self.normalize(image), (before, behind, before, behind))


def patch_classifier(num_classes: int, *, in_channels: int = 3, width: int = 64) -> PatchClassifier:
    """The paper's classifier of windows of 46 pixels, at one scale, in its dense form."""
    return PatchClassifier(num_classes, in_channels=in_channels, width=width)
