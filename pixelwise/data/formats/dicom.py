"""Volumes in DICOM files: the series of a folder, or one file with many frames; needs pixelwise[medical].

Slices are put in order by their places, not by names or numbers, and their values are those that the scanner
means (RescaleSlope, RescaleIntercept: Hounsfield units in CT).
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from .volume import TO_RAS, Volume, affine_from, check_size, spacing_of

_SUFFIXES = (".dcm", ".dicom", ".ima")
_MOST_TRIED = 4  # files of a folder whose first bytes are looked at
_UNEVEN = 0.02  # share of the distance of slices by which one may differ
_NEEDED = "pip install pixelwise[medical]"


@dataclass(frozen=True)
class Frame:
    """One slice.

    Attributes:
        place: of the centre of its first pixel, in mm (left, posterior, superior).
        directions: of its rows' and its columns' steps, each of one mm: "3 2".
        sides: height and width of a pixel in mm.
        thickness: of the slice in mm.
        scale: slope and intercept.
        file: number of the file.
        number: of the frame in its file.
    """

    place: Float64[np.ndarray, "3"]
    directions: Float64[np.ndarray, "3 2"]
    sides: tuple[float, float]
    thickness: float
    scale: tuple[float, float]
    file: int
    number: int


def is_dicom(path: Path) -> bool:
    """Whether a file is one of DICOM, by its first bytes."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def is_series(folder: Path) -> bool:
    """Whether a folder holds DICOM files itself."""
    if not folder.is_dir():
        return False
    files = [path for path in files_of(folder) if path.suffix.lower() in (*_SUFFIXES, "")]
    return any(is_dicom(path) for path in files[:_MOST_TRIED])


def read_dicom(path: str | os.PathLike[str]) -> Volume:
    """Read the one series of a folder, or a file with many frames.

    Raises:
        ValueError: if there is no series or more than one, a slice is missing or damaged, slices differ in
            size, or the extra is missing.
    """
    with told(Path(path)):
        return _volume(Path(path))


def place_of_dicom(path: Path) -> Float64[np.ndarray, "4 4"]:
    """The affine alone; the voxels are not read.

    Raises:
        ValueError: as `read_dicom`.
    """
    with told(path):
        _, headers = series_of(path)
        frames, step = frames_in_order(headers)
        return _affine(frames[0], step)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """What is wrong with a file or a folder, in one sentence that names it."""
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    try:
        yield
    except Exception as error:  # damaged files make pydicom raise anything
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"cannot read {path} as DICOM: {reason}") from error


def open_dicom(path: Path, **options: Any) -> Any:
    """A data set of pydicom.

    Raises:
        ValueError: if the extra is missing or the file is damaged.
    """
    try:
        import pydicom
    except ModuleNotFoundError as error:
        raise ValueError(f"DICOM files are read by pydicom: {_NEEDED}") from error
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values that are not as the standard has them
        return pydicom.dcmread(path, **options)


