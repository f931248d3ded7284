"""U-Net's weight map: thin gaps between objects count more (Ronneberger et al., MICCAI 2015, Sec. 3)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int32, Integer
from torch import Tensor

from .cross_entropy import cross_entropy
from .module import LossModule
from .pixels import Reduction, counted, one_of, over, prepared, where_present

_NOTHING = 1e-8  # a weight below it is 0: float32 loses it beside 1


def border_cross_entropy(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b ..."],
    *,
    ignore: int = 255,
    weight: Float[Tensor, " k"] | None = None,
    exclusive: bool = True,
    instances: Integer[Tensor, "b *grid"] | None = None,
    background: int = 0,
    balance: bool = True,
    w0: float = 10.0,
    sigma: float = 5.0,
    spacing: tuple[float, ...] | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Cross-entropy with `unet_weight_map`, computed at every call.

    Where images come without random deformations, compute the map once and give it to `cross_entropy` as
    `pixel_weight`: the values are the same.

    Args:
        logits: one score per class and cell, on a plane or a volume.
        labels: one class per cell if `exclusive`, else 0 or 1 per class and cell; or `ignore`.
        ignore: label of cells that do not count.
        weight: see `unet_weight_map`.
        exclusive: whether a cell has exactly one class (softmax), or each class its own sigmoid.
        instances: see `unet_weight_map`.
        background: see `unet_weight_map`.
        balance: see `unet_weight_map`.
        w0: see `unet_weight_map`.
        sigma: see `unet_weight_map`.
        spacing: see `unet_weight_map`.
        reduction: "mean" divides the sum by the sum of the map, so that a crowded image does not count more
            than an empty one; "sum" is the paper's energy (equation 1); "none" gives one value per label.

    Raises:
        ValueError: on shapes that do not fit or an unknown reduction.

    >>> labels = torch.tensor([[[1, 0, 1]]])  # a gap of one pixel between two objects
    >>> border_cross_entropy(torch.zeros(1, 2, 1, 3), labels, balance=False, reduction="none")
    tensor([[[0.6931, 7.0917, 0.6931]]])
    """
    one_of(reduction)
    logits, labels = prepared(logits, labels, exclusive)
    weights = unet_weight_map(
        labels,
        logits.shape[1],
        ignore=ignore,
        weight=weight,
        exclusive=exclusive,
        instances=instances,
        background=background,
        balance=balance,
        w0=w0,
        sigma=sigma,
        spacing=spacing,
    )
    loss = cross_entropy(logits, labels, ignore=ignore, exclusive=exclusive, reduction="none")
    loss = loss * weights.to(loss.dtype)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else over(loss.sum(), weights.sum())


