"""The contract of Label Studio's ML backend: what it sends and what it takes.

Requests and answers have the form of its documentation ("Write your own ML backend", "Export results" and
the label config's tags): `health`, `setup` with `project` and `schema`, `predict` with `tasks`, `project`,
`label_config` and `params`; results with `from_name`, `to_name`, `type`, `original_width`,
`original_height`, `image_rotation` and a `value` in percent of the image.
"""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

import pixelwise as pw
from pixelwise.data.formats.label_studio import decode_brush
from pixelwise.predict import Predictor
from pixelwise.rle import RleMasks
from tests.serve.conftest import CLASSES, Start, file_of, ready

HOME = "/v1/label-studio/streets"
TOKEN = "a-token-of-enough-letters"
SIZE = (40, 56)


def config(control: str, labels: tuple[str, ...] = ("road", "Sky &amp; Sea", "dog")) -> str:
    """The configuration of a project."""
    inner = "".join(f'<Label value="{label}" background="#ff0000"/>' for label in labels)
    return (
        f'<View><Image name="photo" value="$picture" zoom="true"/><{control} name="tag" toName="photo">'
        f'{inner}</{control}><Choices name="good" toName="photo"><Choice value="yes"/></Choices></View>'
    )


def request(address: Any, control: str = "BrushLabels", **changes: Any) -> dict[str, Any]:
    """What Label Studio posts to `predict`."""
    return {
        "tasks": [{"id": 17, "data": {"picture": address}, "annotations": [], "predictions": []}],
        "model_version": None,
        "project": "3.1700000000",
        "label_config": config(control),
        "params": {"login": None, "password": None, "context": None},
        **changes,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "media" / "upload" / "3").mkdir(parents=True)
    (tmp_path / "media" / "upload" / "3" / "a b.png").write_bytes(file_of(*SIZE))
    (tmp_path / "secret.png").write_bytes(file_of(*SIZE))
    return tmp_path / "media"


@pytest.fixture
def client(start: Start, folder: Path) -> TestClient:
    torch.manual_seed(0)
    model = pw.build("unet", 3, encoder="tiny").eval()
    image = torch.from_numpy(np.asarray(Image.open(io.BytesIO(file_of(*SIZE)))).copy()).permute(2, 0, 1) / 255
    with torch.no_grad():
        model.head.bias -= model(image[None]).logits.mean((0, 2, 3))
    return ready(start({"streets": model}, images_of_tasks=folder))


def expected(client: TestClient) -> np.ndarray:
    served = client.app.state.models["streets"]  # type: ignore[attr-defined]
    labels = served.predictor(Image.open(io.BytesIO(file_of(*SIZE)))).label_map.labels.numpy()
    assert set(np.unique(labels)) == {0, 1, 2}
    return labels


def results(client: TestClient, content: dict[str, Any]) -> list[dict[str, Any]]:
    answer = client.post(f"{HOME}/predict", json=content)
    assert answer.status_code == 200, answer.text
    (one,) = answer.json()["results"]
    assert one["model_version"] == "streets@000000000000"
    assert 0 <= one["score"] <= 1
    for region in one["result"]:
        assert (region["from_name"], region["to_name"]) == ("tag", "photo")
        assert (region["original_height"], region["original_width"]) == SIZE
        assert region["image_rotation"] == 0
    assert len({region["id"] for region in one["result"]}) == len(one["result"])
    return list(one["result"])


def test_health_and_setup_answer_as_label_studio_wants(client: TestClient) -> None:
    health = client.get(f"{HOME}/health")
    assert (health.status_code, health.json()["status"]) == (200, "UP")
    asked = {"project": "3.1700000000", "schema": config("BrushLabels"), "hostname": "", "access_token": ""}
    assert client.post(f"{HOME}/setup", json=asked).json() == {"model_version": "streets@000000000000"}
    asked["schema"] = config("BrushLabels", ("cat", "dog"))
    refused = client.post(f"{HOME}/setup", json=asked)
    assert refused.status_code == 422
    assert "no label is a class of the model: the project has the labels cat, dog" in refused.json()["detail"]


