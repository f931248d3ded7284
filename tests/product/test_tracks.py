"""`pixelwise track` on a real clip, in a fresh process."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pixelwise as pw
from pixelwise.types import ClassTable
from pixelwise.video import read_frames

from .conftest import Outcome


@pytest.mark.slow
def test_a_clip_of_davis_is_followed_written_and_scored(
    pixelwise: Callable[..., Outcome], place: Path, shared_data: Callable[..., Path]
) -> None:
    clip = shared_data("data", "davis_sample", "car-shadow")
    torch.manual_seed(0)
    model = pw.build("sam2_hiera_tiny", image_size=256)
    torch.nn.init.constant_(model.mask_decoder.pred_obj_score_head.layers[2].bias, 9.0)  # visible objects
    pw.save(model, place / "sam2.safetensors", ClassTable.of("object"))
    first = min((clip / "annotations").iterdir())
    done = pixelwise(
        "track", clip / "frames", "--model", "sam2.safetensors", "--mask", f"0,{first}", "--out", "tracks",
        "--truth", clip / "annotations",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "1 object followed through 40 frames" in done.out
    assert "J&F" in done.out
    mask = np.array(Image.open(place / "tracks" / "masks" / "00000.png"))
    truth = np.array(Image.open(first)) > 0
    assert ((mask == 1) & truth).sum() / ((mask == 1) | truth).sum() > 0.9
    assert json.loads((place / "tracks" / "tracks.json").read_text())["videos"][0]["length"] == 40
    assert sum(1 for _ in read_frames(place / "tracks" / "overlay.mp4")) == 40
