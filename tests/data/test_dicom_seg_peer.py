"""DICOM SEG files beside highdicom, an independent implementation: each reads what the other wrote."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from pixelwise.data.formats.dicom import read_dicom
from pixelwise.data.formats.dicom_seg import labels_on, names_in, read_seg
from pixelwise.data.formats.dicom_seg_writer import write_dicom_seg
from tests.data.dicom_files import dicom_frames, series

highdicom = pytest.importorskip("highdicom", reason="the peer is not installed: pip install highdicom")

NAMES = ("liver", "tumour", "nothing")
TURNED = [0.6, 0.8, 0, -0.8, 0.6, 0]


def labels(shape: tuple[int, ...]) -> np.ndarray:
    found = np.random.default_rng(4).integers(0, 3, shape)
    found[0] = 0  # no frame for this slice
    return found


def slices_of(folder: Path) -> list[pydicom.Dataset]:
    """In the order of their places."""
    return sorted(map(pydicom.dcmread, folder.iterdir()), key=lambda one: float(one.ImagePositionPatient[2]))


@pytest.mark.parametrize("turn", [[1, 0, 0, 0, 1, 0], TURNED])
def test_the_peer_finds_the_labels_of_each_slice_and_their_place(tmp_path: Path, turn: list[float]) -> None:
    series(tmp_path / "ct", ImageOrientationPatient=turn, StudyInstanceUID="1.2.9")
    volume = read_dicom(tmp_path / "ct")
    written = labels(volume.voxels.shape)
    found = highdicom.seg.segread(write_dicom_seg(tmp_path / "out.dcm", written, NAMES, tmp_path / "ct"))
    assert [found.get_segment_description(n).segment_label for n in found.segment_numbers] == list(NAMES)
    slices = slices_of(tmp_path / "ct")
    uids = [str(one.SOPInstanceUID) for one in slices]
    assert {uid for _, _, uid in found.get_source_image_uids()} == set(uids)
    pixels = found.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(pixels, written)
    whole = found.get_volume(combine_segments=True)  # of the slices that are not empty, the last one first
    np.testing.assert_array_equal(whole.array[::-1], written[1:])
    for place, one in enumerate(reversed(slices[1:])):
        corner = (whole.affine @ [place, 0, 0, 1])[:3]
        np.testing.assert_allclose(corner, np.array(one.ImagePositionPatient, float), atol=1e-6)
    assert whole.spacing == pytest.approx((2.5, 0.5, 0.75))


def test_the_peer_finds_the_labels_of_each_frame_of_one_file(tmp_path: Path) -> None:
    image = dicom_frames(tmp_path / "ct.dcm")
    written = labels(read_dicom(image).voxels.shape)
    found = highdicom.seg.segread(write_dicom_seg(tmp_path / "out.dcm", written, ("a", "b"), image))
    uid = str(pydicom.dcmread(image).SOPInstanceUID)
    pixels = found.get_pixels_by_source_frame(
        uid, [1, 2, 3], combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(pixels, written)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_what_the_peer_wrote_is_read(tmp_path: Path, kind: str) -> None:
    from pydicom.sr.codedict import codes

    series(tmp_path / "ct", ImageOrientationPatient=TURNED, StudyInstanceUID="1.2.9")
    volume = read_dicom(tmp_path / "ct")
    written = labels(volume.voxels.shape).astype(np.uint8)
    slices = slices_of(tmp_path / "ct")
    for one in slices:  # that the peer copies from
        for name in "PatientID PatientName PatientBirthDate PatientSex AccessionNumber StudyID".split():
            setattr(one, name, "")
        one.StudyDate = one.StudyTime = one.ReferringPhysicianName = one.PositionReferenceIndicator = ""
        one.FrameOfReferenceUID = "1.2.8"
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type="MANUAL",
        )
        for number, name in enumerate(NAMES[:2], 1)
    ]
    shares = np.stack([(written == 1) * 0.75, (written == 2) * 0.9], -1).astype(np.float32)
    highdicom.seg.Segmentation(
        source_images=slices,
        pixel_array=shares if kind == "FRACTIONAL" else written,
        segmentation_type=kind,
        segment_descriptions=segments,
        series_instance_uid=highdicom.UID(),
        series_number=2,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="n",
        software_versions="1",
        device_serial_number="2",
    ).save_as(tmp_path / "seg.dcm")
    found = read_seg(tmp_path / "seg.dcm")
    assert found.names == names_in(tmp_path / "seg.dcm") == {1: "liver", 2: "tumour"}
    np.testing.assert_array_equal(labels_on(found, volume.affine, volume.voxels.shape), written)
