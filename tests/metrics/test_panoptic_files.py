"""Panoptic quality of files: panopticapi's numbers, and files that do not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pixelwise.metrics.panoptic.files import panoptic_file_scores

CATEGORIES = [
    {"id": 5, "name": "cat", "isthing": 1, "color": [1, 2, 3]},
    {"id": 90, "name": "sky", "isthing": 0},
    {"id": 7, "name": "dog", "isthing": 1},
]
Content = dict[str, Any]


def write_png(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)).save(path)


def annotation(image: int, segments: list[Content]) -> Content:
    return {"image_id": image, "file_name": f"{image}.png", "segments_info": segments}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A prediction and a target of two images: one half right, one with an excused and a wrong segment."""
    target = [np.array([[300, 300, 70000, 70000]] * 2), np.array([[0, 0, 0, 9]])]
    prediction = [np.array([[300, 8, 70000, 70000]] * 2), np.array([[4, 4, 2, 6]])]
    tables = [
        [
            {"id": 300, "category_id": 5, "area": 4, "iscrowd": 0},
            {"id": 70000, "category_id": 90, "area": 4, "iscrowd": 0},
        ],
        [{"id": 9, "category_id": 7, "area": 1, "iscrowd": 0}],
    ]
    claims = [
        [
            {"id": 300, "category_id": 5},
            {"id": 8, "category_id": 5},
            {"id": 70000, "category_id": 90},
        ],
        [
            {"id": 4, "category_id": 7},
            {"id": 2, "category_id": 7},
            {"id": 6, "category_id": 5},
        ],
    ]
    for name, maps, rows in (("target", target, tables), ("prediction", prediction, claims)):
        for image, ids in enumerate(maps):
            write_png(tmp_path / name / f"{image}.png", ids)
        content: Content = {"annotations": [annotation(i, row) for i, row in enumerate(rows)]}
        if name == "target":
            content["categories"] = CATEGORIES
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path / "prediction.json", tmp_path / "target.json"


def change(path: Path, edit: Callable[[Content], Any]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_two_small_files_are_scored(files: tuple[Path, Path]) -> None:
    scores = panoptic_file_scores(*files)
    assert scores.classes.names == ("cat", "sky", "dog")
    assert scores.classes.things == (0, 2)
    assert scores.classes.colors[0] == (1, 2, 3)
    assert scores.true_positives.tolist() == [0, 1, 0]
    assert scores.false_positives.tolist() == [3, 0, 0]
    assert scores.false_negatives.tolist() == [1, 0, 1]
    assert tuple(scores.overall) == (1 / 3, 1 / 3, 1 / 3, 3)


def test_folders_may_lie_elsewhere_and_threads_change_nothing(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    prediction, target = files
    alone = panoptic_file_scores(prediction, target)
    (tmp_path / "target").rename(tmp_path / "elsewhere")
    moved = panoptic_file_scores(str(prediction), target, target_folder=tmp_path / "elsewhere", threads=2)
    assert moved.overall == alone.overall
    with pytest.raises(ValueError, match=r"no folder .*target with the PNG files of .*target\.json"):
        panoptic_file_scores(prediction, target)


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda c: c["annotations"].pop(), "no prediction for the image 1 of"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "image 0 stands there twice"),
        (lambda c: c.pop("annotations"), "is not a file of panoptic annotations: 'annotations' is missing"),
        (lambda c: c["annotations"][0]["segments_info"].pop(), "segment 70000 in image 0 is in the map, but"),
        (lambda c: c["annotations"][1].update(file_name="9.png"), r"there is no file .*9\.png"),
        (lambda c: c["annotations"][1].update(file_name="../9.png"), "'../9.png' leaves the folder"),
        (lambda c: c["annotations"][1].update(file_name="0.png"), "one shape, got .* in image 1"),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(category_id=6),
            "segment 300 in image 0 has the unknown category 6",
        ),
        (
            lambda c: c["annotations"][0]["segments_info"].append({"id": 1, "category_id": 5}),
            "segment 1 in image 0 is in the table, but not in the map",
        ),
    ],
)
def test_a_prediction_that_does_not_fit_is_told(
    files: tuple[Path, Path], edit: Callable[[Content], Any], message: str
) -> None:
    change(files[0], edit)
    with pytest.raises(ValueError, match=message):
        panoptic_file_scores(*files)


