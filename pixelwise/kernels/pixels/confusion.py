"""Pairs of labels, counted by runs: only the few places where they change are looked at."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64, Integer

from ..compiling import kernel, parallel_map
from ..intrinsics import WORD, changes, count_bits, lowest_bit

CHUNK = 1 << 15  # pixels that are encoded together: their codes stay in the cache
NOISY = 16  # changes among 64 pixels from which on counting pixel by pixel is faster
PATCH = 1024  # pixels that are then counted one by one before runs are tried again
BYTE = 256
COMPILED = (np.uint8, np.int32, np.int64)


def count_pairs(
    target: Integer[np.ndarray, "*grid"],
    prediction: Integer[np.ndarray, "*grid"],
    num_classes: int,
    ignore: int,
    threads: int = 1,
) -> Int64[np.ndarray, "k k"] | None:
    """Pixels of class i (rows, target) that were predicted as class j, ignored ones left out.

    Neither map is copied or cast whole, whatever its type; one that is not contiguous is copied in pieces.

    Args:
        target: one class per pixel, or `ignore`.
        prediction: one class per pixel, of the same shape; of any type.
        num_classes: k.
        ignore: a label outside the table, or a class that does not count where it is the target.
        threads: how many work at once.

    Returns:
        None if a counted pixel has a label outside 0..k-1.

    >>> count_pairs(np.array([0, 0, 1, 255]), np.array([0, 1, 1, 7]), 2, 255)
    array([[1, 1],
           [0, 1]])
    """
    pieces = _pieces(target, prediction, threads)
    counted = parallel_map(lambda piece: _count(*piece, num_classes, ignore), pieces, threads)
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for pixels, ignored, part in counted:
        if pixels != ignored + part.sum():
            return None
        matrix += part
    return matrix


def _count(
    target: Integer[np.ndarray, "*grid"], prediction: Integer[np.ndarray, "*grid"], k: int, ignore: int
) -> tuple[int, int, Int64[np.ndarray, "k k"]]:
    """Pixels, those of them that are ignored, and the matrix of the others whose labels are in the table."""
    flat = target.flags.c_contiguous and prediction.flags.c_contiguous
    row = ignore if 0 <= ignore < k else k
    if flat and target.dtype == prediction.dtype == np.uint8:  # every possible pair has its cell
        counts, row = np.zeros((BYTE, BYTE), np.int64), ignore
        add_pairs(target.reshape(-1), prediction.reshape(-1), counts)
    else:
        counts = empty_counts(k)
        for one, other in _slabs(target, prediction):
            add_pairs(encoded(one, k, ignore), encoded(other, k, ignore), counts)
    ignored = 0
    if 0 <= row < len(counts):
        ignored = int(counts[row].sum())
        counts[row] = 0
    return target.size, ignored, counts[:k, :k]


def empty_counts(k: int) -> Int64[np.ndarray, "rows rows"]:
    """Zeros for every pair of codes: of k classes, the ignored label and labels outside the table."""
    side = BYTE if k + 2 <= BYTE else k + 2
    return np.zeros((side, side), np.int64)


def encoded(labels: Integer[np.ndarray, " n"], k: int, ignore: int) -> Integer[np.ndarray, " n"]:
    """Classes as they are, k for `ignore`, k + 1 for any other label; one byte each where k allows."""
    if labels.dtype not in COMPILED:  # no further code is compiled for a rare type
        labels = labels.astype(np.int64)
    codes = np.empty(labels.size, np.uint8 if k + 2 <= BYTE else np.int32)
    encode(labels, k, ignore, codes)
    return codes


def _pieces(
    target: Integer[np.ndarray, "*grid"], prediction: Integer[np.ndarray, "*grid"], threads: int
) -> list[tuple[Integer[np.ndarray, "..."], Integer[np.ndarray, "..."]]]:
    """The maps cut into as many parts as there are threads."""
    if threads <= 1 or not target.flags.c_contiguous or not prediction.flags.c_contiguous:
        return [(target, prediction)]
    maps = target.reshape(-1), prediction.reshape(-1)
    size = max(1, -(-target.size // threads))
    return [(maps[0][i : i + size], maps[1][i : i + size]) for i in range(0, target.size, size)]


def _slabs(
    target: Integer[np.ndarray, "*grid"], prediction: Integer[np.ndarray, "*grid"]
) -> Iterator[tuple[Integer[np.ndarray, " n"], Integer[np.ndarray, " n"]]]:
    """Both maps in flat parts of at most `CHUNK` pixels, copied where they are not contiguous."""
    if target.size <= CHUNK:
        yield np.ascontiguousarray(target).reshape(-1), np.ascontiguousarray(prediction).reshape(-1)
        return
    if target.flags.c_contiguous and prediction.flags.c_contiguous:
        target, prediction = target.reshape(-1), prediction.reshape(-1)
    # The axis of the longest stride comes first: a transposed map is read as it lies in memory.
    order = sorted(range(target.ndim), key=lambda axis: -abs(target.strides[axis]))
    target, prediction = target.transpose(order), prediction.transpose(order)
    if len(target) == 1:
        yield from _slabs(target[0], prediction[0])
        return
    rows = max(1, CHUNK * len(target) // target.size)
    for i in range(0, len(target), rows):
        yield from _slabs(target[i : i + rows], prediction[i : i + rows])


@kernel
def encode(
    labels: Integer[np.ndarray, " n"], num_classes: int, ignore: int, codes: Integer[np.ndarray, " n"]
) -> None:
    """Fill `codes` as `encoded` says."""
    for i in range(labels.size):
        label = np.int64(labels[i])
        other = num_classes if label == ignore else num_classes + 1
        codes[i] = label if (label >= 0) & (label < num_classes) else other


@kernel
def add_pairs(
    target: Integer[np.ndarray, " n"],
    prediction: Integer[np.ndarray, " n"],
    counts: Int64[np.ndarray, "rows columns"],
) -> None:
    """Add 1 to counts[target, prediction] for every pixel; both maps are flat and of one type.

    A run is a stretch of pixels that have one target and one prediction; it is added at its end.
    """
    begin, start = 0, 0  # of the word that is looked at; of the run that goes on
    while begin + WORD < target.size:
        ends = changes(target, prediction, begin)
        if count_bits(ends) > NOISY:
            _add_run(target, prediction, counts, start, begin)
            start = min(begin + PATCH, target.size)
            _add_pixels(target[begin:start], prediction[begin:start], counts)
            begin = start
            continue
        while ends:
            last = begin + lowest_bit(ends)
            _add_run(target, prediction, counts, start, last + 1)
            start = last + 1
            ends &= ends - np.uint64(1)
        begin += WORD
    _add_run(target, prediction, counts, start, begin)
    _add_pixels(target[begin:], prediction[begin:], counts)


@kernel
def _add_run(
    target: Integer[np.ndarray, " n"],
    prediction: Integer[np.ndarray, " n"],
    counts: Int64[np.ndarray, "rows columns"],
    start: int,
    stop: int,
) -> None:
    """Count the pixels start..stop-1, which have the labels of the last of them."""
    if start < stop:
        last = np.uint64(stop - 1)
        counts[np.uint64(target[last]), np.uint64(prediction[last])] += stop - start


@kernel
def _add_pixels(
    target: Integer[np.ndarray, " n"],
    prediction: Integer[np.ndarray, " n"],
    counts: Int64[np.ndarray, "rows columns"],
) -> None:
    """Count one pixel after the other."""
    for i in range(target.size):
        counts[np.uint64(target[i]), np.uint64(prediction[i])] += 1
