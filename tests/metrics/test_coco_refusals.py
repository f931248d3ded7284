"""Files that are not COCO's are refused in one sentence with their name."""

import json
from pathlib import Path
from typing import Any

import pytest

from pixelwise.metrics import coco_evaluate

THING = {
    "image_id": 7,
    "category_id": 1,
    "bbox": [2, 2, 8, 8],
    "area": 64,
    "segmentation": [[2, 2, 9, 2, 9, 9]],
}
GOOD: dict[str, Any] = {
    "images": [{"id": 7, "height": 20, "width": 20}],
    "categories": [{"id": 1, "name": "car"}],
    "annotations": [THING],
}
WRONG: dict[str, Any] = {
    "no annotations": {name: part for name, part in GOOD.items() if name != "annotations"},
    "annotations that are no list": {**GOOD, "annotations": {"id": 1}},
    "a segmentation of null": {**GOOD, "annotations": [{**THING, "segmentation": None}]},
    "ids mixed": {**GOOD, "images": [*GOOD["images"], {"id": "a", "height": 20, "width": 20}]},
    "an id missing": {**GOOD, "images": [{"height": 20, "width": 20}]},
    "an infinite height": {**GOOD, "images": [{"id": 7, "height": float("inf"), "width": 20}]},
    "a huge height": {**GOOD, "images": [{"id": 7, "height": 10**30, "width": 20}]},
    "a negative height": {**GOOD, "images": [{"id": 7, "height": -20, "width": 20}]},
    "huge run lengths": {
        **GOOD,
        "annotations": [{**THING, "segmentation": {"size": [10**30, 10**30], "counts": "11"}}],
    },
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_ground_truth_is_refused_with_its_name(tmp_path: Path, what: str) -> None:
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(WRONG[what]))
    with pytest.raises(ValueError, match=r"truth\.json"):
        coco_evaluate(path, [])


def test_a_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.json"):
        coco_evaluate(tmp_path / "nowhere.json", [])


def test_a_height_that_is_written_as_a_decimal_is_read() -> None:
    truth = {**GOOD, "images": [{"id": 7, "height": 20.0, "width": 20}]}
    assert coco_evaluate(truth, [{**THING, "score": 1.0}]).ap == pytest.approx(1.0)


def test_results_without_an_image_are_refused_with_their_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"score": 0.5}]))
    with pytest.raises(ValueError, match=r"results\.json.*image_id"):
        coco_evaluate(GOOD, path)
