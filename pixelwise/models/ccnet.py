"""CCNet: each pixel gathers from its row and its column, and twice over from the whole image.

Criss-cross attention compares a pixel with the h + w - 1 pixels of its row and column only (paper Fig. 3,
Sec. 3.2). Applied a second time with the same weights, every pixel has heard of every other (Fig. 4, Sec.
3.3), at a small part of the cost of comparing all pairs.

`ccnet_resnet101` is the authors' network (github.com/speedinghzl/CCNet): its ResNet starts with three 3x3
convolutions and dilates every block of c4 and c5. `ccnet` takes any encoder as it is.

Departures: pooling in the stem rounds down, where the authors round up, which makes no difference for images
of 8n + 1 pixels; batch norm and leaky ReLU are two layers, where the authors fuse them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, dilate, make_encoder
from ..layers import BatchNorm2d, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper

PAPER = Paper(
    "CCNet: Criss-Cross Attention for Semantic Segmentation",
    "Huang, Wang, Huang, Huang, Wei, Liu",
    "ICCV",
    2019,
    "https://arxiv.org/abs/1811.11721",
)

SLOPE = 0.01  # of the leaky ReLU


class ConvNormLeaky(nn.Sequential):
    """3x3 convolution, batch norm, leaky ReLU."""

    def __init__(self, c_in: int, c_out: int, *, bias: bool = False) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, 3, padding=1, bias=bias),
            BatchNorm2d(c_out),
            nn.LeakyReLU(SLOPE, inplace=True),
        )


def columns(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "wb c h"]:
    """Each column of each image by itself, images side by side."""
    return x.permute(3, 0, 1, 2).flatten(0, 1)


def rows(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "hb c w"]:
    """Each row of each image by itself, images side by side."""
    return x.permute(2, 0, 1, 3).flatten(0, 1)


class CrissCrossAttention(nn.Module):
    """Adds to each pixel the values of its row and column, weighted by likeness (Sec. 3.2, Fig. 3).

    Args:
        channels: of the input and the output; queries and keys have an eighth, but at least two.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        c_key = max(channels // 8, 2)  # torch.export cannot follow a single one
        self.query = nn.Conv2d(channels, c_key, 1)
        self.key = nn.Conv2d(channels, c_key, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Attend and add."""
        # Orders of axes and contiguous copies are those with which torch.export follows any size.
        query, key, value = self.query(x), self.key(x), self.value(x)
        b, _, h, w = x.shape
        column = columns(query).mT @ columns(key)  # xb y v: (y, x) with (v, x)
        row = rows(query).mT @ rows(key)  # yb x u: (y, x) with (y, u)
        itself = torch.eye(h, dtype=torch.bool, device=x.device)  # a pixel meets itself in its row already
        column = column.masked_fill(itself, torch.finfo(column.dtype).min)
        from_column = (columns(value) @ column.softmax(2).mT).unflatten(0, (w, b))  # x b c y
        from_row = (rows(value) @ row.softmax(2).mT).unflatten(0, (h, b))  # y b c x
        from_column, from_row = from_column.permute(1, 2, 3, 0), from_row.permute(1, 2, 0, 3)
        # One softmax over both is a mixture of the two; this is the share of the column in it.
        sum_column = column.logsumexp(2).unflatten(0, (w, b)).permute(1, 2, 0)  # b y x
        sum_row = row.logsumexp(2).unflatten(0, (h, b)).transpose(0, 1)  # b y x
        share = (sum_column.contiguous() - sum_row.contiguous()).sigmoid()[:, None]
        found = share * from_column + (1 - share) * from_row
        return self.gamma * found + x


class RecurrentCrissCrossAttention(nn.Module):
    """The same attention again and again between two convolutions (Sec. 3.3, Fig. 2).

    Args:
        c_in: channels of the input.
        channels: of the output.
        recurrence: R, how often to attend.
    """

    def __init__(self, c_in: int, channels: int, recurrence: int) -> None:
        super().__init__()
        self.recurrence = recurrence
        self.reduce = ConvNormLeaky(c_in, channels)
        self.attention = CrissCrossAttention(channels)
        self.out = ConvNormLeaky(channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ h w"]:
        """Reduce, attend, convolve."""
        x = self.reduce(x)
        for _ in range(self.recurrence):
            x = self.attention(x)
        found: Tensor = self.out(x)
        return found


class CCNet(DenseModel):
    """Dilated encoder, recurrent criss-cross attention beside it, classifier.

    Args:
        encoder: gives c5, and c4 where `aux`; in the paper both have stride 8.
        num_classes: number of channels k of the logits.
        recurrence: R, how often to attend; with 2 every pixel sees all others.
        aux: whether to train with a second loss on c4.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, recurrence: int = 2, aux: bool = True) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        c_in, c = encoder.channels.c5, encoder.channels.c5 // 4
        self.context = RecurrentCrissCrossAttention(c_in, c, recurrence)
        self.head = nn.Sequential(ConvNormLeaky(c_in + c, c), nn.Dropout2d(0.1), nn.Conv2d(c, num_classes, 1))
        self.aux_head = _aux_head(encoder.channels.c4, num_classes) if aux else None

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        coarse = self.head(torch.cat([features.c5, self.context(features.c5)], dim=1))  # b k H/8 W/8
        if self.aux_head is None or not self.training:
            return DenseLogits(coarse, size, align_corners=True)
        return DenseLogits(coarse, size, aux=(self.aux_head(features.c4),), align_corners=True)


def _aux_head(c_in: int, num_classes: int) -> nn.Sequential:
    c = c_in // 2
    return nn.Sequential(ConvNormLeaky(c_in, c, bias=True), nn.Dropout2d(0.1), nn.Conv2d(c, num_classes, 1))


def ccnet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
    recurrence: int = 2,
    aux: bool = True,
) -> CCNet:
    """CCNet on any encoder that can be dilated."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c4", "c5") if aux else ("c5",),
    )
    return CCNet(made, num_classes, recurrence=recurrence, aux=aux)


def ccnet_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    recurrence: int = 2,
    aux: bool = True,
) -> CCNet:
    """The authors' CCNet on ResNet-101."""
    model = ccnet(
        num_classes,
        encoder="resnet101s",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        recurrence=recurrence,
        aux=aux,
    )
    dilate(model.encoder, "c4", 2)
    dilate(model.encoder, "c5", 4)
    return model


