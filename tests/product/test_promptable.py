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
    assert "mean IoU" in shown
    scores = ended(pixelwise("evaluate", "runs/sam", "shapes", "--json"))
    assert all(name in scores for name in ("mean_iou_1", "mean_iou_5", "mean_iou_8", "noc_85", "noc_90"))
    asked = ["prompt", "photos/large.jpg", "--model", "runs/sam", "--embedding", "seen.safetensors"]
    ended(pixelwise(*asked, "--point", "2000,1500", "--out", "large.png"))
    with Image.open(place / "large.png") as mask:
        assert mask.size == (4000, 3000)
    ended(pixelwise(*asked, "--box", "1500,1000,2500,2000", "--out", "large_overlay.png"))
    with Image.open(place / "large_overlay.png") as overlay:
        assert np.asarray(overlay).shape == (3000, 4000, 3)
        assert overlay.getpixel((1500, 1500)) == (20, 150, 60)  # the left side of the box
    ended(pixelwise("export", "runs/sam", "--out", "decoder.onnx"))


def test_prompts_of_nothing_are_one_sentence(pixelwise: Callable, place: Path) -> None:
    outcome = pixelwise("prompt", "photos/large.jpg", "--model", "nothing", "--point", "1,2")
    assert outcome.code == 2
    assert "nothing" in outcome.err
    assert "Traceback" not in outcome.err
