"""PSANet: each pixel says, for every place around it, how much it takes from there and how much it gives.

A pixel predicts a map of weights over all offsets to other pixels, as large as two maps side by side, so that
it reaches everywhere from anywhere (paper Sec. 3.3, Fig. 4). In the collect branch a pixel takes from the
others by its own weights; in the distribute branch the others decide what it takes from them (Fig. 1, Sec.
3.2). Both run on a map of half the size; their result is concatenated to the features (Fig. 3).

`psanet_resnet101` is the authors' network (github.com/hszhao/semseg) for training crops of 465 pixels: its
ResNet starts with three 3x3 convolutions and dilates every block of c4 and c5. `psanet` takes any encoder as
it is.

As in semseg, weights pass through a softmax over the pixels that one takes from, and offsets beyond the
predicted ones weigh as a score of 0. Departures: images may have any size, where the authors need 8n + 1
pixels; the operation is an index into the predicted map, not a kernel for one kind of device.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import DEEP_STEM, Encoder, StemPolicy, dilate, make_encoder
from ..layers import ConvNormAct, resize, resize_like, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper
from .fcn import FCNHead

PAPER = Paper(
    "PSANet: Point-wise Spatial Attention Network for Scene Parsing",
    "Zhao, Zhang, Liu, Shi, Loy, Lin, Jia",
    "ECCV",
    2018,
    "https://hszhao.github.io/projects/psanet",
)

SHRINK = 2  # of the map on which pixels attend


def from_offsets(scores: Float[Tensor, "b o h w"]) -> Float[Tensor, "b hw hw"]:
    """Scores of offsets as scores of places: in each column what one pixel says of all others.

    Args:
        scores: at each pixel, one for each offset of a square of odd side whose centre is the pixel itself,
            row by row; places beyond it get 0.
    """
    h, w = scores.shape[-2:]
    side = math.isqrt(scores.shape[1])
    y, x = torch.arange(h, device=scores.device), torch.arange(w, device=scores.device)
    down = (y[:, None] - y + side // 2)[:, None, :, None]  # v 1 y 1: from y to v
    right = (x[:, None] - x + side // 2)[None, :, None, :]  # 1 u 1 x: from x to u
    reached = (down >= 0) & (down < side) & (right >= 0) & (right < side)
    offset = down.clamp(0, side - 1) * side + right.clamp(0, side - 1)  # v u y x
    offset, reached = (one.flatten(2).flatten(0, 1) for one in (offset, reached))
    found = scores.flatten(2).gather(1, offset.expand(scores.shape[0], -1, -1))
    return torch.where(reached, found, 0.0)


class PointwiseAttention(nn.Module):
    """One branch: weights of a pixel over all places, and what is gathered with them (Sec. 3.3).

    Args:
        c_in: channels of the input.
        channels: of the output.
        mask_size: side of the square of offsets that is predicted, odd.
        distribute: whether pixels decide what they give, not what they take.
    """

    def __init__(self, c_in: int, channels: int, mask_size: int, *, distribute: bool) -> None:
        super().__init__()
        self.distribute = distribute
        self.reduce = ConvNormAct(c_in, channels, 1)
        self.attention = nn.Sequential(
            ConvNormAct(channels, channels, 1), nn.Conv2d(channels, mask_size**2, 1, bias=False)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ _ _"]:
        """Gather at half the size."""
        x = self.reduce(x)
        h, w = ((side - 1) // SHRINK + 1 for side in x.shape[-2:])
        x = resize(x, (h, w), align_corners=True)
        scores = from_offsets(self.attention(x))
        if self.distribute:
            scores = scores.transpose(1, 2)
        return (x.flatten(2) @ scores.softmax(1)).unflatten(2, (h, w))


class PSANet(DenseModel):
    """Dilated encoder, attention of both branches beside it, one 3x3 convolution, classifier.

    Args:
        encoder: gives c5, and c4 where `aux`; the paper dilates a ResNet so that both have stride 8.
        num_classes: number of channels k of the logits.
        mask_size: side of the square of offsets to which a pixel attends, in cells of a map of twice the
            stride of c5. It reaches from everywhere to everywhere in images of up to
            (mask_size - 1) * stride + 1 pixels.
        aux: whether to train with the second loss on c4.

    Raises:
        ValueError: if `mask_size` is even.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, mask_size: int = 59, aux: bool = True) -> None:
        super().__init__()
        if mask_size % 2 == 0:
            raise ValueError(f"mask_size must be odd, so that it has a centre, got {mask_size}")
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        # A quarter, as the authors have it; with fewer channels small encoders cannot tell classes apart.
        c_in, c = encoder.channels.c5, max(encoder.channels.c5 // 4, 8)
        self.collect = PointwiseAttention(c_in, c, mask_size, distribute=False)
        self.distribute = PointwiseAttention(c_in, c, mask_size, distribute=True)
        self.project = ConvNormAct(2 * c, c_in, 1)
        self.head = nn.Sequential(ConvNormAct(2 * c_in, c), nn.Dropout2d(0.1), nn.Conv2d(c, num_classes, 1))
        self.aux_head = FCNHead(encoder.channels.c4, num_classes) if aux else None

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        x = features.c5
        context = self.project(torch.cat([self.collect(x), self.distribute(x)], dim=1))
        context = resize_like(context, x, align_corners=True)
        coarse = self.head(torch.cat([x, context], dim=1))  # b k H/8 W/8
        if self.aux_head is None or not self.training:
            return DenseLogits(coarse, size, align_corners=True)
        return DenseLogits(coarse, size, aux=(self.aux_head(features.c4),), align_corners=True)


def psanet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
    mask_size: int = 59,
    aux: bool = True,
) -> PSANet:
    """PSANet on any encoder that can be dilated."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c4", "c5") if aux else ("c5",),
    )
    return PSANet(made, num_classes, mask_size=mask_size, aux=aux)


def psanet_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    mask_size: int = 59,
    aux: bool = True,
) -> PSANet:
    """The authors' PSANet on ResNet-101; a mask of 59 fits crops of 465 pixels, one of 89 crops of 705."""
    model = psanet(
        num_classes,
        encoder="resnet101s",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        mask_size=mask_size,
        aux=aux,
    )
    dilate(model.encoder, "c4", 2)
    dilate(model.encoder, "c5", 4)
    return model


