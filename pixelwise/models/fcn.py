"""FCN: a classifier whose fully connected layers are convolutions scores all windows of an image at once.

VGG16 without its last layer gives one score per class every 32 pixels; a transposed convolution, bilinear to
begin with, brings them to the size of the image (FCN-32s). FCN-16s and FCN-8s first double the scores and add
those of the finer maps pool4 and pool3 (paper Fig. 3, Sec. 4.2). As in the authors' Caffe release, the image
gets a border of 100 zeros, so that the 7x7 layer fits into small images, pooling rounds sizes up, and
everything is cropped with fixed offsets. Layers have Caffe's names.

The paper's "fixed" training, only scores and upsampling learn: `train(..., freeze=FIXED)`. Its stages: train
FCN-32s, then FCN-16s and FCN-8s each from the one before (`train(..., init_from=RUN)`), with a hundredth of
the learning rate; or FCN-8s at once, with `at_once=True`.

Departures: images are RGB with ImageNet's mean and standard deviation, as torchvision's and timm's VGG16
takes them (`from_caffe_fcn` brings the authors' own along); all transposed convolutions learn, where the
paper keeps the last one bilinear and the release all of them (freeze the layers named upscore for that).

`DilatedFCN` is what torchvision calls FCN: a ResNet dilated to stride 8 with a small head.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, fetch, make_encoder
from ..layers import ConvNormAct, fit, max_pool_up, size_of
from ..ops import bilinear_transposed
from ..types import BuiltBy, DenseLogits, DenseModel, Paper
from .vgg import (
    CONVOLUTIONS,
    VGG16,
    caffe_names,
    convolutionize as convolutionize,
    copy_layers,
    initialize_relu,
    vgg_normalize,
)

PAPER = Paper(
    "Fully Convolutional Networks for Semantic Segmentation",
    "Long, Shelhamer, Darrell",
    "CVPR",
    2015,
    "https://arxiv.org/abs/1411.4038",
)

M = TypeVar("M", bound=DenseModel)
V = TypeVar("V", bound="VGG16FCN")

# What "fixed" training freezes: all but the scores and their upsampling.
FIXED = (*CONVOLUTIONS, "fc6", "fc7")
# Red, green and blue in 0..255, as the release subtracts it.
CAFFE_MEAN = (122.67891434, 116.66876762, 104.00698793)


# --- on VGG16, as published -----------------------------------------------------------------------


class VGG16FCN(DenseModel):
    """VGG16 as a fully convolutional network; what the three variants share.

    Args:
        num_classes: number of channels k of the logits.
        in_channels: of the image.
        width: channels of the first layers, 64 in VGG16; all others are multiples.
    """

    minimum_size = 1
    encoder_parts = FIXED

    def __init__(self, num_classes: int, *, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels
        self.normalize = vgg_normalize(in_channels)
        c = in_channels
        for stage, widths in enumerate(VGG16, 1):
            for i, channels in enumerate(widths, 1):
                padding = 100 if (stage, i) == (1, 1) else 1
                c_out = channels * width // 64
                self.add_module(f"conv{stage}_{i}", nn.Conv2d(c, c_out, 3, padding=padding))
                c = c_out
        self.fc6 = nn.Conv2d(c, 64 * width, 7)
        self.fc7 = nn.Conv2d(64 * width, 64 * width, 1)
        self.dropout = nn.Dropout(0.5)
        initialize_relu(self)
        self.score_fr = score(64 * width, num_classes)

    def maps(self, image: Float[Tensor, "b c H W"]) -> tuple[Tensor, Tensor, Tensor]:
        """pool3, pool4 and fc7, "b _ _ _" each: strides 8, 16 and 32."""
        x, pools = self.normalize(image), []
        for stage, widths in enumerate(VGG16, 1):
            for i in range(1, len(widths) + 1):
                x = F.relu(getattr(self, f"conv{stage}_{i}")(x))
            x, _ = max_pool_up(x)
            pools.append(x)
        x = self.dropout(F.relu(self.fc6(x)))
        x = self.dropout(F.relu(self.fc7(x)))
        return pools[2], pools[3], x


class FCN32s(VGG16FCN):
    """Scores of stride 32 only; arguments as for `VGG16FCN`."""

    def __init__(self, num_classes: int, *, in_channels: int = 3, width: int = 64) -> None:
        super().__init__(num_classes, in_channels=in_channels, width=width)
        self.upscore = bilinear_transposed(num_classes, 64, stride=32)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        _, _, fc7 = self.maps(image)
        return DenseLogits(fit(self.upscore(self.score_fr(fc7)), size, offset=19), size)


class FCN16s(VGG16FCN):
    """Scores of strides 32 and 16; arguments as for `VGG16FCN`."""

    def __init__(self, num_classes: int, *, in_channels: int = 3, width: int = 64) -> None:
        super().__init__(num_classes, in_channels=in_channels, width=width)
        self.upscore2 = bilinear_transposed(num_classes, 4, stride=2)
        self.score_pool4 = score(8 * width, num_classes)
        self.upscore16 = bilinear_transposed(num_classes, 32, stride=16)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        _, pool4, fc7 = self.maps(image)
        x = self.upscore2(self.score_fr(fc7))
        x = x + fit(self.score_pool4(pool4), size_of(x, 1), offset=5)
        return DenseLogits(fit(self.upscore16(x), size, offset=27), size)


class FCN8s(VGG16FCN):
    """Scores of strides 32, 16 and 8.

    Args:
        num_classes: number of channels k of the logits.
        in_channels: of the image.
        at_once: whether pool4 and pool3 are scaled by 0.01 and 0.0001, with which the release trains all
            strides at once instead of in three stages.
        width: as for `VGG16FCN`.
    """

    def __init__(
        self, num_classes: int, *, in_channels: int = 3, at_once: bool = False, width: int = 64
    ) -> None:
        super().__init__(num_classes, in_channels=in_channels, width=width)
        self.scale_pool4, self.scale_pool3 = (0.01, 0.0001) if at_once else (1.0, 1.0)
        self.upscore2 = bilinear_transposed(num_classes, 4, stride=2)
        self.score_pool4 = score(8 * width, num_classes)
        self.upscore_pool4 = bilinear_transposed(num_classes, 4, stride=2)
        self.score_pool3 = score(4 * width, num_classes)
        self.upscore8 = bilinear_transposed(num_classes, 16, stride=8)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        pool3, pool4, fc7 = self.maps(image)
        x = self.upscore2(self.score_fr(fc7))
        x = x + fit(self.score_pool4(self.scale_pool4 * pool4), size_of(x, 1), offset=5)
        x = self.upscore_pool4(x)
        x = x + fit(self.score_pool3(self.scale_pool3 * pool3), size_of(x, 1), offset=9)
        return DenseLogits(fit(self.upscore8(x), size, offset=31), size)


def score(c_in: int, num_classes: int) -> nn.Conv2d:
    """1x1 convolution that begins with zeros (Sec. 4.1)."""
    layer = nn.Conv2d(c_in, num_classes, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


# --- from classifiers and from Caffe --------------------------------------------------------------


def load_vgg16(model: VGG16FCN, state_dict: Mapping[str, Tensor], stem: StemPolicy = "repeat") -> None:
    """Begin with the weights of a classifier: all its layers but the last go into `model`, in place.

    Args:
        model: any of the three.
        state_dict: of a VGG16 of torchvision or timm, with any number of classes.
        stem: what its colour filters become where the image is not RGB, see `adapt_stem`.

    Raises:
        ValueError: if it is not that of a VGG16 without batch norm.
    """
    layers = caffe_names(state_dict)
    if "conv1_1_bn.weight" in layers:
        raise ValueError("FCN has no batch norm: take the weights of a VGG16 without it")
    for name, kernel in (("fc6", 7), ("fc7", 1)):
        if (weight := layers.get(f"{name}.weight")) is not None:
            layers[f"{name}.weight"] = convolutionize(weight.flatten(1), kernel)
    copy_layers(layers, model, [f"{name}.{part}" for name in FIXED for part in ("weight", "bias")], stem)


def from_caffe_fcn(state_dict: Mapping[str, Tensor]) -> VGG16FCN:
    """The authors' trained network, in eval mode; variant and classes are read from the weights.

    Their images are BGR in 0..255 less a mean colour. Here the first filters are turned round, and mean and
    scale become those of the model, so it takes RGB in [0, 1] as all others do.

    Args:
        state_dict: the blobs of the caffemodel as "conv1_1.weight", "conv1_1.bias", ..., "upscore8.weight".

    Raises:
        ValueError: if the weights are not those of one of the three networks on VGG16.
    """
    builders: dict[str, Callable[..., VGG16FCN]] = {
        "upscore8": fcn8s_vgg16,
        "upscore16": fcn16s_vgg16,
        "upscore": fcn32s_vgg16,
    }
    found = [builder for name, builder in builders.items() if f"{name}.weight" in state_dict]
    if not found or not {"conv1_1.weight", "score_fr.bias"} <= set(state_dict):
        raise ValueError("state_dict is not that of an FCN on VGG16: it lacks conv1_1, score_fr or upscore")
    arguments: dict[str, Any] = {"num_classes": len(state_dict["score_fr.bias"])}
    if "scale_pool4.weight" in state_dict:
        arguments["at_once"] = True
    model = found[0](**arguments)
    weights = {key: tensor for key, tensor in state_dict.items() if not key.startswith("scale_pool")}
    weights["conv1_1.weight"] = weights["conv1_1.weight"].flip(1)
    weights["normalize.mean"] = torch.tensor(CAFFE_MEAN).view(1, 3, 1, 1) / 255
    weights["normalize.std"] = torch.full((1, 3, 1, 1), 1 / 255)
    return _with_weights(model, weights, BuiltBy(found[0].__name__, arguments))


def _with_weights(model: M, weights: Mapping[str, Tensor], built_by: BuiltBy) -> M:
    """`model` in eval mode with converted weights."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"state_dict does not fit {built_by.builder}: {problem}") from error
    model.built_by = built_by
    model.eval()
    return model


