"""GCN: large kernels, so that a classifier of pixels sees as much as a classifier of images.

A global convolutional network block (Fig. 2B) covers k x k positions by two chains of one-dimensional
convolutions, k x 1 then 1 x k and the other way round, summed, without anything between them (Sec. 3.1). One
on each of c2 to c5 gives scores, which boundary refinement blocks (Fig. 2C, Sec. 3.2) correct, and which are
doubled by transposed convolutions and added from coarse to fine, up to the size of the image (Fig. 2A). k is
15, the paper's best (Table 1).

No code of the authors is known. Settled here: the transposed convolutions are 4x4, learned, and begin as
bilinear upsampling; refinement has no batch norm; there are nine refinement blocks, one per level, one per
sum and one after each of the last two doublings.

Departures: maps are cut to the size of their partner, so that any image size works; the encoder is the plain
ResNet, not the paper's "ResNet-GCN", whose bottlenecks have large kernels too.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import fit, size_of
from ..ops import bilinear_transposed
from ..types import DenseLogits, DenseModel, Paper

PAPER = Paper(
    "Large Kernel Matters: Improve Semantic Segmentation by Global Convolutional Network",
    "Peng, Zhang, Yu, Luo, Sun",
    "CVPR",
    2017,
    "https://arxiv.org/abs/1703.02719",
)

STAGES = ("c2", "c3", "c4", "c5")


class GlobalConvolution(nn.Module):
    """Global convolutional network block (Fig. 2B).

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        kernel: side k of the square that each output sees; odd.

    Raises:
        ValueError: if the kernel is even.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {kernel}")
        k, p = kernel, kernel // 2
        self.left = nn.Sequential(
            nn.Conv2d(c_in, c_out, (k, 1), padding=(p, 0)), nn.Conv2d(c_out, c_out, (1, k), padding=(0, p))
        )
        self.right = nn.Sequential(
            nn.Conv2d(c_in, c_out, (1, k), padding=(0, p)), nn.Conv2d(c_out, c_out, (k, 1), padding=(p, 0))
        )

    def forward(self, x: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b _ h w"]:
        """The sum of both chains."""
        convolved: Tensor = self.left(x) + self.right(x)
        return convolved


class BoundaryRefinement(nn.Module):
    """Boundary refinement block (Fig. 2C): a residual of two 3x3 convolutions.

    Args:
        c: channels of input and output.
    """

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, c, 3, padding=1)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Correct the scores."""
        refined: Tensor = x + self.conv2(F.relu(self.conv1(x)))
        return refined


class Doubling(nn.Module):
    """A learned 4x4 transposed convolution of stride 2, cut to a size.

    Args:
        c: channels of input and output.
    """

    def __init__(self, c: int) -> None:
        super().__init__()
        self.up = bilinear_transposed(c, 4, stride=2)

    def forward(self, x: Float[Tensor, "b c _ _"], size: tuple[int, int]) -> Float[Tensor, "b c _ _"]:
        """Bring `x` to `size` (height, width), twice its own or one less."""
        return fit(self.up(x), size, offset=1)


class GCN(DenseModel):
    """Encoder, a large kernel on each of four levels, refinement and doubling up to the image (Fig. 2A).

    Args:
        encoder: gives c2 to c5.
        num_classes: number of channels k of the logits.
        kernel: side of the large kernels.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, kernel: int = 15) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        k, channels = num_classes, encoder.channels[:0:-1]  # c5 to c2
        self.levels = nn.ModuleList(GlobalConvolution(c, k, kernel) for c in channels)
        self.refine_levels = nn.ModuleList(BoundaryRefinement(k) for _ in channels)
        self.doublings = nn.ModuleList(Doubling(k) for _ in range(5))
        self.refine = nn.ModuleList(BoundaryRefinement(k) for _ in range(5))

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = height, width = size_of(image, self.minimum_size)
        features = self.encoder(image)
        maps = (features.c5, features.c4, features.c3, features.c2)
        levels = [
            refine(convolve(map))
            for convolve, refine, map in zip(self.levels, self.refine_levels, maps, strict=True)
        ]
        half = ((height + 1) // 2, (width + 1) // 2)
        x = levels[0]
        for doubling, refine, level in zip(self.doublings, self.refine, levels[1:], strict=False):
            x = refine(doubling(x, (level.shape[-2], level.shape[-1])) + level)
        x = self.refine[3](self.doublings[3](x, half))
        return DenseLogits(self.refine[4](self.doublings[4](x, size)), size)


def gcn(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet152",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    kernel: int = 15,
) -> GCN:
    """GCN on any encoder."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=STAGES)
    return GCN(made, num_classes, kernel=kernel)


def gcn_resnet101(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> GCN:
    """GCN on ResNet-101."""
    return gcn(num_classes, encoder="resnet101", in_channels=in_channels, pretrained=pretrained, stem=stem)


def gcn_resnet152(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, stem: StemPolicy = "repeat"
) -> GCN:
    """The paper's GCN on ResNet-152."""
    return gcn(num_classes, encoder="resnet152", in_channels=in_channels, pretrained=pretrained, stem=stem)
