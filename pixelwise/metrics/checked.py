"""What metrics refuse: maps that are no labels."""

import torch
from torch import Tensor

# Few functions of torch take these types.
_WIDER = {
    torch.bool: torch.uint8,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.uint64: torch.int64,
}


def checked_labels(labels: Tensor, name: str, place: str = "") -> Tensor:
    """Labels in a type that torch can work with: as they are, but bool as uint8, uint16 to uint64 as signed.

    Args:
        labels: one label per pixel, of any integer type or bool.
        name: of the argument, for the message of an error.
        place: ends the message.

    Raises:
        ValueError: if the numbers are no integers, or there is no axis.

    >>> checked_labels(torch.tensor([7], dtype=torch.uint16), "target")
    tensor([7], dtype=torch.int32)
    """
    if labels.is_floating_point() or labels.is_complex():
        kind = str(labels.dtype).removeprefix("torch.")
        raise ValueError(f"{name} must hold labels, which are integers, got {kind}{place}")
    if labels.ndim == 0:
        raise ValueError(f"{name} must be a map with at least one axis, got a single number{place}")
    return labels.to(_WIDER.get(labels.dtype, labels.dtype))
