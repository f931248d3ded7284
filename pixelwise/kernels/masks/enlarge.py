"""Coarse scores of masks enlarged and cut at a threshold, without an image of scores."""

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from ..compiling import kernel

TAPS = 3  # coarse cells that two bilinear enlargements, one after the other, may look at along an axis

Cells = Int64[np.ndarray, " n"]
Weights = Float32[np.ndarray, "n 3"]


@kernel
def cut(
    coarse: Float32[np.ndarray, "m h w"],
    row: Cells,
    row_weight: Weights,
    column: Cells,
    column_weight: Weights,
    offset: np.float32,
    masks: UInt8[np.ndarray, "m H W"],
    inside: Int64[np.ndarray, "m 2"],
) -> None:
    """Write masks, 1 where a score is above 0, and count the pixels above `offset` and above `-offset`.

    Args:
        coarse: scores of m masks.
        row: first of the three coarse rows that each row of the image is made of.
        row_weight: what each of them weighs.
        column: the same of columns.
        column_weight: the same of columns.
        offset: above which and above minus which pixels are counted.
        masks: filled here.
        inside: filled here.
    """
    count, width = len(coarse), coarse.shape[2]
    line = np.empty(width, np.float32)
    scores = np.empty(len(column), np.float32)
    for i in range(count):
        high, low = 0, 0
        for y in range(len(row)):
            first = row[y]
            for x in range(width):
                line[x] = (
                    row_weight[y, 0] * coarse[i, first, x]
                    + row_weight[y, 1] * coarse[i, first + 1, x]
                    + row_weight[y, 2] * coarse[i, first + 2, x]
                )
            for x in range(len(column)):
                at = column[x]
                scores[x] = (
                    column_weight[x, 0] * line[at]
                    + column_weight[x, 1] * line[at + 1]
                    + column_weight[x, 2] * line[at + 2]
                )
            for x in range(len(column)):
                masks[i, y, x] = scores[x] > 0
                high += scores[x] > offset
                low += scores[x] > -offset
        inside[i, 0], inside[i, 1] = high, low


def taps(cells: int, padded: int, seen: int, size: int) -> tuple[Cells, Weights]:
    """Along one axis, which coarse cells a pixel is made of and what each weighs.

    The cells are enlarged bilinearly to `padded` positions, those behind `seen` are dropped, and the rest is
    resized bilinearly to `size` pixels.

    Raises:
        ValueError: if a pixel is made of more than three cells: `padded` is smaller than `cells`.
    """
    weights = _bilinear(seen, size) @ _bilinear(cells, padded)[:seen]
    first = np.minimum((weights != 0).argmax(1), max(cells - TAPS, 0))
    taken = first[:, None] + np.arange(TAPS)
    chosen = np.take_along_axis(weights, np.minimum(taken, cells - 1), 1)
    chosen[taken >= cells] = 0
    if not np.allclose(chosen.sum(1), 1):
        raise ValueError(f"{cells} cells cannot be enlarged to {padded} positions by {TAPS} taps")
    return first, chosen.astype(np.float32)


def _bilinear(old: int, new: int) -> np.ndarray:
    """The matrix "new old" that resizes as PyTorch's bilinear interpolation without aligned corners."""
    place = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, None)
    before = np.minimum(place.astype(np.int64), old - 1)
    share = place - before
    matrix = np.zeros((new, old))
    matrix[np.arange(new), before] += 1 - share
    matrix[np.arange(new), np.minimum(before + 1, old - 1)] += share
    return matrix
