"""The task of a training: chosen by model and data, kept in recipe, history and checkpoint."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import pixelwise as pw
from pixelwise.tasks import TASKS
from pixelwise.training import Recipe, recipe_of, run
from pixelwise.training.callbacks import Progress

MakeRecipe = Callable[..., Recipe]
NAMES = ("cell", "nucleus")


def overlapping(number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of 48 x 64 pixels and its two masks, which overlap."""
    masks = np.zeros((2, 48, 64), bool)
    masks[0, 4 + number : 30, 6:40], masks[1, 16:42, 24 : 60 - number] = True, True
    noise = np.random.default_rng(number).integers(0, 30, (48, 64, 3))
    image = np.stack([*(40 + 150 * masks), np.full((48, 64), 60)], axis=-1) + noise
    return image.astype(np.uint8), masks.astype(np.uint8) * 255


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """A folder of masks for each class."""
    for number in range(5):
        image, masks = overlapping(number)
        for folder, array in zip(
            ("images", *(f"masks/{name}" for name in NAMES)), (image, *masks), strict=True
        ):
            (tmp_path / "cells" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / "cells" / folder / f"{number}.png")
    return tmp_path / "cells"


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A TIFF with a page for each class beside every image."""
    for folder in ("images", "masks"):
        (tmp_path / "pages" / folder).mkdir(parents=True)
    for number in range(5):
        image, masks = overlapping(number)
        Image.fromarray(image).save(tmp_path / "pages" / "images" / f"{number}.png")
        first, second = map(Image.fromarray, masks)
        first.save(tmp_path / "pages" / "masks" / f"{number}.tif", save_all=True, append_images=[second])
    return tmp_path / "pages"


def test_several_classes_per_pixel_from_a_folder_to_files(
    tiny: MakeRecipe, cells: Path, tmp_path: Path
) -> None:
    result = run(tiny(data=cells, epochs=2), progress=False)
    assert result.recipe.task == Recipe.read(result.path / "recipe.json").task == "multilabel"
    assert set(result.scores.per_class) == set(NAMES)
    assert all(0 < row["AP"] <= 1 for row in result.scores.per_class.values())
    page = result.report.read_text()
    assert all(f">{name}<" in page for name in NAMES)
    loaded = pw.load(result.best)
    assert (loaded.task, loaded.decoding) == ("multilabel", {})  # one image tells no error of a gain
    tuned = pw.evaluate(result.best, cells, progress=False)
    assert tuned["mean_dice"] >= result.scores["mean_dice"]
    written = pw.Predictor(result.best).folder(
        cells / "images", tmp_path / "out", overlay=True, progress=False
    )
    assert set(written) == set((tmp_path / "out").rglob("*.png"))
    assert {path.parent.name for path in written} == {"out", *NAMES}
    with Image.open(tmp_path / "out" / "cell" / "0.png") as mask:
        assert mask.size == (64, 48)


def test_layers_of_a_tiff_are_several_classes_per_pixel(tiny: MakeRecipe, pages: Path) -> None:
    result = run(tiny(data=pages, epochs=1), progress=False, report=False)
    assert result.recipe.task == "multilabel"
    assert len(result.scores.per_class) == 2


def test_a_task_that_the_model_does_not_serve_is_told(tiny: MakeRecipe) -> None:
    with pytest.raises(ValueError, match="there is no task 'multilable': did you mean 'multilabel'"):
        run(tiny(task="multilable"), progress=False)


def test_data_of_another_task_are_told(tiny: MakeRecipe, boxes: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="annotated by LabelMap, the model needs ClassMasks"):
        run(tiny(task="multilabel"), data=pw.open_data(boxes), progress=False)
    assert not (tmp_path / "run").exists()


def test_the_defaults_of_a_task_are_taken_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "multilabel", replace(TASKS["multilabel"], defaults={"lr": 0.5, "epochs": 3}))
    recipe = recipe_of({"data": "cells", "task": "multilabel", "epochs": 7})
    assert (recipe.lr, recipe.epochs) == (0.5, 7)
    assert recipe_of({"data": "cells"}).lr == Recipe("").lr


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"width": 16}),
        ({"model_arguments": {"in_channels": 1}}, {"width": 16, "in_channels": 1}),
        ({"model_arguments": {"width": 32}}, {"width": 32}),
        ({"model_arguments": {"encoder": "resnet18"}}, {"encoder": "resnet18"}),
        ({"model": "unet"}, {}),
    ],
)
def test_where_no_model_is_named_it_is_one_that_two_cores_can_train(
    settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    recipe = recipe_of({"data": "cells", **settings})
    assert (recipe.model, recipe.model_arguments) == ("unet", expected)


def test_the_best_epoch_is_picked_by_the_score_of_the_task(tiny: MakeRecipe, cells: Path) -> None:
    result = run(tiny(data=cells, epochs=3), progress=False, report=False)
    scores = [row["val_mean_dice"] for row in result.history]
    assert result.best_epoch == scores.index(max(scores)) + 1
    with (result.path / "metrics.csv").open(newline="") as file:
        assert {f"val_class/{name}" for name in NAMES} <= set(next(csv.DictReader(file)))
    history = [{"val_mean_iou": 0.9, "val_mean_dice": 0.1}, {"val_mean_iou": 0.2, "val_mean_dice": 0.4}]
    assert Progress("", history, best_epoch=2, monitor="mean_dice").best == 0.4


def test_a_checkpoint_written_before_there_were_tasks_still_loads(tmp_path: Path) -> None:
    new, old = tmp_path / "new.safetensors", tmp_path / "old.safetensors"
    pw.save(pw.build("unet", 2, encoder="tiny", width=4), new, pw.ClassTable.of("ground", "square"))
    with safe_open(new, framework="pt") as file:
        metadata = file.metadata()
    del metadata["task"]
    save_file(load_file(new), old, metadata | {"format": "pixelwise-1"})
    loaded = pw.load(old)
    assert (loaded.task, loaded.decoding) == (None, {})
    assert pw.Predictor(loaded).task.name == "semantic"


def test_a_recipe_written_before_there_were_tasks_still_reads(tmp_path: Path) -> None:
    settings = Recipe("street").as_dict()
    del settings["task"]
    (tmp_path / "recipe.json").write_text(json.dumps(settings))
    assert Recipe.read(tmp_path / "recipe.json") == Recipe("street")
