"""What every file of a volume gives: voxels, the size of a voxel, and where they lie in the patient.

Arrays have the axes D H W: a tensor's last axis runs as the file's bytes do. Places are in mm and in the
directions right, anterior, superior, as NIfTI has them; those of files that use others (DICOM, NRRD and
MetaImage: left, posterior, superior) are converted.
"""

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from left, posterior, superior, and back
_DEFLATED = 1100  # bytes that one byte of a deflated file can become, and some more


@dataclass(frozen=True)
class Volume:
    """What a file of a volume holds.

    Attributes:
        voxels: the values as the file means them (scaled where its header says so).
        spacing: size of a voxel along D, H and W in mm.
        affine: takes (w, h, d, 1), the position of a voxel, to mm in the patient (right, anterior, superior).
        header: of the file, for writing another volume in the same place.
        placed: whether the file says where it lies; a plain TIFF file does not.
    """

    voxels: Shaped[np.ndarray, "*c D H W"]
    spacing: tuple[float, float, float]
    affine: Float64[np.ndarray, "4 4"]
    header: Any
    placed: bool = True


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Without what a library logs about damaged files: the error that follows says it in one sentence."""
    logger = logging.getLogger(library)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def spacing_of(affine: Float64[np.ndarray, "4 4"]) -> tuple[float, float, float]:
    """Size of a voxel along D, H and W.

    >>> spacing_of(np.diag([1.0, 2.0, 3.0, 1.0]))
    (3.0, 2.0, 1.0)
    """
    w, h, d = (float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    return d, h, w


def affine_from(
    directions: Shaped[np.ndarray, "3 3"], origin: Shaped[np.ndarray, "3"]
) -> Float64[np.ndarray, "4 4"]:
    """An affine of the steps along W, H and D (its columns), and the centre of the first voxel.

    Raises:
        ValueError: if a number is not finite, or the steps do not span a space.
    """
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions, origin
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-18:
        raise ValueError("the directions of its axes span no space")
    return affine


@contextmanager
def told(path: Path, kind: str) -> Iterator[None]:
    """What is wrong with a file, in one sentence that names it and its kind, such as "a MetaImage"."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, OverflowError, MemoryError) as error:
        raise ValueError(f"cannot read {path} as {kind}: {error}") from error


def check_size(stored: int, shape: tuple[int, ...], itemsize: int, *, compressed: bool) -> int:
    """How many bytes the voxels take; a header that promises more than a file can hold is refused.

    Args:
        stored: bytes of the file.
        shape: that the header tells.
        itemsize: bytes of a value.
        compressed: whether its bytes are deflated.

    Raises:
        ValueError: if a side is not above 0, or the file is too short.

    >>> check_size(100, (2, 3, 4), 2, compressed=False)
    48
    """
    if not shape or min(shape) < 1:
        raise ValueError(f"its header tells {' x '.join(map(str, shape))} voxels")
    needed = itemsize
    for side in shape:
        needed *= side
    if needed > stored * (_DEFLATED if compressed else 1):
        raise ValueError(
            f"its header tells {' x '.join(map(str, shape))} values ({needed:,} bytes), more than its "
            f"{stored:,} bytes can hold"
        )
    return needed


def inflated(data: bytes, size: int) -> bytes:
    """What zlib or gzip made of `size` bytes; never more of it is unpacked.

    Raises:
        ValueError: if the data are damaged or hold fewer bytes.
    """
    try:
        content = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(data, size)
    except zlib.error as error:
        raise ValueError(f"its compressed data are damaged: {error}") from error
    if len(content) < size:
        raise ValueError(f"its data are cut off: {len(content):,} of {size:,} bytes")
    return content


def as_written(voxels: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """The voxels in a type that every reader knows: booleans as 8 bits, labels of 64 bits as fewer."""
    if voxels.dtype == np.bool_:
        return voxels.astype(np.uint8)
    if voxels.dtype.kind in "iu" and voxels.dtype.itemsize == 8:
        lowest, highest = (int(voxels.min()), int(voxels.max())) if voxels.size else (0, 0)
        if lowest >= 0 and highest <= 255:
            return voxels.astype(np.uint8)
        return voxels.astype(np.int16 if -(2**15) <= lowest and highest < 2**15 else np.int32)
    return voxels.astype(np.float32) if voxels.dtype == np.float16 else voxels
