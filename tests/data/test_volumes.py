"""Folders of volumes, intensities, and the random changes of training."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from torch import Tensor

from pixelwise import tasks
from pixelwise.data import Augmented
from pixelwise.data.datasets.volumes import ReadVolume, channel_files, find_volumes, matches, open_volumes
from pixelwise.data.formats.volume import Volume
from pixelwise.data.formats.volume_files import read_volume, write_volume
from pixelwise.data.intensity import normaliser, scale_percentiles, scale_standard_deviations, scale_window
from pixelwise.data.volume_transforms import (
    RandomIntensity,
    RandomMirror,
    RandomPatch,
    rotation_matrix,
    volume_transform,
)
from pixelwise.types import ClassTable, LabelMap, Sample

from .dicom_files import dicom_seg, dicom_slice, series

GRID = (5, 6, 7)  # of the file


def put(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1, 2, 3, 1]) if affine is None else affine), path)


def folder(root: Path, images: str = "images", labels: str = "labels", count: int = 3) -> Path:
    random = np.random.default_rng(0)
    for number in range(count):
        put(root / images / f"case_{number}.nii.gz", random.normal(100, 20, GRID).astype(np.float32))
        put(root / labels / f"case_{number}.nii.gz", random.integers(0, 3, GRID).astype(np.uint8))
    return root


# --- folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "images, labels", [("images", "labels"), ("images", "masks"), ("imagesTr", "labelsTr")]
)
def test_images_and_labels_of_one_name_are_a_sample(tmp_path: Path, images: str, labels: str) -> None:
    data = open_volumes(folder(tmp_path, images, labels))
    assert [sample.id for sample in data] == [f"{images}/case_{n}.nii.gz" for n in range(3)]
    sample = data[1]
    assert sample.image.shape == (1, 7, 6, 5)
    assert (sample.image.min(), sample.image.max()) == (0, 1)
    assert sample.target.labels.shape == (7, 6, 5)
    assert sample.target.labels.dtype == torch.int64
    assert sample.spacing == (3, 2, 1)
    assert data.classes.names == ("class 0", "class 1", "class 2")
    assert [one.id for one in data.take([2])] == [f"{images}/case_2.nii.gz"]


@pytest.mark.parametrize(
    "labels", [{"0": "background", "1": "head", "2": "tail"}, {"background": 0, "tail": 2, "head": 1}]
)
def test_the_names_come_from_the_description(tmp_path: Path, labels: dict[str, object]) -> None:
    folder(tmp_path, "imagesTr", "labelsTr")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    assert open_volumes(tmp_path).classes.names == ("background", "head", "tail")


@pytest.mark.parametrize("content", ["{", "{}", '{"labels": {"0": "a", "2": "b"}}', '{"labels": []}'])
def test_a_description_that_makes_no_sense_is_named(tmp_path: Path, content: str) -> None:
    folder(tmp_path)
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=r"cannot read the classes from .*dataset.json"):
        open_volumes(tmp_path)


def test_channels_in_files_of_their_own_are_one_image(tmp_path: Path) -> None:
    for number in range(2):
        for channel in range(3):
            put(tmp_path / "imagesTr" / f"c_{number}_{channel:04}.nii.gz", np.random.rand(*GRID))  # noqa: NPY002
        put(tmp_path / "labelsTr" / f"c_{number}.nii.gz", np.zeros(GRID, np.uint8))
    data = open_volumes(tmp_path)
    assert len(data) == 2
    assert data[0].image.shape == (3, 7, 6, 5)


def test_channels_in_one_file_are_one_image(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.nii.gz", np.random.rand(*GRID, 4).astype(np.float32))  # noqa: NPY002
    put(tmp_path / "labels" / "a.nii.gz", np.ones(GRID, np.float32))  # labels as floating-point numbers
    sample = open_volumes(tmp_path)[0]
    assert sample.image.shape == (4, 7, 6, 5)
    assert (sample.target.labels == 1).all()


def test_files_without_a_partner_are_left_out(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "labels" / "case_1.nii.gz").unlink()
    assert len(open_volumes(tmp_path)) == 2


def test_labels_in_another_place_are_refused(tmp_path: Path) -> None:
    folder(tmp_path)
    put(tmp_path / "labels" / "case_0.nii.gz", np.zeros(GRID, np.uint8), np.diag([1, 2, 3.5, 1]))
    put(tmp_path / "labels" / "case_1.nii.gz", np.zeros((5, 6, 8), np.uint8))
    data = open_volumes(tmp_path)
    with pytest.raises(ValueError, match=r"case_0.* lie in different places: their affines differ"):
        data[0]
    with pytest.raises(ValueError, match=r"has \(7, 6, 5\) voxels, .*labels/case_1.nii.gz \(8, 6, 5\)"):
        data[1]


def test_labels_that_are_none_are_named(tmp_path: Path) -> None:
    folder(tmp_path)
    put(tmp_path / "labels" / "case_0.nii.gz", np.full(GRID, 7, np.uint8))
    put(tmp_path / "labels" / "case_1.nii.gz", np.full(GRID, 0.5, np.float32))
    data = open_volumes(tmp_path, classes=ClassTable.of("a", "b", "c"))
    with pytest.raises(ValueError, match=r"case_0.nii.gz holds the label 7, the table has 3 classes"):
        data[0]
    with pytest.raises(ValueError, match=r"case_1.nii.gz holds values that are no whole numbers"):
        data[1]


def test_folders_without_volumes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no data folder"):
        open_volumes(tmp_path / "none")
    with pytest.raises(ValueError, match="expected images/ and labels/, or imagesTr/ and labelsTr/"):
        open_volumes(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(ValueError, match="holds no volume whose name is also in"):
        open_volumes(tmp_path)


def test_the_hippocampus_is_read(shared_data: Callable[..., Path]) -> None:
    data = open_volumes(shared_data("data", "hippocampus_mri"), classes=ClassTable.of("no", "front", "back"))
    sample = data[0]
    assert sample.spacing == (1, 1, 1)
    assert sample.image.shape[1:] == sample.target.labels.shape
    assert sample.target.labels.unique().tolist() == [0, 1, 2]


# --- intensities ----------------------------------------------------------------------------------


def test_percentiles_are_not_moved_by_a_bright_voxel() -> None:
    voxels = np.random.default_rng(0).normal(100, 10, (20, 20, 20))
    bright = voxels.copy()
    bright[0, 0, 0] = 1e6
    np.testing.assert_allclose(scale_percentiles(bright)[1:], scale_percentiles(voxels)[1:], atol=0.02)
    assert scale_percentiles(voxels).dtype == np.float32


@pytest.mark.parametrize(
    "scale", [scale_percentiles, scale_standard_deviations, lambda v: scale_window(v, 40.0, 400.0)]
)
def test_values_come_out_between_zero_and_one(scale: Callable[[np.ndarray], np.ndarray]) -> None:
    for voxels in (
        np.random.default_rng(0).normal(0, 500, (6, 6)),
        np.full((3, 3), 7),
        np.zeros((2, 2), np.int16),
    ):
        found = scale(voxels)
        assert found.min() >= 0
        assert found.max() <= 1
    with pytest.raises(ValueError, match="not finite"):
        scale(np.array([1.0, np.nan]))


def test_settings_that_make_no_sense_are_named() -> None:
    with pytest.raises(ValueError, match=r"in order, got 99.0 and 1.0"):
        scale_percentiles(np.zeros(3), 99.0, 1.0)
    with pytest.raises(ValueError, match="above 0, got 0"):
        scale_window(np.zeros(3), 40.0, 0.0)
    with pytest.raises(ValueError, match="above 0, got -1"):
        scale_standard_deviations(np.zeros(3), -1.0)


# --- labels beside their images, and other formats ---------------------------------------------------


@pytest.mark.parametrize(
    "names, channels",
    [
        # As the archives hold them: BraTS 2020, BraTS 2023, ACDC, PROMISE12, LiTS.
        (["T_01/T_01_flair.nii.gz", "T_01/T_01_t1.nii.gz", "T_01/T_01_t1ce.nii.gz", "T_01/T_01_t2.nii.gz",
          "T_01/T_01_seg.nii.gz"], 4),
        (["B-GLI-0-000/B-GLI-0-000-t1c.nii.gz", "B-GLI-0-000/B-GLI-0-000-t1n.nii.gz",
          "B-GLI-0-000/B-GLI-0-000-seg.nii.gz"], 2),
        (["training/patient001/patient001_frame01.nii.gz",
          "training/patient001/patient001_frame01_gt.nii.gz"], 1),
        (["Case00.mha", "Case00_segmentation.mha"], 1),
        (["volume-0.nii", "segmentation-0.nii"], 1),
        (["brain1_image.nrrd", "brain1_label.nrrd"], 1),
    ],
)  # fmt: skip
def test_labels_beside_their_image_are_found(tmp_path: Path, names: list[str], channels: int) -> None:
    random = np.random.default_rng(0)
    like = Volume(np.zeros((5, 6, 7)), (1.0, 1.0, 1.0), np.eye(4), None)
    for name in names:
        voxels = random.integers(0, 2 if name == names[-1] else 900, (5, 6, 7)).astype(np.int16)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_volume(tmp_path / name, voxels, like)
    assert matches(tmp_path)
    splits = tasks.open_data(tmp_path, val_fraction=0)
    assert splits.format == "volumes"
    (sample,) = splits.train
    assert sample.id == names[0]
    assert sample.image.shape == (channels, 5, 6, 7)
    wanted = read_volume(tmp_path / names[-1]).voxels
    np.testing.assert_array_equal(sample.target.labels.numpy(), wanted)
    (found,) = [path for path in find_volumes(tmp_path, channels) if path.name == Path(names[0]).name]
    assert len(channel_files(found, channels)) == channels


def test_a_case_that_lacks_a_channel_is_named(tmp_path: Path) -> None:
    for name in ("a_flair", "a_t1", "a_seg", "b_flair", "b_seg"):
        put(tmp_path / f"{name}.nii.gz", np.zeros(GRID, np.uint8))
    with pytest.raises(ValueError, match=r"a_flair.nii.gz has 2 files of images, that of .*b_flair.nii.gz 1"):
        tasks.open_data(tmp_path)


def test_folders_of_slices_are_volumes(tmp_path: Path) -> None:
    like = Volume(np.zeros((4, 6, 7)), (2.5, 0.5, 0.75), np.diag([0.75, 0.5, 2.5, 1.0]), None)
    for case in ("a", "b"):
        for number in range(4):
            pixels = np.full((6, 7), 100 * number)
            place = [0.0, 0.0, 2.5 * number]
            dicom_slice(
                tmp_path / "images" / case / f"{number}.dcm", number, pixels, ImagePositionPatient=place
            )
        image = read_volume(tmp_path / "images" / case)
        write_volume(tmp_path / "labels" / f"{case}.nii.gz", (image.voxels > -900).astype(np.uint8), image)
    assert like.spacing == image.spacing
    splits = tasks.open_data(tmp_path, val_fraction=0)
    assert [sample.id for sample in splits.train] == ["images/a", "images/b"]
    assert splits.train[0].spacing == (2.5, 0.5, 0.75)
    assert find_volumes(tmp_path / "images", 1) == [tmp_path / "images" / case for case in "ab"]
    assert find_volumes(tmp_path / "images" / "a", 1) == [tmp_path / "images" / "a"]


@pytest.mark.parametrize("inside", [False, True])
def test_segments_of_dicom_are_labels_on_the_slices_of_their_image(tmp_path: Path, inside: bool) -> None:
    voxels = series(tmp_path / "images" / "a")
    labels = np.zeros(voxels.shape, np.int64)
    labels[1, 2:5, 1:4], labels[3, :2, 5:] = 1, 2  # three of the five slices are empty
    path = tmp_path / "labels" / ("a/seg.dcm" if inside else "a.dcm")
    dicom_seg(path, labels, ("liver", "tumour"))
    splits = tasks.open_data(tmp_path, task="volume", val_fraction=0)
    assert splits.classes.names == ("background", "liver", "tumour")
    (sample,) = splits.train
    np.testing.assert_array_equal(sample.target.labels.numpy(), labels)
    assert sample.target.spacing == (2.5, 0.5, 0.75)


def test_segments_of_dicom_may_be_maps_of_labels(tmp_path: Path) -> None:
    voxels = series(tmp_path / "images" / "a")
    labels = np.random.default_rng(0).integers(0, 3, voxels.shape)
    whole = np.ones_like(labels)  # a frame for each slice
    pixels = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "SegmentationType": "LABELMAP"}
    path = tmp_path / "labels" / "a.dcm"
    segments = dicom_seg(
        path, whole, ("liver", "tumour"), PixelData=labels.astype(np.uint8).tobytes(), **pixels
    )
    (sample,) = tasks.open_data(tmp_path, task="volume", val_fraction=0).train
    np.testing.assert_array_equal(sample.target.labels.numpy(), labels)
    labels[2, 0, 0] = 9
    dicom_seg(segments, whole, ("liver", "tumour"), PixelData=labels.astype(np.uint8).tobytes(), **pixels)
    with pytest.raises(ValueError, match=r"a\.dcm as DICOM: a pixel holds 9, which is no segment"):
        tasks.open_data(tmp_path, task="volume", val_fraction=0).train[0]


def test_segments_that_do_not_lie_on_their_image_are_named(tmp_path: Path) -> None:
    voxels = series(tmp_path / "images" / "a", 3)
    labels = np.zeros((5, *voxels.shape[1:]), np.int64)
    labels[4] = 1
    path = dicom_seg(tmp_path / "labels" / "a.dcm", labels, ("liver",))
    data = tasks.open_data(tmp_path, task="volume", val_fraction=0).train
    with pytest.raises(
        ValueError, match=r"a.dcm does not fit .*images/a: its frames do not lie on the slices"
    ):
        data[0]
    dicom_seg(path, labels[:3] + 1, ("liver",), SegmentSequence=[])
    with pytest.raises(ValueError, match=r"a.dcm as DICOM: it has no segments"):
        data[0]
    dicom_seg(path, labels[:3] + 1, ("liver",), PixelData=b"\0\0")
    with pytest.raises(ValueError, match=r"cannot read .*a.dcm as DICOM"):
        data[0]


def test_stacks_of_a_microscope_need_no_place(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 2, (5, 6, 7)).astype(np.uint8)
    about = {"axes": "ZYX", "spacing": 0.5, "unit": "micron"}
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", voxels, imagej=True, resolution=(4, 5), metadata=about)
    tifffile.imwrite(tmp_path / "masks" / "a.tif", voxels, photometric="minisblack")
    (sample,) = tasks.open_data(tmp_path, task="volume", val_fraction=0).train
    np.testing.assert_allclose(sample.spacing, (5e-4, 2e-4, 2.5e-4))
    assert torch.equal(sample.target.labels, torch.from_numpy(voxels).long())


def test_the_stacks_of_isbi_2012_are_a_volume_and_255_is_a_cell(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    cells = random.integers(0, 2, (5, 6, 7)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "train-volume.tif", cells * 90, photometric="minisblack")
    tifffile.imwrite(tmp_path / "train-labels.tif", cells * 255, photometric="minisblack")
    tifffile.imwrite(tmp_path / "test-volume.tif", cells * 90, photometric="minisblack")
    data = tasks.open_data(tmp_path, task="volume", format="volumes", val_fraction=0)
    (sample,) = data.train
    assert sample.id == "train-volume.tif"
    assert len(data.classes) == 2
    assert torch.equal(sample.target.labels, torch.from_numpy(cells).long())


def test_labels_of_isles_2022_lie_in_derivatives_and_flair_is_left_out(tmp_path: Path) -> None:
    for number in ("0001", "0002"):
        case = f"sub-strokecase{number}"
        stem = f"{case}/ses-0001"
        name = f"{case}_ses-0001"
        random = np.random.default_rng(int(number))
        put(tmp_path / f"derivatives/{stem}/{name}_msk.nii.gz", random.integers(0, 2, GRID).astype(np.uint8))
        for kind in ("dwi", "adc"):
            put(tmp_path / f"{stem}/dwi/{name}_{kind}.nii.gz", random.normal(9, 2, GRID).astype(np.float32))
        put(tmp_path / f"{stem}/anat/{name}_FLAIR.nii.gz", np.zeros((4, 4, 4), np.float32))
    assert matches(tmp_path)
    data = tasks.open_data(tmp_path, val_fraction=0)
    assert data.format == "volumes"
    assert [sample.id for sample in data.train] == [
        f"sub-strokecase{n}/ses-0001/dwi/sub-strokecase{n}_ses-0001_adc.nii.gz" for n in ("0001", "0002")
    ]
    sample = data.train[1]
    assert sample.image.shape == (2, *sample.target.labels.shape)
    wanted = read_volume(tmp_path / "derivatives" / stem / f"{name}_msk.nii.gz").voxels
    np.testing.assert_array_equal(sample.target.labels.numpy(), wanted)


def test_voxels_of_a_microscope_lie_in_different_places_by_less(tmp_path: Path) -> None:
    like = Volume(np.zeros((5, 6, 7)), (1e-3,) * 3, np.diag([1e-3, 1e-3, 1e-3, 1]), None)
    moved = like.affine.copy()
    moved[0, 3] = 5e-4  # half a voxel
    for name, affine in (("images", like.affine), ("labels", moved)):
        (tmp_path / name).mkdir()
        write_volume(tmp_path / name / "a.nrrd", np.zeros((5, 6, 7), np.uint8), replace(like, affine=affine))
    with pytest.raises(ValueError, match="lie in different places"):
        tasks.open_data(tmp_path, val_fraction=0).train[0]


def test_every_file_is_an_image_for_a_model_of_one_channel(tmp_path: Path) -> None:
    for name in ("scan_0000", "scan_0001", "other"):
        put(tmp_path / f"{name}.nii.gz", np.zeros(GRID, np.uint8))
    put(tmp_path / ".hidden.nii.gz", np.zeros(GRID, np.uint8))
    put(tmp_path / "deep" / "b.nii.gz", np.zeros(GRID, np.uint8))
    files = [path.relative_to(tmp_path).as_posix() for path in find_volumes(tmp_path, 1)]
    assert files == ["deep/b.nii.gz", "other.nii.gz", "scan_0000.nii.gz", "scan_0001.nii.gz"]
    two = [path.relative_to(tmp_path).as_posix() for path in find_volumes(tmp_path, 2)]
    assert two == ["deep/b.nii.gz", "other.nii.gz", "scan_0000.nii.gz"]


# --- how values become 0 to 1 -------------------------------------------------------------------------


def test_the_intensity_of_a_setting_is_that_of_its_function() -> None:
    voxels = np.random.default_rng(0).normal(0, 500, (6, 6, 6))
    for name, function in (("percentiles", scale_percentiles), ("z-score", scale_standard_deviations)):
        np.testing.assert_array_equal(normaliser(name)(voxels), function(voxels))
    np.testing.assert_array_equal(normaliser("window:-600,1500")(voxels), scale_window(voxels, -600, 1500))


@pytest.mark.parametrize(
    "name", ["", "window", "window:", "window:1", "window:1,0", "window:nan,4", "zscore"]
)
def test_an_intensity_that_is_none_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"intensity is percentiles, z-score, or window:CENTRE,WIDTH"):
        normaliser(name)


def test_volumes_are_read_with_the_intensity_that_is_asked_for(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.nii", np.arange(210, dtype=np.int16).reshape(GRID))
    put(tmp_path / "labels" / "a.nii", np.zeros(GRID, np.uint8))
    data = tasks.open_data(tmp_path, val_fraction=0).train
    window = data.with_reading(ReadVolume("window:100,400"))
    assert window[0].image[0, 0, 0, 0] == 0.25
    assert data[0].image[0, 0, 0, 0] == 0
    assert window.with_reading(ReadVolume("window:100,400")) is window


# --- random changes -------------------------------------------------------------------------------


def rare() -> Sample:
    """A volume whose value is its position, with one voxel of class 1 and one of class 2."""
    image = torch.arange(20.0 * 18 * 16).view(1, 20, 18, 16) / (20 * 18 * 16)
    labels = torch.zeros(20, 18, 16, dtype=torch.long)
    labels[2, 3, 4], labels[17, 9, 15] = 1, 2
    return Sample(image, LabelMap(labels), "rare", (1.0, 1.0, 1.0))


def together(before: Sample, after: Sample) -> Tensor:
    """Labels of a window, looked up by its values."""
    place = (after.image[0] * before.image.numel()).round().long()
    return before.target.labels.flatten()[place]


def test_a_patch_is_a_window_of_image_and_labels() -> None:
    sample, patch = rare(), RandomPatch((8, 7, 6))
    starts = set()
    for _ in range(30):
        found = patch(sample)
        assert found.image.shape == (1, 8, 7, 6)
        assert torch.equal(found.target.labels, together(sample, found))
        assert found.spacing == sample.spacing
        starts.add(found.image[0, 0, 0, 0].item())
    assert len(starts) > 15


@pytest.mark.parametrize("share, low, high", [(0.0, 0, 25), (0.5, 60, 140), (1.0, 200, 200)])
def test_foreground_is_seen_as_often_as_it_is_asked_for(share: float, low: int, high: int) -> None:
    sample, patch = rare(), RandomPatch((5, 5, 5), share)
    found = [patch(sample).target.labels for _ in range(200)]
    assert low <= sum(bool(labels.any()) for labels in found) <= high
    if share == 1:  # both classes alike
        assert 70 < sum(bool((labels == 1).any()) for labels in found) < 130


def test_a_volume_smaller_than_the_patch_lies_within_it() -> None:
    sample, patch = rare(), RandomPatch((24, 10, 16), ignore=9)
    places = set()
    for _ in range(20):
        found = patch(sample)
        outside = found.target.labels == 9
        assert outside.sum() == 4 * 10 * 16
        assert not found.image[0][outside].any()
        places.add(int(outside[:, 0, 0].long().argmin()))
    assert len(places) > 2


def test_a_volume_without_foreground_gives_patches_too() -> None:
    sample = rare()
    sample.target.labels[:] = 0
    sample.target.labels[0] = 255
    assert RandomPatch((4, 4, 4), 1.0)(sample).image.shape == (1, 4, 4, 4)
    alone = Sample(sample.image, None, "a")
    assert RandomPatch((4, 4, 4), 1.0)(alone).target is None


def test_a_mirror_moves_image_and_labels_together() -> None:
    sample, seen = rare(), set()
    for _ in range(40):
        found = RandomMirror()(sample)
        assert torch.equal(found.target.labels, together(sample, found))
        seen.add(found.image[0, 0, 0, 0].item())
    assert len(seen) == 8
    assert RandomMirror(0.0)(sample) is sample


def test_intensities_change_and_stay_between_zero_and_one() -> None:
    sample = rare()
    found = RandomIntensity(0.5)(sample)
    assert not torch.allclose(found.image, sample.image, atol=0.02)
    assert found.image.min() >= 0
    assert found.image.max() <= 1
    assert found.target is sample.target
    torch.testing.assert_close(RandomIntensity(0.0)(sample).image, sample.image)


def test_changes_depend_on_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.nii", rare().image[0].numpy().T)
    put(tmp_path / "labels" / "a.nii", rare().target.labels.numpy().T.astype(np.uint8))
    data = Augmented(open_volumes(tmp_path), volume_transform((8, 8, 8)), seed=1)
    assert torch.equal(data[0].image, data[0].image)
    first = data[0].image
    data.epoch = 1
    assert not torch.equal(first, data[0].image)


def test_changes_that_make_no_sense_are_named() -> None:
    with pytest.raises(ValueError, match=r"at least one voxel along each axis, got \(4, 0, 4\)"):
        volume_transform((4, 0, 4))
    with pytest.raises(ValueError, match=r"foreground must be in \[0, 1\], got 2"):
        volume_transform((4, 4, 4), foreground=2.0)
    with pytest.raises(ValueError, match=r"probability of a mirror must be in \[0, 1\], got 2"):
        volume_transform((4, 4, 4), flip=2.0)
    with pytest.raises(ValueError, match="strength must be at least 0 and below 1, got 1"):
        volume_transform((4, 4, 4), intensity=1.0)
    with pytest.raises(ValueError, match="patches of 2 axes do not fit rare with 3"):
        RandomPatch((4, 4))(rare())


# --- patches that are turned and scaled -----------------------------------------------------------------

EXTENT, BLOCK = (40, 48, 44), 8


def coordinates(spacing: tuple[float, float, float] | None = None) -> Sample:
    """A volume whose channels hold the coordinates of each voxel over 100, and blocks of voxels as labels."""
    axes = torch.meshgrid(*(torch.arange(n) for n in EXTENT), indexing="ij")
    numbers = [axis // BLOCK for axis in axes]
    labels = 1 + numbers[0] + 6 * numbers[1] + 36 * numbers[2]
    image = torch.stack([*(axis / 100 for axis in axes), torch.ones(EXTENT)])
    return Sample(image, LabelMap(labels), "coordinates", spacing)


@pytest.mark.parametrize("seed", range(8))
def test_a_turned_patch_has_its_labels_where_its_voxels_are(seed: int) -> None:
    torch.manual_seed(seed)
    cut = RandomPatch((20, 24, 16), ignore=999, rotation=180.0, scale=(0.7, 1.4))
    patch = cut(coordinates((1.0, 2.0, 0.5)))
    labels = patch.target.labels
    assert patch.image.shape == (4, 20, 24, 16)
    known = (labels != 999) & (patch.image[3] > 0.999)
    assert known.any()
    assert ((patch.image[3] < 1e-3) <= (labels == 999)).all()
    block = labels[known] - 1
    for axis, number in enumerate((block % 6, block // 6 % 6, block // 36)):
        place = patch.image[axis][known] * 100
        assert (place >= number * BLOCK - 0.51).all()
        assert (place <= number * BLOCK + BLOCK - 1 + 0.51).all()


@pytest.mark.parametrize("seed", range(4))
def test_a_turn_keeps_distances_in_space_and_a_scale_divides_them(seed: int) -> None:
    torch.manual_seed(seed)
    spacing = torch.tensor([1.0, 2.0, 0.5])
    cut = RandomPatch((6, 6, 6), rotation=90.0, scale=(1.3, 1.3), foreground=0.0)
    for _ in range(20):
        patch = cut(coordinates((1.0, 2.0, 0.5)))
        if (patch.image[3] > 0.999).all():
            break
    assert (patch.image[3] > 0.999).all()
    for axis in range(3):
        steps = patch.image[:3].diff(dim=axis + 1).flatten(1).mean(1) * 100 * spacing
        assert torch.allclose(steps.norm(), spacing[axis] / 1.3, rtol=1e-3)


def test_a_turn_by_nothing_is_the_plain_patch_and_turns_are_around_the_axes() -> None:
    torch.manual_seed(3)
    plain = RandomPatch((9, 10, 11))(coordinates())
    torch.manual_seed(3)
    turned = RandomPatch((9, 10, 11), scale=(1.0, 1.0 + 1e-9))(coordinates())
    assert torch.allclose(plain.image, turned.image, atol=1e-5)
    assert torch.equal(plain.target.labels, turned.target.labels)
    quarter = np.pi / 2
    expected = {0: [[1, 0, 0], [0, 0, -1], [0, 1, 0]], 1: [[0, 0, -1], [0, 1, 0], [1, 0, 0]]}
    for axis, matrix in expected.items():
        angles = [quarter * (other == axis) for other in range(3)]
        assert torch.allclose(rotation_matrix(*angles), torch.tensor(matrix).double(), atol=1e-12)
    both = rotation_matrix(quarter, quarter, 0.0)
    assert torch.allclose(both, rotation_matrix(0, quarter, 0) @ rotation_matrix(quarter, 0, 0))


def test_impossible_angles_and_scales_are_refused() -> None:
    with pytest.raises(ValueError, match="rotation must be"):
        RandomPatch((4, 4, 4), rotation=-1.0)
    with pytest.raises(ValueError, match="scale must be"):
        RandomPatch((4, 4, 4), scale=(2.0, 1.0))
    with pytest.raises(ValueError, match="only volumes are turned"):
        RandomPatch((4, 4), rotation=3.0)(Sample(torch.rand(1, 8, 8), None, "a"))
