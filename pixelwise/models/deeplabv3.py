"""DeepLabV3: parallel dilated convolutions and a summary of the whole image, on a dilated encoder.

The last stage is dilated instead of strided (Sec. 3.2), block by block with the multi-grid (1, 2, 4)
(Sec. 3.2.1); atrous spatial pyramid pooling adds image-level features (Sec. 3.3, Fig. 5).

`deeplabv3_resnet50` and `deeplabv3_resnet101` are the paper's. `deeplabv3` takes any encoder; where it
cannot be dilated (Swin), `output_stride=32` still works. `deeplabv3_torchvision` is the network that
torchvision calls DeepLabV3, whose weights `from_torchvision_deeplabv3` reads: rates 12, 24 and 36 at any
stride, a further 3x3 convolution, more dropout, a second loss on an earlier stage, no multi-grid, corners not
aligned.

Departures: image-level features are the mean of the whole map, where the authors' window is that of the
training crop; the ResNet starts with a 7x7 convolution as in the paper, in the authors' code with three 3x3.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, dilate, make_encoder
from ..layers import ConvNormAct, resize_like, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper
from .fcn import FCNHead

PAPER = Paper(
    "Rethinking Atrous Convolution for Semantic Image Segmentation",
    "Chen, Papandreou, Schroff, Adam",
    "arXiv",
    2017,
    "https://arxiv.org/abs/1706.05587",
)

RATES = (6, 12, 18)  # of the atrous convolutions at output stride 16; twice that at 8 (Sec. 3.3)
MULTI_GRID = (1, 2, 4)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling with image-level features (Sec. 3.3, Fig. 5).

    Args:
        c_in: channels of the input.
        rates: of the 3x3 convolutions.
        c_out: channels of each branch and of the output.
        dropout: probability to drop a value of the output.
        convolution: makes a 3x3 convolution with norm and ReLU (DeepLabV3+ on Xception has separable ones).
    """

    def __init__(
        self,
        c_in: int,
        rates: Sequence[int],
        *,
        c_out: int = 256,
        dropout: float = 0.1,
        convolution: Callable[..., nn.Module] = ConvNormAct,
    ) -> None:
        super().__init__()
        atrous = (convolution(c_in, c_out, dilation=rate) for rate in rates)
        self.branches = nn.ModuleList([ConvNormAct(c_in, c_out, 1), *atrous])
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvNormAct(c_in, c_out, 1))
        self.project = nn.Sequential(
            ConvNormAct((len(self.branches) + 1) * c_out, c_out, 1), nn.Dropout(dropout)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ h w"]:
        """All branches, concatenated and projected."""
        views = [*(branch(x) for branch in self.branches), resize_like(self.image(x), x)]
        projected: Tensor = self.project(torch.cat(views, dim=1))
        return projected


class DeepLabV3(DenseModel):
    """Dilated encoder, atrous spatial pyramid pooling, classifier.

    Args:
        encoder: gives c5.
        num_classes: number of channels k of the logits.
        rates: of the atrous convolutions.
    """

    def __init__(self, encoder: Encoder, num_classes: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.context = ASPP(encoder.channels.c5, rates)
        self.head = nn.Conv2d(256, num_classes, 1)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        x = self.context(self.encoder(image).c5)
        return DenseLogits(self.head(x), size, align_corners=True)  # b k H/16 W/16, or finer


class TorchvisionDeepLabV3(DenseModel):
    """DeepLabV3 as torchvision builds it.

    Args:
        encoder: gives c5, and the stage of the second loss.
        num_classes: number of channels k of the logits.
        aux_stage: the stage that is trained with a second loss; None for none.
        rates: of the atrous convolutions.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        aux_stage: str | None = "c4",
        rates: Sequence[int] = (12, 24, 36),
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder, self.aux_stage = encoder, aux_stage
        self.context = ASPP(encoder.channels.c5, rates, dropout=0.5)
        self.head = nn.Sequential(ConvNormAct(256, 256), nn.Conv2d(256, num_classes, 1))
        self.aux_head = FCNHead(getattr(encoder.channels, aux_stage), num_classes) if aux_stage else None

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        coarse = self.head(self.context(features.c5))
        if self.aux_head is None or self.aux_stage is None or not self.training:
            return DenseLogits(coarse, size)
        return DenseLogits(coarse, size, aux=(self.aux_head(features[self.aux_stage]),))


# --- builders -------------------------------------------------------------------------------------


def deeplabv3(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 16,
    multi_grid: Sequence[int] | None = None,
) -> DeepLabV3:
    """DeepLabV3 on any encoder.

    Args:
        num_classes: number of channels k of the logits.
        encoder: name of a backbone, or an encoder.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: what pretrained colour filters become where the image is not RGB, see `adapt_stem`.
        output_stride: 8, 16 or 32; the weights of one fit the others.
        multi_grid: for ResNets, dilation of each block of the last stage as a multiple of the stage's.

    Raises:
        ValueError: see `make_encoder` and `dilate`.
    """
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c5",),
    )
    if multi_grid is not None:
        dilate_with_multi_grid(made, multi_grid)
    return DeepLabV3(made, num_classes, atrous_rates(made))


def deeplabv3_resnet50(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 16,
) -> DeepLabV3:
    """The paper's DeepLabV3 on ResNet-50."""
    return deeplabv3(
        num_classes,
        encoder="resnet50",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        multi_grid=MULTI_GRID,
    )


def deeplabv3_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 16,
) -> DeepLabV3:
    """The paper's DeepLabV3 on ResNet-101."""
    return deeplabv3(
        num_classes,
        encoder="resnet101",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        multi_grid=MULTI_GRID,
    )


def deeplabv3_torchvision(
    num_classes: int,
    *,
    encoder: str = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    aux: bool = True,
) -> TorchvisionDeepLabV3:
    """DeepLabV3 as torchvision has it, on "resnet50", "resnet101", "mobilenet_v3_large" or any encoder."""
    mobile = encoder == "mobilenet_v3_large"
    aux_stage = ("c3" if mobile else "c4") if aux else None
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=16 if mobile else 8,
        stages=(aux_stage, "c5") if aux_stage else ("c5",),
    )
    return TorchvisionDeepLabV3(made, num_classes, aux_stage=aux_stage)


