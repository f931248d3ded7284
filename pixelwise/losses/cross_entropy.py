"""Pixel-wise cross-entropy, the loss of fully convolutional networks."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from .pixels import Reduction, as_weight, one_of, over, per_class, prepared


def cross_entropy(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b *grid"],
    *,
    ignore: int = 255,
    weight: Float[Tensor, " k"] | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """-w_y log softmax(logits)_y for the label y of each pixel that is not ignored.

    Values are those of `torch.nn.functional.cross_entropy`; only the mean over nothing differs, 0 here
    with zero gradient and nan there.

    Args:
        logits: one score per class and pixel.
        labels: one class per pixel, or `ignore`.
        ignore: label of pixels that do not count.
        weight: one factor per class.
        label_smoothing: share of the target in [0, 1] that is dealt equally to all classes.
        reduction: "mean" divides the sum by the number of pixels that count, or with `weight` by the sum
            of the weights of their labels (Caffe divides by the number of pixels also then); "none" gives
            one value per pixel, 0 where ignored.

    Raises:
        ValueError: on shapes that do not fit or an unknown reduction.

    >>> import torch
    >>> cross_entropy(torch.zeros(1, 4, 2, 2), torch.tensor([[[0, 1], [2, 255]]])).item()  # log 4
    1.3862943649291992
    """
    one_of(reduction)
    logits, labels = prepared(logits, labels)
    weight = per_class(weight, logits)
    loss = F.cross_entropy(
        logits,
        labels,
        weight,
        ignore_index=ignore,
        label_smoothing=label_smoothing,
        reduction="none" if reduction == "none" else "sum",
    )
    if reduction != "mean":
        return loss
    if weight is None:
        return over(loss, (labels != ignore).count_nonzero())
    index = torch.where(labels == ignore, len(weight), labels).flatten()
    return over(loss, F.pad(weight, (0, 1)).index_select(0, index).sum())


class CrossEntropy(nn.Module):
    """`cross_entropy` with its settings.

    Args:
        ignore: label of pixels that do not count.
        weight: one factor per class.
        label_smoothing: share of the target in [0, 1] that is dealt equally to all classes.
        reduction: see `cross_entropy`.
    """

    weight: Tensor | None

    def __init__(
        self,
        *,
        ignore: int = 255,
        weight: Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
        one_of(reduction)
        self.register_buffer("weight", as_weight(weight), persistent=False)
        self.ignore, self.label_smoothing, self.reduction = ignore, label_smoothing, reduction

    def forward(
        self, logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b *grid"]
    ) -> Float[Tensor, "..."]:
        """See `cross_entropy`."""
        return cross_entropy(
            logits,
            labels,
            ignore=self.ignore,
            weight=self.weight,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
        )
