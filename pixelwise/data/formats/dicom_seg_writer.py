"""Labels into DICOM SEG files over their series (DICOM PS3.3, A.51 and C.8.20); needs pixelwise[medical].

The file belongs to the study and the frame of reference of its series, and each of its frames names the slice
that it was made from. There is a frame for each segment and slice that is not empty.
"""

import datetime
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from ...files import atomic_write
from .dicom import Frame, frames_in_order, series_of, told

_LONGEST = 64  # characters of a name (LO)
# What the study and the patient say; empty where the series does not.
_OF_STUDY = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber "
    "ReferringPhysicianName PositionReferenceIndicator"
).split()


def write_dicom_seg(
    path: Path, labels: Integer[np.ndarray, "D H W"], names: Sequence[str], series: Path
) -> Path:
    """Write labels as the segments 1, 2, ... over a series.

    Args:
        path: of the file.
        labels: on the grid of the series, in the order that `read_dicom` gives; 0, and what is above the
            number of names, is in no segment.
        names: of the labels 1, 2, ...
        series: folder of the slices, or a file with many frames.

    Raises:
        ValueError: if the series cannot be read, the labels are on another grid, there is no name, or the
            file cannot be written.
    """
    with told(series):
        headers = series_of(series)[1]
        frames, step = frames_in_order(headers)
        shape = (len(frames), int(headers[0].Rows), int(headers[0].Columns))
    if tuple(labels.shape) != shape:
        raise ValueError(f"{path} needs {shape} voxels as {series} has, got {tuple(labels.shape)}")
    if not names:
        raise ValueError(f"{path} needs a class besides the background")
    there = [
        (number, place)
        for number in range(1, len(names) + 1)
        for place in np.flatnonzero((labels == number).any((1, 2))).tolist()
    ] or [(1, 0)]  # a file has a frame
    file = _file(headers, names, float(np.linalg.norm(step)), frames[0])
    file.Rows, file.Columns, file.NumberOfFrames = shape[1], shape[2], len(there)
    file.PerFrameFunctionalGroupsSequence = [
        _frame(number, place, frames[place], headers[frames[place].file]) for number, place in there
    ]
    bits = np.concatenate([(labels[place] == number).ravel() for number, place in there])
    packed = np.packbits(bits, bitorder="little").tobytes()
    file.PixelData = packed + b"\0" * (len(packed) % 2)
    with atomic_write(path) as temporary:
        file.save_as(temporary, enforce_file_format=True)
    return path


def _file(headers: Sequence[Any], names: Sequence[str], step: float, first: Frame) -> Any:
    """All but frames and pixels."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage, generate_uid

    like = headers[0]
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = SegmentationStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = generate_uid()
    for name in _OF_STUDY:
        setattr(file, name, getattr(like, name, ""))
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        setattr(file, name, getattr(like, name, "") or generate_uid())
    now = datetime.datetime.now(datetime.UTC)
    file.SeriesInstanceUID, file.SeriesNumber, file.InstanceNumber = generate_uid(), 100, 1
    file.Modality, file.SeriesDescription = "SEG", "Segmentation by pixelwise"
    file.ContentDate, file.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    file.Manufacturer = file.ManufacturerModelName = "pixelwise"
    file.DeviceSerialNumber, file.SoftwareVersions = "1", version("pixelwise")
    file.ImageType, file.LossyImageCompression = ["DERIVED", "PRIMARY"], "00"
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 1, 1, 0, 0
    file.SegmentationType, file.SegmentsOverlap = "BINARY", "NO"
    file.ContentLabel, file.ContentDescription, file.ContentCreatorName = "SEGMENTATION", "Prediction", ""
    file.SegmentSequence = [_segment(number, name) for number, name in enumerate(names, 1)]
    organization = generate_uid()
    file.DimensionOrganizationSequence = [_with(DimensionOrganizationUID=organization)]
    file.DimensionIndexSequence = [
        _with(
            DimensionOrganizationUID=organization,
            DimensionIndexPointer=pydicom.datadict.tag_for_keyword(pointer),
            FunctionalGroupPointer=pydicom.datadict.tag_for_keyword(group),
        )
        for pointer, group in (
            ("ReferencedSegmentNumber", "SegmentIdentificationSequence"),
            ("ImagePositionPatient", "PlanePositionSequence"),
        )
    ]
    file.ReferencedSeriesSequence = [
        _with(
            SeriesInstanceUID=str(getattr(like, "SeriesInstanceUID", "")) or generate_uid(),
            ReferencedInstanceSequence=[_reference(header) for header in headers],
        )
    ]
    file.SharedFunctionalGroupsSequence = [
        _with(
            PlaneOrientationSequence=[_with(ImageOrientationPatient=_numbers(first.directions.T.ravel()))],
            PixelMeasuresSequence=[
                _with(
                    PixelSpacing=_numbers(first.sides),
                    SliceThickness=_number(step),
                    SpacingBetweenSlices=_number(step),
                )
            ],
        )
    ]
    return file


def _segment(number: int, name: str) -> Any:
    """A class; what it is anatomically, nobody has told."""
    return _with(
        SegmentNumber=number,
        SegmentLabel=name[:_LONGEST],
        SegmentAlgorithmType="AUTOMATIC",
        SegmentAlgorithmName="pixelwise",
        SegmentedPropertyCategoryCodeSequence=[_code("91723000", "SCT", "Anatomical Structure")],
        SegmentedPropertyTypeCodeSequence=[_code("85756007", "SCT", "Tissue")],
    )


def _frame(number: int, place: int, frame: Frame, header: Any) -> Any:
    """Where a frame lies, its segment, and the slice that it was made from."""
    source = _reference(header)
    if int(getattr(header, "NumberOfFrames", 1) or 1) > 1:
        source.ReferencedFrameNumber = frame.number + 1
    source.SpatialLocationsPreserved = "YES"  # without it readers do not go from a slice to its frames
    source.PurposeOfReferenceCodeSequence = [
        _code("121322", "DCM", "Source image for image processing operation")
    ]
    return _with(
        DerivationImageSequence=[
            _with(
                SourceImageSequence=[source],
                DerivationCodeSequence=[_code("113076", "DCM", "Segmentation")],
            )
        ],
        FrameContentSequence=[_with(DimensionIndexValues=[number, place + 1])],
        PlanePositionSequence=[_with(ImagePositionPatient=_numbers(frame.place))],
        SegmentIdentificationSequence=[_with(ReferencedSegmentNumber=number)],
    )


def _reference(header: Any) -> Any:
    return _with(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)


def _code(value: str, scheme: str, meaning: str) -> Any:
    return _with(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _with(**values: Any) -> Any:
    """A data set with these values."""
    import pydicom

    made = pydicom.Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def _numbers(values: Sequence[float] | np.ndarray) -> list[str]:
    return [_number(float(value)) for value in values]


def _number(value: float) -> str:
    """A number in the 16 characters that DICOM has for one (DS)."""
    from pydicom.valuerep import format_number_as_ds

    return str(format_number_as_ds(float(value)))
