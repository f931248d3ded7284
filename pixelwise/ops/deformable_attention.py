"""Attention to a few places of several maps, which the query itself chooses (Deformable DETR)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
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
    b, n, heads = weights.shape[:3]
    grid = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # b·heads n levels points 2
    shares = weights.transpose(1, 2).flatten(0, 1)  # b·heads n levels points
    levels = []
    for level, value in enumerate(values):
        read = F.grid_sample(value.flatten(0, 1), grid[:, :, level], mode="bilinear", align_corners=False)
        levels.append((read * shares[:, None, :, level]).sum(-1))  # b·heads c n
    summed = torch.stack(levels).sum(0) if len(levels) > 1 else levels[0]
    return summed.view(b, heads, -1, n).permute(0, 3, 1, 2)
