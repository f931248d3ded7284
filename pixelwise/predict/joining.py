"""Objects of a large image that are found tile by tile, and joined where a border cuts them.

Where two tiles overlap, two objects of one class are taken for the same if their parts in the overlap have an
IoU of at least a half; where a border cuts one of them, if at least half of its part lies in the other (of
both, of the smaller one). Of objects that are the same:

- one that touches no border inside the image was seen whole, and is the result as it is; of several, the one
  that lies in the middle of its tile. So the objects are those of the whole image where the overlap covers
  them and the halo around them.
- where each was cut, the result is the union of all parts.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..rle import RleMasks
from ..tiling import Each, Interval, read_tiles
from ..types import Boxes, MaskSet

SAME = 0.5  # share of the parts in the overlap of two tiles from which two objects are one
Tile = tuple[Interval, Interval]
Find = Callable[[Float[Tensor, "1 c h w"]], MaskSet | Boxes]
Read = Callable[[tuple[slice, ...]], Float[Tensor, "1 c h w"]]


class Part(NamedTuple):
    """An object, or the part of one, in pixels of the image.

    Attributes:
        top: row of its box.
        left: column of its box.
        mask: of the pixels in its box.
        label: of its class.
        score: confidence.
        box: x1 y1 x2 y2.
        whole: whether no border inside the image cuts it.
        central: whether the middle of its box is nearer to the middle of its tile than to that of others.
    """

    top: int
    left: int
    mask: Bool[np.ndarray, "h w"]
    label: int
    score: float
    box: tuple[float, float, float, float]
    whole: bool
    central: bool

    @property
    def window(self) -> tuple[int, int, int, int]:
        """Top, left, and behind the last row and column."""
        return self.top, self.left, self.top + self.mask.shape[0], self.left + self.mask.shape[1]


def objects_in_tiles(
    find: Find, read: Read, axes: Sequence[Sequence[Interval]], each: Each = map
) -> list[Part]:
    """The objects of an image, best first.

    Args:
        find: a part of the image -> the objects in it, in its pixels.
        read: a part of the image, along each axis -> its pixels.
        axes: the tiles; see `tiling.grid` with the blend "crop".
        each: how `find` is called for one tile after the other: the results in order.
    """
    size = axes[0][-1].stop, axes[1][-1].stop
    tiles: list[tuple[Tile, list[Part]]] = []
    annotations = each(find, read_tiles(read, axes))
    for (rows, columns), annotation in zip(product(*axes), annotations, strict=True):
        tiles.append(((rows, columns), list(_parts(annotation, (rows, columns), size))))
    parts = [part for _, found in tiles for part in found]
    root = list(range(len(parts)))

    def root_of(number: int) -> int:
        while root[number] != number:
            root[number] = root[root[number]]
            number = root[number]
        return number

    starts = np.cumsum([0, *(len(found) for _, found in tiles)])
    for i, (one, _) in enumerate(tiles):
        for j in range(i + 1, len(tiles)):
            other = tiles[j][0]
            shared = _overlap(one, other)
            if shared is None:
                if other[0].start >= one[0].stop:
                    break  # tiles are in reading order: none below overlaps
                continue
            for first in range(starts[i], starts[i + 1]):
                for second in range(starts[j], starts[j + 1]):
                    if _are_same(parts[first], parts[second], shared):
                        root[root_of(second)] = root_of(first)
    groups: dict[int, list[Part]] = {}
    for number, part in enumerate(parts):
        groups.setdefault(root_of(number), []).append(part)
    found = [part for group in groups.values() for part in _joined(group)]
    return sorted(found, key=lambda part: -part.score)


def as_masks(parts: Sequence[Part], size: tuple[int, int]) -> MaskSet:
    """Objects as run lengths of the whole image."""
    runs = [_runs(part, size) for part in parts]
    offsets = np.cumsum([0, *(len(one) for one in runs)]).astype(np.int64)
    counts = np.concatenate([*runs, np.zeros(0, np.uint32)]).astype(np.uint32)
    labels = torch.tensor([part.label for part in parts], dtype=torch.int64)
    scores = torch.tensor([part.score for part in parts], dtype=torch.float32)
    return MaskSet.of(RleMasks(counts, offsets, *size), labels, scores)


def as_boxes(parts: Sequence[Part]) -> Boxes:
    """Objects as boxes."""
    return Boxes.of(
        torch.tensor([part.box for part in parts], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([part.label for part in parts], dtype=torch.int64),
        torch.tensor([part.score for part in parts], dtype=torch.float32),
    )


def painted(parts: Sequence[Part], start: int, stop: int, width: int) -> np.ndarray:
    """Rows of the map of ids, uint32: 1 for the best object and so on, 0 for none; the best in front."""
    rows = np.zeros((stop - start, width), np.uint32)
    for number in range(len(parts), 0, -1):
        top, left, bottom, right = parts[number - 1].window
        first, last = max(top, start), min(bottom, stop)
        if first < last:
            mask = parts[number - 1].mask[first - top : last - top]
            rows[first - start : last - start, left:right][mask] = number
    return rows


def _parts(found: MaskSet | Boxes, tile: Tile, size: tuple[int, int]) -> Iterator[Part]:
    """What was found in a tile, in pixels of the image."""
    rows, columns = tile
    height, width = rows.stop - rows.start, columns.stop - columns.start
    boxes = found.boxes if isinstance(found, MaskSet) else found
    masks = found.masks if isinstance(found, MaskSet) else None
    table = zip(boxes.boxes.tolist(), found.classes.tolist(), found.scores.tolist(), strict=True)
    for number, ((x1, y1, x2, y2), label, score) in enumerate(table):
        left, top = max(0, int(np.floor(x1))), max(0, int(np.floor(y1)))
        right, bottom = min(width, int(np.ceil(x2))), min(height, int(np.ceil(y2)))
        if left >= right or top >= bottom:
            continue
        if masks is None:
            mask = np.ones((bottom - top, right - left), bool)
        elif isinstance(masks, Tensor):
            mask = masks[number, top:bottom, left:right].cpu().numpy()
        else:
            mask = masks[np.array([number])].decode()[0][top:bottom, left:right].copy()
        cut = (
            (top == 0 and rows.start > 0)
            or (left == 0 and columns.start > 0)
            or (bottom == height and rows.stop < size[0])
            or (right == width and columns.stop < size[1])
        )
        y, x = rows.start + (top + bottom) / 2, columns.start + (left + right) / 2
        yield Part(
            rows.start + top,
            columns.start + left,
            mask,
            label,
            score,
            (x1 + columns.start, y1 + rows.start, x2 + columns.start, y2 + rows.start),
            not cut,
            rows.own[0] <= y < rows.own[1] and columns.own[0] <= x < columns.own[1],
        )


def _overlap(one: Tile, other: Tile) -> tuple[int, int, int, int] | None:
    top, left = (max(a.start, b.start) for a, b in zip(one, other, strict=True))
    bottom, right = (min(a.stop, b.stop) for a, b in zip(one, other, strict=True))
    return (top, left, bottom, right) if top < bottom and left < right else None


def _within(part: Part, window: tuple[int, int, int, int]) -> Bool[np.ndarray, "h w"]:
    """The mask of a part in a window of the image that may be larger than its box."""
    top, left, bottom, right = window
    mask = np.zeros((bottom - top, right - left), bool)
    first, before, last, behind = part.window
    y1, x1, y2, x2 = max(top, first), max(left, before), min(bottom, last), min(right, behind)
    if y1 < y2 and x1 < x2:
        inside = part.mask[y1 - first : y2 - first, x1 - before : x2 - before]
        mask[y1 - top : y2 - top, x1 - left : x2 - left] = inside
    return mask


def _are_same(one: Part, other: Part, shared: tuple[int, int, int, int]) -> bool:
    """Whether two objects of overlapping tiles are one."""
    if one.label != other.label:
        return False
    (top, left, bottom, right), (y1, x1, y2, x2) = one.window, other.window
    if min(bottom, y2) <= max(top, y1) or min(right, x2) <= max(left, x1):
        return False
    window = (
        max(min(top, y1), shared[0]),
        max(min(left, x1), shared[1]),
        min(max(bottom, y2), shared[2]),
        min(max(right, x2), shared[3]),
    )
    a, b = _within(one, window), _within(other, window)
    areas = [int(mask.sum()) for mask, part in ((a, one), (b, other)) if not part.whole]
    whole = min(areas) if areas else int((a | b).sum())
    return whole > 0 and int((a & b).sum()) >= SAME * whole


def _joined(group: list[Part]) -> list[Part]:
    """The objects that a group of parts stands for: most often one."""
    if len(group) == 1:
        return group
    if whole := [part for part in group if part.whole]:
        kept: list[Part] = []
        for part in sorted(whole, key=lambda part: (not part.central, -part.score)):
            if not any(_are_same(part, other, (0, 0, 1 << 62, 1 << 62)) for other in kept):
                kept.append(part)
        return kept
    windows = np.array([part.window for part in group])
    top, left = (int(side) for side in windows[:, :2].min(0))
    bottom, right = (int(side) for side in windows[:, 2:].max(0))
    mask = np.zeros((bottom - top, right - left), bool)
    for part in group:
        mask |= _within(part, (top, left, bottom, right))
    areas = np.array([part.mask.sum() for part in group], float)
    boxes = np.array([part.box for part in group])
    x1, y1, x2, y2 = (float(side) for side in (*boxes[:, :2].min(0), *boxes[:, 2:].max(0)))
    score = float(np.average([part.score for part in group], weights=areas + 1e-9))
    return [Part(top, left, mask, group[0].label, score, (x1, y1, x2, y2), True, True)]


def _runs(part: Part, size: tuple[int, int]) -> np.ndarray:
    """Run lengths down the columns of the whole image, zeros first."""
    height, width = size
    top, left, _, _ = part.window
    columns = np.pad(part.mask.T, ((0, 0), (1, 1))).astype(np.int8)  # w h+2
    steps = np.diff(columns, axis=1)
    column, begin = np.nonzero(steps == 1)
    _, end = np.nonzero(steps == -1)
    place = (column + left).astype(np.int64) * height + top
    edges = np.stack([place + begin, place + end], 1).ravel()
    return np.diff(np.concatenate([[0], edges, [height * width]])).astype(np.uint32)
