"""FastFCN: joint pyramid upsampling makes of an undilated encoder what a dilated one would give.

Dilation keeps the last stages at stride 8 and costs most of the time and memory of a network. Here the
encoder strides as it was trained, and its last three maps are brought to stride 8, joined, and looked at
through four separable convolutions of dilation 1, 2, 4 and 8 (paper Sec. 3.3, Fig. 4). Any head for dilated
encoders stands on the result (Fig. 2).

`fastfcn_resnet50` is the authors' network (github.com/wuhuikai/FastFCN) with one of three heads: that of
EncNet, whose 3x3 convolution becomes 1x1 here, that of PSPNet or that of DeepLabV3 at stride 8. Its ResNet
starts with three 3x3 convolutions. `fastfcn` takes any encoder as it is. With EncNet's head the semantic
encoding loss comes with the output in training. A second loss on c4 eases training.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import BatchNorm2d, ConvNormAct, resize_like, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper
from .deeplabv3 import ASPP
from .encnet import ENCODING_KEYS, EncHead, EncNetLogits, Encoded, renamed
from .fcn import FCNHead
from .pspnet import PyramidPooling

PAPER = Paper(
    "FastFCN: Rethinking Dilated Convolution in the Backbone for Semantic Segmentation",
    "Wu, Zhang, Huang, Liang, Yu",
    "arXiv",
    2019,
    "https://arxiv.org/abs/1903.11816",
)

DILATIONS = (1, 2, 4, 8)
RATES = (12, 24, 36)  # of DeepLabV3's head, at stride 8

Head = Literal["encnet", "psp", "deeplabv3"]


class SeparableConvNormAct(nn.Sequential):
    """Depth-wise 3x3 convolution, batch norm, 1x1 convolution, batch norm, ReLU."""

    def __init__(self, c_in: int, c_out: int, *, dilation: int) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_in, 3, padding=dilation, dilation=dilation, groups=c_in, bias=False),
            BatchNorm2d(c_in),
            ConvNormAct(c_in, c_out, 1),
        )


class JointPyramidUpsampling(nn.Module):
    """Three maps of strides 8, 16 and 32 as one of stride 8 (Sec. 3.3, Fig. 4).

    Args:
        c3: channels of the map of stride 8.
        c4: of stride 16.
        c5: of stride 32.
        width: channels of each branch; the output has four times as many.
    """

    def __init__(self, c3: int, c4: int, c5: int, width: int) -> None:
        super().__init__()
        self.reduce5, self.reduce4, self.reduce3 = (ConvNormAct(c, width) for c in (c5, c4, c3))
        self.branches = nn.ModuleList(
            SeparableConvNormAct(3 * width, width, dilation=dilation) for dilation in DILATIONS
        )
        self.channels = width * len(DILATIONS)

    def forward(
        self,
        c3: Float[Tensor, "b _ h w"],
        c4: Float[Tensor, "b _ _ _"],
        c5: Float[Tensor, "b _ _ _"],
    ) -> Float[Tensor, "b _ h w"]:
        """Join and look at several distances."""
        fine = self.reduce3(c3)
        coarser = (self.reduce5(c5), self.reduce4(c4))
        joint = torch.cat([*(resize_like(x, fine, align_corners=True) for x in coarser), fine], dim=1)
        return torch.cat([branch(joint) for branch in self.branches], dim=1)


class FastFCN(DenseModel):
    """Undilated encoder, joint pyramid upsampling, a head for dilated encoders.

    Args:
        encoder: gives c3, c4 and c5 with strides 8, 16 and 32.
        upsampling: takes these.
        head: scores of its output, or `Encoded`.
        aux_head: scores of c4 for the second loss, or None.
        num_classes: number of channels k of the logits.
    """

    def __init__(
        self,
        encoder: Encoder,
        upsampling: JointPyramidUpsampling,
        head: nn.Module,
        aux_head: nn.Module | None,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder, self.upsampling = encoder, upsampling
        self.head, self.aux_head = head, aux_head

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel, in training with EncNet's head as `EncNetLogits`; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        said = self.head(self.upsampling(features.c3, features.c4, features.c5))
        coarse = said.scores if isinstance(said, Encoded) else said  # b k H/8 W/8
        if not self.training:
            return DenseLogits(coarse, size, align_corners=True)
        aux = () if self.aux_head is None else (self.aux_head(features.c4),)
        if isinstance(said, Encoded):
            return EncNetLogits(coarse, size, aux, align_corners=True, presence=said.presence)
        return DenseLogits(coarse, size, aux, align_corners=True)


def _make_head(head: Head, c_in: int, num_classes: int) -> nn.Module:
    if head == "encnet":
        return EncHead(c_in, num_classes, kernel=1)
    if head == "psp":
        context = PyramidPooling(c_in)
        c = c_in // 4
        return nn.Sequential(
            context, ConvNormAct(context.channels, c), nn.Dropout2d(0.1), nn.Conv2d(c, num_classes, 1)
        )
    if head == "deeplabv3":
        c = c_in // 8
        return nn.Sequential(
            ASPP(c_in, RATES, c_out=c, dropout=0.5),
            ConvNormAct(c, c),
            nn.Dropout2d(0.1),
            nn.Conv2d(c, num_classes, 1),
        )
    raise ValueError(f"head must be encnet, psp or deeplabv3, got {head!r}")


def fastfcn(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    head: Head = "encnet",
    aux: bool = True,
) -> FastFCN:
    """FastFCN on any encoder.

    Args:
        num_classes: number of channels k of the logits.
        encoder: name of a backbone, or an encoder.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: what pretrained colour filters become where the image is not RGB, see `adapt_stem`.
        head: of which network for dilated encoders.
        aux: whether to train with the second loss on c4.

    Raises:
        ValueError: if there is no such head, or see `make_encoder`.
    """
    made = make_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=("c3", "c4", "c5")
    )
    channels = made.channels
    upsampling = JointPyramidUpsampling(channels.c3, channels.c4, channels.c5, channels.c5 // 4)
    aux_head = FCNHead(channels.c4, num_classes) if aux else None
    return FastFCN(
        made, upsampling, _make_head(head, upsampling.channels, num_classes), aux_head, num_classes
    )


def fastfcn_resnet50(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    head: Head = "encnet",
    aux: bool = True,
) -> FastFCN:
    """The authors' FastFCN on ResNet-50."""
    return fastfcn(
        num_classes,
        encoder="resnet50s",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        head=head,
        aux=aux,
    )


