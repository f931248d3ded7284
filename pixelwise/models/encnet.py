"""EncNet: what kinds of features does the scene hold? The answer decides which channels count.

An encoding layer holds the map against learned codewords and sums what each pixel differs from each of them
(paper Sec. 2.1, Eq. 1 and 2). This description of the whole image weighs the channels of the map (Sec. 2.2,
Fig. 2) and is trained to tell which classes the image holds: the semantic encoding loss, in which a small
class counts as much as a large one (Sec. 2.2). A second loss on c4 eases training, as in PSPNet.

`encnet_resnet50` and `encnet_resnet101` are the authors' networks for ADE20K
(github.com/zhanghang1989/PyTorch-Encoding): their ResNet starts with three 3x3 convolutions. `encnet` takes
any encoder as it is. The semantic encoding loss comes with the output in training, weight 0.2; the authors
weigh that of c4 by 0.2 too (`aux_weight`).

As in the authors' code, differences are averaged over the codewords, which the paper sums, and weighted
channels are added to the map. Departures: the authors' networks for other data sets, which also join c3 and
c4, are not here; their semantic encoding loss takes the class weights of the main loss, here it has none.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import ConvNormAct, size_of
from ..losses import loss_parts, semantic_encoding_loss
from ..types import Batch, BuiltBy, ClassMasks, DenseLogits, DenseModel, Paper, Value, value
from .fcn import FCNHead

PAPER = Paper(
    "Context Encoding for Semantic Segmentation",
    "Zhang, Dana, Shi, Zhang, Wang, Tyagi, Agrawal",
    "CVPR",
    2018,
    "https://arxiv.org/abs/1803.08904",
)

NUM_CODEWORDS = 32


class Encoding(nn.Module):
    """Sums of what the pixels differ from each codeword, softly assigned (Sec. 2.1, Eq. 1 and 2).

    Args:
        channels: of the input and of each codeword.
        num_codewords: how many codewords n there are.
    """

    def __init__(self, channels: int, num_codewords: int) -> None:
        super().__init__()
        bound = (num_codewords * channels) ** -0.5
        self.codewords = nn.Parameter(torch.empty(num_codewords, channels).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.empty(num_codewords).uniform_(-1, 0))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c"]:
        """Assign each pixel to codewords, and sum."""
        inner = F.conv2d(x, self.codewords[:, :, None, None])  # b n h w
        squared = (self.codewords**2).sum(1).view(-1, 1, 1)
        distance = (x**2).sum(1, keepdim=True) - 2 * inner + squared
        assigned = (self.scale.view(-1, 1, 1) * distance).softmax(1).flatten(2)  # b n hw
        return assigned @ x.flatten(2).transpose(1, 2) - assigned.sum(2, keepdim=True) * self.codewords


class ContextEncoding(nn.Module):
    """Context encoding module: weighs the channels of a map by what the whole image holds (Fig. 2).

    Args:
        channels: of the input and the output.
        num_classes: k of the presence scores.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.reduce = ConvNormAct(channels, channels, 1)
        self.encoding = nn.Sequential(
            Encoding(channels, NUM_CODEWORDS), nn.BatchNorm1d(NUM_CODEWORDS), nn.ReLU(inplace=True)
        )
        self.attention = nn.Sequential(nn.Linear(channels, channels), nn.Sigmoid())
        self.presence = nn.Linear(channels, num_classes)

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b k"]]:
        """The weighted map, and a score of each class to be in the image."""
        encoded = self.encoding(self.reduce(x)).mean(1)  # b c
        weight = self.attention(encoded)[:, :, None, None]
        return F.relu(x + x * weight), self.presence(encoded)


@value
class Encoded(Value):
    """What the head says.

    Attributes:
        scores: of each class at each place.
        presence: of each class to be anywhere in the image.
    """

    scores: Float[Tensor, "b k h w"]
    presence: Float[Tensor, "b k"]


