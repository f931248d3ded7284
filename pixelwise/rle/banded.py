"""Outlines of a label map that is never in memory: it is read in bands of rows, and they go to a file."""

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Integer
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..kernels.masks.bands import trace_band
from ..kernels.masks.components import label_components

Corners = Int64[np.ndarray, "c 2"]
_BYTES = 8  # of a corner in the file: two int32
_COLUMNS = 6  # of what is known of an outline: label, component, y and x of its first corner, corners, area


class _Piece(NamedTuple):
    """A part of an outline that other bands cut: it begins with one edge and goes on with another."""

    begin: tuple[int, int, int]
    end: tuple[int, int, int]
    label: int
    component: int
    corners: deque[Corners]


class BandedOutlines:
    """The polygons of each label of a map, read once from top to bottom.

    In memory are a band, the outlines that go on below it, and some numbers of each outline; corners of
    finished ones are in a temporary file without a name.

    Args:
        bands: rows of the map, from top to bottom; negative for pixels without a label.
        folder: for the temporary file.

    Raises:
        OSError: if the file cannot be written.

    >>> rows = np.array([[0, 0, 1], [0, 0, 1], [1, 1, 1]])
    >>> with BandedOutlines([rows[:1], rows[1:2], rows[2:]], ".") as outlines:
    ...     {label: [[ring.tolist() for ring in one] for one in outlines.polygons(label)] for label in (0, 1)}
    {0: [[[[0, 0], [2, 0], [2, 2], [0, 2]]]], 1: [[[[2, 0], [3, 0], [3, 3], [0, 3], [0, 2], [2, 2]]]]}
    """

    def __init__(self, bands: Iterable[Integer[np.ndarray, "h w"]], folder: str | Path) -> None:
        self.areas: dict[int, int] = {}
        self._file = TemporaryFile(dir=folder, buffering=0)
        self._told: list[np.ndarray] = []
        self._by_begin: dict[tuple[int, int, int], _Piece] = {}
        self._by_end: dict[tuple[int, int, int], _Piece] = {}
        self._touching: list[np.ndarray] = []
        self._components = self._top = 0
        try:
            self._read(bands)
            self._sort()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "BandedOutlines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()

    def count(self, label: int) -> int:
        """How many polygons a label has."""
        first, last = np.searchsorted(self._outer[:, 0], [label, label + 1])
        return int(last - first)

    def polygons(self, label: int) -> Iterator[Iterator[Corners]]:
        """The polygons of a label as `RleMasks.polygons` gives them: of each its outline, then its holes."""
        first, last = np.searchsorted(self._outer[:, 0], [label, label + 1])
        for outer in range(first, last):
            yield self._rings(outer)

    def _rings(self, outer: int) -> Iterator[Corners]:
        """An outline and its holes, each read when it is its turn."""
        yield self._corners(self._outer[outer])
        for hole in range(*np.searchsorted(self._holes[:, 1], [self._outer[outer, 1] + i for i in (0, 1)])):
            yield self._corners(self._holes[hole])

    def _corners(self, told: Int64[np.ndarray, " 7"]) -> Corners:
        self._file.seek(int(told[6]) * _BYTES)
        return np.fromfile(self._file, np.int32, 2 * int(told[4])).reshape(-1, 2).astype(np.int64)

    def _read(self, bands: Iterable[Integer[np.ndarray, "h w"]]) -> None:
        """Trace every band, with the last row of the one before and the first row of the next one."""
        above: np.ndarray | None = None
        numbers_above: np.ndarray | None = None
        band: np.ndarray | None = None
        for following in _then_none(bands):
            if band is not None:
                none = np.full((1, band.shape[1]), -1)
                below = none if following is None else following[:1]
                rows = np.concatenate([none if above is None else above, band, below])
                rows = np.pad(rows.astype(np.int32), ((0, 0), (1, 1)), constant_values=-1)
                rows = np.maximum(rows, -1)
                numbers, count = label_components(rows[1:-1, 1:-1], 1, -1)
                self._join_components(rows, numbers, numbers_above)
                self._take(rows, numbers)
                above, numbers_above = band[-1:], numbers[-1] + np.int64(self._components)
                self._components += count
                self._top += len(band)
            band = following

    def _join_components(
        self, rows: np.ndarray, numbers: np.ndarray, numbers_above: np.ndarray | None
    ) -> None:
        """Note which components of a band go on from the one above."""
        if numbers_above is None:
            return
        same = (rows[0, 1:-1] == rows[1, 1:-1]) & (rows[1, 1:-1] >= 0)
        pairs = np.stack([numbers_above[same], numbers[0][same] + np.int64(self._components)], 1)
        self._touching.append(np.unique(pairs, axis=0))

    def _take(self, rows: np.ndarray, numbers: np.ndarray) -> None:
        """The outlines of a band, and the pieces of others."""
        labels, areas = np.unique(rows[1:-1, 1:-1], return_counts=True)
        for label, area in zip(labels.tolist(), areas.tolist(), strict=True):
            if label >= 0:
                self.areas[label] = self.areas.get(label, 0) + area
        corners, starts, told = trace_band(rows)
        corners[:, 1] += self._top
        of = rows[told[:, 1] + 1, told[:, 2] + 1], numbers[told[:, 1], told[:, 2]] + self._components
        pieces = int(told[:, 0].sum())
        for i in range(pieces):
            (y, x, side), (next_y, next_x, next_side) = told[i, 1:4].tolist(), told[i, 4:7].tolist()
            self._append(
                _Piece(
                    (y + self._top, x, side),
                    (next_y + self._top, next_x, next_side),
                    int(of[0][i]),
                    int(of[1][i]),
                    deque([corners[starts[i] : starts[i + 1]].astype(np.int32)]),
                )
            )
        counts, first = np.diff(starts)[pieces:], corners[starts[pieces:-1]]
        whole = [of[0][pieces:], of[1][pieces:], first[:, 1], first[:, 0], counts, told[pieces:, 7]]
        self._keep(np.stack(whole, 1).astype(np.int64), corners[starts[pieces] :])

    def _append(self, piece: _Piece) -> None:
        """Join a piece to those that it goes on from and that go on from it; an outline may be whole then."""
        if before := self._by_end.pop(piece.begin, None):
            del self._by_begin[before.begin]
            piece = _joined(before, piece)
        if piece.end == piece.begin:
            self._close_outline(piece)
            return
        if after := self._by_begin.pop(piece.end, None):
            del self._by_end[after.end]
            piece = _joined(piece, after)
        if piece.end == piece.begin:
            self._close_outline(piece)
            return
        self._by_begin[piece.begin] = self._by_end[piece.end] = piece

    def _close_outline(self, piece: _Piece) -> None:
        """Begin with the topmost, then leftmost edge that goes right, as whole outlines do."""
        corners = np.concatenate(list(piece.corners)).astype(np.int64)
        steps = np.roll(corners, -1, 0)[:, 0] - corners[:, 0]
        area = -int((steps * corners[:, 1]).sum())
        to_the_right = np.flatnonzero(steps > 0)
        y, x = corners[to_the_right, 1], corners[to_the_right, 0]
        first = to_the_right[np.lexsort((x, y))[0]]
        corners = np.roll(corners, -int(first), 0)
        told = [piece.label, piece.component, corners[0, 1], corners[0, 0], len(corners), area]
        self._keep(np.array([told], np.int64), corners)

    def _keep(self, told: Int64[np.ndarray, "n 6"], corners: Corners) -> None:
        """Put whole outlines into the file."""
        if not len(told):
            return
        self._told.append(told)
        left = np.ascontiguousarray(corners, np.int32).data.cast("B")
        while left:
            left = left[self._file.write(left) or 0 :]

    def _sort(self) -> None:
        """Give every hole to the outline around it: that of the component which it is cut out of."""
        told = np.concatenate([np.zeros((0, _COLUMNS), np.int64), *self._told])
        self._told.clear()
        offsets = np.cumsum(told[:, 4]) - told[:, 4]
        pairs = np.concatenate([np.zeros((0, 2), np.int64), *self._touching])
        size = self._components + 1
        links = coo_array((np.ones(len(pairs), np.bool_), (pairs[:, 0], pairs[:, 1])), (size, size))
        told[:, 1] = connected_components(links, directed=False)[1][told[:, 1]]
        told = np.concatenate([told, offsets[:, None]], 1)
        outer, holes = told[told[:, 5] > 0], told[told[:, 5] < 0]
        self._outer = outer[np.lexsort((outer[:, 3], outer[:, 2], outer[:, 0]))]
        self._holes = holes[np.lexsort((holes[:, 3], holes[:, 2], holes[:, 1]))]


def _then_none(bands: Iterable[np.ndarray]) -> Iterator[np.ndarray | None]:
    yield from bands
    yield None


def _joined(one: _Piece, other: _Piece) -> _Piece:
    """Two pieces as one; the shorter list is moved to the longer one."""
    if len(one.corners) < len(other.corners):
        other.corners.extendleft(reversed(one.corners))
        corners = other.corners
    else:
        one.corners.extend(other.corners)
        corners = one.corners
    return _Piece(one.begin, other.end, one.label, one.component, corners)
