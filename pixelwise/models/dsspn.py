"""DSSPN: a small network for every concept of a tree, used only where that concept is seen.

Classes are the leaves of a tree of concepts; each inner node is a semantic neuron, which tells its children
apart (paper Fig. 1 and 2, Sec. 3.1). Its dense block sees the features of the image and what all its
ancestors found (Sec. 3.2, Fig. 3). In training only the neurons above the classes of the batch are computed
(Sec. 3.3): of the others no pixel asks anything. The score of a class is the sum of the logarithms of the
choices on its path, so that the usual cross-entropy is the sum of the losses of all neurons on the path of
each pixel.

The tree comes from a file with one line per class, in the order of the labels: the concepts above it and its
name, as "thing/animal/cat". `tree="voc"` is the one for PASCAL VOC that comes with the package; without a
tree all classes are children of one neuron, which is a usual classifier.

There is no code of the authors. Settled here: the paper's DSSPN with a softmax per neuron; features are
reduced to 256 channels by a 3x3 convolution; a block is a 1x1 convolution to 192 and a 3x3 convolution to 48
channels, DenseNet's bottleneck with the paper's 48.

Departures: neurons without a pixel take part with weight zero, as several processes must agree on which
gradients there are; in evaluation all neurons answer, as their product needs no decision on the way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from ..encoders import Encoder, StemPolicy, make_encoder
from ..layers import BatchNorm2d, ConvNormAct, size_of
from ..types import Batch, DenseLogits, DenseModel, Paper
from ..wording import brief

PAPER = Paper(
    "Dynamic-Structured Semantic Propagation Network",
    "Liang, Zhou, Xing",
    "CVPR",
    2018,
    "https://arxiv.org/abs/1803.06067",
)

C_NEURON, BOTTLENECK = 48, 4  # channels that a neuron adds; how many times as many it has inside
SHIPPED = {"voc": Path(__file__).with_name("dsspn_voc.txt")}


@dataclass(frozen=True)
class Concept:
    """An inner node of a tree of concepts.

    Attributes:
        path: names from below the root down to it; empty for the root.
        children: names of concepts and classes below it, in order.
        classes: labels of all classes below each child.
    """

    path: tuple[str, ...]
    children: list[str] = field(default_factory=list)
    classes: list[list[int]] = field(default_factory=list)


def tree_of(lines: Sequence[str]) -> list[Concept]:
    """The inner nodes of a tree, parents first.

    Args:
        lines: one per class, in the order of the labels: names divided by slashes, the last one its own.

    Raises:
        ValueError: on a class that occurs twice or is a concept too, or a name without letters.

    >>> [(concept.path, concept.children) for concept in tree_of(["sky", "animal/cat", "animal/dog"])]
    [((), ['sky', 'animal']), (('animal',), ['cat', 'dog'])]
    """
    concepts: dict[tuple[str, ...], Concept] = {(): Concept(())}
    leaves: set[tuple[str, ...]] = set()
    for label, line in enumerate(lines):
        names = tuple(name.strip() for name in line.split("/"))
        if not all(names):
            raise ValueError(f"the concept tree has an empty name in {brief(line)}")
        for depth, name in enumerate(names):
            parent, own = concepts[names[:depth]], names[: depth + 1]
            if own in leaves or (depth == len(names) - 1 and own in concepts):
                raise ValueError(f"the concept tree has {brief('/'.join(own))} twice")
            if name not in parent.children:
                parent.children.append(name)
                parent.classes.append([])
            parent.classes[parent.children.index(name)].append(label)
            if depth == len(names) - 1:
                leaves.add(own)
            elif own not in concepts:
                concepts[own] = Concept(own)
    return sorted(concepts.values(), key=lambda concept: len(concept.path))


def lines_of(given: str | Sequence[str], shipped: Mapping[str, Path], argument: str) -> list[str]:
    """The lines of a text file of the user, less comments and empty ones.

    Args:
        given: path of the file, name of one that comes with the package, or the lines themselves.
        shipped: files that come with the package.
        argument: what to call it in errors.

    Raises:
        ValueError: if the file cannot be read, or there is no line.
    """
    named = brief(given)
    if isinstance(given, str):
        path = shipped.get(given, Path(given))
        try:
            given = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            known = "".join(f" or {name!r}" for name in shipped)
            raise ValueError(f"{argument} must be the path of a text file{known}, got {named}") from error
    lines = [line.partition("#")[0].strip() for line in given]
    if not any(lines):
        raise ValueError(f"{argument} must have a line at least, got none in {named}")
    return [line for line in lines if line]


class Neuron(nn.Module):
    """Semantic neuron: a dense block, and scores of the children of a concept (Fig. 3).

    Args:
        c_in: channels of the image's features and those of all ancestors.
        children: how many concepts or classes it tells apart.
    """

    def __init__(self, c_in: int, children: int) -> None:
        super().__init__()
        inside = BOTTLENECK * C_NEURON
        self.block = nn.Sequential(
            BatchNorm2d(c_in),
            nn.ReLU(),
            nn.Conv2d(c_in, inside, 1, bias=False),
            BatchNorm2d(inside),
            nn.ReLU(inplace=True),
            nn.Conv2d(inside, C_NEURON, 3, padding=1, bias=False),
        )
        self.choose = nn.Conv2d(c_in + C_NEURON, children, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor]:
        """What its children see, and the logarithm of the probability of each of them."""
        x = torch.cat([x, self.block(x)], dim=1)
        return x, self.choose(x).log_softmax(1)


class DSSPN(DenseModel):
    """Dilated encoder and a tree of neurons.

    Args:
        encoder: gives c5; the paper's has output stride 8.
        num_classes: number of channels k of the logits.
        lines: of the tree, see `tree_of`; empty for a tree of one neuron.
        width: channels of the features that the root sees.

    Raises:
        ValueError: if the tree has another number of classes.
    """

    tasks = ("semantic",)  # a tree tells of exclusive classes

    def __init__(
        self, encoder: Encoder, num_classes: int, lines: Sequence[str] = (), *, width: int = 256
    ) -> None:
        super().__init__()
        if lines and len(lines) != num_classes:
            raise ValueError(f"tree must have {num_classes} classes, got {len(lines)}")
        self.num_classes, self.in_channels = num_classes, encoder.in_channels
        if lines:
            self.read_arguments = {"tree": list(lines)}
        self.tree = tree_of(lines or [str(label) for label in range(num_classes)])
        self.encoder = encoder
        self.reduce = ConvNormAct(encoder.channels.c5, width)
        self.neurons = nn.ModuleList(
            Neuron(width + len(concept.path) * C_NEURON, len(concept.children)) for concept in self.tree
        )

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Image and labels: they tell which neurons a batch needs."""
        return batch.image, batch.labels

    def forward(
        self, image: Float[Tensor, "b c H W"], labels: Integer[Tensor, "b H W"] | None = None
    ) -> DenseLogits:
        """Score every pixel; see `DenseModel`.

        Args:
            image: any images.
            labels: of their pixels; in training, neurons that no pixel passes are left out. The loss with
                these labels is the same as if they were not.
        """
        size = size_of(image, self.minimum_size)
        seen: dict[tuple[str, ...], Tensor] = {(): self.reduce(self.encoder(image).c5)}  # by each concept
        asked = set(labels.unique().tolist()) if self.training and labels is not None else None
        scores: list[Tensor | None] = [None] * self.num_classes
        for concept, neuron in zip(self.tree, self.neurons, strict=True):
            assert isinstance(neuron, Neuron)
            x = seen[concept.path]
            if asked is None or not asked.isdisjoint(label for below in concept.classes for label in below):
                x, choice = neuron(x)
            else:
                choice = undecided(neuron, x)
            for name, below, own in zip(concept.children, concept.classes, choice.unbind(1), strict=True):
                seen[*concept.path, name] = x
                for label in below:
                    before = scores[label]
                    scores[label] = own if before is None else before + own
        coarse = torch.stack([score for score in scores if score is not None], dim=1)
        return DenseLogits(coarse, size, align_corners=True)  # b k H/8 W/8


