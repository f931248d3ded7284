"""Max pooling that remembers where its values came from, and the way back; adaptive pooling of any size."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor
from torch.nn import functional as F


class Pooled(NamedTuple):
    """The largest value of every window and where it was.

    Attributes:
        values: of the windows.
        indices: row * width + column in the map that was pooled.
    """

    values: Float[Tensor, "*b c h w"]
    indices: Integer[Tensor, "*b c h w"]


def max_pool_with_indices(x: Float[Tensor, "*b c H W"], window: int = 2) -> Pooled:
    """Max pooling over squares of side `window`, cut off at the right and bottom where the map ends.

    >>> import torch
    >>> x = torch.tensor([[[1.0, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]]])
    >>> max_pool_with_indices(x)
    Pooled(values=tensor([[[5., 6.],
             [7., 8.]]]), indices=tensor([[[ 5,  2],
             [12, 15]]]))
    """
    return Pooled(*F.max_pool2d(x, window, ceil_mode=True, return_indices=True))


def max_unpool(
    x: Shaped[Tensor, "*b c h w"], indices: Integer[Tensor, "*b c h w"], size: tuple[int, int]
) -> Shaped[Tensor, "*b c H W"]:
    """Put every value where the maximum of its window was, zeros elsewhere.

    Args:
        x: one value per window.
        indices: row * width + column of the place of each value.
        size: height and width of the result: that of the map which was pooled.

    >>> import torch
    >>> x = torch.tensor([[[1.0, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]]])
    >>> max_unpool(torch.tensor([[[1, 2], [3, 4]]]), max_pool_with_indices(x).indices, (4, 4))
    tensor([[[0, 0, 2, 0],
             [0, 1, 0, 0],
             [0, 0, 0, 0],
             [3, 0, 0, 4]]])
    """
    flat = x.new_zeros(*x.shape[:-2], size[0] * size[1])
    return flat.scatter(-1, indices.flatten(-2), x.flatten(-2)).unflatten(-1, size)


def adaptive_average_pool(
    x: Float[Tensor, "*b c H W"], size: tuple[int | None, int | None] | list[int | None] | int | None
) -> Float[Tensor, "*b c h w"]:
    """`torch.nn.functional.adaptive_avg_pool2d` as two products with matrices.

    The other one is written out bin by bin when a network is exported, for the size that was traced; this
    one is right at any size.

    >>> x = torch.arange(35.0).reshape(1, 5, 7)
    >>> torch.allclose(adaptive_average_pool(x, (2, 3)), F.adaptive_avg_pool2d(x, (2, 3)))
    True
    """
    height, width = size if isinstance(size, tuple | list) else (size, size)
    rows = bins_of(x.shape[-2], x.shape[-2] if height is None else height, x)
    columns = bins_of(x.shape[-1], x.shape[-1] if width is None else width, x)
    return rows @ x @ columns.T


def bins_of(length: int, count: int, like: Tensor) -> Float[Tensor, "count length"]:
    """The weights with which places along an axis make up each bin: adaptive pooling's, which may overlap."""
    place = torch.arange(length, device=like.device)
    number = torch.arange(count, device=like.device)[:, None]
    first = number * length // count
    behind = ((number + 1) * length + count - 1) // count
    inside = (place >= first) & (place < behind)
    return inside.to(like.dtype) / (behind - first).to(like.dtype)
