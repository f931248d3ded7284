"""The runnable experiments in recipes/ say what they claim to say."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pixelwise as pw
from pixelwise.training import Recipe, freeze

FOLDER = Path(__file__).parent.parent.parent / "recipes"
BY_HAND = {"boxsup", "camvid_texton_boost", "hippocampus_unet3d"}  # nothing that Lightning trains: no Recipe
FILES = [path for path in sorted(FOLDER.glob("*.py")) if path.stem not in BY_HAND]


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


def test_texton_boost_learns_from_a_folder_and_is_scored(tmp_path) -> None:
    random = np.random.default_rng(0)
    for i, part in enumerate(("train", "train", "val")):
        labels = np.zeros((48, 64), np.uint8)
        labels[:, random.integers(20, 44) :] = 1
        image = (labels * 120 + random.integers(20, 90, labels.shape)).astype(np.uint8)
        for kind, array in (("images", image), ("masks", labels)):
            (tmp_path / kind / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / kind / part / f"{i}.png")
    (tmp_path / "classes.csv").write_text("name,r,g,b\nleft,0,0,0\nright,255,0,0\n")
    recipe = function_of(FOLDER / "camvid_texton_boost.py")
    model, alone, whole = recipe(str(tmp_path), rounds=8, candidates=10, num_textons=8)
    assert len(model.trace) == 8
    assert alone.pixel_accuracy > 0.85
    assert whole.pixel_accuracy > 0.9


def test_boxsup_learns_nuclei_from_boxes(tmp_path) -> None:
    """Bright triangles: half of a box is background, which regions know and filled boxes do not."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    for i in range(5):
        numbers = np.zeros((64, 64), np.uint16)
        for number, (top, left) in enumerate([(4, 4), (36, 8), (20, 36)], 1):
            triangle = (rows >= top) & (columns >= left) & (rows - top + columns - left < 22)
            numbers[triangle] = number
        image = (np.where(numbers > 0, 190, 40) + random.integers(0, 12, numbers.shape)).astype(np.uint8)
        for kind, array in (("images", image), ("labels", numbers)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / kind / f"{i}.png")
    boxsup = function_of(FOLDER / "boxsup.py")
    found = boxsup(tmp_path, rounds=2, steps=12, crop=64, batch_size=2, width=4)
    table = {row.supervision: row for row in found}
    assert list(table) == ["masks", "boxes", "boxsup"]
    assert table["masks"].labels == 1
    assert table["boxes"].labels < 0.6
    assert table["boxsup"].labels > table["boxes"].labels + 0.1
    assert all(0 <= row.iou <= 1 for row in found)
    with pytest.raises(ValueError, match="at least two images"):
        boxsup(tmp_path / "labels")
