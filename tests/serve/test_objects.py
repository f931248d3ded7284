"""Objects that people draw: they overlap, and each keeps its own mask."""

import errno
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

import pixelwise as pw
from pixelwise.cli.serve import collection_of, labelled_task, without_background
from pixelwise.data import LabelEncoding
from pixelwise.data.formats.coco import write_coco
from pixelwise.data.formats.yolo import read_yolo_labels
from pixelwise.rle import RleMasks, run_lengths
from pixelwise.serve.collection import images_in
from pixelwise.serve.objects import FILE, ObjectCollection
from pixelwise.tasks import open_data
from pixelwise.types import MaskSet
from tests.serve.conftest import Start, file_of, ready
from tests.serve.test_http import kind

CLASSES = pw.ClassTable.of("cell", "fibre")
SIZE = (40, 56)
Drawing = Callable[..., TestClient]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images" / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "more/b.png")):
        (tmp_path / "images" / name).write_bytes(file_of(*SIZE, seed=number))
    (tmp_path / "objects").mkdir()
    return tmp_path


@pytest.fixture
def drawing(folder: Path, start: Start) -> Drawing:
    """Starts a server of the images in `folder`, whose objects are drawn."""

    def drawing(classes: pw.ClassTable = CLASSES, save: bool = True) -> TestClient:
        encoding = LabelEncoding.of(classes)
        data = images_in(folder / "images", sorted((folder / "images").rglob("*.png")), encoding)
        collection = ObjectCollection(data, encoding, folder / "objects" if save else None)
        return ready(start({"streets": pw.build("unet", 3, encoder="tiny")}, collection=collection))

    return drawing


