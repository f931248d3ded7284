"""From a training to files for other runtimes and the fastest form, each command in a process of its own."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import ended, picture


@pytest.fixture(scope="module")
def small(pixelwise: Callable) -> str:
    """A small run whose labels are more than one class."""
    options = ["--model", "unet", "--encoder", "tiny", "--steps", "40", "--batch-size", "2", "--crop", "256"]
    trained = pixelwise("train", "my_folder", *options, "--workers", "0", "--out", "runs/small")
    assert trained.code == 0, trained.err
    return "runs/small"


@pytest.mark.slow
def test_a_run_is_exported_predicts_the_same_and_is_optimized(
    pixelwise: Callable, place: Path, small: str
) -> None:
    source = "my_folder/images/000.png"
    predicted = pixelwise("predict", "runs/small", source, "--out", "found/run", "--plain")
    assert predicted.code == 0, predicted.err
    expected = np.asarray(Image.open(next((place / "found/run").rglob("*.png"))))
    assert len(np.unique(expected)) > 1
    forms = {
        "torch.pt2": ["--to", "torch"],
        "labels.onnx": ["--to", "onnx", "--labels"],
        "openvino.xml": ["--to", "openvino"],
        "integers.onnx": ["--to", "onnx", "--int8", "my_folder/images"],
    }
    for name, words in forms.items():
        written = pixelwise("export", "runs/small", *words, "--out", name)
        assert written.code == 0, written.err
        done = pixelwise("predict", name, source, "--out", f"found/{name}", "--plain")
        assert done.code == 0, done.err
        found = np.asarray(Image.open(next((place / "found" / name).rglob("*.png"))))
        assert (found == expected).mean() > (0.95 if "int8" in str(words) else 0.9999), name
    scored = pixelwise("evaluate", "openvino.xml", "my_folder")
    assert scored.code == 0, scored.err
    chosen = pixelwise("optimize", "runs/small", "--form", "channels-last", "--rounds", "2")
    assert chosen.code == 0, chosen.err
    assert "100.000%" in chosen.out
    again = pixelwise("export", "runs/small", "--to", "torch", "--out", "torch.pt2")
    assert again.code == 2
    assert "was written before" in again.err


@pytest.mark.slow
def test_the_form_that_optimize_chose_predicts(pixelwise: Callable, place: Path, small: str) -> None:
    (place / "halves").mkdir()
    for path in (place / "my_folder" / "images").glob("*.png"):
        Image.open(path).resize((320, 240)).save(place / "halves" / path.name)
    forms = ("folded", "openvino")
    words = [word for form in forms for word in ("--form", form)]
    chosen = pixelwise("optimize", small, "--calibrate", "halves", *words, "--rounds", "3", "--json")
    told = json.loads(ended(chosen))
    assert told["size"] == [240, 320]
    rows = {row["form"]: row for row in told["table"]}
    assert list(rows) == ["eager", *forms]
    assert rows["folded"]["agreement"] > 0.9999
    assert rows["openvino"]["agreement"] > 0.9999
    fastest = min((row for row in rows.values() if row["milliseconds"]), key=lambda row: row["milliseconds"])
    assert told["form"] in (fastest["form"], "eager")

    ended(pixelwise("predict", small, "halves", "--out", "found/plain", "--plain"))
    optimized = pixelwise("predict", small, "halves", "--optimize", "--out", "found/optimized", "--plain")
    assert ended(optimized).startswith(f"form of the network: {told['form']}")
    assert optimized.err == "", "nothing is measured again"
    for name in sorted(path.name for path in (place / "halves").iterdir()):
        expected, found = (
            picture(place / "found" / way / name, (320, 240)) for way in ("plain", "optimized")
        )
        assert (found == expected).mean() > 0.999, name