def fcn32s_vgg16(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 64,
) -> FCN32s:
    """The paper's FCN-32s on VGG16 (pretrained: begins with a classifier of ImageNet)."""
    return _classifier_inside(FCN32s(num_classes, in_channels=in_channels, width=width), pretrained, stem)


def fcn16s_vgg16(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 64,
) -> FCN16s:
    """The paper's FCN-16s on VGG16 (pretrained: begins with a classifier of ImageNet)."""
    return _classifier_inside(FCN16s(num_classes, in_channels=in_channels, width=width), pretrained, stem)


def fcn8s_vgg16(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    at_once: bool = False,
    width: int = 64,
) -> FCN8s:
    """The paper's FCN-8s on VGG16 (pretrained: begins with a classifier of ImageNet)."""
    model = FCN8s(num_classes, in_channels=in_channels, at_once=at_once, width=width)
    return _classifier_inside(model, pretrained, stem)


def _classifier_inside(model: V, pretrained: bool, stem: StemPolicy) -> V:
    if pretrained:
        load_vgg16(model, fetch("vgg16"), stem)
    return model


# --- on a dilated ResNet, as in torchvision -------------------------------------------------------


class FCNHead(nn.Sequential):
    """3x3 convolution to a quarter of the channels, dropout, classifier; keys are torchvision's."""

    def __init__(self, c_in: int, num_classes: int) -> None:
        c = c_in // 4
        super().__init__(*ConvNormAct(c_in, c), nn.Dropout(0.1), nn.Conv2d(c, num_classes, 1))


