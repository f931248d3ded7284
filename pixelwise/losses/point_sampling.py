"""Maps read at points, and points where a network is unsure (PointRend, Kirillov et al., CVPR 2020)."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def sample_points(
    maps: Float[Tensor, "n h w"],
    points: Float[Tensor, "_ p 2"],
    *,
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> Float[Tensor, "n p"]:
    """Values of maps at points.

    Args:
        maps: one value per pixel; beyond the border they are 0.
        points: (x, y) of each, as fractions of width and height: (0, 0) is the outer corner of the first
            pixel. One list per map, or one for all.
        mode: linear interpolation between the centres of pixels, or the pixel in which the point lies.

    >>> sample_points(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[0.25, 0.5], [0.5, 0.5]]])).tolist()
    [[1.0, 2.0]]
    """
    grid = (2 * points[:, :, None] - 1).to(maps.dtype)
    channels = maps[:, None] if len(points) == len(maps) else maps[None]
    read = F.grid_sample(channels, grid, mode=mode, align_corners=False)[..., 0]
    return read.reshape(len(maps), -1)


def uncertain_points(
    logits: Float[Tensor, "n h w"],
    count: int,
    *,
    oversample: float = 3.0,
    importance: float = 0.75,
    valid: Bool[Tensor, "H W"] | None = None,
) -> Float[Tensor, "n count 2"]:
    """Points for each mask, most of them where its logit is near 0 (PointRend, Sec. 3.1, point selection).

    `oversample * count` random points are looked at, the `importance * count` most unsure of them are taken,
    and the rest is random.

    Args:
        logits: one score per pixel of each mask.
        count: number of points per mask.
        oversample: how many times as many points are looked at.
        importance: share of unsure points in [0, 1].
        valid: pixels that count; a point elsewhere is never an unsure one.

    Returns:
        (x, y) of each point, as fractions of width and height.

    >>> step = torch.linspace(-1, 1, 64).expand(1, 64, 64)  # unsure in the middle
    >>> points = uncertain_points(step, 100, oversample=20, importance=1.0)
    >>> ((points[..., 0] - 0.5).abs() < 0.1).all().item()
    True
    """
    candidates = torch.rand(len(logits), int(oversample * count), 2, device=logits.device)
    unsure = -sample_points(logits.float(), candidates).abs()
    if valid is not None:
        known = valid[None].float().expand(len(logits), -1, -1)
        unsure = torch.where(sample_points(known, candidates, mode="nearest") > 0.5, unsure, -torch.inf)
    chosen = unsure.topk(int(importance * count), dim=1, sorted=False).indices
    taken = candidates[torch.arange(len(logits), device=logits.device)[:, None], chosen]
    others = torch.rand(len(logits), count - taken.shape[1], 2, device=logits.device)
    return torch.cat([taken, others], 1)
