"""DETR for boxes: encoder, transformer, and what each query says."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ...encoders import Encoder, StemPolicy, make_encoder
from ...layers import fit_images, size_of
from ...types import Batch, Features, Model, Paper, Value, value
from .transformer import DecoderLayer, EncoderLayer, perceptron, sine_positions, tokens

PAPER = Paper(
    "End-to-End Object Detection with Transformers",
    "Carion, Massa, Synnaeve, Usunier, Kirillov, Zagoruyko",
    "ECCV",
    2020,
    "https://arxiv.org/abs/2005.12872",
)


@value
class SetOfBoxes(Value):
    """What each of q queries says.

    Attributes:
        class_logits: scores of the k classes and, last, of "no object".
        boxes: centre x y, width and height as shares of the image, in [0, 1].
        size: height and width of the image, padding included.
        sizes: the same of each image without its padding; empty where no image is padded.
        aux: the same from earlier decoder layers, best last; only while training.
    """

    class_logits: Float[Tensor, "b q k1"]
    boxes: Float[Tensor, "b q 4"]
    size: tuple[int, int]
    sizes: tuple[tuple[int, int], ...] = ()
    aux: tuple["SetOfBoxes", ...] = ()

    @property
    def image_sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each image."""
        return self.sizes or (self.size,) * len(self.boxes)


class Seen(NamedTuple):
    """Images as DETR sees them.

    Attributes:
        images: resized, and padded to one size.
        valid: where they are; None where nothing is padded.
        sizes: height and width of each without its padding; empty where nothing is padded.
    """

    images: Float[Tensor, "b c h w"]
    valid: Bool[Tensor, "b h w"] | None = None
    sizes: tuple[tuple[int, int], ...] = ()


class Intermediate(NamedTuple):
    """What lies between images and predictions.

    Attributes:
        features: of the encoder.
        input: its last map, as the transformer takes it.
        seen: where the images are in that map; None where nothing is padded.
        memory: the pixels after the transformer's encoder.
        queries: after each layer of its decoder.
    """

    features: Features
    input: Float[Tensor, "b c h w"]
    seen: Bool[Tensor, "b h w"] | None
    memory: Float[Tensor, "b n c"]
    queries: tuple[Float[Tensor, "b q c"], ...]


