"""The client and what predicts behind it: for every task the annotations and files of a local predictor."""

import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from starlette.testclient import TestClient

import pixelwise as pw
from pixelwise.predict import Predictor, write_predictions
from pixelwise.predict.writing import plan
from pixelwise.rle import run_lengths
from pixelwise.serve import Limits
from pixelwise.serve.client import Client
from pixelwise.serve.remote import ServedPredictor, options_of_decoding
from pixelwise.serve.wire import annotation_of, arrays_of, packed, unpacked
from pixelwise.types import (
    Annotation,
    Boxes,
    ClassMasks,
    ClassTable,
    LabelMap,
    MaskSet,
    Model,
    PanopticMap,
    Skeleton,
    voc_palette,
)
from tests.serve.conftest import Start, file_of, ready

NAMES = ("sky", "car", "road")
JOINTS = Skeleton(("head", "left hand", "right hand"), ((0, 1), (0, 2)), ((1, 2),), (0.1, 0.1, 0.1))
PLAIN = ClassTable.of(*NAMES)
THINGS = ClassTable(NAMES, voc_palette(3), things=(1,), ids=(7, 3, 40))
SEVERAL = ClassTable(NAMES, voc_palette(3), exclusive=False)
PEOPLE = ClassTable(("person",), voc_palette(1), skeleton=JOINTS)


HEAVY = ("instance", "panoptic", "keypoint_detection")  # without training they find a hundred objects


def tasks() -> dict[str, tuple[Callable[[], Model], ClassTable]]:
    """A small network and its classes for each task."""
    small: dict[str, Any] = {"encoder": "tiny", "min_size": None}
    return {
        "semantic": (lambda: pw.build("unet", 3, encoder="tiny"), PLAIN),
        "multilabel": (lambda: pw.build("unet", 3, encoder="tiny"), SEVERAL),
        "instance": (lambda: pw.build("mask_rcnn", 3, **small), THINGS),
        "detection": (lambda: pw.build("faster_rcnn", 3, **small), PLAIN),
        "panoptic": (lambda: pw.build("panoptic_fpn", 3, things=[1], **small), THINGS),
        "keypoints": (lambda: pw.build("simplebaseline", num_joints=3, encoder="tiny"), PEOPLE),
        "keypoint_detection": (lambda: pw.build("keypoint_rcnn", num_joints=3, **small), PEOPLE),
    }


def same(found: Any, expected: Any) -> None:
    """Every field is equal, of the same type."""
    assert type(found) is type(expected)
    for field in fields(expected):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "probabilities":
            continue
        assert type(one) is type(other), field.name
        if isinstance(other, torch.Tensor):
            assert one.dtype == other.dtype, field.name
            assert torch.equal(one, other), field.name
        else:
            assert one == other, field.name


@pytest.fixture
def behind(start: Start, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Client, Predictor]]:
    """A client of a server in this process, and the predictor that the server has."""
    import httpx

    def behind(
        model: Model, classes: ClassTable, task: str | None = None, **options: Any
    ) -> tuple[Client, Predictor]:
        predictor = Predictor(model, classes, task=task, **options)
        server = ready(start({"m": predictor}, limits=Limits(seconds=600)))
        monkeypatch.setattr(httpx, "Client", lambda **_: server)
        return Client("http://127.0.0.1"), predictor

    return behind


