"""Conversion and the table of data sets as commands: real photographs, fresh processes."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_real_data_set_goes_through_four_tools(pixelwise: Callable, place: Path, shared_data) -> None:
    source = shared_data("data", "fruits_nuts")
    for to in ("cvat", "labelme", "geojson", "coco", "yolo"):
        done = pixelwise("convert", source, "--to", to, "--out", f"converted/{to}")
        assert done.code == 0, done.err
        assert "131 shapes" in done.out
        source = place / "converted" / to
    again = pixelwise("convert", source, "--to", "coco", "--out", "converted/coco")
    assert again.code == 2
    assert "is not empty" in again.err
    checked = pixelwise("check", source, "--task", "instance")
    assert "hazelnut" in checked.out


@pytest.mark.slow
def test_data_sets_are_listed_and_shown(pixelwise: Callable) -> None:
    listed = pixelwise("datasets")
    assert listed.code == 0, listed.err
    assert "ade20k" in listed.out
    shown = pixelwise("datasets", "ade20k")
    assert "annotations/training/{id}.png" in shown.out
    assert "150 classes: wall" in shown.out
    wrong = pixelwise("datasets", "ade20")
    assert wrong.code == 2
    assert "did you mean ade20k" in wrong.err