class DETR(Model):
    """Encoder, transformer encoder and decoder, heads for class and box.

    Args:
        encoder: gives c5.
        num_classes: number of classes k of objects.
        width: channels of the transformer, a multiple of 4.
        num_queries: most objects of an image.
        layers: of the transformer's encoder, and of its decoder.
        min_size: the shorter side of images is resized to it, in pixels; None to take images as they are.
        max_size: of the longer side, which holds if both cannot be met.

    Raises:
        ValueError: if `width` is no multiple of 4.
    """

    tasks: ClassVar[tuple[str, ...]] = ("detection",)
    output: ClassVar[type] = SetOfBoxes

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        width: int = 256,
        num_queries: int = 100,
        layers: int = 6,
        *,
        min_size: int | None = 800,
        max_size: int = 1333,
    ) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"width must be a multiple of 4, got {width}")
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        self.min_size, self.max_size = min_size, max_size
        self.encoder = encoder
        self.input = nn.Conv2d(encoder.channels.c5, width, 1)
        self.encoder_layers = nn.ModuleList(EncoderLayer(width) for _ in range(layers))
        self.queries = nn.Parameter(torch.randn(num_queries, width))
        self.layers = nn.ModuleList(DecoderLayer(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, num_classes + 1)
        self.boxes = perceptron(width, 4)

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Images, and the size of each."""
        return batch.image, batch.sizes

    def forward(
        self, image: Float[Tensor, "b c H W"], sizes: Sequence[tuple[int, int]] | None = None
    ) -> SetOfBoxes:
        """Look for objects.

        Args:
            image: padded at the right and at the bottom where `sizes` says so.
            sizes: height and width of each image; all of `image` without it.

        Raises:
            ValueError: if the image is smaller than `minimum_size`.
        """
        between = self.run_transformer(self.prepare(image, sizes))
        return self.predict(between, (image.shape[-2], image.shape[-1]), sizes)

    def prepare(
        self, image: Float[Tensor, "b c H W"], sizes: Sequence[tuple[int, int]] | None = None
    ) -> Seen:
        """The images as the network sees them, padded with the mean colour."""
        size = size_of(image, self.minimum_size)
        if self.min_size is None and (sizes is None or all(tuple(own) == size for own in sizes)):
            return Seen(image)
        own = sizes or [size] * len(image)
        mean = self.encoder.normalize.mean
        fitted = fit_images(image, own, mean, min_size=self.min_size, max_size=self.max_size, multiple=1)
        height, width = fitted.images.shape[-2:]
        if all(seen == (height, width) for seen in fitted.seen_sizes):
            return Seen(fitted.images)
        valid = torch.zeros(len(image), height, width, dtype=torch.bool, device=image.device)
        for one, (rows, columns) in zip(valid, fitted.seen_sizes, strict=True):
            one[:rows, :columns] = True
        return Seen(fitted.images, valid, fitted.seen_sizes)

    def run_transformer(self, seen: Seen) -> Intermediate:
        """Encoder, transformer encoder, transformer decoder."""
        features = self.encoder(seen.images)
        x = self.input(features.c5)
        known, inside = None, None
        if seen.valid is not None:
            inside = F.interpolate(seen.valid[:, None].float(), x.shape[-2:])[:, 0] > 0
            known = inside.flatten(1)[:, None]
        places = sine_positions(x, inside)
        memory = tokens(x)
        for layer in self.encoder_layers:
            memory = layer(memory, places, known)
        queries, found = self.queries[None], []
        asked = torch.zeros_like(queries).expand(x.shape[0], -1, -1)  # len would fix the size of a batch
        for layer in self.layers:
            asked = layer(asked, queries, memory, places, known)
            found.append(self.norm(asked))
        return Intermediate(features, x, inside, memory, tuple(found))

    def predict(
        self, between: Intermediate, size: tuple[int, int], sizes: Sequence[tuple[int, int]] | None
    ) -> SetOfBoxes:
        """Class and box of each query; those of earlier layers only while training."""
        told = () if sizes is None else tuple(sizes)
        *earlier, last = [
            SetOfBoxes(self.classes(x), self.boxes(x).sigmoid(), size, told)
            for x in (between.queries if self.training else between.queries[-1:])
        ]
        return SetOfBoxes(last.class_logits, last.boxes, size, told, tuple(earlier))


# --- builders -------------------------------------------------------------------------------------


def detr(
    num_classes: int,
    *,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    width: int = 256,
    num_queries: int = 100,
    blocks: int = 6,
    min_size: int | None = 800,
) -> DETR:
    """DETR on any encoder.

    Args:
        num_classes: number of classes k of objects.
        encoder: name of a backbone, or an encoder.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: how pretrained filters take an image that is not RGB, see `TimmEncoder`.
        width: channels of the transformer, a multiple of 4.
        num_queries: most objects of an image.
        blocks: layers of the transformer's encoder, and of its decoder.
        min_size: see `DETR`.
    """
    made = make_encoder(encoder, in_channels=in_channels, pretrained=pretrained, stem=stem, stages=("c5",))
    return DETR(made, num_classes, width, num_queries, blocks, min_size=min_size)


def detr_resnet50(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
) -> DETR:
    """The paper's DETR on ResNet-50."""
    return detr(num_classes, in_channels=in_channels, pretrained=pretrained, stem=stem, min_size=min_size)


def detr_resnet101(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
) -> DETR:
    """The paper's DETR on ResNet-101."""
    made = make_encoder(
        "resnet101", in_channels=in_channels, pretrained=pretrained, stem=stem, stages=("c5",)
    )
    return DETR(made, num_classes, min_size=min_size)


def detr_resnet50_dc5(
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    min_size: int | None = 800,
) -> DETR:
    """DETR-DC5: the last stage of ResNet-50 is dilated, so that the map has stride 16 (Sec. 4)."""
    made = make_encoder(
        "resnet50",
        in_channels=in_channels,
        pretrained=pretrained,
        output_stride=16,
        stem=stem,
        stages=("c5",),
    )
    return DETR(made, num_classes, min_size=min_size)
