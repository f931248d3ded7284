"""Boundary loss (Kervadec et al., MIDL 2019, Sec. 2)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from .class_maps import class_maps, of_weight, over_entries
from .distance_maps import distance_across
from .module import LossModule
from .pixels import Reduction, one_of, per_class


def boundary_loss(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b ..."],
    *,
    ignore: int = 255,
    weight: Float[Tensor, " k"] | None = None,
    exclusive: bool = True,
    spacing: tuple[float, ...] | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """p_c phi_c per class and cell; phi_c is the signed distance to the boundary of class c (equation 5).

    A step of the predicted boundary away from the true one costs the distance it has gone: a regional loss
    says how much is wrong, this one how far away. It is below 0 for a good prediction and has no fixed least
    value. The paper adds it to a regional loss: alpha * Dice + (1 - alpha) * boundary with alpha from 1 down
    by 0.01 per epoch; alone it can end in an empty prediction.

    phi is that of the authors' code (LIVIAETS/boundary-loss): the distance to the nearest cell of the class
    outside, minus the distance to the nearest other cell inside, plus one cell, so that both sides of the
    boundary differ by one step. It is 0 everywhere if an image lacks the class, or anything but the class.
    Distances are exact and know only cells that count. They are computed on the CPU at every call.

    Args:
        logits: one score per class and cell, on a plane or a volume.
        labels: one class per cell if `exclusive`, else 0 or 1 per class and cell; or `ignore`.
        ignore: label of cells that do not count.
        weight: one factor per class; [0, 1] leaves the background out as the paper does.
        exclusive: whether p is the softmax of the logits or a sigmoid per class.
        spacing: length of a cell along each axis, in any unit; 1 without it.
        reduction: "mean" divides the sum by the number of classes and cells that count, or with `weight` by
            the sum of their weights; "none" gives one value per class and cell, 0 where ignored.

    Raises:
        ValueError: on shapes that do not fit, a spacing that does not fit the grid or an unknown reduction.

    >>> import torch
    >>> labels = torch.tensor([[[0, 0, 1, 1]]])
    >>> phi = boundary_loss(torch.zeros(1, 2, 1, 4), labels, reduction="none") / 0.5  # p = 1/2 everywhere
    >>> phi[0, 1].tolist()
    [[2.0, 1.0, 0.0, -1.0]]
    """
    one_of(reduction)
    p, truth, valid = class_maps(logits, labels, ignore, exclusive)
    weight = per_class(weight, p)
    phi = signed_distances(truth, of_weight(~truth & valid, weight), spacing=spacing, dtype=p.dtype)
    return over_entries(p * phi, valid, weight, reduction)


def signed_distances(
    inside: Bool[Tensor, "b k *grid"],
    outside: Bool[Tensor, "b k *grid"],
    *,
    spacing: tuple[float, ...] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "b k *grid"]:
    """Level set of a region: its distance outside, minus its depth inside (0 in the outermost cells).

    Args:
        inside: cells of the region.
        outside: cells known not to belong to it; cells that are neither get 0.
        spacing: length of a cell along each axis, in any unit; 1 without it.
        dtype: of the distances.

    Returns:
        Exact distances in the unit of `spacing`; 0 everywhere without an inside or an outside.

    >>> inside = torch.tensor([[[[False, True, True, True]]]])
    >>> signed_distances(inside, ~inside).flatten().tolist()
    [1.0, 0.0, -1.0, -2.0]
    """
    distance = distance_across(inside, outside, None if spacing is None else list(spacing), dtype)
    step = 1.0 if spacing is None else min(spacing)
    return torch.where(inside & (distance > 0), step - distance, distance)


class Boundary(LossModule):
    """`boundary_loss` with its settings.

    Args:
        ignore: label of cells that do not count.
        weight: one factor per class.
        exclusive: whether a cell has exactly one class.
        spacing: length of a cell along each axis, in any unit; 1 without it.
        reduction: see `boundary_loss`.
    """

    def __init__(
        self,
        *,
        ignore: int = 255,
        weight: Sequence[float] | Tensor | None = None,
        exclusive: bool = True,
        spacing: tuple[float, ...] | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(ignore=ignore, weight=weight, exclusive=exclusive, reduction=reduction)
        self.spacing = spacing

    def forward(
        self, logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b ..."]
    ) -> Float[Tensor, "..."]:
        """See `boundary_loss`."""
        return boundary_loss(logits, labels, **self.settings, spacing=self.spacing)
