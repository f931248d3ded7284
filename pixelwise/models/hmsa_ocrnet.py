"""Hierarchical multi-scale attention: for each pixel, the network learns which scale of the image to trust.

Large things are seen better in a small image, fine ones in a large one. The same network, OCRNet on HRNet,
looks at several sizes of an image; an attention head tells for each pixel how far to trust the scores of its
scale rather than those of the next larger one (Sec. 3.1, Fig. 3). As it compares adjacent scales only,
training needs two of them (0.5 and 1), and prediction takes any list (Sec. 3.1, "hierarchical"; the paper's
best results use 0.5, 1 and 2):

    s < 1:   p = up(a_s p_s) + (1 - up(a_s)) p
    s >= 1:  p = a_s p_s + (1 - a_s) down(p)         from the largest scale s to the smallest

Training adds to the loss of the merged scores a cross-entropy of weight 0.05 on those of each scale, as the
authors' code (github.com/NVIDIA/semantic-segmentation); its main loss is RMI (`loss="cross_entropy+rmi"`).

Departures: the body aligns corners where it upsamples, as HRNet's authors do. Classes' weights apply to the
merged scores only. A scaled image has at least 33 rows and columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder, HRNet, StemPolicy, make_encoder
from ..layers import ConvNormAct, at_least, resize, resize_like, size_of
from ..losses import cross_entropy, loss_parts
from ..types import Batch, DenseLogits, DenseModel, Paper, value
from .hrnet import concatenate
from .ocrnet import WIDTH, ObjectContext, RegionHead

PAPER = Paper(
    "Hierarchical Multi-Scale Attention for Semantic Segmentation",
    "Tao, Sapra, Catanzaro",
    "arXiv",
    2020,
    "https://arxiv.org/abs/2005.10821",
)

TRAINING_SCALES = (0.5, 1.0)
SCALE_WEIGHT = 0.05
SMALLEST = 33  # pixels of a scaled image along each axis: two cells at stride 32


@value
class MultiScaleLogits(DenseLogits):
    """Scores of every pixel, and those that each scale alone would give.

    Attributes:
        by_scale: scores at the size of each scaled image; only while training.
    """

    by_scale: tuple[Float[Tensor, "b k _ _"], ...] = ()


@loss_parts.register
def scale_losses(output: MultiScaleLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    """What each scale alone gets: "scales", the sum of their cross-entropies times 0.05."""
    if not output.by_scale:
        return {}
    exclusive = batch.labels.ndim == 3
    size = (output.size[0], output.size[1])
    losses = [cross_entropy(resize(x, size), batch.labels, exclusive=exclusive) for x in output.by_scale]
    return {"scales": SCALE_WEIGHT * torch.stack(losses).sum()}


@dataclass(frozen=True)
class View:
    """What the network says of one scale of the image, at the size of the scaled image."""

    scores: Float[Tensor, "b k h w"]
    regions: Float[Tensor, "b k h w"]
    attention: Float[Tensor, "b 1 h w"]


def merge(
    maps: Sequence[Float[Tensor, "b k _ _"]],
    attentions: Sequence[Float[Tensor, "b 1 _ _"]],
    scales: Sequence[float],
) -> Float[Tensor, "b k _ _"]:
    """Scores of all scales, merged pixel by pixel (Eq. 1).

    Args:
        maps: scores of each scale.
        attentions: trust in each scale, in [0, 1]; that of the largest does not count.
        scales: from the largest to the smallest.
    """
    merged = maps[0]
    for x, attention, scale in zip(maps[1:], attentions[1:], scales[1:], strict=True):
        if scale >= 1:
            merged = attention * x + (1 - attention) * resize_like(merged, x)
        else:
            merged = resize_like(attention * x, merged) + (1 - resize_like(attention, merged)) * merged
    return merged


class HMSAOCRNet(DenseModel):
    """OCRNet with an attention head, applied to several scales of the image.

    Args:
        encoder: all of its maps are concatenated.
        num_classes: number of channels k of the logits.
        width: channels of the object context.
        scales: of the image in evaluation, see `set_scales`.
    """

    output = MultiScaleLogits

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        width: int = WIDTH,
        scales: Sequence[float] = TRAINING_SCALES,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.set_scales(scales)
        self.encoder = encoder
        c = sum(encoder.channels)
        self.regions = RegionHead(c, c, num_classes, kernel=1)
        self.context = ObjectContext(c, width)
        self.head = nn.Conv2d(width, num_classes, 1)
        self.attention = nn.Sequential(
            ConvNormAct(width, width // 2),
            ConvNormAct(width // 2, width // 2),
            nn.Conv2d(width // 2, 1, 1, bias=False),
            nn.Sigmoid(),
        )

    def set_scales(self, scales: Sequence[float]) -> None:
        """Choose the scales of the image in evaluation; training keeps 0.5 and 1.

        Args:
            scales: in any order, 1 among them; 2 is twice as large along each axis.

        Raises:
            ValueError: without 1, or on a scale that is not above 0 or is given twice.
        """
        if 1 not in scales or min(scales) <= 0 or len(set(scales)) < len(scales):
            raise ValueError(f"scales must be different, above 0, and 1 among them, got {list(scales)}")
        self.scales = tuple(sorted((float(scale) for scale in scales), reverse=True))

    def look(self, image: Float[Tensor, "b c H W"], scale: float) -> View:
        """What the network says of the image at one scale."""
        exact = Fraction(scale).limit_denominator(64)
        height, width = image.shape[-2:]
        if scale != 1:
            height, width = (
                at_least((n * exact.numerator) // exact.denominator, SMALLEST) for n in (height, width)
            )
            image = resize(image, (height, width))
        x = concatenate(self.encoder(image))
        regions = self.regions(x)
        x = self.context(x, regions)
        maps = (self.head(x), regions, self.attention(x))
        return View(*(resize(map, (height, width)) for map in maps))

    def forward(self, image: Float[Tensor, "b c H W"]) -> MultiScaleLogits:
        """Score every pixel; see `DenseModel`."""
        size = size_of(image, self.minimum_size)
        scales = TRAINING_SCALES[::-1] if self.training else self.scales
        views = [self.look(image, scale) for scale in scales]
        attentions = [view.attention for view in views]
        coarse = merge([view.scores for view in views], attentions, scales)
        if not self.training:
            return MultiScaleLogits(coarse, size)
        regions = merge([view.regions for view in views], attentions, scales)
        return MultiScaleLogits(coarse, size, (regions,), by_scale=tuple(view.scores for view in views))


# --- builders -------------------------------------------------------------------------------------


def hmsa_ocrnet(
    num_classes: int,
    *,
    encoder: str | Encoder = "hrnet48",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = WIDTH,
    scales: tuple[float, ...] = TRAINING_SCALES,
) -> HMSAOCRNet:
    """Hierarchical multi-scale attention over OCRNet on any encoder; `scales` are those of evaluation."""
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        stages=("c2", "c3", "c4", "c5"),
    )
    return HMSAOCRNet(made, num_classes, width=width, scales=scales)


def hmsa_ocrnet_hrnet_w48(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    scales: tuple[float, ...] = TRAINING_SCALES,
) -> HMSAOCRNet:
    """The paper's network: 72.1 million parameters; its best results take the scales 0.5, 1 and 2."""
    encoder = HRNet(48, in_channels=in_channels, upsampling="bilinear", pretrained=pretrained, stem=stem)
    return HMSAOCRNet(encoder, num_classes, scales=scales)
