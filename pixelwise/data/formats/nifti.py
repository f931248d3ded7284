"""Volumes: NIfTI-1 files (`.nii`, `.nii.gz`), with their place in the patient kept exactly.

Arrays have the axes D H W, which are k j i of the file (its first axis is the fastest): a tensor's last axis
runs as the file's bytes do. Nothing is turned or resampled; what is written over an image gets its header.
"""

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from ...files import atomic_write
from .volume import Volume as Volume, as_written, check_size, quiet

SUFFIXES = (".nii.gz", ".nii")


def is_nifti(path: str | os.PathLike[str]) -> bool:
    """Whether the name is that of a NIfTI file.

    >>> is_nifti("brain.nii.gz")
    True
    """
    return Path(path).name.lower().endswith(SUFFIXES)


def read_nifti(path: str | os.PathLike[str]) -> Volume:
    """Read a volume; a fourth axis of the file, such as several kinds of MRI, becomes the first of the array.

    Raises:
        ValueError: if the file is missing, damaged, no NIfTI file, or has not three or four axes.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    broken = (ImageFileError, HeaderDataError, WrapStructError, zlib.error)
    lying = (
        OSError,
        EOFError,
        ValueError,
        OverflowError,
        MemoryError,
    )  # a header that promises what is not there
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with quiet("nibabel.global"):
            image: Any = nibabel.Nifti1Image.from_filename(path)
            shape, itemsize = image.header.get_data_shape(), image.header.get_data_dtype().itemsize
            packed = path.name.lower().endswith(".gz")
            check_size(path.stat().st_size, tuple(map(int, shape)), itemsize, compressed=packed)
            voxels = np.asanyarray(image.dataobj)
            affine = np.asarray(image.affine, np.float64)
    except (*broken, *lying) as error:
        raise ValueError(f"cannot read {path} as a NIfTI file: {error}") from error
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim not in (3, 4) or 0 in voxels.shape:
        raise ValueError(f"{path} has the shape {voxels.shape}, expected three axes, or four with channels")
    if voxels.dtype.kind not in "buif":
        raise ValueError(f"{path} holds {voxels.dtype}, expected numbers")
    i, j, k = (float(side) for side in image.header.get_zooms()[:3])
    native = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    return Volume(np.ascontiguousarray(native.T), (k, j, i), affine, image.header)


def affine_of(path: str | os.PathLike[str]) -> Float64[np.ndarray, "4 4"]:
    """The place of a volume alone; its voxels are not read.

    Raises:
        ValueError: if the file is missing, damaged or no NIfTI file.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    broken = (ImageFileError, HeaderDataError, WrapStructError, zlib.error)
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with quiet("nibabel.global"):
            image: Any = nibabel.Nifti1Image.from_filename(Path(path))
        return np.asarray(image.affine, np.float64)
    except (*broken, OSError, EOFError, ValueError, OverflowError, MemoryError) as error:
        raise ValueError(f"cannot read {path} as a NIfTI file: {error}") from error


def write_nifti(path: str | os.PathLike[str], voxels: Shaped[np.ndarray, "*c D H W"], like: Volume) -> Path:
    """Write a volume in the place of another: same affine, spacing, units and orientation codes.

    Args:
        path: ends in `.nii` or `.nii.gz`.
        voxels: on the grid of `like`; booleans become 8-bit, 64-bit integers 16-bit or 32-bit numbers.
        like: the volume whose place it takes, usually the image that was segmented.

    Raises:
        ValueError: on another name or grid, or if the file cannot be written.
    """
    import nibabel

    path = Path(path)
    if not is_nifti(path):
        raise ValueError(f"a NIfTI file is called .nii or .nii.gz, got {path}")
    if voxels.shape[-3:] != like.voxels.shape[-3:]:
        raise ValueError(f"{path} needs {like.voxels.shape[-3:]} voxels, got {voxels.shape}")
    voxels = as_written(voxels)
    header = _header_of(like)
    header.set_data_dtype(voxels.dtype)
    header["cal_min"], header["cal_max"] = 0, 0  # how bright the other volume is to be shown
    # The name beside the file must keep both suffixes: nibabel compresses by the name.
    suffix = ".nii.gz" if path.name.lower().endswith(".gz") else ".nii"
    with atomic_write(path) as temporary:
        named = temporary.with_name(temporary.name + suffix)
        try:
            nibabel.save(nibabel.Nifti1Image(voxels.T, like.affine, header), named)
            os.replace(named, temporary)
        finally:
            named.unlink(missing_ok=True)
    return path


def _header_of(like: Volume) -> Any:
    """The header of another NIfTI file; of other files, one with their place in mm."""
    import nibabel

    if isinstance(like.header, nibabel.Nifti1Header):
        return like.header.copy()
    header = nibabel.Nifti1Header()
    header.set_xyzt_units("mm")
    header.set_sform(like.affine, code="scanner")
    header.set_qform(like.affine, code="scanner")
    return header
