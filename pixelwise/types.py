"""The nouns of the house: what flows from a file to a prediction. Read this file first.

    file -> Sample -> Batch -> model -> DenseLogits -> criterion -> loss
                                                   -> decode -> LabelMap -> metric -> numbers

Everything here is frozen. Values that hold tensors are pytrees: `torch.export`, `torch.compile` and
`tree_map` look through them, and `.to(...)` moves all their tensors at once.

Letters in shapes: b batch, c channels, k classes, n things, h w size of a map, H W size of the image.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, dataclass_transform

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from .wording import brief

T = TypeVar("T")
V = TypeVar("V", bound="Value")

Color = tuple[int, int, int]
STAGES = ("c1", "c2", "c3", "c4", "c5")


@dataclass_transform(frozen_default=True)
def value(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass that torch.export, torch.compile and pytrees understand."""
    cls = dataclass(frozen=True)(cls)
    torch.export.register_dataclass(cls)
    return cls


class Value:
    """Base of every value that holds tensors."""

    def to(self: V, *args: Any, **kwargs: Any) -> V:
        """Move or cast every tensor inside, as `Tensor.to` does; other fields stay."""
        return self._each(lambda x: x.to(*args, **kwargs))

    def pin_memory(self: V) -> V:
        """Copy every tensor inside to page-locked memory (DataLoader calls this)."""
        return self._each(lambda x: x.pin_memory())

    def _each(self: V, f: Any) -> V:
        changed: V = pytree.tree_map(lambda x: f(x) if isinstance(x, Tensor) else x, self)
        return changed


# --- the task -----------------------------------------------------------------------------------


def voc_palette(count: int) -> tuple[Color, ...]:
    """The colours of PASCAL VOC's devkit: the bits of the class number, dealt to r, g and b.

    >>> voc_palette(3)
    ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    """
    colors = []
    for number in range(count):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= ((number >> (3 * bit + channel)) & 1) << (7 - bit)
        colors.append((rgb[0], rgb[1], rgb[2]))
    return tuple(colors)


@dataclass(frozen=True)
class ClassTable:
    """The task, declared once: it sets head width, loss, metrics and colours.

    Background is a class like any other; a binary task has two classes.

    Attributes:
        names: one name per class; the label of a class is its position.
        colors: one (r, g, b) in 0..255 per class.
        ignore: label of pixels that count neither in losses nor in metrics.
        exclusive: whether a pixel has exactly one class (softmax); otherwise a sigmoid per class.
        things: labels of the countable classes (instances), empty for purely semantic tasks.

    >>> table = ClassTable.of("sky", "road")
    >>> len(table), table.names[1]
    (2, 'road')
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    ignore: int = 255
    exclusive: bool = True
    things: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Reject a table that cannot be a task.

        Raises:
            ValueError: on fewer than one class, doubled names, missing or impossible colours, an ignore
                label that is also a class, or a thing that is no class.
        """
        if not self.names:
            raise ValueError("a class table needs at least one class, got none")
        if len(set(self.names)) < len(self.names):
            doubled = sorted(name for name, count in Counter(self.names).items() if count > 1)
            raise ValueError(f"class names must differ, got {brief(doubled[0])} twice")
        if len(self.colors) != len(self.names):
            raise ValueError(f"{len(self.names)} classes need as many colours, got {len(self.colors)}")
        for name, color in zip(self.names, self.colors, strict=True):
            if len(color) != 3 or not all(0 <= part <= 255 for part in color):
                raise ValueError(f"the colour of {name!r} must be three numbers in 0..255, got {color}")
        if 0 <= self.ignore < len(self.names):
            raise ValueError(
                f"the ignore label {self.ignore} is also class {self.names[self.ignore]!r}: choose another"
            )
        if wrong := [thing for thing in self.things if not 0 <= thing < len(self.names)]:
            raise ValueError(f"things must be labels in 0..{len(self.names) - 1}, got {wrong[0]}")

    @classmethod
    def of(cls, *names: str, ignore: int = 255) -> "ClassTable":
        """A table of `names` with the palette of PASCAL VOC."""
        return cls(tuple(names), voc_palette(len(names)), ignore)

    def __len__(self) -> int:
        """Number of classes k."""
        return len(self.names)


