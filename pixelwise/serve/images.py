"""Bytes to pixels and pixels to bytes: Pillow and NumPy only, for threads beside the model's."""

import io
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from .problems import Problem

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")  # no other decoder ever sees a request
_PNG_LEVEL = 3  # quick, and the same bytes for the same pixels


def decode_image(body: bytes, most_pixels: int, *, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """The first image of a file, upright as its EXIF orientation says.

    Raises:
        Problem: if it is no image of `formats`, is damaged, or claims more than `most_pixels`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as damaged EXIF; the limit on pixels is checked here
        try:
            image = Image.open(io.BytesIO(body), formats=formats)
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
            image.load()
            return ImageOps.exif_transpose(image)
        except Exception as error:
            raise Problem("damaged-image", f"the image cannot be read: {_said(error)}") from error


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
