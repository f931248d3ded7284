"""`pixelwise compare`: a table, a sentence, a page with pictures."""

import json
from pathlib import Path

import pixelwise as pw


def test_two_models_are_compared(pixelwise, street: Path, weights: Path, tmp_path: Path) -> None:
    import torch

    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    pw.save(pw.build("unet", 2, encoder="tiny", width=4), other, pw.load(weights).classes)
    command = ("compare", weights, other, street, "--split", "train", "--out", tmp_path / "out")
    shown = pixelwise(*command)
    assert shown.code == 0, shown.err
    assert "mean IoU" in shown.out
    assert "interval over images" in shown.out
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "other.safetensors" in page
    assert page.count("<img") == 3 * 6  # image, truth, and of each model prediction and errors
    assert len((tmp_path / "out" / "images.csv").read_text().splitlines()) == 4
    assert "was written before" in pixelwise(*command).sentence
    shown = pixelwise(*command, "--overwrite", "--json")
    found = json.loads(shown.out)
    assert set(found["scores"]["mean IoU"]) == {"first", "second", "difference"}
    assert found["images"] == 3


def test_bad_arguments_are_sentences(pixelwise, street: Path, weights: Path, tmp_path: Path) -> None:
    shown = pixelwise("compare", weights, tmp_path / "none", street, "--out", tmp_path / "out")
    assert shown.code == 2
    assert "none" in shown.sentence
    assert not (tmp_path / "out").exists()
