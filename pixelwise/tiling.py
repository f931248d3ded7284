"""Large images and volumes in overlapping tiles: memory stays that of a band, whatever the image.

    image --tiles, row by row--> f --logits--> weighted sums of one band --finished rows--> out

A band lies across the first axis: rows of an image, slices of a volume.

Logits of overlapping tiles are averaged with weights that say how far to trust a tile near its border:

- "gaussian": a bell over the tile, sigma an eighth of its side (as nnU-Net and MONAI do). No seams.
- "constant": all the same.
- "crop": the tile whose border is farther away has all the weight. Where half the overlap covers the
  radius of the receptive field, the result is exactly that of the whole image, provided that tiles start
  at multiples of the network's stride.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise, product
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from .types import DenseLogits

Network = Callable[[Float[Tensor, "b c *grid"]], DenseLogits]
Blend = Literal["gaussian", "constant", "crop"]
Size = tuple[int, ...]


def tiled(
    f: Network, size: Size, overlap: int | Size, *, blend: Blend = "gaussian", batch_size: int = 1
) -> Network:
    """`f`, seeing the image in tiles. The result is one map of logits at the size of the image.

    To decode a huge image without ever holding all its logits, go through `bands`.

    Args:
        f: image -> DenseLogits.
        size: of a tile along each axis in pixels; smaller images are one tile.
        overlap: pixels that neighbours share at least, for all axes or for each.
        blend: see the top of this file.
        batch_size: number of tiles that `f` gets at once.

    Raises:
        ValueError: if the overlap is not smaller than the tile, the blend is unknown, or the image has
            another number of axes.
    """
    _check(size, overlap, blend)

    def apply(image: Float[Tensor, "b c *grid"]) -> DenseLogits:
        finished = list(bands(f, image, size, overlap, blend=blend, batch_size=batch_size))
        return DenseLogits(torch.cat(finished, dim=2), tuple(image.shape[2:]))

    return apply


def bands(
    f: Network,
    image: Float[Tensor, "b c *grid"],
    size: Size,
    overlap: int | Size,
    *,
    blend: Blend = "gaussian",
    batch_size: int = 1,
) -> Iterator[Float[Tensor, "b k *_"]]:
    """Logits of the image, from top to bottom, a band of finished rows (of a volume: slices) at a time.

    Arguments and errors are those of `tiled`.
    """
    rows, others = _axes(image.shape[2:], size, overlap, blend)

    def outputs() -> Iterator[list[Tensor]]:
        for row in rows:
            band = image[:, :, row.start : row.stop]
            found: list[Tensor] = []
            for i in range(0, len(others), batch_size):
                some = [band[_place(tile)] for tile in others[i : i + batch_size]]
                found += f(torch.cat(some)).logits.float().split(len(image))
            yield found

    yield from _stitched(outputs(), rows, others)


def tile(image: Float[Tensor, "b c *grid"], size: Size, overlap: int | Size) -> Float[Tensor, "n b c *_"]:
    """The tiles that `tiled` looks at, in reading order.

    Raises:
        ValueError: if the overlap is not smaller than the tile.
    """
    rows, others = _axes(image.shape[2:], size, overlap, "constant")
    return torch.stack([image[:, :, row.start : row.stop][_place(tile)] for row in rows for tile in others])


def untile(
    tiles: Float[Tensor, "n b c *_"],
    image_size: Size,
    size: Size,
    overlap: int | Size,
    *,
    blend: Blend = "gaussian",
) -> Float[Tensor, "b c *grid"]:
    """Undo `tile`: where tiles disagree, their weighted mean.

    Args:
        tiles: as `tile` gives them.
        image_size: of the result along each axis.
        size: as it was given to `tile`.
        overlap: likewise.
        blend: see the top of this file.

    Raises:
        ValueError: if the number of tiles is not the one `tile` makes, or see `tiled`.
    """
    rows, others = _axes(image_size, size, overlap, blend)
    if len(tiles) != len(rows) * len(others):
        raise ValueError(f"an image of that size has {len(rows) * len(others)} tiles, got {len(tiles)}")
    in_rows = (tiles[i : i + len(others)].unbind() for i in range(0, len(tiles), len(others)))
    return torch.cat(list(_stitched(in_rows, rows, others)), dim=2)


class _Interval(NamedTuple):
    """One tile along one axis.

    Attributes:
        start: first pixel.
        stop: behind the last one.
        weight: one per pixel.
    """

    start: int
    stop: int
    weight: Float[Tensor, " _"]


def _stitched(
    outputs: Iterable[Sequence[Tensor]], rows: Sequence[_Interval], others: Sequence[tuple[_Interval, ...]]
) -> Iterator[Float[Tensor, "b k *_"]]:
    """Rows that no later tile touches, as soon as they are known."""
    across = [interval.stop for interval in others[-1]]
    sums, weights = torch.empty(0), torch.empty(0)  # of the rows from `top` on
    top = 0
    for row, maps in zip(rows, outputs, strict=True):
        if not sums.numel():
            b, k = maps[0].shape[:2]
            sums = maps[0].new_zeros(b, k, row.stop - row.start, *across)
            weights = sums.new_zeros(row.stop - row.start, *across)
        elif done := row.start - top:
            yield sums[:, :, :done] / weights[:done]
            sums = torch.cat([sums[:, :, done:], torch.zeros_like(sums[:, :, :done])], dim=2)
            weights = torch.cat([weights[done:], torch.zeros_like(weights[:done])])
            top = row.start
        for tile, scores in zip(others, maps, strict=True):
            window = row.weight
            for interval in tile:
                window = window[..., None] * interval.weight
            window = window.to(sums.device)
            sums[_place(tile)] += scores * window
            weights[_place(tile)] += window
    yield sums / weights


def _place(tile: tuple[_Interval, ...]) -> tuple[Any, ...]:
    """Where a tile lies along the last axes."""
    return (..., *(slice(interval.start, interval.stop) for interval in tile))


def _axes(
    image_size: Sequence[int], size: Size, overlap: int | Size, blend: Blend
) -> tuple[list[_Interval], list[tuple[_Interval, ...]]]:
    """The tiles along the first axis, and those of one band."""
    _check(size, overlap, blend)
    if len(image_size) != len(size):
        raise ValueError(f"tiles of {len(size)} axes do not fit an image of {len(image_size)}")
    axes = [
        _intervals(n, side, shared, blend)
        for n, side, shared in zip(image_size, size, _each(overlap, size), strict=True)
    ]
    return axes[0], list(product(*axes[1:]))


def _each(overlap: int | Size, size: Size) -> Size:
    return (overlap,) * len(size) if isinstance(overlap, int) else overlap


def _intervals(length: int, side: int, overlap: int, blend: Blend) -> list[_Interval]:
    """Tiles of one size that cover `length` pixels; the last one is moved back to end with the image."""
    step, side = side - overlap, min(side, length)
    starts = [*range(0, length - side, step), length - side]
    if blend == "crop":
        cuts = [0, *((a + side + b) // 2 for a, b in pairwise(starts)), length]
        weights = [torch.zeros(side) for _ in starts]
        for i, start in enumerate(starts):
            weights[i][cuts[i] - start : cuts[i + 1] - start] = 1
    elif blend == "gaussian":
        distance = torch.arange(side) - (side - 1) / 2
        weights = [torch.exp(-0.5 * (distance / (side / 8)) ** 2)] * len(starts)
    else:
        weights = [torch.ones(side)] * len(starts)
    return [_Interval(start, start + side, weight) for start, weight in zip(starts, weights, strict=True)]


def _check(size: Size, overlap: int | Size, blend: str) -> None:
    if blend not in get_args(Blend):
        raise ValueError(f"blend must be one of {', '.join(get_args(Blend))}, got {blend!r}")
    for side, shared in zip(size, _each(overlap, size), strict=True):
        if not 0 <= shared < side:
            raise ValueError(
                f"the overlap must be at least 0 and smaller than the tile, got {shared} of {side}"
            )
