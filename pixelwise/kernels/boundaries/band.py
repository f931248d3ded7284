"""Pixels near the place where one label meets another."""

import numpy as np
from jaxtyping import Bool, Int64, Integer

from ..compiling import kernel

STRIP = 64  # rows that are worked on together


def near_another_label(labels: Integer[np.ndarray, "h w"], radius: int | float) -> Bool[np.ndarray, "h w"]:
    """True where a pixel of another label lies at most `radius` away, between centres of pixels.

    >>> near_another_label(np.array([[1, 1, 1, 2]]), 2)
    array([[False,  True,  True,  True]])
    """
    height = len(labels)
    radius = min(float(radius), float(sum(labels.shape)))
    reach = min(int(radius), height)  # rows up and down
    near = np.empty(labels.shape, np.bool_)
    strip = max(STRIP, reach)
    for top in range(0, height, strip):  # so that little is cast and held at once
        first, last = max(0, top - reach), min(height, top + strip + reach)
        piece = np.ascontiguousarray(labels[first:last], np.int64)
        fill_band(piece, top - first, reach, radius, near[top : top + strip])
    return near


@kernel
def fill_band(
    labels: Int64[np.ndarray, "h w"],
    top: int,
    reach: int,
    radius: int | float,
    near: Bool[np.ndarray, "rows w"],
) -> None:
    """`near_another_label` of the rows from `top` on, in two passes: along rows, then along columns.

    The nearest pixel of another label in row y + d is either the one in this column, or as far away along
    that row as the pixel of this column there says, which has this label then.
    """
    height, width = labels.shape
    far, square = int(radius) + 1, radius * radius
    along = np.empty((height, width), np.int32)  # steps along the row to another label, at most `far`
    for y in range(height):
        steps = far
        for x in range(width):
            steps = min(steps + 1, far) if x == 0 or labels[y, x] == labels[y, x - 1] else 1
            along[y, x] = steps
        steps = far
        for x in range(width - 1, -1, -1):
            steps = min(steps + 1, far) if x == width - 1 or labels[y, x] == labels[y, x + 1] else 1
            along[y, x] = min(along[y, x], steps)
    for row in range(len(near)):
        for x in range(width):
            near[row, x] = False
        y = top + row
        for other in range(max(0, y - reach), min(height, y + reach + 1)):
            for x in range(width):
                steps = along[other, x] if labels[other, x] == labels[y, x] else 0
                near[row, x] |= (other - y) ** 2 + steps * steps <= square
