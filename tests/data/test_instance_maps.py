"""Folders of images and maps that number the objects."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pixelwise as pw


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images; the maps have 16 bits, numbers with gaps, and one of them no object."""
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for number, objects in enumerate([(1, 2, 700), (5,), ()]):
        labels = np.zeros((40, 50), np.uint16)
        for place, one in enumerate(objects):
            labels[5:15, 12 * place : 12 * place + 12] = one
        Image.fromarray(labels).save(tmp_path / "labels" / f"{number}.png")
        Image.fromarray((labels > 0).astype(np.uint8) * 200).save(tmp_path / "images" / f"{number}.png")
    return tmp_path


def test_numbers_are_objects_of_one_class(folder: Path) -> None:
    data = pw.open_data(folder, task="instance", val_fraction=0.3)
    assert data.format == "instance_maps"
    assert data.classes.names == ("object",)
    found = {sample.id: sample.target for part in (data.train, data.val) for sample in part}
    assert {name: len(target) for name, target in found.items()} == {
        "images/0.png": 3, "images/1.png": 1, "images/2.png": 0,
    }  # fmt: skip
    assert found["images/0.png"].dense.flatten(1).sum(1).tolist() == [120, 120, 120]
    assert found["images/2.png"].size == (40, 50)


def test_the_same_folder_has_classes_unless_objects_are_asked_for(folder: Path) -> None:
    assert pw.open_data(folder, mask_rule="above-0").format == "pairs"


def test_a_class_table_names_the_objects(folder: Path) -> None:
    (folder / "classes.txt").write_text("nucleus\n")
    assert pw.open_data(folder, task="instance").classes.names == ("nucleus",)
    (folder / "classes.txt").write_text("nucleus\nother\n")
    with pytest.raises(ValueError, match="one class, the class table names 2"):
        pw.open_data(folder, task="instance")


@pytest.mark.parametrize(
    "values, told",
    [
        (np.array([[0, 255]], np.uint8), "holds 0 and 255 only"),
        (np.array([[-3, 1]], np.int32), "holds -3"),
        (np.zeros((1, 2, 3), np.uint8), "in colours"),
    ],
)
def test_masks_that_number_nothing_are_told(folder: Path, values: np.ndarray, told: str) -> None:
    Image.fromarray(values).save(folder / "labels" / "1.tif")
    (folder / "labels" / "1.png").unlink()
    data = pw.open_data(folder, task="instance", val_fraction=0.3)
    part = data.train.joined(data.val)
    with pytest.raises(ValueError, match=told):
        list(part)
