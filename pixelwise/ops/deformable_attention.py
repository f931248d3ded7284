"""Attention to a few places of several maps, which the query itself chooses (Deformable DETR)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def deformable_attention(
    values: Sequence[Float[Tensor, "b heads c _ _"]],
    locations: Float[Tensor, "b n heads levels points 2"],
    weights: Float[Tensor, "b n heads levels points"],
) -> Float[Tensor, "b n heads c"]:
    """Multi-scale deformable attention (Zhu et al. 2021, Deformable DETR, Eq. 3).

    For each query and head, the weighted sum of what the maps hold at its places, read between the centres
    of pixels (bilinear) and 0 beyond the border. One level after the other is added up.

    Args:
        values: the map of each level, its channels dealt to the heads.
        locations: x y of each place, as fractions of the width and height of the level: (0, 0) is the outer
            corner of the first pixel.
        weights: of each place; those of a query and head usually sum up to 1.

    >>> one = torch.tensor([[[[[1.0, 3.0]]]]])  # a map of 1 x 2 pixels, one head, one channel
    >>> places = torch.tensor([0.25, 0.5, 0.5, 0.5]).view(1, 1, 1, 1, 2, 2)  # a centre, and between both
    >>> deformable_attention([one], places, torch.full((1, 1, 1, 1, 2), 0.5)).item()
    1.5
    """
    # On a CPU, sums of rows take a fifth of the time; ONNX does not know them.
    on_cpu = weights.device.type == "cpu" and not torch.compiler.is_exporting()
    read = read_rows if on_cpu else read_maps
    found = read(values[0], locations[:, :, :, 0], weights[..., 0, :])
    for level in range(1, len(values)):
        found = found + read(values[level], locations[:, :, :, level], weights[..., level, :])
    return found


def read_maps(
    value: Float[Tensor, "b heads c h w"],
    locations: Float[Tensor, "b n heads points 2"],
    weights: Float[Tensor, "b n heads points"],
) -> Float[Tensor, "b n heads c"]:
    """One level by `grid_sample`: what lies at each place, times its weight, summed up."""
    grid = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # b·heads n points 2
    shares = weights.transpose(1, 2).flatten(0, 1)[:, None]  # b·heads 1 n points
    read = F.grid_sample(value.flatten(0, 1), grid, mode="bilinear", align_corners=False)
    return (read * shares).sum(-1).unflatten(0, value.shape[:2]).permute(0, 3, 1, 2)


def read_rows(
    value: Float[Tensor, "b heads c h w"],
    locations: Float[Tensor, "b n heads points 2"],
    weights: Float[Tensor, "b n heads points"],
) -> Float[Tensor, "b n heads c"]:
    """The same as a weighted sum of pixels, four around each place, none of which is held by itself."""
    b, heads, c, height, width = value.shape
    map = torch.arange(b * heads, device=value.device, dtype=torch.int32).view(b, 1, heads, 1)
    columns = neighbours(locations[..., 0], width)
    pixels, shares = [], []
    for row, of_row in neighbours(locations[..., 1], height):
        first, weighted = (map * height + row) * width, weights * of_row
        for column, of_column in columns:
            pixels.append(first + column)
            shares.append(weighted * of_column)
    found = F.embedding_bag(
        torch.cat(pixels, -1).flatten(0, 2),
        value.permute(0, 1, 3, 4, 2).reshape(-1, c),
        mode="sum",
        per_sample_weights=torch.cat(shares, -1).flatten(0, 2).to(value.dtype),
    )
    return found.view(b, -1, heads, c)


def neighbours(
    place: Float[Tensor, "*places"], length: int
) -> list[tuple[Int[Tensor, "*places"], Float[Tensor, "*places"]]]:
    """The two pixels around each place along one axis, and the share of each; that of one outside is 0.

    Args:
        place: as a fraction of the axis.
        length: of the axis in pixels.

    >>> [(pixel.tolist(), share.tolist()) for pixel, share in neighbours(torch.tensor([0.5, 1.0]), 2)]
    [([0, 1], [0.5, 0.5]), ([1, 0], [0.5, 0.0])]
    """
    place = place * length - 0.5
    before = place.floor()
    part = place - before
    found = []
    for pixel, share in ((before, 1 - part), (before + 1, part)):
        inside = (pixel >= 0) & (pixel < length)
        found.append((pixel.where(inside, 0).int(), share * inside))  # NaN is at pixel 0 with a share of NaN
    return found
