"""The shortest command: a folder and a time, from an empty directory to scores, with default threads.

Beside other tests a minute can be too short: these are slow.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from .conftest import scene
from .test_commands import ended

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def discs(place: Path) -> str:
    """The name of a folder of 16 images of 240 x 320 pixels."""
    for number in range(16):
        for kind, array in zip(("images", "masks"), scene(240, 320, seed=number), strict=True):
            (place / "discs" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(place / "discs" / kind / f"{number:03}.png")
    return "discs"


@pytest.fixture(scope="module")
def planned(pixelwise: Callable, place: Path, discs: str) -> Path:
    started = time.monotonic()
    shown = ended(pixelwise("train", discs, "--budget", "60s", "--out", "runs/planned"))
    assert time.monotonic() - started < 2 * 60  # other tests use the machine too
    for told in ("choice", "reason", "learning rate", "Trivial: commonest class"):
        assert told in shown, told
    return place / "runs" / "planned"


def test_a_minute_gives_a_model_that_is_better_than_a_constant(
    pixelwise: Callable, planned: Path, discs: str
) -> None:
    told = json.loads(ended(pixelwise("evaluate", planned, discs, "--json")))
    assert told["mean_iou"] > max(told["baselines"].values())


def test_choices_and_reasons_are_kept(planned: Path) -> None:
    plan = json.loads((planned / "plan.json").read_text())
    assert plan["budget"] == 60
    assert all(choice["reason"] for choice in plan["choices"])
    assert "To repeat" in (planned / "report.html").read_text()


def test_a_plan_is_shown_without_training(pixelwise: Callable, place: Path, discs: str) -> None:
    told = json.loads(ended(pixelwise("plan", discs, "--budget", "2m", "--json")))
    assert {"model", "crop", "loss"} <= set(told["settings"])
    assert not list((place / "runs").glob("discs*"))