@pytest.mark.parametrize(
    "task",
    [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in tasks()],
)
def test_every_task_gives_the_annotations_and_files_of_the_predictor(
    task: str, behind: Callable[..., tuple[Client, Predictor]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    make, classes = tasks()[task]
    client, predictor = behind(make(), classes, task)
    path = tmp_path / "photo.png"
    path.write_bytes(file_of(65, 71))
    expected, found = predictor(path), client.predict(path)
    same(found.annotation, expected.annotation)
    assert (found.task, found.classes, found.id) == (expected.task, expected.classes, expected.id)
    assert torch.equal(found.image, expected.image)
    written: list[dict[str, bytes]] = []
    for name, one in (("here", expected), ("there", found)):
        for suffix in ("_overlay.png", *predictor.task.writers):
            one.save(tmp_path / name / suffix[1:] / f"photo{suffix}")
        files = [file for file in sorted((tmp_path / name).rglob("*")) if file.is_file()]
        written.append({file.relative_to(tmp_path / name).as_posix(): file.read_bytes() for file in files})
    assert len(written[0]) > len(predictor.task.writers)
    assert written[0] == written[1]
    usual = client._http.post("/v1/models/m/predict", content=file_of(48, 64))
    assert usual.status_code == 200, usual.text


def test_folders_are_predicted_there_as_here(
    behind: Callable[..., tuple[Client, Predictor]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    client, predictor = behind(pw.build("unet", 3, encoder="tiny"), PLAIN)
    (tmp_path / "images").mkdir()
    for number in range(5):
        (tmp_path / "images" / f"{number}.png").write_bytes(file_of(40, 56 + 8 * (number % 2), seed=number))
    (tmp_path / "images" / "small.png").write_bytes(file_of(4, 4))
    (tmp_path / "images" / "cut.png").write_bytes(file_of(40, 56)[:200])
    written = []
    for name, predict in (("here", predictor), ("there", ServedPredictor(client))):
        for suffix in (".png", "_probabilities.npz"):
            out = tmp_path / name / suffix[1:]
            jobs = plan([tmp_path / "images"], out, suffix)
            done = write_predictions(predict, jobs, out, overlay=True, progress=False, batch_size=4)
            assert len(done.problems) == 1
            assert "cut.png" in done.problems[0]
        files = [path for path in sorted((tmp_path / name).rglob("[!.]*")) if path.is_file()]
        written.append({path.relative_to(tmp_path / name).as_posix(): path.read_bytes() for path in files})
    assert len(written[0]) >= 15
    assert written[0] == written[1]


def test_joints_are_answered_as_coco_has_them(behind: Callable[..., tuple[Client, Predictor]]) -> None:
    torch.manual_seed(0)
    client, predictor = behind(*[part() if callable(part) else part for part in tasks()["keypoints"]])
    content = client._http.post("/v1/models/m/predict", content=file_of(48, 64)).json()
    expected = predictor(Image.open(io.BytesIO(file_of(48, 64)))).annotation
    assert content["categories"] == [
        {"id": 1, "name": "person", "keypoints": list(JOINTS.names), "skeleton": [[1, 2], [1, 3]]}
    ]
    (one,) = content["annotations"]
    points = np.array(one["keypoints"]).reshape(3, 3)
    assert np.allclose(points[:, :2], expected.points[0])
    assert (points[:, 2] == 2).all()
    assert one["bbox"] == [0, 0, 64, 48]


@pytest.mark.parametrize(
    ("channels", "pixels"),
    [
        (3, np.linspace(0, 1, 40 * 56 * 3, dtype=np.float32).reshape(40, 56, 3)),
        (1, np.arange(40 * 56, dtype=np.uint16).reshape(40, 56) * 20),
        (5, np.arange(40 * 56 * 5, dtype=np.uint8).reshape(40, 56, 5)),
    ],
    ids=["floats", "16 bits", "5 channels"],
)
def test_pixels_that_no_picture_holds_are_sent_exactly(
    channels: int, pixels: np.ndarray, behind: Callable[..., tuple[Client, Predictor]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    client, predictor = behind(pw.build("unet", 3, encoder="tiny", in_channels=channels), PLAIN)
    np.save(tmp_path / "a.npy", pixels)
    for source in (pixels, tmp_path / "a.npy"):
        found = client.predict(source, probabilities=True)
        expected = predictor(source, probabilities=True)
        same(found.annotation, expected.annotation)
        assert torch.equal(found.probabilities, expected.probabilities.half().float())


@pytest.mark.parametrize(
    "kind", ["turned.jpg", "palette.png", "grey16.png", "alpha.webp", "cmyk.jpg", "a.gif", "a.tif"]
)
def test_files_of_every_kind_mean_the_same_there(
    kind: str, behind: Callable[..., tuple[Client, Predictor]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    client, predictor = behind(pw.build("unet", 3, encoder="tiny"), PLAIN)
    image, path = Image.open(io.BytesIO(file_of(40, 56))), tmp_path / kind
    if kind == "turned.jpg":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(path, exif=exif)
    elif kind == "grey16.png":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 200).save(path)
    else:
        modes = {"palette.png": "P", "alpha.webp": "RGBA", "cmyk.jpg": "CMYK"}
        image.convert(modes.get(kind, "RGB")).save(path)
    found, expected = client.predict(path), predictor(path)
    assert torch.equal(found.image, expected.image)
    same(found.annotation, expected.annotation)


def test_settings_go_with_the_request(behind: Callable[..., tuple[Client, Predictor]]) -> None:
    torch.manual_seed(0)
    client, predictor = behind(pw.build("unet", 3, encoder="tiny"), SEVERAL, "multilabel")
    image = Image.open(io.BytesIO(file_of(40, 56)))
    remote = ServedPredictor(
        client, **options_of_decoding({"thresholds": 0.3, "min_component": 9}), flip=True
    )
    other = Predictor(
        predictor.model,
        SEVERAL,
        task="multilabel",
        decoding={"thresholds": 0.3, "min_component": 9},
        flip=True,
    )
    same(remote(image).annotation, other(image).annotation)
    assert not torch.equal(remote(image).annotation.masks, predictor(image).annotation.masks)
    with pytest.raises(ValueError, match="--decoding takes one of thresholds"):
        options_of_decoding({"boxes": "/etc/passwd"})


def test_a_server_without_room_is_asked_again(
    behind: Callable[..., tuple[Client, Predictor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = behind(pw.build("unet", 3, encoder="tiny"), PLAIN)
    served = client._http.app.state.models["m"]
    refusals, room = [], served.thread.check_room
    waits: list[float] = []

    def full(pixels: int = 0) -> None:
        if len(refusals) < 2:
            refusals.append(1)
            from pixelwise.serve.problems import Problem

            raise Problem("queue-full", "full", retry_after=3)
        room(pixels)

    monkeypatch.setattr(served.thread, "check_room", full)
    monkeypatch.setattr(time, "sleep", waits.append)
    assert client.predict(Image.open(io.BytesIO(file_of()))).label_map.labels.shape == (40, 56)
    assert waits == [3, 3]


@pytest.mark.parametrize("dense", [True, False])
def test_bytes_give_every_annotation_back(dense: bool) -> None:
    random = torch.Generator().manual_seed(0)
    masks = torch.rand(2, 7, 9, generator=random) > 0.5
    some: list[Annotation] = [
        LabelMap(torch.randint(0, 300, (7, 9), generator=random), (0.5, 2.0)),
        LabelMap(torch.full((7, 9), -1)),
        ClassMasks(masks.long()),
        Boxes(
            torch.rand(0, 4),
            torch.zeros(0, dtype=torch.int64),
            torch.zeros(0),
            torch.zeros(0, dtype=torch.bool),
        ),
        PanopticMap(
            torch.randint(0, 70_000, (7, 9), generator=random),
            torch.tensor([1, 70_000]),
            torch.tensor([0, 2]),
            torch.tensor([False, True]),
        ),
    ]
    objects = MaskSet.of(masks, torch.tensor([0, 2]))
    some.append(objects if dense else MaskSet.of(run_lengths(objects), objects.classes))
    some.append(MaskSet.of(masks[:0], torch.zeros(0, dtype=torch.int64)))
    for one in some:
        content = packed(arrays_of(one))
        assert content == packed(arrays_of(one))
        same(annotation_of(unpacked(content)), one)


def test_bytes_that_are_none_are_named() -> None:
    with pytest.raises(ValueError, match="no archive of arrays"):
        unpacked(b"no")
    with pytest.raises(ValueError, match="no annotation of pixelwise"):
        annotation_of({"header": np.array(json.dumps({"kind": "Path", "types": {}}))})


def test_arrays_that_lie_about_themselves_are_refused(semantic: TestClient) -> None:
    def answer(array: np.ndarray, change: Callable[[bytes], bytes] = lambda body: body) -> str:
        file = io.BytesIO()
        np.save(file, array)
        said = semantic.post("/v1/predict", content=change(file.getvalue()))
        assert said.status_code < 500
        return str(said.json().get("type")) if said.status_code >= 400 else ""

    fine = np.zeros((40, 56, 3), np.uint8)
    assert semantic.post("/v1/predict", content=b"\x93NUMPY").status_code == 422
    assert answer(fine, lambda body: body[:-1]) == "urn:pixelwise:damaged-image"
    assert answer(fine, lambda body: body.replace(b"(40, 56, 3)", b"(99999999999, 99999999, 3)")) != ""
    assert answer(np.zeros((40, 56, 3), np.complex64)) == "urn:pixelwise:unusable-image"
    assert answer(np.full((40, 56, 3), math.nan, np.float32)) == "urn:pixelwise:unusable-image"
    assert answer(np.zeros((40, 56, 7), np.uint8)) == "urn:pixelwise:unusable-image"
    assert answer(np.asfortranarray(fine)) == "urn:pixelwise:unusable-image"
    assert answer(np.array([[None]], object)) == "urn:pixelwise:unusable-image"


DEEP = np.random.default_rng(4).integers(100, 1900, (40, 56, 3)).astype(np.uint16)


def deep_images(folder: Path) -> list[Path | np.ndarray]:
    """Images of more than 8 bits, as files and as an array."""
    Image.fromarray(DEEP[..., 0]).save(folder / "grey.png")
    np.save(folder / "a.npy", DEEP)
    tifffile.imwrite(folder / "grey.tif", DEEP[..., 0])
    tifffile.imwrite(folder / "colours.tif", DEEP, photometric="rgb")
    tifffile.imwrite(folder / "floats.tif", (DEEP / 2000).astype(np.float32), photometric="rgb")
    return [*sorted(folder.iterdir()), DEEP]


@pytest.mark.parametrize("intensity", ["percentiles", "range:0,2000"])
def test_deep_images_have_the_intensity_of_the_model_there(
    intensity: str, behind: Callable[..., tuple[Client, Predictor]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = pw.build("unet", 3, encoder="tiny")
    client, predictor = behind(model, PLAIN, decoding={"intensity": intensity})
    assert client.intensity == intensity
    for source in deep_images(tmp_path):
        expected = predictor(source, probabilities=True)
        found = client.predict(source, probabilities=True)
        assert torch.equal(found.image, expected.image)
        assert torch.equal(found.probabilities, expected.probabilities.half().float())
        same(client.predict(source).annotation, expected.annotation)
        if isinstance(source, Path):  # as any other program sends it
            same(annotation_of(unpacked(client.ask(source.read_bytes()))), expected.annotation)


def test_a_tiff_file_of_several_pages_or_too_many_pixels_is_refused(
    behind: Callable[..., tuple[Client, Predictor]],
) -> None:
    client, _ = behind(pw.build("unet", 3, encoder="tiny"), PLAIN)
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((4, 40, 56), np.float64), photometric="minisblack")
    with pytest.raises(ValueError, match="several pages"):
        client.ask(file.getvalue())
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((40, 56, 3), np.uint16))
    claim = file.getvalue().replace((56).to_bytes(2, "little"), (60000).to_bytes(2, "little"), 1)
    with pytest.raises(ValueError, match=r"cannot be read|at most"):
        client.ask(claim)


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("intensity", ["percentiles", "range:0,2000"])
def test_unknown_pixels_of_a_geotiff_get_the_ignore_label(
    intensity: str, dtype: str, behind: Callable[..., tuple[Client, Predictor]], tmp_path: Path
) -> None:
    rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
    torch.manual_seed(0)
    client, predictor = behind(pw.build("unet", 3, encoder="tiny"), PLAIN, decoding={"intensity": intensity})
    values = np.random.default_rng(2).integers(1, 120, (3, 40, 56)).astype(dtype)
    values[:, :9, :11] = 0
    about = {"driver": "GTiff", "count": 3, "height": 40, "width": 56, "dtype": dtype, "nodata": 0}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 399960, 0, -10, 5700000)}
    with rasterio.open(tmp_path / "a.tif", "w", **about, **place) as file:
        file.write(values)
    expected = np.load(predictor(tmp_path / "a.tif").save(tmp_path / "a.npy"))
    assert (expected == PLAIN.ignore).sum() == 9 * 11
    body = (tmp_path / "a.tif").read_bytes()
    found = annotation_of(unpacked(client.ask(body)))
    np.testing.assert_array_equal(found.labels.numpy(), expected)
    sure = annotation_of(unpacked(client.ask(body, probabilities=True)))
    np.testing.assert_array_equal(sure.labels.numpy(), expected)
    with pytest.raises(ValueError, match="cannot read the image"):
        client.ask(body[:400])
