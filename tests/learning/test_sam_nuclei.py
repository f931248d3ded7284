"""The small SAM learns nuclei from random weights: half of its recipe, three images held out."""

from pathlib import Path

import pytest

import pixelwise as pw
from pixelwise.recipe import read_settings

RECIPE = Path(__file__).parent.parent.parent / "recipes" / "nuclei_sam_tiny.toml"


@pytest.mark.slow
def test_a_small_sam_learns_nuclei_in_four_minutes(shared_data, tmp_path: Path) -> None:
    data = pw.open_data(shared_data("data", "dsb2018_nuclei"), task="promptable")
    small = [i for i, one in enumerate(data.val) if max(one.image.shape) <= 360][:3]
    settings = read_settings(RECIPE) | {"steps": 300, "images_per_epoch": 600}
    held_out = data.val.take(small)
    result = pw.train((data.train, held_out), out=tmp_path / "run", progress=False, **settings)
    assert result.scores["mean_iou_5"] > 0.55
    assert result.scores["mean_iou_1"] < result.scores["mean_iou_8"]
