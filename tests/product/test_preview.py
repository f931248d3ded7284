"""A picture of what a training sees, and decoded images that are kept, as a user asks for them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.mark.slow
def test_street_scenes_are_shown_as_a_training_sees_them(pixelwise, place: Path, shared_data) -> None:
    camvid, file = shared_data("data", "camvid"), place / "camvid.png"
    done = pixelwise("check", camvid, "--preview", file, "--augment", "mosaic=1,blur,jpeg")
    assert done.code == 0, done.err
    assert f"Wrote {file}" in done.out
    picture = np.asarray(Image.open(file).convert("RGB"))
    assert picture.shape[0] > 1000
    assert picture.shape[1] > 1500
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20_000  # photographs under colours


@pytest.mark.slow
def test_a_training_with_further_changes_keeps_its_decoded_images(pixelwise, place: Path) -> None:
    done = pixelwise(
        "train", "my_folder", "--no-plan", "--steps", 4, "--model", "unet", "--encoder", "tiny", "--scratch",
        "--augment", "noise=0.5,cutmix,classmix=0.3", "--cache", "disk", "--workers", 2, "--no-choose",
        "--out", "runs/kept",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "the cache of 6 images takes about" in done.err
    assert '"augment": "noise=0.5,cutmix,classmix=0.3"' in (place / "runs/kept/recipe.json").read_text()
    shown = pixelwise("check", "my_folder", "--preview", "seen.png", "--config", "runs/kept/recipe.json")
    assert shown.code == 0, shown.err
    assert (place / "seen.png").is_file()
