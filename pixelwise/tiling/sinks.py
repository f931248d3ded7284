"""Results that are written row by row: into an array, or into a file that appears when it is whole.

A file is first written beside its name, as `.NAME.partial`, with `.NAME.partial.json` that says which rows
are finished and what they were computed from. A process that is killed leaves both, and the same call goes on
from there. Only at the end does a file of the final name appear.
"""

import io
import json
import os
import shutil
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic_write, make_folder

if sys.platform != "win32":
    import fcntl

SUFFIXES = (".tif", ".tiff", ".npy", ".zarr", ".png", ".geojson")
Maps = Iterable[Iterable[np.ndarray]]  # of each map its rows, in bands from top to bottom
_SIDE = 256  # of the tiles of a TIFF file, in pixels
_CHUNK = 512  # of zarr
_PYRAMID = 1 << 24  # pixels from which a TIFF file holds smaller copies, down to _SMALLEST pixels a side
_SMALLEST = 1024
_BIG = 1 << 32  # bytes from which a TIFF file needs 64-bit offsets
_BAND = 1 << 22  # bytes that are converted at once


class ArraySink:
    """An array, memory map or zarr array of the caller's.

    Args:
        array: that rows are assigned to.
        shape: that it must have.

    Raises:
        ValueError: if it has another shape.
    """

    finished = 0

    def __init__(self, array: Any, shape: tuple[int, ...], axes: int) -> None:
        if tuple(array.shape) != shape:
            raise ValueError(f"the result has the shape {shape}, the array to write to {tuple(array.shape)}")
        self.array, self.planes = array, len(shape) - axes

    def write(self, start: int, band: np.ndarray) -> None:
        """Rows from `start` on: "rows *others", or "planes rows *others"."""
        rows = slice(start, start + band.shape[self.planes])
        self.array[(slice(None),) * self.planes + (rows,)] = band

    def finish(self) -> None:
        """Everything is written."""

    def close(self) -> None:
        """Leave the array as it is."""


