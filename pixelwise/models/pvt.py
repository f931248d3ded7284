"""PVT with semantic FPN: a transformer in the place of a ResNet, and a light decoder.

The encoder (`encoders/pvt.py`) gives maps of strides 4 to 32, so that any decoder made for convolutional
pyramids fits. The authors take a feature pyramid and the semantic branch of Panoptic FPN (Sec. 4.3), with
batch norms in place of group norms and dropout before the classifier (github.com/whai362/PVT).
`from_whai362_pvt` reads the weights that they publish there.

Departures: levels are resized to the size of their partner instead of being upsampled 2x, so any image size
works, with equal results where sizes are multiples of 32.
"""

import re
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import PVT_DEPTHS, Encoder, StemPolicy, fit_pvt_weights, make_encoder
from ..layers import ConvNormAct, resize, size_of
from ..types import BuiltBy, DenseLogits, DenseModel, Paper
from .feature_pyramid import FeaturePyramid

PAPER = Paper(
    "Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions",
    "Wang, Xie, Li, Fan, Song, Liang, Lu, Luo, Shao",
    "ICCV",
    2021,
    "https://arxiv.org/abs/2102.12122",
)

STAGES = ("c2", "c3", "c4", "c5")
WIDTH = 256  # of the levels; the branches have half of it


class SemanticHead(nn.Module):
    """Convolve and double each level until it has stride 4, sum, drop channels, classify.

    Args:
        c_in: channels of every level.
        num_classes: number of channels k of the logits.
        c_inner: channels of the sum.
    """

    def __init__(self, c_in: int, num_classes: int, *, c_inner: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.ModuleList(ConvNormAct(c_inner if i else c_in, c_inner) for i in range(max(doublings, 1)))
            for doublings in range(len(STAGES))
        )
        self.classify = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(c_inner, num_classes, 1))

    def forward(self, levels: list[Tensor]) -> Float[Tensor, "b k h w"]:
        """Scores at the size of the finest level."""
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
        total: Tensor | None = None
        for i, (x, convolutions) in enumerate(zip(levels, self.branches, strict=True)):
            assert isinstance(convolutions, nn.ModuleList)
            for convolution, size in zip(convolutions, sizes[i - 1 :: -1] if i else sizes[:1], strict=True):
                x = resize(convolution(x), size)
            total = x if total is None else total + x
        scores: Tensor = self.classify(total)
        return scores


class SemanticFPN(DenseModel):
    """Encoder, feature pyramid, semantic head.

    Args:
        encoder: gives c2 to c5.
        num_classes: number of channels k of the logits.
        width: channels of every level.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, width: int = WIDTH) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.decoder = FeaturePyramid(encoder.channels[1:], width)
        self.head = SemanticHead(width, num_classes, c_inner=width // 2)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        levels = self.decoder([features[stage] for stage in STAGES])
        return DenseLogits(self.head(levels), size)  # b k H/4 W/4


def pvt(
    num_classes: int,
    *,
    encoder: str | Encoder = "pvt_small",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = WIDTH,
) -> SemanticFPN:
    """PVT's semantic FPN on any encoder; `width` is that of the levels."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return SemanticFPN(made, num_classes, width=width)


def pvt_tiny(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> SemanticFPN:
    """PVT-Tiny with semantic FPN: 17.0 million parameters."""
    return pvt(num_classes, encoder="pvt_tiny", in_channels=in_channels, pretrained=pretrained, stem=stem)


def pvt_small(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> SemanticFPN:
    """PVT-Small with semantic FPN: 28.2 million parameters."""
    return pvt(num_classes, encoder="pvt_small", in_channels=in_channels, pretrained=pretrained, stem=stem)


def pvt_medium(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> SemanticFPN:
    """PVT-Medium with semantic FPN: 48.0 million parameters."""
    return pvt(num_classes, encoder="pvt_medium", in_channels=in_channels, pretrained=pretrained, stem=stem)


def pvt_large(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> SemanticFPN:
    """PVT-Large with semantic FPN: 65.1 million parameters."""
    return pvt(num_classes, encoder="pvt_large", in_channels=in_channels, pretrained=pretrained, stem=stem)


# --- weights --------------------------------------------------------------------------------------

_NAMES = (  # theirs, as regular expressions, and ours
    (r"^neck\.lateral_convs\.(\d)\.conv\.", r"decoder.lateral.\1."),
    (r"^neck\.fpn_convs\.(\d)\.conv\.", r"decoder.out.\1."),
    # An enlargement stands behind each convolution, but in the first level.
    (
        r"^decode_head\.scale_heads\.(\d)\.(\d)\.(conv|bn)\.",
        lambda found: f"head.branches.{found[1]}.{int(found[2]) // 2}.{'01'[found[3] == 'bn']}.",
    ),
    (r"^decode_head\.conv_seg\.", "head.classify.1."),
)


def from_whai362_pvt(state_dict: Mapping[str, Tensor]) -> SemanticFPN:
    """Weights of the authors' PVT with semantic FPN (github.com/whai362/PVT), in eval mode.

    Args:
        state_dict: what a file of theirs holds under `state_dict`.

    Raises:
        ValueError: if it is not a state dict of that network in one of the published sizes.
    """
    encoder = {
        key.removeprefix("backbone."): x for key, x in state_dict.items() if key.startswith("backbone.")
    }
    depths = tuple(
        len({key.split(".")[1] for key in encoder if key.startswith(f"block{stage}.")})
        for stage in range(1, 5)
    )
    size = next((name for name, published in PVT_DEPTHS.items() if published == depths), None)
    if size is None:
        raise ValueError(f"state_dict is that of no published PVT: its stages have {depths} blocks")
    weights = {}
    for key, tensor in state_dict.items():
        if not key.startswith("backbone."):
            for theirs, ours in _NAMES:
                key = re.sub(theirs, ours, key)
            weights[key] = tensor
    try:
        arguments: dict[str, Any] = {
            "num_classes": len(weights["head.classify.1.bias"]),
            "encoder": f"pvt_{size}",
            "in_channels": encoder["patch_embed1.proj.weight"].shape[1],
            "width": len(weights["decoder.lateral.0.weight"]),
        }
        model = pvt(**arguments)
        backbone = fit_pvt_weights(encoder, model.encoder.state_dict())
        model.load_state_dict(weights | {f"encoder.{key}": tensor for key, tensor in backbone.items()})
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"state_dict is not that of PVT with semantic FPN: {reason}") from error
    model.built_by = BuiltBy("pvt", arguments)
    return model.eval()
