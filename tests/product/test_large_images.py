"""One large picture from file to file, in a fresh process that is killed in the middle and started again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import pixelwise as pw


@pytest.mark.slow
def test_a_killed_command_goes_on_and_gives_what_an_undisturbed_one_gives(
    place: Path, pixelwise: Callable[..., object], tmp_path: Path
) -> None:
    weights = tmp_path / "weights.safetensors"
    pw.save(pw.build("unet", 3, width=4).eval(), weights, pw.ClassTable.of("ground", "disc", "road"))
    with Image.open(place / "photos" / "large.jpg") as picture:
        tifffile.imwrite(tmp_path / "large.tif", np.asarray(picture), tile=(256, 256), photometric="rgb")
    command = ["predict", str(weights), str(tmp_path / "large.tif"), "--tile", "512", "--tile-blend", "crop"]
    planned = pixelwise(*command, "--out", str(tmp_path / "map.tif"), "--plan")
    assert planned.code == 0
    assert "3000 x 4000 pixels in" in planned.out
    running = subprocess.Popen(
        [sys.executable, "-m", "pixelwise", *command, "--out", str(tmp_path / "map.tif")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / ".map.tif.partial.json").exists() and running.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "map.tif").exists()
    again = pixelwise(*command, "--out", str(tmp_path / "map.tif"))
    assert again.code == 0, again.err
    whole = pixelwise(*command, "--out", str(tmp_path / "whole.tif"))
    assert whole.code == 0, whole.err
    assert (tifffile.imread(tmp_path / "map.tif") == tifffile.imread(tmp_path / "whole.tif")).all()
    assert tifffile.imread(tmp_path / "map.tif").shape == (3000, 4000)
    assert not list(tmp_path.glob(".map*"))
