"""Cross-entropy of the hardest pixels (online hard example mining, Shrivastava et al., CVPR 2016)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from .cross_entropy import surprise
from .module import LossModule
from .pixels import Reduction, counting, one_of, over, per_class, prepared, shares


def ohem_loss(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b ..."],
    *,
    ignore: int = 255,
    weight: Float[Tensor, " k"] | None = None,
    exclusive: bool = True,
    reduction: Reduction = "mean",
    threshold: float = 0.7,
    min_kept: int = 100_000,
    fraction: float | None = None,
) -> Float[Tensor, "..."]:
    """`cross_entropy` of those pixels of the batch to whose label y the network gives the smallest p_y.

    As in the segmentation networks that use it (PSPNet's and HRNet's training code and others): pixels with
    p_y < `threshold` are kept, and at least `min_kept` per image of the batch, or all if there are fewer.
    With `fraction` the hardest share of the pixels that count is kept instead (nnU-Net's top-k loss: 0.1).
    Pixels as hard as the last one that is kept are kept too. Hard is told by p_y alone, without weights.

    Args:
        logits: one score per class and pixel.
        labels: one class per pixel, or `ignore`; without `exclusive` 0, 1 or `ignore` per class and pixel,
            and what is said here of pixels holds for these entries.
        ignore: label of pixels (without `exclusive`: of entries) that do not count.
        weight: one factor per class.
        exclusive: whether a pixel has exactly one class (softmax), or each class its own sigmoid.
        reduction: "mean" divides the sum by the number of pixels that are kept, or with `weight` by the sum
            of the weights of their labels; "none" gives one value per label, 0 where it is not kept.
        threshold: probability in [0, 1] below which a pixel is hard.
        min_kept: number of pixels per image that are kept in any case.
        fraction: share of the pixels in (0, 1] to keep, instead of `threshold` and `min_kept`.

    Raises:
        ValueError: on shapes that do not fit, an unknown reduction or, on the CPU, a label that is no class.

    >>> import torch
    >>> logits = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 2.0, 4.0]]])
    >>> labels = torch.ones(1, 3, dtype=torch.long)  # p_y = 0.5, 0.88, 0.98
    >>> ohem_loss(logits, labels, min_kept=1).item()  # log 2
    0.6931471824645996
    """
    one_of(reduction)
    logits, labels = prepared(logits, labels, exclusive)
    weight = per_class(weight, logits)
    valid = counting(labels, ignore)
    loss = surprise(logits, labels, ignore, exclusive)
    kept = _hardest(loss.detach(), valid, threshold, min_kept * len(logits), fraction)
    share = shares(kept, labels, weight, exclusive)
    loss = loss * share
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else over(loss.sum(), share.sum())


def _hardest(
    loss: Float[Tensor, "*shape"],
    valid: Bool[Tensor, "*shape"],
    threshold: float,
    min_kept: int,
    fraction: float | None,
) -> Bool[Tensor, "*shape"]:
    """Where the loss is one of the largest of those that count."""
    if loss.numel() == 0:
        return valid
    ranked = torch.where(valid, loss, -1).flatten()
    if fraction is not None:
        share = (valid.count_nonzero() * fraction).ceil().long()
        return valid & (loss >= _largest(ranked, share))
    hard = loss > (-math.log(threshold) if threshold > 0 else math.inf)
    if min_kept > 0:
        hard |= loss >= _largest(ranked, torch.tensor(min_kept, device=loss.device))
    return valid & hard


def _largest(values: Float[Tensor, " n"], count: Integer[Tensor, ""]) -> Float[Tensor, ""]:
    """The last of the `count` largest values, or of all."""
    count = count.clamp(1, len(values))
    if values.device.type == "cpu" and not torch.compiler.is_compiling():
        return values.kthvalue(len(values) - int(count) + 1).values
    # Does not wait for the device, as an index by a number would.
    return values.sort(descending=True).values.gather(0, (count - 1).view(1))[0]


class Ohem(LossModule):
    """`ohem_loss` with its settings.

    Args:
        ignore: label of pixels that do not count.
        weight: one factor per class.
        exclusive: whether a pixel has exactly one class (softmax), or each class its own sigmoid.
        reduction: see `ohem_loss`.
        threshold: probability in [0, 1] below which a pixel is hard.
        min_kept: number of pixels per image that are kept in any case.
        fraction: share of the pixels in (0, 1] to keep, instead of `threshold` and `min_kept`.
    """

    def __init__(
        self,
        *,
        ignore: int = 255,
        weight: Sequence[float] | Tensor | None = None,
        exclusive: bool = True,
        reduction: Reduction = "mean",
        threshold: float = 0.7,
        min_kept: int = 100_000,
        fraction: float | None = None,
    ) -> None:
        super().__init__(ignore=ignore, weight=weight, exclusive=exclusive, reduction=reduction)
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be a probability in [0, 1], got {threshold}")
        if min_kept < 0:
            raise ValueError(f"min_kept must be at least 0, got {min_kept}")
        if fraction is not None and not 0 < fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {fraction}")
        self.threshold, self.min_kept, self.fraction = threshold, min_kept, fraction

    def forward(
        self, logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b ..."]
    ) -> Float[Tensor, "..."]:
        """See `ohem_loss`."""
        return ohem_loss(
            logits,
            labels,
            **self.settings,
            threshold=self.threshold,
            min_kept=self.min_kept,
            fraction=self.fraction,
        )
