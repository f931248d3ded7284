"""BiSeNet: a shallow path keeps details, a deep one sees far, and the two are fused at stride 8.

The spatial path is three strided convolutions (Sec. 3.1). The context path is an encoder whose last two maps
pass through attention refinement modules (ARM, Fig. 2b), below which lies a summary of the whole image (Sec.
3.2). The feature fusion module (FFM, Fig. 2c) joins them (Sec. 3.3). Two further heads on the context path
are trained with losses of weight 1 (Eq. 1, alpha; `aux_weight`).

The layout is that of the first author's later PyTorch code (github.com/ycszen/TorchSeg, model/bisenet),
whose parameters are counted in our tests; the paper's table counts others (49.0 M on ResNet-18).
`bisenet_coincheung` is the network of a package whose trained weights can be had
(github.com/CoinCheung/BiSeNet): one layer in the gate of the fusion, other widths of the heads, maps of the
context path enlarged by repetition. `from_coincheung` reads them.

Departures: maps are resized to the size of their partner, so that any image size works.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

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

    align_corners = True

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
        at16 = self.refine16(self.enlarge(x, features.c4))
        x = self.arm16(features.c4) + at16
        at8 = self.refine8(self.enlarge(x, spatial))
        coarse = self.head(self.fusion(spatial, at8))
        if not self.training:
            return DenseLogits(coarse, size, align_corners=self.align_corners)
        aux = tuple(head(x) for head, x in zip(self.aux_heads, (at8, at16), strict=True))
        return DenseLogits(coarse, size, aux=aux, align_corners=self.align_corners)

    def enlarge(
        self, x: Float[Tensor, "b c _ _"], like: Float[Tensor, "b _ h w"]
    ) -> Float[Tensor, "b c h w"]:
        """`x` at the height and width of `like`."""
        return resize_like(x, like, align_corners=True)


class FeatureFusionOneLayer(FeatureFusion):
    """Feature fusion whose gate is one convolution with batch norm, as in CoinCheung's package.

    Args:
        c: channels of both maps together, and of the output.
    """

    def __init__(self, c: int) -> None:
        super().__init__(c, c)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c, 1, bias=False), BatchNorm2d(c), nn.Sigmoid()
        )


class CoinCheungBiSeNet(BiSeNet):
    """BiSeNet as CoinCheung's package has it.

    Args:
        encoder: gives c4 and c5.
        num_classes: number of channels k of the logits.
        width: channels of either path.
    """

    align_corners = False

    def __init__(self, encoder: Encoder, num_classes: int, *, width: int = 128) -> None:
        super().__init__(encoder, num_classes, width=width, c_head=2 * width)
        self.fusion = FeatureFusionOneLayer(2 * width)
        self.aux_heads = nn.ModuleList(BiSeNetHead(width, width // 2, num_classes) for _ in range(2))

    def enlarge(
        self, x: Float[Tensor, "b c _ _"], like: Float[Tensor, "b _ h w"]
    ) -> Float[Tensor, "b c h w"]:
        """`x` at the height and width of `like`; each value is repeated."""
        return F.interpolate(x, (like.shape[-2], like.shape[-1]), mode="nearest")


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


def bisenet_coincheung(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet18",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 128,
) -> CoinCheungBiSeNet:
    """BiSeNet as in CoinCheung's package, there on ResNet-18."""
    made = make_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=("c4", "c5")
    )
    return CoinCheungBiSeNet(made, num_classes, width=width)


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
    weights = _renamed(state_dict, _KEYS)
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


def _renamed(state_dict: Mapping[str, Tensor], parts: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors with the beginnings of our keys, and with our names for a convolution and its batch norm."""
    weights = {}
    for key, tensor in state_dict.items():
        key = key.removeprefix("module.")
        part = next((part for part in parts if key.startswith(f"{part}.")), "")
        rest = key.removeprefix(f"{part}.")
        layer = next((layer for layer in _LAYERS if rest.startswith(layer)), "")
        rest = _LAYERS.get(layer, "") + rest.removeprefix(layer)
        weights[f"{parts.get(part, part)}.{rest}"] = tensor
    return weights


_COINCHEUNG_KEYS = {
    "cp.resnet": "encoder.body",
    "cp.arm16.conv_atten": "arm16.gate.1",
    "cp.arm16.bn_atten": "arm16.gate.2",
    "cp.arm16.conv": "arm16.conv",
    "cp.arm32.conv_atten": "arm32.gate.1",
    "cp.arm32.bn_atten": "arm32.gate.2",
    "cp.arm32.conv": "arm32.conv",
    "cp.conv_head32": "refine16",
    "cp.conv_head16": "refine8",
    "cp.conv_avg": "image.1",
    "sp.conv1": "spatial_path.0",
    "sp.conv2": "spatial_path.1",
    "sp.conv3": "spatial_path.2",
    "sp.conv_out": "spatial_path.3",
    "ffm.convblk": "fusion.conv",
    "ffm.conv": "fusion.gate.1",
    "ffm.bn": "fusion.gate.2",
    "conv_out.conv_out": "head.1",
    "conv_out.conv": "head.0",
    "conv_out16.conv_out": "aux_heads.0.1",
    "conv_out16.conv": "aux_heads.0.0",
    "conv_out32.conv_out": "aux_heads.1.1",
    "conv_out32.conv": "aux_heads.1.0",
}  # beginnings of theirs -> ours
# Of their images of Cityscapes, red, green, blue in 0..1.
_COINCHEUNG_MEAN, _COINCHEUNG_STD = (0.3257, 0.3690, 0.3223), (0.2112, 0.2148, 0.2115)


def from_coincheung(
    state_dict: Mapping[str, Tensor],
    *,
    mean: Sequence[float] = _COINCHEUNG_MEAN,
    std: Sequence[float] = _COINCHEUNG_STD,
) -> CoinCheungBiSeNet:
    """Weights of BiSeNetV1 of the package github.com/CoinCheung/BiSeNet in our model, in eval mode.

    There each data set has colours of its own, which the weights do not tell.

    Args:
        state_dict: as `torch.load(path, weights_only=True)` gives it, with or without `module.` before each
            key.
        mean: red, green and blue in 0..1 that are subtracted; those of Cityscapes by default.
        std: what is divided by.

    Raises:
        ValueError: if it is not a state dict of that network.
    """
    weights = _renamed(state_dict, _COINCHEUNG_KEYS)
    try:
        arguments: dict[str, Any] = {"num_classes": len(weights["head.1.weight"])}
        model = bisenet_coincheung(**arguments)
        weights["encoder.normalize.mean"] = torch.tensor(mean).view(1, 3, 1, 1)
        weights["encoder.normalize.std"] = torch.tensor(std).view(1, 3, 1, 1)
        model.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"state_dict is not that of a BiSeNetV1 of CoinCheung: {error}") from error
    model.built_by = BuiltBy("bisenet_coincheung", arguments)
    return model.eval()