def unet_weight_map(
    labels: Integer[Tensor, "b ..."],
    num_classes: int,
    *,
    ignore: int = 255,
    weight: Float[Tensor, " k"] | None = None,
    exclusive: bool = True,
    instances: Integer[Tensor, "b *grid"] | None = None,
    background: int = 0,
    balance: bool = True,
    w0: float = 10.0,
    sigma: float = 5.0,
    spacing: tuple[float, ...] | None = None,
) -> Float32[Tensor, "b ..."]:
    """w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2)), one weight per label (equation 2).

    w_c balances the classes: the number of cells of the image that count, over the number of those that have
    the label's class, over the number of classes there; every class has the same sum and the mean is 1.
    d1 and d2 are the exact distances to the nearest and the second nearest object; the second term is for the
    background only (inside an object d1 is 0, and many ports raise its rim too).

    Args:
        labels: one class per cell if `exclusive`, else 0 or 1 per class and cell; or `ignore`.
        num_classes: k.
        ignore: label of cells that do not count; their weight is 0.
        weight: one factor per class, of all of w; see `balance` for a w_c that needs none.
        exclusive: whether a cell has exactly one class; else each class has a map and objects of its own.
        instances: number of each cell's object, 0 for none; where objects touch only this tells them apart.
            Without it they are the regions of one class whose cells share faces. Needs `exclusive`.
        background: the class that is no object, of labels that are `exclusive`.
        balance: whether w_c balances the classes; 1 without.
        w0: weight in a vanishing gap.
        sigma: how wide a gap still counts, in cells, or in the unit of `spacing`.
        spacing: length of a cell along each axis; 1 without it.

    Raises:
        ValueError: on instances of another shape than the labels or of classes that are not exclusive, labels
            of other classes, other than one weight per class, or a sigma that is not above 0.

    >>> labels = torch.tensor([[[1, 1, 0, 0, 1]]])
    >>> unet_weight_map(labels, 2, balance=False)
    tensor([[[1.0000, 1.0000, 9.3527, 9.3527, 1.0000]]])
    """
    if instances is not None and (not exclusive or instances.shape != labels.shape):
        raise ValueError(
            f"instances need exclusive labels of their shape {tuple(instances.shape)}, got labels of shape "
            f"{tuple(labels.shape)} with exclusive={exclusive}"
        )
    if weight is not None and tuple(weight.shape) != (num_classes,):
        raise ValueError(f"{num_classes} classes need as many weights, got {tuple(weight.shape)}")
    if exclusive:
        valid, index = counted(labels, ignore, num_classes)
        index = index.long()
        objects = torch.where(valid & (labels != background), index + 1, 0)
        if instances is not None:
            objects = torch.where(valid, instances, 0)
        frequency = _balanced(valid, index, num_classes)
    else:
        valid, hit = where_present(labels, ignore)
        index, objects = hit.long(), hit.long().flatten(0, 1)
        frequency = _balanced(valid.flatten(0, 1), objects, 2).view(labels.shape)
    border = border_weight(objects, instances is None, w0, sigma, None if spacing is None else list(spacing))
    weights = border.view(labels.shape) + (frequency if balance else 1)
    if weight is not None:
        factors = weight.to(weights)
        if exclusive:
            weights = weights * factors.index_select(0, index.flatten()).view(index.shape)
        else:
            weights = weights * factors.view(-1, *[1] * (labels.ndim - 2))
    return torch.where(valid, weights, 0).float()


def _balanced(
    valid: Bool[Tensor, "n *grid"], index: Integer[Tensor, "n *grid"], num_classes: int
) -> Float32[Tensor, "n *grid"]:
    """Cells over cells of the same class over classes, per image."""
    known = valid.flatten(1).double()
    count = known.new_zeros(len(valid), num_classes).scatter_add(1, index.flatten(1), known)
    share = count * (count > 0).sum(1, keepdim=True)
    return over(known.sum(1, keepdim=True), share).gather(1, index.flatten(1)).view(index.shape).float()


@torch.library.custom_op(
    "pixelwise::border_weight",
    mutates_args=(),
    schema="(Tensor objects, bool regions, float w0, float sigma, float[]? spacing) -> Tensor",
)
def border_weight(
    objects: Integer[Tensor, "n *grid"], regions: bool, w0: float, sigma: float, spacing: list[float] | None
) -> Float32[Tensor, "n *grid"]:
    """w0 exp(-(d1 + d2)^2 / (2 sigma^2)) where there is no object, 0 on objects.

    Weights below 1e-8 are 0; so is the map of an image with fewer than two objects. Maps on a GPU go through
    the CPU.

    Args:
        objects: number of each cell's object, 0 for none.
        regions: whether cells of one number that do not touch are different objects.
        w0: weight in a vanishing gap.
        sigma: how wide a gap still counts, in cells, or in the unit of `spacing`.
        spacing: length of a cell along each axis; 1 without it.

    Raises:
        ValueError: if sigma is not above 0, w0 below 0, or the spacing does not fit the grid.
    """
    from ..kernels.masks.components import label_components

    if not 0 < sigma < math.inf or not 0 <= w0 < math.inf:
        raise ValueError(f"sigma must be above 0 and w0 at least 0, got {sigma} and {w0}")
    reach = sigma * math.sqrt(2 * math.log(max(w0 / _NOTHING, 1.0)))
    maps = np.zeros(objects.shape, np.float32)
    for one, out in zip(objects.cpu().numpy(), maps, strict=True):
        numbers = label_components(one)[0] if regions else _renumbered(one)
        nearest, second = _two_nearest(numbers, reach, None if spacing is None else tuple(spacing))
        both = nearest + second
        out[:] = np.where((one == 0) & (both <= reach), w0 * np.exp(-((both / sigma) ** 2) / 2), 0)
    return torch.from_numpy(maps).to(objects.device)