def files_of(folder: Path) -> list[Path]:
    """The visible files of a folder, without its table of contents."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".") and path.name.upper() != "DICOMDIR"
    )


def _volume(path: Path) -> Volume:
    files, headers = series_of(path)
    frames, step = frames_in_order(headers)
    height, width = (int(headers[0].Rows), int(headers[0].Columns))
    for file, header in zip(files, headers, strict=True):
        if (int(header.Rows), int(header.Columns)) != (height, width):
            raise ValueError(
                f"{file.name} has {header.Rows} x {header.Columns} pixels, {files[0].name} {height} x {width}"
            )
        if int(getattr(header, "SamplesPerPixel", 1)) != 1:
            raise ValueError(f"{file.name} is in colours, expected one value per voxel")
        each = int(getattr(header, "NumberOfFrames", 1) or 1)
        check_size(file.stat().st_size, (each, height, width), 1, compressed=True)
    pixels = {number: _pixels(file) for number, file in enumerate(files)}
    whole = all(float(x).is_integer() for frame in frames for x in frame.scale)
    voxels = np.stack([_scaled(pixels[f.file][f.number], f.scale, whole) for f in frames])
    affine = _affine(frames[0], step)
    return Volume(voxels, spacing_of(affine), affine, None)


def _affine(first: Frame, step: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "4 4"]:
    rows, columns = first.sides
    directions = np.stack([first.directions[:, 0] * columns, first.directions[:, 1] * rows, step], 1)
    return TO_RAS @ affine_from(directions, first.place)


def series_of(path: Path) -> tuple[list[Path], list[Any]]:
    """The files of the series, and what they say without their pixels.

    Raises:
        ValueError: if there is no series or more than one, or the extra is missing.
    """
    if path.is_file():
        header = open_dicom(path, stop_before_pixels=True)
        if int(getattr(header, "NumberOfFrames", 1) or 1) < 2:
            raise ValueError("it is one slice of a series: give the folder")
        return [path], [header]
    found: dict[str, list[tuple[Path, Any]]] = defaultdict(list)
    for file in files_of(path):
        if is_dicom(file):
            header = open_dicom(file, stop_before_pixels=True)
            if "Rows" in header:
                found[str(getattr(header, "SeriesInstanceUID", ""))].append((file, header))
    if not found:
        raise ValueError("the folder holds no DICOM image")
    if len(found) > 1:
        named = ", ".join(
            f"{getattr(some[0][1], 'SeriesDescription', '') or 'without a name'} ({len(some)} files, such as "
            f"{some[0][0].name})"
            for some in list(found.values())[:4]
        )
        raise ValueError(f"the folder holds {len(found)} series: {named}; give each a folder of its own")
    (some,) = found.values()
    return [file for file, _ in some], [header for _, header in some]


def frames_of(header: Any, file: int = 0) -> list[Frame]:
    """The slices of a file.

    Raises:
        ValueError: if it does not tell where they lie.
    """
    count = int(getattr(header, "NumberOfFrames", 1) or 1)
    per_frame = getattr(header, "PerFrameFunctionalGroupsSequence", None)
    if count > 1 and (per_frame is None or len(per_frame) < count):
        raise ValueError("its frames do not tell where they lie")
    shared = getattr(header, "SharedFunctionalGroupsSequence", None) or [None]
    frames = []
    for number in range(count):
        groups = [per_frame[number] if per_frame else None, shared[0], header]
        place = _of(groups, "PlanePositionSequence", "ImagePositionPatient")
        turned = _of(groups, "PlaneOrientationSequence", "ImageOrientationPatient")
        sides = _of(groups, "PixelMeasuresSequence", "PixelSpacing")
        if place is None or turned is None or sides is None:
            raise ValueError(
                "it does not tell ImagePositionPatient, ImageOrientationPatient and PixelSpacing"
            )
        slope = _of(groups, "PixelValueTransformationSequence", "RescaleSlope")
        intercept = _of(groups, "PixelValueTransformationSequence", "RescaleIntercept")
        thickness = _of(groups, "PixelMeasuresSequence", "SliceThickness")
        rows, columns = (float(x) for x in sides)
        frames.append(
            Frame(
                np.array([float(x) for x in place]),
                np.array([float(x) for x in turned]).reshape(2, 3).T,
                (rows, columns),
                float(thickness or 1.0),
                (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)),
                file,
                number,
            )
        )
    return frames


def _of(groups: Sequence[Any], sequence: str, name: str) -> Any:
    """A value of the frame, of all frames, or of the file itself."""
    for group in groups:
        if group is None:
            continue
        inner = getattr(group, sequence, None)
        for where in (inner[0] if inner else None, group):
            value = getattr(where, name, None)
            if value is not None and value != "":
                return value
    return None


def frames_in_order(headers: Sequence[Any]) -> tuple[list[Frame], Float64[np.ndarray, "3"]]:
    """All frames of the files of a series; see `in_order`."""
    return in_order([one for number, header in enumerate(headers) for one in frames_of(header, number)])


def in_order(frames: list[Frame]) -> tuple[list[Frame], Float64[np.ndarray, "3"]]:
    """The slices along their normal, and the step from one to the next.

    Raises:
        ValueError: if they are turned against each other, two lie in one place, or one is missing.
    """
    if not frames:
        raise ValueError("it holds no image")
    first = frames[0]
    for frame in frames:
        if np.abs(frame.directions - first.directions).max() > 1e-3 or frame.sides != first.sides:
            raise ValueError("its slices differ in orientation or pixel size")
    normal = np.cross(first.directions[:, 0], first.directions[:, 1])
    frames = sorted(frames, key=lambda frame: float(frame.place @ normal))
    if len(frames) == 1:
        return frames, normal * first.thickness
    steps = np.diff([frame.place @ normal for frame in frames])
    usual = float(np.median(steps))
    if float(steps.min()) < 1e-4:
        raise ValueError("two of its slices lie in one place (several phases or echoes in one series?)")
    if np.abs(steps - usual).max() > max(_UNEVEN * usual, 0.01):
        at = int(np.abs(steps - usual).argmax())
        raise ValueError(
            f"its slices are {usual:.3g} mm apart but {steps[at]:.3g} mm behind number {at + 1}: a slice is "
            "missing, or the distances are uneven"
        )
    return frames, (frames[-1].place - frames[0].place) / (len(frames) - 1)


def _pixels(path: Path) -> Shaped[np.ndarray, "n H W"]:
    array = np.asarray(open_dicom(path).pixel_array)
    return array if array.ndim == 3 else array[None]


def _scaled(
    pixels: Shaped[np.ndarray, "H W"], scale: tuple[float, float], whole: bool
) -> Shaped[np.ndarray, "H W"]:
    slope, intercept = scale
    if whole:
        return pixels.astype(np.int32) * int(slope) + int(intercept)
    return pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
