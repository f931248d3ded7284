"""Deep supervision: a loss at several levels of a network (Lee et al., AISTATS 2015; UNet++, 2018)."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from ..types import Batch, DenseLogits
from .criterion import Criterion, loss_parts

Resized = Literal["labels", "maps"]


def deep_supervision(
    loss: nn.Module,
    maps: Sequence[Float[Tensor, "b k *_"]],
    labels: Integer[Tensor, "b ..."],
    *,
    weights: Sequence[float],
    resize: Resized = "labels",
    align_corners: bool = False,
) -> tuple[Float[Tensor, ""], ...]:
    """The loss of each level, times its weight; their sum is what training makes small.

    Args:
        loss: takes logits and labels, gives a scalar.
        maps: logits of each level, the main one first, on planes or volumes of any resolution.
        labels: as `loss` takes them, at full resolution.
        weights: one factor per level: 1 each in UNet++, (8, 4, 2, 1) / 15 in nnU-Net. Those of levels that
            are not there, as auxiliary ones in evaluation, are not used.
        resize: "labels" takes of the labels what lies under the centre of each cell of a map, so nothing is
            mixed and the ignored stay ignored (nnU-Net); "maps" interpolates the maps linearly to the labels'
            size (PSPNet, UNet++): sharper, at the price of memory.
        align_corners: how maps are interpolated.

    Raises:
        ValueError: without maps, or on more of them than weights.

    >>> from pixelwise.losses import CrossEntropy
    >>> maps = [torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 4, 4)]
    >>> labels = torch.zeros(1, 8, 8, dtype=torch.long)
    >>> [round(part.item(), 3) for part in deep_supervision(CrossEntropy(), maps, labels, weights=[1, 0.5])]
    [0.693, 0.347]
    """
    if not 0 < len(maps) <= len(weights):
        raise ValueError(f"{len(weights)} weights serve 1 to {len(weights)} levels, got {len(maps)}")
    axes = maps[0].ndim - 2
    size = tuple(labels.shape[-axes:])
    parts = []
    for level, weight in zip(maps, weights[: len(maps)], strict=True):
        target = labels
        if tuple(level.shape[2:]) != size and resize == "labels":
            target = nearest_labels(labels, tuple(level.shape[2:]))
        elif tuple(level.shape[2:]) != size:
            mode = ("linear", "bilinear", "trilinear")[axes - 1]
            level = F.interpolate(level, size, mode=mode, align_corners=align_corners)
        parts.append(weight * loss(level, target))
    return tuple(parts)


def nearest_labels(labels: Integer[Tensor, "..."], size: tuple[int, ...]) -> Integer[Tensor, "..."]:
    """Labels at another resolution: of each new cell, the label under its centre.

    Args:
        labels: the grid is their last axes, as many as `size` has.
        size: of the new grid.

    >>> nearest_labels(torch.tensor([0, 1, 255, 3, 4, 5]), (2,)).tolist()
    [1, 4]
    """
    for axis, new in enumerate(size, labels.ndim - len(size)):
        old = labels.shape[axis]
        index = ((2 * torch.arange(new, device=labels.device) + 1) * old) // (2 * new)
        labels = labels.index_select(axis, index)
    return labels


class DeepSupervision(Criterion):
    """The criterion of a model with auxiliary maps, each with a weight of its own.

    Args:
        loss: takes logits `b k H W` and labels, gives a scalar.
        weights: factor of the main map, then of each auxiliary one, best first; see `deep_supervision`.
        resize: "maps" brings every map to the size of the image, "labels" the labels to the size of the map.

    Raises:
        ValueError: without weights, or on one that is below 0.

    >>> from pixelwise.losses import CrossEntropy
    >>> batch = Batch.of(torch.rand(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long))
    >>> output = DenseLogits(torch.zeros(1, 2, 8, 8), (8, 8), aux=(torch.zeros(1, 2, 4, 4),))
    >>> criterion = DeepSupervision(CrossEntropy(), [1.0, 0.5])
    >>> {name: round(part.item(), 3) for name, part in criterion.parts(output, batch).items()}
    {'level_0': 0.693, 'level_1': 0.347}
    """

    def __init__(self, loss: nn.Module, weights: Sequence[float], *, resize: Resized = "labels") -> None:
        super().__init__(loss)
        if not weights or min(weights) < 0:
            raise ValueError(f"deep supervision needs weights of at least 0, got {list(weights)}")
        if resize not in ("labels", "maps"):
            raise ValueError(f"resize must be labels or maps, got {resize!r}")
        self.weights, self.resize = tuple(float(weight) for weight in weights), resize

    def parts(self, output: DenseLogits, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The loss of each level, by its number, and what a paper adds; weights are applied.

        Raises:
            ValueError: if the output has more levels than there are weights.
        """
        levels = deep_supervision(
            self.loss,
            (output.coarse, *output.aux),
            batch.labels,
            weights=self.weights,
            resize=self.resize,
            align_corners=output.align_corners,
        )
        parts = {f"level_{number}": part for number, part in enumerate(levels)}
        return parts | loss_parts(output, batch)

    @property
    def part_weights(self) -> dict[str, float]:
        """The weight of each level."""
        return {f"level_{number}": weight for number, weight in enumerate(self.weights)}

    def extra_repr(self) -> str:
        """Weights, and what is resized."""
        return f"weights={self.weights}, resize={self.resize}"
