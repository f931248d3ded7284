"""Images: any format that Pillow reads, and NumPy or TIFF files with any number of channels."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ...files import atomic_write

IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .bmp .tif .tiff .webp .gif .ppm .pgm .pbm .pnm .jp2 .j2k .tga .avif "
    ".npy".split()
)
_ORIENTATION = 0x0112  # EXIF tag
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def read_image(path: str | os.PathLike[str], channels: int = 3) -> Float[Tensor, "c H W"]:
    """An image with values in [0, 1], turned as its EXIF orientation says.

    Grey becomes three equal channels and colour becomes grey where `channels` asks for it; transparency is
    dropped unless 2 or 4 channels are wanted. 8-bit values are divided by 255, 16-bit values by 65535;
    floating-point values must be in [0, 1]. The divisor never depends on what a file holds, so that training
    and prediction see the same: 12-bit values in 16-bit files stay dark, and `check_data` says so. Another
    number of channels is read from a TIFF file or from a NumPy file (H W, H W c or c H W).

    Raises:
        ValueError: if the file is missing, damaged or no image, or does not have so many channels.
    """
    if channels < 1:
        raise ValueError(f"channels must be at least 1, got {channels}")
    path = Path(path)
    if path.suffix.lower() == ".npy":
        return _scaled(_arranged(_array(path), channels, path), path)
    if channels not in _MODES:
        return _scaled(_arranged(_tiff(path), channels, path), path)
    with opened(path) as image:
        pixels = _pixels(image, _MODES[channels])
    tensor = _scaled(torch.from_numpy(pixels), path)
    if tensor.ndim == 2:
        return tensor.expand(channels, -1, -1).contiguous()
    return tensor.permute(2, 0, 1).contiguous()


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
def opened(path: Path) -> Iterator[Image.Image]:
    """An open image, upright; whatever is wrong with the file becomes a ValueError that names it."""
    try:
        with Image.open(path) as image:
            refuse_pages(image)
            image.load()
            yield upright(image)
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"cannot read {path}: it is not an image of a known format") from error
    except (
        OSError,
        SyntaxError,
        EOFError,
        ValueError,
        struct.error,
        IndexError,
        Image.DecompressionBombError,
    ) as error:
        raise ValueError(f"cannot read {path}: {error}") from error


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


def _pixels(image: Image.Image, mode: str) -> np.ndarray:
    """(H W) or (H W c), in the depth of the file."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _native(np.array(image))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image if image.mode == mode else image.convert(mode))


def _native(pixels: np.ndarray) -> np.ndarray:
    """In the byte order of this machine."""
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _scaled(pixels: Tensor, path: Path) -> Tensor:
    """Values in [0, 1] by bit depth. A 32-bit integer image holds 16-bit values, or it is not understood."""
    if pixels.dtype == torch.uint8:
        return pixels.to(torch.float32).div_(255)
    if pixels.dtype == torch.bool:
        return pixels.to(torch.float32)
    lowest, highest = (float(x) for x in pixels.double().aminmax())
    top = 1 if pixels.is_floating_point() else 65535
    if not (lowest >= 0 and highest <= top):
        raise ValueError(f"{path} holds values from {lowest:g} to {highest:g}, expected 0 to {top}")
    return pixels.to(torch.float32) / top


def _array(path: Path) -> np.ndarray:
    try:
        return _native(np.load(path, allow_pickle=False))
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"cannot read {path}: it is not a NumPy array of numbers") from error


def _tiff(path: Path) -> np.ndarray:
    import tifffile  # comes with scikit-image

    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        return _native(tifffile.imread(path))
    except Exception as error:  # tifffile raises whatever its codecs raise
        raise ValueError(f"cannot read {path} as a TIFF file of several channels: {error}") from error


def _arranged(pixels: np.ndarray, channels: int, path: Path) -> Tensor:
    """As c H W."""
    if pixels.dtype.kind not in "buif":
        raise ValueError(f"{path} holds {pixels.dtype}, expected numbers")
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[None], channels, 0) if channels in (1, 3) else pixels[None]
    elif pixels.ndim == 3 and pixels.shape[-1] == channels:
        pixels = pixels.transpose(2, 0, 1)
    if pixels.ndim != 3 or pixels.shape[0] != channels or 0 in pixels.shape:
        raise ValueError(f"{path} has the shape {pixels.shape}, expected {channels} channels")
    return torch.from_numpy(np.ascontiguousarray(pixels))
