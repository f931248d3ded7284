"""BiSeNet: a shallow path keeps details, a deep one sees far, and the two are fused at stride 8.

The spatial path is three strided convolutions (Sec. 3.1). The context path is an encoder whose last two maps
pass through attention refinement modules (ARM, Fig. 2b), below which lies a summary of the whole image (Sec.
3.2). The feature fusion module (FFM, Fig. 2c) joins them (Sec. 3.3). Two further heads on the context path
are trained with losses of weight 1 (Eq. 1, alpha; `aux_weight`).

The layout is that of the first author's later PyTorch code (github.com/ycszen/TorchSeg, model/bisenet),
whose parameters are counted in our tests; the paper's table counts others (49.0 M on ResNet-18).

Departures: maps are resized to the size of their partner, so that any image size works.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import BatchNorm2d, ConvNormAct, resize_like, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper

PAPER = Paper(
    "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation",
    "Yu, Wang, Peng, Gao, Yu, Sang",
    "ECCV",
    2018,
    "https://arxiv.org/abs/1808.00897",
)


class SpatialPath(nn.Sequential):
    """Three convolutions of stride 2 and one of 1x1: stride 8 (Sec. 3.1).

    Args:
        c_in: channels of the image.
        c_out: channels of the output; there are half as many inside.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        c = c_out // 2
        super().__init__(
            ConvNormAct(c_in, c, 7, stride=2),
            ConvNormAct(c, c, stride=2),
            ConvNormAct(c, c, stride=2),
            ConvNormAct(c, c_out, 1),
        )


