"""What every pixel-wise loss does first: look at shapes, raise the precision, tell which labels count."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


def prepared(
    logits: Float[Tensor, "b k *grid"], labels: Integer[Tensor, "b ..."], exclusive: bool = True
) -> tuple[Float[Tensor, "b k *grid"], Integer[Tensor, "b ..."]]:
    """Logits in at least float32; labels as int64 where they are exclusive, as they are where they are not.

    Raises:
        ValueError: if the labels do not have the logits' batch size and grid, and their classes too where
            these are not exclusive.
    """
    expected = (logits.shape[0], *logits.shape[2:]) if exclusive else tuple(logits.shape)
    if tuple(labels.shape) != expected:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} with exclusive={exclusive} need labels of shape "
            f"{expected}, got {tuple(labels.shape)}"
        )
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return logits, labels.long() if exclusive else labels


def counting(labels: Integer[Tensor, "*shape"], ignore: int) -> Bool[Tensor, "*shape"]:
    """Where labels count."""
    kind = torch.iinfo(labels.dtype)
    if not kind.min <= ignore <= kind.max:  # torch says of 255 in uint8 that it is -1
        return torch.ones_like(labels, dtype=torch.bool)
    return labels != ignore


def counted(
    labels: Integer[Tensor, "*shape"], ignore: int, classes: int | None = None
) -> tuple[Bool[Tensor, "*shape"], Integer[Tensor, "*shape"]]:
    """Where labels count, and labels that can index: 0 where they do not.

    With `classes` labels on the CPU are compared with it; elsewhere that would wait for the device, and a
    compiled function cannot raise.

    Raises:
        ValueError: if a label that counts is not in 0..classes - 1.
    """
    valid = counting(labels, ignore)
    index = torch.where(valid, labels, 0)
    if classes is not None and _looked_at(labels):
        low, high = (int(extreme) for extreme in index.aminmax())
        if low < 0 or high >= classes:
            wrong = low if low < 0 else high
            raise ValueError(f"labels must be in 0..{classes - 1} or {ignore} to be ignored, got {wrong}")
    return valid, index


def _looked_at(labels: Integer[Tensor, "*shape"]) -> bool:
    return labels.device.type == "cpu" and labels.numel() > 0 and not torch.compiler.is_compiling()


def where_present(
    labels: Integer[Tensor, "b k *grid"], ignore: int
) -> tuple[Bool[Tensor, "b k *grid"], Bool[Tensor, "b k *grid"]]:
    """Where labels of classes that are not exclusive count, and where they say that the class is there.

    Labels on the CPU are looked at, as in `counted`.

    Raises:
        ValueError: if a label that counts is neither 0 nor 1.
    """
    valid = counting(labels, ignore)
    hit = (labels == 1) & valid
    if _looked_at(labels):
        wrong = valid & ~hit & (labels != 0)
        if bool(wrong.any()):
            raise ValueError(
                f"labels of classes that are not exclusive must be 0, 1 or {ignore} to be ignored, "
                f"got {int(labels[wrong][0])}"
            )
    return valid, hit


def shares(
    valid: Bool[Tensor, "b ..."],
    labels: Integer[Tensor, "b ..."],
    weight: Float[Tensor, " k"] | None,
    exclusive: bool,
) -> Tensor:
    """How much each label counts: the weight of its class, 0 where it is not `valid`.

    Without weights the answer is `valid`.
    """
    if weight is None:
        return valid
    if exclusive:
        return weight.index_select(0, torch.where(valid, labels, 0).flatten()).view_as(labels) * valid
    return weight.view(-1, *[1] * (valid.ndim - 2)) * valid


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


def one_of(reduction: str, known: Sequence[str] = ("mean", "sum", "none")) -> None:
    """Look at the name of a reduction.

    Raises:
        ValueError: if there is no such reduction.
    """
    if reduction not in known:
        raise ValueError(f"reduction must be {', '.join(known[:-1])} or {known[-1]}, got {reduction!r}")


def over(total: Float[Tensor, "..."], share: Tensor) -> Float[Tensor, "..."]:
    """`total / share`, and 0 with zero gradient where nothing was counted."""
    return total / torch.where(share > 0, share, 1)
