"""Soft Dice loss (V-Net, Milletari et al., 3DV 2016, Sec. 3) of several classes, and generalised Dice."""

from collections.abc import Sequence

from jaxtyping import Float, Integer
from torch import Tensor

from .module import LossModule
from .pixels import Reduction, one_of, over, per_class, prepared
from .regions import over_classes, regions


def dice_loss(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b ..."],
    *,
    ignore: int = 255,
    weight: Float[Tensor, " k"] | None = None,
    exclusive: bool = True,
    reduction: Reduction = "mean",
    squared: bool = False,
) -> Float[Tensor, "..."]:
    """1 - D_c, D_c = 2 sum(p_c g_c) / (sum(p_c) + sum(g_c)), for each class that the labels hold.

    p is the softmax of the logits (without `exclusive` a sigmoid per class), g_c is 1 where the label is c;
    sums run over all pixels of the batch that count. A class that no label holds has no Dice coefficient:
    with p_c > 0 everywhere D_c would be 0 with zero gradient whatever the network says, so such classes are
    left out of sum and divisor alike (segmentation_models_pytorch divides by all classes: a prediction that
    is wrong everywhere costs 1/3 there where one class of three is present). With a softmax their pixels are
    not free: what they take away is missing in the classes that are there. With sigmoids they are: add a
    cross-entropy. No smoothing constant is needed, and a prediction that is wrong everywhere costs 1.

    With `squared`, D_c = 2 sum(p g) / (sum(p^2) + sum(g^2)) as in V-Net, with the gradient
    dD/dp_j = 2 (g_j (sum(p^2) + sum(g^2)) - 2 p_j sum(p g)) / (sum(p^2) + sum(g^2))^2.

    Args:
        logits: one score per class and pixel.
        labels: one class per pixel, or `ignore`; without `exclusive` 0, 1 or `ignore` per class and pixel.
        ignore: label of pixels (without `exclusive`: of entries) that do not count.
        weight: one factor per class.
        exclusive: whether a pixel has exactly one class (softmax), or each class its own sigmoid.
        reduction: "mean" divides the sum over the classes that are there by their number, or with
            `weight` by the sum of their weights; "none" gives one value per class, 0 for the others.
        squared: whether the divisor is sum(p_c^2) + sum(g_c) as in V-Net.

    Raises:
        ValueError: on shapes that do not fit, an unknown reduction or, on the CPU, a label that is no class.

    >>> import torch
    >>> labels = torch.tensor([[[0, 1], [1, 0]]])
    >>> dice_loss(torch.zeros(1, 2, 2, 2), labels).item()  # p = 1/2 everywhere: D = 2 * 1 / (2 + 2)
    0.5
    """
    one_of(reduction)
    logits, labels = prepared(logits, labels, exclusive)
    weight = per_class(weight, logits)
    overlap, mass, squares, support = (
        part.sum(0) for part in regions(logits, labels, ignore, exclusive, squared)
    )
    loss = 1 - over(2 * overlap, (squares if squared else mass) + support)
    return over_classes(loss, support > 0, weight, reduction)


def generalised_dice_loss(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b ..."],
    *,
    ignore: int = 255,
    weight: Float[Tensor, " k"] | None = None,
    exclusive: bool = True,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """1 - 2 sum_c(w_c sum(p_c g_c)) / sum_c(w_c sum(p_c + g_c)), w_c = 1 / sum(g_c)^2, for each image.

    Sudre et al., DLMIA 2017, Sec. 2: one number over all classes, in which a class counts by the inverse of
    its squared volume. That of a class without volume is infinite: such classes are left out, as in
    `dice_loss`. (MONAI gives them the largest finite weight, so that its value depends on the class table.)

    Args:
        logits: one score per class and pixel.
        labels: one class per pixel, or `ignore`; without `exclusive` 0, 1 or `ignore` per class and pixel.
        ignore: label of pixels (without `exclusive`: of entries) that do not count.
        weight: one more factor per class, multiplied with w_c.
        exclusive: whether a pixel has exactly one class (softmax), or each class its own sigmoid.
        reduction: "mean" over the images in which something counts; "none" gives one value per image.

    Raises:
        ValueError: on shapes that do not fit, an unknown reduction or, on the CPU, a label that is no class.

    >>> import torch
    >>> labels = torch.tensor([[[0, 0], [0, 1]]])  # w = 1/9, 1; D = 2 (1.5/9 + 0.5) / (5/9 + 3) = 3/8
    >>> generalised_dice_loss(torch.zeros(1, 2, 2, 2), labels).item()
    0.625
    """
    one_of(reduction)
    logits, labels = prepared(logits, labels, exclusive)
    weight = per_class(weight, logits)
    overlap, mass, _, support = regions(logits, labels, ignore, exclusive)
    # Volumes as shares of the largest: the square of a number of voxels can leave float32.
    volume = over(support, support.amax(1, keepdim=True))
    factor = over((support > 0).to(volume.dtype), volume.square())
    if weight is not None:
        factor = weight * factor
    total = (factor * (mass + support)).sum(1)
    there = total > 0
    loss = there * (1 - over(2 * (factor * overlap).sum(1), total))
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else over(loss.sum(), there.count_nonzero())


class Dice(LossModule):
    """`dice_loss` with its settings.

    Args:
        ignore: label of pixels that do not count.
        weight: one factor per class.
        exclusive: whether a pixel has exactly one class (softmax), or each class its own sigmoid.
        reduction: see `dice_loss`.
        squared: whether to divide by squares as V-Net does.
    """

    def __init__(
        self,
        *,
        ignore: int = 255,
        weight: Sequence[float] | Tensor | None = None,
        exclusive: bool = True,
        reduction: Reduction = "mean",
        squared: bool = False,
    ) -> None:
        super().__init__(ignore=ignore, weight=weight, exclusive=exclusive, reduction=reduction)
        self.squared = squared

    def forward(
        self, logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b ..."]
    ) -> Float[Tensor, "..."]:
        """See `dice_loss`."""
        return dice_loss(logits, labels, **self.settings, squared=self.squared)


class GeneralisedDice(LossModule):
    """`generalised_dice_loss` with its settings.

    Args:
        ignore: label of pixels that do not count.
        weight: one more factor per class.
        exclusive: whether a pixel has exactly one class (softmax), or each class its own sigmoid.
        reduction: see `generalised_dice_loss`.
    """

    def forward(
        self, logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b ..."]
    ) -> Float[Tensor, "..."]:
        """See `generalised_dice_loss`."""
        return generalised_dice_loss(logits, labels, **self.settings)
