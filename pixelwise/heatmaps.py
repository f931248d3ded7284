"""Heatmaps: from the places of joints to maps that a network can learn, and back.

    points --gaussian_heatmaps--> maps --quarter_offset or dark--> points

A map has one cell per `stride` pixels, and cell i lies at pixel i * stride (the convention of the authors of
SimpleBaseline and HRNet). The cell with the highest value tells the joint to within half a stride; two ways
to do better look at its neighbours.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from .types import Heatmaps, Skeleton

_REACH = 3  # standard deviations beyond which a target is 0
_LEAST = 1e-10  # below it a value has no logarithm that is of use


class HeatmapTarget(NamedTuple):
    """What a network should say of each joint.

    Attributes:
        maps: 1 at the joint, falling off as a Gaussian does.
        counts: False where nobody knows the joint, or it lies too far outside the map.
    """

    maps: Float[Tensor, "n j h w"]
    counts: Bool[Tensor, "n j"]


class Peaks(NamedTuple):
    """The places of the joints in cells of the maps, x y, and the highest value of each map."""

    points: Float[Tensor, "b j 2"]
    values: Float[Tensor, "b j"]


Refine = Callable[[Float[Tensor, "b j h w"]], Peaks]


def gaussian_heatmaps(
    points: Float[Tensor, "n j 2"],
    visible: Float[Tensor, "n j"],
    size: tuple[int, int],
    *,
    stride: int = 4,
    sigma: float | None = None,
    unbiased: bool = False,
) -> HeatmapTarget:
    """One Gaussian of height 1 per joint, cut off at three standard deviations.

    Args:
        points: x y of each joint in pixels of the crop.
        visible: above 0 where a joint is annotated.
        size: height and width of the maps.
        stride: pixels per cell.
        sigma: standard deviation in cells; None for a 32nd of the height (2 at 64 x 48 and 3 at 96 x 72).
        unbiased: whether the Gaussian lies at the joint itself (Zhang et al. 2020, Sec. 3.2) and not at the
            nearest cell; decode with `dark` then.

    >>> point, seen = torch.tensor([[[8.0, 4.0]]]), torch.ones(1, 1)
    >>> gaussian_heatmaps(point, seen, (3, 4), sigma=1.0).maps[0, 0]
    tensor([[0.0821, 0.3679, 0.6065, 0.3679],
            [0.1353, 0.6065, 1.0000, 0.6065],
            [0.0821, 0.3679, 0.6065, 0.3679]])
    """
    height, width = size
    sigma = height / 32 if sigma is None else sigma
    centres = points / stride
    if not unbiased:
        centres = (centres + 0.5).floor()
    factors, counts = [], visible > 0
    for axis, length in ((1, height), (0, width)):
        distance = torch.arange(length, device=points.device) - centres[..., axis, None]  # n j length
        near = distance.abs() <= _REACH * sigma
        factors.append(torch.exp(-0.5 * (distance / sigma) ** 2) * near)
        counts = counts & near.any(-1)
    rows, columns = factors
    maps = rows[..., :, None] * columns[..., None, :]
    return HeatmapTarget(maps * counts[..., None, None], counts)


# --- decoding -------------------------------------------------------------------------------------


def highest(maps: Float[Tensor, "b j h w"]) -> Peaks:
    """The cell with the highest value of each map; (0, 0) where no value is above 0."""
    (x, y), values = _argmax(maps)
    return Peaks(torch.stack([x, y], -1) * (values > 0)[..., None].to(maps.dtype), values)


def quarter_offset(maps: Float[Tensor, "b j h w"]) -> Peaks:
    """The highest cell, moved by a quarter of a cell towards the higher neighbour along each axis.

    Cells next to the border stay, as in the code of SimpleBaseline and HRNet.

    >>> maps = torch.zeros(1, 1, 5, 5)
    >>> maps[0, 0, 2, 2], maps[0, 0, 2, 3] = 1.0, 0.5
    >>> quarter_offset(maps).points
    tensor([[[2.2500, 2.0000]]])
    """
    height, width = maps.shape[-2:]
    (x, y), values = _argmax(maps)
    inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1) & (values > 0)
    right, left = _at(maps, x + 1, y), _at(maps, x - 1, y)
    below, above = _at(maps, x, y + 1), _at(maps, x, y - 1)
    step = torch.stack([(right - left).sign(), (below - above).sign()], -1) / 4
    points, _ = highest(maps)
    return Peaks(points + step * inside[..., None], values)


def dark(maps: Float[Tensor, "b j h w"], *, kernel: int = 11) -> Peaks:
    """The maximum of the parabola through the logarithm around the highest cell (DARK, Zhang et al. 2020).

    A Gaussian has a parabola as its logarithm, so its maximum is found between the cells. The maps are
    smoothed first. Cells within two of the border stay.

    Args:
        maps: of the network.
        kernel: side of the Gaussian that smooths: 11 where targets have sigma 2, 17 where they have 3.

    Raises:
        ValueError: on an even kernel.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel must be an odd number of cells, got {kernel}")
    height, width = maps.shape[-2:]
    points, values = highest(maps)
    (x, y), _ = _argmax(maps)
    inside = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2) & (values > 0)
    log = _smoothed(maps, kernel).clamp(min=_LEAST).log()

    def around(dx: int, dy: int) -> Tensor:
        return _at(log, x + dx, y + dy)

    gradient_x, gradient_y = (around(1, 0) - around(-1, 0)) / 2, (around(0, 1) - around(0, -1)) / 2
    xx = (around(2, 0) - 2 * around(0, 0) + around(-2, 0)) / 4
    yy = (around(0, 2) - 2 * around(0, 0) + around(0, -2)) / 4
    xy = (around(1, 1) - around(-1, 1) - around(1, -1) + around(-1, -1)) / 4
    determinant = xx * yy - xy * xy
    inside = inside & (determinant != 0)
    safe = torch.where(determinant == 0, 1, determinant)
    # Minus the inverse of the matrix of second derivatives times the gradient.
    step = (
        torch.stack([xy * gradient_y - yy * gradient_x, xy * gradient_x - xx * gradient_y], -1)
        / safe[..., None]
    )
    return Peaks(points + torch.where(inside[..., None], step, 0), values)