@border_weight.register_fake
def _(objects: Tensor, regions: bool, w0: float, sigma: float, spacing: list[float] | None) -> Tensor:
    return objects.new_empty(objects.shape, dtype=torch.float32)


def _renumbered(objects: Integer[np.ndarray, "*grid"]) -> Int32[np.ndarray, "*grid"]:
    """The same objects as 1, 2, ..."""
    known = np.unique(objects[objects != 0])
    return np.where(objects == 0, 0, np.searchsorted(known, objects) + 1).astype(np.int32)


def _two_nearest(
    numbers: Int32[np.ndarray, "*grid"], reach: float, spacing: tuple[float, ...] | None
) -> tuple[Float[np.ndarray, "*grid"], Float[np.ndarray, "*grid"]]:
    """Exact distances to the nearest and the second nearest object; those above `reach` may be inf.

    Each object is measured once, in its box grown by the reach.
    """
    from scipy import ndimage

    from ..kernels.boundaries.distance import checked_spacing, distance_to

    nearest, second = np.full(numbers.shape, np.inf), np.full(numbers.shape, np.inf)
    margin = [math.ceil(reach / step) for step in checked_spacing(spacing, numbers.ndim)]
    for number, box in enumerate(ndimage.find_objects(numbers), 1):
        if box is None:
            continue
        around = tuple(
            slice(max(0, side.start - more), side.stop + more) for side, more in zip(box, margin, strict=True)
        )
        distance = distance_to(numbers[around] == number, spacing)
        near, far = nearest[around], second[around]
        np.minimum(far, np.maximum(near, distance), out=far)
        np.minimum(near, distance, out=near)
    return nearest, second


class BorderCrossEntropy(LossModule):
    """`border_cross_entropy` with its settings; objects are regions of one class.

    Args:
        ignore: label of cells that do not count.
        weight: one factor per class.
        exclusive: whether a cell has exactly one class.
        background: the class that is no object.
        balance: whether the classes are balanced in each image.
        w0: weight in a vanishing gap.
        sigma: how wide a gap still counts, in cells, or in the unit of `spacing`.
        spacing: length of a cell along each axis; 1 without it.
        reduction: see `border_cross_entropy`.
    """

    def __init__(
        self,
        *,
        ignore: int = 255,
        weight: Sequence[float] | Tensor | None = None,
        exclusive: bool = True,
        background: int = 0,
        balance: bool = True,
        w0: float = 10.0,
        sigma: float = 5.0,
        spacing: tuple[float, ...] | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(ignore=ignore, weight=weight, exclusive=exclusive, reduction=reduction)
        if not 0 < sigma < math.inf or not 0 <= w0 < math.inf:
            raise ValueError(f"sigma must be above 0 and w0 at least 0, got {sigma} and {w0}")
        self.background, self.balance = background, balance
        self.w0, self.sigma, self.spacing = w0, sigma, spacing

    def forward(
        self, logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b ..."]
    ) -> Float[Tensor, "..."]:
        """See `border_cross_entropy`."""
        return border_cross_entropy(
            logits,
            labels,
            **self.settings,
            background=self.background,
            balance=self.balance,
            w0=self.w0,
            sigma=self.sigma,
            spacing=self.spacing,
        )
