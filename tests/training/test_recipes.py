"""The runnable experiments in recipes/ say what they claim to say."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

import pixelwise as pw
from pixelwise.training import Recipe, freeze

FOLDER = Path(__file__).parent.parent.parent / "recipes"
FILES = sorted(FOLDER.glob("*.py"))


def function_of(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, path.stem)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipe_file_holds_a_function_of_its_name_that_returns_a_recipe(path: Path) -> None:
    recipe = function_of(path)("data", "runs/out")
    assert isinstance(recipe, Recipe)
    assert (recipe.data, recipe.out) == ("data", "runs/out")
    assert recipe.name
    assert recipe.model in pw.list_models()


def test_fcn32s_fixed_trains_the_scores_alone() -> None:
    recipe = function_of(FOLDER / "fcn32s_fixed.py")("data", pretrained=False)
    with torch.device("meta"):
        model = pw.build(recipe.model, 21, **recipe.model_arguments)
    freeze(model, recipe.freeze)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "score_fr.weight",
        "score_fr.bias",
    ]


def test_the_camvid_recipe_starts_from_random_weights() -> None:
    recipe = function_of(FOLDER / "camvid_unet.py")("data")
    assert not recipe.model_arguments.get("pretrained", False)
