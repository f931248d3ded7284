"""DeconvNet: a classifier turned round, layer by layer, draws the object that it has recognised.

VGG16 ends in two fully connected layers, which see a whole window of 224 x 224 pixels; their 4096 numbers are
spread to 7 x 7 again, and the mirrored network unpools, with the positions that pooling noted, and fills the
gaps by transposed convolutions of stride 1 (paper Fig. 2). Batch norm follows every layer (Sec. 3.3.1).

Because the window has a fixed size, an image is predicted proposal by proposal: each box is cropped, resized
to the window, scored, and resized back; of overlapping boxes the larger score counts (Sec. 3.4, Eq. 1). That
is `score_proposals`; `forward` takes the whole image as its only proposal. Layout and numbers are those of
the authors' files (github.com/HyeonwooNoh/DeconvNet); there is no dropout in them.

Departures: images are RGB with ImageNet's mean and standard deviation, as torchvision's and timm's VGG16
takes them; the encoder begins as He et al. say where it is not pretrained.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import StemPolicy, fetch
from ..layers import BatchNorm2d, max_pool_up, max_unpool, resize, size_of
from ..types import DenseLogits, DenseModel, Paper
from .vgg import VGG16, caffe_names, convolutionize, copy_layers, initialize_relu, vgg_normalize

PAPER = Paper(
    "Learning Deconvolution Network for Semantic Segmentation",
    "Noh, Hong, Han",
    "ICCV",
    2015,
    "https://arxiv.org/abs/1505.04366",
)


class Normed(nn.Sequential):
    """A convolution, straight or transposed, with batch norm, whose shift begins at 0.001, and ReLU."""

    def __init__(self, layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
        norm = BatchNorm2d(layer.out_channels)
        nn.init.constant_(norm.bias, 0.001)
        super().__init__(layer, norm, nn.ReLU(inplace=True))


def stage(
    layer: type[nn.Conv2d] | type[nn.ConvTranspose2d], c_in: int, widths: tuple[int, ...]
) -> nn.Sequential:
    """3x3 layers of the given output channels in a row."""
    return nn.Sequential(*(Normed(layer(a, b, 3, padding=1)) for a, b in pairwise((c_in, *widths))))


class DeconvNet(DenseModel):
    """VGG16 and its mirror image.

    Args:
        num_classes: number of channels k of the logits.
        in_channels: of the image.
        window: side of the square that the network sees, in pixels; a multiple of 32.
        width: channels of the first convolution; all others are multiples of it.

    Raises:
        ValueError: if 32 does not divide the window.
    """

    minimum_size = 1
    encoder_parts = ("encoder", "fc6", "fc7")

    def __init__(self, num_classes: int, *, in_channels: int = 3, window: int = 224, width: int = 64) -> None:
        super().__init__()
        if window < 32 or window % 32:
            raise ValueError(f"window must be a multiple of 32 pixels, got {window}")
        self.num_classes, self.in_channels, self.window = num_classes, in_channels, window
        self.normalize = vgg_normalize(in_channels)
        w, side = width, window // 32
        down = ((w,) * 2, (2 * w,) * 2, (4 * w,) * 3, (8 * w,) * 3, (8 * w,) * 3)
        # The last layer of a stage has the channels of the next one.
        up = ((8 * w,) * 3, (8 * w, 8 * w, 4 * w), (4 * w, 4 * w, 2 * w), (2 * w, w), (w, w))
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        c = in_channels
        for widths in down:
            self.encoder.append(stage(nn.Conv2d, c, widths))
            c = widths[-1]
        self.fc6 = Normed(nn.Conv2d(c, 64 * w, side))
        self.fc7 = Normed(nn.Conv2d(64 * w, 64 * w, 1))
        self.fc6_deconv = Normed(nn.ConvTranspose2d(64 * w, c, side))
        for widths in up:
            self.decoder.append(stage(nn.ConvTranspose2d, c, widths))
            c = widths[-1]
        self.head = nn.Conv2d(c, num_classes, 1)
        initialize_relu(self)
        for layer in (*self.fc6_deconv.modules(), *self.decoder.modules(), self.head):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel, the image being one window; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        return DenseLogits(self.score_windows(resize(image, (self.window, self.window))), size)

    def score_windows(self, windows: Float[Tensor, "b c s s"]) -> Float[Tensor, "b k s s"]:
        """Scores of windows of the network's size."""
        x, pooled = self.normalize(windows), []
        for encode in self.encoder:
            x = encode(x)
            before = size_of(x, 1)
            x, indices = max_pool_up(x)
            pooled.append((indices, before))
        x = self.fc6_deconv(self.fc7(self.fc6(x)))
        for decode in self.decoder:
            indices, before = pooled.pop()
            x = decode(max_unpool(x, indices, before))
        scores: Tensor = self.head(x)
        return scores