@pytest.mark.parametrize(
    "address",
    [
        "/data/upload/3/a%20b.png",
        "/data/local-files/?d=upload/3/a%20b.png",
        "data:image/png;base64," + base64.b64encode(file_of(*SIZE)).decode(),
    ],
)
def test_brushes_are_the_masks_of_the_classes_that_are_labels(client: TestClient, address: str) -> None:
    labels = expected(client)
    found = {}
    for region in results(client, request(address)):
        assert region["type"] == "brushlabels"
        assert region["value"]["format"] == "rle"
        (name,) = region["value"]["brushlabels"]
        found[name] = decode_brush(region["value"]["rle"], *SIZE)
    assert set(found) == {"road", "Sky & Sea"}
    assert np.array_equal(found["road"], labels == 1)
    assert np.array_equal(found["Sky & Sea"], labels == 2)


def test_polygons_are_in_percent_and_near_the_outlines(client: TestClient) -> None:
    labels = expected(client)
    painted = np.zeros(SIZE, bool)
    for region in results(client, request("/data/upload/3/a%20b.png", "PolygonLabels")):
        if region["value"]["polygonlabels"] == ["road"]:
            points = np.array(region["value"]["points"])
            assert points.min() >= 0
            assert points.max() <= 100
            ring = (points * [SIZE[1] / 100, SIZE[0] / 100]).ravel().tolist()
            painted |= RleMasks.from_polygons([[ring]], *SIZE).decode()[0]
    both = (painted & (labels == 1)).sum()
    assert both / (painted | (labels == 1)).sum() > 0.7


def test_boxes_are_rectangles(client: TestClient, start: Start, folder: Path) -> None:
    labels = expected(client)
    (road,) = [
        region["value"]
        for region in results(client, request("/data/upload/3/a%20b.png", "RectangleLabels"))
        if region["value"]["rectanglelabels"] == ["road"]
    ]
    y, x = np.nonzero(labels == 1)
    box = [x.min() / 56, y.min() / 40, (x.max() + 1 - x.min()) / 56, (y.max() + 1 - y.min()) / 40]
    assert [road["x"], road["y"], road["width"], road["height"]] == pytest.approx([100 * one for one in box])
    assert road["rotation"] == 0


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (request("https://example.com/a.png"), 422, "fetches nothing"),
        (request("/data/../../secret.png"), 422, "no image"),
        (request("/data/local-files/?d=../secret.png"), 422, "no image"),
        (request("/data/local-files/?d=/etc/hostname"), 422, "no image"),
        (request("/data/\0.png"), 422, "image"),
        (request("/data/" + "a" * 5000), 422, "image"),
        (request("/data/\ud800.png"), 422, "image"),
        (request("http://["), 400, "no address"),
        (request({"a": 1}), 422, "image"),
        (request("data:image/png;base64,@@"), 400, "not base64"),
        (request("/data/upload/3/a%20b.png", label_config="<View>"), 400, "no XML"),
        (request("/data/upload/3/a%20b.png", label_config=None), 400, "no XML"),
        (request("/data/upload/3/a%20b.png", "TextArea"), 422, "needs one of BrushLabels"),
        (request("", tasks=[{"data": {"other": 1}}]), 400, "no 'picture'"),
        (request("", tasks=7), 400, "`tasks`"),
        (
            request(
                "",
                label_config='<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><View>&b;</View>',
            ),
            400,
            "no XML",
        ),
    ],
)
def test_what_does_not_fit_is_told(
    client: TestClient, content: dict[str, Any], status: int, said: str
) -> None:
    answer = client.post(f"{HOME}/predict", content=json.dumps(content))
    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]


def test_detectors_give_rectangles_only(start: Start, folder: Path) -> None:
    torch.manual_seed(0)
    model = pw.build("faster_rcnn", 3, encoder="tiny", min_size=None)
    predictor = Predictor(model, CLASSES)
    client = ready(start({"streets": predictor}, images_of_tasks=folder))
    results(client, request("/data/upload/3/a%20b.png", "RectangleLabels"))
    refused = client.post(f"{HOME}/predict", json=request("/data/upload/3/a%20b.png"))
    assert refused.status_code == 422
    assert "needs masks" in refused.json()["detail"]


def test_without_the_option_there_is_no_backend_and_the_token_may_be_a_password(
    start: Start, folder: Path
) -> None:
    models = {"streets": pw.build("unet", 3, encoder="tiny")}
    assert start(models).get(f"{HOME}/health").status_code == 404
    client = ready(start(models, images_of_tasks=folder, token=TOKEN, hosts=None))
    assert client.get("/v1/models").status_code == 401
    assert client.get("/v1/models", auth=("anybody", "wrong")).status_code == 401
    assert client.get("/v1/models", auth=("anybody", TOKEN)).status_code == 200
    assert client.get("/v1/models", headers={"Authorization": "Basic @@"}).status_code == 401
