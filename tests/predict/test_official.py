"""Data sets that are known by name get their official scores; they equal those of the metrics themselves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pixelwise as pw
from pixelwise.data.dataset import Pair
from pixelwise.data.datasets import DATASETS, row_of
from pixelwise.metrics import CityscapesMetrics, SaliencyMetrics, davis_sequence
from pixelwise.predict import evaluate
from pixelwise.predict.official import OFFICIAL
from pixelwise.predict.official.eyes import RetinaLesions
from pixelwise.predict.official.objects import Nuclei, TouchingNuclei
from pixelwise.predict.official.streets import StreetObjects
from pixelwise.predict.official.tumours import tumour_regions
from pixelwise.tasks import open_data
from pixelwise.types import ClassMasks, MaskSet, Report, Sample


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def picture(path: Path, size: tuple[int, int]) -> None:
    write(path, np.full((*size, 3), 90, np.uint8))


def official(report: Report) -> dict:
    (table,) = (rows for title, rows in report.tables.items() if title.endswith("official scores"))
    return table


def test_every_official_score_in_the_table_exists() -> None:
    assert {row.official for row in DATASETS.values()} - {""} == OFFICIAL


def test_a_layout_stands_for_the_one_data_set_that_has_official_scores() -> None:
    assert row_of("cityscapes") is DATASETS["cityscapes_fine"]
    assert row_of("kitti") is DATASETS["kitti"]
    assert row_of("pairs") is None


# --- streets ---------------------------------------------------------------------------------------


@pytest.fixture
def streets(tmp_path: Path) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    """Cityscapes with one image, predictions for it, and the ids of both."""
    numbers = np.random.default_rng(0)
    instances = np.full((32, 48), 7, np.uint16)  # road
    instances[4:14, 6:26] = 26000  # a large car and a small one
    instances[20:24, 30:34] = 26001
    instances[0:3] = 23
    labels = np.where(instances > 999, instances // 1000, instances)
    predicted = labels.astype(np.int64)
    predicted[20:24, 30:34] = 7  # the small car is missed
    predicted[numbers.random(labels.shape) < 0.05] = 24
    root = tmp_path / "cs"
    stem = "val/aachen/aachen_000000_000019"
    picture(root / f"leftImg8bit/{stem}_leftImg8bit.png", labels.shape)
    picture(root / "leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png", labels.shape)
    for name in (stem, "train/aachen/aachen_000001_000019"):
        write(root / f"gtFine/{name}_gtFine_labelIds.png", labels.astype(np.uint8))
        write(root / f"gtFine/{name}_gtFine_instanceIds.png", instances)
    names = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    train_ids = np.vectorize({number: i for i, number in enumerate(names)}.get)(predicted)
    write(tmp_path / "out" / f"{stem.split('/')[-1]}_leftImg8bit.png", train_ids.astype(np.uint8))
    return root, tmp_path / "out", predicted, instances


def test_cityscapes_gets_iiou(streets) -> None:
    root, predictions, predicted, instances = streets
    expected = CityscapesMetrics()
    expected.update(torch.from_numpy(predicted), torch.from_numpy(instances.astype(np.int64)))
    scores = expected.compute()
    table = official(evaluate(predictions, root, progress=False))
    assert table["car"] == {"IoU": scores.iou["car"], "iIoU": scores.iiou["car"]}
    assert table["car"]["iIoU"] < table["car"]["IoU"] - 0.05  # the missed car is small
    assert table["category vehicle"]["iIoU"] == scores.category_iiou["vehicle"]
    assert table["mean of classes"]["iIoU"] == scores.mean_iiou


def test_without_the_maps_of_instances_it_is_said(streets) -> None:
    root, predictions, *_ = streets
    for path in root.rglob("*_instanceIds.png"):
        path.unlink()
    report = evaluate(predictions, root, progress=False)
    assert not report.tables
    assert "The official scores need the maps of instances: 1 image of 1 have none" in report.note


def test_kitti_reads_its_own_maps_of_instances(tmp_path: Path) -> None:
    labels = np.full((16, 24), 7, np.uint8)
    labels[2:8, 3:9] = 26
    maps = labels.astype(np.uint16) * 256 + (labels == 26)
    for number in range(4):
        picture(tmp_path / f"kitti/training/image_2/00000{number}_10.png", labels.shape)
        write(tmp_path / f"kitti/training/semantic/00000{number}_10.png", labels)
        write(tmp_path / f"kitti/training/instance/00000{number}_10.png", maps)
        write(tmp_path / f"out/00000{number}_10.png", np.where(labels == 26, 13, 0).astype(np.uint8))
    table = official(evaluate(tmp_path / "out", tmp_path / "kitti", progress=False))
    assert table["car"] == {"IoU": 1.0, "iIoU": 1.0}


# --- movies ----------------------------------------------------------------------------------------


def test_davis_gets_j_and_f_of_each_sequence(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    truth, predicted = {}, {}
    for name in ("bear", "dog"):
        frames = np.zeros((5, 40, 50), np.uint8)
        for i in range(5):
            frames[i, 5 + i : 20 + i, 8 + 2 * i : 30 + 2 * i] = 1
        truth[name], predicted[name] = frames, np.roll(frames, numbers.integers(1, 4), 2)
        for i in range(5):
            picture(tmp_path / f"davis/JPEGImages/480p/{name}/{i:05}.jpg", (40, 50))
            write(tmp_path / f"davis/Annotations/480p/{name}/{i:05}.png", frames[i] * 255)
            write(tmp_path / f"out/{name}/{i:05}.png", predicted[name][i])
    (tmp_path / "davis/train.txt").write_text("")
    data = pw.open_data(tmp_path / "davis", val_fraction=0)
    table = official(evaluate(tmp_path / "out", data, split="train", progress=False))
    for name in ("bear", "dog"):
        (scores,) = davis_sequence(
            torch.from_numpy(predicted[name]), torch.from_numpy(truth[name]), task="semi-supervised"
        )
        assert table[name]["J"] == pytest.approx(scores.j.mean())
        assert table[name]["F"] == pytest.approx(scores.f.mean())
    assert table["mean"]["J"] == pytest.approx((table["bear"]["J"] + table["dog"]["J"]) / 2)


# --- single objects --------------------------------------------------------------------------------


@pytest.fixture
def salient(tmp_path: Path) -> tuple[Path, Path]:
    """DUT-OMRON with two images, and grey maps for them."""
    numbers = np.random.default_rng(0)
    for i in range(2):
        mask = np.zeros((40, 48), np.uint8)
        mask[4 + i : 12, 5:15] = 255
        picture(tmp_path / f"omron/DUT-OMRON-image/{i}.jpg", mask.shape)
        write(tmp_path / f"omron/pixelwiseGT-new-PNG/{i}.png", mask)
        grey = np.clip(mask * 0.6 + numbers.normal(40, 20, mask.shape), 0, 255).astype(np.uint8)
        write(tmp_path / f"out/{i}.png", grey)
    return tmp_path / "omron", tmp_path / "out"


def test_saved_grey_maps_are_scored_as_saliency(salient) -> None:
    root, predictions = salient
    expected = SaliencyMetrics()
    data = pw.open_data(root, val_fraction=0)
    for i, pair in enumerate(data.train.pairs):
        grey = np.asarray(Image.open(predictions / f"{i}.png"), np.float32) / 255
        assert pair.mask is not None
        expected.update(torch.from_numpy(grey), torch.from_numpy(np.asarray(Image.open(pair.mask)) > 127))
    scores = expected.compute()
    row = official(evaluate(predictions, data, split="train", progress=False))["all images"]
    assert row["MAE"] == pytest.approx(scores.mae, abs=1e-6)
    assert row["max F"] == pytest.approx(scores.max_f)
    assert row["S"] == pytest.approx(scores.s)
    assert 0 < row["mean F"] < row["max F"] <= 1


def test_a_model_is_scored_by_its_probabilities(salient) -> None:
    torch.manual_seed(0)
    model = pw.build("unet", 2, encoder="tiny", width=4).eval()
    data = pw.open_data(salient[0], val_fraction=0)
    predictor = pw.Predictor(model, data.classes)
    expected = SaliencyMetrics()
    for sample in data.train:
        sure = predictor(sample.image, probabilities=True).probabilities[1]
        expected.update(sure, sample.target.labels == 1)
    row = official(evaluate(predictor, data, split="train", progress=False))["all images"]
    assert row["MAE"] == pytest.approx(expected.compute().mae, abs=1e-5)
    assert row["S"] == pytest.approx(expected.compute().s, abs=1e-5)


def test_lesions_below_the_threshold_count_as_missed(tmp_path: Path) -> None:
    for i, width in enumerate((16, 10, 16)):  # IoU 1, 0.625, 1
        mask, found = np.zeros((20, 24), np.uint8), np.zeros((20, 24), np.uint8)
        mask[2:10, 2:18], found[2:10, 2 : 2 + width] = 255, 1
        stem = f"ISIC_000000{i}"
        picture(tmp_path / f"isic/ISIC2018_Task1-2_Training_Input/{stem}.jpg", mask.shape)
        write(tmp_path / f"isic/ISIC2018_Task1_Training_GroundTruth/{stem}_segmentation.png", mask)
        write(tmp_path / f"out/{stem}.png", found)
    data = pw.open_data(tmp_path / "isic", val_fraction=0)
    (row,) = official(evaluate(tmp_path / "out", data, split="train", progress=False)).values()
    assert row["threshold Jaccard"] == pytest.approx(2 / 3)
    assert row["IoU"] == pytest.approx((1 + 0.625 + 1) / 3)


# --- volumes ---------------------------------------------------------------------------------------


def test_the_regions_of_tumours_lie_in_each_other() -> None:
    older = pw.ClassTable.of("class 0", "class 1", "class 2", "class 3", "class 4")
    assert tumour_regions(older) == {
        "whole tumour": (1, 2, 3, 4),
        "tumour core": (1, 3, 4),
        "enhancing tumour": (4,),
    }
    newer = pw.ClassTable.of("class 0", "class 1", "class 2", "class 3")
    assert tumour_regions(newer)["tumour core"] == (1, 3)
    assert tumour_regions(pw.ClassTable.of("background", "liver")) == {}


@pytest.mark.parametrize("enhancing", [4, 3])
def test_brats_is_scored_by_its_regions(tmp_path: Path, enhancing: int) -> None:
    import nibabel

    numbers = np.random.default_rng(0)
    for case in ("BraTS20_Training_001", "BraTS20_Training_002"):
        truth = np.zeros((16, 18, 20), np.int16)
        truth[3:12, 3:13, 4:14] = 2  # oedema
        truth[5:10, 5:11, 6:12] = 1  # necrosis
        truth[6:9, 6:9, 7:10] = enhancing
        found = truth.copy()
        found[6:9, 6:9, 7:10] = 1  # what enhances is missed, the core is not
        if case.endswith("2"):
            found = truth
        home = tmp_path / "brats" / case
        home.mkdir(parents=True)
        for kind in ("flair", "t1", "t1ce", "t2"):
            image = numbers.normal(100, 20, truth.shape).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), home / f"{case}_{kind}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(truth, np.eye(4)), home / f"{case}_seg.nii.gz")
        (tmp_path / "out").mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(found, np.eye(4)), tmp_path / "out" / f"{case}_flair.nii.gz")
    data = open_data(tmp_path / "brats", task="volume", val_fraction=0)
    table = official(evaluate(tmp_path / "out", data, split="train", task="volume", progress=False))
    assert table["whole tumour"] == {"Dice": 1.0, "HD95 mm": 0.0}
    assert table["tumour core"] == {"Dice": 1.0, "HD95 mm": 0.0}
    assert table["enhancing tumour"]["Dice"] == pytest.approx(0.5)
    assert table["enhancing tumour"]["HD95 mm"] == pytest.approx(373.1287 / 2)


def test_membranes_of_isbi2012_are_scored_after_thinning(tmp_path: Path) -> None:
    import tifffile

    truth = np.full((4, 12, 15), 255, np.uint8)
    truth[:, :, 7] = 0
    found = truth.copy()
    found[0, :, 6:9] = 0  # a wider membrane
    found[1] = 255  # none: 2/3 and 0
    home = tmp_path / "isbi"
    home.mkdir()
    tifffile.imwrite(home / "train-volume.tif", np.full(truth.shape, 90, np.uint8), photometric="minisblack")
    tifffile.imwrite(home / "train-labels.tif", truth, photometric="minisblack")
    (tmp_path / "out").mkdir()
    tifffile.imwrite(tmp_path / "out" / "train-volume.tif", found // 255, photometric="minisblack")
    data = open_data(home, val_fraction=0)
    assert (data.format, data.classes.names) == ("isbi2012", ("membrane", "cell"))
    table = official(evaluate(tmp_path / "out", data, split="train", task="volume", progress=False))
    assert table["cells"] == pytest.approx({"V-Rand": (3 + 2 / 3) / 4, "V-Info": 3 / 4})


# --- objects ---------------------------------------------------------------------------------------


def squares(*places: tuple[int, int, int]) -> MaskSet:
    """Squares by top, left and side in 40 x 40 pixels."""
    masks = torch.zeros(len(places), 40, 40, dtype=torch.bool)
    for mask, (top, left, side) in zip(masks, places, strict=True):
        mask[top : top + side, left : left + side] = True
    return MaskSet.of(masks, torch.zeros(len(places), dtype=torch.int64))


def never() -> torch.Tensor:
    raise AssertionError("nobody needs probabilities of objects")


def test_nuclei_are_scored_at_ten_thresholds() -> None:
    truth = squares((0, 0, 10), (20, 20, 10))
    pair = Pair(Path("a.png"), None, "a.png")
    metrics = Nuclei(pw.ClassTable.of("nucleus"))
    # One is right, of another 0.7 is found (right up to a threshold of 0.65), and one is no nucleus.
    found = squares((0, 0, 10), (20, 20, 10), (0, 30, 5))
    cut = found.dense.clone()
    cut[1, 27:] = False
    metrics.update(pair, Sample(torch.zeros(3, 40, 40), truth, "a"), MaskSet.of(cut, found.classes), never)
    row = metrics.rows()["precision"]
    assert row["at 0.50"] == pytest.approx(2 / 3)
    assert row["at 0.75"] == pytest.approx(1 / 4)  # 1 right, 2 false, 1 missed
    assert row["mean"] == pytest.approx((4 * 2 / 3 + 6 / 4) / 10, abs=0.05)
    nothing = Nuclei(pw.ClassTable.of("nucleus"))
    nothing.update(pair, Sample(torch.zeros(3, 40, 40), squares(), "a"), squares(), never)
    assert nothing.rows()["precision"]["mean"] == 1.0


def test_touching_nuclei_have_the_aggregated_jaccard_index() -> None:
    truth = squares((0, 0, 10), (20, 20, 10), (30, 0, 4))
    pair = Pair(Path("a.png"), None, "a.png")
    # One is found whole, half of another one, the third not at all; one is no nucleus.
    cut = squares((0, 0, 10), (20, 20, 10), (0, 30, 5)).dense.clone()
    cut[1, 25:] = False
    found = MaskSet.of(cut, torch.zeros(3, dtype=torch.int64))
    metrics = TouchingNuclei(pw.ClassTable.of("nucleus"))
    metrics.update(pair, Sample(torch.zeros(3, 40, 40), truth, "a"), found, never)
    row = metrics.rows()["nuclei"]
    assert row["AJI"] == pytest.approx((100 + 50) / (100 + 100 + 16 + 25))
    assert row["PQ"] == pytest.approx(1 / (1 + (2 + 2) / 2))  # an IoU of 0.5 is no pair
    for one, other, score in ((truth, truth, 1.0), (squares(), squares(), 1.0), (truth, squares(), 0.0)):
        metrics = TouchingNuclei(pw.ClassTable.of("nucleus"))
        metrics.update(pair, Sample(torch.zeros(3, 40, 40), one, "a"), other, never)
        assert metrics.rows()["nuclei"] == {"AJI": score, "PQ": score}


def test_one_object_found_for_two_nuclei_counts_for_both_as_in_the_paper() -> None:
    truth, found = squares((0, 0, 10), (0, 10, 10)), squares((0, 0, 20))
    metrics = TouchingNuclei(pw.ClassTable.of("nucleus"))
    pair = Pair(Path("a.png"), None, "a.png")
    metrics.update(pair, Sample(torch.zeros(3, 40, 40), truth, "a"), found, never)
    assert metrics.rows()["nuclei"]["AJI"] == pytest.approx(200 / 800)


def test_objects_of_cityscapes_get_average_precision(streets) -> None:
    data = open_data(streets[0], task="instance")
    metrics = StreetObjects(data.classes)
    for pair, sample in zip(data.val.pairs, data.val, strict=True):
        assert isinstance(sample.target, MaskSet)
        metrics.update(pair, sample, MaskSet.of(sample.target.dense, sample.target.classes), never)
    assert metrics.rows() == {"mean of classes": {"AP": 1.0, "AP50": 1.0}}
    assert not metrics.remark()
    assert row_of(data.format) is DATASETS["cityscapes_fine"]


# --- eyes ------------------------------------------------------------------------------------------


@pytest.fixture
def drive(tmp_path: Path) -> tuple[Path, Path, np.ndarray, np.ndarray, np.ndarray]:
    """DRIVE with two training images, grey maps for them; vessels, grey values and field of view of both."""
    numbers = np.random.default_rng(0)
    truth, grey, seen = (np.zeros((2, 40, 48), kind) for kind in (bool, np.uint8, bool))
    for i, name in enumerate(("21", "22")):
        truth[i, :, 10 + i : 14] = True
        seen[i, 4:36, 4:44] = True
        grey[i] = np.clip(truth[i] * 90 + numbers.normal(90, 40, truth[i].shape), 0, 255)
        grey[i][~seen[i]] = 255  # all wrong, and does not count
        home = tmp_path / "drive/training"
        picture(home / f"images/{name}_training.tif", truth[i].shape)
        write(home / f"1st_manual/{name}_manual1.gif", truth[i].astype(np.uint8) * 255)
        write(home / f"mask/{name}_training_mask.gif", seen[i].astype(np.uint8) * 255)
        write(tmp_path / f"out/{name}_training.png", grey[i])
    return tmp_path / "drive", tmp_path / "out", truth, grey, seen


def test_vessels_are_scored_inside_the_field_of_view(drive) -> None:
    from sklearn.metrics import roc_auc_score

    root, predictions, truth, grey, seen = drive
    data = pw.open_data(root, format="drive", val_fraction=0)
    report = evaluate(predictions, data, split="train", progress=False)
    table = official(report)
    found = grey > 127
    tp, fp = (found & truth & seen).sum(), (found & ~truth & seen).sum()
    fn, tn = (~found & truth & seen).sum(), (~found & ~truth & seen).sum()
    assert table["all pixels"]["sensitivity"] == pytest.approx(tp / (tp + fn))
    assert table["all pixels"]["specificity"] == pytest.approx(tn / (tn + fp))
    assert table["all pixels"]["accuracy"] == pytest.approx((tp + tn) / seen.sum())
    assert table["all pixels"]["Dice"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert table["all pixels"]["AUC"] == pytest.approx(roc_auc_score(truth[seen], grey[seen]), abs=1e-9)
    each = [roc_auc_score(truth[i][seen[i]], grey[i][seen[i]]) for i in range(2)]
    assert table["mean of images"]["AUC"] == pytest.approx(np.mean(each), abs=1e-9)


def test_labels_have_no_area_and_eyes_without_a_field_of_view_count_whole(drive) -> None:
    root, predictions, truth, *_ = drive
    for path in root.rglob("*_mask.gif"):
        path.unlink()
    for i, name in enumerate(("21", "22")):
        write(predictions / f"{name}_training.png", truth[i].astype(np.uint8))
    data = pw.open_data(root, format="drive", val_fraction=0)
    report = evaluate(predictions, data, split="train", progress=False)
    assert official(report)["all pixels"] == {
        "Dice": 1.0, "sensitivity": 1.0, "specificity": 1.0, "accuracy": 1.0,
    }  # fmt: skip
    assert "2 images of 2 have no mask of the field of view" in report.note
    assert "no AUC" in report.note


def test_a_field_of_view_of_another_size_is_an_error(drive) -> None:
    root, predictions, *_ = drive
    write(root / "training/mask/21_training_mask.gif", np.full((9, 9), 255, np.uint8))
    with pytest.raises(ValueError, match=r"21_training_mask\.gif has \(9, 9\) pixels, its image \(40, 48\)"):
        evaluate(predictions, pw.open_data(root, val_fraction=0), split="train", progress=False)


def test_lesions_of_idrid_get_the_area_under_precision_and_recall() -> None:
    from sklearn.metrics import average_precision_score

    numbers = np.random.default_rng(0)
    table = DATASETS["idrid"].table
    truth = torch.from_numpy(numbers.random((2, 5, 12, 16)) < 0.2).long()
    truth[:, 3] = 0  # nobody has soft exudates
    truth[1, 0] = 0
    sure = torch.from_numpy(np.round(numbers.random(truth.shape), 2)).float().clamp(0, 0.999) + 0.0005
    scores = RetinaLesions(table)
    image = torch.zeros(3, 12, 16)
    for masks, probabilities in zip(truth, sure, strict=True):
        pair = Pair(Path("a.jpg"), Path("a.tif"), "a")
        sample = Sample(image, ClassMasks(masks), "a")
        scores.update(pair, sample, ClassMasks((probabilities > 0.5).long(), probabilities), torch.Tensor)
    rows = scores.rows()
    for i, name in enumerate(table.names):
        if i == 3:
            assert np.isnan(rows[name]["AUPR"])
            continue
        expected = average_precision_score(truth[:, i].flatten(), (sure[:, i] * 1000).floor().flatten())
        assert rows[name]["AUPR"] == pytest.approx(expected, abs=1e-9)
    ious = [
        ((sure[i, 4] > 0.5) & (truth[i, 4] == 1)).sum() / ((sure[i, 4] > 0.5) | (truth[i, 4] == 1)).sum()
        for i in range(2)
    ]
    assert rows["optic disc"]["IoU"] == pytest.approx(float(np.mean(ious)), abs=1e-6)
    lesions = [rows[name]["AUPR"] for name in table.names[:3]]
    assert rows["mean of lesions"]["AUPR"] == pytest.approx(np.mean(lesions))
    assert "33 thresholds" in scores.remark()
    scores.update(pair, sample, ClassMasks(truth[0]), torch.Tensor)
    assert "AUPR" not in scores.rows()["optic disc"]
    assert "needs probabilities" in scores.remark()
