"""Promptable networks from the command line: trained, scored, asked about a photograph, exported."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .test_objects import coco as coco, ended

NETWORK = ["--model", "sam", "--set", "depth=1", "--set", "width=32", "--set", "decoder_width=32"]


@pytest.mark.slow
def test_a_network_is_trained_scored_asked_and_exported(pixelwise: Callable, place: Path, coco: Path) -> None:
    run = ["--steps", "2", "--workers", "0", "--out", "runs/sam"]
    shown = ended(pixelwise("train", "shapes", "--task", "promptable", *NETWORK, *run))
    assert (place / "runs" / "sam" / "report.html").is_file()
    assert "mean_iou_5" in shown
    assert "noc_85" in ended(pixelwise("evaluate", "runs/sam", "shapes"))
    asked = ["prompt", "photos/large.jpg", "--model", "runs/sam", "--embedding", "seen.safetensors"]
    ended(pixelwise(*asked, "--point", "2000,1500", "--out", "large.png"))
    assert Image.open(place / "large.png").size == (4000, 3000)
    ended(pixelwise(*asked, "--box", "1500,1000,2500,2000", "--out", "large_overlay.png"))
    assert np.asarray(Image.open(place / "large_overlay.png")).shape == (3000, 4000, 3)
    ended(pixelwise("export", "runs/sam", "--out", "decoder.onnx"))


def test_prompts_of_nothing_are_one_sentence(pixelwise: Callable, place: Path) -> None:
    outcome = pixelwise("prompt", "photos/large.jpg", "--model", "nothing", "--point", "1,2")
    assert outcome.code == 2
    assert "nothing" in outcome.err
    assert "Traceback" not in outcome.err