def two() -> np.ndarray:
    """A disc and a bar that lies over it."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    disc = (y - 20) ** 2 + (x - 25) ** 2 < 144
    return np.stack([disc, abs(y - x) < 5])


def body_of(masks: np.ndarray, labels: tuple[int, ...] = (0, 1)) -> dict[str, Any]:
    """As the page sends objects."""
    rles = RleMasks.encode(masks).to_coco()
    told = [{"label": label, "rle": rle} for label, rle in zip(labels, rles, strict=True)]
    return {"height": SIZE[0], "width": SIZE[1], "objects": told}


def masks_in(told: dict[str, Any]) -> np.ndarray:
    return RleMasks.from_coco([one["rle"] for one in told["objects"]], SIZE).decode()


def test_objects_that_overlap_come_back_whole(drawing: Drawing, folder: Path) -> None:
    client = drawing()
    assert client.get("/v1/images").json()["objects"] is True
    assert kind(client.get("/v1/images/1/objects")) == "no-labels"
    assert client.put("/v1/images/1/objects", json=body_of(two())).json() == {"file": FILE}
    assert (two()[0] & two()[1]).sum() > 50
    for one in (client, drawing()):  # another server reads what the first one saved
        told = one.get("/v1/images/1/objects").json()
        assert np.array_equal(masks_in(told), two())
        assert [each["label"] for each in told["objects"]] == [0, 1]
        assert [each["state"] for each in one.get("/v1/images").json()["images"]] == ["none", "saved"]
    content = json.loads((folder / "objects" / FILE).read_text())
    assert [one["file_name"] for one in content["images"]] == ["more/b.png"]
    areas = [one["area"] for one in content["annotations"]]
    assert areas == two().sum((1, 2)).tolist()
    assert client.put("/v1/images/1/objects", json=body_of(two()[:0], ())).status_code == 200
    assert client.get("/v1/images/1/objects").json()["objects"] == []  # nothing is in it, and that is known


def test_what_was_drawn_is_a_data_set_of_instances(drawing: Drawing, folder: Path) -> None:
    client = drawing()
    for number in range(2):
        client.put(f"/v1/images/{number}/objects", json=body_of(two(), (1, number)))
    (folder / "objects" / FILE).rename(folder / "instances_train.json")
    (folder / "images").rename(folder / "train")
    splits = open_data(folder, task="instance", val_fraction=0, test_fraction=0)
    assert splits.classes.names == CLASSES.names
    target = splits.train.target(1)
    assert isinstance(target, MaskSet)
    assert np.array_equal(run_lengths(target).decode(), two())
    assert target.classes.tolist() == [1, 1]


def test_objects_are_written_for_other_tools(drawing: Drawing, tmp_path: Path) -> None:
    client = drawing()
    coco = client.post("/v1/objects?output=coco&name=a.png", json=body_of(two())).json()
    found = RleMasks.from_coco([one["segmentation"] for one in coco["annotations"]], SIZE).decode()
    assert np.array_equal(found, two())
    assert [one["name"] for one in coco["categories"]] == list(CLASSES.names)
    yolo = client.post("/v1/objects?output=yolo", json=body_of(two())).text
    (tmp_path / "a.txt").write_text(yolo)
    assert [line.split()[0] for line in yolo.splitlines()] == ["0", "1"]
    read = read_yolo_labels(tmp_path / "a.txt", *SIZE, {0: 0, 1: 1})
    assert np.array_equal(run_lengths(read).decode(), two())
    features = client.post("/v1/objects?output=geojson", json=body_of(two())).json()["features"]
    assert len(features) == 2
    assert kind(client.post("/v1/objects?output=png", json=body_of(two()))) == "bad-parameter"
    assert kind(client.get("/v1/labels")) == "no-labels"
    client.put("/v1/images/0/objects", json=body_of(two()))
    client.put("/v1/images/1/objects", json=body_of(two()[:1], (1,)))
    whole = client.get("/v1/labels?output=coco").json()
    assert [one["image_id"] for one in whole["annotations"]] == [1, 1, 2]
    assert [one["file_name"] for one in whole["images"]] == ["a.png", "more/b.png"]
    archive = zipfile.ZipFile(io.BytesIO(client.get("/v1/labels?output=yolo").content))
    assert sorted(archive.namelist()) == ["data.yaml", "labels/a.txt", "labels/more/b.txt"]
    assert kind(client.get("/v1/labels?output=png")) == "bad-parameter"


def _wrong() -> dict[str, Any]:
    fine = body_of(two())
    other = RleMasks.encode(two()[:, :39]).to_coco()
    return {
        "no list": {**fine, "objects": 3},
        "no size": {"objects": fine["objects"]},
        "negative": {**fine, "height": -40},
        "huge": {**fine, "height": 10**6, "width": 10**6},
        "a class too many": body_of(two(), (0, 2)),
        "truth as a label": body_of(two(), (True, 0)),
        "a number": {**fine, "objects": [7]},
        "no rle": {**fine, "objects": [{"label": 0}]},
        "rubbish": {**fine, "objects": [{"label": 0, "rle": {"size": list(SIZE), "counts": "\u00ff~~~~"}}]},
        "too long": {**fine, "objects": [{"label": 0, "rle": {"size": list(SIZE), "counts": [0, 10**7]}}]},
        "another size": {**fine, "objects": [{"label": 0, "rle": other[0]}]},
        "empty": body_of(np.zeros((1, *SIZE), bool), (0,)),
        "crowd": {**fine, "objects": [{**fine["objects"][0], "crowd": "yes"}]},
        "of another image": {
            "height": 39, "width": 56, "objects": [{"label": 0, "rle": rle} for rle in other],
        },
    }  # fmt: skip


@pytest.mark.parametrize("name", list(_wrong()))
def test_objects_that_do_not_fit_are_refused(drawing: Drawing, folder: Path, name: str) -> None:
    client = drawing()
    assert kind(client.put("/v1/images/0/objects", json=_wrong()[name])) == "bad-parameter"
    assert not (folder / "objects" / FILE).exists()


def test_a_file_that_the_server_did_not_write_is_never_replaced(drawing: Drawing, folder: Path) -> None:
    file = folder / "objects" / FILE
    file.write_text("{}")
    client = drawing()
    assert kind(client.put("/v1/images/0/objects", json=body_of(two()))) == "not-ours"
    assert file.read_text() == "{}"
    file.unlink()
    client.put("/v1/images/0/objects", json=body_of(two()))
    with pytest.raises(ValueError, match="was saved with other classes"):
        drawing(pw.ClassTable.of("cell", "fibre", "dirt"))


def test_a_full_disk_leaves_what_was_there(
    drawing: Drawing, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = drawing()
    client.put("/v1/images/0/objects", json=body_of(two()))
    before = (folder / "objects" / FILE).read_bytes()

    def full(path: Path, content: str, *args: object, **options: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        answer = client.put("/v1/images/1/objects", json=body_of(two()))
    assert kind(answer) == "cannot-save"
    assert "No space left" in answer.json()["detail"]
    assert (folder / "objects" / FILE).read_bytes() == before
    assert kind(client.get("/v1/images/1/objects")) == "no-labels"
    assert client.put("/v1/images/1/objects", json=body_of(two())).status_code == 200


def test_labels_of_pixels_and_objects_are_not_mixed_up(drawing: Drawing, semantic: TestClient) -> None:
    client = drawing(save=False)
    assert kind(client.put("/v1/images/0/objects", json=body_of(two()))) == "read-only"
    assert kind(client.get("/v1/images/0/labels")) == "no-labels"
    labels = io.BytesIO()
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(labels, "PNG")
    assert kind(client.put("/v1/images/0/labels", content=labels.getvalue())) == "bad-parameter"
    assert kind(semantic.get("/v1/images/0/objects")) == "no-such-image"


def test_the_objects_of_a_data_set_are_begun_with(tmp_path: Path, start: Start) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "a.png").write_bytes(file_of(*SIZE))
    masks = torch.from_numpy(two())
    found = MaskSet.of(masks, torch.tensor([1, 0]), is_crowd=torch.tensor([False, True]))
    write_coco(tmp_path / "instances_val.json", [("a.png", found)], CLASSES)
    collection = collection_of(None, tmp_path, "val", None, None, (), None, labelled_task("instance"))
    client = ready(start({"streets": pw.build("unet", 3, encoder="tiny")}, collection=collection))
    assert client.get("/v1/images").json()["images"][0]["state"] == "given"
    told = client.get("/v1/images/0/objects?of=data").json()
    assert np.array_equal(masks_in(told), two())
    assert [(one["label"], one["crowd"]) for one in told["objects"]] == [(1, False), (0, True)]


def test_the_background_is_no_class_of_objects() -> None:
    assert without_background(pw.ClassTable.of("background", "disc")).names == ("disc",)
    assert without_background(pw.ClassTable.of("disc", "bar")).names == ("disc", "bar")
    with pytest.raises(ValueError, match="only class is the background"):
        without_background(pw.ClassTable.of("background"))