_KEYS = {f"jpu.conv{level}.": f"upsampling.reduce{level}." for level in (3, 4, 5)}
for _i in range(len(DILATIONS)):
    _KEYS |= {
        f"jpu.dilation{_i + 1}.0.conv1.": f"upsampling.branches.{_i}.0.",
        f"jpu.dilation{_i + 1}.0.bn.": f"upsampling.branches.{_i}.1.",
        f"jpu.dilation{_i + 1}.0.pointwise.": f"upsampling.branches.{_i}.2.0.",
        f"jpu.dilation{_i + 1}.1.": f"upsampling.branches.{_i}.2.1.",
    }


def from_fastfcn(state_dict: Mapping[str, Tensor]) -> FastFCN:
    """Weights of the authors' FastFCN with EncNet's head (github.com/wuhuikai/FastFCN), in eval mode.

    Args:
        state_dict: as `torch.load(path, weights_only=True)["state_dict"]` gives it, with or without
            `module.` before each key; the classifier of ImageNet, which they keep, is left out.

    Raises:
        ValueError: if it is not a state dict of that network on ResNet-50 or ResNet-101.
    """
    weights = renamed(state_dict, ENCODING_KEYS | _KEYS)
    try:
        arguments: dict[str, Any] = {
            "num_classes": len(weights["head.classify.1.weight"]),
            "encoder": "resnet101s" if "encoder.body.layer3.22.conv1.weight" in weights else "resnet50s",
            "in_channels": weights["encoder.body.conv1.0.weight"].shape[1],
            "aux": "aux_head.0.weight" in weights,
        }
        model = fastfcn(**arguments)
        own = {key: x for key, x in model.state_dict().items() if key.startswith("encoder.normalize.")}
        model.load_state_dict(weights | own)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of the authors' FastFCN: {error}") from error
    model.built_by = BuiltBy("fastfcn", arguments)
    return model.eval()
