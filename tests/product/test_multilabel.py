"""Several classes per pixel from a folder of masks to masks, in fresh processes with default threads."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NAMES = ("bright", "left")


@pytest.fixture(scope="module")
def scenes(place: Path) -> Path:
    """`scenes/images` and `scenes/masks/CLASS`: bright discs, and the left half, which overlaps them."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:480, :640]
    for number in range(3):
        top, left = random.integers(120, 360), random.integers(200, 440)
        bright, half = np.hypot(y - top, x - left) < 100, x < 320
        image = np.stack([40 + 170 * bright, 60 + 130 * half, np.full(x.shape, 90)], axis=-1)
        image = image + random.integers(0, 20, image.shape)
        for folder, array in (("images", image), ("masks/bright", 255 * bright), ("masks/left", 255 * half)):
            (place / "scenes" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(place / "scenes" / folder / f"{number}.png")
    return place / "scenes"


@pytest.mark.slow
def test_train_evaluate_and_predict(pixelwise: Callable, place: Path, scenes: Path) -> None:
    model = ["--model", "unet", "--encoder", "resnet18", "--scratch", "--task", "multilabel"]
    commands = (
        ["train", "scenes", *model, "--epochs", "1", "--workers", "0", "--out", "runs/scenes"],
        ["evaluate", "runs/scenes", "scenes", "--csv", "scenes.csv"],
        ["predict", "runs/scenes", "scenes/images", "--out", "layers", "--overlay"],
    )
    for command in commands:
        shown = pixelwise(*command)
        assert shown.code == 0, shown.err or shown.out
        assert "Traceback" not in shown.err
        assert "Warning" not in shown.err
    assert (place / "runs" / "scenes" / "report.html").is_file()
    with (place / "scenes.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert 0 <= float(row["mean_dice"]) <= 1
    assert {f"IoU/{name}" for name in NAMES} <= set(row)
    for number in range(3):
        for name in NAMES:
            with Image.open(place / "layers" / name / f"{number}.png") as mask:
                assert mask.size == (640, 480)
                assert set(np.unique(np.asarray(mask))) <= {0, 255}
        with Image.open(place / "layers" / f"{number}_overlay.png") as overlay:
            assert overlay.size == (640, 480)


@pytest.mark.slow
def test_a_matte_of_one_class_is_learned_from_masks_and_laid_over_another_background(
    pixelwise: Callable, place: Path, scenes: Path
) -> None:
    discs = place / "discs"
    for folder in ("images", "masks/bright"):
        (discs / folder).mkdir(parents=True)
        for file in (scenes / folder).iterdir():
            Image.open(file).resize((160, 120)).save(discs / folder / file.name)
    model = ["--model", "modnet", "--encoder", "tiny", "--task", "multilabel"]
    cut_out = ["--replace", "transparent", "--keep", "bright", "--out", "cut.png"]
    commands = (
        ["train", "discs", *model, "--epochs", "2", "--workers", "0", "--out", "runs/matte"],
        ["evaluate", "runs/matte", "discs"],
        ["background", "discs/images/0.png", "--model", "runs/matte", *cut_out],
    )
    for command in commands:
        shown = pixelwise(*command)
        assert shown.code == 0, shown.err or shown.out
        assert "Warning" not in shown.err
    with Image.open(place / "cut.png") as cut:
        assert (cut.mode, cut.size) == ("RGBA", (160, 120))
        alpha = np.asarray(cut)[..., 3]
    assert len(np.unique(alpha)) > 20  # soft