CAFFE_MEAN = (122.67891434, 116.66876762, 104.00698793)  # red, green, blue
ABN_EPSILON = 1e-5
_STEM = {
    "conv1": "conv1.0",
    "bn1": "conv1.1",
    "conv2": "conv1.3",
    "bn2": "conv1.4",
    "conv3": "conv1.6",
    "bn3": "bn1",
}
_KEYS = {
    **{f"{theirs}.": f"encoder.body.{ours}." for theirs, ours in _STEM.items()},
    "layer": "encoder.body.layer",
    "head.conva.": "context.reduce.",
    "head.cca.query_conv.": "context.attention.query.",
    "head.cca.key_conv.": "context.attention.key.",
    "head.cca.value_conv.": "context.attention.value.",
    "head.cca.": "context.attention.",
    "head.convb.": "context.out.",
    "head.bottleneck.3.": "head.2.",
    "head.bottleneck.": "head.0.",
    "dsn.3.": "aux_head.2.",
    "dsn.": "aux_head.0.",
}  # beginnings of theirs -> ours, the longer of two first


def from_ccnet(state_dict: Mapping[str, Tensor], *, recurrence: int = 2) -> CCNet:
    """Weights of the authors' CCNet (github.com/speedinghzl/CCNet) in our model, in eval mode.

    Their images are BGR in 0..255 less a mean colour: the first filters are turned round, and mean and scale
    become those of the model. Their in-place norms scale by the absolute value of the weight plus epsilon,
    which is written into the weights.

    Args:
        state_dict: as `torch.load(path, weights_only=True)` gives it, with or without `module.` before each
            key.
        recurrence: with which it was trained.

    Raises:
        ValueError: if it is not a state dict of a CCNet on ResNet-101.
    """
    weights = {}
    for key, tensor in state_dict.items():
        key = key.removeprefix("module.")
        part = next((part for part in _KEYS if key.startswith(part)), "")
        weights[_KEYS.get(part, "") + key.removeprefix(part)] = tensor
    for key in [key for key in weights if key.endswith(".running_mean")]:
        scale = key.replace(".running_mean", ".weight")
        if scale in weights:
            weights[scale] = weights[scale].abs() + ABN_EPSILON
    try:
        arguments: dict[str, Any] = {
            "num_classes": len(weights["head.2.weight"]),
            "recurrence": recurrence,
            "aux": "aux_head.0.0.weight" in weights,
        }
        weights["encoder.body.conv1.0.weight"] = weights["encoder.body.conv1.0.weight"].flip(1)
        weights["encoder.normalize.mean"] = torch.tensor(CAFFE_MEAN).view(1, 3, 1, 1) / 255
        weights["encoder.normalize.std"] = torch.full((1, 3, 1, 1), 1 / 255)
        model = ccnet_resnet101(**arguments)
        counts = {k: x for k, x in model.state_dict().items() if k.endswith(".num_batches_tracked")}
        model.load_state_dict(counts | weights)  # in-place norms do not count
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of the authors' CCNet: {error}") from error
    model.built_by = BuiltBy("ccnet_resnet101", arguments)
    return model.eval()
