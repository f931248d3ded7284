"""Pixel-wise cross-entropy, the loss of fully convolutional networks, with a softmax or with sigmoids."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn import functional as F

from .module import LossModule
from .pixels import counted, counting, one_of, over, per_class, prepared, shares, where_present

WithImages = Literal["mean", "sum", "none", "image_sum"]
_REDUCTIONS = get_args(WithImages)


def cross_entropy(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b ..."],
    *,
    ignore: int = 255,
    weight: Float[Tensor, " k"] | None = None,
    exclusive: bool = True,
    reduction: WithImages = "mean",
    label_smoothing: float = 0.0,
    pixel_weight: Float[Tensor, "b *grid"] | None = None,
) -> Float[Tensor, "..."]:
    """-w_y log softmax(logits)_y for the label y of each pixel that is not ignored.

    Values are those of `torch.nn.functional.cross_entropy`; only the mean over nothing differs, 0 here
    with zero gradient and nan there. Without `exclusive` the values of every class and pixel are those of
    `torch.nn.functional.binary_cross_entropy_with_logits`, times the weight of the class.

    Args:
        logits: one score per class and pixel.
        labels: one class per pixel, or `ignore`; without `exclusive` 0, 1 or `ignore` per class and pixel.
        ignore: label of pixels (without `exclusive`: of entries) that do not count.
        weight: one factor per class.
        exclusive: whether a pixel has exactly one class (softmax), or each class its own sigmoid.
        reduction: "mean" divides the sum by the number of labels that count, or with `weight` or
            `pixel_weight` by the sum of their weights (Caffe divides by the number of pixels also then);
            "image_sum" adds up the pixels of an image and averages over images, which is the loss to which
            the learning rates of FCN's authors belong (1e-10 to 1e-14, one image per batch); "none" gives
            one value per label, 0 where ignored.
        label_smoothing: share of the target in [0, 1] that is dealt equally to all classes, or, without
            `exclusive`, to yes and no.
        pixel_weight: one factor per pixel, at least 0, such as U-Net's map.

    Raises:
        ValueError: on shapes that do not fit, an unknown reduction or, on the CPU, a label that is no class.

    >>> import torch
    >>> cross_entropy(torch.zeros(1, 4, 2, 2), torch.tensor([[[0, 1], [2, 255]]])).item()  # log 4
    1.3862943649291992
    """
    one_of(reduction, _REDUCTIONS)
    logits, labels = prepared(logits, labels, exclusive)
    weight = per_class(weight, logits)
    each = reduction == "none" or pixel_weight is not None
    if exclusive:
        loss = _softmax(logits, labels, ignore, weight, label_smoothing, each)
        valid = counting(labels, ignore)
    else:
        valid, hit = where_present(labels, ignore)
        loss = _sigmoids(logits, valid, hit, weight, label_smoothing)
    if pixel_weight is not None:
        factor = _per_pixel(pixel_weight, logits, exclusive)
        loss = torch.where(valid, loss * factor, 0)
    if reduction == "none":
        return loss
    total = loss.sum()
    if reduction == "sum":
        return total
    if reduction == "image_sum":
        return total / len(logits)
    share = shares(valid, labels, weight, exclusive)
    if pixel_weight is not None:
        share = torch.where(valid, share * factor, 0)
    return over(total, share.sum())


def _softmax(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b *grid"],
    ignore: int,
    weight: Float[Tensor, " k"] | None,
    label_smoothing: float,
    each: bool,
) -> Float[Tensor, "..."]:
    """The loss of each pixel, 0 where ignored, or their sum."""
    try:
        return F.cross_entropy(
            logits,
            labels,
            weight,
            ignore_index=ignore,
            label_smoothing=label_smoothing,
            reduction="none" if each else "sum",
        )
    except IndexError:  # on the CPU torch looks at every label: only to name the bad one takes time here
        counted(labels, ignore, logits.shape[1])
        raise


def _sigmoids(
    logits: Float[Tensor, "b k *grid"],
    valid: Bool[Tensor, "b k *grid"],
    hit: Bool[Tensor, "b k *grid"],
    weight: Float[Tensor, " k"] | None,
    label_smoothing: float,
) -> Float[Tensor, "b k *grid"]:
    """The loss of each entry, 0 where ignored."""
    against = torch.where(hit, -logits, logits)
    loss = F.softplus(against, threshold=50)  # -log sigmoid(-against)
    if label_smoothing:
        loss = loss - 0.5 * label_smoothing * against
    loss = torch.where(valid, loss, 0)
    return loss if weight is None else loss * weight.view(-1, *[1] * (logits.ndim - 2))


def surprise(
    logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b ..."], ignore: int, exclusive: bool
) -> Float[Tensor, "b ..."]:
    """-log p of what each label says, 0 where it is ignored; logits and labels are `prepared`."""
    return cross_entropy(logits, labels, ignore=ignore, exclusive=exclusive, reduction="none")


def _per_pixel(
    pixel_weight: Float[Tensor, "b *grid"], logits: Float[Tensor, "b k *grid"], exclusive: bool
) -> Float[Tensor, "b ..."]:
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(pixel_weight.shape) != expected:
        raise ValueError(f"pixel_weight must have shape {expected}, got {tuple(pixel_weight.shape)}")
    return pixel_weight.to(logits) if exclusive else pixel_weight.to(logits)[:, None]


class CrossEntropy(LossModule):
    """`cross_entropy` with its settings.

    Args:
        ignore: label of pixels that do not count.
        weight: one factor per class.
        exclusive: whether a pixel has exactly one class (softmax), or each class its own sigmoid.
        reduction: see `cross_entropy`.
        label_smoothing: share of the target in [0, 1] that is dealt equally to all classes.
    """

    reductions = _REDUCTIONS

    def __init__(
        self,
        *,
        ignore: int = 255,
        weight: Sequence[float] | Tensor | None = None,
        exclusive: bool = True,
        reduction: WithImages = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(ignore=ignore, weight=weight, exclusive=exclusive, reduction=reduction)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def forward(
        self,
        logits: Float[Tensor, "b k *grid"],
        labels: Integer[Tensor, "b ..."],
        pixel_weight: Float[Tensor, "b *grid"] | None = None,
    ) -> Float[Tensor, "..."]:
        """See `cross_entropy`."""
        return cross_entropy(
            logits,
            labels,
            **self.settings,
            label_smoothing=self.label_smoothing,
            pixel_weight=pixel_weight,
        )
