"""The program as its users run it: fresh processes, the machine's own threads, images of real size."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
THREADS = ("OMP", "MKL", "OPENBLAS", "NUMBA", "NUMEXPR", "VECLIB_MAXIMUM")


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def ended(outcome: Outcome) -> str:
    """What a command that went well printed; nothing on standard error looks like a failure."""
    assert outcome.code == 0, outcome.err or outcome.out
    for word in ("Traceback", "Error", "Warning", "Unexpected"):
        assert word not in outcome.err, outcome.err
    return outcome.out


def picture(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """The pixels of a picture that is not constant and has this width and height."""
    with Image.open(path) as opened:
        assert size is None or opened.size == size, path
        pixels = np.asarray(opened)
    assert (pixels != pixels.reshape(-1, *pixels.shape[2:])[0]).any(), f"{path} is constant"
    return pixels


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: `my_folder` as in the README, and `photos` with one of 12 megapixels."""
    place = tmp_path_factory.mktemp("product")
    for number in range(6):
        image, labels = scene(480, 640, seed=number)
        for kind in ("images", "masks"):
            (place / "my_folder" / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / "my_folder" / "images" / f"{number:03}.png")
        Image.fromarray(labels).save(place / "my_folder" / "masks" / f"{number:03}.png")
    (place / "photos").mkdir()
    Image.fromarray(scene(3000, 4000, seed=7)[0]).save(place / "photos" / "large.jpg", quality=90)
    return place


def scene(height: int, width: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bright discs on a dark, uneven, noisy ground with a road across; image and labels 0, 1, 2."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    labels = np.zeros((height, width), np.uint8)
    labels[abs(y - height * 0.8 - 0.05 * x) < 30] = 2
    for top, left in random.integers(40, (height - 40, width - 40), (height * width // 12_000, 2)):
        near = slice(top - 40, top + 40), slice(left - 40, left + 40)
        labels[near][(y[near] - top) ** 2 + (x[near] - left) ** 2 < random.integers(18, 32) ** 2] = 1
    shade = np.array([60, 190, 110], np.float32)[labels] + 20 * np.sin(x / 90) + 15 * np.cos(y / 70)
    shade += random.normal(0, 9, shade.shape).astype(np.float32)
    colors = shade[..., None] * np.array([1.0, 0.95, 0.85], np.float32)
    return np.clip(colors, 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="session")
def pixelwise(place: Path) -> Callable[..., Outcome]:
    """`pixelwise("check", "my_folder")` runs that command in a process of its own."""
    variables = {
        name: value for name, value in os.environ.items() if name.removesuffix("_NUM_THREADS") not in THREADS
    }
    variables["PYTHONPATH"] = str(ROOT)  # the package beside these tests, whatever is installed

    def run(*arguments: object) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", "pixelwise", *map(str, arguments)],
            cwd=place,
            env=variables,
            capture_output=True,
            text=True,
            timeout=900,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run
