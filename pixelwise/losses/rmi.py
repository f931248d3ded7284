"""Region mutual information (Zhao et al., NeurIPS 2019)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor
from torch.nn import functional as F

from .class_maps import class_maps, over_classes
from .module import LossModule
from .pixels import Reduction, one_of, per_class

_ALPHA = 5e-4  # added to the diagonal of a covariance, as in the authors' code


def rmi_loss(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b ..."],
    *,
    ignore: int = 255,
    weight: Float[Tensor, " k"] | None = None,
    exclusive: bool = True,
    radius: int = 3,
    pool: int = 4,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """(log det M) / (2 d) for each image and each class in it; M = Cov(y) - Cov(y, p) Cov(p)^-1 Cov(p, y).

    Every cell is described by the d = radius^2 (radius^3 in a volume) values of its neighbourhood, y in the
    truth and p in the prediction; M is the covariance of y that p does not explain, and the loss the negative
    lower bound of their mutual information, without its constant (equations 11 and 15). It looks at structure
    only: a class that an image lacks gives no gradient, so add it to cross-entropy, half and half as in the
    paper. Values may be below 0.

    As in the authors' code (ZJULearning/RMI) maps are first pooled by their mean, covariances are sums, not
    means, over cells, and all of it is float64: float32 would lose the diagonal's 5e-4 beside sums of 1e5.
    They sum over the classes; "sum" divided by the number of images is their value. They use a sigmoid per
    class also for exclusive classes; here these have a softmax, as everywhere.

    Args:
        logits: one score per class and cell, on a plane or a volume.
        labels: one class per cell if `exclusive`, else 0 or 1 per class and cell; or `ignore`.
        ignore: label of cells that do not count; truth and prediction are 0 there.
        weight: one factor per class.
        exclusive: whether p is the softmax of the logits or a sigmoid per class.
        radius: side of a neighbourhood in pooled cells.
        pool: side of a pooled cell in cells.
        reduction: "mean" divides the sum by the number of classes in images, or with `weight` by the sum of
            their weights; "none" gives one value per image and class, 0 for classes that are not there.

    Raises:
        ValueError: on shapes that do not fit, a grid that holds no neighbourhood or an unknown reduction.

    >>> labels = torch.eye(24, dtype=torch.long)[None]
    >>> right = torch.stack([1 - labels, labels], 1) * 20.0
    >>> (rmi_loss(right, labels) < rmi_loss(0.1 * right, labels)).item()
    True
    """
    one_of(reduction)
    p, truth, valid = class_maps(logits, labels, ignore, exclusive)
    prediction = _neighbourhoods(torch.where(valid, p, 0).double(), radius, pool)
    target = _neighbourhoods(truth.double(), radius, pool)
    d = target.shape[-1]
    diagonal = _ALPHA * torch.eye(d, dtype=torch.float64, device=p.device)
    factor = _cholesky(prediction.mT @ prediction + diagonal)
    explained = torch.linalg.solve_triangular(factor, prediction.mT @ target, upper=False)
    remaining = target.mT @ target - explained.mT @ explained + diagonal
    log_det = 2 * _cholesky(remaining).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    loss = (log_det / (2 * d)).to(p.dtype)
    return over_classes(loss, truth.flatten(2).any(-1), per_class(weight, p), reduction)


def _neighbourhoods(maps: Float64[Tensor, "b k *grid"], radius: int, pool: int) -> Float64[Tensor, "b k n d"]:
    """Values of each pooled cell's neighbourhood, less their mean over all cells."""
    axes = maps.ndim - 2
    average = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[axes - 1]
    if pool > 1:
        maps = average(maps, pool, stride=pool, padding=pool // 2)
    if min(maps.shape[2:]) < radius:
        raise ValueError(
            f"neighbourhoods of {radius} pooled cells need a grid of at least that many along every axis, "
            f"got {tuple(maps.shape[2:])} after pooling by {pool}"
        )
    for axis in range(2, 2 + axes):
        maps = maps.unfold(axis, radius, 1)
    vectors = maps.flatten(2 + axes).flatten(2, 1 + axes)
    return vectors - vectors.mean(2, keepdim=True)


def _cholesky(matrix: Float64[Tensor, "b k d d"]) -> Float64[Tensor, "b k d d"]:
    """Lower factor. A matrix with nan gives nan, where `torch.linalg.cholesky` would raise."""
    factor: Tensor = torch.linalg.cholesky_ex((matrix + matrix.mT) / 2).L
    return factor


class RMI(LossModule):
    """`rmi_loss` with its settings.

    Args:
        ignore: label of cells that do not count.
        weight: one factor per class.
        exclusive: whether a cell has exactly one class.
        radius: side of a neighbourhood in pooled cells, at least 1.
        pool: side of a pooled cell in cells, at least 1.
        reduction: see `rmi_loss`.
    """

    def __init__(
        self,
        *,
        ignore: int = 255,
        weight: Sequence[float] | Tensor | None = None,
        exclusive: bool = True,
        radius: int = 3,
        pool: int = 4,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(ignore=ignore, weight=weight, exclusive=exclusive, reduction=reduction)
        if radius < 1 or pool < 1:
            raise ValueError(f"radius and pool must be at least 1, got {radius} and {pool}")
        self.radius, self.pool = radius, pool

    def forward(
        self, logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b ..."]
    ) -> Float[Tensor, "..."]:
        """See `rmi_loss`."""
        return rmi_loss(
            logits,
            labels,
            **self.settings,
            radius=self.radius,
            pool=self.pool,
        )
