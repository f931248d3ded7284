"""Images: any format that Pillow reads, and NumPy or TIFF files with any number of channels."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ...files import atomic_write
from ...kernels.images.values import unit_planes
from ..intensity import PERCENTILES, normaliser, scaled
from .direct import check_png, direct_jpeg, plausible
from .held import WhileReading
from .raster import describe, has_rasterio, is_geotiff, needs_raster, read_raster, read_unit
from .volume import quiet

IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .bmp .tif .tiff .webp .gif .ppm .pgm .pbm .pnm .jp2 .j2k .tga .avif "
    ".npy".split()
)
MAX_PIXELS = 1_000_000_000  # of one file, unless the caller says otherwise
Source = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor

_ORIENTATION = 0x0112  # EXIF tag
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def to_tensor(
    source: Source, channels: int = 3, *, max_pixels: int = MAX_PIXELS, intensity: str = PERCENTILES
) -> Float[Tensor, "c H W"]:
    """Any image as a tensor with values in [0, 1], upright as its EXIF orientation says.

    Args:
        source: path of a file (see `read_image`); PIL image; array "H W" or "H W c" of uint8 or uint16 over
            their whole range, bool, or floats in [0, 1]; tensor "c H W" likewise.
        channels: of the result. Grey and RGBA become RGB where three are wanted.
        max_pixels: largest height times width of a file.
        intensity: which values become 0 and 1, as in `read_image`; a tensor has them already.

    Raises:
        ValueError: if the source cannot be read or does not have so many channels; names the file.

    >>> to_tensor(np.array([[0, 255]], np.uint8)).tolist()
    [[[0.0, 1.0]], [[0.0, 1.0]], [[0.0, 1.0]]]
    """
    if isinstance(source, str | os.PathLike):
        return read_image(source, channels, max_pixels=max_pixels, intensity=intensity)
    if isinstance(source, Image.Image):
        pixels = _planes(_pixels(upright(source), _MODES.get(channels, "RGB")))
        pixels = pixels if scaled(intensity) else _of_16_bits(pixels)
    elif isinstance(source, np.ndarray):
        if source.ndim not in (2, 3):
            raise ValueError(f"an array must have axes H W or H W c, got shape {source.shape}")
        pixels = _planes(source)
    elif isinstance(source, Tensor):
        if source.ndim != 3:
            raise ValueError(f"a tensor must have axes c H W, got shape {tuple(source.shape)}")
        source = source.detach().cpu()
        pixels = (
            source.float() if source.dtype == torch.bfloat16 else source
        ).numpy()  # NumPy has no bfloat16
    else:
        raise ValueError(
            f"an image is a path, a PIL image, an array or a tensor, got {type(source).__name__}"
        )
    given = len(pixels)
    if channels == 3 and given in (1, 2):
        pixels = pixels[[0, 0, 0]]
    elif channels == 3 and given == 4:
        pixels = pixels[:3]
    elif channels != given:
        raise ValueError(f"the model takes images of {channels} channels, got {given}")
    if scaled(intensity) and not isinstance(source, Tensor):
        return torch.from_numpy(_normalised(pixels, intensity))
    return torch.from_numpy(_unit(pixels))


def read_image(
    path: str | os.PathLike[str],
    channels: int = 3,
    *,
    max_pixels: int = MAX_PIXELS,
    intensity: str = PERCENTILES,
) -> Float[Tensor, "c H W"]:
    """An image with values in [0, 1], turned as its EXIF orientation says.

    Grey becomes three equal channels and colour becomes grey where `channels` asks for it; transparency is
    dropped unless 2 or 4 channels are wanted. 8-bit values are divided by 255, 16-bit values by 65535;
    floating-point values must be in [0, 1]. The divisor never depends on what a file holds, so that training
    and prediction see the same: 12-bit values in 16-bit files stay dark, and `check_data` says so. Another
    number of channels is read from a TIFF file or from a NumPy file (H W, H W c or c H W). GeoTIFF files of
    other types, or with a nodata value, are read as `formats.raster` has it.

    Args:
        path: of the file.
        channels: of the result.
        max_pixels: largest height times width; a file may claim any size.
        intensity: "percentiles" for all that stands above; any other name of `data.intensity.bounds_of`
            scales files of every type so, each channel by itself.

    Raises:
        ValueError: if the file is missing, damaged, too large or no image, or does not have so many channels.
    """
    return torch.from_numpy(read_pixels(path, channels, max_pixels=max_pixels, intensity=intensity))


def read_pixels(
    path: str | os.PathLike[str],
    channels: int = 3,
    *,
    max_pixels: int = MAX_PIXELS,
    intensity: str = PERCENTILES,
) -> Float32[np.ndarray, "c H W"]:
    """What `read_image` reads, as an array: without a tensor, so that any thread may do it.

    Raises:
        ValueError: as `read_image`.
    """
    pixels = read_stored(path, channels, max_pixels=max_pixels, intensity=intensity)
    return _unit(pixels) if pixels.dtype == np.uint8 else pixels


def read_stored(
    path: str | os.PathLike[str],
    channels: int = 3,
    *,
    max_pixels: int = MAX_PIXELS,
    intensity: str = PERCENTILES,
) -> UInt8[np.ndarray, "c H W"] | Float32[np.ndarray, "c H W"]:
    """What `read_pixels` reads, but values of 8 bits that would only be divided by 255 are left as they are.

    Raises:
        ValueError: as `read_image`.
    """
    if channels < 1:
        raise ValueError(f"channels must be at least 1, got {channels}")
    path = Path(path)
    if is_raster(path, intensity):
        with readable(path):
            _check_size(*describe(path).size, max_pixels)
        return read_unit(path, channels, intensity=intensity)[0]
    pixels = _values_of(path, channels, max_pixels)
    if scaled(intensity):
        try:
            return _normalised(pixels, intensity)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    try:
        pixels = _of_16_bits(pixels)
        return pixels if pixels.dtype == np.uint8 else _unit(pixels)
    except ValueError as error:
        raise ValueError(f"{path} {error} (--intensity, intensity=, takes others to 0 to 1)") from error


def is_raster(path: Path, intensity: str) -> bool:
    """Whether a file is read as `formats.raster` has it: a GeoTIFF with values that pictures have not."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    return needs_raster(path) or (scaled(intensity) and is_geotiff(path) and has_rasterio())