# --- what data yields -----------------------------------------------------------------------------


@value
class LabelMap(Value):
    """One class per pixel (or voxel). The same type is a target and a prediction."""

    labels: Integer[Tensor, "*grid"]


@value
class MaskSet(Value):
    """Things, each with a mask of its own; masks may overlap. The same type is a target and a prediction.

    Attributes:
        masks: True where the thing is.
        classes: label of each thing.
        scores: confidence of each thing in [0, 1]; 1 in a target.
        is_crowd: True where one mask stands for several things that nobody told apart (COCO's `iscrowd`);
            False in a prediction.
    """

    masks: Bool[Tensor, "n H W"]
    classes: Integer[Tensor, " n"]
    scores: Float[Tensor, " n"]
    is_crowd: Bool[Tensor, " n"]

    @classmethod
    def of(
        cls,
        masks: Bool[Tensor, "n H W"],
        classes: Integer[Tensor, " n"],
        scores: Float[Tensor, " n"] | None = None,
        is_crowd: Bool[Tensor, " n"] | None = None,
    ) -> "MaskSet":
        """A set with scores 1 and without crowds unless they are given."""
        if scores is None:
            scores = torch.ones(len(masks), device=masks.device)
        if is_crowd is None:
            is_crowd = torch.zeros(len(masks), dtype=torch.bool, device=masks.device)
        return cls(masks, classes, scores, is_crowd)

    def __len__(self) -> int:
        """Number of things n."""
        return len(self.masks)


@value
class Sample(Value):
    """One image with its annotation.

    Attributes:
        image: values in [0, 1]; RGB unless the data set says otherwise.
        target: what is known about it; None where nothing is.
        id: names the sample in reports and messages, usually the path of the image.
    """

    image: Float[Tensor, "c H W"]
    target: LabelMap | None
    id: str


@value
class Batch(Value):
    """Samples stacked. Smaller images are padded at the right and bottom: image 0, label `ignore`.

    Attributes:
        image: values in [0, 1].
        labels: one class per pixel, `ignore` where nothing is known; for a table that is not exclusive
            0, 1 or `ignore` per class and pixel.
        valid: True on pixels that belong to an image, False on padding.
        ids: one per sample.
    """

    image: Float[Tensor, "b c H W"]
    labels: Integer[Tensor, "b *k H W"]
    valid: Bool[Tensor, "b H W"]
    ids: tuple[str, ...]

    @classmethod
    def of(cls, image: Float[Tensor, "b c H W"], labels: Integer[Tensor, "b H W"]) -> "Batch":
        """A batch of equally large images, for a loop written by hand."""
        everywhere = torch.ones(labels.shape, dtype=torch.bool, device=labels.device)
        return cls(image, labels, everywhere, tuple(str(i) for i in range(len(labels))))

    @classmethod
    def collate(cls, samples: Sequence[Sample], ignore: int = 255) -> "Batch":
        """Stack samples, padding the smaller ones (`collate_fn` of a DataLoader)."""
        height = max(sample.image.shape[-2] for sample in samples)
        width = max(sample.image.shape[-1] for sample in samples)
        channels = samples[0].image.shape[0]
        image = torch.zeros(len(samples), channels, height, width)
        labels = torch.full((len(samples), height, width), ignore, dtype=torch.long)
        valid = torch.zeros(len(samples), height, width, dtype=torch.bool)
        for i, sample in enumerate(samples):
            h, w = sample.image.shape[-2:]
            image[i, :, :h, :w] = sample.image
            valid[i, :h, :w] = True
            if sample.target is not None:
                labels[i, :h, :w] = sample.target.labels
        return cls(image, labels, valid, tuple(sample.id for sample in samples))


# --- encoders -------------------------------------------------------------------------------------


