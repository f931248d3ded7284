"""What losses on whole regions share: per class what the network says, what is true, and what counts."""

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from .pixels import Reduction, counted, over, prepared, where_present


def class_maps(
    logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b ..."], ignore: int, exclusive: bool
) -> tuple[Float[Tensor, "b k *grid"], Bool[Tensor, "b k *grid"], Bool[Tensor, "b k *grid"]]:
    """Probability of each class, where the class is, and where that is known.

    Args:
        logits: one score per class and cell.
        labels: one class per cell if `exclusive`, else 0 or 1 per class and cell; or `ignore`.
        ignore: label of cells that do not count.
        exclusive: whether a cell has one class (softmax) or any number of them (a sigmoid per class).

    Raises:
        ValueError: on shapes that do not fit, or a label on the CPU that is neither a class nor `ignore`.
    """
    logits, labels = prepared(logits, labels, exclusive)
    if not exclusive:
        valid, hit = where_present(labels, ignore)
        return logits.sigmoid(), hit, valid
    valid, index = counted(labels, ignore, logits.shape[1])
    truth = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    truth = truth.scatter(1, index[:, None], valid[:, None])
    return logits.softmax(1), truth, valid[:, None].expand(truth.shape)


def of_weight(
    cells: Bool[Tensor, "b k *grid"], weight: Float[Tensor, " k"] | None
) -> Bool[Tensor, "b k *grid"]:
    """The same cells without those of classes whose weight is 0: what need not be measured."""
    return cells if weight is None else cells & (weight != 0).view(-1, *[1] * (cells.ndim - 2))


def over_classes(
    loss: Float[Tensor, "*images k"],
    there: Bool[Tensor, "*images k"],
    weight: Float[Tensor, " k"] | None,
    reduction: Reduction,
) -> Float[Tensor, "..."]:
    """One value per class put together: each times its weight, those that are not there left out.

    Args:
        loss: the values.
        there: which of them count.
        weight: one factor per class.
        reduction: "mean" divides by the number of values that count, or with `weight` by the sum of their
            weights; "none" gives all values, 0 for those that do not count.
    """
    factor = there.to(loss.dtype) if weight is None else weight * there
    loss = factor * torch.where(there, loss, 0)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else over(loss.sum(), factor.sum())


def over_entries(
    loss: Float[Tensor, "b k *grid"],
    valid: Bool[Tensor, "b k *grid"],
    weight: Float[Tensor, " k"] | None,
    reduction: Reduction,
) -> Float[Tensor, "..."]:
    """One value per class and cell put together: each times its weight, those that do not count left out.

    Args:
        loss: the values.
        valid: which of them count.
        weight: one factor per class.
        reduction: "mean" divides by the number of values that count, or with `weight` by the sum of their
            weights; "none" gives all values, 0 for those that do not count.
    """
    loss = torch.where(valid, loss, 0)
    # Counted per class, in float64: float32 counts one by one only up to 2^24.
    count = valid.sum([0, *range(2, valid.ndim)]).double()
    if weight is not None:
        loss = loss * weight.view(-1, *[1] * (loss.ndim - 2))
        count = count * weight
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else over(loss.sum(), count.sum().to(loss.dtype))
