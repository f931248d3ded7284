"""FPN for semantic segmentation: the branch that Panoptic FPN adds to a feature pyramid network.

A feature pyramid (Lin et al. 2017, `feature_pyramid.py`) stands on the encoder (Sec. 3.1). Each level is
convolved and upsampled 2x until it has stride 4, and the levels are summed and classified (Sec. 3.2, Fig. 3).

Departures: maps are resized to the size of their partner instead of being upsampled 2x, so any image size
works, with equal results where sizes are multiples of 32.
"""

from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import resize, size_of
from ..types import DenseLogits, DenseModel, Features, Paper
from .feature_pyramid import FeaturePyramid

PAPER = Paper(
    "Panoptic Feature Pyramid Networks",
    "Kirillov, Girshick, He, Dollár",
    "CVPR",
    2019,
    "https://arxiv.org/abs/1901.02446",
)

STAGES = ("c2", "c3", "c4", "c5")


class ConvGroupNormAct(nn.Sequential):
    """3x3 convolution without bias, group norm of 32 groups, ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        convolution = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(convolution, nn.GroupNorm(32, c_out), nn.ReLU(inplace=True))


class Doublings(nn.Module):
    """One level on its way to the finest: a convolution before each upsampling, one if there is none.

    Args:
        c_in: channels of the level.
        c_out: channels of the output.
        num_doublings: how many sizes lie above it.
    """

    def __init__(self, c_in: int, c_out: int, num_doublings: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            ConvGroupNormAct(c_out if i else c_in, c_out) for i in range(max(num_doublings, 1))
        )

    def forward(self, x: Float[Tensor, "b _ _ _"], sizes: list[tuple[int, int]]) -> Float[Tensor, "b _ _ _"]:
        """Convolve, and resize to each of `sizes` (height, width) in turn."""
        for convolution, size in zip(self.convolutions, sizes or [(x.shape[-2], x.shape[-1])], strict=True):
            x = resize(convolution(x), size)
        return x


class SemanticBranch(nn.Module):
    """Bring every level to the finest, sum them, classify (Sec. 3.2, Fig. 3).

    Args:
        c_in: channels of every level.
        num_levels: how many there are.
        num_classes: number of channels k of the logits.
        c_inner: channels of the sum.
    """

    def __init__(self, c_in: int, num_levels: int, num_classes: int, *, c_inner: int = 128) -> None:
        super().__init__()
        self.levels = nn.ModuleList(Doublings(c_in, c_inner, i) for i in range(num_levels))
        self.head = nn.Conv2d(c_inner, num_classes, 1)
        nn.init.kaiming_normal_(self.head.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, levels: list[Tensor]) -> Float[Tensor, "b k h w"]:
        """Scores at the size of the finest level."""
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
        total = self.levels[0](levels[0], [])
        for i in range(1, len(levels)):
            total = total + self.levels[i](levels[i], sizes[i - 1 :: -1])
        scores: Tensor = self.head(total)
        return scores


class FPN(DenseModel):
    """Any encoder, feature pyramid of 256 channels, semantic branch of 128.

    Args:
        encoder: gives c2 to c5.
        num_classes: number of channels k of the logits.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        self.decoder = FeaturePyramid(encoder.channels[1:])
        self.head = SemanticBranch(256, len(STAGES), num_classes)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features: Features = self.encoder(image)
        levels = self.decoder([features[stage] for stage in STAGES])
        return DenseLogits(self.head(levels), size)  # b k H/4 W/4


def fpn(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> FPN:
    """Semantic FPN on any encoder."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return FPN(made, num_classes)
