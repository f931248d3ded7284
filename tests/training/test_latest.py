"""Pictures of the latest predictions are drawn while a network is trained, and change nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pixelwise.training import Recipe, run
from pixelwise.training.latest import LatestPictures

MakeRecipe = Callable[..., Recipe]


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_training_with_pictures_is_the_same_as_without(
    tiny: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float | None
) -> None:
    given = {} if ema is None else {"ema": ema}
    first = run(tiny(epochs=2, **given), progress=False, report=False)
    pictures = sorted(path.name for path in (first.path / "pictures").iterdir())
    assert pictures == ["latest_1.png", "latest_2.png", "latest_3.png"][: len(pictures)]
    with Image.open(first.path / "pictures" / "latest_1.png") as picture:
        assert len(picture.getcolors(1 << 20) or ()) > 2
    monkeypatch.setattr(LatestPictures, "on_train_epoch_end", lambda *_: None)
    again = run(tiny(epochs=2, out=tmp_path / "again", **given), progress=False, report=False)
    assert not (again.path / "pictures").exists()
    ours, theirs = load_file(first.last), load_file(again.last)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert [row["val_loss"] for row in first.history] == [row["val_loss"] for row in again.history]


def test_a_training_goes_on_when_pictures_cannot_be_drawn(
    tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = []

    def fail(self: LatestPictures, module: object) -> None:
        drawn.append(module)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(LatestPictures, "_draw", fail)
    result = run(tiny(epochs=3), progress=False, report=False)
    assert len(result.history) == 3
    assert len(drawn) == 1
    assert "no pictures of the latest predictions: out of memory" in capsys.readouterr().err


def test_pictures_follow_each_other_after_twenty_times_what_they_took(
    tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, drawn = [0.0], []
    monkeypatch.setattr("pixelwise.training.latest.monotonic", lambda: now[0])

    look = LatestPictures.on_train_epoch_end

    def draw(self: LatestPictures, module: object) -> None:
        drawn.append(now[0])
        now[0] += 1

    def after_eight_seconds(self: LatestPictures, *given: Any) -> None:
        now[0] += 8
        look(self, *given)

    monkeypatch.setattr(LatestPictures, "_draw", draw)
    monkeypatch.setattr(LatestPictures, "on_train_epoch_end", after_eight_seconds)
    run(tiny(epochs=6), progress=False, report=False)
    assert drawn == [8, 33]  # 8, 17, 25, 33, ...: not before 9 + 20
