"""Tversky loss (Salehi et al., MLMI 2017) and focal Tversky loss (Abraham and Khan, ISBI 2019)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from .module import LossModule
from .pixels import Reduction, one_of, over, per_class, prepared
from .regions import over_classes, regions


def tversky_loss(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b ..."],
    *,
    ignore: int = 255,
    weight: Float[Tensor, " k"] | None = None,
    exclusive: bool = True,
    reduction: Reduction = "mean",
    alpha: float = 0.3,
    beta: float = 0.7,
) -> Float[Tensor, "..."]:
    """1 - T_c, T_c = TP / (TP + alpha FP + beta FN), for each class that the labels hold.

    TP = sum(p_c g_c), FP = sum(p_c (1 - g_c)) and FN = sum((1 - p_c) g_c) over all pixels of the batch that
    count. Salehi et al. (Sec. 2) call the factor of false positives alpha, and so do
    segmentation_models_pytorch and MONAI; Abraham and Khan call it beta. alpha = beta = 1/2 is `dice_loss`,
    alpha = beta = 1 `jaccard_loss`. Classes that no label holds are left out, as there.

    Args:
        logits: one score per class and pixel.
        labels: one class per pixel, or `ignore`; without `exclusive` 0, 1 or `ignore` per class and pixel.
        ignore: label of pixels (without `exclusive`: of entries) that do not count.
        weight: one factor per class.
        exclusive: whether a pixel has exactly one class (softmax), or each class its own sigmoid.
        reduction: "mean" divides the sum over the classes that are there by their number, or with
            `weight` by the sum of their weights; "none" gives one value per class, 0 for the others.
        alpha: what false positives weigh.
        beta: what false negatives weigh.

    Raises:
        ValueError: on shapes that do not fit, an unknown reduction or, on the CPU, a label that is no class.

    >>> import torch
    >>> labels = torch.tensor([[[0, 1], [1, 0]]])  # TP = FP = FN = 1
    >>> tversky_loss(torch.zeros(1, 2, 2, 2), labels).item()
    0.5
    """
    one_of(reduction)
    logits, labels = prepared(logits, labels, exclusive)
    weight = per_class(weight, logits)
    loss, support = _complement(logits, labels, ignore, exclusive, alpha, beta)
    return over_classes(loss, support > 0, weight, reduction)


def focal_tversky_loss(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b ..."],
    *,
    ignore: int = 255,
    weight: Float[Tensor, " k"] | None = None,
    exclusive: bool = True,
    reduction: Reduction = "mean",
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 4 / 3,
) -> Float[Tensor, "..."]:
    """(1 - T_c)^(1 / gamma) with the T_c of `tversky_loss`, for each class that the labels hold.

    The exponent is 1 / gamma as in the paper (Sec. 2.2, which has gamma in [1, 3] and 4/3 as the best);
    segmentation_models_pytorch takes the exponent itself, 0.75 for the paper's 4/3.

    Args:
        logits: one score per class and pixel.
        labels: one class per pixel, or `ignore`; without `exclusive` 0, 1 or `ignore` per class and pixel.
        ignore: label of pixels (without `exclusive`: of entries) that do not count.
        weight: one factor per class.
        exclusive: whether a pixel has exactly one class (softmax), or each class its own sigmoid.
        reduction: see `tversky_loss`.
        alpha: what false positives weigh (beta in the paper).
        beta: what false negatives weigh (alpha in the paper).
        gamma: above 1, classes that are nearly right keep a large slope; below 1, they lose it.

    Raises:
        ValueError: on shapes that do not fit, an unknown reduction or, on the CPU, a label that is no class.

    >>> import torch
    >>> labels = torch.tensor([[[0, 1], [1, 0]]])
    >>> round(focal_tversky_loss(torch.zeros(1, 2, 2, 2), labels).item(), 4)  # (1/2)^(3/4)
    0.5946
    """
    one_of(reduction)
    logits, labels = prepared(logits, labels, exclusive)
    weight = per_class(weight, logits)
    loss, support = _complement(logits, labels, ignore, exclusive, alpha, beta)
    # A root has no finite slope at 0; that of the loss is 0 there.
    loss = loss.clamp_min(torch.finfo(loss.dtype).tiny) ** (1 / gamma)
    return over_classes(loss, support > 0, weight, reduction)


def _complement(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b ..."],
    ignore: int,
    exclusive: bool,
    alpha: float,
    beta: float,
) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
    """1 - T of every class, and its number of pixels."""
    overlap, mass, _, support = (part.sum(0) for part in regions(logits, labels, ignore, exclusive))
    faults = alpha * (mass - overlap) + beta * (support - overlap)
    return over(faults, overlap + faults), support


class Tversky(LossModule):
    """`tversky_loss` with its settings.

    Args:
        ignore: label of pixels that do not count.
        weight: one factor per class.
        exclusive: whether a pixel has exactly one class (softmax), or each class its own sigmoid.
        reduction: see `tversky_loss`.
        alpha: what false positives weigh.
        beta: what false negatives weigh.
    """

    def __init__(
        self,
        *,
        ignore: int = 255,
        weight: Sequence[float] | Tensor | None = None,
        exclusive: bool = True,
        reduction: Reduction = "mean",
        alpha: float = 0.3,
        beta: float = 0.7,
    ) -> None:
        super().__init__(ignore=ignore, weight=weight, exclusive=exclusive, reduction=reduction)
        _factors(alpha, beta)
        self.alpha, self.beta = alpha, beta

    def forward(
        self, logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b ..."]
    ) -> Float[Tensor, "..."]:
        """See `tversky_loss`."""
        return tversky_loss(
            logits,
            labels,
            **self.settings,
            alpha=self.alpha,
            beta=self.beta,
        )


class FocalTversky(LossModule):
    """`focal_tversky_loss` with its settings.

    Args:
        ignore: label of pixels that do not count.
        weight: one factor per class.
        exclusive: whether a pixel has exactly one class (softmax), or each class its own sigmoid.
        reduction: see `tversky_loss`.
        alpha: what false positives weigh (beta in the paper).
        beta: what false negatives weigh (alpha in the paper).
        gamma: the exponent is 1 / gamma.
    """

    def __init__(
        self,
        *,
        ignore: int = 255,
        weight: Sequence[float] | Tensor | None = None,
        exclusive: bool = True,
        reduction: Reduction = "mean",
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 4 / 3,
    ) -> None:
        super().__init__(ignore=ignore, weight=weight, exclusive=exclusive, reduction=reduction)
        _factors(alpha, beta)
        if gamma <= 0:
            raise ValueError(f"gamma must be positive, got {gamma}")
        self.alpha, self.beta, self.gamma = alpha, beta, gamma

    def forward(
        self, logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b ..."]
    ) -> Float[Tensor, "..."]:
        """See `focal_tversky_loss`."""
        return focal_tversky_loss(
            logits,
            labels,
            **self.settings,
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
        )


def _factors(alpha: float, beta: float) -> None:
    if alpha < 0 or beta < 0:
        raise ValueError(f"alpha and beta must be at least 0, got {alpha} and {beta}")
