"""What every pixel-wise loss does first: look at shapes, raise the precision, tell which pixels count."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


def prepared(
    logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b *grid"]
) -> tuple[Float[Tensor, "b k *grid"], Integer[Tensor, "b *grid"]]:
    """Logits in at least float32 and labels as int64.

    Raises:
        ValueError: if the labels do not have the logits' batch size and grid.
    """
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(labels.shape) != expected:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} need labels of shape {expected}, "
            f"got {tuple(labels.shape)}"
        )
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return logits, labels.long()


def counted(
    labels: Integer[Tensor, "b *grid"], ignore: int
) -> tuple[Bool[Tensor, "b *grid"], Integer[Tensor, "b *grid"]]:
    """Where labels count, and labels that can index: 0 where they do not."""
    valid = labels != ignore
    return valid, torch.where(valid, labels, 0)


def per_class(
    weight: Float[Tensor, " k"] | None, logits: Float[Tensor, "b k *grid"]
) -> Float[Tensor, " k"] | None:
    """`weight` with the type and on the device of `logits`.

    Raises:
        ValueError: if it has not one number per class.
    """
    if weight is None:
        return None
    if tuple(weight.shape) != (logits.shape[1],):
        raise ValueError(f"{logits.shape[1]} classes need as many weights, got {tuple(weight.shape)}")
    return weight.to(logits)


def as_weight(weight: Sequence[float] | Tensor | None) -> Float[Tensor, " k"] | None:
    """Weights as a module keeps them.

    Raises:
        ValueError: if a weight is negative or not finite.
    """
    if weight is None:
        return None
    tensor = torch.as_tensor(weight, dtype=torch.float32)
    if not bool((tensor.isfinite() & (tensor >= 0)).all()):
        raise ValueError(f"class weights must be finite and at least 0, got {tensor.tolist()}")
    return tensor


def one_of(reduction: str) -> None:
    """Look at the name of a reduction.

    Raises:
        ValueError: if there is no such reduction.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be mean, sum or none, got {reduction!r}")


def over(total: Float[Tensor, "..."], share: Tensor) -> Float[Tensor, "..."]:
    """`total / share`, and 0 with zero gradient where nothing was counted."""
    return total / torch.where(share > 0, share, 1)
