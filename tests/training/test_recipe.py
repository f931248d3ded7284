"""A recipe is the whole experiment as a value."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from pixelwise.machine import usable_cores
from pixelwise.training import Recipe
from pixelwise.training.run_report import command_of

RECIPES = st.builds(
    Recipe,
    data=st.text(min_size=1),
    model_arguments=st.dictionaries(st.text(), st.one_of(st.none(), st.booleans(), st.integers(), st.text())),
    loss=st.text(),
    class_weights=st.one_of(st.just("balanced"), st.tuples(st.floats(0, 9), st.floats(0, 9))),
    lr=st.floats(1e-9, 10),
    epochs=st.one_of(st.none(), st.integers(1, 1000)),
    crop=st.one_of(st.none(), st.lists(st.integers(1, 999), min_size=2, max_size=3).map(tuple)),
    scale=st.tuples(st.floats(0.1, 1), st.floats(1, 3)),
    freeze=st.lists(st.text(min_size=1)).map(tuple),
    seed=st.integers(0, 2**63 - 1),
    out=st.one_of(st.none(), st.text()),
)


@given(RECIPES)
def test_a_recipe_goes_through_json_unchanged(recipe: Recipe) -> None:
    assert Recipe.of(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_a_recipe_goes_through_a_file_unchanged(tmp_path: Path) -> None:
    recipe = Recipe("street", freeze=("encoder",), crop=None, class_weights=(1.0, 2.0), steps=7)
    recipe.write(tmp_path / "recipe.json")
    assert Recipe.read(tmp_path / "recipe.json") == recipe


def test_paths_and_lists_are_taken_as_settings() -> None:
    recipe = Recipe("street").changed(out=Path("runs/a"), crop=[64, 96], freeze=["encoder"])
    assert (recipe.out, recipe.crop, recipe.freeze) == ("runs/a", (64, 96), ("encoder",))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"epoch": 3}, "no setting 'epoch': did you mean 'epochs'"),
        ({"learning_speed_of_all": 3}, "no setting 'learning_speed_of_all'"),
        ({"epochs": 3, "steps": 5}, "epochs or steps, not both"),
        ({"epochs": 0}, "epochs must be a whole number at least 1, got 0"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"lr": 0}, "lr must be a number above 0, got 0"),
        ({"lr": float("nan")}, "lr must be a number"),
        ({"lr": float("inf")}, "lr must be a number"),
        ({"lr": "fast"}, "lr must be a number above 0, got 'fast'"),
        ({"flip": 1.5}, "flip must be a number at least 0 and at most 1"),
        ({"label_smoothing": -0.1}, "label_smoothing must be a number at least 0"),
        ({"optimizer": "lion"}, "optimizer must be one of adamw, adam, sgd, rmsprop, got 'lion'"),
        ({"schedule": "stairs"}, "schedule must be one of poly, cosine, linear, step, constant"),
        ({"drops": 0.5}, "drops must be numbers between 0 and 1, got 0.5"),
        ({"drops": (0.5, 1.5)}, "drops must be numbers between 0 and 1"),
        ({"precision": "64"}, "precision must be one of 32, bf16, 16"),
        ({"crop": (64,)}, "crop must be two or three positive numbers"),
        ({"crop": (64.5, 64)}, "crop must be two or three positive numbers"),
        ({"crop": (64, 64, 64, 64)}, "crop must be two or three positive numbers"),
        ({"scale": (2.0, 1.0)}, "scale must be a range LOW, HIGH"),
        ({"scale": None}, "scale must be two positive numbers"),
        ({"class_weights": "median"}, "class_weights must be none, balanced or one number per class"),
        ({"class_weights": (1, -1)}, "class_weights must be none, balanced or one number"),
        ({"freeze": "encoder"}, "freeze must be names of parts"),
        ({"model": None}, "model must be text"),
        ({"out": 3}, "out must be text or None"),
        ({"channels_last": 1}, "channels_last must be true or false"),
        ({"model_arguments": {"encoder": object()}}, "model_arguments must be plain values"),
    ],
)
def test_a_wrong_setting_is_told_in_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe("street").changed(**changes)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is no recipe: it is not JSON"),
        ("[]", "is no recipe: it must hold one object"),
        ('{"model": "unet"}', "a recipe needs data"),
        ('{"data": "a", "epoch": 1}', "did you mean 'epochs'"),
    ],
)
def test_a_file_that_holds_no_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"recipe\.json.*{message}"):
        Recipe.read(path)


def test_the_command_of_a_recipe_for_volumes_tells_its_three_sides() -> None:
    assert "--crop 48x64x32" in command_of(Recipe("scans", crop=(48, 64, 32)))


def test_a_missing_recipe_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read the recipe"):
        Recipe.read(tmp_path / "none.json")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_no_more_processes_load_images_than_cores_may_be_used() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from pixelwise.recipe import Recipe; print(Recipe('').workers)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert Recipe("").workers == min(2, usable_cores())
