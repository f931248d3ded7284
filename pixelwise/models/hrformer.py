"""HRFormer with OCR: HRNet of transformer blocks, and pixels that ask the objects of the image what they are.

The encoder (`encoders/hrformer.py`) keeps a branch at a quarter of the image's size beside coarser ones. All
branches are concatenated; the soft regions and the object context of OCRNet (`ocrnet.py`) name each pixel, as
in the authors' networks for segmentation (github.com/HRNet/HRFormer, `HRT_*_OCR_V2`).

Departures: convolutions of the attention between pixels and regions have no bias before their norm, see
`ocrnet.py`.
"""

from ..encoders import HRFormer
from ..types import Paper
from .ocrnet import WIDTH, ObjectContext, OCRNet, RegionHead

PAPER = Paper(
    "HRFormer: High-Resolution Transformer for Dense Prediction",
    "Yuan, Fu, Huang, Lin, Zhang, Chen, Wang",
    "NeurIPS",
    2021,
    "https://arxiv.org/abs/2110.09408",
)


def hrformer(
    num_classes: int,
    *,
    width: int = 32,
    heads: int = 1,
    modules: tuple[int, int, int] = (1, 4, 2),
    blocks: int = 2,
    window: int = 7,
    in_channels: int = 3,
    context: int = WIDTH,
) -> OCRNet:
    """HRFormer of any size with OCR of `context` channels; for the rest see the encoder `HRFormer`."""
    encoder = HRFormer(width, heads, in_channels=in_channels, window=window, modules=modules, blocks=blocks)
    c = sum(encoder.channels)
    regions = RegionHead(c, context, num_classes)
    return OCRNet(encoder, regions, ObjectContext(c, context), num_classes, concatenated=True)


def hrformer_small(num_classes: int, *, in_channels: int = 3, window: int = 7) -> OCRNet:
    """HRFormer-S with OCR: 13.5 million parameters."""
    return hrformer(num_classes, width=32, heads=1, in_channels=in_channels, window=window)


def hrformer_base(num_classes: int, *, in_channels: int = 3, window: int = 7) -> OCRNet:
    """HRFormer-B with OCR: 56.0 million parameters; windows of 13 and 15 were published too."""
    return hrformer(num_classes, width=78, heads=2, in_channels=in_channels, window=window)
