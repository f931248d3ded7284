"""Models and saved predictions are scored alike, at the size of the labels."""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelwise.checkpoint import load, save
from pixelwise.data import Pair, SegmentationData, open_data
from pixelwise.metrics import SegmentationMetrics
from pixelwise.predict import Predictor, evaluate, evaluate_images
from pixelwise.registry import build
from pixelwise.types import ClassTable

SIZES = [(20, 30), (20, 30), (25, 9), (20, 30), (64, 41)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images whose brightness is their class, masks with some mistakes and some ignored pixels."""
    root = tmp_path / "data"
    random = np.random.default_rng(0)
    for i, size in enumerate(SIZES):
        labels = random.integers(0, 3, size)
        folder = "a" if i < 3 else "b"
        for kind in ("images", "masks"):
            (root / kind / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray((labels * 127).astype(np.uint8)).save(root / "images" / folder / f"{i % 3}.png")
        mistakes = np.where(random.random(size) < 0.1 * i, random.integers(0, 3, size), labels)
        mask = np.where(random.random(size) < 0.1, 255, mistakes)
        Image.fromarray(mask.astype(np.uint8)).save(root / "masks" / folder / f"{i % 3}.png")
    return root


def opened(root: Path, classes: ClassTable) -> SegmentationData:
    images = sorted((root / "images").rglob("*.png"))
    return SegmentationData(
        tuple(
            Pair(path, root / "masks" / path.relative_to(root / "images"), str(path.relative_to(root)))
            for path in images
        ),
        classes,
    )


@pytest.fixture
def data(root: Path, classes: ClassTable) -> SegmentationData:
    return opened(root, classes)


def test_a_model_is_scored_as_by_hand(model, data: SegmentationData) -> None:
    metrics = SegmentationMetrics(data.classes)
    for sample in data:
        metrics.update(torch.from_numpy(np.digitize(sample.image[0], [0.25, 0.75])), sample.target)
    scores = evaluate(model, data, progress=False)
    assert torch.equal(scores.confusion, metrics.compute().matrix)
    assert scores.values == metrics.compute().as_dict()
    assert 0.5 < scores["mean_iou"] < 1
    assert int(scores.confusion.sum()) == sum(int((sample.target.labels != 255).sum()) for sample in data)


def test_a_model_and_what_it_saved_get_the_same_scores(
    model, data: SegmentationData, root: Path, tmp_path: Path
) -> None:
    expected = evaluate(model, data, progress=False)
    predict = Predictor(model, data.classes)
    for source in ("images", "."):
        for suffix in (".png", ".npy"):
            out = tmp_path / f"out{source}{suffix}"
            if source == ".":  # relative paths from the root of the data
                predict.folder(root, out, suffix=suffix, progress=False)
            else:
                predict.folder(root / source, out, suffix=suffix, overlay=True, progress=False)
            assert torch.equal(evaluate(out, data, progress=False).confusion, expected.confusion)


def test_predictions_may_lie_flat(model, data: SegmentationData, tmp_path: Path) -> None:
    flat = SegmentationData(data.pairs[:3], data.classes)
    for i, sample in enumerate(flat):
        Predictor(model, data.classes)(sample.image).save(tmp_path / "out" / f"{i}.png")
    assert torch.equal(
        evaluate(tmp_path / "out", flat, progress=False).confusion,
        evaluate(model, flat, progress=False).confusion,
    )


def test_the_truth_is_a_perfect_prediction(data: SegmentationData, root: Path) -> None:
    scores = evaluate(root / "masks", data, progress=False)
    assert scores["mean_iou"] == scores["pixel_accuracy"] == 1


@pytest.mark.parametrize("batch_size", [2, 7])
def test_the_batch_size_changes_nothing(batch_size: int, data: SegmentationData) -> None:
    # PSPNet pools over the whole image: padding would change its answer.
    data = SegmentationData((*data.pairs[:2], *data.pairs[3:]), data.classes)
    big = [np.kron(np.array(Image.open(pair.image)), np.ones((4, 4), np.uint8)) for pair in data.pairs]
    for pair, image in zip(data.pairs, big, strict=True):
        Image.fromarray(image).save(pair.image)
        mask = Image.open(pair.mask)
        mask.resize(image.shape[::-1], Image.Resampling.NEAREST).save(pair.mask)
    model = build("pspnet", 3, encoder="tiny", aux=False)
    alone = evaluate_images(model, data, progress=False)
    together = evaluate_images(model, data, batch_size=batch_size, progress=False)
    assert torch.equal(alone.report.confusion, together.report.confusion)
    assert [image.id for image in together.images] == [image.id for image in alone.images]


def test_each_image_is_scored_and_the_worst_comes_first(model, data: SegmentationData) -> None:
    evaluation = evaluate_images(model, data, progress=False)
    assert [image.index for image in evaluation.images] == list(range(5))
    assert [image.id for image in evaluation.images] == [pair.id for pair in data.pairs]
    for image in evaluation.images:
        alone = evaluate(model, SegmentationData((data.pairs[image.index],), data.classes), progress=False)
        assert image.score == alone["mean_iou"]
        assert image.report.values == alone.values
        assert image.report.per_class == alone.per_class
        assert torch.equal(image.report.confusion, alone.confusion)
    ranked = evaluation.ranked()
    assert ranked[0].index == 4  # most mistakes
    assert ranked[-1].index == 0
    assert [image.score for image in ranked] == sorted(image.score for image in evaluation.images)


def test_confusions_of_each_image_are_written_the_most_frequent_first(
    model, data: SegmentationData, root: Path, tmp_path: Path
) -> None:
    found = evaluate_images(model, data, progress=False)
    rows = list(csv.DictReader(found.write_csv(tmp_path / "scores.csv").read_text().splitlines()))
    columns = [name for name in rows[0] if name.startswith("confused/")]
    matrix, names = found.report.confusion, data.classes.names
    assert matrix is not None
    expected = {
        f"confused/{names[i]} as {names[j]}": int(matrix[i, j])
        for i in range(3) for j in range(3) if i != j and matrix[i, j]
    }  # fmt: skip
    assert len(columns) > 1
    assert set(columns) == set(expected)
    assert [expected[name] for name in columns] == sorted(expected.values(), reverse=True)
    for row, image in zip(rows, found.images, strict=True):
        own = image.report.confusion
        assert own is not None
        if own.sum():
            told = sum(float(row[name]) for name in columns)
            assert told == pytest.approx(1 - image.report["pixel_accuracy"], abs=1e-5)


def test_an_image_without_labelled_pixels_has_no_score_and_does_not_count(
    model, data: SegmentationData
) -> None:
    before = evaluate(model, SegmentationData(data.pairs[1:], data.classes), progress=False)
    Image.new("L", (30, 20), 255).save(data.pairs[0].mask)
    evaluation = evaluate_images(model, data, progress=False)
    assert torch.equal(evaluation.report.confusion, before.confusion)
    assert math.isnan(evaluation.images[0].score)
    assert 0 not in [image.index for image in evaluation.ranked()]


def test_the_rule_for_absent_classes_is_passed_on(model, data: SegmentationData) -> None:
    for pair in data.pairs:
        image = np.array(Image.open(pair.image))
        Image.fromarray(np.where(image > 200, 0, image).astype(np.uint8)).save(pair.image)
        Image.fromarray(np.where(image > 200, 0, image // 127).astype(np.uint8)).save(pair.mask)
    found = [
        evaluate(model, data, scoring={"absent": rule}, progress=False)["mean_iou"]
        for rule in ("exclude", "zero", "one")
    ]
    assert found == pytest.approx([1, 2 / 3, 1])
    with pytest.raises(ValueError, match="absent must be exclude, zero or one, got 'half'"):
        evaluate(model, data, scoring={"absent": "half"}, progress=False)
    with pytest.raises(ValueError, match=r"there is no setting 'absense' of scoring .*: there are absent"):
        evaluate(model, data, scoring={"absense": "one"}, progress=False)


def test_predictors_checkpoints_and_paths_are_scored(data: SegmentationData, tmp_path: Path) -> None:
    for pair in data.pairs:
        for path in (pair.image, pair.mask):
            Image.open(path).resize((40, 40), Image.Resampling.NEAREST).save(path)
    model = build("pspnet", 3, encoder="tiny")
    run = tmp_path / "run"
    save(model, run / "best.safetensors", data.classes)
    expected = evaluate(model, data, progress=False).confusion
    for source in (Predictor(model, data.classes), load(run), run, run / "best.safetensors"):
        assert torch.equal(evaluate(source, data, progress=False).confusion, expected)


def test_a_data_folder_is_opened_and_its_split_chosen(model, root: Path, classes: ClassTable) -> None:
    splits = open_data(root, classes=classes)
    for split in ("train", "val"):
        assert torch.equal(
            evaluate(model, splits, split=split, progress=False).confusion,
            evaluate(model, splits.part(split), progress=False).confusion,
        )
    assert len(splits.train) + len(splits.val) == 5
    with pytest.raises(ValueError, match="has no test part"):
        evaluate(model, splits, split="test", progress=False)
    with pytest.raises(ValueError, match="one of train, val, test, got 'vall'"):
        evaluate(model, splits, split="vall", progress=False)
    with pytest.raises(ValueError, match="nowhere"):
        evaluate(model, root / "nowhere", progress=False)


def remasked(root: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for path in (root / "masks").rglob("*.png"):
        Image.fromarray(change(np.array(Image.open(path)))).save(path)


def test_data_without_a_class_table_are_read_with_that_of_the_model(
    model, root: Path, classes: ClassTable
) -> None:
    # The class "bright" does not occur: the data alone would say two classes.
    remasked(root, lambda mask: np.where(mask == 2, np.uint8(1), mask))
    assert len(open_data(root).classes) == 2
    for data in (root, open_data(root)):
        scores = evaluate(Predictor(model, classes), data, progress=False)
        assert evaluate_images(Predictor(model, classes), data, progress=False).classes == classes
        assert tuple(scores.per_class) == classes.names
        assert scores.per_class["bright"]["support"] == 0
        assert scores.per_class["dark"]["recall"] > 0.7


def test_values_with_gaps_stand_for_the_classes_in_turn(model, root: Path, classes: ClassTable) -> None:
    expected = evaluate(model, open_data(root, classes=classes), progress=False)
    remasked(root, lambda mask: np.where(mask < 3, 100 * mask, mask))
    assert open_data(root).classes.names == ("value 0", "value 100", "value 200")
    assert torch.equal(
        evaluate(Predictor(model, classes), root, progress=False).confusion, expected.confusion
    )
    other = ClassTable(("value 0", "value 50", "value 90"), classes.colors)
    with pytest.raises(ValueError, match="class 1 is 'value 50' for the model, 'value 100' in the data"):
        evaluate(Predictor(model, other), root, progress=False)


def test_masks_in_the_colours_of_the_model_are_understood(model, root: Path, classes: ClassTable) -> None:
    expected = evaluate(model, open_data(root, classes=classes), progress=False)
    # A table made up from the masks would sort the colours, and number the classes otherwise.
    table = ClassTable(classes.names, ((250, 220, 0), (20, 20, 120), (0, 160, 0)))
    palette = np.zeros((256, 3), np.uint8)
    palette[:3] = table.colors
    remasked(root, lambda mask: palette[np.where(mask == 255, 0, mask)])
    scores = evaluate(Predictor(model, table), root, progress=False)
    assert torch.equal(scores.confusion[1:], expected.confusion[1:])
    assert scores.confusion[0].sum() > expected.confusion[0].sum()  # the ignored ones


def test_images_are_read_with_the_channels_of_the_model(brightness, data: SegmentationData, model) -> None:
    grey = evaluate(brightness(in_channels=1), data, progress=False)
    assert torch.equal(grey.confusion, evaluate(model, data, progress=False).confusion)


def test_progress_is_shown_on_the_error_stream(model, data: SegmentationData, capsys) -> None:
    evaluate(model, data)
    assert "evaluating" in capsys.readouterr().err


# --- bad input ------------------------------------------------------------------------------------


def test_another_task_is_refused(model, brightness, data: SegmentationData, root: Path) -> None:
    for names in ("ab", "abcd"):
        others = opened(root, ClassTable.of(*names))
        with pytest.raises(ValueError, match=f"the model has 3 classes, the class table {len(names)}"):
            evaluate(model, others, progress=False)
        with pytest.raises(ValueError, match=f"the model has 3 classes, the data {len(names)}"):
            evaluate(Predictor(model, data.classes), others, progress=False)
    swapped = ClassTable(("dark", "bright", "middle"), data.classes.colors)
    with pytest.raises(ValueError, match="class 1 is 'middle' for the model, 'bright' in the data"):
        evaluate(Predictor(model, data.classes), opened(root, swapped), progress=False)


def test_missing_predictions_and_masks_are_named(
    model, data: SegmentationData, root: Path, tmp_path: Path
) -> None:
    predict = Predictor(model, data.classes)
    predict.folder(root / "images", tmp_path / "out", progress=False)
    (tmp_path / "out" / "b" / "1.png").unlink()
    (tmp_path / "out" / "a" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"out holds no prediction for images/a/1\.png"):
        evaluate(tmp_path / "out", data, progress=False)
    unlabelled = SegmentationData((Pair(data.pairs[0].image, None, "images/a/0.png"),), data.classes)
    with pytest.raises(ValueError, match=r"images/a/0\.png has no mask"):
        evaluate(model, unlabelled, progress=False)
    with pytest.raises(ValueError, match="there is no image"):
        evaluate(model, SegmentationData((), data.classes), progress=False)
    with pytest.raises(ValueError, match=r"there is no checkpoint .*nowhere"):
        evaluate(tmp_path / "nowhere", data, progress=False)


def test_two_files_for_one_sample_are_named(
    model, data: SegmentationData, root: Path, tmp_path: Path
) -> None:
    for suffix in (".png", ".npy"):
        Predictor(model, data.classes).folder(
            root / "images", tmp_path / "out", suffix=suffix, progress=False
        )
    with pytest.raises(
        ValueError, match=r"0\.npy and .*0\.png may both be the prediction for images/a/0\.png"
    ):
        evaluate(tmp_path / "out", data, progress=False)


def test_predictions_of_another_size_value_or_kind_are_named(
    model, data: SegmentationData, root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    Predictor(model, data.classes).folder(root / "images", out, progress=False)
    path = out / "a" / "1.png"

    def refused() -> str:
        with pytest.raises(ValueError) as caught:
            evaluate(out, data, progress=False)
        assert str(path) in str(caught.value)
        return str(caught.value)

    Image.new("L", (31, 20)).save(path)
    assert "has 20 x 31 pixels, its target 20 x 30" in refused()
    Image.new("L", (30, 20), 37).save(path)
    assert "37" in refused()
    Image.new("L", (30, 20), 255).save(path)
    assert "holds 255 (ignore) where its target has a class" in refused()
    path.write_text("no image")
    refused()
    path.unlink()
    path = path.with_suffix(".npy")
    np.save(path, np.zeros((20, 30)))
    assert "integers" in refused()
    np.save(path, np.array([[{}]]), allow_pickle=True)
    refused()
    path.write_bytes(path.read_bytes()[:10])
    refused()


def test_an_image_below_the_minimum_is_scored(brightness, data: SegmentationData) -> None:
    found, expected = (
        evaluate(brightness(minimum_size=least), data, progress=False).values for least in (10, 9)
    )
    assert found == pytest.approx(expected)