class FileSink:
    """A file that appears when it is whole; rows are kept beside it until then.

    Args:
        path: of the file; its suffix says the format.
        shape: "*grid" or "planes *grid".
        axes: of the grid, 2 or 3.
        dtype: uint8, uint16 or uint32.
        made_from: what the result follows from. Rows that were finished earlier are kept if they were made
            from the same.
        colors: r g b of each label, for palettes; empty for none.
        geography: see `PixelSource`.
        polygons: writes polygons around the finished maps to a file; for the suffix .geojson only.

    Raises:
        ValueError: if the format cannot hold the result, the place cannot be written to or is too small, or
            another process is writing the same file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape: tuple[int, ...],
        axes: int,
        dtype: Any,
        made_from: Mapping[str, Any],
        colors: Sequence[tuple[int, int, int]] = (),
        geography: Sequence[tuple[Any, ...]] = (),
        polygons: Callable[[Path, Maps], None] | None = None,
    ) -> None:
        self.polygons = polygons
        self.path, self.shape, self.axes, self.dtype = Path(path), shape, axes, np.dtype(dtype)
        self.colors = colors if self.dtype == np.uint8 and len(shape) == axes == 2 else ()
        self.geography, self.planes = geography, len(shape) - axes
        self.suffix = self.path.suffix.lower()
        if self.suffix not in SUFFIXES:
            raise ValueError(f"cannot write {path}: a large result is one of {', '.join(SUFFIXES)}")
        if self.suffix == ".png" and (self.dtype != np.uint8 or len(shape) != 2):
            raise ValueError(f"cannot write {path}: a PNG file holds one map of 8 bits; take .tif or .npy")
        if self.suffix == ".geojson" and (polygons is None or axes != 2):
            raise ValueError(f"cannot write {path}: polygons lie around the classes of an image")
        if self.suffix == ".zarr":
            _zarr(path)
        self.rows = self.path.with_name(f".{self.path.name}.partial")
        self.note = self.path.with_name(f".{self.path.name}.partial.json")
        # The rows of a .npy file lie where they stay; those of others are read again and written.
        self.header = self._npy_header() if self.suffix == ".npy" else b""
        self.made_from = json.loads(json.dumps({**made_from, "rows_begin_at": len(self.header)}))
        self.finished = 0
        self._file = self._opened()

    def write(self, start: int, band: np.ndarray) -> None:
        """The rows from `start` on: "rows *others", or "planes rows *others".

        Raises:
            ValueError: if there is no room.
        """
        row = self.dtype.itemsize * int(np.prod(self.shape[self.planes + 1 :]))
        plane = row * self.shape[self.planes]
        try:
            for number, rows in enumerate(band if self.planes else band[None]):
                self._file.seek(len(self.header) + number * plane + start * row)
                self._write_bytes(np.ascontiguousarray(rows, self.dtype).data.cast("B"))
            os.fsync(self._file.fileno())
            self.finished = start + band.shape[self.planes]
            with atomic_write(self.note) as temporary:
                temporary.write_text(json.dumps({"finished": self.finished, "made_from": self.made_from}))
        except OSError as error:
            raise ValueError(
                f"cannot write {self.path}: {error.strerror or error}; what is finished is kept in "
                f"{self.rows.name}, and the same command goes on from there"
            ) from error

    def finish(self) -> None:
        """Turn the rows into the file.

        Raises:
            ValueError: if there is no room.
        """
        if 0 in self.shape:
            raise ValueError(f"cannot write {self.path}: it has no pixels")
        if self.suffix == ".npy":
            self._finish_npy()
        elif self.suffix == ".zarr":
            self._write_zarr()
        else:
            with atomic_write(self.path) as temporary:
                if self.polygons is not None:
                    self.polygons(temporary, map(self._bands, range(self.shape[0] if self.planes else 1)))
                else:
                    (self._write_png if self.suffix == ".png" else self._write_tiff)(temporary)
        self._file.close()
        self._remove()

    def close(self) -> None:
        """Keep what is finished for another call; nothing is kept where nothing is finished."""
        self._file.close()
        if not self.finished:
            self._remove()

    def _opened(self) -> io.FileIO:
        """The file of rows, locked, with what an earlier process finished where that fits."""
        make_folder(self.path.parent)
        size = self.dtype.itemsize * int(np.prod(self.shape))
        try:
            # Without a buffer, which would be written when the file is closed, also on a full disk.
            file = os.fdopen(os.open(self.rows, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        except OSError as error:
            raise ValueError(f"cannot write {self.path}: {error.strerror or error}") from error
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.close()
                raise ValueError(f"another process is writing {self.path}") from error
        try:
            noted = json.loads(self.note.read_text())
            if noted["made_from"] == self.made_from:
                self.finished = int(noted["finished"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # nothing was finished, or nobody knows what
        if not self.finished:
            file.truncate(0)
        free = shutil.disk_usage(self.path.parent).free + os.fstat(file.fileno()).st_size
        if size > free:
            file.close()
            self._remove()
            raise ValueError(
                f"cannot write {self.path}: it needs {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
            )
        return file

    def _remove(self) -> None:
        self.rows.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _read(self, page: int, start: int, stop: int) -> np.ndarray:
        """Some finished rows of a map; they are read, not mapped: a map would count as memory."""
        height, width = self.shape[-2:]
        stop = min(stop, height)
        offset = (page * height + start) * width * self.dtype.itemsize
        rows = np.fromfile(self.rows, self.dtype, (stop - start) * width, offset=offset)
        return rows.reshape(stop - start, width)

    def _bands(self, page: int) -> Iterator[np.ndarray]:
        """The finished rows of a map, in bands."""
        step = max(1, _BAND // self.shape[-1])
        return (self._read(page, top, top + step) for top in range(0, self.shape[-2], step))

    def _every(self, step: int, page: int, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of the map of every `step`-th pixel."""
        if step == 1:
            return self._read(page, start, stop)
        last = min(stop, -(-self.shape[-2] // step))
        return np.concatenate(
            [self._read(page, row * step, row * step + 1)[:, ::step] for row in range(start, last)]
        )

    def _tiles(self, step: int = 1) -> Iterator[np.ndarray]:
        """The tiles of each page in reading order, the last ones filled up with zeros."""
        height, width = (-(-side // step) for side in self.shape[-2:])
        for page in range(int(np.prod(self.shape[:-2]))):
            for top in range(0, height, _SIDE):
                rows = self._every(step, page, top, top + _SIDE)
                for left in range(0, width, _SIDE):
                    part = rows[:, left : left + _SIDE]
                    if part.shape != (_SIDE, _SIDE):
                        part = np.pad(part, [(0, _SIDE - side) for side in part.shape])
                    yield np.ascontiguousarray(part)

    def _write_tiff(self, path: Path) -> None:
        import tifffile

        palette: dict[str, Any] = {"photometric": "minisblack"}
        if self.colors:
            table = np.zeros((3, 256), np.uint16)
            table[:, : len(self.colors)] = 257 * np.array(self.colors, np.uint16).T
            palette = {"photometric": "palette", "colormap": table}
        form: dict[str, Any] = {"dtype": self.dtype, "tile": (_SIDE, _SIDE), "compression": "zlib", **palette}
        big = int(np.prod(self.shape)) * self.dtype.itemsize > _BIG // 2
        with tifffile.TiffWriter(path, bigtiff=big) as file:
            file.write(
                self._tiles(),
                shape=self.shape,
                metadata=None if len(self.shape) == 2 else {"axes": "ZYX"},
                extratags=list(self.geography),
                **form,
            )
            for step in self._steps():  # of labels one in each square is kept, not their mean
                size = tuple(-(-side // step) for side in self.shape)
                file.write(self._tiles(step), shape=size, metadata=None, subfiletype=1, **form)

    def _steps(self) -> list[int]:
        """By how much smaller the copies in a TIFF file are, so that viewers need not read all of it."""
        if len(self.shape) != 2 or np.prod(self.shape) < _PYRAMID:
            return []
        return [2**i for i in range(1, 32) if max(self.shape) / 2 ** (i - 1) > _SMALLEST]

    def _npy_header(self) -> bytes:
        """What a NumPy file begins with."""
        written = io.BytesIO()
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(written, header)
        return written.getvalue()

    def _finish_npy(self) -> None:
        """The header in front of the rows, and the name of the file."""
        try:
            self._file.seek(0)
            self._write_bytes(memoryview(self.header))
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self.rows, self.path)
        except OSError as error:
            raise ValueError(f"cannot write {self.path}: {error.strerror or error}") from error

    def _write_bytes(self, left: memoryview) -> None:
        """All of them: without a buffer, a write may be a part of one."""
        while left:
            left = left[self._file.write(left) :]

    def _write_png(self, path: Path) -> None:
        """A PNG file (ISO/IEC 15948) with 8 bits per pixel, of a palette where there are colours."""
        height, width = self.shape

        with path.open("wb") as file:

            def chunk(kind: bytes, content: bytes) -> None:
                checksum = zlib.crc32(kind + content)
                file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum))

            file.write(b"\x89PNG\r\n\x1a\n")
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3 if self.colors else 0, 0, 0, 0))
            if self.colors:
                chunk(b"PLTE", bytes(part for color in self.colors for part in color))
            packed = zlib.compressobj(6)
            step = max(1, _BAND // width)
            for top in range(0, height, step):
                rows = self._read(0, top, top + step)
                lines = np.pad(rows, ((0, 0), (1, 0)))  # each begins with filter 0
                if content := packed.compress(lines.tobytes()):
                    chunk(b"IDAT", content)
            chunk(b"IDAT", packed.flush())
            chunk(b"IEND", b"")

    def _write_zarr(self) -> None:
        zarr = _zarr(self.path)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        height, width = self.shape[-2:]
        chunks = (*(1,) * (len(self.shape) - 2), min(_CHUNK, height), min(_CHUNK, width))
        try:
            array = zarr.create_array(str(temporary), shape=self.shape, chunks=chunks, dtype=self.dtype)
            for page, index in enumerate(np.ndindex(self.shape[:-2])):
                for top in range(0, height, _CHUNK):
                    array[(*index, slice(top, top + _CHUNK))] = self._read(page, top, top + _CHUNK)
            if self.path.exists():
                shutil.rmtree(self.path)
            os.replace(temporary, self.path)
        except OSError as error:
            raise ValueError(f"cannot write {self.path}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _zarr(path: str | os.PathLike[str]) -> Any:
    try:
        import zarr
    except ImportError as error:
        raise ValueError(f"{path} is written by zarr: pip install pixelwise[zarr]") from error
    return zarr
