"""The guided filter (He, Sun and Tang, ECCV 2010): a map that follows the edges of an image.

In every window the result is taken to be linear in the guide, q = a . I + b, with the a and b that fit the
map best, a being kept small by epsilon (Eqs. 5 and 6, in colour Eqs. 19 and 20); every pixel takes the mean
of a and b over the windows that it lies in (Eq. 8).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def box_mean(x: Float[Tensor, "b c h w"], radius: int) -> Float[Tensor, "b c h w"]:
    """Mean over squares of side 2 radius + 1 around every pixel, of what lies in the map.

    Raises:
        ValueError: on a negative radius.

    >>> box_mean(torch.tensor([[[[0.0, 3.0, 6.0]]]]), 1).tolist()
    [[[[1.5, 3.0, 4.5]]]]
    """
    if radius < 0:
        raise ValueError(f"radius must be at least 0, got {radius}")
    height, width = x.shape[-2:]
    down, across = min(radius, height - 1), min(radius, width - 1)
    # What lies in the map is a rectangle, so the mean of means of its rows is its mean.
    x = F.avg_pool2d(x, (1, 2 * across + 1), 1, (0, across), count_include_pad=False)
    return F.avg_pool2d(x, (2 * down + 1, 1), 1, (down, 0), count_include_pad=False)


def guided_filter(
    guide: Float[Tensor, "b c h w"], map: Float[Tensor, "b 1 h w"], radius: int, epsilon: float
) -> Float[Tensor, "b 1 h w"]:
    """The map, smoothed within what is alike in the guide and kept apart where the guide has edges.

    Args:
        guide: the image, of any number of channels.
        map: such as the probability of the foreground.
        radius: of the windows in pixels.
        epsilon: edges whose variance in the guide is well below this are smoothed over; in squares of the
            guide's unit, such as 1e-4 for [0, 1].

    Raises:
        ValueError: if the sizes differ, or a number is out of range.
    """
    slope, offset = guided_coefficients(guide, map, radius, epsilon)
    return (slope * guide).sum(1, keepdim=True) + offset


def guided_coefficients(
    guide: Float[Tensor, "b c h w"], map: Float[Tensor, "b 1 h w"], radius: int, epsilon: float
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 1 h w"]]:
    """The a and b of every pixel, averaged over its windows: the result is the sum of a I, and b.

    Found in a small image and enlarged, they serve the large one (the fast guided filter, He and Sun 2015).

    Raises:
        ValueError: as `guided_filter`.
    """
    if guide.shape[-2:] != map.shape[-2:]:
        raise ValueError(
            f"guide and map must have one size, got {tuple(guide.shape[-2:])} and {tuple(map.shape[-2:])}"
        )
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    c = guide.shape[1]
    pairs = [(i, j) for i in range(c) for j in range(i, c)]
    products = [guide[:, i] * guide[:, j] for i, j in pairs]
    means = box_mean(torch.cat([guide, map, guide * map, torch.stack(products, 1)], 1), radius)
    mean, mean_map, joint, square = means.split([c, 1, c, len(pairs)], 1)
    covariance = joint - mean * mean_map
    variance = {
        (i, j): square[:, n] - mean[:, i] * mean[:, j] + (epsilon if i == j else 0.0)
        for n, (i, j) in enumerate(pairs)
    }
    slope = _solved(variance, list(covariance.unbind(1)))
    offset = mean_map - (slope * mean).sum(1, keepdim=True)
    both = box_mean(torch.cat([slope, offset], 1), radius)
    return both[:, :c], both[:, c:]


def _solved(
    matrix: dict[tuple[int, int], Float[Tensor, "b h w"]], right: list[Float[Tensor, "b h w"]]
) -> Float[Tensor, "b c h w"]:
    """The solution of a small symmetric positive definite system at every pixel, by elimination.

    Args:
        matrix: the entries (i, j) with i <= j.
        right: the right side.
    """
    c = len(right)
    for k in range(c):
        for i in range(k + 1, c):
            factor = matrix[k, i] / matrix[k, k]
            for j in range(i, c):
                matrix[i, j] = matrix[i, j] - factor * matrix[k, j]
            right[i] = right[i] - factor * right[k]
    for k in reversed(range(c)):
        for j in range(k + 1, c):
            right[k] = right[k] - matrix[k, j] * right[j]
        right[k] = right[k] / matrix[k, k]
    return torch.stack(right, 1)
