"""FCN-32s on AlexNet and on GoogLeNet, the other two classifiers of the FCN paper (Table 1).

As on VGG16 (`fcn.py`): layers that were fully connected are convolutions, a 1x1 convolution that begins with
zeros scores the last map, stride 32, and a transposed convolution that begins bilinear brings the scores to
the size of the image. The image gets a border of 100 zeros, poolings round up, and a crop puts each score in
the middle of its window.

Border, kernel (63) and crop (18) of AlexNet are those of the authors' release. For GoogLeNet nothing was
released: the paper leaves out its last average pooling and trains with the last loss alone; here its border
is the same, and the crop follows from it: index i of the last map is the middle of a window around pixel
32 i - 75, and index u of the scores lies at 32 i + 31, so row 106 of the scores is the first of the image.

Departures: the layers are those of torchvision's networks, whose weights can be had (`alexnet.py`,
`googlenet.py`); the transposed convolutions learn.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import StemPolicy, fetch_torchvision
from ..layers import Normalize, fit, max_pool_up, size_of
from ..ops import bilinear_transposed
from ..types import DenseLogits, DenseModel
from .alexnet import alexnet_names
from .fcn import PAPER as PAPER, score
from .googlenet import GoogLeNetFeatures
from .vgg import convolutionize, copy_layers, initialize_relu, vgg_normalize


class FCN32sAlexNet(DenseModel):
    """AlexNet as a fully convolutional network; layers have Caffe's names.

    Args:
        num_classes: number of channels k of the logits.
        in_channels: of the image.
        width: channels of the first convolution; all others are multiples of it.
    """

    minimum_size = 1
    encoder_parts = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")

    def __init__(self, num_classes: int, *, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.normalize = vgg_normalize(in_channels)
        w = width
        self.conv1 = nn.Conv2d(in_channels, w, 11, stride=4, padding=100)
        self.conv2 = nn.Conv2d(w, 3 * w, 5, padding=2)
        self.conv3 = nn.Conv2d(3 * w, 6 * w, 3, padding=1)
        self.conv4 = nn.Conv2d(6 * w, 4 * w, 3, padding=1)
        self.conv5 = nn.Conv2d(4 * w, 4 * w, 3, padding=1)
        self.fc6 = nn.Conv2d(4 * w, 64 * w, 6)
        self.fc7 = nn.Conv2d(64 * w, 64 * w, 1)
        self.dropout = nn.Dropout(0.5)
        initialize_relu(self)
        self.score_fr = score(64 * w, num_classes)
        self.upscore = bilinear_transposed(num_classes, 63, stride=32)

    def map(self, image: Float[Tensor, "b c H W"]) -> Float[Tensor, "b _ _ _"]:
        """fc7, stride 32."""
        x, _ = max_pool_up(F.relu(self.conv1(self.normalize(image))), 3)
        x, _ = max_pool_up(F.relu(self.conv2(x)), 3)
        x = F.relu(self.conv4(F.relu(self.conv3(x))))
        x, _ = max_pool_up(F.relu(self.conv5(x)), 3)
        x = self.dropout(F.relu(self.fc6(x)))
        x = self.dropout(F.relu(self.fc7(x)))
        return x

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        scores = self.upscore(self.score_fr(self.map(image)))
        return DenseLogits(fit(scores, size, offset=18), size)


class FCN32sGoogLeNet(DenseModel):
    """GoogLeNet as a fully convolutional network.

    Args:
        num_classes: number of channels k of the logits.
        in_channels: of the image.
        width: channels of the first convolution; all others shrink and grow with it.
    """

    minimum_size = 1

    def __init__(self, num_classes: int, *, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        # torchvision's weights were trained on values from -1 to 1.
        self.normalize = Normalize((0.5,) * in_channels, (0.5,) * in_channels)
        self.encoder = GoogLeNetFeatures(in_channels=in_channels, padding=100, width=width)
        self.dropout = nn.Dropout(0.2)
        self.score_fr = score(self.encoder.channels, num_classes)
        self.upscore = bilinear_transposed(num_classes, 63, stride=32)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        scores = self.upscore(self.score_fr(self.dropout(self.encoder(self.normalize(image)))))
        return DenseLogits(fit(scores, size, offset=106), size)


def fcn32s_alexnet(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 64,
) -> FCN32sAlexNet:
    """The paper's FCN on AlexNet (pretrained: begins with a classifier of ImageNet)."""
    model = FCN32sAlexNet(num_classes, in_channels=in_channels, width=width)
    if pretrained:
        load_alexnet(model, fetch_torchvision("alexnet"), stem)
    return model


def fcn32s_googlenet(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 64,
) -> FCN32sGoogLeNet:
    """The paper's FCN on GoogLeNet (pretrained: begins with a classifier of ImageNet)."""
    model = FCN32sGoogLeNet(num_classes, in_channels=in_channels, width=width)
    if pretrained:
        load_googlenet(model, fetch_torchvision("googlenet"), stem)
    return model


def load_alexnet(model: FCN32sAlexNet, state_dict: Mapping[str, Tensor], stem: StemPolicy = "repeat") -> None:
    """Begin with the weights of a classifier: all its layers but the last go into `model`, in place.

    Args:
        model: of the width of the classifier.
        state_dict: of an AlexNet of torchvision, with any number of classes.
        stem: what its colour filters become where the image is not RGB, see `adapt_stem`.

    Raises:
        ValueError: if it is not that of such an AlexNet.
    """
    layers = alexnet_names(state_dict)
    for name, kernel in (("fc6", 6), ("fc7", 1)):
        if (weight := layers.get(f"{name}.weight")) is not None:
            layers[f"{name}.weight"] = convolutionize(weight, kernel)
    keys = [f"{name}.{part}" for name in model.encoder_parts for part in ("weight", "bias")]
    copy_layers(layers, model, keys, stem)


def load_googlenet(
    model: FCN32sGoogLeNet, state_dict: Mapping[str, Tensor], stem: StemPolicy = "repeat"
) -> None:
    """Begin with the weights of a classifier: all but its last layer and its auxiliary heads, in place.

    Args:
        model: of the width of the classifier.
        state_dict: of a GoogLeNet of torchvision, with any number of classes.
        stem: what its colour filters become where the image is not RGB, see `adapt_stem`.

    Raises:
        ValueError: if it is not that of a GoogLeNet.
    """
    copy_layers(state_dict, model.encoder, tuple(model.encoder.state_dict()), stem)
