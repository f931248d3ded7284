"""Mask2Former learns five images of COCO by heart, and its weights serve two tasks."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from pixelwise.training import run

RECIPE = Path(__file__).parent.parent.parent / "recipes" / "mask2former_five.py"


@pytest.mark.slow
def test_mask2former_learns_segments_and_instances_of_five_images(
    shared_data: Callable[..., Path], tmp_path: Path
) -> None:
    spec = importlib.util.spec_from_file_location("mask2former_five", RECIPE)
    recipes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipes)
    data = recipes.copy_five(shared_data("data", "coco128", "open"), tmp_path / "data")
    result = run(recipes.mask2former_five(str(data), str(tmp_path / "run")), progress=False)
    things = recipes.as_instances(tmp_path / "run", data, tmp_path / "instances.html")
    print(f"PQ {result.scores['pq']:.3f}, mask AP {things['mask_ap']:.3f}")
    assert result.scores["pq"] >= 0.8
    assert things["mask_ap"] >= 0.6
    assert result.report.exists()
    assert (tmp_path / "instances.html").exists()