def undecided(neuron: Neuron, x: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b children h w"]:
    """Equal chances for all children, of a neuron whose parameters get gradients of zero."""
    children = neuron.choose.out_channels
    zero = torch.stack([0 * parameter.sum() for parameter in neuron.parameters()]).sum()
    return zero + x.new_full((x.shape[0], children, x.shape[2], x.shape[3]), -log(children))


# --- builders -------------------------------------------------------------------------------------


def dsspn(
    num_classes: int,
    *,
    tree: str | Sequence[str] | None = None,
    encoder: str | Encoder = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
    output_stride: int = 8,
    width: int = 256,
) -> DSSPN:
    """DSSPN on any encoder that can be dilated.

    Args:
        num_classes: number of channels k of the logits.
        tree: text file with one line per class (the concepts above it and its name, divided by slashes),
            these lines themselves, or "voc"; None for a tree of one neuron.
        encoder: name of a backbone, or an encoder.
        in_channels: of the image.
        pretrained: whether the encoder starts from pretrained weights.
        stem: what pretrained colour filters become where the image is not RGB, see `adapt_stem`.
        output_stride: 8, 16 or 32.
        width: channels of the features that the root sees.

    Raises:
        ValueError: if the tree cannot be read or has another number of classes.
    """
    lines = lines_of(tree, SHIPPED, "tree") if tree is not None else []
    made = make_encoder(
        encoder,
        in_channels=in_channels,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        stages=("c5",),
    )
    return DSSPN(made, num_classes, lines, width=width)


def dsspn_resnet101(
    num_classes: int,
    *,
    tree: str | Sequence[str] | None = None,
    in_channels: int = 3,
    pretrained: bool = False,
    stem: StemPolicy = "repeat",
) -> DSSPN:
    """The paper's DSSPN on ResNet-101 at output stride 8; for `tree` see `dsspn`."""
    return dsspn(
        num_classes, tree=tree, encoder="resnet101", in_channels=in_channels, pretrained=pretrained, stem=stem
    )
