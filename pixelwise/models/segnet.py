"""SegNet: the decoder puts every value back where the encoder's max pooling took it from.

Each pooling remembers which of its four pixels was the largest; the mirrored decoder unpools with these
indices, which leaves three of four pixels zero, and convolutions fill them (paper Fig. 2 and 3). No feature
maps are carried over. `SegNet` has the thirteen convolutions of VGG16 on either side, `SegNetBasic` four.

As in the authors' Caffe release, all convolutions have a bias beside their batch norm, and pooling rounds
odd sizes up. Bayesian SegNet is `dropout=0.5`: dropout after the three deepest stages of encoder and decoder,
which stays on for the samples whose mean and variance are wanted (`model.dropout.train()`).

Departures: SegNet's images have ImageNet's mean and standard deviation, as its pretrained encoder expects,
which here may be VGG16 with or without batch norm. SegNet-Basic's local response normalisation sees colours
in 0..255, as in the release; batch norm statistics are running ones, not recomputed after training.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import StemPolicy, fetch
from ..layers import BatchNorm2d, max_pool_up, max_unpool, size_of
from ..types import DenseLogits, DenseModel, Paper
from .vgg import VGG16, caffe_names, copy_layers, initialize_relu, vgg_normalize

PAPER = Paper(
    "SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation",
    "Badrinarayanan, Kendall, Cipolla",
    "PAMI 2017",
    2015,
    "https://arxiv.org/abs/1511.00561",
)


class ConvBatchNormReLU(nn.Sequential):
    """3x3 convolution with bias, batch norm, ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(nn.Conv2d(c_in, c_out, 3, padding=1), BatchNorm2d(c_out), nn.ReLU(inplace=True))


class SegNet(DenseModel):
    """VGG16's convolutions, and their mirror image with unpooling.

    Args:
        num_classes: number of channels k of the logits.
        in_channels: of the image.
        dropout: fraction of values dropped after the three deepest stages on either side.
    """

    minimum_size = 1

    def __init__(self, num_classes: int, *, in_channels: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.normalize = vgg_normalize(in_channels)
        self.dropout = nn.Dropout(dropout)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        c = in_channels
        for widths in VGG16:
            self.encoder.append(stage(c, widths))
            c = widths[-1]
        # The last convolution of a stage has the channels of the next one; that of the first are the scores.
        mirrored = ((512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64,))
        for reduced in mirrored:
            self.decoder.append(stage(c, reduced))
            c = reduced[-1]
        self.head = nn.Conv2d(64, num_classes, 3, padding=1)
        initialize_relu(self)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        x, pooled = self.normalize(image), []
        for depth, encode in enumerate(self.encoder, 1):
            x = encode(x)
            before = size_of(x, 1)
            x, indices = max_pool_up(x)
            pooled.append((indices, before))
            if depth >= 3:
                x = self.dropout(x)
        for depth, decode in zip((5, 4, 3, 2, 1), self.decoder, strict=True):
            indices, before = pooled.pop()
            x = decode(max_unpool(x, indices, before))
            if depth >= 3:
                x = self.dropout(x)
        return DenseLogits(self.head(x), size)


def stage(c_in: int, widths: tuple[int, ...]) -> nn.Sequential:
    """Convolutions of the given output channels in a row."""
    return nn.Sequential(*map(ConvBatchNormReLU, (c_in, *widths[:-1]), widths))


class SegNetBasic(DenseModel):
    """Four 7x7 convolutions on either side, 64 channels throughout, no ReLU in the decoder.

    Args:
        num_classes: number of channels k of the logits.
        in_channels: of the image.
    """

    minimum_size = 1

    def __init__(self, num_classes: int, *, in_channels: int = 3) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.normalize = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
        self.encoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, 64, 7, padding=3), BatchNorm2d(64), nn.ReLU(inplace=True))
            for c in (in_channels, 64, 64, 64)
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(64, 64, 7, padding=3), BatchNorm2d(64)) for _ in range(4)
        )
        self.head = nn.Conv2d(64, num_classes, 1)
        initialize_relu(self)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        x, pooled = self.normalize(255 * image), []
        for encode in self.encoder:
            x = encode(x)
            before = size_of(x, 1)
            x, indices = max_pool_up(x)
            pooled.append((indices, before))
        for decode in self.decoder:
            indices, before = pooled.pop()
            x = decode(max_unpool(x, indices, before))
        return DenseLogits(self.head(x), size)


def load_vgg16_encoder(model: SegNet, state_dict: Mapping[str, Tensor], stem: StemPolicy = "repeat") -> None:
    """Begin with the convolutions of a classifier, in place; with its batch norms too where it has them.

    Args:
        model: whose encoder gets the weights.
        state_dict: of a VGG16 of torchvision or timm, with or without batch norm.
        stem: what its colour filters become where the image is not RGB, see `adapt_stem`.

    Raises:
        ValueError: if it is not that of a VGG16.
    """
    layers = caffe_names(state_dict)
    source = {}
    for i, widths in enumerate(VGG16):
        for j in range(len(widths)):
            for ours, theirs in ((0, f"conv{i + 1}_{j + 1}."), (1, f"conv{i + 1}_{j + 1}_bn.")):
                for key, tensor in layers.items():
                    if key.startswith(theirs):
                        source[f"encoder.{i}.{j}.{ours}.{key.removeprefix(theirs)}"] = tensor
    copy_layers(source, model, tuple(source), stem)


def segnet(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    dropout: float = 0.0,
) -> SegNet:
    """The paper's SegNet (pretrained: its encoder begins with a VGG16 with batch norm of ImageNet)."""
    model = SegNet(num_classes, in_channels=in_channels, dropout=dropout)
    if pretrained:
        load_vgg16_encoder(model, fetch("vgg16_bn"), stem)
    return model


def segnet_basic(num_classes: int, *, in_channels: int = 3) -> SegNetBasic:
    """The paper's small SegNet-Basic."""
    return SegNetBasic(num_classes, in_channels=in_channels)