def test_files_that_are_none_are_told(files: tuple[Path, Path], tmp_path: Path) -> None:
    prediction, target = files
    with pytest.raises(ValueError, match=r"there is no file .*none\.json"):
        panoptic_file_scores(prediction, tmp_path / "none.json")
    (tmp_path / "target" / "1.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"cannot read .*1\.png"):
        panoptic_file_scores(prediction, target)
    target.write_text("[1]")
    with pytest.raises(ValueError, match="it holds a list"):
        panoptic_file_scores(prediction, target)
    target.write_text("{")
    with pytest.raises(ValueError, match="cannot read"):
        panoptic_file_scores(prediction, target)
    target.write_text('{"annotations": [], "categories": [{"id": 1, "name": "a"}]}')
    with pytest.raises(ValueError, match="'isthing' is missing"):
        panoptic_file_scores(prediction, target)


def test_the_sample_of_panopticapi_scores_as_there(shared_data: Callable[..., Path], tmp_path: Path) -> None:
    target = shared_data("data", "panopticapi_sample") / "panoptic_examples.json"
    perfect = panoptic_file_scores(target, target)
    assert tuple(perfect.overall) == (1, 1, 1, 8)

    # Shifted by 3 rows and 5 columns, without the first segment, and with one class wrong.
    content = json.loads(target.read_text())
    wrong = content["categories"][7]["id"]
    for entry in content["annotations"]:
        with Image.open(target.with_suffix("") / entry["file_name"]) as image:
            ids = np.roll(np.array(image).astype(np.int64) @ [1, 256, 65536], (3, 5), (0, 1))
        kept = [segment for segment in entry["segments_info"] if (ids == segment["id"]).any()][1:]
        kept[1]["category_id"] = wrong
        entry["segments_info"] = kept
        write_png(
            tmp_path / "moved" / entry["file_name"], np.where(np.isin(ids, [s["id"] for s in kept]), ids, 0)
        )
    (tmp_path / "moved.json").write_text(json.dumps(content))
    scores = panoptic_file_scores(tmp_path / "moved.json", target)
    # panopticapi 7bb4655 on the same files.
    assert tuple(scores.overall) == (0.542819678337444, 0.6420693633119178, 0.7253787878787878, 8)
    assert tuple(scores.things) == (0.30208244669615114, 0.5005818166450986, 0.4507575757575757, 4)
    assert tuple(scores.stuff) == (0.783556909978737, 0.783556909978737, 1.0, 4)


def test_a_cityscapes_scene_with_crowds_and_void_scores_as_there(
    shared_data: Callable[..., Path], tmp_path: Path
) -> None:
    folder = shared_data("data", "deeplab2_testdata") / "gtFine"
    pngs = folder / "cityscapes_panoptic_dummy_trainId"
    content = json.loads(pngs.with_suffix(".json").read_text())
    content["categories"] = [{"id": i, "name": f"class {i}", "isthing": int(i > 10)} for i in range(19)]
    (tmp_path / "target.json").write_text(json.dumps(content))
    [entry] = content["annotations"]
    with Image.open(pngs / entry["file_name"]) as image:
        ids = np.roll(np.array(image.convert("RGB")).astype(np.int64) @ [1, 256, 65536], (4, 6), (0, 1))
    write_png(tmp_path / "moved" / entry["file_name"], ids)
    (tmp_path / "moved.json").write_text(json.dumps(content))
    scores = panoptic_file_scores(tmp_path / "moved.json", tmp_path / "target.json", target_folder=pngs)
    # panopticapi 7bb4655 on the same files.
    assert tuple(scores.overall) == (0.879842565088585, 0.879842565088585, 1.0, 5)
    assert tuple(scores.things) == (0.8033147484313332, 0.8033147484313332, 1.0, 1)
    assert tuple(scores.stuff) == (0.8989745192528981, 0.8989745192528981, 1.0, 4)
