"""Masks: one class per pixel, as the index of a palette, a grey value (8 or 16 bit) or a colour.

Besides pictures: NumPy arrays (`.npy`), MATLAB files (`.mat`) and tables of whole numbers as text (`.txt`).
The indices of a GIF say nothing, since every writer sorts its palette anew: what is seen counts there.
"""

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from ...files import atomic_write
from ...types import ClassTable, Color, LabelMap, voc_palette
from ..label_encoding import LabelEncoding
from .direct import direct_png
from .image import IMAGE_SUFFIXES, MAX_PIXELS, opened
from .matrix import MATRIX_SUFFIXES, read_matrix
from .png16 import has_deep_colors, read_deep_colors

_ORIENTATION = 0x0112  # EXIF tag
MASK_SUFFIXES = IMAGE_SUFFIXES | MATRIX_SUFFIXES
_VOID: Color = voc_palette(256)[255]


def read_mask(
    path: str | os.PathLike[str], classes: ClassTable | LabelEncoding | None = None
) -> Int64[Tensor, "H W"]:
    """The labels in a mask file.

    Args:
        path: a palette image (the indices count, not the colours), a grey one, or one in the colours of
            the classes. It is turned only if it says so itself.
        classes: checks the values, and gives the colours their meaning. Without it grey values and indices
            are returned as they are.

    Raises:
        ValueError: if the file cannot be read, holds a value or colour outside the table, or holds colours
            and no table was given.
    """
    path = Path(path)
    if classes is not None:
        encoding = LabelEncoding.of(classes) if isinstance(classes, ClassTable) else classes
        return torch.from_numpy(read_labels(path, encoding))
    pixels = read_mask_pixels(path)
    if pixels.ndim == 3:
        if not (pixels == pixels[..., :1]).all():
            raise ValueError(f"{path} is a mask in colours: give a class table with the colours")
        pixels = pixels[..., 0]
    return torch.from_numpy(pixels.astype(np.int64))


def read_labels(
    path: Path, encoding: LabelEncoding, *, few_bits: bool = False
) -> Int64[np.ndarray, "H W"] | UInt8[np.ndarray, "H W"]:
    """What `read_mask` reads, as an array: without a tensor, so that any thread may do it.

    Args:
        path: of the mask.
        encoding: what its values mean.
        few_bits: whether labels that have room in 8 bits come in 8 bits.

    Raises:
        ValueError: as `read_mask`.
    """
    pixels = read_mask_pixels(path, as_seen=encoding.above is not None)
    return encoding.array(pixels, path, few_bits=few_bits)


def read_mask_pixels(path: Path, *, as_seen: bool = False) -> np.ndarray:
    """Values (H W) or colours (H W 3) of a mask file, as they are written, with 16 bits where it has them.

    Args:
        path: the file.
        as_seen: gives the colours of a palette instead of its indices, and 0 and 255 for black and white.

    Raises:
        ValueError: if the file cannot be read, whatever the library that reads it raises; names the file.
    """
    try:
        if path.suffix.lower() == ".npy":
            return _array(path, as_seen)
        if path.suffix.lower() in MATRIX_SUFFIXES:
            return read_matrix(path)
        if path.suffix.lower() == ".png":
            if (pixels := _direct(path, as_seen)) is not None:
                return pixels
            if has_deep_colors(path):
                return _deep_colors(path)
        return _pixels(path, as_seen)
    except ValueError:
        raise
    except Exception as error:  # Pillow and its codecs raise what they like on damaged files
        raise ValueError(f"cannot read {path}: {error or type(error).__name__}") from error


def check_size(path: Path, height: int, width: int) -> None:
    """Compare the size of an image file, upright or not, with what its annotation says.

    Nothing is drawn before: a wrong size may be larger than the memory.

    Raises:
        ValueError: if they differ, or the image cannot be opened.
    """
    if path.suffix.lower() in (".npy", *MATRIX_SUFFIXES):
        return
    try:
        with Image.open(path) as image:
            size = image.size
    except Exception as error:  # as above
        raise ValueError(f"cannot read {path}: {error or type(error).__name__}") from error
    if {height, width} != set(size):
        raise ValueError(f"{path} has {size[1]} x {size[0]} pixels, its annotation says {height} x {width}")


