"""LinkNet: the decoder adds what entered each stage of the encoder, so that little has to be learnt twice.

The fourth link (Fig. 1) is what enters the encoder's first stage: in a ResNet the output of the max-pooling,
which is c1 pooled 3x3 with stride 2. It is taken so from any encoder that has a c1; without one (ConvNeXt,
Swin) that link is left out.

Departures: where an upsampled map is larger than its partner, which happens at odd sizes, it loses its last
row or column. The authors' Torch code is followed where the paper is silent: convolutions of the decoder have
biases, batch norm has an epsilon of 1e-3, and a ReLU follows each sum.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import BatchNorm2d, fit, size_of
from ..types import DenseLogits, DenseModel, Paper

PAPER = Paper(
    "LinkNet: Exploiting Encoder Representations for Efficient Semantic Segmentation",
    "Chaurasia, Culurciello",
    "VCIP",
    2017,
    "https://arxiv.org/abs/1707.03718",
)

EPSILON = 1e-3  # of the batch norms of the decoder


class NormAct(nn.Sequential):
    """Batch norm and ReLU."""

    def __init__(self, c: int) -> None:
        super().__init__(BatchNorm2d(c, eps=EPSILON), nn.ReLU(inplace=True))


class DecoderBlock(nn.Module):
    """1x1 convolution to a quarter, 3x3 transposed convolution, 1x1 convolution (Fig. 2).

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        stride: 2 to double the map, 1 to keep its size.
    """

    def __init__(self, c_in: int, c_out: int, *, stride: int) -> None:
        super().__init__()
        c = c_in // 4
        self.reduce = nn.Sequential(nn.Conv2d(c_in, c, 1), NormAct(c))
        self.up = nn.ConvTranspose2d(c, c, 3, stride, padding=1, output_padding=stride - 1)
        self.norm_act = NormAct(c)
        self.expand = nn.Sequential(nn.Conv2d(c, c_out, 1), NormAct(c_out))

    def forward(self, x: Float[Tensor, "b _ _ _"], size: tuple[int, int]) -> Float[Tensor, "b _ _ _"]:
        """The map at `size` (height, width)."""
        x = fit(self.up(self.reduce(x)), size)
        expanded: Tensor = self.expand(self.norm_act(x))
        return expanded


class LinkNet(DenseModel):
    """Any encoder, four decoder blocks with additive links, two transposed convolutions to full size.

    Args:
        encoder: gives c2 to c5, and c1 where it can.
        num_classes: number of channels k of the logits.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.encoder = encoder
        c1, c2, c3, c4, c5 = encoder.channels
        c1 = c1 or 64
        self.decoder = nn.ModuleList(
            [
                DecoderBlock(c5, c4, stride=2),
                DecoderBlock(c4, c3, stride=2),
                DecoderBlock(c3, c2, stride=2),
                DecoderBlock(c2, c1, stride=1),
            ]
        )
        self.up = nn.ConvTranspose2d(c1, 32, 3, stride=2, padding=1, output_padding=1)
        self.refine = nn.Sequential(NormAct(32), nn.Conv2d(32, 32, 3, padding=1), NormAct(32))
        self.head = nn.ConvTranspose2d(32, num_classes, 2, stride=2)
        for module in [*self.decoder.modules(), self.up, *self.refine, self.head]:
            # Variance 2 / (kernel area * output channels). PyTorch's names take the fans of a transposed
            # convolution, whose weight has its input channels first, the other way round.
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in")

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = height, width = size_of(image, self.minimum_size)
        features = self.encoder(image)
        # A link brings what entered the stage: the stage before it, and its pooled stem for the first.
        entry = F.max_pool2d(features.c1, 3, 2, 1) if self.encoder.channels.c1 else None
        x = features.c5
        for block, link in zip(self.decoder, (features.c4, features.c3, features.c2, entry), strict=True):
            target = x if link is None else link
            x = block(x, (target.shape[-2], target.shape[-1]))
            x = F.relu(x if link is None else x + link)
        x = self.refine(fit(self.up(x), ((height + 1) // 2, (width + 1) // 2)))  # b 32 H/2 W/2
        return DenseLogits(fit(self.head(x), size), size)


def linknet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet18",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> LinkNet:
    """LinkNet on any encoder; on ResNet-18 the paper's."""
    return LinkNet(
        make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem), num_classes
    )