def unflip(
    maps: Float[Tensor, "b j h w"], skeleton: Skeleton, *, shift: bool = True
) -> Float[Tensor, "b j h w"]:
    """Heatmaps of the mirrored image, brought back: mirrored, left and right joints exchanged.

    Args:
        maps: of the mirrored image.
        skeleton: says which joints change places.
        shift: whether to move the maps by one cell to the right. Cell i lies at pixel i * stride, so
            mirroring the pixels and mirroring the cells differ by nearly a cell.

    Raises:
        ValueError: if the skeleton has another number of joints.
    """
    if maps.shape[1] != len(skeleton):
        raise ValueError(f"there are {maps.shape[1]} heatmaps, the skeleton has {len(skeleton)} joints")
    back = maps.flip(-1)[:, list(skeleton.flipped)]
    if shift:
        back = torch.cat([back[..., :1], back[..., :-1]], dim=-1)
    return back


def with_flip_test(
    f: Callable[[Float[Tensor, "b c H W"]], Heatmaps], skeleton: Skeleton, *, shift: bool = True
) -> Callable[[Float[Tensor, "b c H W"]], Heatmaps]:
    """`f`, averaged over the image and its mirror image; arguments and errors are those of `unflip`."""

    def apply(image: Float[Tensor, "b c H W"]) -> Heatmaps:
        output = f(image)
        mirrored = unflip(f(image.flip(-1)).coarse, skeleton, shift=shift)
        return Heatmaps((output.coarse + mirrored) / 2, output.size)

    return apply


def _argmax(
    maps: Float[Tensor, "b j h w"],
) -> tuple[tuple[Int64[Tensor, "b j"], Int64[Tensor, "b j"]], Tensor]:
    values, place = maps.flatten(2).max(-1)
    width = maps.shape[-1]
    return (place % width, place // width), values


def _at(
    maps: Float[Tensor, "b j h w"], x: Int64[Tensor, "b j"], y: Int64[Tensor, "b j"]
) -> Float[Tensor, "b j"]:
    """Values at cells, the nearest ones where they lie outside."""
    height, width = maps.shape[-2:]
    place = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return maps.flatten(2).gather(-1, place[..., None])[..., 0]


def _smoothed(maps: Float[Tensor, "b j h w"], kernel: int) -> Float[Tensor, "b j h w"]:
    """Smoothed by a Gaussian between zeros; the highest value of each map stays what it was."""
    sigma = 0.3 * ((kernel - 1) / 2 - 1) + 0.8  # OpenCV's, for a kernel of that side
    offset = torch.arange(kernel, device=maps.device, dtype=maps.dtype) - kernel // 2
    bell = torch.exp(-0.5 * (offset / sigma) ** 2)
    bell = bell / bell.sum()
    flat = maps.flatten(0, 1)[:, None]
    flat = F.conv2d(flat, bell.view(1, 1, 1, -1), padding=(0, kernel // 2))
    flat = F.conv2d(flat, bell.view(1, 1, -1, 1), padding=(kernel // 2, 0))
    smooth = flat[:, 0].view_as(maps)
    before, after = maps.amax((-2, -1), keepdim=True), smooth.amax((-2, -1), keepdim=True)
    return smooth * before / after.clamp(min=_LEAST)