class PerStage(NamedTuple):
    """One number per encoder stage (channels or strides), 0 where the encoder has no such stage."""

    c1: int
    c2: int
    c3: int
    c4: int
    c5: int


@dataclass(frozen=True)
class Features:
    """What an encoder returns. Stages are named as in FPN and DeepLab: c1 has stride 2, c5 is the last.

    A stage keeps its name when it is dilated. Asking for a stage that the encoder was not built to give
    raises; `None` never travels.
    """

    maps: dict[str, Tensor]

    def __getitem__(self, stage: str) -> Float[Tensor, "b _ _ _"]:
        """The map of `stage`.

        Raises:
            ValueError: if the encoder does not give that stage.
        """
        if stage not in self.maps:
            raise ValueError(f"the encoder gives {', '.join(self.maps)}, not {stage}")
        return self.maps[stage]

    @property
    def c1(self) -> Float[Tensor, "b _ _ _"]:
        """Stride 2."""
        return self["c1"]

    @property
    def c2(self) -> Float[Tensor, "b _ _ _"]:
        """Stride 4."""
        return self["c2"]

    @property
    def c3(self) -> Float[Tensor, "b _ _ _"]:
        """Stride 8."""
        return self["c3"]

    @property
    def c4(self) -> Float[Tensor, "b _ _ _"]:
        """Stride 16, or 8 when dilated."""
        return self["c4"]

    @property
    def c5(self) -> Float[Tensor, "b _ _ _"]:
        """Stride 32, or 16 or 8 when dilated."""
        return self["c5"]


# --- models ---------------------------------------------------------------------------------------


@value
class DenseLogits(Value):
    """One score per class and pixel.

    The coarse map is kept so that decoding can resize and take the maximum in one go.

    Attributes:
        coarse: scores as the head gives them, at any resolution.
        size: height and width of the image.
        aux: coarse scores of auxiliary heads, best first; only while training, empty otherwise.
        align_corners: how the coarse maps are resized (True where the published network did).
    """

    coarse: Float[Tensor, "b k _ _"]
    size: tuple[int, int]
    aux: tuple[Float[Tensor, "b k _ _"], ...] = ()
    align_corners: bool = False

    @property
    def logits(self) -> Float[Tensor, "b k H W"]:
        """Scores at the size of the image (bilinear)."""
        return self._resize(self.coarse)

    @property
    def aux_logits(self) -> tuple[Float[Tensor, "b k H W"], ...]:
        """Scores of the auxiliary heads at the size of the image."""
        return tuple(self._resize(aux) for aux in self.aux)

    def _resize(self, coarse: Float[Tensor, "b k _ _"]) -> Float[Tensor, "b k H W"]:
        if tuple(coarse.shape[-2:]) == tuple(self.size):
            return coarse
        return F.interpolate(coarse, self.size, mode="bilinear", align_corners=self.align_corners)


@dataclass(frozen=True)
class BuiltBy:
    """How a model came to be: enough to build it again.

    Attributes:
        builder: its name in `pixelwise.models`.
        arguments: what the builder was called with, by name.
    """

    builder: str
    arguments: dict[str, Any]


class DenseModel(nn.Module, ABC):
    """A network that scores every pixel: image in [0, 1] -> DenseLogits.

    Any height and width of at least `minimum_size` work, whatever the stride of the network, and so does
    training with one image per batch. Mean and standard deviation are part of the model.

    Attributes:
        num_classes: k of the logits.
        in_channels: c of the image.
        minimum_size: smallest height and width in pixels.
        built_by: builder and arguments where they are known; `save` needs them.
    """

    num_classes: int
    in_channels: int = 3
    minimum_size: int = 32
    built_by: BuiltBy | None = None

    @abstractmethod
    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        """Score every pixel.

        Raises:
            ValueError: if the image is smaller than `minimum_size`.
        """


class Paper(NamedTuple):
    """Where a model comes from."""

    title: str
    authors: str
    venue: str
    year: int
    url: str
