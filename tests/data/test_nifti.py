"""NIfTI files: values and place come back exactly; damaged files are named."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pixelwise.data.formats.nifti import Volume, affine_of, read_nifti, write_nifti
from pixelwise.data.formats.volume_files import stem_of

AFFINE = np.array([[-0.9, 0.1, 0, 12], [0, 1.1, 0.2, -30], [0, 0, 2.5, 7.25], [0, 0, 0, 1]])


def written(path: Path, voxels: np.ndarray, *, affine: np.ndarray = AFFINE, **header: object) -> Path:
    image = nibabel.Nifti1Image(voxels, affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_the_last_axis_is_the_first_of_the_file(tmp_path: Path, name: str, dtype: type) -> None:
    voxels = np.arange(24).reshape(2, 3, 4).astype(dtype)
    volume = read_nifti(written(tmp_path / name, voxels))
    assert volume.voxels.shape == (4, 3, 2)
    assert volume.voxels.dtype == dtype
    assert (volume.voxels[3, 1] == voxels[:, 1, 3]).all()
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)
    np.testing.assert_allclose(volume.spacing, np.linalg.norm(AFFINE[:3, :3], axis=0)[::-1], rtol=1e-6)


def test_a_fourth_axis_becomes_channels(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    volume = read_nifti(written(tmp_path / "a.nii", voxels))
    assert volume.voxels.shape == (5, 4, 3, 2)
    assert (volume.voxels[1] == voxels[..., 1].T).all()
    one = read_nifti(written(tmp_path / "b.nii", voxels[..., :1]))
    assert one.voxels.shape == (4, 3, 2)


def test_values_are_scaled_as_the_header_says(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    image.header.set_slope_inter(2, -1024)
    path = tmp_path / "a.nii"
    image.to_filename(path)
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([2, -1024], np.float32).tobytes()  # scl_slope, scl_inter
    raw[-16:] = np.arange(8, dtype=np.int16).tobytes()
    path.write_bytes(raw)
    assert read_nifti(path).voxels.ravel().tolist() == list(range(-1024, -1008, 2))


def test_the_other_byte_order_is_read(tmp_path: Path) -> None:
    voxels = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    header = nibabel.Nifti1Header(endianness=">")
    nibabel.save(nibabel.Nifti1Image(voxels, AFFINE, header), tmp_path / "a.nii")
    found = read_nifti(tmp_path / "a.nii").voxels
    assert found.dtype.isnative
    assert (found == voxels.T).all()


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("codes", [(1, 1), (0, 2), (3, 0)])
@pytest.mark.parametrize("name", ["labels.nii.gz", "labels.nii"])
def test_a_prediction_lies_exactly_over_its_image(tmp_path: Path, name: str, codes: tuple[int, int]) -> None:
    image = nibabel.Nifti1Image(np.random.default_rng(0).random((5, 6, 7)).astype(np.float32), AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(np.diag([0.9, 1.1, 2.5, 1]), codes[0])
    image.set_sform(AFFINE, codes[1])
    nibabel.save(image, tmp_path / "image.nii.gz")
    like = read_nifti(tmp_path / "image.nii.gz")
    labels = np.arange(7 * 6 * 5).reshape(7, 6, 5) % 3
    path = write_nifti(tmp_path / name, labels, like)
    theirs, ours = nibabel.load(tmp_path / "image.nii.gz"), nibabel.load(path)
    assert (ours.affine == theirs.affine).all()
    for field in (
        "srow_x",
        "srow_y",
        "srow_z",
        "qform_code",
        "sform_code",
        "pixdim",
        "xyzt_units",
        "quatern_b",
    ):
        assert (ours.header[field] == theirs.header[field]).all(), field
    assert ours.get_data_dtype() == np.uint8
    assert (np.asarray(ours.dataobj) == labels.T).all()
    assert (read_nifti(path).voxels == labels).all()
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["image.nii.gz", name])


def test_the_scaling_of_an_image_is_not_that_of_its_labels(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.linspace(-5, 5, 8).reshape(2, 2, 2), np.eye(4))
    image.set_data_dtype(np.int16)  # nibabel scales to fit
    nibabel.save(image, tmp_path / "a.nii")
    path = write_nifti(tmp_path / "b.nii", np.ones((2, 2, 2), bool), read_nifti(tmp_path / "a.nii"))
    assert (read_nifti(path).voxels == 1).all()


@pytest.mark.parametrize(
    "voxels, stored",
    [
        (np.ones((1, 1, 1), bool), np.uint8),
        (np.full((1, 1, 1), 255), np.uint8),
        (np.full((1, 1, 1), 256), np.int16),
        (np.full((1, 1, 1), -1), np.int16),
        (np.full((1, 1, 1), 70000), np.int32),
        (np.full((1, 1, 1), 0.5, np.float16), np.float32),
    ],
)
def test_numbers_are_kept_in_a_type_that_holds_them(tmp_path: Path, voxels: np.ndarray, stored: type) -> None:
    like = read_nifti(written(tmp_path / "a.nii", np.zeros((1, 1, 1), np.uint8)))
    found = read_nifti(write_nifti(tmp_path / "b.nii", voxels, like)).voxels
    assert found.dtype == stored
    assert (found == voxels).all()


def test_writing_elsewhere_or_on_another_grid_is_refused(tmp_path: Path) -> None:
    like = read_nifti(written(tmp_path / "a.nii", np.zeros((2, 3, 4), np.uint8)))
    with pytest.raises(ValueError, match=r"is called .nii or .nii.gz, got"):
        write_nifti(tmp_path / "b.png", like.voxels, like)
    with pytest.raises(ValueError, match=r"needs \(4, 3, 2\) voxels, got \(2, 3, 4\)"):
        write_nifti(tmp_path / "b.nii", like.voxels.T, like)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="cannot make the folder"):
        write_nifti(tmp_path / "file" / "b.nii", like.voxels, like)


# --- what is wrong with a file --------------------------------------------------------------------


def good(path: Path) -> bytes:
    voxels = np.random.default_rng(0).random((6, 7, 8)).astype(np.float32)
    return written(path, voxels).read_bytes()


@pytest.mark.parametrize(
    "name, damage",
    [
        ("a.nii", lambda raw: b""),
        ("a.nii", lambda raw: raw[:200]),
        ("a.nii", lambda raw: raw[:-100]),
        ("a.nii", lambda raw: bytes(range(256)) * 8),
        ("a.nii", lambda raw: raw[:70] + b"\xff\x7f" + raw[72:]),
        ("a.nii", lambda raw: raw[:40] + np.array([3, -5, 7, 8], np.int16).tobytes() + raw[48:]),
        ("a.nii", lambda raw: raw[:40] + np.array([3, 32000, 32000, 32000], np.int16).tobytes() + raw[48:]),
        ("a.nii.gz", lambda raw: raw[:-40]),
        ("a.nii.gz", lambda raw: raw[:100] + bytes(60) + raw[160:]),
        ("a.nii.gz", lambda raw: b"not compressed" + raw),
        ("a.nii.gz", lambda raw: gzip.compress(b"no header")),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / name
    path.write_bytes(damage(good(path)))
    with pytest.raises(ValueError, match=name):
        read_nifti(path)


def test_a_missing_file_and_other_shapes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file .*none.nii"):
        read_nifti(tmp_path / "none.nii")
    flat = written(tmp_path / "flat.nii", np.zeros((4, 5), np.uint8))
    with pytest.raises(ValueError, match=r"flat.nii has the shape \(4, 5\), expected three axes"):
        read_nifti(flat)
    colours = np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / "rgb.nii")
    with pytest.raises(ValueError, match=r"rgb.nii holds .*, expected numbers"):
        read_nifti(tmp_path / "rgb.nii")


def test_the_name_without_its_suffix() -> None:
    assert [stem_of(Path(name)) for name in ("a.nii", "b.x.nii.gz", "c.png", "D.NII.GZ")] == [
        "a",
        "b.x",
        "c",
        "D",
    ]


def test_real_volumes_come_back(shared_data: Callable[..., Path], tmp_path: Path) -> None:
    source = shared_data("data", "hippocampus_mri") / "images"
    for path in sorted(source.iterdir())[:5]:
        volume = read_nifti(path)
        assert isinstance(volume, Volume)
        assert volume.voxels.ndim == 3
        again = read_nifti(write_nifti(tmp_path / path.name, volume.voxels, volume))
        assert (again.affine == volume.affine).all()
        assert (again.voxels == volume.voxels).all()


def test_a_head_that_ends_too_early_is_refused_where_only_the_place_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.nii", np.zeros((2, 3, 4), np.uint8))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cannot read .*a.nii as a NIfTI file"):
        affine_of(path)
