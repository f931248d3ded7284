"""Labels in DICOM SEG files (DICOM PS3.3, A.51): frames of one segment each; needs pixelwise[medical].

Those of the type LABELMAP hold the number of a segment in every pixel. Frames of empty slices are left out
of such a file, so it is read onto the grid of its image. Where segments overlap, that with the higher number
counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer

from .dicom import Frame, files_of, frames_of, is_dicom, open_dicom, told
from .volume import TO_RAS, check_size

_APART = 0.05  # voxels that a frame may lie beside a slice


@dataclass(frozen=True)
class Segments:
    """What a file holds.

    Attributes:
        names: of the segments, by number.
        frames: where each frame lies.
        numbers: the segment of each frame.
        masks: of each frame.
    """

    names: dict[int, str]
    frames: Sequence[Frame]
    numbers: Sequence[int]
    masks: Bool[np.ndarray, "n H W"]


def seg_file(path: Path) -> Path | None:
    """The SEG file that a path names, itself or as the only DICOM file of a folder; None where it is none."""
    files = [one for one in files_of(path) if is_dicom(one)] if path.is_dir() else [path]
    if len(files) != 1 or not is_dicom(files[0]):
        return None
    try:
        header = open_dicom(files[0], stop_before_pixels=True, specific_tags=["Modality"])
    except Exception:  # whoever reads it says what is wrong
        return None
    return files[0] if str(getattr(header, "Modality", "")) == "SEG" else None


def read_seg(path: Path) -> Segments:
    """Read a file.

    Raises:
        ValueError: if it is missing, damaged or of another kind, or the extra is missing.
    """
    with told(path):
        file = open_dicom(path)
        names = segment_names(file)
        frames = frames_of(file)
        shape = (len(frames), int(file.Rows), int(file.Columns))
        size = path.stat().st_size
        check_size(8 * size, shape, 1, compressed=True)  # eight pixels in a byte
        masks = np.asarray(file.pixel_array).reshape(shape)
        kind = str(getattr(file, "SegmentationType", "BINARY"))
        if kind == "LABELMAP":
            return _of_maps(names, frames, masks)
        if kind == "FRACTIONAL":
            masks = masks >= float(getattr(file, "MaximumFractionalValue", 255)) / 2
        numbers = [_number(file, number) for number in range(len(frames))]
        return Segments(names, frames, numbers, masks > 0)


def segment_names(header: Any) -> dict[int, str]:
    """The names of the segments, by number.

    Raises:
        ValueError: if there is none, or a number is not above 0; 0 is the background of label maps.
    """
    names = {int(one.SegmentNumber): str(one.SegmentLabel) for one in getattr(header, "SegmentSequence", [])}
    if str(getattr(header, "SegmentationType", "BINARY")) == "LABELMAP":
        names.pop(0, None)
    if not names or min(names) < 1 or max(names) > 254:
        raise ValueError("it has no segments with numbers from 1 to 254")
    return names


def names_in(path: Path) -> dict[int, str]:
    """The names of the segments alone.

    Raises:
        ValueError: as `read_seg`.
    """
    with told(path):
        return segment_names(open_dicom(path, stop_before_pixels=True))


def labels_on(
    segments: Segments, affine: Float64[np.ndarray, "4 4"], shape: Sequence[int]
) -> Int64[np.ndarray, "D H W"]:
    """The segments as labels on the grid of their image.

    Args:
        segments: of a file.
        affine: of the image, see `Volume`.
        shape: depth, height and width of the image.

    Raises:
        ValueError: if a frame does not lie on a slice of the image.
    """
    labels = np.zeros(tuple(shape), np.int64)
    inverse = np.linalg.inv(affine)
    order = np.argsort(segments.numbers, kind="stable")
    for index in order:
        frame, mask = segments.frames[index], segments.masks[index]
        steps = frame.directions * np.array(frame.sides[::-1])  # of a column and of a row, in mm
        corner = inverse @ TO_RAS @ np.append(frame.place, 1.0)
        turned = inverse[:3, :3] @ TO_RAS[:3, :3] @ steps
        slice_ = round(float(corner[2])) if np.isfinite(corner[2]) else -1
        beside = max(np.abs(corner[:2]).max(), abs(corner[2] - slice_), np.abs(turned - np.eye(3, 2)).max())
        if mask.shape != labels.shape[1:] or not 0 <= slice_ < len(labels) or not beside < _APART:
            raise ValueError("its frames do not lie on the slices of its image")
        labels[slice_][mask] = segments.numbers[index]
    return labels


def _of_maps(names: dict[int, str], frames: Sequence[Frame], maps: Integer[np.ndarray, "n H W"]) -> Segments:
    """Segments from frames whose pixels hold their numbers.

    Raises:
        ValueError: if a number is that of no segment.
    """
    there = [(place, int(n)) for place, pixels in enumerate(maps) for n in np.unique(pixels) if n]
    if unknown := {number for _, number in there} - set(names):
        raise ValueError(f"a pixel holds {min(unknown)}, which is no segment")
    masks = [maps[place] == number for place, number in there]
    return Segments(
        names,
        [frames[place] for place, _ in there],
        [number for _, number in there],
        np.stack(masks) if masks else np.zeros((0, *maps.shape[1:]), bool),
    )


def _number(file: Any, frame: int) -> int:
    """The segment of a frame."""
    groups = (
        file.PerFrameFunctionalGroupsSequence[frame] if "PerFrameFunctionalGroupsSequence" in file else None
    )
    shared = file.get("SharedFunctionalGroupsSequence")
    for group in (groups, shared[0] if shared else None):
        found = getattr(group, "SegmentIdentificationSequence", None)
        if found:
            return int(found[0].ReferencedSegmentNumber)
    raise ValueError("a frame does not tell its segment")
