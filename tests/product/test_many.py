"""Folders and movies by real commands, with the threads of the machine."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pixelwise as pw
from pixelwise.video import MovieWriter, read_frames
from tests.product.conftest import ROOT


@pytest.fixture(scope="module")
def weights(place: Path) -> Path:
    path = place / "many.safetensors"
    pw.save(pw.build("unet", 3, encoder="tiny", width=4), path, pw.ClassTable.of("ground", "disc", "road"))
    return path


@pytest.mark.slow
def test_a_movie_and_a_folder_become_masks_and_overlays(pixelwise, place: Path, weights: Path) -> None:
    images = sorted((place / "my_folder" / "images").iterdir())
    with MovieWriter(place / "drive.mp4", rate=5) as movie:
        for path in images:
            movie.write(np.asarray(Image.open(path))[:479])  # an odd height
    done = pixelwise("predict", weights, "drive.mp4", "my_folder/images", "--out", "many", "--overlay")
    assert done.code == 0, done.err
    assert "12 predictions and 7 overlays written to many" in done.out
    shown = list(read_frames(place / "many" / "drive_overlay.mp4"))
    assert [frame.shape for frame in shown] == [(480, 640, 3)] * 6
    assert np.asarray(Image.open(place / "many" / "drive" / "000005.png")).shape == (480, 640)
    again = pixelwise(
        "predict", weights, "drive.mp4", "my_folder/images", "--out", "many", "--overlay", "--resume"
    )
    assert again.code == 0, again.err
    assert "0 predictions written to many, 7 sources had results already" in again.out
    cut = (place / "drive.mp4").read_bytes()
    (place / "cut.mp4").write_bytes(cut[: len(cut) * 3 // 4])
    done = pixelwise("predict", weights, "cut.mp4", "--out", "of_cut")
    assert done.code == 1
    assert "cut.mp4 is cut off or damaged after" in done.err
    assert (place / "of_cut" / "cut_overlay.mp4").exists()


@pytest.mark.slow
def test_threads_that_wait_sleep_unless_the_user_says_otherwise(place: Path, weights: Path) -> None:
    def told(policy: str | None, out: str) -> str:
        # libgomp tells its settings on standard error.
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "TRUE"}
        variables.pop("OMP_WAIT_POLICY", None)
        if policy is not None:
            variables["OMP_WAIT_POLICY"] = policy
        image = place / "my_folder" / "images" / "000.png"
        words = [sys.executable, "-m", "pixelwise", "predict", weights, image, "--out", place / out]
        done = subprocess.run(
            list(map(str, words)), env=variables, capture_output=True, text=True, check=True
        )
        return done.stderr

    assert "OMP_WAIT_POLICY = 'PASSIVE'" in told(None, "passive")
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in told("ACTIVE", "active")