def atrous_rates(encoder: Encoder) -> tuple[int, ...]:
    """The paper's rates for the encoder's output stride: 6, 12, 18 at stride 16, 12, 24, 36 at stride 8."""
    return tuple(rate * 16 // encoder.strides.c5 for rate in RATES)


def dilate_with_multi_grid(encoder: Encoder, grid: Sequence[int]) -> None:
    """Dilate the blocks of a ResNet's c5 by `grid` times the stage's rate, in place (Sec. 3.2.1).

    At output stride 8 every block of c4 is dilated by 2, where timm leaves out the first.
    """
    rate = 32 // encoder.strides.c5
    dilate(encoder, "c5", *(rate * unit for unit in grid))
    if rate == 4:
        dilate(encoder, "c4", 2)


# --- weights of torchvision -------------------------------------------------------------------------


def from_torchvision_deeplabv3(state_dict: dict[str, Tensor]) -> TorchvisionDeepLabV3:
    """Weights of torchvision's `deeplabv3_*` in our model, in eval mode.

    Backbone, classes, image channels and whether there is an auxiliary head are read from the weights.

    Args:
        state_dict: of `deeplabv3_resnet50`, `deeplabv3_resnet101` or `deeplabv3_mobilenet_v3_large`.

    Raises:
        ValueError: if it is none of these.
    """
    weights = {_renamed(key): tensor for key, tensor in state_dict.items()}
    if "encoder.body.0.0.weight" in weights:
        encoder, stem = "mobilenet_v3_large", "encoder.body.0.0.weight"
    else:
        deep = "encoder.body.layer3.22.conv1.weight" in weights
        encoder, stem = "resnet101" if deep else "resnet50", "encoder.body.conv1.weight"
    try:
        arguments: dict[str, Any] = {
            "num_classes": len(weights["head.1.weight"]),
            "encoder": encoder,
            "in_channels": weights[stem].shape[1],
            "aux": "aux_head.0.weight" in weights,
        }
        model = deeplabv3_torchvision(**arguments)
        own = {key: x for key, x in model.state_dict().items() if key.startswith("encoder.normalize.")}
        model.load_state_dict(weights | own)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of a DeepLabV3 from torchvision: {error}") from error
    model.built_by = BuiltBy("deeplabv3_torchvision", arguments)
    return model.eval()


# Names of torchvision on the left; of those that fit, the first is taken.
_PREFIXES = {
    "backbone.": "encoder.body.",
    "classifier.0.convs.4.1.": "context.image.1.0.",
    "classifier.0.convs.4.2.": "context.image.1.1.",
    "classifier.0.convs.": "context.branches.",
    "classifier.0.project.": "context.project.0.",
    "classifier.1.": "head.0.0.",
    "classifier.2.": "head.0.1.",
    "classifier.4.": "head.1.",
    "aux_classifier.": "aux_head.",
}


def _renamed(key: str) -> str:
    """Our name of a weight of torchvision's; `key` itself where there is none."""
    for theirs, ours in _PREFIXES.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key
