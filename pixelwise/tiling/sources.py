"""Images and volumes of which a part can be read: arrays, NumPy files, zarr, TIFF, whatever GDAL opens.

A source has the axes "*grid c": height and width of an image, or depth, height and width of a volume, then
the channels. Only the rows (of a volume: slices) that a tile needs are held in memory.
"""

import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .opened import Closing, UnknownCodec, readable
from .slides import SlideSource

TIFF = (".tif", ".tiff", ".svs", ".ndpi", ".scn")
RASTER = (".vrt", ".img", ".jp2")  # read by rasterio
SLIDES = (".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".svslide", ".vms", ".vmu")  # see slides.py
WINDOWED = (*dict.fromkeys((*TIFF, *RASTER, *SLIDES)), ".npy", ".zarr")
_GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)  # where a GeoTIFF lies on the Earth
_NODATA = 42113  # tag of GDAL: the value of pixels that are not known
_HELD = 1 << 27  # bytes of decoded pieces of a file that are kept for the next rows


@runtime_checkable
class PixelSource(Protocol):
    """An image or volume that can be read in parts.

    Attributes:
        size: extent along each axis in pixels or voxels.
        channels: c.
        dtype: of the values.
        name: of the file, for messages; "" where there is none.
        geography: tags of a TIFF file that say where the image lies on the Earth.
    """

    size: tuple[int, ...]
    channels: int
    dtype: np.dtype[Any]
    name: str
    geography: list[tuple[Any, ...]]

    def read(self, start: int, stop: int) -> np.ndarray:
        """The rows, or slices, from `start` to before `stop`: "rows *others c".

        Raises:
            ValueError: if they cannot be read; names the file.
        """

    def close(self) -> None:
        """Let go of the file."""


class ArraySource(Closing):
    """Anything with a shape that can be sliced: arrays, memory maps, zarr and HDF5 arrays.

    Args:
        array: with the axes "*grid", "*grid c" or "c *grid". The last axis holds the channels where it has at
            most four, else the shorter of the first and the last one.
        axes: 2 for an image, 3 for a volume.
        name: for messages.

    Raises:
        ValueError: if the array has other axes, or no pixels.

    >>> source = ArraySource(np.zeros((5, 7, 3), np.uint8))
    >>> source.size, source.channels, source.read(1, 3).shape
    ((5, 7), 3, (2, 7, 3))
    """

    def __init__(self, array: Any, axes: int = 2, name: str = "") -> None:
        shape = tuple(int(side) for side in array.shape)
        if len(shape) not in (axes, axes + 1) or 0 in shape:
            wanted = "H W or H W c" if axes == 2 else "D H W or D H W c"
            raise ValueError(f"{name or 'the array'} must have axes {wanted}, got shape {shape}")
        self.array, self.name = array, name
        self.planes_first = len(shape) > axes and shape[-1] > 4 and shape[0] < shape[-1]
        with_channel = shape if len(shape) > axes else (*shape, 1)
        self.size = with_channel[1:] if self.planes_first else with_channel[:-1]
        self.channels = with_channel[0] if self.planes_first else with_channel[-1]
        self.dtype = np.dtype(array.dtype)
        self.geography: list[tuple[Any, ...]] = []

    def read(self, start: int, stop: int) -> np.ndarray:
        """See `PixelSource`."""
        with readable(self.name):
            if self.planes_first:
                return np.moveaxis(np.asarray(self.array[:, start:stop]), 0, -1)
            rows = np.asarray(self.array[start:stop])
        return rows.reshape(stop - start, *self.size[1:], self.channels)


