"""What losses of regions share: how much a soft prediction and the labels of a class overlap."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.autograd.function import once_differentiable

from .pixels import Reduction, counted, over, where_present

_BLOCK = 1 << 16  # float32 counts one by one only up to 2^24: sums are made of sums of so many pixels


class Regions(NamedTuple):
    """Sums over the pixels of each image that count, p the probability of a class and g 1 where it is.

    Attributes:
        overlap: sum(p g).
        mass: sum(p).
        squares: sum(p^2), empty unless asked for.
        support: sum(g), a number of pixels.
    """

    overlap: Float[Tensor, "b k"]
    mass: Float[Tensor, "b k"]
    squares: Float[Tensor, "b _"]
    support: Float[Tensor, "b k"]


def regions(
    logits: Float[Tensor, "b k *grid"],
    labels: Integer[Tensor, "b ..."],
    ignore: int,
    exclusive: bool,
    squared: bool = False,
) -> Regions:
    """The sums of `prepared` logits and labels; p is their softmax, or sigmoids without `exclusive`.

    Raises:
        ValueError: on the CPU, if a label is no class.
    """
    scores = logits.flatten(2)  # b k n
    if not exclusive:
        valid, hit = (part.flatten(2) for part in where_present(labels, ignore))
        overlap, mass, squares = _Sigmoids.apply(scores, valid, hit, squared)
        return Regions(overlap, mass, squares, hit.sum(2).to(scores.dtype))
    valid, index = counted(labels.flatten(1), ignore, logits.shape[1])
    overlap, mass, squares = _Softmax.apply(scores, valid, index, squared)
    support = torch.zeros_like(mass, dtype=torch.long).scatter_add(1, index, valid.long())
    return Regions(overlap, mass, squares, support.to(scores.dtype))


def over_classes(
    loss: Float[Tensor, "*rows k"],
    there: Bool[Tensor, "*rows k"],
    weight: Float[Tensor, " k"] | None,
    reduction: Reduction,
) -> Float[Tensor, "..."]:
    """The mean, the sum or each of the losses of the classes that are there, times their weights.

    The mean divides by the sum of the weights of the classes that are there; over several rows it is the
    mean of the rows that have any.
    """
    factor = there.to(loss.dtype) if weight is None else weight * there
    loss = factor * loss
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    share = factor.sum(-1)
    return over(over(loss.sum(-1), share).sum(), (share > 0).sum())


class _Softmax(torch.autograd.Function):
    """Overlap, mass and squares of a softmax. Keeps the probabilities and nothing else of their size."""

    @staticmethod
    def forward(
        ctx: Any,
        scores: Float[Tensor, "b k n"],
        valid: Bool[Tensor, "b n"],
        index: Integer[Tensor, "b n"],
        squared: bool,
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"], Float[Tensor, "b _"]]:
        p = scores.softmax(1).mul_(valid[:, None])  # 0 where ignored, and so will be the gradient
        b, k, n = p.shape
        blocks = -(-n // _BLOCK)
        within = torch.arange(n, device=p.device).div(_BLOCK, rounding_mode="floor").mul_(k).add(index)
        own = p.gather(1, index[:, None])  # of each pixel's own class
        overlap = p.new_zeros(b, blocks * k).scatter_add_(1, within, own[:, 0])
        ctx.save_for_backward(p, index, own)
        squares = torch.linalg.vector_norm(p, dim=2).square() if squared else p.new_zeros(b, 0)
        return overlap.view(b, blocks, k).sum(1), p.sum(2), squares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, overlap: Tensor, mass: Tensor, squares: Tensor) -> tuple[Tensor, None, None, None]:
        # dL/dz_c = p_c (G_c - sum_c p_c G_c), G_c = dL/dp_c = mass_c + 2 squares_c p_c + [c = y] overlap_c
        p, index, own = ctx.saved_tensors
        own = own * overlap.gather(1, index)[:, None]
        if squares.numel():
            grad = p.mul(2 * squares[:, :, None]).add_(mass[:, :, None])
            grad.sub_((p * grad).sum(1, keepdim=True).add_(own))
        else:
            grad = mass[:, :, None] - _weighted(mass, p).add_(own)
        return grad.mul_(p).scatter_add_(1, index[:, None], own), None, None, None


class _Sigmoids(torch.autograd.Function):
    """Overlap, mass and squares of a sigmoid per class."""

    @staticmethod
    def forward(
        ctx: Any,
        scores: Float[Tensor, "b k n"],
        valid: Bool[Tensor, "b k n"],
        hit: Bool[Tensor, "b k n"],
        squared: bool,
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"], Float[Tensor, "b _"]]:
        p = scores.sigmoid().mul_(valid)
        ctx.save_for_backward(p, hit)
        squares = torch.linalg.vector_norm(p, dim=2).square() if squared else p.new_zeros(len(p), 0)
        return (p * hit).sum(2), p.sum(2), squares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, overlap: Tensor, mass: Tensor, squares: Tensor) -> tuple[Tensor, None, None, None]:
        p, hit = ctx.saved_tensors
        grad = hit * overlap[:, :, None] + mass[:, :, None]
        if squares.numel():
            grad.addcmul_(p, 2 * squares[:, :, None])
        return grad.mul_(p).mul_(1 - p), None, None, None


def _weighted(weight: Float[Tensor, "b k"], p: Float[Tensor, "b k n"]) -> Float[Tensor, "b 1 n"]:
    """sum_c weight_c p_c of each pixel; autocast would do it in half precision."""
    with torch.autocast(p.device.type, enabled=False):
        return torch.bmm(weight[:, None], p)
