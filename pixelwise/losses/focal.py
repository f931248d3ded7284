"""Focal loss (Lin et al., ICCV 2017, Sec. 3), in its softmax form."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from .pixels import Reduction, as_weight, counted, one_of, over, per_class, prepared


def focal_loss(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b *grid"],
    *,
    ignore: int = 255,
    gamma: float = 2.0,
    alpha: Float[Tensor, " k"] | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """-alpha_y (1 - p_y)^gamma log p_y for the label y of each pixel that is not ignored (equation 5).

    The paper has a sigmoid per class; here p is the softmax of the logits, one label per pixel.

    Args:
        logits: one score per class and pixel.
        labels: one class per pixel, or `ignore`.
        ignore: label of pixels that do not count.
        gamma: how much well classified pixels lose, at least 0; 0 is cross-entropy.
        alpha: one factor per class.
        reduction: "mean" divides the sum by the number of pixels that count, also with `alpha` (the
            paper's balance does not change the divisor; the weights of `cross_entropy` do); "none" gives
            one value per pixel, 0 where ignored.

    Raises:
        ValueError: on shapes that do not fit or an unknown reduction.

    >>> import torch
    >>> logits = torch.zeros(1, 2, 1, 1)  # p = 1/2: (1/2)^2 log 2
    >>> focal_loss(logits, torch.tensor([[[1]]])).item()
    0.1732867956161499
    """
    one_of(reduction)
    logits, labels = prepared(logits, labels)
    alpha = per_class(alpha, logits)
    surprise = F.cross_entropy(logits, labels, ignore_index=ignore, reduction="none")  # -log p_y
    missing = -torch.expm1(-surprise)  # 1 - p_y
    if gamma < 1:  # (1 - p)^gamma has no finite slope at p = 1; that of the loss is 0 there
        missing = missing.clamp_min(torch.finfo(missing.dtype).tiny)
    loss = missing**gamma * surprise
    valid, index = counted(labels, ignore)
    if alpha is not None:
        loss = loss * alpha.index_select(0, index.flatten()).view_as(loss)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else over(loss.sum(), valid.count_nonzero())


class Focal(nn.Module):
    """`focal_loss` with its settings.

    Args:
        ignore: label of pixels that do not count.
        gamma: how much well classified pixels lose, at least 0.
        alpha: one factor per class.
        reduction: see `focal_loss`.
    """

    alpha: Tensor | None

    def __init__(
        self,
        *,
        ignore: int = 255,
        gamma: float = 2.0,
        alpha: Sequence[float] | Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if gamma < 0:
            raise ValueError(f"gamma must be at least 0, got {gamma}")
        one_of(reduction)
        self.register_buffer("alpha", as_weight(alpha), persistent=False)
        self.ignore, self.gamma, self.reduction = ignore, gamma, reduction

    def forward(
        self, logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b *grid"]
    ) -> Float[Tensor, "..."]:
        """See `focal_loss`."""
        return focal_loss(
            logits,
            labels,
            ignore=self.ignore,
            gamma=self.gamma,
            alpha=self.alpha,
            reduction=self.reduction,
        )
