"""`pixelwise check --preview`: training images as a network sees them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def seen(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_the_picture_shows_training_images_with_their_labels(pixelwise, street, tmp_path) -> None:
    file = tmp_path / "seen.png"
    told = pixelwise("check", street, "--preview", file)
    assert told.code == 0
    assert f"Wrote {file}" in told.out
    picture = seen(file)
    assert picture.shape[0] > 700
    assert picture.shape[1] > 1500
    red = (picture[..., 0] > 150) & (picture[..., 1] < 120)
    assert red.mean() > 0.003  # squares are tinted
    again = tmp_path / "again.png"
    assert pixelwise("check", street, "--preview", again).code == 0
    assert np.array_equal(seen(again), picture)
    assert pixelwise("check", street, "--preview", again, "--seed", 1, "--overwrite").code == 0
    assert not np.array_equal(seen(again), picture)


def test_further_changes_and_the_settings_of_a_run_are_shown(pixelwise, street, tmp_path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"crop": None, "scale": [1, 1], "flip": 0, "color": 0}))
    plain, noisy = tmp_path / "plain.png", tmp_path / "noisy.png"
    assert pixelwise("check", street, "--preview", plain, "--config", recipe).code == 0
    told = pixelwise("check", street, "--preview", noisy, "--config", recipe, "--augment", "noise=1")
    assert told.code == 0
    assert seen(plain).shape == seen(noisy).shape
    assert 1 < np.abs(seen(plain) - seen(noisy)).mean() < 40


@pytest.mark.parametrize(
    "options, reason",
    [
        (("--augment", "blurr"), "did you mean blur"),
        (("--augment", "jpeg=7"), "from 0 to 1"),
        (("--config", "/nowhere.json"), "cannot read the recipe /nowhere.json"),
    ],
)
def test_what_cannot_be_shown_is_refused(pixelwise, street, tmp_path, options, reason) -> None:
    told = pixelwise("check", street, "--preview", tmp_path / "a.png", *options)
    assert told.code == 2
    assert reason in told.sentence
    assert not (tmp_path / "a.png").exists()


def test_options_of_the_picture_need_a_picture_and_files_are_not_replaced(
    pixelwise, street, tmp_path
) -> None:
    told = pixelwise("check", street, "--augment", "blur")
    assert told.code == 2
    assert "give --preview FILE.png" in told.sentence
    mine = tmp_path / "mine.png"
    mine.write_text("mine")
    for more in ((), ("--overwrite",)):
        told = pixelwise("check", street, "--preview", mine, *more)
        assert told.code == 2
        assert "pixelwise did not write it" in told.sentence
    assert mine.read_text() == "mine"
    told = pixelwise("check", street, "--preview", tmp_path / "a.xyz")
    assert told.code == 2
    assert "a.xyz must end in .png, .jpg or .jpeg" in told.sentence
