"""The confusion matrix, counted exactly: from labels, or straight from scores."""

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Integer, Shaped
from torch import Tensor

from ...kernels.compiling import parallel_map
from ...kernels.pixels.argmax import argmax
from ...kernels.pixels.confusion import CHUNK, add_pairs, count_pairs, empty_counts, encoded
from ..checked import checked_labels

# Pixels below which a second thread costs more than it saves: of labels, which take a fifth of a nanosecond
# each, and of scores. Then the pixels that an accelerator counts at once.
_FEW_LABELS, _FEW_SCORES, _AT_ONCE = 1 << 23, 1 << 16, 1 << 24


def confusion_matrix(
    prediction: Integer[Tensor, "*grid"],
    target: Integer[Tensor, "*grid"],
    num_classes: int,
    *,
    ignore: int = 255,
    where: str = "",
    threads: int | None = None,
) -> Int64[Tensor, "k k"]:
    """Number of pixels of class i (rows, target) that were predicted as class j (columns).

    Pixels whose target is `ignore` are not counted, whatever the prediction says there. Matrices of
    several images add up to that of all. On a CPU the maps are counted by runs of equal labels, as they lie
    in memory; they are not copied, whatever their integer type.

    Args:
        prediction: one class per pixel, any integer type.
        target: one class per pixel, or `ignore`.
        num_classes: k.
        ignore: target of pixels that do not count.
        where: name of the sample, for the message of an error.
        threads: how many count at once on a CPU; None for torch's number where that pays.

    Raises:
        ValueError: if the shapes or devices differ, or a counted pixel has a class outside 0..k-1.

    >>> confusion_matrix(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 255]), 2)
    tensor([[1, 1],
            [0, 1]])
    """
    prediction = checked_labels(prediction, "prediction", _named(where))
    target = checked_labels(target, "target", _named(where))
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction and target must have one shape, got {tuple(prediction.shape)} and "
            f"{tuple(target.shape)}{_named(where)}"
        )
    if prediction.device != target.device:
        raise ValueError(
            f"prediction and target must be on one device, got {prediction.device} and "
            f"{target.device}{_named(where)}"
        )
    if target.device.type == "cpu":
        matrix = _counted(prediction, target, num_classes, ignore, threads)
    else:
        matrix = _counted_by_torch(prediction, target, num_classes, ignore)
    if matrix is None:
        raise _wrong_label(prediction, target, num_classes, ignore, where)
    return matrix


