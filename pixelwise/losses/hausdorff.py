"""Hausdorff loss by distance transforms (Karimi and Salcudean, IEEE TMI 2019, Sec. II-B1)."""

from collections.abc import Sequence

from jaxtyping import Float, Integer
from torch import Tensor

from .class_maps import class_maps, of_weight, over_entries
from .distance_maps import distance_across
from .module import LossModule
from .pixels import Reduction, one_of, per_class


def hausdorff_loss(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b ..."],
    *,
    ignore: int = 255,
    weight: Float[Tensor, " k"] | None = None,
    exclusive: bool = True,
    alpha: float = 2.0,
    spacing: tuple[float, ...] | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """(p_c - g_c)^2 (d_p^alpha + d_g^alpha) for each class and cell (equation 8).

    d_g is the exact distance to the other side of the true boundary of class c, d_p that of the predicted one
    (p_c > 1/2); both are constants for the gradient, as in the paper. An error costs more the farther it lies
    from either boundary, which is what a Hausdorff distance measures. A map that is all inside or all outside
    has no boundary and distance 0; where this holds for prediction and truth alike the loss is 0, right or
    wrong, so use it beside a regional loss, as the paper does (weighted to contribute as much).

    Values are those of MONAI's `HausdorffDTLoss`. Distances know only cells that count. They are computed on
    the CPU at every call.

    Args:
        logits: one score per class and cell, on a plane or a volume.
        labels: one class per cell if `exclusive`, else 0 or 1 per class and cell; or `ignore`.
        ignore: label of cells that do not count.
        weight: one factor per class; [0, 1] leaves the background out as MONAI does.
        exclusive: whether p is the softmax of the logits or a sigmoid per class.
        alpha: how much more a far error costs, above 0; the paper found 1 to 3 good.
        spacing: length of a cell along each axis, in any unit; 1 without it.
        reduction: "mean" divides the sum by the number of classes and cells that count, or with `weight` by
            the sum of their weights; "none" gives one value per class and cell, 0 where ignored.

    Raises:
        ValueError: on shapes that do not fit, a spacing that does not fit the grid or an unknown reduction.

    >>> import torch
    >>> labels = torch.tensor([[[0, 0, 1, 1]]])  # p = 1/2 everywhere: no predicted boundary
    >>> hausdorff_loss(torch.zeros(1, 2, 1, 4), labels, reduction="none")[0, 1].tolist()
    [[1.0, 0.25, 0.25, 1.0]]
    """
    one_of(reduction)
    p, truth, valid = class_maps(logits, labels, ignore, exclusive)
    weight = per_class(weight, p)
    step = None if spacing is None else list(spacing)
    predicted = (p.detach() > 0.5) & valid
    to_truth = distance_across(truth, of_weight(~truth & valid, weight), step, p.dtype)
    to_predicted = distance_across(predicted, of_weight(~predicted & valid, weight), step, p.dtype)
    loss = (p - truth.to(p.dtype)) ** 2 * (to_truth**alpha + to_predicted**alpha)
    return over_entries(loss, valid, weight, reduction)


class Hausdorff(LossModule):
    """`hausdorff_loss` with its settings.

    Args:
        ignore: label of cells that do not count.
        weight: one factor per class.
        exclusive: whether a cell has exactly one class.
        alpha: how much more a far error costs, above 0.
        spacing: length of a cell along each axis, in any unit; 1 without it.
        reduction: see `hausdorff_loss`.
    """

    def __init__(
        self,
        *,
        ignore: int = 255,
        weight: Sequence[float] | Tensor | None = None,
        exclusive: bool = True,
        alpha: float = 2.0,
        spacing: tuple[float, ...] | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(ignore=ignore, weight=weight, exclusive=exclusive, reduction=reduction)
        if not 0 < alpha < float("inf"):
            raise ValueError(f"alpha must be above 0, got {alpha}")
        self.alpha, self.spacing = alpha, spacing

    def forward(
        self, logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b ..."]
    ) -> Float[Tensor, "..."]:
        """See `hausdorff_loss`."""
        return hausdorff_loss(
            logits,
            labels,
            **self.settings,
            alpha=self.alpha,
            spacing=self.spacing,
        )