class DilatedFCN(DenseModel):
    """An encoder of output stride 8 and a head on its last map.

    Args:
        encoder: gives c5, and c4 where `aux`.
        num_classes: number of channels k of the logits.
        aux: whether to train with a second head on c4.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, aux: bool = True) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.head = FCNHead(encoder.channels.c5, num_classes)
        self.aux_head = FCNHead(encoder.channels.c4, num_classes) if aux else None

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        coarse = self.head(features.c5)  # b k H/8 W/8
        if self.aux_head is None or not self.training:
            return DenseLogits(coarse, size)
        return DenseLogits(coarse, size, aux=(self.aux_head(features.c4),))


def fcn(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
    aux: bool = True,
) -> DilatedFCN:
    """Two convolutions on any encoder that can be dilated, as torchvision's `fcn_*`."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c4", "c5") if aux else ("c5",),
    )
    return DilatedFCN(made, num_classes, aux=aux)


def fcn_resnet50(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    aux: bool = True,
) -> DilatedFCN:
    """The FCN on ResNet-50 of torchvision."""
    return fcn(
        num_classes, encoder="resnet50", in_channels=in_channels, pretrained=pretrained, stem=stem, aux=aux
    )


def fcn_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    aux: bool = True,
) -> DilatedFCN:
    """The FCN on ResNet-101 of torchvision."""
    return fcn(
        num_classes, encoder="resnet101", in_channels=in_channels, pretrained=pretrained, stem=stem, aux=aux
    )


def from_torchvision_fcn(state_dict: Mapping[str, Tensor]) -> DilatedFCN:
    """A trained `fcn_resnet50` or `fcn_resnet101` of torchvision with equal logits, in eval mode.

    Depth, classes, image channels and whether there is a second head are read from the weights.

    Args:
        state_dict: of torchvision's model.

    Raises:
        ValueError: if the weights are not those of one of the two.
    """
    try:
        arguments: dict[str, Any] = {
            "num_classes": len(state_dict["classifier.4.bias"]),
            "in_channels": state_dict["backbone.conv1.weight"].shape[1],
            "aux": "aux_classifier.4.bias" in state_dict,
        }
    except KeyError as error:
        raise ValueError(f"state_dict is not that of an FCN of torchvision: it lacks {error}") from None
    builder = fcn_resnet101 if "backbone.layer3.22.conv1.weight" in state_dict else fcn_resnet50
    model = builder(**arguments)
    weights = {key: tensor for key, tensor in model.state_dict().items() if ".normalize." in key}
    names = {"backbone": "encoder.body", "classifier": "head", "aux_classifier": "aux_head"}
    for key, tensor in state_dict.items():
        part, _, rest = key.partition(".")
        weights[f"{names.get(part, part)}.{rest}"] = tensor
    return _with_weights(model, weights, BuiltBy(builder.__name__, arguments))