_PARTS = {
    "psa.reduce.": "collect.reduce.",
    "psa.attention.3.": "collect.attention.1.",
    "psa.attention.": "collect.attention.0.",
    "psa.reduce_p.": "distribute.reduce.",
    "psa.attention_p.3.": "distribute.attention.1.",
    "psa.attention_p.": "distribute.attention.0.",
    "psa.proj.": "project.",
    "cls.4.": "head.2.",
    "cls.": "head.0.",
    "aux.": "aux_head.",
}  # theirs -> ours, the longer of two first


def from_semseg_psanet(state_dict: Mapping[str, Tensor]) -> PSANet:
    """Weights of the authors' PSANet (github.com/hszhao/semseg) on ResNet-101 in our model, in eval mode.

    Args:
        state_dict: as `torch.load(path, weights_only=True)["state_dict"]` gives it, with or without
            `module.` before each key.

    Raises:
        ValueError: if it is not a state dict of a PSANet on ResNet-101 with both branches.
    """
    weights = {}
    for key, tensor in state_dict.items():
        key = key.removeprefix("module.")
        if key.startswith("layer0."):
            _, position, name = key.split(".")
            key = f"encoder.body.{DEEP_STEM.get(position, position)}.{name}"
        elif key.startswith("layer"):
            key = f"encoder.body.{key}"
        else:
            part = next((part for part in _PARTS if key.startswith(part)), "")
            key = _PARTS.get(part, "") + key.removeprefix(part)
        weights[key] = tensor
    try:
        arguments: dict[str, Any] = {
            "num_classes": len(weights["head.2.weight"]),
            "in_channels": weights["encoder.body.conv1.0.weight"].shape[1],
            "mask_size": math.isqrt(len(weights["collect.attention.1.weight"])),
            "aux": "aux_head.0.weight" in weights,
        }
        model = psanet_resnet101(**arguments)
        own = {key: x for key, x in model.state_dict().items() if key.startswith("encoder.normalize.")}
        model.load_state_dict(weights | own)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of a PSANet from semseg: {error}") from error
    model.built_by = BuiltBy("psanet_resnet101", arguments)
    return model.eval()
