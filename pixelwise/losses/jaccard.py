"""Soft Jaccard loss (intersection over union), for several classes."""

from jaxtyping import Float, Integer
from torch import Tensor

from .module import LossModule
from .pixels import Reduction, one_of, over, per_class, prepared
from .regions import over_classes, regions


def jaccard_loss(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b ..."],
    *,
    ignore: int = 255,
    weight: Float[Tensor, " k"] | None = None,
    exclusive: bool = True,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """1 - J_c, J = sum(p g) / (sum(p) + sum(g) - sum(p g)), for each class c that the labels hold.

    The soft intersection over union of Rahman and Wang (ISVC 2016); p and g are those of `dice_loss`, sums
    run over all pixels of the batch that count. Classes that no label holds are left out, as there, and
    J = D / (2 - D).

    Args:
        logits: one score per class and pixel.
        labels: one class per pixel, or `ignore`; without `exclusive` 0, 1 or `ignore` per class and pixel.
        ignore: label of pixels (without `exclusive`: of entries) that do not count.
        weight: one factor per class.
        exclusive: whether a pixel has exactly one class (softmax), or each class its own sigmoid.
        reduction: "mean" divides the sum over the classes that are there by their number, or with
            `weight` by the sum of their weights; "none" gives one value per class, 0 for the others.

    Raises:
        ValueError: on shapes that do not fit, an unknown reduction or, on the CPU, a label that is no class.

    >>> import torch
    >>> labels = torch.tensor([[[0, 1], [1, 0]]])
    >>> round(jaccard_loss(torch.zeros(1, 2, 2, 2), labels).item(), 4)  # J = 1 / (2 + 2 - 1)
    0.6667
    """
    one_of(reduction)
    logits, labels = prepared(logits, labels, exclusive)
    weight = per_class(weight, logits)
    overlap, mass, _, support = (part.sum(0) for part in regions(logits, labels, ignore, exclusive))
    loss = 1 - over(overlap, mass + support - overlap)
    return over_classes(loss, support > 0, weight, reduction)


class Jaccard(LossModule):
    """`jaccard_loss` with its settings.

    Args:
        ignore: label of pixels that do not count.
        weight: one factor per class.
        exclusive: whether a pixel has exactly one class (softmax), or each class its own sigmoid.
        reduction: see `jaccard_loss`.
    """

    def forward(
        self, logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b ..."]
    ) -> Float[Tensor, "..."]:
        """See `jaccard_loss`."""
        return jaccard_loss(logits, labels, **self.settings)
