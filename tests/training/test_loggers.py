"""Curves go where the recipe says."""

import csv
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import loggers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pixelwise.training import Recipe, resume, run

MakeRecipe = Callable[..., Recipe]


def test_each_part_of_the_loss_is_told_in_table_and_curves(tiny: MakeRecipe) -> None:
    recipe = tiny(epochs=2, steps=None, batch_size=1, accumulate=1, loss="cross_entropy+0.5*dice")
    result = run(recipe, progress=False, report=False)
    rows = list(csv.DictReader((result.path / "metrics.csv").read_text().splitlines()))
    for row in rows:
        train = [float(row[f"train_loss_{part}"]) for part in ("cross_entropy", "dice", "aux")]
        assert sum(train) == pytest.approx(float(row["train_loss"]), rel=1e-5)
        val = [float(row[f"val_loss_{part}"]) for part in ("cross_entropy", "dice")]
        assert sum(val) == pytest.approx(float(row["val_loss"]), rel=1e-5)
        assert all(value > 0 for value in (*train, *val))
        assert float(row["val_loss_dice"]) <= 0.5  # its weight is applied
    curves = EventAccumulator(str(result.path / "tensorboard"))
    curves.Reload()
    tags = set(curves.Tags()["scalars"])
    assert {
        "train/loss",
        "train/loss_dice",
        "train/loss_aux",
        "val/loss_cross_entropy",
        "val/loss_dice",
    } <= tags


def test_validation_comes_every_so_many_epochs_and_after_the_last(tiny: MakeRecipe) -> None:
    result = run(tiny(epochs=5, val_every=2), progress=True, report=True)
    validated = [not math.isnan(row["val_mean_iou"]) for row in result.history]
    assert validated == [False, True, False, True, True]
    assert result.best_epoch in (2, 4, 5)
    rows = list(csv.DictReader((result.path / "metrics.csv").read_text().splitlines()))
    assert rows[0]["val_pixel_accuracy"] == ""
    assert rows[1]["val_pixel_accuracy"] != ""


def test_early_stopping_waits_for_a_validation(tiny: MakeRecipe) -> None:
    recipe = tiny(early_stopping=2, lr=1e-12, epochs=30, val_every=3, momentum=0.0, optimizer="sgd")
    result = run(recipe, progress=False, report=False)
    assert len(result.history) % 3 == 0
    assert len(result.history) < 30


def test_csv_writes_nothing_beside_the_table(tiny: MakeRecipe) -> None:
    path = run(tiny(epochs=1, logger="csv"), progress=False, report=False).path
    assert not (path / "tensorboard").exists()
    assert (path / "metrics.csv").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_before_anything_is_written(
    tiny: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda p, *a: None if p == name else find(p, *a))
    with pytest.raises(ValueError, match=f"the logger {name} needs the package {name}: pip install {name}"):
        run(tiny(logger=name), progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name, of_lightning", [("wandb", "WandbLogger"), ("mlflow", "MLFlowLogger")])
def test_a_run_goes_on_in_the_same_run_of_the_logger(
    tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch, name: str, of_lightning: str
) -> None:
    """The packages themselves are not needed: a recorder takes the place of Lightning's logger."""
    made: list[Any] = []

    class Recorder:
        def __init__(self, **settings: Any) -> None:
            self.settings, self.logged, self.ended = settings, [], []
            self.run_id = settings.get("run_id") or "17"
            made.append(self)

        def log_hyperparams(self, settings: dict[str, Any]) -> None:
            self.recipe = settings

        def log_metrics(self, values: dict[str, float], step: int) -> None:
            self.logged.append((step, values))

        def finalize(self, status: str) -> None:
            self.ended.append(status)

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda p, *a: object() if p == name else find(p, *a))
    monkeypatch.setattr(loggers, of_lightning, Recorder)
    path = run(tiny(epochs=1, logger=name), progress=False, report=False).path
    resume(path, epochs=2, progress=False, report=False)
    first, second = made
    key = {"wandb": "id", "mlflow": "run_id"}[name]
    assert (
        second.settings[key]
        == {"wandb": first.settings["id"] if name == "wandb" else "", "mlflow": "17"}[name]
    )
    assert first.recipe["logger"] == name
    assert [step for step, values in first.logged if "val/mean_iou" in values] == [3]
    assert [step for step, values in second.logged if "val/mean_iou" in values] == [6]
    assert first.ended == second.ended == ["success"]
