"""Bytes to pixels and pixels to bytes: no tensors, for threads beside the model's."""

import io
import math
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from ..data.formats.direct import check_png
from ..data.formats.image import is_pillows
from ..data.formats.raster import describe, needs_raster, read_unit
from .problems import Problem

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")  # no other decoder ever sees a request
ARRAY = b"\x93NUMPY"  # how a NumPy file begins
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how a TIFF file begins; the latter are large ones
Pixels = Image.Image | np.ndarray
_PNG_LEVEL = 3  # quick, and the same bytes for the same pixels


def decode_image(body: bytes, most_pixels: int, *, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """The first image of a file, upright as its EXIF orientation says.

    Raises:
        Problem: if it is no image of `formats`, is damaged, or claims more than `most_pixels`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as damaged EXIF; the limit on pixels is checked here
        try:
            image = Image.open(io.BytesIO(body), formats=tuple(formats))
        except UnidentifiedImageError:
            known = ", ".join(formats)
            raise Problem("not-an-image", f"the image must be a file of {known}") from None
        except Image.DecompressionBombError as error:
            raise Problem("too-many-pixels", f"at most {most_pixels} pixels are taken") from error
        except Exception as error:  # whatever a decoder stumbles over in a damaged header
            raise Problem("damaged-image", f"the image cannot be read: {_said(error)}") from error
        if image.width * image.height > most_pixels:
            claim = f"{image.width} x {image.height} pixels, at most {most_pixels} are taken"
            raise Problem("too-many-pixels", f"the image has {claim}")
        try:
            if image.format == "PNG":
                check_png(body)
            image.load()
            return ImageOps.exif_transpose(image)
        except Exception as error:
            raise Problem("damaged-image", f"the image cannot be read: {_said(error)}") from error


def decode_pixels(body: bytes, most_pixels: int) -> Pixels:
    """An image file, or the array "H W" or "H W c" in a NumPy file, for pixels that no such file holds.

    Raises:
        Problem: as `decode_image`.
    """
    if body.startswith(_TIFF) and not is_pillows(io.BytesIO(body)):
        return _decode_tiff(body, most_pixels)
    if not body.startswith(ARRAY):
        return decode_image(body, most_pixels)
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, by_columns, kind = read(file)
    except Exception as error:  # whatever the reader of headers stumbles over
        raise Problem("damaged-image", f"the array cannot be read: {_said(error)}") from error
    if kind.name not in ("uint8", "uint16", "float32", "bool") or by_columns or len(shape) not in (2, 3):
        told = f"{kind} {'x'.join(map(str, shape))[:60]}{' by columns' if by_columns else ''}"
        raise Problem(
            "unusable-image", f"an array is H W or H W c of uint8, uint16, float32 or bool, got {told}"
        )
    if shape[0] * shape[1] > most_pixels:
        raise Problem(
            "too-many-pixels", f"the array has {shape[0]} x {shape[1]} pixels, at most {most_pixels}"
        )
    content = body[file.tell() :]
    if min(shape) < 1 or len(content) != kind.itemsize * int(np.prod(shape, dtype=object)):
        raise Problem("damaged-image", "the array has another length than its header says")
    return np.frombuffer(content, kind).reshape(shape).astype(kind.newbyteorder("="))


def decode_geotiff(
    body: bytes, most_pixels: int, channels: int, intensity: str
) -> np.ma.MaskedArray[Any, np.dtype[np.float32]] | None:
    """The values "H W c" in [0, 1] of a GeoTIFF that pictures cannot hold, masked where it knows no value.

    They are what `pixelwise predict` reads of that file. None for any other file.

    Args:
        body: the file.
        most_pixels: that are taken.
        channels: of the model.
        intensity: which values the model wants to be 0 and 1.

    Raises:
        Problem: as `decode_image`.
    """
    if not body.startswith(_TIFF) or not needs_raster(io.BytesIO(body)):
        return None
    with tempfile.TemporaryDirectory(prefix="pixelwise-") as folder:
        path = Path(folder) / "image.tif"
        try:
            path.write_bytes(body)
            height, width = describe(path).size
            if height * width > most_pixels:
                claim = f"{width} x {height} pixels, at most {most_pixels} are taken"
                raise Problem("too-many-pixels", f"the image has {claim}")
            values, known = read_unit(path, channels, intensity=intensity)
        except Problem:
            raise
        except ValueError as error:
            said = _said(error).replace(str(path), "the image")
            raise Problem("unusable-image" if "bands" in said else "damaged-image", said) from error
        except OSError as error:  # of the folder of temporary files
            raise Problem("internal", f"the image cannot be kept: {_said(error)}") from error
    unknown = np.broadcast_to(~known[..., None], (*known.shape, channels))
    return np.ma.MaskedArray(values.transpose(1, 2, 0), unknown)


def _decode_tiff(body: bytes, most_pixels: int) -> np.ndarray:
    """The values "H W" or "H W c" of a TIFF file of which Pillow would lose bits or channels."""
    import tifffile  # comes with scikit-image

    try:
        with tifffile.TiffFile(io.BytesIO(body)) as file:
            series = file.series[0]
            shape, page = series.shape, file.pages.first
            if page.imagelength * page.imagewidth > most_pixels:
                claim = f"{page.imagelength} x {page.imagewidth} pixels, at most {most_pixels} are taken"
                raise Problem("too-many-pixels", f"the image has {claim}")
            if math.prod(shape) != page.imagelength * page.imagewidth * page.samplesperpixel:
                raise Problem("unusable-image", "the image has several pages: send one")
            values = np.asarray(file.asarray())
    except Problem:
        raise
    except Exception as error:  # whatever the reader stumbles over
        raise Problem("damaged-image", f"the image cannot be read: {_said(error)}") from error
    if values.dtype.kind not in "buif":
        raise Problem("unusable-image", f"the image holds {values.dtype}, expected numbers")
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    planar = values.ndim == 3 and values.shape[:1] == (page.samplesperpixel,) and page.planarconfig == 2
    return np.ascontiguousarray(values.transpose(1, 2, 0)) if planar else values


def _said(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def palette_png(labels: np.ndarray, colors: UInt8[np.ndarray, "k 3"]) -> bytes:
    """Labels "H W" as a palette PNG; above 256 classes as 16-bit grey."""
    if len(colors) > 256:
        return png(Image.fromarray(labels.astype(np.uint16)))
    image = Image.fromarray(labels.astype(np.uint8), mode="P")
    image.putpalette(colors.tobytes())
    return png(image)


def png(image: Image.Image) -> bytes:
    """As a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=_PNG_LEVEL)
    return file.getvalue()
