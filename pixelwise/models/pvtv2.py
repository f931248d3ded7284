"""PVT v2 with semantic FPN: PVT with patches that overlap and convolutions within the feed-forward networks.

The encoder is timm's, with its weights. Overlapping patches and a 3x3 depth-wise convolution in each
feed-forward network make positions unnecessary (Sec. 3.2, 3.3). The decoder is that of PVT (`pvt.py`).

Departures: those of `pvt.py`.
"""

from ..encoders import Encoder, StemPolicy, TimmEncoder, make_encoder
from ..types import Paper
from .pvt import STAGES, WIDTH, SemanticFPN

PAPER = Paper(
    "PVT v2: Improved Baselines with Pyramid Vision Transformer",
    "Wang, Xie, Li, Fan, Song, Liang, Lu, Luo, Shao",
    "CVMJ",
    2022,
    "https://arxiv.org/abs/2106.13797",
)

DROP_PATH = 0.1  # probability to drop a residual branch of the last block


def pvtv2(
    num_classes: int,
    *,
    encoder: str | Encoder = "pvt_v2_b2",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = WIDTH,
) -> SemanticFPN:
    """PVT's semantic FPN on any encoder, without drop path; `width` is that of the levels."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return SemanticFPN(made, num_classes, width=width)


def _published(
    name: str, num_classes: int, in_channels: int, pretrained: bool, stem: StemPolicy
) -> SemanticFPN:
    encoder = TimmEncoder(
        name, in_channels=in_channels, pretrained=pretrained, stages=STAGES, stem=stem, drop_path=DROP_PATH
    )
    return SemanticFPN(encoder, num_classes)


def pvtv2_b0(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> SemanticFPN:
    """PVT v2 B0 with semantic FPN: 7.5 million parameters."""
    return _published("pvt_v2_b0", num_classes, in_channels, pretrained, stem)


def pvtv2_b1(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> SemanticFPN:
    """PVT v2 B1 with semantic FPN: 17.8 million parameters."""
    return _published("pvt_v2_b1", num_classes, in_channels, pretrained, stem)


def pvtv2_b2(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> SemanticFPN:
    """PVT v2 B2 with semantic FPN: 29.1 million parameters."""
    return _published("pvt_v2_b2", num_classes, in_channels, pretrained, stem)


def pvtv2_b3(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> SemanticFPN:
    """PVT v2 B3 with semantic FPN: 49.0 million parameters."""
    return _published("pvt_v2_b3", num_classes, in_channels, pretrained, stem)


def pvtv2_b4(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> SemanticFPN:
    """PVT v2 B4 with semantic FPN: 66.3 million parameters."""
    return _published("pvt_v2_b4", num_classes, in_channels, pretrained, stem)


def pvtv2_b5(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> SemanticFPN:
    """PVT v2 B5 with semantic FPN: 85.7 million parameters."""
    return _published("pvt_v2_b5", num_classes, in_channels, pretrained, stem)
