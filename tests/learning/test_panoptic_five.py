"""Panoptic FPN learns five images of COCO by heart, through the recipe that a user runs."""

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pixelwise.training import run

RECIPE = Path(__file__).parent.parent.parent / "recipes" / "panoptic_fpn_five.py"


@pytest.mark.slow
def test_panoptic_fpn_learns_five_images_to_a_quality_of_eight_tenths(
    shared_data: Callable[..., Path], tmp_path: Path
) -> None:
    spec = importlib.util.spec_from_file_location("panoptic_fpn_five", RECIPE)
    recipes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipes)
    data = recipes.copy_five(shared_data("data", "coco128", "open"), tmp_path / "data")
    start = time.process_time()
    result = run(recipes.panoptic_fpn_five(str(data), str(tmp_path / "run")), progress=False)
    print(f"PQ {result.scores['pq']:.3f} after {(time.process_time() - start) / 60:.1f} minutes of one core")
    assert result.scores["pq"] >= 0.8
    assert result.report.exists()