class NpySource(ArraySource):
    """A NumPy file whose rows are read, not mapped: a map would count as memory of the process."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """See `PixelSource`."""
        if self.planes_first or not self.array.flags.c_contiguous:
            return super().read(start, stop)
        row = math.prod(self.size[1:]) * self.channels
        with readable(self.name):
            rows = np.fromfile(
                self.name,
                self.dtype,
                (stop - start) * row,
                offset=self.array.offset + start * row * self.dtype.itemsize,
            )
            return rows.reshape(stop - start, *self.size[1:], self.channels)


def open_source(path: str | os.PathLike[str], axes: int = 2) -> Any:
    """A file of which a part can be read: .npy, .zarr, TIFF (tiled or in strips, also GeoTIFF), .vrt, ...

    Args:
        path: of the file.
        axes: 2 for an image, 3 for a volume.

    Returns:
        A `PixelSource` that `with` closes.

    Raises:
        ValueError: if the file is missing, damaged, of another format, or an extra is needed for it.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    if suffix == ".npy":
        with readable(str(path)):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        return NpySource(array, axes, str(path))
    if suffix == ".zarr":
        return ArraySource(_zarr_array(path), axes, str(path))
    if suffix in SLIDES and (suffix not in TIFF or find_spec("openslide")):
        try:
            return SlideSource(path)
        except ValueError:  # a plain TIFF file with the suffix of a slide
            if suffix not in TIFF:
                raise
    if suffix in TIFF:
        try:
            return TiffSource(path, axes)
        except UnknownCodec as error:
            try:
                source = RasterSource(path, axes)
            except ValueError:
                raise ValueError(f"cannot read {path}: {error}") from error
            source.geography = error.geography or source.geography
            return source
    if suffix in RASTER:
        return RasterSource(path, axes)
    raise ValueError(f"{path} cannot be read in parts: expected one of {', '.join(WINDOWED)}")


