"""EfficientFCN: upsample by codewords that see the whole image, guided by fine features.

An undilated encoder is cheap, but its last map is too coarse. The holistically-guided decoder makes, of all
three last maps at stride 32, n codewords: weighted means over the whole image (holistic codeword generation,
paper Sec. 3.2, Fig. 3). At stride 8 the same maps tell for each place how much of each codeword it is made of
(codeword assembly), so the fine map is a linear combination of codewords and loses nothing of their meaning.

`efficientfcn_resnet101` is the authors' network (github.com/jianbo909/efficientFCN) with 256 codewords, as
for PASCAL Context; they take 600 for ADE20K. Its ResNet starts with three 3x3 convolutions and averages
before the convolutions of its shortcuts (ResNet-D). `efficientfcn` takes any encoder as it is.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import BatchNorm2d, ConvNormAct, resize_like, size_of
from ..types import DenseLogits, DenseModel, Paper

PAPER = Paper(
    "EfficientFCN: Holistically-guided Decoding for Semantic Segmentation",
    "Liu, He, Zhang, Ren, Li",
    "ECCV",
    2020,
    "https://arxiv.org/abs/2008.10487",
)


class HolisticallyGuidedDecoder(nn.Module):
    """Codewords of a coarse map, assembled at every place of a fine one (Sec. 3.2 and 3.3, Fig. 3).

    Args:
        c_in: channels of each of the three maps together.
        channels: of the codewords and of the output.
        num_codewords: n.
    """

    def __init__(self, c_in: int, channels: int, num_codewords: int) -> None:
        super().__init__()
        n = num_codewords
        self.base = ConvNormAct(c_in, channels, 1)
        self.weights = nn.Sequential(ConvNormAct(c_in, n, 1), nn.Conv2d(n, n, 1, bias=False), BatchNorm2d(n))
        self.guide = ConvNormAct(c_in, channels, 1)
        self.coefficients = nn.Sequential(ConvNormAct(channels, n, 1), ConvNormAct(n, n, 1))
        self.fuse = ConvNormAct(2 * channels, channels, 1)

    def forward(
        self, coarse: Float[Tensor, "b c _ _"], fine: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b _ h w"]:
        """Generate codewords of the coarse map and assemble them at the places of the fine one."""
        base = self.base(coarse)
        weights = self.weights(coarse).flatten(2).softmax(2)  # b n yx
        codewords = base.flatten(2) @ weights.transpose(1, 2)  # b c n
        guide = self.guide(fine)
        coefficients = self.coefficients(guide + base.mean((2, 3), keepdim=True))  # b n h w
        assembled = (codewords @ coefficients.flatten(2)).unflatten(2, fine.shape[2:])
        fused: Tensor = self.fuse(torch.cat([assembled * codewords.shape[2] ** -0.5, guide], dim=1))
        return fused


class EfficientFCN(DenseModel):
    """Undilated encoder, holistically-guided decoder, classifier.

    Args:
        encoder: gives c3, c4 and c5.
        num_classes: number of channels k of the logits.
        num_codewords: of the decoder.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, num_codewords: int = 256) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        c = encoder.channels.c5 // 4
        self.reduce5 = ConvNormAct(encoder.channels.c5, c, 1)
        self.reduce4 = ConvNormAct(encoder.channels.c4, c, 1)
        self.decoder = HolisticallyGuidedDecoder(2 * c + encoder.channels.c3, 2 * c, num_codewords)
        self.head = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(2 * c, num_classes, 1))

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features = self.encoder(image)
        maps = (features.c3, self.reduce4(features.c4), self.reduce5(features.c5))
        coarse, fine = (
            torch.cat([resize_like(x, maps[place], align_corners=True) for x in maps], dim=1)
            for place in (2, 0)
        )
        return DenseLogits(self.head(self.decoder(coarse, fine)), size)  # b k H/8 W/8


def efficientfcn(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    num_codewords: int = 256,
) -> EfficientFCN:
    """EfficientFCN on any encoder."""
    made = make_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=("c3", "c4", "c5")
    )
    return EfficientFCN(made, num_classes, num_codewords=num_codewords)


def efficientfcn_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    num_codewords: int = 256,
) -> EfficientFCN:
    """The authors' EfficientFCN on ResNet-101."""
    return efficientfcn(
        num_classes,
        encoder="resnet101d",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        num_codewords=num_codewords,
    )
