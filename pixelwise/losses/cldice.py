"""clDice, overlap of centre lines (Shit et al., CVPR 2021), for vessels, roads and other tubes."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn import functional as F

from .class_maps import class_maps, over_classes
from .module import LossModule
from .pixels import Reduction, one_of, per_class

_TINY = 1e-12  # a sum below it is nothing: its inverse would leave float32


def cldice_loss(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b ..."],
    *,
    ignore: int = 255,
    weight: Float[Tensor, " k"] | None = None,
    exclusive: bool = True,
    iterations: int = 3,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """1 - clDice_c for each class whose true regions have a skeleton (Sec. 3, equations 1 to 3).

    clDice is the harmonic mean of topology precision, sum(S_p g) / sum(S_p), the share of the predicted
    centre line that lies in the truth, and topology sensitivity, sum(S_g p) / sum(S_g); S is `soft_skeleton`,
    sums run over the batch. The paper adds it to Dice: (1 - a) Dice + a clDice with a up to 1/2.

    There is no smoothing constant: the authors' code (jocpae/clDice) adds 1 to both parts of both fractions,
    by which an empty prediction of a short tube is cheap. MONAI's `SoftclDiceLoss` with `smooth_nr` and
    `smooth_dr` 0 gives the same value for one class of one image; it mixes the pixels of several classes in
    one sum and averages over images.

    Args:
        logits: one score per class and cell, on a plane or a volume.
        labels: one class per cell if `exclusive`, else 0 or 1 per class and cell; or `ignore`.
        ignore: label of cells that do not count; they are as if outside the image.
        weight: one factor per class; [0, 1] leaves the background out as the paper does.
        exclusive: whether p is the softmax of the logits or a sigmoid per class.
        iterations: how often the regions are thinned; at least the radius of the thickest tube in cells.
        reduction: "mean" divides the sum by the number of classes that have a skeleton, or with `weight` by
            the sum of their weights; "none" gives one value per class, 0 for the others.

    Raises:
        ValueError: on shapes that do not fit or an unknown reduction.

    >>> tube = torch.zeros(1, 5, 9, dtype=torch.long)
    >>> tube[:, 1:4, 1:8] = 1
    >>> right = torch.stack([1 - 2 * tube, 2 * tube - 1], 1) * 100.0
    >>> cldice_loss(right, tube).item(), cldice_loss(-right, tube).item()
    (0.0, 1.0)
    """
    one_of(reduction)
    p, truth, valid = class_maps(logits, labels, ignore, exclusive)
    p, g = torch.where(valid, p, 0), truth.to(p.dtype)
    skeleton = soft_skeleton(p, iterations, valid)
    true_skeleton = soft_skeleton(g, iterations, valid)
    rest = [0, *range(2, p.ndim)]
    length = true_skeleton.sum(rest)
    precision = (skeleton * g).sum(rest) / skeleton.sum(rest).clamp_min(_TINY)
    sensitivity = (true_skeleton * p).sum(rest) / length.clamp_min(_TINY)
    loss = 1 - 2 * precision * sensitivity / (precision + sensitivity).clamp_min(_TINY)
    return over_classes(loss, length > 0, per_class(weight, p), reduction)


def soft_skeleton(
    maps: Float[Tensor, "b k *grid"], iterations: int, valid: Bool[Tensor, "b k *grid"] | None = None
) -> Float[Tensor, "b k *grid"]:
    """What thinning by minimum and maximum pooling cannot open away (algorithm 1 of the paper).

    As in the authors' code a minimum is taken over a cross, a maximum over a square or cube of side 3.

    Args:
        maps: values in [0, 1], on a line, a plane or a volume.
        iterations: how often the maps are thinned.
        valid: cells that are known; the others are as if outside the image, and 0 in the result.

    >>> bar = torch.zeros(1, 1, 5, 7)
    >>> bar[..., 1:4, 1:6] = 1
    >>> soft_skeleton(bar, 2)[0, 0].int().tolist()[2]
    [0, 0, 1, 1, 1, 0, 0]
    """
    skeleton = torch.zeros_like(maps)
    for _ in range(iterations + 1):
        thinner = _eroded(maps, valid)
        lost = F.relu(maps - _dilated(thinner, valid))  # what opening removes
        skeleton = skeleton + lost * (1 - skeleton)
        maps = thinner
    return skeleton if valid is None else torch.where(valid, skeleton, 0)


def _eroded(maps: Float[Tensor, "b k *grid"], valid: Bool[Tensor, "b k *grid"] | None) -> Tensor:
    """Least value of a cell and its neighbours along the axes."""
    if valid is not None:
        maps = torch.where(valid, maps, 1)
    axes = maps.ndim - 2
    pooled = [-_pooled(-maps, tuple(3 if i == axis else 1 for i in range(axes))) for axis in range(axes)]
    least = pooled[0]
    for other in pooled[1:]:
        least = torch.minimum(least, other)
    return least


def _dilated(maps: Float[Tensor, "b k *grid"], valid: Bool[Tensor, "b k *grid"] | None) -> Tensor:
    """Greatest value of a cell and all its neighbours."""
    if valid is not None:
        maps = torch.where(valid, maps, 0)
    return _pooled(maps, (3,) * (maps.ndim - 2))


def _pooled(maps: Float[Tensor, "b k *grid"], size: tuple[int, ...]) -> Tensor:
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(size) - 1]
    return pool(maps, size, stride=1, padding=tuple(side // 2 for side in size))


class ClDice(LossModule):
    """`cldice_loss` with its settings.

    Args:
        ignore: label of cells that do not count.
        weight: one factor per class.
        exclusive: whether a cell has exactly one class.
        iterations: how often the regions are thinned, at least 0.
        reduction: see `cldice_loss`.
    """

    def __init__(
        self,
        *,
        ignore: int = 255,
        weight: Sequence[float] | Tensor | None = None,
        exclusive: bool = True,
        iterations: int = 3,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(ignore=ignore, weight=weight, exclusive=exclusive, reduction=reduction)
        if iterations < 0:
            raise ValueError(f"iterations must be at least 0, got {iterations}")
        self.iterations = iterations

    def forward(
        self, logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b ..."]
    ) -> Float[Tensor, "..."]:
        """See `cldice_loss`."""
        return cldice_loss(logits, labels, **self.settings, iterations=self.iterations)
