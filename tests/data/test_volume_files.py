"""Volumes of every format: values and place come back, peers agree, damaged files are named."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
import tifffile

from pixelwise.data.formats.volume import Volume, spacing_of
from pixelwise.data.formats.volume_files import (
    WRITTEN,
    is_volume,
    place_of,
    prediction_suffix,
    read_volume,
    write_volume,
)

from .dicom_files import dicom_frames, dicom_slice, series

# Turned and sheared; no number of it is round.
TURNED = np.array([[-0.9, 0.1, 0.02, 12], [0.05, 1.1, 0.2, -30], [0, -0.3, 2.5, 7.25], [0, 0, 0, 1]])


def volume(affine: np.ndarray = TURNED, shape: tuple[int, ...] = (4, 5, 6)) -> Volume:
    voxels = np.random.default_rng(0).integers(-1000, 3000, shape).astype(np.int16)
    return Volume(voxels, spacing_of(affine), affine, None)


# --- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.bool_])
def test_labels_come_back_at_their_place(tmp_path: Path, suffix: str, dtype: type) -> None:
    like = volume(np.diag([0.5, 0.75, 2.5, 1.0]) if suffix.startswith(".tif") else TURNED)
    labels = (np.arange(120).reshape(4, 5, 6) % 2).astype(dtype)
    path = write_volume(tmp_path / f"a{suffix}", labels, like)
    found = read_volume(path)
    np.testing.assert_array_equal(found.voxels, labels)
    np.testing.assert_allclose(found.affine, like.affine, atol=2e-6)
    np.testing.assert_allclose(found.spacing, like.spacing, rtol=1e-6)
    np.testing.assert_array_equal(place_of(path)[0], found.affine)
    assert is_volume(path)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("first, second", [*itertools.permutations([".nii.gz", ".nrrd", ".mha"], 2)])
def test_the_place_goes_from_one_format_to_another(tmp_path: Path, first: str, second: str) -> None:
    here = read_volume(write_volume(tmp_path / f"a{first}", volume().voxels, volume()))
    there = read_volume(write_volume(tmp_path / f"b{second}", here.voxels, here))
    np.testing.assert_array_equal(here.voxels, there.voxels)
    np.testing.assert_allclose(there.affine, TURNED, atol=4e-6)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii"])
def test_a_prediction_in_the_format_of_its_image_has_exactly_its_affine(tmp_path: Path, suffix: str) -> None:
    image = read_volume(write_volume(tmp_path / f"a{suffix}", volume().voxels, volume()))
    labels = np.ones((4, 5, 6), np.int64)
    found = read_volume(write_volume(tmp_path / f"b{suffix}", labels, image))
    np.testing.assert_array_equal(found.affine, image.affine)


def test_another_grid_or_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a.nrrd needs \(4, 5, 6\) voxels, got \(4, 5, 5\)"):
        write_volume(tmp_path / "a.nrrd", np.zeros((4, 5, 5)), volume())
    with pytest.raises(ValueError, match=r"cannot write .*a.nhdr: expected one of .nii.gz, .nii, .nrrd"):
        write_volume(tmp_path / "a.nhdr", np.zeros((4, 5, 6)), volume())
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match="is no volume: expected"):
        read_volume(tmp_path / "a.png")


@pytest.mark.parametrize(
    "name, suffix",
    [("a.nii", ".nii"), ("a.mhd", ".mha"), ("a.nhdr", ".nrrd"), ("a.tif", ".tif"), ("a", ".nii.gz")],
)
def test_a_prediction_has_the_format_of_its_image(name: str, suffix: str) -> None:
    assert prediction_suffix(Path(name)) == suffix


# --- peers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f4", "|u1"])
def test_files_of_pynrrd_are_read(tmp_path: Path, encoding: str, dtype: str) -> None:
    voxels = np.random.default_rng(0).integers(0, 100, (6, 5, 4)).astype(dtype)
    header = {
        "space": "left-posterior-superior",
        "space directions": (np.diag([-1.0, -1, 1]) @ TURNED[:3, :3]).T,
        "space origin": np.diag([-1.0, -1, 1]) @ TURNED[:3, 3],
        "encoding": encoding,
    }
    nrrd.write(str(tmp_path / "a.nrrd"), voxels, header)
    found = read_volume(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(found.voxels, voxels.T)
    np.testing.assert_allclose(found.affine, TURNED, atol=1e-12)


def test_our_files_are_read_by_pynrrd(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nrrd", volume().voxels, volume())
    voxels, header = nrrd.read(str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(voxels.T, volume().voxels)
    np.testing.assert_allclose(header["space origin"], [-12, 30, 7.25])
    np.testing.assert_allclose(header["space directions"][1], [-0.1, -1.1, -0.3])


def test_detached_data_and_channels_of_nrrd_are_read(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).random((3, 6, 5, 4)).astype(np.float32)
    directions = np.array([[np.nan] * 3, [2.0, 0, 0], [0, 3, 0], [0, 0, 4]])
    nrrd.write(str(tmp_path / "a.nhdr"), voxels, {"space": "RAS", "space directions": directions})
    assert (tmp_path / "a.raw.gz").exists()
    found = read_volume(tmp_path / "a.nhdr")
    np.testing.assert_array_equal(found.voxels, voxels.transpose(0, 3, 2, 1))
    assert found.spacing == (4, 3, 2)
    text = (tmp_path / "a.nhdr").read_text()
    for name in ("../a.raw.gz", "/etc/passwd", "C:\\a.raw"):
        (tmp_path / "b.nhdr").write_text(text.replace("a.raw.gz", name))
        with pytest.raises(ValueError, match=r"b.nhdr as a NRRD file: its data file .* does not lie beside"):
            read_volume(tmp_path / "b.nhdr")
    (tmp_path / "a.raw.gz").unlink()
    with pytest.raises(ValueError, match=r"its data file 'a.raw.gz' is missing"):
        read_volume(tmp_path / "a.nhdr")


def test_spacings_without_directions_are_read(tmp_path: Path) -> None:
    lines = "NRRD0001", "type: uchar", "dimension: 3", "sizes: 2 1 1", "spacings: 0.5 2 nan", "encoding: raw"
    (tmp_path / "a.nrrd").write_bytes("\n".join([*lines, "", ""]).encode() + b"\x01\x02")
    found = read_volume(tmp_path / "a.nrrd")
    assert found.voxels.tolist() == [[[1, 2]]]
    assert found.spacing == (1, 2, 0.5)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_metaimage_as_itk_writes_it_is_read(tmp_path: Path, order: str) -> None:
    # What SimpleITK writes for an image of PROMISE12, its numbers changed.
    voxels = np.arange(24, dtype=f"{order}i2").reshape(4, 3, 2)
    head = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\n"
        f"BinaryDataByteOrderMSB = {order == '>'}\nCompressedData = False\n"
        "TransformMatrix = 0 1 0 0 0 -1 -1 0 0\nOffset = 1 2 3\nCenterOfRotation = 0 0 0\n"
        "AnatomicalOrientation = PIR\nElementSpacing = 0.5 0.75 3\nDimSize = 2 3 4\n"
        "ElementType = MET_SHORT\nElementDataFile = "
    )
    (tmp_path / "Case00.raw").write_bytes(voxels.tobytes())
    (tmp_path / "Case00.mhd").write_text(head + "Case00.raw\n")
    (tmp_path / "Case01.mha").write_bytes((head + "LOCAL\n").encode() + voxels.tobytes())
    for name in ("Case00.mhd", "Case01.mha"):
        found = read_volume(tmp_path / name)
        np.testing.assert_array_equal(found.voxels, voxels)
        assert found.spacing == (3, 0.75, 0.5)
        # One voxel along W goes 0.5 mm along y of LPS, to the back.
        np.testing.assert_allclose(found.affine @ [0, 0, 0, 1], [-1, -2, 3, 1])
        np.testing.assert_allclose(found.affine @ [1, 0, 0, 1], [-1, -2.5, 3, 1])
        np.testing.assert_allclose(found.affine @ [0, 0, 1, 1], [2, -2, 3, 1])
        found = read_volume(write_volume(tmp_path / "out.mha", voxels, found))
        assert "AnatomicalOrientation = PIR" in (tmp_path / "out.mha").read_bytes()[:600].decode("latin-1")


def test_channels_of_a_metaimage_come_first(tmp_path: Path) -> None:
    voxels = np.arange(24, dtype=np.uint8).reshape(1, 4, 3, 2)
    head = "NDims = 3\nDimSize = 3 4 1\nElementNumberOfChannels = 2\nElementType = MET_UCHAR_ARRAY\n"
    (tmp_path / "a.mha").write_bytes((head + "ElementDataFile = LOCAL\n").encode() + voxels.tobytes())
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mha").voxels, np.moveaxis(voxels, -1, 0))


def test_the_spacing_of_tiff_stacks_is_read(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 999, (3, 4, 5)).astype(np.uint16)
    fiji = {"axes": "ZYX", "spacing": 0.5, "unit": "micron"}
    tifffile.imwrite(tmp_path / "fiji.tif", voxels, imagej=True, resolution=(4, 5), metadata=fiji)
    sizes = {"axes": "ZYX", "PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.2}
    about = {**sizes, "PhysicalSizeZ": 0.5, "PhysicalSizeZUnit": "µm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", voxels, ome=True, metadata=about)
    for name in ("fiji.tif", "a.ome.tif"):
        found = read_volume(tmp_path / name)
        np.testing.assert_array_equal(found.voxels, voxels)
        np.testing.assert_allclose(found.spacing, (0.5e-3, 0.2e-3, 0.25e-3), rtol=1e-6)
        np.testing.assert_array_equal(found.affine, np.diag([*found.spacing[::-1], 1]))
        again = read_volume(write_volume(tmp_path / "out.tif", voxels, found))
        np.testing.assert_allclose(again.spacing, found.spacing, rtol=1e-6)
    tifffile.imwrite(tmp_path / "plain.tif", voxels, photometric="minisblack")
    plain = read_volume(tmp_path / "plain.tif")
    assert (plain.spacing, plain.placed) == ((1, 1, 1), False)


def test_channels_of_a_tiff_stack_come_first(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 999, (3, 2, 4, 5)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", voxels, imagej=True, metadata={"axes": "ZCYX"})
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").voxels, voxels.transpose(1, 0, 2, 3))
    tifffile.imwrite(tmp_path / "b.tif", voxels, imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(ValueError, match=r"b.tif has the axes TZYX of 3 x 2 x 4 x 5, expected slices"):
        read_volume(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "c.tif", voxels[0, 0])
    with pytest.raises(ValueError, match=r"c.tif has the axes YX of 4 x 5, expected slices"):
        read_volume(tmp_path / "c.tif")


# --- DICOM ----------------------------------------------------------------------------------------


def test_a_series_is_put_in_order_by_its_places(tmp_path: Path) -> None:
    voxels = series(tmp_path)
    (tmp_path / "notes.txt").write_text("a file of someone")
    (tmp_path / ".hidden").write_text("x")
    found = read_volume(tmp_path)
    assert is_volume(tmp_path)
    np.testing.assert_array_equal(found.voxels, voxels - 1024)
    assert found.spacing == (2.5, 0.5, 0.75)
    # The first voxel lies at (-10.5, 20.25, 100) in LPS; rows run to the left, columns to the back.
    np.testing.assert_allclose(found.affine @ [0, 0, 0, 1], [10.5, -20.25, 100, 1])
    np.testing.assert_allclose(found.affine @ [2, 1, 3, 1], [10.5 - 1.5, -20.25 - 0.5, 107.5, 1])
    np.testing.assert_array_equal(place_of(tmp_path)[0], found.affine)


def test_a_prediction_of_a_series_is_nifti_in_its_place(tmp_path: Path) -> None:
    series(tmp_path / "ct")
    image = read_volume(tmp_path / "ct")
    path = write_volume(tmp_path / "ct.nii.gz", (image.voxels > 0).astype(np.int64), image)
    found = nibabel.load(path)
    np.testing.assert_allclose(found.affine, image.affine, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(found.dataobj).T, image.voxels > 0)


def test_a_series_turned_and_without_suffixes_is_read(tmp_path: Path) -> None:
    turned = [0, 1, 0, 0, 0, -1]  # sagittal: rows run to the back, columns down
    for number in range(3):
        pixels = np.full((4, 5), number)
        place = [30 - 4.0 * number, 1, 2]
        options = {"ImageOrientationPatient": turned, "ImagePositionPatient": place}
        dicom_slice(tmp_path / f"{number}", number, pixels, **options)
    found = read_volume(tmp_path)
    # The normal of rows and columns is -x of LPS: the order is that of the numbers.
    assert found.voxels[:, 0, 0].tolist() == [-1024, -1023, -1022]
    np.testing.assert_allclose(found.affine @ [0, 0, 1, 1], [-26, -1, 2, 1])
    np.testing.assert_allclose(found.affine @ [1, 0, 0, 1], [-30, -1.75, 2, 1])


def test_a_slope_that_is_no_whole_number_gives_numbers_with_fractions(tmp_path: Path) -> None:
    voxels = series(tmp_path, RescaleSlope="0.5", RescaleIntercept="0.25")
    found = read_volume(tmp_path)
    assert found.voxels.dtype == np.float32
    np.testing.assert_array_equal(found.voxels, voxels * 0.5 + 0.25)


def test_several_series_in_one_folder_are_named(tmp_path: Path) -> None:
    series(tmp_path)
    dicom_slice(
        tmp_path / "other.dcm", 0, np.zeros((6, 7)), SeriesInstanceUID="1.9", SeriesDescription="scout"
    )
    with pytest.raises(ValueError, match=r"holds 2 series: thorax \(5 files.*scout \(1 files, such as other"):
        read_volume(tmp_path)


def test_a_missing_slice_is_told(tmp_path: Path) -> None:
    series(tmp_path)
    (tmp_path / "IM1.dcm").unlink()  # number 2
    with pytest.raises(
        ValueError, match=r"slices are 2.5 mm apart but 5 mm behind number 2: a slice is miss"
    ):
        read_volume(tmp_path)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"ImagePositionPatient": [-10.5, 20.25, 100]}, "two of its slices lie in one place"),
        ({"PixelSpacing": [1, 1]}, "differ in orientation or pixel size"),
        ({"ImagePositionPatient": None}, "does not tell ImagePositionPatient"),
        ({"Rows": 3}, "has 3 x 7 pixels"),
        ({"PixelData": b"\0" * 10}, "cannot read .* as DICOM"),
    ],
)
def test_a_series_that_is_no_volume_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    series(tmp_path)
    dicom_slice(tmp_path / "IM4.dcm", 3, np.zeros((6, 7)), **changes)
    with pytest.raises(ValueError, match=said) as refused:
        read_volume(tmp_path)
    assert str(tmp_path) in str(refused.value)


def test_a_file_of_many_frames_is_a_volume(tmp_path: Path) -> None:
    path = dicom_frames(tmp_path / "a.dcm")
    found = read_volume(path)
    np.testing.assert_array_equal(found.voxels, np.arange(60).reshape(3, 4, 5) - 1024)
    assert found.spacing == (2.0, 0.5, 0.75)
    np.testing.assert_allclose(found.affine @ [0, 0, 1, 1], [-1, -2, 2, 1])


def test_one_slice_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    path = dicom_slice(tmp_path / "a" / "a.dcm", 0, np.zeros((6, 7)))
    with pytest.raises(ValueError, match=r"a.dcm as DICOM: it is one slice of a series: give the folder"):
        read_volume(path)
    assert read_volume(path.parent).spacing == (2.5, 0.5, 0.75)  # the thickness of the slice
    (tmp_path / "b").mkdir()
    assert not is_volume(tmp_path / "b")
    with pytest.raises(ValueError, match="holds no DICOM image"):
        read_volume(tmp_path / "b")


# --- hostile files --------------------------------------------------------------------------------


def good(folder: Path, suffix: str) -> bytes:
    return write_volume(folder / f"good{suffix}", volume().voxels, volume()).read_bytes()


@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize("kept", [0, 1, 40, 200, -30])
def test_a_file_that_was_cut_is_named(tmp_path: Path, suffix: str, kept: int) -> None:
    content = good(tmp_path, suffix)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(content[:kept])
    with pytest.raises(ValueError, match=f"cut{suffix}"):
        read_volume(path)


@pytest.mark.parametrize(
    "suffix, before, after, said",
    [
        (".nrrd", b"sizes: 6 5 4", b"sizes: 99999 99999 99999", "more than its"),
        (".nrrd", b"sizes: 6 5 4", b"sizes: 6 5 0", "6 x 5 x 0|0 x 5 x 6"),
        (".nrrd", b"sizes: 6 5 4", b"sizes: 6 5", "2 sizes and the dimension 3"),
        (".nrrd", b"type: int16_t", b"type: block", "type 'block'"),
        (".nrrd", b"type: int16_t", b"kind: int16", "does not tell type"),
        (".nrrd", b"encoding: gzip", b"encoding: zstd", "encoding 'zstd' is not read"),
        (".nrrd", b"gzip\n\n", b"gzip\n\nxx", "damaged"),
        (".nrrd", b"space origin: (", b"space origin: (nan,", "vectors must have 3 numbers"),
        (".mha", b"DimSize = 6 5 4", b"DimSize = 99999 99999 99999", "more than its"),
        (".mha", b"DimSize = 6 5 4", b"DimSize = 6 5 -4", "4 x 5 x 6"),
        (".mha", b"MET_SHORT", b"MET_OTHER", "type 'MET_OTHER'"),
        (".mha", b"LOCAL", b"../../etc/passwd", "does not lie beside it"),
        (".mha", b"LOCAL", b"none.raw", "'none.raw' is missing"),
        (".mha", b"ElementSpacing = ", b"ElementSpacing = inf ", "expected 3 numbers"),
    ],
)
def test_a_header_that_lies_is_named(
    tmp_path: Path, suffix: str, before: bytes, after: bytes, said: str
) -> None:
    content = good(tmp_path, suffix)
    assert before in content
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content.replace(before, after))
    with pytest.raises(ValueError, match=said) as refused:
        read_volume(path)
    assert f"bad{suffix}" in str(refused.value)


def test_a_nifti_file_that_promises_terabytes_is_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    for suffix in (".nii", ".nii.gz"):
        image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4))
        image.header.set_data_shape((30000, 30000, 30000))
        path = tmp_path / f"a{suffix}"
        with nibabel.openers.Opener(path, "wb") as file:
            file.write(bytes(image.header.binaryblock) + b"\0" * 100)
        with pytest.raises(ValueError, match=r"30000 x 30000 x 30000 values .* more than its"):
            read_volume(path)


# --- real files -----------------------------------------------------------------------------------


def test_the_volumes_of_radiomics_are_read_as_pynrrd_reads_them(shared_data: Callable[..., Path]) -> None:
    for path in sorted(shared_data("data", "radiomics_volumes").glob("*.nrrd")):
        voxels, header = nrrd.read(str(path))
        found = read_volume(path)
        np.testing.assert_array_equal(found.voxels, voxels.T)
        np.testing.assert_allclose(found.affine[:2, 3], -header["space origin"][:2])
        np.testing.assert_allclose(found.spacing[::-1], np.linalg.norm(header["space directions"], axis=1))
