"""What a person sees while waiting."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from pixelwise.training import Recipe, progress, run

MakeRecipe = Callable[..., Recipe]


def shown(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    run(recipe, report=False)
    return output.getvalue()


def test_a_terminal_shows_epoch_loss_mean_iou_and_time_left(
    tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shown(tiny(epochs=2), monkeypatch, terminal=True)
    assert "epoch 2/2" in text
    assert "12/12" in text  # 3 training and 3 validation batches per epoch
    assert "mean IoU 0." in text
    assert "(best 0." in text
    assert "0:00:00" in text


def test_a_file_gets_one_line_per_epoch(tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(tiny(epochs=3), monkeypatch, terminal=False).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert all("mean IoU 0." in line and "val loss" in line for line in lines)


def test_nothing_is_shown_where_nothing_is_asked_for(
    tiny: MakeRecipe, capfd: pytest.CaptureFixture[str]
) -> None:
    run(tiny(epochs=1), progress=False)
    assert capfd.readouterr() == ("", "")
