"""The report of a run directory."""

import csv
import html
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from pixelwise.cli import app
from pixelwise.cli.train import recipe_settings
from pixelwise.data import open_data
from pixelwise.predict import evaluate_images
from pixelwise.training import Recipe, command_of, run
from pixelwise.training.callbacks import write_history


def test_the_report_of_a_run_shows_images_settings_and_the_command(
    boxes: Path, tiny: Callable[..., Recipe]
) -> None:
    recipe = tiny(epochs=2, name="my boxes")
    result = run(recipe, progress=False)
    page = result.report.read_text()
    images = evaluate_images(result.best, open_data(boxes), progress=False).ranked()
    assert f"(epoch {result.best_epoch} of 2) on 3 validation images." in page
    order = ["Best predictions", images[-1].id, "Worst predictions", images[0].id, "To repeat", "Settings"]
    places = [page.index(words) for words in order]
    assert places == sorted(places)
    assert page.count("class=example") == 3  # each is shown once
    assert "<tr class=changed><td>model</td><td>pspnet</td><td class=default>default unet</td></tr>" in page
    assert f"<pre>{html.escape(command_of(recipe.changed(task='semantic')))}</pre>" in page
    assert "<td>cores</td>" in page
    assert "curves of the classes" in page


def test_every_epoch_notes_the_iou_of_each_class(tiny: Callable[..., Recipe]) -> None:
    result = run(tiny(epochs=2), progress=False, report=False)
    with (result.path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, noted in zip(rows, result.history, strict=True):
        found = [float(row["val_class/background"]), float(row["val_class/box"])]
        assert sum(found) / 2 == pytest.approx(noted["val_mean_iou"], abs=1e-6)
    best = result.history[result.best_epoch - 1]
    assert best["val_class/box"] == result.scores.per_class["box"]["IoU"]


def test_a_run_that_began_without_the_columns_of_the_classes_goes_on_with_them(tmp_path: Path) -> None:
    write_history(tmp_path / "metrics.csv", [{"epoch": 1.0}, {"epoch": 2.0, "val_class/box": 0.5}])
    assert (tmp_path / "metrics.csv").read_text().split() == ["epoch,val_class/box", "1,", "2,0.5"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": "deeplabv3plus", "model_arguments": {"encoder": "resnet50", "pretrained": False}},
        {"model_arguments": {"in_channels": 1, "width": 16, "up": "a b"}, "crop": None, "scale": (0.75, 1.5)},
        {"class_weights": (1.0, 2.5), "freeze": ("encoder", "head"), "channels_last": False, "steps": 7},
        {"class_weights": "balanced", "name": "it's mine", "warmup_steps": 3, "clip_norm": 1.0, "seed": 5},
        {"classes": "my classes.csv", "crop": (64, 96), "early_stopping": 2, "val_fraction": 0.1},
    ],
)
def test_the_command_of_a_report_gives_the_same_recipe(
    changes: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe("my data").changed(**changes)
    program = typer.main.get_command(app)
    read: list[Recipe] = []

    def note(**options: object) -> None:
        given = {name: value for name, value in options.items() if value is not None and value != ()}
        read.append(Recipe.of(recipe_settings(given)))

    monkeypatch.setattr(program.commands["train"], "callback", note)
    words = shlex.split(command_of(recipe.changed(out="runs/there")))
    program.main(words[1:], prog_name=words[0], standalone_mode=False)
    assert read == [recipe]
    assert ("--no-plan" in words) == (recipe.epochs is None and recipe.steps is None)
    assert words[words.index("--model") + 1] == recipe.model


def test_data_in_memory_have_no_command() -> None:
    assert command_of(Recipe("")) == ""
