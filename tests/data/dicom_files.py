"""Slices of a CT series as a scanner writes them, for tests."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset


def dicom_slice(path: Path, number: int, voxels: np.ndarray, **changes: Any) -> Path:
    """A slice of a CT series, 2.5 mm thick, on a grid of 0.5 mm (rows) x 0.75 mm (columns)."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{number + 1}"
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.SeriesInstanceUID, file.SeriesDescription, file.Modality = "1.2.3", "thorax", "CT"
    file.Rows, file.Columns = voxels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 1
    file.PixelSpacing, file.SliceThickness = [0.5, 0.75], 2.5
    file.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    file.ImagePositionPatient = [-10.5, 20.25, 100 + 2.5 * number]
    file.RescaleSlope, file.RescaleIntercept = 1, -1024
    file.PixelData = voxels.astype("<i2").tobytes()
    for name, value in changes.items():
        setattr(file, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


def series(folder: Path, count: int = 5, **changes: Any) -> np.ndarray:
    """The slices of a series, in files whose names and numbers run against their places."""
    voxels = np.random.default_rng(0).integers(0, 2000, (count, 6, 7))
    for number in range(count):
        dicom_slice(folder / f"IM{(number * 3) % count}.dcm", number, voxels[number], **changes)
    return voxels


def dicom_frames(path: Path, count: int = 3) -> Path:
    """A file of several frames (an enhanced CT image), 4 x 5 pixels each, 2 mm apart."""
    voxels = np.arange(count * 20).reshape(count * 4, 5)
    frames = []
    for number in range(count):
        place, frame = Dataset(), Dataset()
        place.ImagePositionPatient = [1.0, 2.0, 2.0 * number]
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    turned, measures, shared = Dataset(), Dataset(), Dataset()
    turned.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.75], 2.0
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [turned], [measures]
    return dicom_slice(
        path,
        0,
        voxels,
        Rows=4,
        NumberOfFrames=count,
        PerFrameFunctionalGroupsSequence=frames,
        SharedFunctionalGroupsSequence=[shared],
    )


def dicom_seg(path: Path, labels: np.ndarray, names: tuple[str, ...], **changes: Any) -> Path:
    """A SEG file for `series`: a frame for each segment and slice that is not empty."""
    frames, masks = [], []
    for number in range(len(names), 0, -1):  # the order of frames is free
        for at in np.nonzero((labels == number).any((1, 2)))[0]:
            place, segment, frame = Dataset(), Dataset(), Dataset()
            place.ImagePositionPatient = [-10.5, 20.25, 100 + 2.5 * int(at)]
            segment.ReferencedSegmentNumber = number
            frame.PlanePositionSequence, frame.SegmentIdentificationSequence = [place], [segment]
            frames.append(frame)
            masks.append(labels[at] == number)
    turned, measures, shared = Dataset(), Dataset(), Dataset()
    turned.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.75], 2.5
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [turned], [measures]
    segments = []
    for number, name in enumerate(names, 1):
        described = Dataset()
        described.SegmentNumber, described.SegmentLabel = number, name
        segments.append(described)
    bits = np.packbits(np.stack(masks).ravel(), bitorder="little").tobytes()
    options = {
        "Modality": "SEG",
        "SegmentationType": "BINARY",
        "SegmentSequence": segments,
        "NumberOfFrames": len(frames),
        "PerFrameFunctionalGroupsSequence": frames,
        "SharedFunctionalGroupsSequence": [shared],
        "BitsAllocated": 1,
        "BitsStored": 1,
        "HighBit": 0,
        "PixelRepresentation": 0,
        "PixelData": bits + b"\0" * (len(bits) % 2),
    }
    return dicom_slice(path, 0, labels[0], **options | changes)
