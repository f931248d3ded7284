"""GeoTIFF and other rasters of remote sensing: any bands and types, in windows, by rasterio (extra `geo`).

Where a raster knows no value (its nodata value, its mask, or not a number), pixels do not count: their label
is the ignore label, in training, scores and predictions.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Bool, Float32, Shaped

from ...files import atomic_write
from ..intensity import PERCENTILES, limits_of_bands
from .held import WhileReading
from .volume import quiet

SUFFIXES = (".tif", ".tiff")
Window = tuple[int, int, int, int]  # top, left, height, width
_SEEN = 1024  # pixels a side of the smaller copy from which the range of values is taken
_USUAL = "percentiles:2,98"  # of types that have no range of their own
GEO_KEYS = 34735  # tag of a GeoTIFF that tells its reference system
_TAGS = (33550, 33922, 34264, GEO_KEYS)
_NODATA = 42113
_LARGEST_CLAIM = 100_000  # pixels that a byte of a file may stand for
_PROJECTED, _GEOGRAPHIC, _USER = 3072, 2048, 32767  # keys of a GeoTIFF, and a code that is none


@dataclass(frozen=True)
class Raster:
    """What a raster says of itself without its pixels.

    Attributes:
        size: height and width.
        bands: number of bands.
        dtype: of the values.
        transform: of rasterio: from columns and rows to the map.
        crs: of rasterio: the reference system of the map; None without.
        holes: whether some pixels may be unknown.
    """

    size: tuple[int, int]
    bands: int
    dtype: np.dtype[Any]
    transform: Any
    crs: Any
    holes: bool


def is_geotiff(path: str | os.PathLike[str]) -> bool:
    """Whether a TIFF file says where on the Earth it lies."""
    import tifffile

    if Path(path).suffix.lower() not in SUFFIXES:
        return False
    try:
        with quiet("tifffile"), tifffile.TiffFile(path) as file:
            return any(tag in file.pages.first.tags for tag in _TAGS)
    except Exception:  # whoever reads it says what is wrong
        return False


def needs_raster(file: Path | BinaryIO) -> bool:
    """Whether a GeoTIFF has a nodata value or values that pictures have not, and the extra is installed."""
    import tifffile

    try:
        with quiet("tifffile"), tifffile.TiffFile(file) as tiff:
            page = tiff.pages.first
            placed = any(tag in page.tags for tag in _TAGS)
            other = np.dtype(page.dtype) not in (np.uint8, np.uint16, np.bool_) or _NODATA in page.tags
    except Exception:  # as above
        return False
    return placed and other and has_rasterio()


def has_rasterio() -> bool:
    """Whether the extra is installed."""
    try:
        import rasterio  # noqa: F401
    except ImportError:
        return False
    return True


def describe(path: Path) -> Raster:
    """What a raster says of itself.

    Raises:
        ValueError: if it is missing or damaged, or the extra is.
    """
    with _opened(path) as file:
        size = (int(file.height), int(file.width))
        holes = any(flags != ["all_valid"] for flags in _flags(file)) or np.dtype(file.dtypes[0]).kind == "f"
        return Raster(size, int(file.count), np.dtype(file.dtypes[0]), file.transform, file.crs, holes)


def read_raster(
    path: Path, window: Window | None = None
) -> tuple[Shaped[np.ndarray, "c h w"], Bool[np.ndarray, "h w"]]:
    """The values of a window, and which of its pixels are known.

    Raises:
        ValueError: if the file is missing or damaged, or the extra is missing.
    """
    with _opened(path) as file:
        part = None if window is None else _part(window)
        values = np.asarray(file.read(window=part))
        known = _known(file, values, part)
    return values, known


def read_unit(
    path: Path, channels: int, window: Window | None = None, intensity: str = PERCENTILES
) -> tuple[Float32[np.ndarray, "c h w"], Bool[np.ndarray, "h w"]]:
    """The values of a window as 0 to 1, and which pixels are known; unknown ones are 0.

    Values of 8 and 16 bits without sign are divided by the largest that the type holds. Of other types, those
    between the 2nd and the 98th percentile of each band of the whole file become 0 to 1. Any other
    `intensity` holds for all types; see `data.intensity.bounds_of`.

    Raises:
        ValueError: as `read_raster`, or if there are other channels.
    """
    values, known = read_raster(path, window)
    given = len(values)
    if channels == 3 and given in (1, 2):
        values = values[[0, 0, 0]]
    elif channels == 3 and given == 4:
        values = values[:3]
    elif channels != given:
        raise ValueError(
            f"{path} has {given} bands, {channels} expected: a model takes others with --in-channels {given} "
            "(in_channels=)"
        )
    unit = in_limits(values.transpose(1, 2, 0), *limits(path, values.dtype, intensity)).transpose(2, 0, 1)
    return np.ascontiguousarray(np.where(known, unit, np.float32(0))), known


def in_limits(
    values: Shaped[np.ndarray, "h w c"], low: Float32[np.ndarray, "n"], high: Float32[np.ndarray, "n"]
) -> Float32[np.ndarray, "h w c"]:
    """Each band as 0 to 1; what is not a number becomes 0."""
    bands = values.shape[-1]
    low, high = (side[:bands] if len(side) >= bands else np.repeat(side[:1], bands) for side in (low, high))
    unit = (values.astype(np.float32) - low) / np.maximum(high - low, np.float32(1e-12))
    return np.nan_to_num(np.clip(unit, 0, 1), nan=0.0)


def limits(
    path: Path, dtype: np.dtype[Any], intensity: str = PERCENTILES
) -> tuple[Float32[np.ndarray, "c"], Float32[np.ndarray, "c"]]:
    """The values of each band of the whole file that become 0 and 1; see `read_unit`."""
    if intensity == PERCENTILES:
        if dtype in (np.uint8, np.uint16):
            return np.zeros(1, np.float32), np.full(1, np.iinfo(dtype).max, np.float32)
        intensity = _USUAL
    return _limits(path, path.stat().st_mtime_ns, intensity)


@lru_cache(maxsize=4096)
def _limits(path: Path, changed: int, intensity: str) -> tuple[np.ndarray, np.ndarray]:
    with _opened(path) as file:
        shape = [max(1, min(side, _SEEN)) for side in (file.height, file.width)]
        values = np.asarray(file.read(out_shape=(file.count, *shape)))
        known = file.dataset_mask(out_shape=tuple(shape)) > 0
    if values.dtype.kind == "f":
        known &= np.isfinite(values).all(0)
    if not known.any():
        return np.zeros(len(values), np.float32), np.ones(len(values), np.float32)
    return limits_of_bands(intensity, (band[known].astype(np.float32) for band in values))


def tiles_of(size: tuple[int, int], side: int) -> list[Window]:
    """Windows that cover a raster once; the last ones are as wide as what is left.

    >>> tiles_of((5, 4), 3)
    [(0, 0, 3, 3), (0, 3, 3, 1), (3, 0, 2, 3), (3, 3, 2, 1)]
    """
    height, width = size
    return [
        (top, left, min(side, height - top), min(side, width - left))
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


def write_raster(
    path: Path, labels: Shaped[np.ndarray, "h w"], like: Path, nodata: int, colors: Mapping[int, Any]
) -> None:
    """Write labels in the place of a raster: its reference system and transform.

    Args:
        path: of the GeoTIFF file.
        labels: of the size of `like`, uint8 or uint16.
        like: the raster that was predicted.
        nodata: the label of pixels that are not known.
        colors: r g b a of each label of 8 bits.

    Raises:
        ValueError: if a file cannot be read or written.
    """
    import rasterio

    about = describe(like)
    if tuple(labels.shape) != about.size:
        raise ValueError(f"{path} needs {about.size} pixels, got {labels.shape}")
    profile = {
        "driver": "GTiff",
        "height": labels.shape[0],
        "width": labels.shape[1],
        "count": 1,
        "dtype": labels.dtype.name,
        "crs": about.crs,
        "transform": about.transform,
        "nodata": nodata,
        "compress": "deflate",
    }
    with atomic_write(path) as temporary, _quiet():
        try:
            with rasterio.open(temporary, "w", **profile) as file:
                file.write(labels, 1)
                if labels.dtype == np.uint8:
                    file.write_colormap(1, dict(colors))
        except rasterio.errors.RasterioError as error:
            raise ValueError(f"cannot write {path}: {error}") from error


def crs_name(path: Path) -> str | None:
    """The reference system of a GeoTIFF as a URN, by its EPSG code; None where the file tells none."""
    import tifffile

    try:
        with quiet("tifffile"), tifffile.TiffFile(path) as file:
            tag = file.pages.first.tags.get(GEO_KEYS)
            return None if tag is None else crs_of_keys(tag.value)
    except Exception:  # as above
        return None


def crs_of_keys(values: Sequence[Any]) -> str | None:
    """The reference system that the tag `GEO_KEYS` tells, as a URN; None where it tells none."""
    keys = [int(number) for number in values]
    found = {keys[at]: keys[at + 3] for at in range(4, len(keys) - 3, 4) if keys[at + 1] == 0}
    code = next((found[key] for key in (_PROJECTED, _GEOGRAPHIC) if 0 < found.get(key, 0) < _USER), None)
    return None if code is None else f"urn:ogc:def:crs:EPSG::{code}"


def _part(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    top, left, height, width = window
    return (top, top + height), (left, left + width)


def _flags(file: Any) -> list[list[str]]:
    return [[flag.name for flag in flags] for flags in file.mask_flag_enums]


def _known(file: Any, values: np.ndarray, part: Any) -> Bool[np.ndarray, "h w"]:
    """Which pixels are known."""
    if any(flags != ["all_valid"] for flags in _flags(file)):
        known = np.asarray(file.dataset_mask(window=part)) > 0
    else:
        known = np.ones(values.shape[1:], bool)
    if values.dtype.kind == "f":
        known &= np.isfinite(values).all(0)
    return known


def _unsaid() -> Callable[[], None]:
    """Leave out what Python prints of bytes that GDAL quotes of damaged files, and that are no text.

    Those files are refused or read as they would be anyway.
    """
    usual = sys.unraisablehook

    def say(error: Any) -> None:
        if not isinstance(error.exc_value, UnicodeDecodeError):
            usual(error)

    def take_back() -> None:
        sys.unraisablehook = usual

    sys.unraisablehook = say
    return take_back


_UNDECODABLE = WhileReading(_unsaid)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without rasterio's warning of images that lie nowhere, and what it cannot log of damaged files."""
    import warnings

    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings(), _UNDECODABLE.held():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open raster; whatever is wrong with the file becomes a ValueError that names it."""
    try:
        import rasterio
    except ImportError as error:
        raise ValueError(f"{path} is read by rasterio: pip install pixelwise[geo]") from error
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with _quiet(), rasterio.open(path, driver="GTiff") as file:
            if file.height * file.width > _LARGEST_CLAIM * path.stat().st_size:
                raise ValueError(f"it claims {file.height} x {file.width} pixels: the file is damaged")
            if np.dtype(file.dtypes[0]).kind not in "buif":
                raise ValueError(f"it holds {file.dtypes[0]}, expected numbers")
            yield file
    except Exception as error:  # damaged files make GDAL raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        told = reason if str(path) in reason else f"cannot read {path}: {reason}"
        raise ValueError(told) from error