class EncHead(nn.Module):
    """Convolution to a quarter of the channels, context encoding, classifier.

    Args:
        c_in: channels of the input.
        num_classes: number of classes k.
        kernel: of the convolution.
    """

    def __init__(self, c_in: int, num_classes: int, *, kernel: int = 3) -> None:
        super().__init__()
        c = c_in // 4
        self.reduce = ConvNormAct(c_in, c, kernel)
        self.context = ContextEncoding(c, num_classes)
        self.classify = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(c, num_classes, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Encoded:
        """Score every place and the whole."""
        x, presence = self.context(self.reduce(x))
        return Encoded(self.classify(x), presence)


@value
class EncNetLogits(DenseLogits):
    """Scores of every pixel, and in training of each class to be in the image.

    Attributes:
        presence: one score per image and class; sigmoid gives the probability that it is there.
    """

    presence: Float[Tensor, "b k"] = field(kw_only=True)


class EncNet(DenseModel):
    """Dilated encoder and a head that knows the scene.

    Args:
        encoder: gives c5, and c4 where `aux`; in the paper both have stride 8.
        num_classes: number of channels k of the logits.
        aux: whether to train with the second loss on c4.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, aux: bool = True) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.head = EncHead(encoder.channels.c5, num_classes)
        self.aux_head = FCNHead(encoder.channels.c4, num_classes) if aux else None

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel, in training as `EncNetLogits`; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        said = self.head(features.c5)  # b k H/8 W/8, b k
        if not self.training:
            return DenseLogits(said.scores, size, align_corners=True)
        aux = () if self.aux_head is None else (self.aux_head(features.c4),)
        return EncNetLogits(said.scores, size, aux, align_corners=True, presence=said.presence)


@loss_parts.register
def presence_loss(output: EncNetLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """The semantic encoding loss (Sec. 2.2), beside the loss of every pixel.

    Labels that are no class count as ignored: whether they may be there is for the main loss to say.
    """
    several = isinstance(batch.target, ClassMasks)
    num_labels = 2 if several else output.presence.shape[1]
    labels = batch.labels.where((batch.labels >= 0) & (batch.labels < num_labels), 255)
    loss = semantic_encoding_loss(output.presence, labels, ignore=255, exclusive=not several)
    return {"semantic_encoding": loss}


def encnet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
    aux: bool = True,
) -> EncNet:
    """EncNet on any encoder that can be dilated."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c4", "c5") if aux else ("c5",),
    )
    return EncNet(made, num_classes, aux=aux)


def encnet_resnet50(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    aux: bool = True,
) -> EncNet:
    """The authors' EncNet on ResNet-50."""
    return encnet(
        num_classes, encoder="resnet50s", in_channels=in_channels, pretrained=pretrained, stem=stem, aux=aux
    )


def encnet_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    aux: bool = True,
) -> EncNet:
    """The authors' EncNet on ResNet-101."""
    return encnet(
        num_classes, encoder="resnet101s", in_channels=in_channels, pretrained=pretrained, stem=stem, aux=aux
    )


ENCODING_KEYS = {
    "pretrained.": "encoder.body.",
    "head.conv5.": "head.reduce.",
    "head.encmodule.encoding.0.": "head.context.reduce.0.",
    "head.encmodule.encoding.1.": "head.context.reduce.1.",
    "head.encmodule.encoding.3.": "head.context.encoding.0.",
    "head.encmodule.encoding.4.": "head.context.encoding.1.",
    "head.encmodule.fc.": "head.context.attention.",
    "head.encmodule.selayer.": "head.context.presence.",
    "head.conv6.": "head.classify.",
    "auxlayer.conv5.": "aux_head.",
}  # beginnings of keys of PyTorch-Encoding -> ours


def renamed(state_dict: Mapping[str, Tensor], parts: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors under new beginnings of their keys, without the classifier of ImageNet."""
    weights = {}
    for key, tensor in state_dict.items():
        key = key.removeprefix("module.")
        if not key.startswith("pretrained.fc."):
            part = next((part for part in parts if key.startswith(part)), "")
            weights[parts.get(part, "") + key.removeprefix(part)] = tensor
    return weights


def from_encnet(state_dict: Mapping[str, Tensor]) -> EncNet:
    """Weights of the author's EncNet (github.com/zhanghang1989/PyTorch-Encoding) in our model, in eval mode.

    Args:
        state_dict: as `torch.load(path, weights_only=True)` gives it, with or without `module.` before each
            key; the classifier of ImageNet, which is kept there, is left out.

    Raises:
        ValueError: if it is not a state dict of an EncNet without lateral connections on ResNet-50s or 101s.
    """
    weights = renamed(state_dict, ENCODING_KEYS)
    builder = encnet_resnet101 if "encoder.body.layer3.22.conv1.weight" in weights else encnet_resnet50
    try:
        arguments: dict[str, Any] = {
            "num_classes": len(weights["head.classify.1.weight"]),
            "in_channels": weights["encoder.body.conv1.0.weight"].shape[1],
            "aux": "aux_head.0.weight" in weights,
        }
        model = builder(**arguments)
        own = {key: x for key, x in model.state_dict().items() if key.startswith("encoder.normalize.")}
        model.load_state_dict(weights | own)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of an EncNet from PyTorch-Encoding: {error}") from error
    model.built_by = BuiltBy(builder.__name__, arguments)
    return model.eval()
