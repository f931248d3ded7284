"""Running the command line inside this process."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelwise.cli import main


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """What a user reads on standard error, on one line whatever the width of the terminal."""
        return " ".join(self.err.split())


@pytest.fixture
def pixelwise(monkeypatch, capsys) -> Callable[..., Outcome]:
    """`pixelwise("models", "--json")` is that command; its exit code and what it printed."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["pixelwise", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        printed = capsys.readouterr()
        # The first test that meets a kernel on a new machine is told of its compilation; the others are not.
        told = [line for line in printed.err.splitlines(keepends=True) if ": compiling " not in line]
        return Outcome(int(exit.value.code or 0), printed.out, "".join(told))

    return run


@pytest.fixture
def street(tmp_path) -> Path:
    """A data folder: four images of 48 x 64 pixels, bright squares on dark ground, with masks."""
    folder = tmp_path / "street"
    numbers = np.random.default_rng(0)
    for i, part in enumerate(("train", "train", "train", "val")):
        labels = np.zeros((48, 64), np.uint8)
        y, x = numbers.integers(0, 24, 2)
        labels[y : y + 20, x : x + 28] = 1
        image = (labels * 150 + numbers.integers(20, 60, labels.shape)).astype(np.uint8)
        for kind, array in (("images", image), ("masks", labels)):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / kind / part / f"{i}.png")
    (folder / "classes.csv").write_text("name,r,g,b\nground,0,0,0\nsquare,255,0,0\n")
    return folder


@pytest.fixture
def weights(tmp_path) -> Path:
    """A checkpoint of an untrained model for `street`."""
    import pixelwise as pw

    model = pw.build("unet", 2, encoder="tiny", width=4)
    pw.save(
        model, tmp_path / "weights.safetensors", pw.ClassTable(("ground", "square"), ((0, 0, 0), (255, 0, 0)))
    )
    return tmp_path / "weights.safetensors"
