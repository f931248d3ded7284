"""Instances and boxes from a COCO folder to COCO results, by the same calls as for any task."""

import contextlib
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typer.testing import CliRunner

import pixelwise as pw
from pixelwise.cli import app
from pixelwise.data import check_data
from pixelwise.predict import Prediction, evaluate_images
from pixelwise.report import write_report
from pixelwise.tasks import get_task, open_data
from pixelwise.tasks.instance import image_ids, mistakes
from pixelwise.training import train
from pixelwise.types import Boxes, ClassTable, MaskSet, Report

HEIGHT, WIDTH = 128, 160
CATEGORIES = [{"id": 7, "name": "disc"}, {"id": 3, "name": "square"}]


def draw(random: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """A noisy image with a bright disc (category 7), two squares (3), and their masks."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = random.integers(0, 60, (HEIGHT, WIDTH, 3))
    things = []
    for column, category in enumerate((7, 3, 3)):
        top, left = int(random.integers(30, HEIGHT - 30)), 28 + 52 * column
        radius = int(random.integers(14, 22))
        distance = np.hypot(x - left, y - top) if category == 7 else np.maximum(abs(x - left), abs(y - top))
        mask = distance < radius
        pixels[mask] += (130, 40, 0) if category == 7 else (0, 60, 140)
        things.append((category, mask))
    return pixels.astype(np.uint8), things


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`images/` and a json for train and val; one annotation of val is a crowd."""
    from pixelwise.data.formats.coco import encode_rle

    root, random = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    (root / "images").mkdir()
    for part, count in (("train", 4), ("val", 3)):
        images, annotations = [], []
        for number in range(count):
            pixels, things = draw(random)
            name = f"{part}_{number}.png"
            Image.fromarray(pixels).save(root / "images" / name)
            images.append({"id": 10 + number, "file_name": name, "height": HEIGHT, "width": WIDTH})
            for place, (category, mask) in enumerate(things):
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                corner = int(columns[0]), int(rows[0])
                sides = int(columns[-1]) + 1 - corner[0], int(rows[-1]) + 1 - corner[1]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": 10 + number,
                        "category_id": category,
                        "segmentation": encode_rle(torch.from_numpy(mask)),
                        "bbox": [*corner, *sides],
                        "area": int(mask.sum()),
                        "iscrowd": int((part, number, place) == ("val", 0, 2)),
                    }
                )
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (root / f"instances_{part}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def boxes_only(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without outlines."""
    root = tmp_path_factory.mktemp("boxes")
    (root / "images").symlink_to(folder / "images")
    for part in ("train", "val"):
        content = json.loads((folder / f"instances_{part}.json").read_text())
        for annotation in content["annotations"]:
            del annotation["segmentation"]
        (root / f"instances_{part}.json").write_text(json.dumps(content))
    return root


def tiny(task: str) -> dict[str, Any]:
    """Settings of a training that takes seconds."""
    return {
        "model": {"instance": "mask_rcnn", "detection": "faster_rcnn"}[task],
        "model_arguments": {"encoder": "tiny", "width": 16, "min_size": None},
        "epochs": 2,
        "workers": 0,
        "accelerator": "cpu",
        "logger": "csv",
        "progress": False,
    }


def shifted(target: Any, pixels: int) -> Any:
    """The annotation moved to the right, with scores that fall, and without its crowds."""
    kept = target.take(~target.is_crowd)
    scores = torch.linspace(0.9, 0.6, len(kept))
    if isinstance(kept, Boxes):
        return Boxes.of(kept.boxes + torch.tensor([pixels, 0, pixels, 0]), kept.classes, scores)
    return MaskSet.of(kept.dense.roll(pixels, 2), kept.classes, scores)


def official(folder: Path, results: list[dict[str, Any]], kind: str) -> list[float]:
    """AP, AP50, AP75 of results by pycocotools; their image ids are those of the file."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "instances_val.json"))
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(x) for x in evaluation.stats[:3]]


def test_a_coco_folder_is_read_as_instances_and_as_boxes(folder: Path) -> None:
    instances, boxes = (open_data(folder, task=task) for task in ("instance", "detection"))
    assert instances.classes.names == boxes.classes.names == ("square", "disc")  # by the ids of categories
    assert instances.classes.things == (0, 1)
    masks, corners = instances.val[0].target, boxes.val[0].target
    assert isinstance(masks, MaskSet)
    assert isinstance(corners, Boxes)
    assert masks.classes.tolist() == corners.classes.tolist() == [1, 0, 0]
    assert masks.is_crowd.tolist() == corners.is_crowd.tolist() == [False, False, True]
    assert torch.equal(masks.boxes.boxes, corners.boxes)
    assert masks.size == (HEIGHT, WIDTH)
    assert not isinstance(masks.masks, torch.Tensor)  # run lengths


def test_boxes_need_no_outlines_and_instances_do(boxes_only: Path) -> None:
    assert len(open_data(boxes_only, task="detection").train[0].target) == 3
    with pytest.raises(ValueError, match="boxes only"):
        open_data(boxes_only, task="instance")


def test_a_box_that_is_none_is_an_error_that_names_the_file(boxes_only: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(boxes_only / "images")
    content = json.loads((boxes_only / "instances_val.json").read_text())
    content["annotations"][0]["bbox"] = [1, 2, -3, 4]
    (tmp_path / "instances_val.json").write_text(json.dumps(content))
    data = open_data(tmp_path, task="detection")
    with pytest.raises(ValueError, match=r"instances_val.json: instance 1 of val_0.png needs a bbox of x"):
        data.val[0]


def test_categories_find_their_classes_by_name(folder: Path) -> None:
    given = ClassTable.of("disc", "square", "star")
    target = open_data(folder, task="instance", classes=given).val[0].target
    assert target.classes.tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="has 2 categories, the class table 3 classes"):
        open_data(folder, task="instance", classes=ClassTable.of("a", "b", "c"))


@pytest.mark.parametrize("task", ["instance", "detection"])
def test_check_counts_objects(folder: Path, task: str) -> None:
    report = check_data(folder, formats=get_task(task).formats)
    assert report.counts["train"].pixels == (8, 4)
    assert "4 images, 12 objects" in report.render()
    assert report.as_dict()["parts"]["val"]["objects"] == 9
    assert not report.problems


@pytest.mark.parametrize("task", ["instance", "detection"])
def test_scores_and_results_equal_those_of_pycocotools(folder: Path, tmp_path: Path, task: str) -> None:
    data, chosen = open_data(folder, task=task).val, get_task(task)
    metrics = chosen.metrics(data.classes, {})
    named = []
    for sample, pixels in zip(data, (0, 3, 7), strict=True):
        found = shifted(sample.target, pixels)
        metrics.update([found], [sample.target], [sample.id])
        named.append((sample.id, found))
    report = metrics.compute()
    files = chosen.collectors["coco"].write(tmp_path, named, data.classes)
    assert files == chosen.collectors["coco"].files(tmp_path, [name for name, _ in named])
    results, about = (json.loads(path.read_text()) for path in files)
    assert [image["file_name"] for image in about["images"]] == [f"images/val_{i}.png" for i in range(3)]
    # The numbers of the images become those of the file.
    names = {category["id"]: category["name"] for category in about["categories"]}
    ids = {category["name"]: category["id"] for category in CATEGORIES}
    assert {name: number for number, name in names.items()} == ids  # those of the annotation file
    for result in results:
        result["image_id"] += 9
    for prefix, kind in (("mask", "segm"), ("box", "bbox")):
        if f"{prefix}_ap" in report.values:
            ours = [report[f"{prefix}_ap{suffix}"] for suffix in ("", "50", "75")]
            np.testing.assert_allclose(ours, official(folder, results, kind), atol=1e-12)
    assert 0.3 < report[chosen.monitor] < 0.95
    assert {name: row["objects"] for name, row in report.per_class.items()} == {"square": 5, "disc": 3}
    with contextlib.redirect_stdout(io.StringIO()):
        assert len(COCO(str(files[1])).loadRes(str(files[0])).anns) == 8


@pytest.mark.slow
@pytest.mark.parametrize("task", ["instance", "detection"])
def test_a_training_ends_in_a_report_and_in_results(
    folder: Path, boxes_only: Path, tmp_path: Path, task: str
) -> None:
    root = folder if task == "instance" else boxes_only
    run = train(root, out=tmp_path / "run", **tiny(task))
    assert 0 <= run.scores[get_task(task).monitor] <= 1
    assert all(np.isfinite(row["train_loss"]) for row in run.history)
    assert all(np.isnan(row["val_loss"]) for row in run.history)  # regions are sampled in training only
    assert "AP50" in run.report.read_text()
    evaluation = evaluate_images(run.best, root, progress=False)
    assert evaluation.report.values == pytest.approx(dict(run.scores.values), nan_ok=True)
    assert (
        evaluation.write_csv(tmp_path / "scores.csv").read_text().startswith(f"id,{get_task(task).monitor}")
    )
    predict = pw.Predictor(run.best, decoding={"min_score": 0.0})
    written = predict.folder(root / "images", tmp_path / "out", overlay=True, progress=False)
    content = json.loads((tmp_path / "out" / "val_0.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["square", "disc"]
    assert len(written) == 14
    with pytest.raises(ValueError, match="leave out loss"):
        train(root, out=tmp_path / "other", loss="dice", **tiny(task))
    asked = [
        "predict",
        str(run.best),
        str(root / "images"),
        "--tint-background",
        "--out",
        str(tmp_path / "t"),
    ]
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code == 2
    assert "--tint-background is for one class per pixel" in refused.output
    with pytest.raises(ValueError, match="refine is for models that score every pixel"):
        pw.Predictor(run.best, refine=lambda probable, image: probable)
    assert len(pw.Predictor(run.best, flip=True).views) == 2


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_files_of_one_image_tell_instances_by_score(tmp_path: Path) -> None:
    masks = torch.zeros(3, 8, 9, dtype=torch.bool)
    masks[0, :4, :4], masks[1, 2:6, 2:6], masks[2, 7, 8] = True, True, True
    found = MaskSet.of(masks, torch.tensor([0, 1, 1]), torch.tensor([0.6, 0.9, 0.3]))
    predicted = Prediction(found, get_task("instance"), ClassTable.of("a", "b"), torch.rand(3, 8, 9), "x.jpg")
    numbers = np.asarray(Image.open(predicted.save(tmp_path / "x.png")))
    assert numbers.dtype == np.uint16
    assert numbers[0, 0] == 2
    assert numbers[3, 3] == 1  # the better one on top
    assert numbers[7, 8] == 0  # below one half
    with contextlib.redirect_stdout(io.StringIO()):
        read = COCO(str(predicted.save(tmp_path / "x.json")))
    assert [annotation["area"] for annotation in read.anns.values()] == [16, 16, 1]
    assert np.array_equal(read.annToMask(read.anns[1]), masks[0].numpy())
    assert read.imgs[1] == {"id": 1, "file_name": "x.jpg", "height": 8, "width": 9}


def test_yolo_lines_are_shares_of_the_image(tmp_path: Path) -> None:
    Image.new("RGB", (200, 100)).save(tmp_path / "x.png")
    found = Boxes.of(torch.tensor([[20.0, 10.0, 60.0, 50.0]]), torch.tensor([1]), torch.tensor([0.5]))
    classes, task = ClassTable.of("a", "b"), get_task("detection")
    predicted = Prediction(found, task, classes, torch.rand(3, 100, 200), str(tmp_path / "x.png"))
    assert (
        predicted.save(tmp_path / "x.txt").read_text() == "1 0.200000 0.300000 0.200000 0.400000 0.500000\n"
    )
    with pytest.raises(ValueError, match="needs the size of the image"):
        task.writers[".txt"].write(tmp_path / "y.txt", found, classes, "")


def test_counts_have_no_mean_in_the_report(tmp_path: Path) -> None:
    rows = {"a": {"AP": 0.25, "objects": 3.0}, "b": {"AP": 0.75, "objects": 4.0}}
    page = write_report(tmp_path / "r.html", "r", Report({"mask_ap": 0.5}, rows), ClassTable.of("a", "b"))
    assert "<td>mean</td><td></td><td>0.500</td><td>–</td>" in page.read_text(encoding="utf-8")


def test_images_keep_the_numbers_of_their_names() -> None:
    assert image_ids(["val/000000000139.jpg", "000000000285.jpg"]) == [139, 285]
    assert image_ids(["a/1.jpg", "b/1.jpg"]) == [1, 2]
    assert image_ids(["a.jpg", "7.jpg"]) == [1, 2]


def test_a_detection_takes_one_object_and_a_crowd_takes_many() -> None:
    overlap = torch.tensor([[0.9, 0.0], [0.8, 0.0], [0.0, 0.7], [0.0, 0.6], [0.4, 0.0]])
    shown = Boxes.of(torch.zeros(5, 4), torch.zeros(5).long(), torch.tensor([0.7, 0.9, 0.5, 0.5, 0.5]))
    target = Boxes.of(torch.zeros(2, 4), torch.zeros(2).long(), is_crowd=torch.tensor([False, True]))
    false, missed = mistakes(overlap, shown, target)
    assert false.tolist() == [True, False, False, False, True]
    assert missed.tolist() == [False, False]


@pytest.mark.parametrize("task", ["instance", "detection"])
def test_pictures_show_what_is_sure_and_what_is_wrong(folder: Path, task: str) -> None:
    data, chosen = open_data(folder, task=task).val, get_task(task)
    sample = data[1]
    found = shifted(sample.target, 40)
    drawn = chosen.draw(sample.image, found, data.classes)
    assert drawn.size == (WIDTH, HEIGHT)
    plain = chosen.draw(sample.image, found.take(found.scores < 0), data.classes)
    assert not np.array_equal(np.asarray(drawn), np.asarray(plain))
    unsure = dataclasses.replace(found, scores=found.scores / 2)
    assert np.array_equal(np.asarray(chosen.draw(sample.image, unsure, data.classes)), np.asarray(plain))
    assert chosen.errors is not None
    red = np.asarray(chosen.errors(sample.image, found, sample.target, data.classes))[..., 0] > 150
    assert red.any()
    right = chosen.errors(sample.image, shifted(sample.target, 0), sample.target, data.classes)
    assert not (np.asarray(right)[..., 0] > 150).any()


def test_a_dataset_of_objects_says_so_to_a_model_of_pixels(folder: Path, tmp_path: Path) -> None:
    data = open_data(folder, task="instance")
    with pytest.raises(ValueError, match="annotated by MaskSet, the model needs LabelMap"):
        train(data, "unet", out=tmp_path / "run", progress=False)


@pytest.mark.slow
def test_folds_of_detectors_score_every_image_and_say_that_boxes_have_no_average(
    folder: Path, tmp_path: Path
) -> None:
    settings = {**tiny("detection"), "epochs": 1, "folds": 2, "out": str(tmp_path / "folds")}
    result = train(folder, **settings)
    assert len(result.folds) == 2
    assert result.remarks[0].startswith("Out of fold, by 2 models at the end of their training")
    assert "over 7 images." in result.remarks[0]  # average precision has no interval
    assert (
        "The folds make no ensemble: RegionLogits of several models cannot be averaged" in result.remarks[-1]
    )
    assert not (tmp_path / "folds" / "best.safetensors").exists()
    assert result.best == result.folds[0].last


@pytest.mark.parametrize("name", ["instance", "detection"])
def test_more_objects_than_those_of_coco_count_where_somebody_asks(name: str) -> None:
    task, table = get_task(name), ClassTable.of("cell")
    masks = torch.zeros(144, 60, 60, dtype=torch.bool)
    for number, mask in enumerate(masks):
        y, x = 5 * (number // 12), 5 * (number % 12)
        mask[y : y + 4, x : x + 4] = True
    cells = MaskSet.of(masks, torch.zeros(144, dtype=torch.long))
    cells = cells if name == "instance" else cells.boxes
    found = {}
    for most in (100, 1000, 5):
        metrics = task.metrics(table, task.scoring_with({"max_detections": most}))
        metrics.update([cells], [cells], ["dish"])
        report = metrics.compute()
        found[most] = report["box_ap50"]
        assert ("where COCO counts 100" in report.note) == (most != 100)
    assert found[1000] == 1.0
    assert 0.6 < found[100] < 0.75
    assert 0 < found[5] < 0.1
