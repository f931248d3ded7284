"""Regions of a map, pooled to one size.

The plain definitions; models call torchvision's compiled ones, and a test shows that they are equal.
"""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor


def roi_pool(
    x: Float[Tensor, "c h w"], box: Sequence[float], size: tuple[int, int]
) -> Float[Tensor, "c out_h out_w"]:
    """The maximum of each bin of a region: RoI pooling (Girshick 2015, Fast R-CNN, Sec. 2.1).

    The corners are rounded to whole pixels, and so are the edges of the bins, outwards: bins may overlap.
    An empty bin is 0.

    Args:
        x: the map.
        box: x1 y1 x2 y2 in pixels of the map; the last pixel is part of it.
        size: number of bins along each axis.

    >>> import torch
    >>> x = torch.arange(16.0).view(1, 4, 4)
    >>> roi_pool(x, (0.2, 0.0, 3.1, 2.9), (2, 2))
    tensor([[[ 5.,  7.],
             [13., 15.]]])
    """
    channels, height, width = x.shape
    # Not Python's round, which takes halves to the even neighbour: these go away from zero.
    x1, y1, x2, y2 = (int(math.copysign(math.floor(abs(corner) + 0.5), corner)) for corner in box)
    bin_height = max(y2 - y1 + 1, 1) / size[0]
    bin_width = max(x2 - x1 + 1, 1) / size[1]
    pooled = x.new_zeros(channels, *size)
    for i in range(size[0]):
        top = min(max(y1 + math.floor(i * bin_height), 0), height)
        bottom = min(max(y1 + math.ceil((i + 1) * bin_height), 0), height)
        for j in range(size[1]):
            left = min(max(x1 + math.floor(j * bin_width), 0), width)
            right = min(max(x1 + math.ceil((j + 1) * bin_width), 0), width)
            if bottom > top and right > left:
                pooled[:, i, j] = x[:, top:bottom, left:right].amax((1, 2))
    return pooled


def roi_align(
    x: Float[Tensor, "c h w"],
    box: Sequence[float],
    size: tuple[int, int],
    *,
    points: int = 2,
    aligned: bool = True,
) -> Float[Tensor, "c out_h out_w"]:
    """The mean of some samples of each bin of a region: RoIAlign (He et al. 2017, Mask R-CNN, Sec. 3).

    Nothing is rounded: a bin has `points` x `points` places, evenly spread, where the map is interpolated.

    Args:
        x: the map.
        box: x1 y1 x2 y2 in pixels of the map, from its corner.
        size: number of bins along each axis.
        points: samples of a bin along each axis.
        aligned: whether the centre of the first pixel is at (0.5, 0.5), as it should be (Detectron2). The
            first implementations took it to be at (0, 0), which shifts all by half a pixel, and made regions
            at least one pixel large; weights of torchvision want that.

    >>> import torch
    >>> x = torch.arange(16.0).view(1, 4, 4)
    >>> roi_align(x, (1.0, 1.0, 3.0, 3.0), (2, 2))
    tensor([[[ 5.,  6.],
             [ 9., 10.]]])
    """
    x1, y1, x2, y2 = (float(corner) for corner in box)
    width, height = x2 - x1, y2 - y1
    if not aligned:
        width, height, x1, y1 = max(width, 1.0), max(height, 1.0), x1 + 0.5, y1 + 0.5
    bin_height, bin_width = height / size[0], width / size[1]
    pooled = x.new_zeros(x.shape[0], *size)
    for i in range(size[0]):
        for j in range(size[1]):
            for row in range(points):
                for column in range(points):
                    down = y1 + (i + (row + 0.5) / points) * bin_height
                    along = x1 + (j + (column + 0.5) / points) * bin_width
                    pooled[:, i, j] += sample_bilinear(x, along, down)
    return pooled / points**2


def position_sensitive_roi_align(
    x: Float[Tensor, "c h w"], box: Sequence[float], size: tuple[int, int], *, points: int = 2
) -> Float[Tensor, "c_out out_h out_w"]:
    """RoIAlign of which each bin has channels of its own (Li et al. 2017, FCIS; Dai et al. 2016, R-FCN).

    Args:
        x: the map, c = c_out * out_h * out_w: for each result, the channels of its bins row by row.
        box: x1 y1 x2 y2 in pixels of the map, from its corner.
        size: number of bins along each axis.
        points: samples of a bin along each axis.

    >>> import torch
    >>> x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1).expand(4, 5, 5)
    >>> position_sensitive_roi_align(x, (1.0, 1.0, 4.0, 4.0), (2, 2))
    tensor([[[1., 2.],
             [3., 4.]]])
    """
    of_bins = x.unflatten(0, (-1, *size))
    pooled = x.new_zeros(of_bins.shape[0], *size)
    for i in range(size[0]):
        for j in range(size[1]):
            pooled[:, i, j] = roi_align(of_bins[:, i, j], box, size, points=points)[:, i, j]
    return pooled


def sample_bilinear(x: Float[Tensor, "c h w"], along: float, down: float) -> Float[Tensor, " c"]:
    """The value of a map at a place between the centres of its pixels, which are at 0.5, 1.5, ...

    Beyond the outermost centres the border is repeated, and from one pixel beyond them on all is 0.

    Args:
        x: the map.
        along: from its left edge.
        down: from its upper edge.

    The lectures' example: between the centres 10.5 and 11.5, 6.5 and 7.5.

    >>> import torch
    >>> x = torch.zeros(1, 9, 13)
    >>> x[0, 6:8, 10:12] = torch.tensor([[0.2, 0.3], [0.7, 0.2]])
    >>> round(sample_bilinear(x, 10.64, 7.01).item(), 5)
    0.42616
    """
    height, width = x.shape[-2:]
    row, column = down - 0.5, along - 0.5
    if not (-1 <= row <= height and -1 <= column <= width):
        return x.new_zeros(x.shape[0])
    row, column = min(max(row, 0.0), height - 1.0), min(max(column, 0.0), width - 1.0)
    top, left = int(row), int(column)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, u = row - top, column - left
    upper = (1 - u) * x[:, top, left] + u * x[:, top, right]
    lower = (1 - u) * x[:, bottom, left] + u * x[:, bottom, right]
    return (1 - v) * upper + v * lower
