"""Thinning of a mask to lines of one pixel (Guo and Hall, Communications of the ACM 1989, algorithm A1)."""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool

from ..compiling import kernel

_RING = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))  # from the east, anticlockwise


def thin(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Thin until nothing changes, as MATLAB's `bwmorph(mask, "thin", Inf)` and scikit-image's `thin` do.

    >>> thin(np.ones((3, 5), bool)).astype(int).tolist()
    [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
    """
    padded = np.pad(mask, 1)
    _thin(padded, np.array(_RING), _removable())
    return padded[1:-1, 1:-1].copy()


@lru_cache(maxsize=1)
def _removable() -> Bool[np.ndarray, "2 256"]:
    """In each of the two turns: whether a pixel goes, by its neighbours (bit i: neighbour i of the ring)."""
    x = (np.arange(256)[None] >> np.arange(8)[:, None] & 1).astype(bool)
    crossings = sum(~x[i] & (x[i + 1] | x[(i + 2) % 8]) for i in (0, 2, 4, 6))
    one = sum((x[i] | x[i + 1]).astype(int) for i in (0, 2, 4, 6))
    other = sum((x[i + 1] | x[(i + 2) % 8]).astype(int) for i in (0, 2, 4, 6))
    pairs = np.minimum(one, other)
    either = (crossings == 1) & (pairs >= 2) & (pairs <= 3)
    first = either & ~((x[1] | x[2] | ~x[7]) & x[0])
    second = either & ~((x[5] | x[6] | ~x[3]) & x[4])
    return np.stack([first, second])


@kernel
def _thin(mask: Bool[np.ndarray, "h w"], ring: np.ndarray, removable: Bool[np.ndarray, "2 256"]) -> None:
    """Remove pixels of a mask with an empty margin, in place: the two turns, again and again."""
    ys, xs = np.nonzero(mask)
    left, changed = len(ys), True
    going = np.empty(left, np.bool_)
    while changed:
        changed = False
        for turn in range(2):
            for i in range(left):
                code = np.int64(0)
                for k in range(8):
                    code |= np.int64(mask[ys[i] + ring[k, 0], xs[i] + ring[k, 1]]) << k
                going[i] = removable[turn, code]
            kept = 0
            for i in range(left):
                if going[i]:
                    mask[ys[i], xs[i]] = False
                    changed = True
                else:
                    ys[kept], xs[kept] = ys[i], xs[i]
                    kept += 1
            left = kept
