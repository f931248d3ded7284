"""The README's commands from end to end, with default threads, on images of 480 x 640 and 12 megapixels."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from .conftest import ended as ended, picture


@pytest.fixture(scope="module")
def demo(pixelwise: Callable, place: Path) -> Path:
    shown = ended(pixelwise("demo", "--epochs", "10"))
    assert "report.html" in shown
    return place / "pixelwise-demo"


@pytest.fixture(scope="module")
def run(pixelwise: Callable, place: Path) -> Path:
    options = ["--model", "unet", "--encoder", "resnet18", "--steps", "2", "--lr", "0.01"]
    shown = ended(pixelwise("train", "my_folder", *options, "--out", "runs/first"))
    assert "best weights" in shown
    return place / "runs" / "first"


def test_the_demo_learns_and_leaves_pictures_and_a_report(demo: Path) -> None:
    assert "Coins" in (demo / "report.html").read_text()
    pictures = sorted((demo / "pictures").glob("*.png"))
    masks = sorted((demo / "predictions").glob("*[0-9].png"))
    assert len(pictures) == len(masks) == 3
    for path in (*pictures, *masks):
        picture(path)


@pytest.mark.slow
def test_the_whole_demo_finds_the_coins(pixelwise: Callable, place: Path) -> None:
    ended(pixelwise("demo", "--out", "whole"))
    with (place / "whole" / "scores.csv").open(newline="") as file:
        assert all(float(row["IoU/coin"]) > 0.9 for row in csv.DictReader(file))


def test_check_finds_no_problem(pixelwise: Callable, place: Path) -> None:
    assert "No problem" in ended(pixelwise("check", "my_folder"))


def test_two_steps_with_validation_and_report(run: Path) -> None:
    for name in ("best.safetensors", "last.safetensors", "last.ckpt", "recipe.json", "environment.json"):
        assert (run / name).stat().st_size > 0
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert all(0 <= float(row["val_mean_iou"]) <= 1 for row in rows)
    report = (run / "report.html").read_text()
    assert "To repeat" in report
    assert "<dialog>" in report
    for path in (run / "pictures").glob("*.png"):
        picture(path)
    assert (run / "pictures" / "worst_1.png").is_file()


def test_evaluate_scores_every_image(pixelwise: Callable, place: Path, run: Path) -> None:
    shown = ended(
        pixelwise(
            "evaluate", "runs/first", "my_folder", "--split", "train", "--csv", "s.csv", "--report", "e.html"
        )
    )
    assert "mean" in shown
    with (place / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert all(0 <= float(row["pixel_accuracy"]) <= 1 for row in rows)
    assert "Worst predictions" in (place / "e.html").read_text()


def test_predict_a_folder_with_overlays(pixelwise: Callable, place: Path, run: Path) -> None:
    ended(pixelwise("predict", "runs/first", "my_folder/images", "--out", "predictions", "--overlay"))
    for number in range(6):
        with Image.open(place / "predictions" / f"{number:03}.png") as mask:
            assert mask.size == (640, 480)
            assert mask.getextrema()[1] < 3
        picture(place / "predictions" / f"{number:03}_overlay.png", (640, 480))


def test_predict_12_megapixels_in_tiles(pixelwise: Callable, place: Path, demo: Path) -> None:
    ended(pixelwise("predict", demo / "run", "photos", "--tile", "1024x1024", "--out", "tiled", "--overlay"))
    mask = picture(place / "tiled" / "large.png", (4000, 3000))
    assert 0.02 < (mask == 1).mean() < 0.98  # bright discs look like coins
    picture(place / "tiled" / "large_overlay.png", (4000, 3000))


def test_predict_with_mirror_images_and_a_crf(pixelwise: Callable, place: Path, demo: Path) -> None:
    image = "my_folder/images/001.png"
    ended(pixelwise("predict", demo / "run", image, "--flip", "--crf", "--out", "refined"))
    picture(place / "refined" / "001.png", (640, 480))