def turned_by_exif(path: Path) -> bool:
    """Whether the EXIF orientation of a picture exchanges its height and width."""
    if path.suffix.lower() in (".npy", *MATRIX_SUFFIXES):
        return False
    with Image.open(path) as image:
        return image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)


def _pixels(path: Path, as_seen: bool) -> np.ndarray:
    with opened(path) as image:
        if (as_seen or image.format == "GIF") and image.mode in ("P", "PA", "1"):
            pixels = np.array(image.convert("L" if image.mode == "1" else "RGB"))
            if image.format == "GIF" and (pixels == pixels[..., :1]).all():
                pixels = pixels[..., 0]
        elif image.mode in ("P", "L", "1") or image.mode.startswith("I"):
            pixels = np.array(image)
        elif image.mode in ("PA", "LA"):
            pixels = np.array(image.getchannel(0))
        elif image.mode == "F":
            pixels = np.array(image)
            if not (pixels == np.round(pixels)).all():
                raise ValueError("a mask needs whole numbers")
            pixels = pixels.astype(np.int64)
        else:
            pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _direct(path: Path, as_seen: bool) -> np.ndarray | None:
    try:
        return direct_png(path.read_bytes(), MAX_PIXELS, indices=not as_seen)
    except OSError:
        return None  # told below


def _deep_colors(path: Path) -> np.ndarray:
    with opened(path) as image:  # refuses what is no image, or claims to be too large
        size = image.size
    return read_deep_colors(path, size)


def read_palette(path: Path) -> tuple[Color, ...]:
    """The colours of a palette image in the order of its indices; none for other images."""
    with opened(path) as image:
        levels = image.getpalette() or [] if image.mode == "P" else []
    return tuple((levels[i], levels[i + 1], levels[i + 2]) for i in range(0, len(levels) - 2, 3))


def write_mask(path: str | os.PathLike[str], label_map: LabelMap, classes: ClassTable) -> Path:
    """Write labels as a palette PNG in the colours of the classes.

    Where 8 bits are too few it is a 16-bit grey PNG. Ignored pixels keep the ignore label of the table.

    Raises:
        ValueError: if a label is not in the table, the path does not end in .png or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"a mask is written as .png, got {path}")
    labels = label_map.labels.detach().cpu().numpy()
    if labels.ndim != 2:
        raise ValueError(f"a mask has a height and a width, got the shape {labels.shape} for {path}")
    known = ((labels >= 0) & (labels < len(classes))) | (labels == classes.ignore)
    if not known.all():
        raise ValueError(
            f"cannot write {path}: {labels[~known][0]} is no label of the {len(classes)} classes"
        )
    if labels.min(initial=0) < 0 or labels.max(initial=0) > 65535:
        raise ValueError(f"cannot write {path}: a PNG holds labels in 0..65535, got {classes.ignore}")
    if len(classes) > 256 or labels.max(initial=0) > 255:
        image = Image.fromarray(labels.astype(np.uint16))
    else:
        image = Image.fromarray(labels.astype(np.uint8))
        colors = [*classes.colors, *[_VOID] * (256 - len(classes))]
        image.putpalette([part for color in colors for part in color])
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG")
    return path


def _array(path: Path, as_seen: bool) -> np.ndarray:
    try:
        # Mapped, a file that promises more than it holds is refused before memory is taken for it.
        pixels = np.lib.format.open_memmap(path, mode="r")
        shape, kind = pixels.shape, pixels.dtype
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except Exception as error:  # NumPy parses the header as Python and raises whatever the parser raises
        raise ValueError(f"cannot read {path}: it is not a NumPy array of numbers") from error
    if kind.kind not in "bui" or len(shape) != 2:
        raise ValueError(f"{path} holds {kind} of shape {shape}, expected integers (H W)")
    return pixels.astype(np.int64) * (255 if as_seen and kind.kind == "b" else 1)
