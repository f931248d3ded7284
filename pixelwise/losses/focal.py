"""Focal loss (Lin et al., ICCV 2017, Sec. 3), with a softmax or, as in the paper, with sigmoids."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cross_entropy import surprise
from .module import LossModule
from .pixels import Reduction, counting, one_of, over, per_class, prepared, shares


def focal_loss(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b ..."],
    *,
    ignore: int = 255,
    alpha: Float[Tensor, " k"] | None = None,
    exclusive: bool = True,
    reduction: Reduction = "mean",
    gamma: float = 2.0,
) -> Float[Tensor, "..."]:
    """-alpha_y (1 - p_y)^gamma log p_y for the label y of each pixel that is not ignored (equation 5).

    p is the softmax of the logits. Without `exclusive` it is the paper's: a sigmoid per class, p_t = p where
    the class is there and 1 - p elsewhere, alpha_t = alpha_c and 1 - alpha_c; values are then those of
    `torchvision.ops.sigmoid_focal_loss`.

    Args:
        logits: one score per class and pixel.
        labels: one class per pixel, or `ignore`; without `exclusive` 0, 1 or `ignore` per class and pixel.
        ignore: label of pixels (without `exclusive`: of entries) that do not count.
        alpha: one factor per class; without `exclusive` in [0, 1] (RetinaNet: 0.25).
        exclusive: whether a pixel has exactly one class (softmax), or each class its own sigmoid.
        reduction: "mean" divides the sum by the number of labels that count, also with `alpha` (the
            paper's balance does not change the divisor; the weights of `cross_entropy` do); "none" gives
            one value per label, 0 where ignored.
        gamma: how much well classified pixels lose, at least 0; 0 is cross-entropy.

    Raises:
        ValueError: on shapes that do not fit, an unknown reduction or, on the CPU, a label that is no class.

    >>> import torch
    >>> logits = torch.zeros(1, 2, 1, 1)  # p = 1/2: (1/2)^2 log 2
    >>> focal_loss(logits, torch.tensor([[[1]]])).item()
    0.1732867956161499
    """
    one_of(reduction)
    logits, labels = prepared(logits, labels, exclusive)
    alpha = per_class(alpha, logits)
    valid = counting(labels, ignore)
    loss: Tensor = _Focused.apply(surprise(logits, labels, ignore, exclusive), gamma)
    if alpha is not None and exclusive:
        loss = loss * shares(valid, labels, alpha, exclusive)
    elif alpha is not None:
        alpha = alpha.view(-1, *[1] * (logits.ndim - 2))
        loss = loss * torch.where(labels == 1, alpha, 1 - alpha)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else over(loss.sum(), valid.count_nonzero())


class _Focused(torch.autograd.Function):
    """f(s) = (1 - p)^gamma s of the surprise s = -log p; its slope is kept instead of every step to it."""

    @staticmethod
    def forward(ctx: Any, surprise: Tensor, gamma: float) -> Tensor:
        missing = torch.neg(surprise).expm1_().neg_()  # 1 - p
        # (1 - p)^(gamma - 1) has no finite value at p = 1 for gamma < 1; the slope is 0 there.
        missing.clamp_(min=torch.finfo(missing.dtype).tiny)
        factor = missing.pow(gamma)
        if ctx.needs_input_grad[0]:  # (1 - p)^gamma + gamma (1 - p)^gamma (s / (1 - p) - s)
            growth = torch.neg(surprise).addcdiv_(surprise, missing)
            ctx.save_for_backward(torch.addcmul(factor, factor, growth, value=gamma))
        return factor.mul_(surprise)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return grad * slope, None


class Focal(LossModule):
    """`focal_loss` with its settings.

    Args:
        ignore: label of pixels that do not count.
        alpha: one factor per class; without `exclusive` in [0, 1].
        exclusive: whether a pixel has exactly one class (softmax), or each class its own sigmoid.
        reduction: see `focal_loss`.
        gamma: how much well classified pixels lose, at least 0.
    """

    def __init__(
        self,
        *,
        ignore: int = 255,
        alpha: Sequence[float] | Tensor | None = None,
        exclusive: bool = True,
        reduction: Reduction = "mean",
        gamma: float = 2.0,
    ) -> None:
        super().__init__(ignore=ignore, weight=alpha, exclusive=exclusive, reduction=reduction)
        if gamma < 0:
            raise ValueError(f"gamma must be at least 0, got {gamma}")
        if self.weight is not None and not exclusive and bool((self.weight > 1).any()):
            raise ValueError(
                f"alpha of classes that are not exclusive must be in [0, 1], got {self.weight.tolist()}"
            )
        self.gamma = gamma

    def forward(
        self, logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b ..."]
    ) -> Float[Tensor, "..."]:
        """See `focal_loss`."""
        settings = self.settings
        return focal_loss(logits, labels, alpha=settings.pop("weight"), **settings, gamma=self.gamma)
