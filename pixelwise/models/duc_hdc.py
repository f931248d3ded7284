"""DUC-HDC: the network predicts all pixels of a cell at once, and its dilations leave no holes.

Dense upsampling convolution (Sec. 3.1, Fig. 1): where others enlarge scores of stride 8 by interpolation,
r * r channels per class hold the scores of the cell's own r x r pixels; a pixel shuffle puts them into place.
Hybrid dilated convolution (Sec. 3.2, Fig. 2): the blocks of c4 are dilated by 1, 2, 5, 9 in turn, those of c5
by 5, 9, 17, so that no pixel within the field of view is left out, as a constant rate does ("gridding").

The numbers are those of the released network for Cityscapes: its ResNet-101 starts with three 3x3
convolutions, the context is ASPP as a sum of classifiers, and a cell of scores is 2 x 2 pixels wide
(`cell_width=1` is the paper's variant with one score per pixel). Scores of class k for the pixels of a cell
are neighbouring channels, as `pixel_shuffle` expects.

Departures: the ResNet is timm's, which strides in the 3x3 convolution of a block, the authors' in the first
1x1, and pads the first pooling.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, dilate, make_encoder
from ..layers import fit, size_of
from ..types import DenseLogits, DenseModel, Paper
from .deeplabv2 import RATES, ASPPSum, atrous_classifier

PAPER = Paper(
    "Understanding Convolution for Semantic Segmentation",
    "Wang, Chen, Yuan, Liu, Huang, Hou, Cottrell",
    "WACV 2018",
    2017,
    "https://arxiv.org/abs/1702.08502",
)

HYBRID_C4 = (2, 2, 5, 9, *(1, 2, 5, 9) * 4, 1, 2, 5)  # of the 23 blocks of a ResNet-101
HYBRID_C5 = (5, 9, 17)


class DUC(nn.Module):
    """Dense upsampling convolution (Sec. 3.1).

    Args:
        c_in: channels of the input.
        num_classes: k.
        factor: r; the output has r times as many rows and columns.
        rates: of the atrous convolutions whose scores are added.
    """

    def __init__(self, c_in: int, num_classes: int, factor: int, rates: Sequence[int] = RATES) -> None:
        super().__init__()
        self.factor = factor
        self.scores = ASPPSum([atrous_classifier(c_in, num_classes * factor**2, rate) for rate in rates])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k _ _"]:
        """Scores of r x r places in every cell."""
        return F.pixel_shuffle(self.scores(x), self.factor)  # b k r*h r*w


class DUCHDC(DenseModel):
    """Dilated encoder and dense upsampling convolution.

    Args:
        encoder: gives c5.
        num_classes: number of channels k of the logits.
        cell_width: pixels between neighbouring scores along each axis.

    Raises:
        ValueError: if the encoder's stride is no multiple of the cell width.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, cell_width: int = 2) -> None:
        super().__init__()
        if encoder.strides.c5 % cell_width:
            raise ValueError(f"cell_width must divide the stride {encoder.strides.c5}, got {cell_width}")
        self.num_classes, self.in_channels, self.cell_width = num_classes, encoder.in_channels, cell_width
        self.encoder = encoder
        self.head = DUC(encoder.channels.c5, num_classes, encoder.strides.c5 // cell_width)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        scores = self.head(self.encoder(image).c5)
        # The last cells may reach beyond the image.
        height, width = (-(-length // self.cell_width) for length in size)
        return DenseLogits(fit(scores, (height, width)), size)  # b k H/2 W/2


def duc_hdc(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
    cell_width: int = 2,
) -> DUCHDC:
    """Dense upsampling convolution on any encoder, dilated as it is used to."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c5",),
    )
    return DUCHDC(made, num_classes, cell_width=cell_width)


def duc_hdc_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    cell_width: int = 2,
) -> DUCHDC:
    """The authors' DUC-HDC on ResNet-101."""
    model = duc_hdc(
        num_classes,
        encoder="resnet101s",
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        cell_width=cell_width,
    )
    dilate(model.encoder, "c4", *HYBRID_C4)
    dilate(model.encoder, "c5", *HYBRID_C5)
    return model
