"""How common each class is at each place of an image, added to the scores of a network.

What appears at a place and where it lies are taken as independent of each other, given the class (naive
Bayes, as for the location potentials of Shotton et al., TextonBoost, ECCV 2006): the probabilities of a
network are multiplied by p(class | place) / p(class), and scores get its logarithm.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..data import SegmentationData
from ..tiling import Block
from ..types import DenseLogits, LabelMap

NAME = "location_prior"  # of the setting of decoding
CELLS = 16  # along each axis
ADDED = 1.0  # images of average contents that are added, so that nothing is impossible
MOST = 200  # annotations that are read


def location_prior(train: SegmentationData) -> list[list[list[float]]] | None:
    """Of each class log p(class | place) - log p(class), on a grid of 16 x 16 over the whole image.

    Args:
        train: images that were learnt from, with one class per pixel; at most 200 are read, in even steps.
            Pixels that nobody labelled count for no class.

    Returns:
        Numbers "k 16 16" as JSON knows them; None where nothing is labelled.

    Raises:
        ValueError: if a file cannot be read.
    """
    return prior_of(shares_of_places(train, MOST))


def shares_of_places(data: SegmentationData, most: int) -> Float[Tensor, "k 16 16"]:
    """Sums over images of the share that each class has of each cell.

    Args:
        data: images with one class per pixel.
        most: images that are read, in even steps.

    Raises:
        ValueError: if a file cannot be read.
    """
    known = [i for i, pair in enumerate(data.pairs) if pair.mask is not None]
    shares = torch.zeros(len(data.classes), CELLS, CELLS)
    for index in known[:: max(1, -(-len(known) // most))]:
        target = data.target(index)
        assert isinstance(target, LabelMap)
        for label in range(len(data.classes)):
            shares[label] += F.adaptive_avg_pool2d((target.labels == label).float()[None], CELLS)[0]
    return shares


def prior_of(shares: Float[Tensor, "k 16 16"]) -> list[list[list[float]]] | None:
    """What `location_prior` gives, of sums of shares."""
    of_class = shares.mean((1, 2), keepdim=True) / shares.mean((1, 2)).sum().clamp(min=1e-12)
    if not of_class.any():
        return None
    ratio = (shares + ADDED * of_class) / (shares.sum(0) + ADDED) / of_class
    known_classes = (of_class > 0).expand_as(ratio)
    return [
        [[round(float(x), 2) for x in row] for row in plane]
        for plane in torch.where(known_classes, ratio, 1.0).log()
    ]


def read_prior(setting: Any, classes: int) -> Float[Tensor, "k n n"] | None:
    """The setting of decoding as a tensor; None where there is none.

    Raises:
        ValueError: if it does not hold a square of numbers for each class.
    """
    if setting is None:
        return None
    try:
        prior = torch.tensor(setting, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        prior = torch.tensor(math.nan)
    if prior.ndim != 3 or len(prior) != classes or not prior.numel() or not prior.isfinite().all():
        raise ValueError(f"{NAME} must hold rows and columns of numbers for each of {classes} classes")
    return prior


def with_prior(block: Block, prior: Float[Tensor, "k n m"], size: Sequence[int]) -> Block:
    """A block of an image of `size` with the part of the prior that lies there added to its scores.

    >>> scores = DenseLogits(torch.zeros(1, 1, 2, 2), (2, 2))
    >>> right = Block((slice(0, 2), slice(2, 4)), scores, (slice(0, 2), slice(0, 2)))
    >>> with_prior(right, torch.tensor([[[0.0, 4.0], [0.0, 4.0]]]), (2, 4)).output.coarse
    tensor([[[[3., 4.],
              [3., 4.]]]])
    """
    output = block.output
    down, across = (
        _weights(place.start - inside.start, length, count, whole, cells)
        for place, inside, length, count, whole, cells in zip(
            block.place,
            block.inside,
            output.size,
            output.coarse.shape[2:],
            size,
            prior.shape[1:],
            strict=True,
        )
    )
    added = (down @ prior @ across.T).to(output.coarse)
    return block._replace(output=DenseLogits(output.coarse + added, output.size, (), output.align_corners))


def _weights(first: int, length: int, count: int, whole: int, cells: int) -> Float[Tensor, "count cells"]:
    """By how much each cell counts at each of `count` places of a part of the image, linearly."""
    place = (first + (torch.arange(count) + 0.5) * (length / count)) / whole * cells - 0.5
    place = place.clamp(0, cells - 1)
    return (1 - (place[:, None] - torch.arange(cells)).abs()).clamp(min=0)
