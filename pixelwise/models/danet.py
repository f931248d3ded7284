"""DANet: every pixel attends to all pixels that look like it, and every channel to all channels.

Position attention adds to each pixel the mean of all pixels, weighted by likeness (paper Fig. 3A, Eq. 1 and
2); channel attention does the same among channels (Fig. 3B, Eq. 3 and 4). Both begin as the identity, with a
factor gamma of 0. The two branches run side by side on a dilated encoder, and their sum is classified (Fig.
2, Sec. 3.4).

`danet_resnet50` and `danet_resnet101` are the authors' networks (github.com/junfu1115/DANet): the last stage
is dilated by 4, 8 and 16, and each branch is trained with a classifier of its own beside that of the sum. The
authors weigh the three losses alike: train with `aux_weight=1`. `danet` takes any encoder as it is.

As in the authors' code, channel attention is by unlikeness: scores are subtracted from the largest of their
row before the softmax, which Eq. 3 does not show. Neither attention is divided by the root of its width.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, dilate, make_encoder
from ..layers import ConvNormAct, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper

PAPER = Paper(
    "Dual Attention Network for Scene Segmentation",
    "Fu, Liu, Tian, Li, Bao, Fang, Lu",
    "CVPR",
    2019,
    "https://arxiv.org/abs/1809.02983",
)

MULTI_DILATION = (4, 8, 16)  # of the three blocks of c5


class PositionAttention(nn.Module):
    """Adds to each pixel the values of all pixels, weighted by likeness (Sec. 3.2, Fig. 3A).

    Args:
        channels: of the input and the output; queries and keys have an eighth.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        c_key = max(channels // 8, 1)
        self.query = nn.Conv2d(channels, c_key, 1)
        self.key = nn.Conv2d(channels, c_key, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Attend and add."""
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        attention = (query.transpose(1, 2) @ key).softmax(2)  # b hw hw: a row for each pixel that looks
        found = (value @ attention.transpose(1, 2)).unflatten(2, x.shape[2:])
        return self.gamma * found + x


class ChannelAttention(nn.Module):
    """Adds to each channel all channels, weighted by how unlike they are (Sec. 3.3, Fig. 3B)."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Attend and add."""
        channels = x.flatten(2)
        likeness = channels @ channels.transpose(1, 2)  # b c c
        attention = (likeness.amax(2, keepdim=True) - likeness).softmax(2)
        return self.gamma * (attention @ channels).unflatten(2, x.shape[2:]) + x


class DANet(DenseModel):
    """Dilated encoder, two branches of attention, a classifier of their sum.

    In training `aux` holds the scores of the position branch and of the channel branch.

    Args:
        encoder: gives c5, in the paper with stride 8.
        num_classes: number of channels k of the logits.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        c = encoder.channels.c5 // 4
        self.position = nn.Sequential(
            ConvNormAct(encoder.channels.c5, c), PositionAttention(c), ConvNormAct(c, c)
        )
        self.channel = nn.Sequential(
            ConvNormAct(encoder.channels.c5, c), ChannelAttention(), ConvNormAct(c, c)
        )
        self.position_head, self.channel_head, self.head = (
            nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(c, num_classes, 1)) for _ in range(3)
        )

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        c5 = self.encoder(image).c5
        position, channel = self.position(c5), self.channel(c5)
        coarse = self.head(position + channel)  # b k H/8 W/8
        if not self.training:
            return DenseLogits(coarse, size, align_corners=True)
        aux = (self.position_head(position), self.channel_head(channel))
        return DenseLogits(coarse, size, aux=aux, align_corners=True)


def danet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
) -> DANet:
    """DANet on any encoder that can be dilated."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c5",),
    )
    return DANet(made, num_classes)


def danet_resnet50(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> DANet:
    """The authors' DANet on ResNet-50."""
    model = danet(num_classes, encoder="resnet50", in_channels=in_channels, pretrained=pretrained, stem=stem)
    dilate(model.encoder, "c5", *MULTI_DILATION)
    return model


def danet_resnet101(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> DANet:
    """The authors' DANet on ResNet-101."""
    model = danet(num_classes, encoder="resnet101", in_channels=in_channels, pretrained=pretrained, stem=stem)
    dilate(model.encoder, "c5", *MULTI_DILATION)
    return model


_PARTS = {
    "pretrained.": "encoder.body.",
    "head.conv5a.": "position.0.",
    "head.sa.query_conv.": "position.1.query.",
    "head.sa.key_conv.": "position.1.key.",
    "head.sa.value_conv.": "position.1.value.",
    "head.sa.": "position.1.",
    "head.conv51.": "position.2.",
    "head.conv5c.": "channel.0.",
    "head.sc.": "channel.1.",
    "head.conv52.": "channel.2.",
    "head.conv6.": "position_head.",
    "head.conv7.": "channel_head.",
    "head.conv8.": "head.",
}  # theirs -> ours, the longer of two first


def from_danet(state_dict: Mapping[str, Tensor]) -> DANet:
    """Weights of the authors' DANet (github.com/junfu1115/DANet) in our model, in eval mode.

    Args:
        state_dict: as `torch.load(path, weights_only=True)["state_dict"]` gives it, with or without
            `module.` before each key; the classifier of ImageNet, which they keep, is left out.

    Raises:
        ValueError: if it is not a state dict of a DANet on ResNet-50 or ResNet-101 with a 7x7 stem.
    """
    weights = {}
    for key, tensor in state_dict.items():
        key = key.removeprefix("module.")
        if not key.startswith("pretrained.fc."):
            part = next((part for part in _PARTS if key.startswith(part)), "")
            weights[_PARTS.get(part, "") + key.removeprefix(part)] = tensor
    builder = danet_resnet101 if "encoder.body.layer3.22.conv1.weight" in weights else danet_resnet50
    try:
        arguments: dict[str, Any] = {
            "num_classes": len(weights["head.1.weight"]),
            "in_channels": weights["encoder.body.conv1.weight"].shape[1],
        }
        model = builder(**arguments)
        own = {key: x for key, x in model.state_dict().items() if key.startswith("encoder.normalize.")}
        model.load_state_dict(weights | own)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of the authors' DANet: {error}") from error
    model.built_by = BuiltBy(builder.__name__, arguments)
    return model.eval()
