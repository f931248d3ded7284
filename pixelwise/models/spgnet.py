"""SPGNet: what a first encoder-decoder predicts tells a second one where to look.

Two encoder-decoders stand one behind the other (Fig. 2a). Each encoder ends in its map plus the mean of the
image; each decoder doubles its map, adds the encoder's map of that size by a 1x1 convolution, and refines the
sum by a residual bottleneck (Fig. 2b). Semantic prediction guidance stands between them (Fig. 3): the
features of the first decoder are classified, which is supervised, and the scores weigh the features that go
on. At every size the second encoder also gets the maps of the first encoder and decoder (Fig. 2c, from MSPN).

The authors' code is not public. Settled here, where the paper leaves room: decoders have 256 channels; the
weights are a sigmoid of a 1x1 convolution of the scores, and the features themselves are kept, x + x w; the
second encoder takes up at a quarter of the image's size, behind the stem; the first prediction is an
auxiliary one.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders import Encoder, StemPolicy, fetch, make_encoder
from ..layers import BatchNorm2d, ConvNormAct, resize_like, size_of
from ..types import STAGES, DenseLogits, DenseModel, Features, Paper

PAPER = Paper(
    "SPGNet: Semantic Prediction Guidance for Scene Parsing",
    "Cheng, Chen, Wei, Zhu, Huang, Xiong, Huang, Hwu, Shi",
    "ICCV",
    2019,
    "https://arxiv.org/abs/1908.09798",
)

LEVELS = STAGES[1:]  # c2 to c5
RESNET50 = (3, 4, 6, 3)  # bottlenecks of each stage


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, and the input added, as in ResNet; names are torchvision's.

    Args:
        c_in: channels of the input.
        width: channels of the 3x3 convolution; the output has four times as many.
        stride: of the 3x3 convolution.
    """

    def __init__(self, c_in: int, width: int, stride: int = 1) -> None:
        super().__init__()
        c_out = 4 * width
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, c_out, 1, bias=False)
        self.bn3 = BatchNorm2d(c_out)
        changes = stride != 1 or c_in != c_out
        self.downsample = (
            nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), BatchNorm2d(c_out))
            if changes
            else nn.Identity()
        )

    def forward(self, x: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b _ _ _"]:
        """The sum, then ReLU."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class Decoder(nn.Module):
    """The mean of the image added, then one upsample module per finer map (Fig. 2a, b).

    Args:
        channels: of the encoder's maps, finest first.
        width: channels of every map of the decoder.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.top = ConvNormAct(channels[-1], width, 1)
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvNormAct(channels[-1], width, 1))
        self.skips = nn.ModuleList(ConvNormAct(c, width, 1) for c in channels[:-1])
        self.refine = nn.ModuleList(Bottleneck(width, width // 4) for _ in channels[:-1])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """A map for each of the encoder's, finest first."""
        x = self.top(maps[-1]) + self.mean(maps[-1])
        decoded = [x]
        for skip, refine, map in zip(
            reversed(self.skips), reversed(self.refine), reversed(maps[:-1]), strict=True
        ):
            x = refine(resize_like(x, map) + skip(map))
            decoded.append(x)
        return decoded[::-1]


class PredictionGuidance(nn.Module):
    """Classify features, and weigh them by what the scores say (Fig. 3).

    Args:
        width: channels of the features.
        num_classes: number of channels k of the scores.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.classify = nn.Conv2d(width, num_classes, 1)
        self.weigh = nn.Sequential(nn.Conv2d(num_classes, width, 1), nn.Sigmoid())

    def forward(
        self, x: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b k h w"]]:
        """The weighted features, and the scores."""
        scores = self.classify(x)
        return x + x * self.weigh(scores), scores


class SecondEncoder(nn.Module):
    """The stages of a ResNet without its stem; each adds what the first encoder-decoder saw (Fig. 2c).

    Args:
        channels: of the maps of the first encoder, finest first.
        c_decoder: channels of the maps of the first decoder.
        width: channels of the 3x3 convolutions of the first stage, and of the input.
        layers: bottlenecks of each stage.
    """

    def __init__(
        self, channels: Sequence[int], c_decoder: int, width: int, layers: Sequence[int] = RESNET50
    ) -> None:
        super().__init__()
        self.entry = ConvNormAct(c_decoder, width, 1)
        self.stages, self.of_encoder, self.of_decoder = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.channels = []
        c = width
        for i, (count, seen) in enumerate(zip(layers, channels, strict=True)):
            blocks = [Bottleneck(c, width << i, 2 if i else 1)]
            c = 4 * (width << i)
            blocks += [Bottleneck(c, width << i) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*blocks))
            self.of_encoder.append(ConvNormAct(seen, c, 1))
            self.of_decoder.append(ConvNormAct(c_decoder, c, 1))
            self.channels.append(c)

    def forward(
        self, x: Float[Tensor, "b _ h w"], encoded: Sequence[Tensor], decoded: Sequence[Tensor]
    ) -> list[Tensor]:
        """The maps of all stages, finest first."""
        x, maps = self.entry(x), []
        for stage, of_encoder, of_decoder, first, second in zip(
            self.stages, self.of_encoder, self.of_decoder, encoded, decoded, strict=True
        ):
            x = stage(x)
            x = x + resize_like(of_encoder(first) + of_decoder(second), x)
            maps.append(x)
        return maps


class SPGNet(DenseModel):
    """Two encoder-decoders with semantic prediction guidance between them.

    Args:
        encoder: the first one; gives c2 to c5.
        num_classes: number of channels k of the logits.
        width: of the first stage of the second encoder; decoders have four times as many channels.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, width: int = 64) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        channels, c = encoder.channels[1:], 4 * width
        self.encoder = encoder
        self.decoder = Decoder(channels, c)
        self.guidance = PredictionGuidance(c, num_classes)
        self.second_encoder = SecondEncoder(channels, c, width)
        self.second_decoder = Decoder(self.second_encoder.channels, c)
        self.head = nn.Conv2d(c, num_classes, 1)

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        features: Features = self.encoder(image)
        encoded = [features[level] for level in LEVELS]
        decoded = self.decoder(encoded)
        guided, scores = self.guidance(decoded[0])
        coarse = self.head(self.second_decoder(self.second_encoder(guided, encoded, decoded))[0])
        return DenseLogits(coarse, size, (scores,) if self.training else ())  # b k H/4 W/4


# --- builders -------------------------------------------------------------------------------------


def spgnet(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 64,
) -> SPGNet:
    """SPGNet whose first encoder is any; the second is a ResNet-50, `width` wide in its first stage."""
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=LEVELS)
    return SPGNet(made, num_classes, width=width)


def spgnet_resnet50(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> SPGNet:
    """The paper's SPGNet on two ResNet-50, both pretrained where `pretrained`: 57 million parameters."""
    model = spgnet(num_classes, in_channels=in_channels, pretrained=pretrained, stem=stem)
    if pretrained:
        load_stages(model.second_encoder, fetch("resnet50"))
    return model


def load_stages(encoder: SecondEncoder, weights: dict[str, Tensor]) -> None:
    """Take the stages of a ResNet-50 over into the second encoder; the rest stays as it is."""
    for i, stage in enumerate(encoder.stages, 1):
        prefix = f"layer{i}."
        stage.load_state_dict(
            {key.removeprefix(prefix): x for key, x in weights.items() if key.startswith(prefix)}
        )