class TiffSource(Closing):
    """A TIFF file: only the strips or tiles that hold the rows are decoded; of a volume, only the pages.

    Args:
        path: of the file. Of a pyramid, the largest image is read.
        axes: 2 for an image, 3 for a volume with a page per slice.

    Raises:
        ValueError: if the file is damaged or has other axes.
    """

    def __init__(self, path: Path, axes: int = 2) -> None:
        import tifffile

        self.name, self._held = str(path), OrderedDict[int, Any]()
        with readable(self.name):
            self._file = tifffile.TiffFile(path)
        try:
            with readable(self.name):
                pages: Sequence[Any] = self._file.series[0].pages
                page = pages[0]
                volume = axes == 3
                shape = (page.imagelength, page.imagewidth)
                self._pages = [pages[i] for i in range(len(pages))]
                self.dtype = np.dtype(page.dtype)
            if volume != (len(self._pages) > 1) or page.imagedepth != 1:
                wanted = "a page per slice" if volume else "one page"
                raise ValueError(f"{path} has {len(self._pages)} pages, expected {wanted}")
            self.size = (len(self._pages), *shape) if volume else shape
            self.channels = int(page.samplesperpixel)
            self.geography = [
                (tag.code, tag.dtype, tag.count, tag.value, True)
                for tag in page.tags
                if tag.code in _GEO_TAGS
            ]
            if 0 in self.size:
                raise ValueError(f"{path} has no pixels")
            self.nodata = _nodata(page.tags.get(_NODATA))
            self._page = page
            self._piece(0)
        except BaseException as error:
            self._file.close()
            if isinstance(error, UnknownCodec):
                error.geography = self.geography
            raise

    def read(self, start: int, stop: int) -> np.ndarray:
        """See `PixelSource`."""
        if len(self.size) == 3:
            with readable(self.name):
                slices = [self._pages[i].asarray() for i in range(start, stop)]
            return np.stack(slices).reshape(stop - start, *self.size[1:], self.channels)
        height, width = self.size
        rows = np.zeros((stop - start, width, self.channels), self.dtype)
        down, across = self._page.chunks[:2] if self._page.is_tiled else (self._page.rowsperstrip, width)
        columns = -(-width // across)
        planes = self.channels if self._page.planarconfig == 2 and self.channels > 1 else 1
        per_plane = -(-height // down) * columns
        for plane in range(planes):
            for line in range(start // down, -(-stop // down)):
                for column in range(columns):
                    piece = self._piece(plane * per_plane + line * columns + column)
                    if piece is None:  # never written: zeros
                        continue
                    top, left = line * down, column * across
                    first, last = max(start, top), min(stop, top + piece.shape[0])
                    right = min(width, left + piece.shape[1])
                    part = piece[first - top : last - top, : right - left]
                    chosen = slice(None) if planes == 1 else slice(plane, plane + 1)
                    rows[first - start : last - start, left:right, chosen] = part
        return rows

    def _piece(self, index: int) -> np.ndarray | None:
        """A decoded strip or tile "rows columns samples"; the last ones are kept."""
        if index in self._held:
            self._held.move_to_end(index)
            return self._held[index]
        page = self._page
        with readable(self.name):
            if index >= len(page.dataoffsets):
                raise ValueError("it ends before its last strip or tile")
            count = page.databytecounts[index]
            self._file.filehandle.seek(page.dataoffsets[index])
            data = self._file.filehandle.read(count)
            if len(data) < count:
                raise ValueError("the file is cut off")
            try:
                decoded = page.decode(data, index, jpegtables=page.jpegtables)[0] if count else None
            except ValueError as error:
                if "imagecodecs" in str(error):
                    raise UnknownCodec(
                        f"its compression {page.compression.name} needs pip install pixelwise[geo]"
                    ) from error
                raise
        piece = None if decoded is None else np.asarray(decoded).reshape(decoded.shape[-3:])
        self._held[index] = piece
        size = 0 if piece is None else piece.nbytes
        while len(self._held) > 1 and len(self._held) * size > _HELD:
            self._held.popitem(last=False)
        return piece

    def close(self) -> None:
        """See `PixelSource`."""
        self._file.close()


class RasterSource(Closing):
    """An image that rasterio opens, such as a virtual mosaic; needs the extra `pixelwise[geo]`.

    Args:
        path: of the file.
        axes: 2; other files are no volumes.

    Raises:
        ValueError: if the extra is missing or the file cannot be read.
    """

    def __init__(self, path: Path, axes: int = 2) -> None:
        try:
            import rasterio
        except ImportError as error:
            raise ValueError(f"{path} is read by rasterio: pip install pixelwise[geo]") from error
        if axes != 2:
            raise ValueError(f"{path} is an image, expected a volume")
        self.name = str(path)
        with readable(self.name):
            self._file = rasterio.open(path)
        self.size, self.channels = (self._file.height, self._file.width), self._file.count
        self.dtype = np.dtype(self._file.dtypes[0])
        self.nodata = self._file.nodata
        self.geography = _geography(self._file.transform, self._file.crs)

    def read(self, start: int, stop: int) -> np.ndarray:
        """See `PixelSource`."""
        with readable(self.name):
            planes: np.ndarray = self._file.read(window=((start, stop), (0, self.size[1])))
        return planes.transpose(1, 2, 0)

    def close(self) -> None:
        """See `PixelSource`."""
        self._file.close()


def _nodata(tag: Any) -> float | None:
    """The number in the tag of GDAL; None where there is none."""
    try:
        return None if tag is None else float(str(tag.value).strip("\0 "))
    except ValueError:
        return None


def _geography(transform: Any, reference: Any) -> list[tuple[Any, ...]]:
    """Tags of a GeoTIFF (OGC 19-008) for an image whose rows lie from west to east; else nothing."""
    code = None if reference is None else reference.to_epsg()
    if code is None or transform.b or transform.d:
        return []
    projected = bool(reference.is_projected)
    model, name = (1, 3072) if projected else (2, 2048)
    keys = (1, 1, 0, 3, 1024, 0, 1, model, 1025, 0, 1, 1, name, 0, 1, code)
    corner = (0.0, 0.0, 0.0, transform.c, transform.f, 0.0)
    return [
        (33550, "d", 3, (transform.a, -transform.e, 0.0), True),
        (33922, "d", 6, corner, True),
        (34735, "H", len(keys), keys, True),
    ]


def _zarr_array(path: Path) -> Any:
    """The array at `path`, or the largest of a pyramid (OME-Zarr calls it "0")."""
    try:
        import zarr
    except ImportError as error:
        raise ValueError(f"{path} is read by zarr: pip install pixelwise[zarr]") from error
    with readable(str(path)):
        found = zarr.open(str(path), mode="r")
        if isinstance(found, zarr.Group):
            arrays = dict(found.arrays())
            if "0" not in arrays and len(arrays) != 1:
                raise ValueError(f"it is a group of {len(arrays)} arrays, expected one array")
            found = arrays.get("0") or next(iter(arrays.values()))
    return found
