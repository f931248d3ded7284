"""COCO files of key points: read, opened with their images, and written as results."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pixelwise.data.datasets.coco_keypoints import open_coco_keypoints
from pixelwise.data.formats.coco_keypoints import (
    COCO_PERSON,
    read_coco_keypoints,
    skeleton_of,
    write_coco_keypoints,
)
from pixelwise.metrics import COCO_SIGMAS


def content() -> dict[str, Any]:
    face = {
        "id": 3,
        "name": "face",
        "keypoints": ["left_eye", "nose", "right_eye"],
        "skeleton": [[1, 2], [2, 3]],
    }
    images = [
        {"id": 7, "file_name": "a.png", "height": 20, "width": 30},
        {"id": 9, "file_name": "b.png", "height": 10, "width": 12},
    ]
    seen = [5, 6, 2, 8, 9, 1, 0, 0, 0]
    annotations = [
        {"id": 1, "image_id": 7, "category_id": 3, "keypoints": seen, "bbox": [4, 5, 10, 8], "area": 41.5},
        {"id": 2, "image_id": 7, "category_id": 3, "keypoints": seen, "iscrowd": 1},
    ]
    return {"images": images, "annotations": annotations, "categories": [face]}


def folder(root: Path, described: dict[str, Any] | None = None) -> Path:
    (root / "images").mkdir(parents=True)
    for name, (height, width) in {"a.png": (20, 30), "b.png": (10, 12)}.items():
        Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(root / "images" / name)
    (root / "annotations").mkdir()
    path = root / "annotations" / "person_keypoints_train.json"
    path.write_text(json.dumps(described or content()))
    return path


def test_objects_are_read_as_they_are_written(tmp_path: Path) -> None:
    file = read_coco_keypoints(folder(tmp_path))
    objects = file.images[0].objects
    assert objects.points.tolist() == [[[5, 6], [8, 9], [0, 0]]] * 2
    assert objects.visible.tolist() == [[2, 1, 0]] * 2
    assert objects.boxes.tolist() == [[4, 5, 14, 13], [5, 6, 8, 9]]  # the second around what is seen
    assert objects.areas.tolist() == [41.5, 9]
    assert objects.is_crowd.tolist() == [False, True]
    assert len(file.images[1].objects) == 0
    assert file.category_ids == (3,)


def test_the_skeleton_comes_from_the_category(tmp_path: Path) -> None:
    classes = read_coco_keypoints(folder(tmp_path)).classes
    assert classes.names == ("face",)
    assert classes.skeleton.names == ("left_eye", "nose", "right_eye")
    assert classes.skeleton.edges == ((0, 1), (1, 2))
    assert classes.skeleton.flip_pairs == ((0, 2),)
    assert classes.skeleton.sigmas == ()


def test_people_of_coco_have_sigmas_and_pairs() -> None:
    found = skeleton_of(COCO_PERSON.names, COCO_PERSON.edges)
    assert found == COCO_PERSON
    assert COCO_PERSON.sigmas == COCO_SIGMAS


def test_images_are_found_beside_the_annotations(tmp_path: Path) -> None:
    data = open_coco_keypoints(folder(tmp_path))
    assert [sample.id for sample in data] == ["images/a.png", "images/b.png"]
    assert data[0].image.shape == (3, 20, 30)
    assert len(data[0].target) == 2
    assert [sample.id for sample in data.take([1])] == ["images/b.png"]


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    described = content()
    described["images"][0]["height"] = 21
    data = open_coco_keypoints(folder(tmp_path, described))
    with pytest.raises(ValueError, match=r"a.png has 20 x 30 pixels, .* says 21 x 30"):
        data[0]


def test_missing_and_ambiguous_images_are_named(tmp_path: Path) -> None:
    path = folder(tmp_path)
    (tmp_path / "images" / "b.png").rename(tmp_path / "images" / "c.png")
    with pytest.raises(ValueError, match=r"the image b.png is not in"):
        open_coco_keypoints(path)
    (tmp_path / "other").mkdir()
    (tmp_path / "images" / "c.png").rename(tmp_path / "images" / "b.png")
    Image.new("RGB", (30, 20)).save(tmp_path / "other" / "a.png")
    with pytest.raises(ValueError, match=r"a.png may be .* or .*: name the folder of the images"):
        open_coco_keypoints(path)
    assert len(open_coco_keypoints(path, images=tmp_path / "images")) == 2
    with pytest.raises(ValueError, match="none of the images"):
        open_coco_keypoints(path, images=tmp_path / "annotations")


def damage(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    damaged = content()
    change(damaged)
    return damaged


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("categories"), "'categories' is missing"),
        (lambda c: c["categories"][0].pop("keypoints"), "no category has keypoints"),
        (lambda c: c["annotations"][0].update(keypoints=[1, 2, 2]), "3 numbers for 3 joints"),
        (lambda c: c["annotations"][0].update(image_id=5), "unknown image 5"),
        (lambda c: c["categories"].append({"id": 4, "name": "x", "keypoints": ["a"]}), "different joints"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, change: Callable[..., None], message: str) -> None:
    path = folder(tmp_path, damage(change))
    with pytest.raises(ValueError, match=f"{path.name} is not a COCO file of key points: .*{message}"):
        read_coco_keypoints(path)


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot read .*a.json"):
        read_coco_keypoints(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"there is no file .*b.json"):
        read_coco_keypoints(tmp_path / "b.json")


def test_results_are_what_coco_asks_for(tmp_path: Path) -> None:
    objects = read_coco_keypoints(folder(tmp_path)).images[0].objects
    path = write_coco_keypoints(tmp_path / "results.json", {7: objects}, category_id=3)
    results = json.loads(path.read_text())
    assert len(results) == 2
    assert results[0] == {
        "image_id": 7, "category_id": 3, "score": 1.0, "keypoints": [5, 6, 2, 8, 9, 1, 0, 0, 0],
    }  # fmt: skip


def test_real_people_are_read(shared_data: Callable[..., Path]) -> None:
    data = open_coco_keypoints(shared_data("data", "coco_pose") / "test_coco.json")
    assert data.classes.skeleton == COCO_PERSON
    assert [len(data.keypoints(i)) for i in range(4)] == [1, 3, 5, 5]
    for sample in data:
        height, width = sample.image.shape[-2:]
        seen = sample.target.points[sample.target.visible > 0]
        assert (seen >= 0).all()
        assert (seen <= torch.tensor([width, height])).all()


@pytest.mark.parametrize(
    "text, reason",
    [
        ("[" * 100_000, "nested too deeply"),
        (json.dumps({**content(), "images": [{"id": float("inf"), "file_name": "a.png"}]}), "infinity"),
    ],
)
def test_brackets_without_end_and_infinite_numbers_are_refused(tmp_path, text: str, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_coco_keypoints(path)
