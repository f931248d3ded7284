"""The confusion matrix, counted exactly."""

from jaxtyping import Int64, Integer
from torch import Tensor


def confusion_matrix(
    prediction: Integer[Tensor, "*grid"],
    target: Integer[Tensor, "*grid"],
    num_classes: int,
    *,
    ignore: int = 255,
    where: str = "",
) -> Int64[Tensor, "k k"]:
    """Number of pixels of class i (rows, target) that were predicted as class j (columns).

    Pixels whose target is `ignore` are not counted, whatever the prediction says there. Matrices of
    several images add up to that of all.

    Args:
        prediction: one class per pixel, any integer type.
        target: one class per pixel, or `ignore`.
        num_classes: k.
        ignore: target of pixels that do not count.
        where: name of the sample, for the message of an error.

    Raises:
        ValueError: if the shapes differ, or a counted pixel has a class outside 0..k-1.

    >>> import torch
    >>> confusion_matrix(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 255]), 2)
    tensor([[1, 1],
            [0, 1]])
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction and target must have one shape, got {tuple(prediction.shape)} and "
            f"{tuple(target.shape)}{_named(where)}"
        )
    target = target.long()
    valid = target != ignore
    target, prediction = target[valid], prediction.long()[valid]
    for name, labels in (("target", target), ("prediction", prediction)):
        _check_range(name, labels, num_classes, ignore, where)
    cells = target * num_classes + prediction
    return cells.bincount(minlength=num_classes**2).reshape(num_classes, num_classes)


def _check_range(name: str, labels: Tensor, num_classes: int, ignore: int, where: str) -> None:
    if not len(labels):
        return
    lowest, highest = (int(x) for x in labels.aminmax())
    if lowest < 0 or highest >= num_classes:
        wrong = lowest if lowest < 0 else highest
        raise ValueError(
            f"{name} holds the label {wrong}{_named(where)}, outside the table of {num_classes} classes "
            f"(0..{num_classes - 1}, ignore {ignore})"
        )


def _named(where: str) -> str:
    return f" in {where}" if where else ""
