"""ADE20K full: a tree typed by hand from the listing of the release 2021_17_01, masks by its own formula."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pixelwise.cli import app
from pixelwise.tasks import open_data

WALL, PERSON, DOOR, OTHER_DOOR = 2978, 1831, 773, 774
STEMS = (
    "images/ADE/training/urban/street/ADE_train_00000001",
    "images/ADE/training/home_or_hotel/bedroom/ADE_train_00000002",
    "images/ADE/validation/urban/street/ADE_val_00000001",
)
# Class and number of the object of each column.
COLUMNS = (
    ((WALL, 1), (WALL, 1), (PERSON, 2), (PERSON, 3), (0, 0), (DOOR, 4)),
    ((WALL, 1), (DOOR, 2), (OTHER_DOOR, 3), (0, 0), (0, 0), (0, 0)),
    ((PERSON, 1), (0, 0), (PERSON, 2), (PERSON, 2), (WALL, 3), (WALL, 3)),
)
NAMES = {WALL: "wall", PERSON: "person, individual", DOOR: "door", OTHER_DOOR: "door"}


def coded(columns) -> np.ndarray:
    """Red counts the 256s in steps of ten, green the rest, blue the objects."""
    row = [(code // 256 * 10, code % 256, number) for code, number in columns]
    return np.tile(np.array(row, np.uint8)[None], (4, 1, 1))


def described(columns) -> dict:
    objects = [
        {
            "id": number,
            "name": NAMES[code],
            "name_ndx": code,
            "raw_name": "caf\xe9",
            "parts": {"part_level": 0},
        }
        for code, number in dict.fromkeys(columns)
        if code
    ]
    part = {"id": 90, "name": "handle", "name_ndx": 1181, "parts": {"ispartof": 4, "part_level": 1}}
    return {"annotation": {"filename": "a.jpg", "scene": ["urban"], "object": [*objects, part]}}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "ADE20K_2021_17_01"
    for stem, columns in zip(STEMS, COLUMNS, strict=True):
        path = home / stem
        path.mkdir(parents=True)  # the masks of single objects
        Image.fromarray(np.full((4, 6), 255, np.uint8)).save(path / "instance_000_ADE.png")
        Image.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(f"{path}.jpg")
        Image.fromarray(coded(columns)).save(f"{path}_seg.png")
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(f"{path}_parts_1.png")
        text = json.dumps(described(columns), ensure_ascii=False)
        Path(f"{path}.json").write_text(text, encoding="latin-1")
    (home / "index_ade20k.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    return home


@pytest.mark.parametrize("above", [False, True])
def test_classes_come_from_the_json_files_and_labels_from_red_and_green(home: Path, above: bool) -> None:
    data = open_data(home.parent if above else home)
    assert data.format == "ade20k_full"
    assert data.classes.names == ("door (773)", "door (774)", "person, individual", "wall")
    assert [sample.id for sample in data.train] == [
        "training/home_or_hotel/bedroom/ADE_train_00000002.jpg",
        "training/urban/street/ADE_train_00000001.jpg",
    ]
    assert data.train.labels(0)[0].tolist() == [3, 0, 1, 255, 255, 255]
    assert data.train.labels(1)[3].tolist() == [3, 3, 2, 2, 255, 0]
    assert data.val.labels(0)[0].tolist() == [2, 255, 2, 2, 3, 3]
    assert not data.unpaired


def test_objects_are_told_apart_by_blue(home: Path) -> None:
    data = open_data(home, task="instance")
    assert data.format == "ade20k_full"
    target = data.train.target(1)
    names = [data.classes.names[label] for label in target.classes.tolist()]
    columns = [mask[0].nonzero().flatten().tolist() for mask in target.dense]
    assert sorted(zip(names, columns, strict=True)) == [
        ("door (773)", [5]),
        ("person, individual", [2]),
        ("person, individual", [3]),
        ("wall", [0, 1]),
    ]


def test_a_class_file_chooses_among_the_classes_and_spares_the_json_files(home: Path) -> None:
    (home / "classes.csv").write_text(f"name,id\nwall,{WALL}\nperson,{PERSON}\nignore,*\n")
    for path in home.rglob("*.json"):
        path.unlink()
    assert open_data(home).train.labels(1)[0].tolist() == [0, 0, 1, 1, 255, 255]
    assert open_data(home, task="instance").train.target(1).classes.tolist() == [1, 1, 0]


def test_a_class_file_that_the_check_writes_reads_the_same_labels(home: Path) -> None:
    before = open_data(home)
    result = CliRunner().invoke(app, ["check", str(home), "--write-classes"])
    assert result.exit_code in (0, 1), result.output
    after = open_data(home)
    assert (home / "classes.csv").is_file()
    assert after.classes.names == before.classes.names
    for i in range(2):
        assert after.train.labels(i).tolist() == before.train.labels(i).tolist()


def test_what_is_wrong_names_its_file(home: Path) -> None:
    mask = home / f"{STEMS[2]}_seg.png"
    Image.fromarray(coded([(5, 1)] * 6)).save(mask)
    with pytest.raises(ValueError, match=r"ADE_val_00000001_seg\.png holds the value 5"):
        open_data(home).val.labels(0)
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(mask)
    with pytest.raises(ValueError, match=r"_seg\.png is no mask of ADE20K full"):
        open_data(home).val.labels(0)
    mask.unlink()
    assert [path.name for path in open_data(home).unpaired] == ["ADE_val_00000001.jpg"]
    told = home / f"{STEMS[0]}.json"
    for content in ("[]", '{"annotation": {"object": [{"name": "a"}]}}', "{", '{"annotation": 3}'):
        told.write_text(content)
        with pytest.raises(ValueError, match=r"ADE_train_00000001\.json"):
            open_data(home)
    told.write_text(json.dumps(described([(WALL, 1)])).replace('"wall"', '"floor"'))
    with pytest.raises(ValueError, match=r"class 2978 .*floor.*wall|class 2978 .*wall.*floor"):
        open_data(home)
    told.unlink()
    with pytest.raises(ValueError, match=r"there is no file .*ADE_train_00000001\.json"):
        open_data(home)
