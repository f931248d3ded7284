"""COCO's dictionaries of run lengths, `{"size": [height, width], "counts": ...}`, to flat runs and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt32

from ..kernels.masks import rle_strings

MOST_PIXELS = 2**32 - 1  # a run is an unsigned number of 32 bits
Runs = tuple[UInt32[np.ndarray, " r"], Int64[np.ndarray, " n1"]]

WRONG = {
    rle_strings.FOREIGN: "has a character that cannot be in a string of run lengths",
    rle_strings.CUT: "is a string of run lengths that ends within a number",
    rle_strings.WILD: "has a run that is negative or longer than the mask",
}


def size_of(rles: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Height and width that all dictionaries name; 0 and 0 where there are none.

    Raises:
        ValueError: on a dictionary without size or counts, on sizes that differ.
    """
    height = width = 0
    for i, rle in enumerate(rles):
        try:
            here_height, here_width = rle["size"]
            rle["counts"]
        except (TypeError, KeyError, ValueError, IndexError) as error:
            raise ValueError(
                f"mask {i} must be a dictionary with size [height, width] and counts, got {str(rle)[:80]}"
            ) from error
        if i == 0:
            height, width = here_height, here_width
            if not (_is_length(height) and _is_length(width)):
                raise ValueError(f"mask 0 must have a size of two whole numbers, got {[height, width]}")
            if height * width > MOST_PIXELS:
                raise ValueError(f"masks must have at most 2**32 - 1 pixels, got {height} x {width}"[:200])
        elif here_height != height or here_width != width:
            raise ValueError(
                f"masks must be of one size, got {[height, width]} and {[here_height, here_width]} (mask {i})"
            )
    return int(height), int(width)


def _is_length(side: Any) -> bool:
    return isinstance(side, int | np.integer) and bool(side >= 0)


def runs_of(rles: Sequence[Mapping[str, Any]], pixels: int) -> Runs:
    """Counts and offsets of dictionaries, whose counts are compressed (str, bytes) or a list.

    Args:
        rles: one dictionary per mask.
        pixels: of a mask.

    Raises:
        ValueError: on counts that cannot be read.
    """
    given = [rle["counts"] for rle in rles]
    texts = [_bytes_of(counts, i) for i, counts in enumerate(given) if isinstance(counts, str | bytes)]
    starts = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=starts[1:])
    joined = np.frombuffer(bytearray().join(texts), np.uint8)
    counts, offsets, wrong, reason = rle_strings.unpack(joined, starts, pixels)
    if wrong >= 0:
        numbers = [i for i, counts in enumerate(given) if isinstance(counts, str | bytes)]
        raise ValueError(f"mask {numbers[wrong]} {WRONG[reason]}: {str(given[numbers[wrong]])[:80]!r}")
    if len(texts) == len(given):
        return counts, offsets
    unpacked = iter(np.split(counts, offsets[1:-1]))
    parts = [
        next(unpacked) if isinstance(counts, str | bytes) else _listed(counts, i, pixels)
        for i, counts in enumerate(given)
    ]
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return np.concatenate(parts), offsets


def _bytes_of(text: str | bytes, i: int) -> bytes:
    if isinstance(text, bytes):
        return text
    try:
        return text.encode("ascii")
    except UnicodeEncodeError as error:
        raise ValueError(f"mask {i} {WRONG[rle_strings.FOREIGN]}: {text[:80]!r}") from error


def _listed(counts: Any, i: int, pixels: int) -> UInt32[np.ndarray, " r"]:
    try:
        runs = np.asarray(counts)
    except ValueError as error:
        raise ValueError(f"mask {i} must have a flat list of counts, got {str(counts)[:80]}") from error
    if runs.ndim != 1 or (runs.dtype.kind not in "iu" and runs.size):
        raise ValueError(f"mask {i} must have a string or a list of whole numbers, got {str(counts)[:80]}")
    if runs.size and (runs.min() < 0 or runs.max() > pixels):
        wild = runs.min() if runs.min() < 0 else runs.max()
        raise ValueError(
            f"the run lengths of mask {i} must fill {pixels} pixels, none negative, "
            f"but they fill {runs.sum()} pixels and one is {wild}"
        )
    return runs.astype(np.uint32)


def strings_of(counts: UInt32[np.ndarray, " r"], offsets: Int64[np.ndarray, " n1"]) -> list[str]:
    """The compressed string of each mask."""
    text, starts = rle_strings.pack(counts, offsets)
    joined = text.tobytes().decode("ascii")
    return [joined[start:end] for start, end in zip(starts.tolist(), starts[1:].tolist(), strict=False)]
