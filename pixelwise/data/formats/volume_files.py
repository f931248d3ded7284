"""Volumes whatever their format: NIfTI, NRRD, MetaImage, TIFF stacks, DICOM series."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Shaped

from .dicom import is_dicom, is_series, place_of_dicom, read_dicom
from .metaimage import place_of_metaimage, read_metaimage, write_metaimage
from .nifti import affine_of, read_nifti, write_nifti
from .nrrd import place_of_nrrd, read_nrrd, write_nrrd
from .tiff_stack import SUFFIXES as TIFF, read_tiff_stack, write_tiff_stack
from .volume import Volume

_Write = Callable[[Path, Shaped[np.ndarray, "D H W"], Volume], Path]


@dataclass(frozen=True)
class _Format:
    """How the files of some suffixes are read and written.

    Attributes:
        read: a file.
        write: voxels in the place of a volume; None where predictions are written in another format.
        prediction: the suffix of a prediction of such a file.
    """

    read: Callable[[Path], Volume]
    write: _Write | None
    prediction: str


# By suffix; the longest that a name ends in counts.
_FORMATS: Mapping[str, _Format] = {
    ".nii.gz": _Format(read_nifti, write_nifti, ".nii.gz"),
    ".nii": _Format(read_nifti, write_nifti, ".nii"),
    ".nrrd": _Format(read_nrrd, write_nrrd, ".nrrd"),
    ".nhdr": _Format(read_nrrd, None, ".nrrd"),
    ".mha": _Format(read_metaimage, write_metaimage, ".mha"),
    ".mhd": _Format(read_metaimage, None, ".mha"),
    ".tif": _Format(read_tiff_stack, write_tiff_stack, ".tif"),
    ".tiff": _Format(read_tiff_stack, write_tiff_stack, ".tiff"),
    ".dcm": _Format(read_dicom, None, ".nii.gz"),
}
SUFFIXES = tuple(_FORMATS)
WRITTEN = tuple(suffix for suffix, format in _FORMATS.items() if format.write is not None)


def suffix_of(path: str | os.PathLike[str]) -> str | None:
    """The suffix that tells the format of a file; None where it is none of a volume.

    >>> suffix_of("a/brain.1.nii.gz"), suffix_of("a.png")
    ('.nii.gz', None)
    """
    name = Path(path).name.lower()
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), None)


def is_volume(path: Path) -> bool:
    """Whether a path is that of a volume: a file of such a name, or a folder of DICOM files."""
    return is_series(path) if path.is_dir() else suffix_of(path) is not None


def stem_of(path: Path) -> str:
    """The name without the suffix of a volume; that of a folder as it is.

    >>> stem_of(Path("a/brain.1.nii.gz"))
    'brain.1'
    """
    suffix = "" if path.is_dir() else suffix_of(path) or path.suffix
    return path.name[: len(path.name) - len(suffix)]


def prediction_suffix(path: Path) -> str:
    """The suffix of a prediction that opens over the image: of its format, or NIfTI for DICOM.

    >>> prediction_suffix(Path("a.mhd"))
    '.mha'
    """
    suffix = suffix_of(path)
    return ".nii.gz" if suffix is None or path.is_dir() else _FORMATS[suffix].prediction


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read a volume: a file by its suffix, or the DICOM series of a folder.

    Raises:
        ValueError: if it is missing, damaged, of no known format, or an extra is needed for it.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    suffix = suffix_of(path)
    if path.is_dir() or (suffix is None and is_dicom(path)):
        return read_dicom(path)
    if suffix is None:
        raise ValueError(f"{path} is no volume: expected {', '.join(SUFFIXES)} or a folder of DICOM files")
    return _FORMATS[suffix].read(path)


def write_volume(path: str | os.PathLike[str], voxels: Shaped[np.ndarray, "D H W"], like: Volume) -> Path:
    """Write a volume in the place of another; the suffix tells the format, which may be another one.

    Raises:
        ValueError: if the suffix is of no format that is written, the grid is another, or the file cannot be
            written.
    """
    suffix = suffix_of(path)
    write = None if suffix is None else _FORMATS[suffix].write
    if write is None:
        raise ValueError(f"cannot write {path}: expected one of {', '.join(WRITTEN)}")
    if tuple(voxels.shape) != like.voxels.shape[-3:]:
        raise ValueError(f"{path} needs {like.voxels.shape[-3:]} voxels, got {voxels.shape}")
    return write(Path(path), voxels, like)


def place_of(path: Path) -> tuple[Float64[np.ndarray, "4 4"], bool]:
    """The affine of a volume, and whether its file tells it; the voxels are not read, except of TIFF files.

    Raises:
        ValueError: as `read_volume`.
    """
    suffix = suffix_of(path)
    if path.is_dir() or suffix == ".dcm":
        return place_of_dicom(path), True
    if suffix is not None and suffix in _PLACES:
        return _PLACES[suffix](path), True
    volume = read_volume(path)
    return volume.affine, volume.placed


_PLACES: Mapping[str, Callable[[Path], Float64[np.ndarray, "4 4"]]] = {
    **dict.fromkeys((".nii", ".nii.gz"), affine_of),
    **dict.fromkeys((".nrrd", ".nhdr"), place_of_nrrd),
    **dict.fromkeys((".mha", ".mhd"), place_of_metaimage),
}


def is_stack(path: Path) -> bool:
    """Whether the name is that of a TIFF file, which may hold slices or an image."""
    return path.suffix.lower() in TIFF
