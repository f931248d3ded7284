"""A network over the tiles of an image, whose overlapping logits become one map: a block at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..types import DenseLogits
from .grid import Blend, Interval, Size, at, grid

Network = Callable[[Float[Tensor, "b c *grid"]], DenseLogits]
Read = Callable[[tuple[slice, ...]], Float[Tensor, "b c *_"]]
Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]

_LEAST = 16  # voxels along each axis of a small volume with the zeros around it


class Block(NamedTuple):
    """A part of the image whose scores are known.

    Attributes:
        place: of the block in the image, along each axis.
        output: scores of a part of the image that holds the block.
        inside: of the block in that part.
    """

    place: tuple[slice, ...]
    output: DenseLogits
    inside: tuple[slice, ...]


def blocks(
    f: Network,
    read: Read,
    axes: Sequence[Sequence[Interval]],
    blend: Blend,
    batch_size: int = 1,
    each: Each = map,
) -> Iterator[Block]:
    """The finished blocks of an image, in reading order; together they cover it once.

    With the blend "crop" the scores of a tile stay as coarse as the network gives them, and those at
    the size of the tile are cut to the block. With others they are summed at the size of the image, for one
    tile and the rows that the next tiles share with it.

    Args:
        f: image -> DenseLogits.
        read: a part of the image, along each axis -> its pixels.
        axes: see `grid`.
        blend: as it was given to `grid`.
        batch_size: number of tiles of one size that `f` gets at once.
        each: how `f` is called for one batch after the other: the results in order.
    """
    if blend == "crop":
        tiles = product(*axes)
        for some, output in _outputs(f, read, axes, batch_size, each):
            for scores in output.coarse.split(len(output.coarse) // some):
                tile = next(tiles)
                place = tuple(slice(*interval.own) for interval in tile)
                inside = tuple(slice(i.own[0] - i.start, i.own[1] - i.start) for i in tile)
                size = output.size
                if tuple(scores.shape[2:]) == size:  # what belongs to other tiles is not decoded
                    scores = scores[at(inside)]
                    size = tuple(scores.shape[2:])
                    inside = tuple(slice(0, side) for side in size)
                yield Block(place, DenseLogits(scores, size, (), output.align_corners), inside)
        return
    maps = (
        scores
        for some, output in _outputs(f, read, axes, batch_size, each)
        for scores in output.logits.float().split(len(output.coarse) // some)
    )
    for place, scores in stitched(maps, axes):
        size = tuple(scores.shape[2:])
        yield Block(place, DenseLogits(scores, size), tuple(slice(0, side) for side in size))


def stitched(
    maps: Iterator[Tensor], axes: Sequence[Sequence[Interval]], outer: tuple[Interval, ...] = ()
) -> Iterator[tuple[tuple[slice, ...], Float[Tensor, "b k *_"]]]:
    """Weighted means of overlapping maps, in blocks that no later map touches.

    Along each axis, what a tile shares with the next one is kept until that one comes: of the image this is
    the width times the overlap, and never a whole row of tiles.

    Args:
        maps: of the tiles in reading order.
        axes: see `grid`.
        outer: the tile's place along the axes before; of this function's own.
    """
    if len(outer) == len(axes):
        scores = next(maps)
        for axis, interval in enumerate(outer):
            weight = interval.weight.to(scores.device)
            scores = scores * weight.view(-1, *[1] * (len(outer) - 1 - axis))
        yield (), scores
        return
    along = 2 + len(outer)
    intervals = axes[len(outer)]
    shared: list[Tensor] = []
    for number, this in enumerate(intervals):
        end = intervals[number + 1].start if number + 1 < len(intervals) else this.stop
        kept = []
        for part, (place, scores) in enumerate(stitched(maps, axes, (*outer, this))):
            if shared:
                before = shared[part]
                scores.narrow(along, 0, before.shape[along]).add_(before)
                shared[part] = before.new_empty(0)
            yield (slice(this.start, end), *place), scores.narrow(along, 0, end - this.start)
            kept.append(scores.narrow(along, end - this.start, this.stop - end).clone())
        shared = kept


def with_repeated_border(image: Float[Tensor, "b c *grid"], least: int) -> Float[Tensor, "b c *larger"]:
    """An image or volume whose last row, column (and slice) are repeated up to `least` along each axis."""
    missing = [max(0, least - side) for side in image.shape[2:]]
    if not any(missing) or not all(image.shape[2:]):  # of an empty image there is no border
        return image
    return F.pad(image, [n for side in reversed(missing) for n in (0, side)], mode="replicate")


def scores_of_any_size(f: Network, image: Float[Tensor, "b c *grid"], least: int) -> DenseLogits:
    """The scores of an image or volume, however small: its border is repeated until `f` can take it.

    Args:
        f: image -> DenseLogits.
        image: of any size.
        least: extent along each axis that `f` needs, in pixels or voxels.

    >>> def brightness(image: Tensor) -> DenseLogits:
    ...     assert min(image.shape[2:]) >= 4
    ...     return DenseLogits(image, tuple(image.shape[2:]))
    >>> scores_of_any_size(brightness, torch.tensor([[[[1.0, 2.0, 3.0]]]]), 4).logits
    tensor([[[[1., 2., 3.]]]])
    """
    size = tuple(image.shape[2:])
    output = f(extended := with_repeated_border(image, least))
    if extended is image:
        return output
    inside: tuple[Any, ...] = (..., *(slice(side) for side in size))
    return DenseLogits(output.logits[inside], size, tuple(one[inside] for one in output.aux_logits))


def among_zeros(f: Network, size: Sequence[int], window: Size, tile: Size) -> tuple[Network, Size]:
    """`f` of an image that lies in the middle of zeros where it is shorter than a window, and its tiles.

    So volumes that are smaller than the patches of a training are seen as they were there.

    Args:
        f: image -> DenseLogits.
        size: of the image along each axis.
        window: least extent of what `f` sees along each axis; at least 16.
        tile: size of a tile; along an axis that is too short it becomes that of the image.

    >>> def extent(image: Tensor) -> DenseLogits:
    ...     return DenseLogits(torch.full_like(image, image.numel()), tuple(image.shape[2:]))
    >>> network, tile = among_zeros(extent, (2,), (20,), (1,))
    >>> network(torch.ones(1, 1, 2)).logits, tile
    (tensor([[[20., 20.]]]), (2,))
    """
    missing = [max(0, max(wanted, _LEAST) - side) for wanted, side in zip(window, size, strict=True)]
    if not any(missing):
        return f, tile
    before = [pixels // 2 for pixels in missing]
    sides = [n for first, both in zip(before, missing, strict=True) for n in (both - first, first)]

    def apply(image: Float[Tensor, "b c *grid"]) -> DenseLogits:
        output, shape = f(F.pad(image, sides[::-1])), tuple(image.shape[2:])
        inside = [slice(first, first + side) for first, side in zip(before, shape, strict=True)]
        return DenseLogits(output.logits[at(inside)], shape)

    whole = (max(side, length * (lack > 0)) for side, length, lack in zip(tile, size, missing, strict=True))
    return apply, tuple(whole)


def tiled(
    f: Network, size: Size, overlap: int | Size, *, blend: Blend = "gaussian", batch_size: int = 1
) -> Network:
    """`f`, seeing the image in tiles. The result is one map of logits at the size of the image.

    To decode a huge image without ever holding all its logits, go through `blocks`.

    Args:
        f: image -> DenseLogits.
        size: of a tile along each axis in pixels; smaller images are one tile.
        overlap: pixels that neighbours share at least, for all axes or for each.
        blend: see the top of `grid.py`.
        batch_size: number of tiles that `f` gets at once.

    Raises:
        ValueError: if the overlap is not smaller than the tile, the blend is unknown, or the image has
            another number of axes.
    """
    grid(size, size, overlap, blend)

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
    axes = grid(image.shape[2:], size, overlap, blend)
    maps = (
        scores
        for some, output in _outputs(f, lambda place: image[at(place)], axes, batch_size)
        for scores in output.logits.float().split(len(output.coarse) // some)
    )
    yield from _in_rows(stitched(maps, axes), tuple(image.shape[2:]))


def tile(image: Float[Tensor, "b c *grid"], size: Size, overlap: int | Size) -> Float[Tensor, "n b c *_"]:
    """The tiles that `tiled` looks at, in reading order.

    Raises:
        ValueError: if the overlap is not smaller than the tile.
    """
    axes = grid(image.shape[2:], size, overlap, "constant")
    return torch.stack([image[_place(place)] for place in product(*axes)])


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
        blend: see the top of `grid.py`.

    Raises:
        ValueError: if the number of tiles is not the one `tile` makes, or see `tiled`.
    """
    axes = grid(image_size, size, overlap, blend)
    count = len(list(product(*axes)))
    if len(tiles) != count:
        raise ValueError(f"an image of that size has {count} tiles, got {len(tiles)}")
    return torch.cat(list(_in_rows(stitched(iter(tiles), axes), image_size)), dim=2)


