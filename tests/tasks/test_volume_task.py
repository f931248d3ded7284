"""Volumes through the door: folder -> training -> scores -> report -> files."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

import pixelwise as pw
from pixelwise.data import Pair, SegmentationData, check_data
from pixelwise.data.formats.volume import Volume
from pixelwise.data.formats.volume_files import read_volume, write_volume
from pixelwise.data.intensity import scale_window
from pixelwise.predict import Predictor, evaluate, evaluate_images
from pixelwise.predict.writing import plan
from pixelwise.recipe import read_settings
from pixelwise.report import write_evaluation_report
from pixelwise.tasks import get_task, open_data, task_of_folder
from pixelwise.training import recipe_of, run as run_recipe
from pixelwise.training.run import make_experiment
from pixelwise.types import Batch, LabelMap, Sample
from tests.data.dicom_files import dicom_slice

RECIPES = Path(__file__).parent.parent.parent / "recipes"
TABLE = pw.ClassTable.of("background", "ball", "slab")
AFFINE = np.array([[0, 2.0, 0, -7], [1.5, 0, 0, 3], [0, 0, 3.0, 11], [0, 0, 0, 1]])  # axes exchanged
SETTINGS = {
    "crop": (16, 16, 16), "scale": (1.0, 1.0), "flip": 0.5, "color": 0.2, "rotation": 0.0, "elastic": 0.0,
    "flip_vertical": 0.0, "rotate90": 0.0, "rare_crops": 0.5, "scale_to": "image", "augment": "",
}  # fmt: skip


def scan(seed: int, size: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball and a brighter slab in noise, as i j k; image and labels."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), -1)
    labels = np.zeros((size,) * 3, np.uint8)
    labels[((grid - random.integers(8, 13, 3)) ** 2).sum(-1) < 30] = 1
    labels[..., size - 5 :] = 2
    image = np.array([100, 500, 900], np.float32)[labels] + random.normal(0, 40, labels.shape)
    return image.astype(np.float32), labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("volumes")
    for name in ("imagesTr", "labelsTr"):
        (root / name).mkdir()
    names = {str(label): name for label, name in enumerate(TABLE.names)}
    (root / "dataset.json").write_text(f'{{"labels": {names}}}'.replace("'", '"'))
    for number in range(5):
        for name, voxels in zip(("imagesTr", "labelsTr"), scan(number), strict=True):
            nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), root / name / f"case_{number}.nii.gz")
    return root


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> "pw.training.TrainResult":
    out = tmp_path_factory.mktemp("run") / "first"
    return pw.train(
        folder,
        "unet3d",
        model_arguments={"width": 4},
        crop=(16, 16, 16),
        steps=30,
        lr=0.02,
        val_every=8,
        workers=0,
        out=out,
        progress=False,
    )


def test_a_folder_of_volumes_is_known_by_its_files(folder: Path) -> None:
    assert task_of_folder(folder).name == "volume"
    splits = open_data(folder)
    assert splits.classes.names == TABLE.names
    assert (len(splits.train), len(splits.val)) == (4, 1)
    sample = splits.train[0]
    assert sample.image.shape == (1, 24, 24, 24)
    assert sample.spacing == sample.target.spacing == (3.0, 2.0, 1.5)


def test_labels_that_lie_elsewhere_are_refused(tmp_path: Path) -> None:
    for name, shift in (("images", 0.0), ("labels", 5.0)):
        (tmp_path / name).mkdir()
        moved = AFFINE + shift * np.eye(4)[:, 3:] * (np.arange(4) == 3)
        nibabel.save(nibabel.Nifti1Image(scan(0)[1], moved + 0.0), tmp_path / name / "a.nii")
    wrong = np.array(AFFINE)
    wrong[0, 3] += 5
    nibabel.save(nibabel.Nifti1Image(scan(0)[1], wrong), tmp_path / "labels" / "a.nii")
    nibabel.save(nibabel.Nifti1Image(scan(0)[1], AFFINE), tmp_path / "images" / "a.nii")
    with pytest.raises(ValueError, match="lie in different places"):
        open_data(tmp_path).train[0]


def test_files_of_other_channels_name_the_option(folder: Path) -> None:
    data = open_data(folder).train.with_channels(2)
    with pytest.raises(ValueError, match=r"has 1 channel, 2 expected.*--in-channels 1"):
        data[0]


def test_channels_of_nnunet_come_from_their_files(tmp_path: Path) -> None:
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).mkdir()
    image, labels = scan(0)
    for channel in range(2):
        file = tmp_path / "imagesTr" / f"a_{channel:04}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(image * (channel - 0.5), AFFINE), file)
    nibabel.save(nibabel.Nifti1Image(labels, AFFINE), tmp_path / "labelsTr" / "a.nii.gz")
    (sample,) = open_data(tmp_path, val_fraction=0).train
    assert sample.image.shape == (2, 24, 24, 24)
    torch.testing.assert_close(sample.image[0], 1 - sample.image[1], atol=1e-4, rtol=0)


def test_a_check_of_volumes_tells_their_extent(folder: Path) -> None:
    report = check_data(folder, formats=get_task("volume").formats)
    assert report.problems == ()
    assert report.sizes == ((24, 24, 24), (24, 24, 24))
    assert "24 x 24 x 24 voxels" in report.render()


def test_training_patches_have_the_size_of_the_crop(folder: Path) -> None:
    data = open_data(folder).train
    patch = get_task("volume").transform(data.classes, SETTINGS)(data[0])
    assert patch.image.shape == (1, 16, 16, 16)
    assert patch.target.labels.shape == (16, 16, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": (16, 16)}, "volumes need crops of a depth, a height and a width"),
        ({"crop": None}, "volumes need crops of a depth, a height and a width"),
        ({"rotation": 200.0}, "rotation must be between 0 and 180"),
        ({"elastic": 1.0}, "elastic is not for volumes"),
    ],
)
def test_settings_that_volumes_have_not_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_task("volume").transform(TABLE, SETTINGS | changes)


def test_volumes_smaller_than_the_patches_lie_among_zeros_as_they_did_in_training() -> None:
    task, seen = get_task("volume"), list[torch.Tensor]()

    def network(image: torch.Tensor) -> pw.DenseLogits:
        seen.append(image)
        return pw.DenseLogits(torch.cat([torch.full_like(image, 0.5), image], 1), tuple(image.shape[2:]))

    sample = Sample(torch.rand(1, 10, 31, 13), None, "")
    decoding = task.decoding_with(task.decoding_of({"crop": (24, 24, 16), "intensity": "percentiles"}))
    found = task.infer(network, sample, pw.ClassTable.of("dark", "bright"), decoding)
    assert torch.equal(found.labels, (sample.image[0] > 0.5).long())
    (image,) = seen
    assert image.shape == (1, 1, 24, 31, 16)
    assert torch.equal(image[0, :, 7:17, :, 1:14], sample.image)
    assert image.sum() == pytest.approx(float(sample.image.sum()), rel=1e-5)


def test_weights_of_volumes_lie_in_memory_voxel_by_voxel(folder: Path) -> None:
    settings = {"data": str(folder), "model": "unet3d", "model_arguments": {"width": 4}, "crop": (16, 16, 16)}
    for last in (True, False):
        module = make_experiment(recipe_of({**settings, "channels_last": last})).module
        (weight, *_) = (one for one in module.model.parameters() if one.ndim == 5 and one.shape[1] > 1)
        assert weight.is_contiguous(memory_format=torch.channels_last_3d) == last


def test_a_small_network_learns(run: "pw.training.TrainResult") -> None:
    assert run.scores["mean_dice"] > 0.7
    assert set(run.scores.per_class) == {"ball", "slab"}
    assert run.recipe.task == "volume"
    assert "class=panels" in run.report.read_text()


@pytest.mark.slow
def test_the_recipe_finds_both_parts_of_the_hippocampus(
    shared_data: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = read_settings(RECIPES / "hippocampus_unet3d.toml")
    data = shared_data("data", "hippocampus_mri")
    started = time.process_time()
    result = run_recipe(
        recipe_of({**recipe, "data": str(data), "out": str(tmp_path / "run")}), progress=False
    )
    minutes = (time.process_time() - started) / 60
    with capsys.disabled():
        for name, row in result.scores.per_class.items():
            told = ", ".join(f"{column} {number:.3f}" for column, number in row.items())
            print(f"\n{name}: {told}", end="")
        print(f"\n{minutes:.1f} minutes of processor time")
    assert min(row["Dice"] for row in result.scores.per_class.values()) >= 0.8
    assert minutes <= 20


def test_a_prediction_opens_over_its_image(
    run: "pw.training.TrainResult", folder: Path, tmp_path: Path
) -> None:
    predict = Predictor(run.best)
    (written,) = predict.folder(folder / "imagesTr", tmp_path / "all", progress=False)[:1]
    assert written.name == "case_0.nii.gz"
    image, found = nibabel.load(folder / "imagesTr" / "case_0.nii.gz"), nibabel.load(written)
    np.testing.assert_array_equal(found.affine, image.affine)
    assert found.shape == image.shape
    labels = predict(folder / "imagesTr" / "case_0.nii.gz").label_map.labels
    np.testing.assert_array_equal(np.asarray(found.dataobj).T, labels.numpy())


def test_predictions_have_the_format_and_the_place_of_their_images(
    run: "pw.training.TrainResult", tmp_path: Path
) -> None:
    voxels = scan(0, 16)[0].T.astype(np.int16)
    like = Volume(voxels, (2.5, 0.5, 0.75), np.diag([0.75, 0.5, 2.5, 1.0]), None)
    for suffix in (".nrrd", ".mha", ".tif", ".nii"):
        write_volume(tmp_path / "in" / f"{suffix[1:]}{suffix}", voxels, like)
    for number in range(16):
        place = [1.5, -3.0, 2.5 * number]
        path = tmp_path / "in" / "deep" / "ct.1" / f"{number}.dcm"
        dicom_slice(path, number, voxels[number], ImagePositionPatient=place, PixelSpacing=[0.5, 0.75])
    predict = Predictor(run.best)
    written = predict.folder(tmp_path / "in", tmp_path / "out", progress=False)
    names = [path.relative_to(tmp_path / "out").as_posix() for path in written]
    assert names == ["deep/ct.1.nii.gz", "mha.mha", "nii.nii", "nrrd.nrrd", "tif.tif"]
    images = ["deep/ct.1", "mha.mha", "nii.nii", "nrrd.nrrd", "tif.tif"]
    for name, path in zip(images, written, strict=True):
        image, found = read_volume(tmp_path / "in" / name), read_volume(path)
        np.testing.assert_allclose(found.affine, image.affine, atol=1e-6)
        np.testing.assert_array_equal(found.voxels, predict(tmp_path / "in" / name).label_map.labels.numpy())
    # One series alone, whose folder is the image.
    (alone,) = plan([tmp_path / "in" / "deep" / "ct.1"], tmp_path / "one", "", predict.task, 1)
    assert alone.target == tmp_path / "one" / "ct.1.nii.gz"
    with pytest.raises(ValueError, match="is a folder: use"):
        predict(tmp_path / "in")


def test_the_intensity_of_the_training_is_kept_with_the_weights(folder: Path, tmp_path: Path) -> None:
    settings = {"model": "unet3d", "model_arguments": {"width": 2}, "crop": (16, 16, 16), "steps": 1}
    window = "window:500,800"
    learnt = pw.train(folder, out=tmp_path / "a", workers=0, progress=False, intensity=window, **settings)
    predict = Predictor(learnt.best)
    assert predict.decoding["intensity"] == window
    path = folder / "imagesTr" / "case_0.nii.gz"
    image = predict.read_image(path)[0]
    np.testing.assert_allclose(image[0], scale_window(read_volume(path).voxels, 500, 800))
    assert Predictor(learnt.best, decoding={"intensity": "z-score"}).read_image(path)[0].mean() > 0.4


def test_an_intensity_that_is_none_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    classes = pw.ClassTable.of("a", "b")
    for name in "ab":
        Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / f"{name}.png")
    data = SegmentationData((Pair(tmp_path / "a.png", tmp_path / "b.png", "a"),) * 2, classes)
    with pytest.raises(ValueError, match="intensity is percentiles, z-score, or window"):
        pw.train((data, data), out=tmp_path / "run", steps=1, progress=False, intensity="brightest")


def test_predictions_are_scored_from_their_files(
    run: "pw.training.TrainResult", folder: Path, tmp_path: Path
) -> None:
    predict = Predictor(run.best)
    predict.folder(folder / "imagesTr", tmp_path / "all", progress=False)
    from_files = evaluate(tmp_path / "all", open_data(folder), task="volume", progress=False)
    assert from_files.values == pytest.approx(dict(evaluate(run.best, folder, progress=False).values))


def test_a_volume_in_memory_is_saved_as_an_array_only(run: "pw.training.TrainResult", tmp_path: Path) -> None:
    found = Predictor(run.best)(torch.rand(1, 16, 17, 18))
    found.save(tmp_path / "a.npy")
    assert np.load(tmp_path / "a.npy").shape == (16, 17, 18)
    with pytest.raises(ValueError, match=r"save as \.npy"):
        found.save(tmp_path / "a.nii.gz")


def test_tiles_reach_the_task_and_change_little(run: "pw.training.TrainResult", folder: Path) -> None:
    image = folder / "imagesTr" / "case_0.nii.gz"
    whole = Predictor(run.best)(image).label_map.labels
    in_tiles = Predictor(run.best, tile=(16, 16, 16))
    assert in_tiles.decoding["tile"] == (16, 16, 16)
    assert (in_tiles(image).label_map.labels == whole).float().mean() > 0.9
    with pytest.raises(ValueError, match="tile must have a depth"):
        Predictor(run.best, tile=(16, 16))(image)


def test_thin_volumes_are_extended_and_cut_again(run: "pw.training.TrainResult") -> None:
    assert Predictor(run.best)(torch.rand(1, 5, 20, 16)).label_map.labels.shape == (5, 20, 16)


def test_distances_and_volumes_follow_the_spacing_of_each_volume() -> None:
    target = torch.zeros(12, 12, 12, dtype=torch.long)
    target[4:8, 4:8, 4:8] = 1
    found = target.roll(1, 0)
    metrics = get_task("volume").metrics(TABLE, {"tolerance": 1.0})
    for spacing in ((3.0, 1.0, 1.0), (5.0, 1.0, 1.0)):
        metrics.update([LabelMap(found)], [LabelMap(target, spacing)], ["a"])
    row = metrics.compute().per_class["ball"]
    assert row["Dice"] == pytest.approx(0.75)
    assert row["HD95 mm"] == pytest.approx(4.0)
    assert row["true ml"] == pytest.approx(64 * 4 / 1000)
    assert math.isnan(metrics.compute().per_class["slab"]["Dice"])


def test_a_missed_structure_has_no_distance_but_counts() -> None:
    target = torch.zeros(8, 8, 8, dtype=torch.long)
    target[2:5] = 1
    metrics = get_task("volume").metrics(TABLE, {"tolerance": 1.0})
    metrics.update([LabelMap(torch.zeros_like(target))], [LabelMap(target)], ["a"])
    row = metrics.compute().per_class["ball"]
    assert (row["Dice"], row["surface Dice"], row["in one only"]) == (0, 0, 1)
    assert math.isnan(row["HD95 mm"])


def test_batches_keep_the_spacing_of_each_sample() -> None:
    samples = [
        Sample(torch.rand(1, n, 4, 4), LabelMap(torch.zeros(n, 4, 4).long()), str(n), (float(n), 1.0, 1.0))
        for n in (3, 5)
    ]
    batch = Batch.collate(samples)
    assert [sample.spacing for sample in batch.samples] == [(3.0, 1.0, 1.0), (5.0, 1.0, 1.0)]
    assert [target.spacing for target in batch.annotations] == [(3.0, 1.0, 1.0), (5.0, 1.0, 1.0)]
    assert Batch.collate([Sample(s.image, s.target, s.id) for s in samples]).spacings == ()


def test_pictures_show_three_planes_in_the_proportions_of_the_voxels() -> None:
    image, labels = torch.rand(1, 10, 20, 30), torch.zeros(10, 20, 30, dtype=torch.long)
    labels[8:] = 1
    picture = get_task("volume").draw(image, LabelMap(labels, (6.0, 1.0, 1.0)), TABLE, alpha=1.0)
    # 60 x 20 x 30 mm: the planes H W, D W and D H.
    scale = 256 / 60
    sides = [round(n * scale) for n in (60, 20, 30)]
    assert picture.size == (sides[2] * 2 + sides[1] + 12, sides[0])
    pixels = np.asarray(picture)
    column = sides[2] + 6 + sides[2] // 2  # through the plane D W: the last slices lie at the top
    assert tuple(pixels[5, column]) == TABLE.colors[1]
    assert tuple(pixels[-5, column]) != TABLE.colors[1]


def test_the_report_shows_volumes_with_their_errors(
    run: "pw.training.TrainResult", folder: Path, tmp_path: Path
) -> None:
    data = open_data(folder).val
    predictor = Predictor(run.best)
    evaluation = evaluate_images(predictor, data, progress=False)
    text = write_evaluation_report(
        tmp_path / "report.html", "volumes", evaluation, data, predictor
    ).read_text()
    assert "surface Dice" in text
    assert "HD95 mm" in text
    assert "errors of" in text