def _values_of(path: Path, channels: int, max_pixels: int) -> Shaped[np.ndarray, "c H W"]:
    """The values in a file as they are, of so many channels."""
    if path.suffix.lower() == ".npy":
        return _arranged(read_array(path, max_pixels * channels), channels, path)
    if path.suffix.lower() in (".tif", ".tiff"):
        _check_channels(path, channels)
        if not is_pillows(path):
            return _arranged(_tiff(path, channels, max_pixels), channels, path)
    if path.suffix.lower() in (".jpg", ".jpeg"):
        with readable(path):
            content = path.read_bytes()
        if (direct := direct_jpeg(content, channels, max_pixels)) is not None:
            return direct
    with opened(path, max_pixels) as image:
        pixels = _planes(_pixels(image, _MODES.get(channels, "RGB")))
    if len(pixels) == 1 and channels in _MODES:
        return np.repeat(pixels, channels, 0)
    if len(pixels) != channels:
        raise ValueError(f"{path} has {len(pixels)} channels, expected {channels}")
    return pixels


def _normalised(pixels: np.ndarray, intensity: str) -> Float32[np.ndarray, "c H W"]:
    """Each channel from the values of the file to 0 to 1."""
    normalise = normaliser(intensity)
    return np.stack([normalise(plane) for plane in pixels])


