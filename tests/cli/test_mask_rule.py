"""`--mask-rule` means the same in training, evaluation and check."""

import json

import numpy as np
import pytest
from PIL import Image

from pixelwise.predict import evaluate


@pytest.fixture
def soft(street):
    """The street with JPEG masks in black and white, without a class table."""
    (street / "classes.csv").unlink()
    for path in street.glob("masks/*/*.png"):
        pixels = np.array(Image.open(path)) * 255
        path.unlink()
        Image.fromarray(pixels).save(path.with_suffix(".jpg"), quality=60)
    return street


def test_the_check_suggests_the_rule(pixelwise, soft) -> None:
    told = pixelwise("check", soft)
    assert told.code == 1
    assert "--mask-rule above-127" in told.out
    assert pixelwise("check", soft, "--mask-rule", "above-127").code == 0
    wrong = pixelwise("check", soft, "--mask-rule", "y" * 5000)
    assert wrong.code == 2
    assert "exact, above-127, above-0" in wrong.sentence
    assert len(wrong.sentence) < 300


def test_a_run_is_trained_and_evaluated_under_the_rule(pixelwise, soft, tmp_path) -> None:
    plain = (
        "--model",
        "unet",
        "--set",
        "width=4",
        "--steps",
        1,
        "--crop",
        "32",
        "--workers",
        0,
    )
    refused = pixelwise("train", soft, *plain, "--out", tmp_path / "run")
    assert refused.code == 2
    assert "--mask-rule above-127" in refused.sentence
    run = tmp_path / "run"
    assert pixelwise("train", soft, *plain, "--out", run, "--mask-rule", "above-127").code == 0
    assert json.loads((run / "recipe.json").read_text())["mask_rule"] == "above-127"
    told = pixelwise("evaluate", run, soft, "--mask-rule", "above-127", "--json")
    assert told.code == 0
    assert list(json.loads(told.out)["classes"]) == ["background", "foreground"]


def test_black_and_white_masks_keep_their_foreground_in_evaluation(pixelwise, street, tmp_path) -> None:
    (street / "classes.csv").unlink()
    for path in street.glob("masks/*/*.png"):
        Image.fromarray(np.array(Image.open(path)) * 255).save(path)
    run = tmp_path / "run"
    plain = (
        "--model",
        "unet",
        "--set",
        "width=4",
        "--steps",
        1,
        "--crop",
        "32",
        "--workers",
        0,
    )
    assert pixelwise("train", street, *plain, "--out", run).code == 0
    scores = json.loads(pixelwise("evaluate", run, street, "--json").out)
    by_python = evaluate(run, street, progress=False)
    assert by_python.confusion.sum() == 48 * 64  # no pixel is ignored
    assert scores["mean_iou"] == pytest.approx(by_python["mean_iou"])