def confusion_from_logits(
    logits: Float[Tensor, "b k *grid"],
    target: Integer[Tensor, "b *grid"],
    *,
    ignore: int = 255,
    where: str = "",
    threads: int | None = None,
) -> Int64[Tensor, "k k"]:
    """The confusion matrix of `logits.argmax(1)`, without a map of these labels.

    The class of a pixel is the first with the highest score, and the first NaN where there is one, as torch
    has it. On a CPU some ten thousand pixels at a time are compared and counted while they are in the cache.

    Args:
        logits: one score per class and pixel, at the size of the target.
        target: one class per pixel, or `ignore`.
        ignore: target of pixels that do not count.
        where: name of the sample, for the message of an error.
        threads: how many count at once on a CPU; None for torch's number where that pays.

    Raises:
        ValueError: if the sizes or devices differ, or a counted pixel of the target has a class outside
            0..k-1.

    >>> logits = torch.tensor([[[2.0, 0.0, 0.0], [1.0, 1.0, 1.0]]])  # b k n = 1 2 3
    >>> confusion_from_logits(logits, torch.tensor([[0, 0, 1]]))
    tensor([[1, 1],
            [0, 1]])
    """
    target = checked_labels(target, "target", _named(where))
    if logits.shape[:1] + logits.shape[2:] != target.shape:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} need a target without the second axis, got "
            f"{tuple(target.shape)}{_named(where)}"
        )
    b, k = logits.shape[:2]
    if target.device.type != "cpu" or logits.device.type != "cpu" or logits.dtype == torch.float64:
        return confusion_matrix(logits.argmax(1), target, k, ignore=ignore, where=where, threads=threads)
    if not target.numel():
        return torch.zeros(k, k, dtype=torch.long)
    threads = _threads(target, threads, _FEW_SCORES)
    # Inference mode is local to a thread: worker threads see NumPy arrays, never tensors.
    scores = logits.detach().reshape(b, k, -1).float().numpy()
    labels = _as_numpy(target.reshape(b, -1))
    pixels = labels.shape[1]
    step = max(1, min(CHUNK, -(-pixels // threads)))
    pieces = [(i, start, min(start + step, pixels)) for i in range(b) for start in range(0, pixels, step)]
    parts = [pieces[first::threads] for first in range(threads)]
    counted = parallel_map(lambda part: _count_logits(scores, labels, part, ignore), parts, threads)
    counts = sum(counted[1:], start=counted[0])
    if 0 <= ignore < k:
        counts[ignore] = 0
    if counts[k + 1].any():
        raise _wrong_label(torch.zeros_like(target), target, k, ignore, where)
    return torch.from_numpy(counts[:k, :k].copy())


def _count_logits(
    scores: Float32[np.ndarray, "b k pixels"],
    labels: Shaped[np.ndarray, "b pixels"],
    pieces: list[tuple[int, int, int]],
    ignore: int,
) -> Int64[np.ndarray, "rows rows"]:
    """Pairs of codes in some pieces (image, first pixel, last pixel + 1)."""
    k = scores.shape[1]
    counts = empty_counts(k)
    for image, start, stop in pieces:
        if scores[image].flags.c_contiguous:
            found = argmax(scores[image], start, stop)
        else:
            found = argmax(np.ascontiguousarray(scores[image, :, start:stop]), 0, stop - start)
        annotated = np.ascontiguousarray(labels[image, start:stop])
        add_pairs(encoded(annotated, k, ignore), encoded(found, k, -1), counts)
    return counts


def _counted(
    prediction: Tensor, target: Tensor, k: int, ignore: int, threads: int | None
) -> Int64[Tensor, "k k"] | None:
    counts = count_pairs(
        _as_numpy(target), _as_numpy(prediction), k, ignore, _threads(target, threads, _FEW_LABELS)
    )
    return None if counts is None else torch.from_numpy(counts)


def _counted_by_torch(prediction: Tensor, target: Tensor, k: int, ignore: int) -> Int64[Tensor, "k k"] | None:
    """One histogram per some million pixels; ignored and wrong labels have cells of their own in it."""
    counts = torch.zeros(k * k + 2, dtype=torch.long, device=target.device)
    ours = zip(target.flatten().split(_AT_ONCE), prediction.flatten().split(_AT_ONCE), strict=True)
    for one, other in ours:
        one, other = one.long(), other.long()
        wrong = (one < 0) | (one >= k) | (other < 0) | (other >= k)
        cells = torch.where(wrong, k * k + 1, one * k + other)
        cells = torch.where(one == ignore, k * k, cells)
        counts += cells.bincount(minlength=k * k + 2)
    return None if counts[k * k + 1] else counts[: k * k].reshape(k, k)


def _threads(target: Tensor, threads: int | None, few: int) -> int:
    if threads is not None:
        return max(1, threads)
    return torch.get_num_threads() if target.numel() >= few else 1


def _as_numpy(labels: Tensor) -> Integer[np.ndarray, "..."]:
    labels = labels.view(torch.uint8) if labels.dtype == torch.bool else labels
    array: Integer[np.ndarray, "..."] = labels.numpy()
    return array


def _wrong_label(prediction: Tensor, target: Tensor, k: int, ignore: int, where: str) -> ValueError:
    """What is wrong with these maps: the first of target and prediction that leaves the table."""
    valid = target != ignore
    name, labels = "target", target[valid].long()
    if not ((labels < 0) | (labels >= k)).any():
        name, labels = "prediction", prediction[valid].long()
    lowest, highest = (int(x) for x in labels.aminmax())
    wrong = lowest if lowest < 0 else highest
    return ValueError(
        f"{name} holds the label {wrong}{_named(where)}, outside the table of {k} classes "
        f"(0..{k - 1}, ignore {ignore})"
    )


def _named(where: str) -> str:
    return f" in {where}" if where else ""
