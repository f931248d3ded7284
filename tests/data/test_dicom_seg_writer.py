"""Predictions as DICOM SEG: read back on the grid of their series, with references to its slices."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from pixelwise.data.formats.dicom import read_dicom
from pixelwise.data.formats.dicom_seg import labels_on, read_seg
from pixelwise.data.formats.dicom_seg_writer import write_dicom_seg
from pixelwise.tasks import get_task
from pixelwise.types import ClassTable, LabelMap
from tests.data.dicom_files import dicom_frames, series

NAMES = ("liver", "tumour " * 20, "nothing")
STUDY = {"StudyInstanceUID": "1.2.9", "FrameOfReferenceUID": "1.2.8", "PatientID": "p7", "PatientName": "A^B"}


def labels(shape: tuple[int, ...]) -> np.ndarray:
    found = np.random.default_rng(4).integers(0, 3, shape)
    found[0] = 0  # no frame for this slice
    return found


def test_labels_are_read_back_with_their_names(tmp_path: Path) -> None:
    series(tmp_path / "ct", **STUDY)
    volume = read_dicom(tmp_path / "ct")
    written = labels(volume.voxels.shape)
    path = write_dicom_seg(tmp_path / "out.dcm", written, NAMES, tmp_path / "ct")
    found = read_seg(path)
    assert found.names == {1: "liver", 2: ("tumour " * 20)[:64].rstrip(), 3: "nothing"}
    assert len(found.frames) == 2 * (len(written) - 1)
    np.testing.assert_array_equal(labels_on(found, volume.affine, volume.voxels.shape), written)


def test_each_frame_names_its_slice_and_the_file_its_study(tmp_path: Path) -> None:
    series(tmp_path / "ct", **STUDY, ImageOrientationPatient=[0.6, 0.8, 0, -0.8, 0.6, 0])
    slices = {str(file.SOPInstanceUID): file for file in map(pydicom.dcmread, (tmp_path / "ct").iterdir())}
    shape = read_dicom(tmp_path / "ct").voxels.shape
    file = pydicom.dcmread(write_dicom_seg(tmp_path / "out.dcm", labels(shape), NAMES, tmp_path / "ct"))
    assert (file.Modality, file.SOPClassUID.name) == ("SEG", "Segmentation Storage")
    assert {name: str(file[name].value) for name in STUDY} == STUDY
    (referenced,) = file.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == "1.2.3" != file.SeriesInstanceUID
    told = {str(one.ReferencedSOPInstanceUID) for one in referenced.ReferencedInstanceSequence}
    assert told == set(slices)
    shared = file.SharedFunctionalGroupsSequence[0]
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == [0.6, 0.8, 0, -0.8, 0.6, 0]
    assert shared.PixelMeasuresSequence[0].PixelSpacing == [0.5, 0.75]
    assert shared.PixelMeasuresSequence[0].SpacingBetweenSlices == 2.5
    pixels = file.pixel_array
    assert pixels.shape == (file.NumberOfFrames, *shape[1:])
    for frame, mask in zip(file.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        slice_ = slices[str(source.ReferencedSOPInstanceUID)]
        place = [float(x) for x in frame.PlanePositionSequence[0].ImagePositionPatient]
        assert place == [float(x) for x in slice_.ImagePositionPatient]
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        at = round((place[2] - 100) / 2.5)
        assert list(frame.FrameContentSequence[0].DimensionIndexValues) == [number, at + 1]
        np.testing.assert_array_equal(mask, labels(shape)[at] == number)


def test_a_file_of_many_frames_is_referenced_frame_by_frame(tmp_path: Path) -> None:
    image = dicom_frames(tmp_path / "ct.dcm")
    shape = read_dicom(image).voxels.shape
    file = pydicom.dcmread(write_dicom_seg(tmp_path / "out.dcm", labels(shape), ("a", "b"), image))
    numbers = [
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for frame in file.PerFrameFunctionalGroupsSequence
    ]
    assert numbers == [2, 3, 2, 3]


def test_labels_without_a_structure_make_a_file_with_an_empty_frame(tmp_path: Path) -> None:
    series(tmp_path / "ct")
    volume = read_dicom(tmp_path / "ct")
    nothing = np.zeros(volume.voxels.shape, np.int64)
    found = read_seg(write_dicom_seg(tmp_path / "out.dcm", nothing, ("a",), tmp_path / "ct"))
    assert not found.masks.any()
    np.testing.assert_array_equal(labels_on(found, volume.affine, volume.voxels.shape), nothing)


def test_labels_of_another_grid_and_images_of_other_formats_are_refused(tmp_path: Path) -> None:
    series(tmp_path / "ct")
    with pytest.raises(ValueError, match=r"out\.dcm needs \(5, 6, 7\) voxels as .*ct has, got \(5, 7, 6\)"):
        write_dicom_seg(tmp_path / "out.dcm", np.zeros((5, 7, 6), int), ("a",), tmp_path / "ct")
    with pytest.raises(ValueError, match="a class besides the background"):
        write_dicom_seg(tmp_path / "out.dcm", np.zeros((5, 6, 7), int), (), tmp_path / "ct")
    import torch

    write = get_task("volume").writers[".dcm"].write
    found = LabelMap(torch.zeros(5, 6, 7, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"takes its place from a DICOM series, and a\.nii\.gz is none"):
        write(tmp_path / "out.dcm", found, ClassTable.of("a", "b"), "a.nii.gz")
    assert not list(tmp_path.glob("*.dcm"))


def test_a_viewer_finds_what_the_standard_wants(tmp_path: Path) -> None:
    """Attributes of type 1 of the modules of a segmentation."""
    series(tmp_path / "ct")
    shape = read_dicom(tmp_path / "ct").voxels.shape
    file = pydicom.dcmread(write_dicom_seg(tmp_path / "out.dcm", labels(shape), NAMES, tmp_path / "ct"))
    wanted = (
        "StudyInstanceUID SeriesInstanceUID SeriesNumber FrameOfReferenceUID Manufacturer "
        "ManufacturerModelName DeviceSerialNumber SoftwareVersions ContentDate ContentTime InstanceNumber "
        "ImageType ContentLabel SegmentationType LossyImageCompression DimensionOrganizationSequence "
        "DimensionIndexSequence SegmentsOverlap"
    ).split()
    assert [name for name in wanted if not file.get(name)] == []
    assert (file.BitsAllocated, file.BitsStored, file.HighBit) == (1, 1, 0)
    for segment in file.SegmentSequence:
        assert isinstance(segment, Dataset)
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning
