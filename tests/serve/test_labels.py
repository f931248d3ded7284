"""Images that people walk through, and the labels that they save."""

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
from PIL import Image
from starlette.testclient import TestClient

import pixelwise as pw
from pixelwise.data import LabelEncoding, SegmentationData, read_classes_file, read_mask
from pixelwise.data.dataset import Pair
from pixelwise.data.formats.yolo import read_yolo_labels
from pixelwise.files import lock_folder
from pixelwise.rle import RleMasks
from pixelwise.serve.collection import Collection, images_in, read_scores
from tests.serve.conftest import CLASSES, Start, file_of, ready
from tests.serve.test_http import kind

ENCODING = LabelEncoding(CLASSES, (3, 7, 260), (255,))  # as a class file may number them
SIZE = (40, 56)
Labelling = Callable[..., TestClient]


def labels_file(labels: np.ndarray) -> bytes:
    """As the page sends labels."""
    file = io.BytesIO()
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(bytes(768))
    image.save(file, "PNG")
    return file.getvalue()


def some_labels(seed: int = 0) -> np.ndarray:
    labels = np.random.default_rng(seed).integers(0, 3, SIZE)
    labels[:4] = 255
    return labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "more/c.tif")):
        kind = {".png": "PNG", ".jpg": "JPEG", ".tif": "TIFF"}[Path(name).suffix]
        (images / name).write_bytes(file_of(*SIZE, seed=number, kind=kind))
    return tmp_path


@pytest.fixture
def labelling(folder: Path, start: Start) -> Labelling:
    """Starts a server of the images in `folder`."""

    def labelling(encoding: LabelEncoding = ENCODING, save: bool = True, **options: Any) -> TestClient:
        images = folder / "images"
        found = sorted(path for path in images.rglob("*") if path.is_file())
        data = images_in(images, found, encoding)
        (folder / "masks").mkdir(exist_ok=True)
        collection = Collection(data, encoding, folder / "masks" if save else None, **options)
        model = pw.build("unet", 3, encoder="tiny")
        return ready(start({"streets": model}, collection=collection))

    return labelling


def test_labels_come_back_as_they_were_saved_in_the_values_of_the_class_file(
    labelling: Labelling, folder: Path
) -> None:
    client = labelling()
    labels = some_labels()
    assert kind(client.get("/v1/images/0/labels")) == "no-labels"
    saved = client.put("/v1/images/2/labels", content=labels_file(labels))
    assert saved.json() == {"file": "more/c.png"}
    values = np.asarray(Image.open(folder / "masks" / "more" / "c.png"))
    assert np.array_equal(values, np.array([3, 7, 260] + [0] * 252 + [255])[labels])
    raw = client.get("/v1/images/2/labels")
    assert np.array_equal(np.frombuffer(raw.content, np.uint8).reshape(SIZE), labels)
    again = labelling()  # another server reads what the first one saved
    listed = again.get("/v1/images").json()
    assert [one["state"] for one in listed["images"]] == ["none", "none", "saved"]
    assert [one["value"] for one in listed["classes"]] == [3, 7, 260]
    assert again.get("/v1/images/2/labels").content == raw.content
    read = read_mask(folder / "masks" / "more" / "c.png", ENCODING)
    assert np.array_equal(read.numpy(), labels)
    table = read_classes_file(folder / "masks" / "classes.csv")
    assert table.names == CLASSES.names


def test_every_image_is_sent_as_a_file_that_browsers_show(labelling: Labelling, folder: Path) -> None:
    client = labelling(save=False)
    sent = [client.get(f"/v1/images/{number}") for number in range(3)]
    assert [one.headers["content-type"] for one in sent] == ["image/png", "image/jpeg", "image/png"]
    assert sent[1].content == (folder / "images" / "b.jpg").read_bytes()
    pixels = np.asarray(Image.open(io.BytesIO(sent[2].content)))
    assert np.array_equal(pixels, np.asarray(Image.open(folder / "images" / "more" / "c.tif")))
    assert kind(client.get("/v1/images/3")) == "no-such-image"
    (folder / "images" / "a.png").unlink()
    assert kind(client.get("/v1/images/0")) == "no-such-image"


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (np.zeros((40, 55)), "bad-parameter"),
        (np.full(SIZE, 3), "bad-parameter"),
        (np.full(SIZE, 254), "bad-parameter"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    labelling: Labelling, folder: Path, labels: np.ndarray, problem: str
) -> None:
    client = labelling()
    assert kind(client.put("/v1/images/0/labels", content=labels_file(labels))) == problem
    assert kind(client.put("/v1/images/0/labels", content=file_of(*SIZE))) == "bad-parameter"
    assert kind(client.put("/v1/images/0/labels", content=file_of(*SIZE, kind="BMP"))) == "not-an-image"
    assert list((folder / "masks").rglob("*.png")) == []


def test_a_file_that_the_server_did_not_write_is_never_overwritten(
    labelling: Labelling, folder: Path
) -> None:
    (folder / "masks").mkdir()
    mine = folder / "masks" / "a.png"
    mine.write_bytes(b"mine")
    (folder / "masks" / "b.png").symlink_to(folder / "images" / "a.png")
    client = labelling()
    listed = client.get("/v1/images").json()["images"]
    assert [one["state"] for one in listed] == ["other", "other", "none"]
    before = (folder / "images" / "a.png").read_bytes()
    for number in (0, 1):
        answer = client.put(f"/v1/images/{number}/labels", content=labels_file(some_labels()))
        assert kind(answer) == "not-ours"
    assert mine.read_bytes() == b"mine"
    assert (folder / "images" / "a.png").read_bytes() == before
    first = client.put("/v1/images/2/labels", content=labels_file(some_labels()))
    second = client.put("/v1/images/2/labels", content=labels_file(some_labels(1)))
    assert (first.status_code, second.status_code) == (200, 200)
    (folder / "masks" / "more" / "c.png").write_bytes(b"changed by hand")
    assert kind(client.put("/v1/images/2/labels", content=labels_file(some_labels()))) == "not-ours"


def test_labels_never_leave_their_folder(labelling: Labelling, folder: Path) -> None:
    client = labelling()
    (folder / "elsewhere").mkdir()
    (folder / "masks" / "more").symlink_to(folder / "elsewhere")
    assert kind(client.put("/v1/images/2/labels", content=labels_file(some_labels()))) == "not-ours"
    for number in ("..%2f..%2fetc", "-1", "1e0", "\u0663", "0x1", "9" * 400, "%00"):
        answer = client.put(f"/v1/images/{number}/labels", content=labels_file(some_labels()))
        assert answer.status_code == 404
    assert list((folder / "elsewhere").iterdir()) == []
    data = SegmentationData((Pair(folder / "x.png", None, "../x.png"),), CLASSES)
    with pytest.raises(ValueError, match=r"'\.\./x\.png' cannot be saved: its name leaves the folder"):
        Collection(data, ENCODING, folder)
    twice = tuple(Pair(folder / name, None, name) for name in ("x.png", "x.jpg"))
    with pytest.raises(ValueError, match=r"x\.png and x\.jpg would both be saved as x\.png"):
        Collection(SegmentationData(twice, CLASSES), ENCODING, folder)


def test_a_full_disk_is_told_and_leaves_what_was_there(
    labelling: Labelling, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = labelling()
    target = folder / "masks" / "a.png"
    assert client.put("/v1/images/0/labels", content=labels_file(some_labels())).status_code == 200
    before = target.read_bytes()

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        answer = client.put("/v1/images/0/labels", content=labels_file(some_labels(1)))
    assert kind(answer) == "cannot-save"
    assert answer.status_code == 507
    assert "No space left on device" in answer.json()["detail"]
    assert target.read_bytes() == before
    assert sorted(path.name for path in target.parent.glob("*.png")) == ["a.png"]
    assert client.put("/v1/images/0/labels", content=labels_file(some_labels(1))).status_code == 200


def test_without_a_folder_nothing_is_saved(labelling: Labelling, folder: Path, start: Start) -> None:
    answer = labelling(save=False).put("/v1/images/0/labels", content=labels_file(some_labels()))
    assert kind(answer) == "read-only"
    assert list((folder / "masks").iterdir()) == []
    alone = ready(start({"streets": pw.build("unet", 3, encoder="tiny")}))
    assert alone.get("/v1/images").json()["images"] == []
    assert kind(alone.get("/v1/images/0")) == "no-such-image"


def test_two_servers_cannot_save_to_one_folder(tmp_path: Path) -> None:
    from pixelwise.serve import serve

    with lock_folder(tmp_path), pytest.raises(ValueError, match=r"another process .* is working in"):
        serve([], save_to=tmp_path, port=0)


def test_the_worst_images_are_known_by_their_scores(labelling: Labelling, folder: Path) -> None:
    csv = folder / "scores.csv"
    csv.write_text("id,mean_iou,iou/road\na.png,0.5,0.25\nmore/c.tif,0.125,\n")
    client = labelling(
        save=False, scores={"first": read_scores(csv), "second": {"b.jpg": {"mean_iou": 0.75}}}
    )
    told = client.get("/v1/images").json()
    assert told["columns"] == ["mean_iou", "iou/road"]
    assert [one["scores"] for one in told["images"]] == [[0.5, None], [None, 0.75], [0.125, None]]
    told = client.get("/v1/images", params={"score": "iou/road"}).json()
    assert [one["scores"][0] for one in told["images"]] == [0.25, None, None]
    assert kind(client.get("/v1/images", params={"score": "beauty"})) == "bad-parameter"
    csv.write_text("id,mean_iou\na.png,good\n")
    with pytest.raises(ValueError, match=r"scores\.csv is no table of scores"):
        read_scores(csv)


def test_drawn_labels_are_written_for_other_tools(labelling: Labelling, tmp_path: Path) -> None:
    client = labelling(LabelEncoding.of(CLASSES))
    labels = np.zeros(SIZE, np.int64)
    labels[3:9, 5:20] = 1
    labels[20:30, 30:41] = 2
    labels[35:] = 255
    body = labels_file(labels)
    coco = client.post("/v1/labels", params={"output": "coco", "name": "a.png"}, content=body).json()
    assert coco["images"][0]["file_name"] == "a.png"
    back = np.full(SIZE, 255)
    for one in coco["annotations"]:
        back[RleMasks.from_coco([one["segmentation"]]).decode()[0]] = one["category_id"] - 1
    assert np.array_equal(back, labels)
    yolo = tmp_path / "labels.txt"
    yolo.write_bytes(client.post("/v1/labels", params={"output": "yolo"}, content=body).content)
    found = read_yolo_labels(yolo, *SIZE, {0: 0, 1: 1})
    assert found.classes.tolist() == [0, 1]  # background is no object
    assert [mask.sum().item() for mask in found.dense] == [90, 110]
    assert kind(client.post("/v1/labels", params={"output": "pdf"}, content=body)) == "bad-parameter"
    geojson = client.post("/v1/labels", params={"output": "geojson", "model": "streets"}, content=body)
    assert len(json.loads(geojson.content)["features"]) >= 3
    assert kind(client.post("/v1/labels", params={"model": "none"}, content=body)) == "no-such-model"


def test_samples_are_photographs(semantic: TestClient) -> None:
    samples = semantic.get("/v1/samples").json()["samples"]
    assert "coins.png" in [one["name"] for one in samples]
    assert Image.open(io.BytesIO(semantic.get("/v1/samples/0").content)).size[0] > 100
    assert kind(semantic.get("/v1/samples/99")) == "no-such-image"


def test_all_that_was_saved_comes_as_one_file(labelling: Labelling, folder: Path, tmp_path: Path) -> None:
    client = labelling(LabelEncoding.of(CLASSES))
    assert kind(client.get("/v1/labels")) == "no-labels"
    saved = {0: some_labels(0), 2: some_labels(1)}
    for number, labels in saved.items():
        assert client.put(f"/v1/images/{number}/labels", content=labels_file(labels)).status_code == 200
    coco = client.get("/v1/labels").json()
    assert [(one["id"], one["file_name"]) for one in coco["images"]] == [(1, "a.png"), (3, "more/c.tif")]
    assert [one["id"] for one in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
    for number, labels in saved.items():
        back = np.full(SIZE, 255)
        for one in coco["annotations"]:
            if one["image_id"] == number + 1:
                mask = RleMasks.from_coco([one["segmentation"]]).decode()[0]
                back[mask] = one["category_id"] - 1
        assert np.array_equal(back, labels)
    archive = zipfile.ZipFile(io.BytesIO(client.get("/v1/labels", params={"output": "png"}).content))
    assert sorted(archive.namelist()) == ["a.png", "classes.csv", "more/c.png"]
    assert archive.read("a.png") == (folder / "masks" / "a.png").read_bytes()
    archive = zipfile.ZipFile(io.BytesIO(client.get("/v1/labels", params={"output": "yolo"}).content))
    assert sorted(archive.namelist()) == ["data.yaml", "labels/a.txt", "labels/more/c.txt"]
    assert b"road" in archive.read("data.yaml")
    assert kind(client.get("/v1/labels", params={"output": "pdf"})) == "bad-parameter"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "give a model to serve, or images to label"),
        ({"images": "images", "data": "images"}, "give --images or --data, not both"),
        ({"runs": ["x"], "save_to": "masks"}, "--save-to and --evaluation need images"),
        ({"images": "nowhere", "classes": "classes.csv"}, "there is no folder"),
        ({"images": "masks", "classes": "classes.csv"}, "there are no images in"),
        ({"images": "images"}, "which classes are there to label"),
        ({"images": "images", "classes": "classes.csv", "save_to": "images"}, "must be another folder"),
        ({"images": "images", "classes": "classes.csv", "evaluation": ["scores.csv"]}, "is it another part"),
        (
            {"images": "images", "classes": "classes.csv", "evaluation": ["none.csv"]},
            "cannot read the scores",
        ),
    ],
)
def test_what_cannot_be_walked_through_is_told_in_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], sentence: str
) -> None:
    from pixelwise.cli.serve import serve

    (folder / "masks").mkdir()
    (folder / "classes.csv").write_text("name\nbackground\nroad\n")
    (folder / "scores.csv").write_text("id,mean_iou\nelsewhere.png,0.5\n")
    monkeypatch.chdir(folder)
    paths: dict[str, Any] = {name: Path(to) for name, to in options.items() if isinstance(to, str)}
    scores = [Path(one) for one in options.get("evaluation", ())]
    with pytest.raises(ValueError, match=sentence):
        serve(options.get("runs"), port=0, evaluation=scores, **paths)


def test_labels_of_an_image_that_is_cut_short_are_refused_in_a_sentence(
    labelling: Labelling, folder: Path
) -> None:
    image = folder / "images" / "a.png"
    image.write_bytes(image.read_bytes()[:300])
    answer = labelling().put("/v1/images/0/labels", content=labels_file(some_labels()))
    assert (answer.status_code, kind(answer)) == (404, "no-such-image")
    assert answer.json()["detail"].startswith("a.png cannot be read")
