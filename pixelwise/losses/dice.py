"""Soft Dice loss (V-Net, Milletari et al., 3DV 2016, Sec. 3), for several classes."""

from collections.abc import Sequence

from jaxtyping import Float, Integer
from torch import Tensor, nn

from .pixels import Reduction, as_weight, counted, one_of, over, per_class, prepared


def dice_loss(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b *grid"],
    *,
    ignore: int = 255,
    weight: Float[Tensor, " k"] | None = None,
    squared: bool = False,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """1 - D_c, D_c = 2 sum(p_c g_c) / (sum(p_c) + sum(g_c)), for each class that the labels hold.

    p is the softmax of the logits, g_c is 1 where the label is c; sums run over all pixels of the batch that
    count. A class that no label holds has no Dice coefficient: with p_c > 0 everywhere D_c would be 0 with
    zero gradient whatever the network says, so such classes are left out of sum and divisor alike. Their
    pixels are not free: what they take away is missing in the classes that are there. No smoothing
    constant is needed then, and a prediction that is wrong everywhere costs 1.

    Args:
        logits: one score per class and pixel.
        labels: one class per pixel, or `ignore`.
        ignore: label of pixels that do not count.
        weight: one factor per class.
        squared: whether the divisor is sum(p_c^2) + sum(g_c) as in V-Net.
        reduction: "mean" divides the sum over the classes that are there by their number, or with
            `weight` by the sum of their weights; "none" gives one value per class, 0 for the others.

    Raises:
        ValueError: on shapes that do not fit or an unknown reduction.

    >>> import torch
    >>> labels = torch.tensor([[[0, 1], [1, 0]]])
    >>> dice_loss(torch.zeros(1, 2, 2, 2), labels).item()  # p = 1/2 everywhere: D = 2 * 1 / (2 + 2)
    0.5
    """
    one_of(reduction)
    logits, labels = prepared(logits, labels)
    weight = per_class(weight, logits)
    p = logits.softmax(1).flatten(2)  # b k n
    valid, index = counted(labels.flatten(1), ignore)  # b n
    p_true = p.gather(1, index[:, None])[:, 0] * valid
    # Summed per image first: float32 counts one by one only up to 2^24.
    per_image = p.new_zeros(p.shape[:2])
    overlap = per_image.scatter_add(1, index, p_true).sum(0)
    support = per_image.scatter_add(1, index, valid.to(p.dtype)).sum(0)
    mass = ((p * p if squared else p) * valid[:, None]).sum((0, 2))
    there = support > 0
    factor = there.to(p.dtype) if weight is None else weight * there
    loss = factor * (1 - over(2 * overlap, mass + support))
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else over(loss.sum(), factor.sum())


class Dice(nn.Module):
    """`dice_loss` with its settings.

    Args:
        ignore: label of pixels that do not count.
        weight: one factor per class.
        squared: whether to divide by squares as V-Net does.
        reduction: see `dice_loss`.
    """

    weight: Tensor | None

    def __init__(
        self,
        *,
        ignore: int = 255,
        weight: Sequence[float] | Tensor | None = None,
        squared: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        one_of(reduction)
        self.register_buffer("weight", as_weight(weight), persistent=False)
        self.ignore, self.squared, self.reduction = ignore, squared, reduction

    def forward(
        self, logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b *grid"]
    ) -> Float[Tensor, "..."]:
        """See `dice_loss`."""
        return dice_loss(
            logits,
            labels,
            ignore=self.ignore,
            weight=self.weight,
            squared=self.squared,
            reduction=self.reduction,
        )