def read_tiles(read: Read, axes: Sequence[Sequence[Interval]]) -> Iterator[Float[Tensor, "b c *_"]]:
    """The parts of an image that the tiles see, in reading order."""
    for tile in product(*axes):
        yield read(tuple(slice(interval.start, interval.stop) for interval in tile))


def _outputs(
    f: Network, read: Read, axes: Sequence[Sequence[Interval]], batch_size: int, each: Each = map
) -> Iterator[tuple[int, DenseLogits]]:
    """How many tiles were looked at together, and what `f` says of them; tiles in reading order."""

    def look(tiles: list[Tensor]) -> tuple[int, DenseLogits]:
        return len(tiles), f(torch.cat(tiles) if len(tiles) > 1 else tiles[0])

    yield from each(look, _batches(read, axes, batch_size))


def _batches(read: Read, axes: Sequence[Sequence[Interval]], batch_size: int) -> Iterator[list[Tensor]]:
    """Tiles of one size that follow each other, at most `batch_size` of them."""
    waiting: list[Tensor] = []
    for image in read_tiles(read, axes):
        if waiting and waiting[0].shape != image.shape:
            yield waiting
            waiting = []
        waiting.append(image)
        if len(waiting) == batch_size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _in_rows(
    finished: Iterable[tuple[tuple[slice, ...], Tensor]], size: Size
) -> Iterator[Float[Tensor, "b k *_"]]:
    """Blocks side by side, as whole rows."""
    band: Tensor | None = None
    for place, scores in finished:
        rows, *others = place
        if band is None:
            band = scores.new_empty(*scores.shape[:2], rows.stop - rows.start, *size[1:])
        band[at((slice(None), *others))] = scores
        if all(where.stop == side for where, side in zip(others, size[1:], strict=True)):
            yield band
            band = None


def _place(tile: tuple[Interval, ...]) -> tuple[Any, ...]:
    """Where a tile lies along the last axes."""
    return at([slice(interval.start, interval.stop) for interval in tile])