def read_any_image(path: str | os.PathLike[str]) -> Float[Tensor, "c H W"]:
    """An image with as many channels as it has: 1 if it is grey, else 3; of a NumPy file all (the last axis).

    Raises:
        ValueError: as `read_image`.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        shape = read_array(path).shape
        return read_image(path, shape[-1] if len(shape) == 3 and shape[-1] else 1)
    with opened(path) as image:
        grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
    return read_image(path, 1 if grey else 3)


def write_image(path: str | os.PathLike[str], image: Float[Tensor, "c H W"]) -> Path:
    """Write values in [0, 1] with 8 bits each: 1 channel as grey, 3 as RGB, 4 as RGBA, others as `.npy`.

    Raises:
        ValueError: if the file cannot be written, or not with so many channels.
    """
    path = Path(path)
    pixels = (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    if path.suffix.lower() != ".npy" and pixels.shape[-1] not in (1, 3, 4):
        raise ValueError(f"{path} cannot hold {pixels.shape[-1]} channels: write them as .npy")
    with atomic_write(path) as temporary:
        if path.suffix.lower() == ".npy":
            np.save(temporary, pixels)
        else:
            Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)).save(
                temporary
            )
    return path


@contextmanager
def opened(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """An open image, upright; whatever is wrong with the file becomes a ValueError that names it.

    Pillow warns of large images and refuses larger ones; here `max_pixels` alone decides.
    """
    with readable(path):
        with _PILLOWS_LIMIT.held():
            image = Image.open(path)
        with image:
            _check_size(image.height, image.width, max_pixels)
            _check_claim(image.height * image.width, path)
            refuse_pages(image)
            if image.format == "PNG":
                check_png(path.read_bytes())
            with _PILLOWS_LIMIT.held():
                image.load()
            yield upright(image)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever a library raises while it reads `path` becomes a ValueError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except UnidentifiedImageError as error:
        if not path.stat().st_size:
            raise ValueError(f"cannot read {path}: it is empty") from error
        raise ValueError(f"cannot read {path}: it is not an image of a known format") from error
    except MemoryError as error:
        raise ValueError(f"cannot read {path}: it does not fit into memory") from error
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or _first_line(error)}") from error
    except Exception as error:  # damaged files make decoders raise anything
        raise ValueError(f"cannot read {path}: {_first_line(error)}") from error


def refuse_pages(image: Image.Image) -> None:
    """Accept a single picture only: of several pages nobody can tell which is meant.

    Smaller copies of the first page (the pyramid of a TIFF) and the previews beside a photograph (MPO) are
    no pages.

    Raises:
        ValueError: if there are more.
    """
    count = getattr(image, "n_frames", 1)
    if count == 1 or image.format == "MPO":
        return
    size, pages = image.size, 1
    if image.format == "TIFF":
        for page in range(1, count):
            image.seek(page)
            pages += image.size == size
        image.seek(0)
    else:
        pages = count
    if pages > 1:
        raise ValueError(
            f"it holds {pages} pages or frames, and only one picture is understood: write each as a file"
        )


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says."""
    turned = image.getexif().get(_ORIENTATION, 1) != 1
    return ImageOps.exif_transpose(image) if turned else image


def read_array(path: Path, max_numbers: int = MAX_PIXELS) -> np.ndarray:
    """The array in a NumPy file, which is never unpickled.

    Raises:
        ValueError: if the file is missing, damaged, or holds anything else or too much.
    """
    with readable(path):
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, MemoryError):
            raise
        except Exception as error:  # the header is Python text: any error of a tokenizer
            raise ValueError("it is not a NumPy array of numbers") from error
        if not isinstance(array, np.ndarray):
            raise ValueError("it is an archive of arrays, expected one array")
        _check_size(array.size, 1, max_numbers)
        return _native(np.array(array))


def _without_limit() -> Callable[[], None]:
    """Take Pillow's own limit of pixels away, which is global; `_check_size` has one for each file."""
    usual = Image.MAX_IMAGE_PIXELS

    def take_back() -> None:
        Image.MAX_IMAGE_PIXELS = usual

    Image.MAX_IMAGE_PIXELS = None
    return take_back


_PILLOWS_LIMIT = WhileReading(_without_limit)


def _check_size(height: int, width: int, most: int) -> None:
    if height * width > most:
        size = f"{height} x {width} pixels" if width > 1 else f"{height:,} numbers"
        raise ValueError(f"it has {size}, more than the limit of {most:,} (--max-pixels, max_pixels=)")