class AttentionRefinement(nn.Module):
    """Attention refinement module (Fig. 2b): a convolution, and a factor per channel from its mean.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(c_in, c_out)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(c_out, c_out, 1, bias=False),
            BatchNorm2d(c_out),
            nn.Sigmoid(),
        )

    def forward(self, x: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b _ h w"]:
        """Refine the map."""
        x = self.conv(x)
        refined: Tensor = x * self.gate(x)
        return refined


class FeatureFusion(nn.Module):
    """Feature fusion module (Fig. 2c): join two maps, and add what a gate lets through.

    Args:
        c_in: channels of both maps together.
        c_out: channels of the output.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(c_in, c_out, 1)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(c_out, c_out, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(c_out, c_out, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(
        self, spatial: Float[Tensor, "b _ h w"], context: Float[Tensor, "b _ h w"]
    ) -> Float[Tensor, "b _ h w"]:
        """Fuse the two paths."""
        x = self.conv(torch.cat([spatial, context], dim=1))
        fused: Tensor = x + x * self.gate(x)
        return fused


class BiSeNetHead(nn.Sequential):
    """3x3 convolution, classifier."""

    def __init__(self, c_in: int, c_inner: int, num_classes: int) -> None:
        super().__init__(ConvNormAct(c_in, c_inner), nn.Conv2d(c_inner, num_classes, 1))


class BiSeNet(DenseModel):
    """Spatial path, context path, fusion (Fig. 2a).

    Args:
        encoder: gives c4 and c5.
        num_classes: number of channels k of the logits.
        width: channels of either path.
        c_head: channels inside the head.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, width: int = 128, c_head: int = 64) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.spatial_path = SpatialPath(encoder.in_channels, width)
        self.encoder = encoder
        c4, c5 = encoder.channels.c4, encoder.channels.c5
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvNormAct(c5, width, 1))
        self.arm16, self.arm32 = AttentionRefinement(c4, width), AttentionRefinement(c5, width)
        self.refine8, self.refine16 = ConvNormAct(width, width), ConvNormAct(width, width)
        self.fusion = FeatureFusion(2 * width, 2 * width)
        self.head = BiSeNetHead(2 * width, c_head, num_classes)
        self.aux_heads = nn.ModuleList(BiSeNetHead(width, 2 * width, num_classes) for _ in range(2))

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        spatial = self.spatial_path(self.encoder.normalize(image))  # b width H/8 W/8
        features = self.encoder(image)
        x = self.arm32(features.c5) + self.image(features.c5)
        at16 = self.refine16(resize_like(x, features.c4, align_corners=True))
        x = self.arm16(features.c4) + at16
        at8 = self.refine8(resize_like(x, spatial, align_corners=True))
        coarse = self.head(self.fusion(spatial, at8))
        if not self.training:
            return DenseLogits(coarse, size, align_corners=True)
        aux = tuple(head(x) for head, x in zip(self.aux_heads, (at8, at16), strict=True))
        return DenseLogits(coarse, size, aux=aux, align_corners=True)


def bisenet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet18",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 128,
    c_head: int = 64,
) -> BiSeNet:
    """BiSeNet with any encoder as its context path."""
    made = make_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=("c4", "c5")
    )
    return BiSeNet(made, num_classes, width=width, c_head=c_head)


def bisenet_resnet18(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> BiSeNet:
    """The authors' BiSeNet on ResNet-18."""
    return bisenet(num_classes, encoder="resnet18", in_channels=in_channels, pretrained=pretrained, stem=stem)


def bisenet_resnet101(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> BiSeNet:
    """The authors' BiSeNet on a ResNet-101 that starts with three 3x3 convolutions."""
    return bisenet(
        num_classes,
        encoder="resnet101s",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        c_head=256,
    )


_KEYS = {
    "context_path": "encoder.body",
    "spatial_path.conv_7x7": "spatial_path.0",
    "spatial_path.conv_3x3_1": "spatial_path.1",
    "spatial_path.conv_3x3_2": "spatial_path.2",
    "spatial_path.conv_1x1": "spatial_path.3",
    "global_context.1": "image.1",
    "arms.0.conv_3x3": "arm32.conv",
    "arms.0.channel_attention.1.conv": "arm32.gate.1",
    "arms.0.channel_attention.1.bn": "arm32.gate.2",
    "arms.1.conv_3x3": "arm16.conv",
    "arms.1.channel_attention.1.conv": "arm16.gate.1",
    "arms.1.channel_attention.1.bn": "arm16.gate.2",
    "refines.0": "refine16",
    "refines.1": "refine8",
    "heads.0.conv_3x3": "aux_heads.1.0",
    "heads.0.conv_1x1": "aux_heads.1.1",
    "heads.1.conv_3x3": "aux_heads.0.0",
    "heads.1.conv_1x1": "aux_heads.0.1",
    "heads.2.conv_3x3": "head.0",
    "heads.2.conv_1x1": "head.1",
    "ffm.conv_1x1": "fusion.conv",
    "ffm.channel_attention.1.conv": "fusion.gate.1",
    "ffm.channel_attention.2.conv": "fusion.gate.3",
}  # beginnings of theirs -> ours
_LAYERS = {"conv.": "0.", "bn.": "1."}  # of a convolution with batch norm


def from_torchseg_bisenet(state_dict: Mapping[str, Tensor]) -> BiSeNet:
    """Weights of the author's BiSeNet on ResNet-18 (github.com/ycszen/TorchSeg) in our model, in eval mode.

    Args:
        state_dict: as `torch.load(path, weights_only=True)["model"]` gives it, with or without `module.`
            before each key.

    Raises:
        ValueError: if it is not a state dict of a BiSeNet on ResNet-18.
    """
    weights = {}
    for key, tensor in state_dict.items():
        key = key.removeprefix("module.")
        part = next((part for part in _KEYS if key.startswith(f"{part}.")), "")
        rest = key.removeprefix(f"{part}.")
        layer = next((layer for layer in _LAYERS if rest.startswith(layer)), "")
        rest = _LAYERS.get(layer, "") + rest.removeprefix(layer)
        weights[f"{_KEYS.get(part, part)}.{rest}"] = tensor
    try:
        arguments: dict[str, Any] = {
            "num_classes": len(weights["head.1.weight"]),
            "in_channels": weights["encoder.body.conv1.weight"].shape[1],
        }
        model = bisenet_resnet18(**arguments)
        own = {key: x for key, x in model.state_dict().items() if key.startswith("encoder.normalize.")}
        model.load_state_dict(weights | own)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"state_dict is not that of a BiSeNet on ResNet-18 from TorchSeg: {error}"
        ) from error
    model.built_by = BuiltBy("bisenet_resnet18", arguments)
    return model.eval()