# --- proposal by proposal -------------------------------------------------------------------------


def select_proposals(
    boxes: Integer[Tensor, "n 4"], *, least: int = 112, most: int = 50
) -> Integer[Tensor, "_ 4"]:
    """The first `most` boxes whose sides have at least `least` pixels, as the authors take them.

    Args:
        boxes: x1 y1 x2 y2 in pixels, the best first; they may reach beyond the image.
        least: smallest side.
        most: number of boxes.
    """
    return boxes[(boxes[:, 2:] - boxes[:, :2]).amin(1) >= least][:most]


def score_proposals(
    model: DeconvNet, image: Float[Tensor, "c H W"], boxes: Integer[Tensor, "n 4"]
) -> Float[Tensor, "k H W"]:
    """Scores of an image by those of its proposals; a softmax over k makes probabilities of them.

    Args:
        model: scores the windows, one after the other, in the mode in which it is.
        image: values in [0, 1].
        boxes: x1 y1 x2 y2 in pixels; what lies beyond the image is black.

    Raises:
        ValueError: if a box is empty.
    """
    height, width = image.shape[-2:]
    maps = []
    for x1, y1, x2, y2 in boxes.tolist():
        if x1 >= x2 or y1 >= y2:
            raise ValueError(f"a proposal must hold pixels, got {(x1, y1, x2, y2)}")
        cropped = F.pad(image, (-x1, x2 - width, -y1, y2 - height))  # negative padding crops
        maps.append(model.score_windows(resize(cropped[None], (model.window, model.window)))[0])
    if not maps:
        return image.new_zeros(model.num_classes, height, width)
    return aggregate(maps, boxes, (height, width))


def aggregate(
    maps: Sequence[Float[Tensor, "k _ _"]], boxes: Integer[Tensor, "n 4"], size: tuple[int, int]
) -> Float[Tensor, "k H W"]:
    """The largest score of each class at each pixel; 0 speaks where no box lies, and below (Eq. 1).

    Args:
        maps: scores of the window of each box, of any resolution.
        boxes: x1 y1 x2 y2 in pixels; they may reach beyond the image.
        size: height and width of the image.

    >>> left, right = torch.tensor([[0, 0, 2, 1], [1, 0, 4, 1]])
    >>> maps = [torch.full((1, 1, 1), 2.0), torch.full((1, 1, 1), 3.0)]
    >>> aggregate(maps, torch.stack([left, right]), (1, 5))
    tensor([[[2., 3., 3., 3., 0.]]])
    """
    height, width = size
    total = maps[0].new_zeros(len(maps[0]), height, width)
    for map, (x1, y1, x2, y2) in zip(maps, boxes.tolist(), strict=True):
        own = resize(map[None], (y2 - y1, x2 - x1))[0]
        # Outside of its box a map has no say: zeros, as the authors' canvas has.
        total = torch.maximum(total, F.pad(own, (x1, width - x2, y1, height - y2)))
    return total


# --- builder --------------------------------------------------------------------------------------


def deconvnet(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    window: int = 224,
    width: int = 64,
) -> DeconvNet:
    """The paper's DeconvNet (pretrained: its first half begins with a classifier of ImageNet)."""
    model = DeconvNet(num_classes, in_channels=in_channels, window=window, width=width)
    if pretrained:
        load_vgg16(model, fetch("vgg16"), stem)
    return model


def load_vgg16(model: DeconvNet, state_dict: Mapping[str, Tensor], stem: StemPolicy = "repeat") -> None:
    """Begin with all layers of a classifier but the last, in place.

    Args:
        model: of the published width and window.
        state_dict: of a VGG16 of torchvision or timm without batch norm.
        stem: what its colour filters become where the image is not RGB, see `adapt_stem`.

    Raises:
        ValueError: if it is not that of such a VGG16, or the model has other sizes.
    """
    layers = caffe_names(state_dict)
    if "conv1_1_bn.weight" in layers:
        raise ValueError("DeconvNet has norms of its own: take the weights of a VGG16 without batch norm")
    if model.window != 224 or model.fc7[0].out_channels != 4096:
        raise ValueError("pretrained weights are for width 64 and windows of 224 pixels")
    for name, kernel in (("fc6", 7), ("fc7", 1)):
        if (weight := layers.get(f"{name}.weight")) is not None:
            layers[f"{name}.weight"] = convolutionize(weight.flatten(1), kernel)
    places = {"fc6.0": "fc6", "fc7.0": "fc7"}
    for i, widths in enumerate(VGG16):
        places |= {f"encoder.{i}.{j}.0": f"conv{i + 1}_{j + 1}" for j in range(len(widths))}
    names = {f"{a}.{part}": f"{b}.{part}" for a, b in places.items() for part in ("weight", "bias")}
    copy_layers({a: layers[b] for a, b in names.items() if b in layers}, model, tuple(names), stem)