def _check_claim(pixels: int, path: Path) -> None:
    """A damaged header can claim a size that no content of so few bytes has; reading it would fill memory."""
    size = path.stat().st_size
    if not plausible(pixels, size):
        raise ValueError(f"it claims {pixels:,} pixels in {size:,} bytes: the file is damaged")


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _pixels(image: Image.Image, mode: str) -> np.ndarray:
    """(H W) or (H W c), in the depth of the file."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _native(np.array(image))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image if image.mode == mode else image.convert(mode))


def _planes(pixels: np.ndarray) -> np.ndarray:
    """(H W) or (H W c) as c H W."""
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _native(pixels: np.ndarray) -> np.ndarray:
    """In the byte order of this machine."""
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _of_16_bits(pixels: np.ndarray) -> np.ndarray:
    """Integers of other types hold 16-bit values, or they are not understood."""
    if pixels.dtype.kind not in "iu" or pixels.dtype in (np.uint8, np.uint16):
        return pixels
    lowest, highest = (int(pixels.min()), int(pixels.max())) if pixels.size else (0, 0)
    if not (lowest >= 0 and highest <= 65535):
        raise ValueError(f"holds values from {lowest} to {highest}, expected 0 to 65535")
    return pixels.astype(np.uint16)


def _unit(pixels: np.ndarray) -> Float32[np.ndarray, "..."]:
    """Values in [0, 1], contiguous."""
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and not pixels.flags.c_contiguous:
        return unit_planes(pixels.transpose(1, 2, 0))  # as files have them: channels side by side
    if pixels.dtype in (np.uint8, np.uint16):
        scaled = np.ascontiguousarray(pixels, np.float32)
        scaled /= np.float32(np.iinfo(pixels.dtype).max)
        return scaled
    if pixels.dtype != np.bool_ and pixels.dtype.kind != "f":
        raise ValueError(f"pixels must be uint8, uint16, bool or floats in [0, 1], got {pixels.dtype}")
    low, high = (float(pixels.min()), float(pixels.max())) if pixels.size else (0.0, 0.0)
    if not (low >= 0 and high <= 1):  # also catches nan
        raise ValueError(f"holds values from {low:g} to {high:g}, expected 0 to 1")
    return np.array(pixels, np.float32, order="C")


def _check_channels(path: Path, channels: int) -> None:
    """A TIFF file of many channels is nothing that Pillow knows, but it is an image."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return
    import tifffile

    try:
        with quiet("tifffile"), tifffile.TiffFile(path) as file:
            given = file.pages.first.samplesperpixel
    except Exception:  # whatever is wrong with the file is told where it is read
        return
    if given > 4 and given != channels:
        raise ValueError(f"{path} has {given} channels, expected {channels}")


def is_pillows(file: Path | BinaryIO) -> bool:
    """Whether Pillow has all that a TIFF file holds: of several channels, it has colours of 8 bits only."""
    import tifffile  # comes with scikit-image

    try:
        with quiet("tifffile"), tifffile.TiffFile(file) as tiff:
            page = tiff.pages.first
            grey = page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.MINISWHITE)
            if page.samplesperpixel == 1:
                return page.dtype in (np.bool_, np.uint8, np.uint16, np.float32)
            few = page.samplesperpixel <= 4
            return page.dtype == np.uint8 and few and (page.samplesperpixel == 2 or not grey)
    except Exception:  # whatever is wrong with the file is told where it is read
        return True


def _tiff(path: Path, channels: int, max_pixels: int) -> np.ndarray:
    """The values of a TIFF file; by rasterio or Pillow where its compression is unknown to tifffile."""
    import tifffile

    try:
        with readable(path), quiet("tifffile"), tifffile.TiffFile(path) as file:
            shape = file.series[0].shape
            _check_size(math.prod(shape), 1, max_pixels * channels)
            _check_claim(math.prod(shape), path)
            return _native(file.asarray())
    except ValueError as error:
        if "more than the limit" in str(error) or "claims" in str(error):
            raise
        if has_rasterio():
            return read_raster(path)[0]
        with opened(path, max_pixels) as image:
            return _planes(_pixels(image, _MODES.get(channels, "RGB")))


def _arranged(pixels: np.ndarray, channels: int, path: Path) -> np.ndarray:
    """As c H W."""
    if pixels.dtype.kind not in "buif":
        raise ValueError(f"{path} holds {pixels.dtype}, expected numbers")
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[None], channels, 0) if channels in (1, 3) else pixels[None]
    elif pixels.ndim == 3 and pixels.shape[-1] == channels:
        pixels = pixels.transpose(2, 0, 1)
    elif pixels.ndim == 3 and channels == 3 and 4 in pixels.shape[::2] and pixels.shape[0] != 3:
        pixels = pixels[..., :3].transpose(2, 0, 1) if pixels.shape[-1] == 4 else pixels[:3]
    if pixels.ndim != 3 or pixels.shape[0] != channels or 0 in pixels.shape:
        raise ValueError(f"{path} has the shape {pixels.shape}, expected {channels} channels")
    return pixels
