"""The HTTP interface: outputs, errors, limits, who may use it."""

import base64
import io
import itertools
import json
import platform
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

import pixelwise as pw
from pixelwise.machine import give_memory_back
from pixelwise.predict import Predictor
from pixelwise.rle import RleMasks
from pixelwise.serve import Limits
from tests.serve.conftest import CLASSES, Start, file_of, ready

PREDICT = "/v1/models/streets/predict"


def local(client: TestClient, body: bytes) -> np.ndarray:
    """Labels of the same model in this process."""
    served = client.app.state.models["streets"]  # type: ignore[attr-defined]
    return served.predictor(Image.open(io.BytesIO(body))).label_map.labels.numpy()


def kind(answer: Any) -> str:
    """The type of a problem, after its form was checked."""
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert said["status"] == answer.status_code
    assert said["detail"]
    assert "\n" not in said["detail"]
    return said["type"].removeprefix("urn:pixelwise:")


# --- outputs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 56), (33, 71)])
def test_labels_in_every_form_are_those_of_the_predictor(semantic: TestClient, size: Any) -> None:
    body = file_of(*size)
    expected = local(semantic, body)
    answer = semantic.post(PREDICT, content=body)
    assert answer.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.mode == "P"
    assert np.array_equal(np.asarray(picture), expected)
    assert picture.getpalette()[3:6] == list(CLASSES.colors[1])
    raw = semantic.post(PREDICT, params={"output": "raw"}, content=body)
    assert raw.headers["x-shape"] == f"{size[0]},{size[1]}"
    assert np.array_equal(np.frombuffer(raw.content, np.uint8).reshape(size), expected)
    form = semantic.post(PREDICT, files={"image": ("a.png", body)}, data={"output": "raw"})
    assert form.content == raw.content
    assert semantic.post("/v1/predict", params={"output": "raw"}, content=body).content == raw.content
    assert semantic.post(PREDICT, content=body).content == answer.content


@pytest.mark.parametrize("instances", ["component", "class"])
def test_coco_gives_the_labels_back_exactly(semantic: TestClient, instances: str) -> None:
    body = file_of(41, 50, seed=3)
    expected = local(semantic, body)
    options = {"output": "coco", "instances": instances}
    found = semantic.post(PREDICT, params=options, content=body).json()
    assert (found["images"][0]["height"], found["images"][0]["width"]) == (41, 50)
    labels = np.full((41, 50), -1)
    for one in found["annotations"]:
        mask = RleMasks.from_coco([one["segmentation"]]).decode()[0]
        assert mask.sum() == one["area"]
        assert (labels[mask] == -1).all()
        labels[mask] = one["category_id"] - 1
    assert np.array_equal(labels, expected)
    present = len(np.unique(expected))
    assert (
        len(found["annotations"]) == present if instances == "class" else present <= len(found["annotations"])
    )


def test_geojson_rasterises_back(semantic: TestClient) -> None:
    body = file_of(34, 44, seed=5)
    expected = local(semantic, body)
    answer = semantic.post(PREDICT, params={"output": "geojson"}, content=body)
    assert answer.headers["content-type"] == "application/geo+json"
    labels = np.full((34, 44), -1)
    for feature in answer.json()["features"]:
        geometry = feature["geometry"]
        parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        for outer, *holes in parts:
            assert outer[0] == outer[-1]
            labels[filled(outer, (34, 44)) & ~np.any([filled(h, (34, 44)) for h in holes] or [False], 0)] = (
                feature["properties"]["label"]
            )
    assert np.array_equal(labels, expected)


def filled(ring: list[list[int]], size: tuple[int, int]) -> np.ndarray:
    """The pixels whose centre lies in a ring, by the even-odd rule along rows."""
    crossings = np.zeros((size[0], size[1] + 1), int)
    for (x0, y0), (x1, y1) in itertools.pairwise(ring):
        if x0 == x1:
            crossings[min(y0, y1) : max(y0, y1), x0] += 1
    return crossings.cumsum(1)[:, :-1] % 2 == 1


def test_probabilities_and_confidence_are_half_precision_with_names(semantic: TestClient) -> None:
    body = file_of()
    answer = semantic.post(PREDICT, params={"output": "probabilities"}, content=body)
    with np.load(io.BytesIO(answer.content)) as found:
        assert found["names"].tolist() == list(CLASSES.names)
        probabilities = found["probabilities"]
    assert (probabilities.dtype, probabilities.shape) == (np.float16, (3, 40, 56))
    assert np.allclose(probabilities.astype(float).sum(0), 1, atol=5e-3)
    confidence = semantic.post(PREDICT, params={"output": "confidence"}, content=body)
    with np.load(io.BytesIO(confidence.content)) as found:
        assert np.allclose(found["confidence"], probabilities.max(0), atol=1e-3)


def test_hugging_faces_json_is_answered_with_its_list_of_masks(semantic: TestClient) -> None:
    body = file_of(seed=9)
    expected = local(semantic, body)
    answer = semantic.post(PREDICT, json={"inputs": base64.b64encode(body).decode(), "parameters": {}})
    seen = np.full(expected.shape, -1)
    for one in answer.json():
        mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(one["mask"]))))
        assert set(np.unique(mask)) <= {0, 255}
        seen[mask == 255] = CLASSES.names.index(one["label"])
    assert np.array_equal(seen, expected)


def test_an_overlay_is_a_picture_of_the_size_of_the_image(semantic: TestClient) -> None:
    answer = semantic.post(PREDICT, params={"output": "overlay"}, content=file_of(kind="JPEG"))
    assert Image.open(io.BytesIO(answer.content)).size == (56, 40)
    assert "model;dur=" in answer.headers["server-timing"]
    assert answer.headers["x-model"] == "streets@000000000000"


def test_objects_are_answered_by_a_model_of_instances(start: Start) -> None:
    torch.manual_seed(0)
    model = pw.build("mask_rcnn", 3, encoder="tiny", min_size=None)
    client = ready(start({"things": model}))
    found = client.post("/v1/models/things/predict", content=file_of(64, 96)).json()
    expected = Predictor(model, CLASSES)(Image.open(io.BytesIO(file_of(64, 96)))).annotation
    assert [one["score"] for one in found["annotations"]] == pytest.approx(expected.scores.tolist())
    raw = client.post("/v1/models/things/predict", params={"output": "raw"}, content=file_of(64, 96))
    assert raw.headers["x-shape"] == "64,96"
    assert (
        kind(client.post("/v1/models/things/predict?output=probabilities", content=file_of()))
        == "bad-parameter"
    )


def test_images_of_one_size_share_a_batch_and_are_answered_as_alone(start: Start) -> None:
    client = ready(start({"streets": pw.build("unet", 3, encoder="tiny")}))
    served = client.app.state.models["streets"]  # type: ignore[attr-defined]
    served.thread.batch, bodies = 4, [file_of(seed=i) for i in range(8)]
    alone = [client.post(PREDICT, params={"output": "raw"}, content=body).content for body in bodies]
    served.thread.batches.clear()
    hold, answers, begun = threading.Event(), [b""] * 8, []
    slow = served.predictor.annotations

    def held(samples: Any) -> Any:
        begun.append(len(samples))
        hold.wait(20)
        return slow(samples)

    served.predictor.annotations = held

    def ask(i: int) -> None:
        answers[i] = client.post(PREDICT, params={"output": "raw"}, content=bodies[i]).content

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while sum(begun) + served.thread.waiting < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    hold.set()
    for thread in threads:
        thread.join()
    assert answers == alone
    assert sum(served.thread.batches) == 8
    assert max(served.thread.batches) == 4
    assert len(served.thread.batches) <= 4


# --- what is wrong ------------------------------------------------------------------------------------


def test_an_image_below_the_minimum_of_the_model_is_named(start: Start) -> None:
    masks = ready(start({"streets": pw.build("maskformer", 3, encoder="tiny", width=8)}))
    assert kind(masks.post(PREDICT, content=file_of(8, 8))) == "image-too-small"


def test_bodies_that_are_no_image_are_named(semantic: TestClient) -> None:
    png = file_of()
    assert kind(semantic.post(PREDICT, content=b"")) == "malformed"
    assert kind(semantic.post(PREDICT, content=b"not an image at all")) == "not-an-image"
    assert kind(semantic.post(PREDICT, content=b"GIF89a" + bytes(40))) == "not-an-image"
    assert kind(semantic.post(PREDICT, content=png[: len(png) // 2])) == "damaged-image"
    assert kind(semantic.post(PREDICT, files={"other": ("a.png", png)})) == "malformed"
    header = {"Content-Type": "multipart/form-data"}
    assert kind(semantic.post(PREDICT, content=b"xx", headers=header)) == "malformed"
    assert kind(semantic.post(PREDICT, json={"inputs": "http://169.254.169.254/a.png"})) == "url-refused"
    assert kind(semantic.post(PREDICT, json={"inputs": "@@@"})) == "malformed"
    assert kind(semantic.post(PREDICT, json=[1])) == "malformed"
    header = {"Content-Type": "application/json"}
    assert kind(semantic.post(PREDICT, content=b"[" * 100_000, headers=header)) == "malformed"


@pytest.mark.parametrize(
    "query",
    ["output=exe", "threshold=2", "threshold=nan", "min_area=-1", "flip=perhaps", "instances=all", "tile=1"],
)
def test_options_that_do_not_fit_are_named(semantic: TestClient, query: str) -> None:
    answer = semantic.post(f"{PREDICT}?{query}", content=file_of())
    assert kind(answer) == "bad-parameter"
    assert query.split("=")[0] in answer.json()["detail"]


def test_unknown_models_routes_and_methods_are_problems_too(semantic: TestClient) -> None:
    assert kind(semantic.post("/v1/models/nobody/predict", content=file_of())) == "no-such-model"
    assert kind(semantic.get("/v1/nothing")) == "not-found"
    assert kind(semantic.get(PREDICT)) == "wrong-method"
    assert kind(semantic.get("/page/../app.py")) == "not-found"
    assert kind(semantic.get("/page/..%2fapp.py")) == "not-found"
    assert kind(semantic.post("/v1/models/streets/images", content=file_of())) == "bad-parameter"


def test_large_bodies_and_large_images_are_refused_before_they_are_decoded(start: Start) -> None:
    limits = Limits(body=20_000, pixels=3_000)
    client = ready(start({"streets": pw.build("unet", 3, encoder="tiny")}, limits=limits))
    assert client.post(PREDICT, content=file_of(40, 56)).status_code == 200
    assert kind(client.post(PREDICT, content=bytes(20_001))) == "body-too-large"

    def pieces() -> Any:
        for _ in range(30):
            yield bytes(1000)

    assert kind(client.post(PREDICT, content=pieces())) == "body-too-large"
    assert kind(client.post(PREDICT, content=file_of(80, 80))) == "too-many-pixels"
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    big = Limits(body=10**7, pixels=64_000_000)
    other = ready(start({"streets": pw.build("unet", 3, encoder="tiny")}, limits=big))
    assert kind(other.post(PREDICT, content=bomb.getvalue())) == "too-many-pixels"


def test_a_full_queue_refuses_before_it_reads_and_says_when_to_come_back(start: Start) -> None:
    client = ready(start({"streets": pw.build("unet", 3, encoder="tiny")}, limits=Limits(waiting=2)))
    served = client.app.state.models["streets"]  # type: ignore[attr-defined]
    hold, slow = threading.Event(), served.predictor.annotations
    served.predictor.annotations = lambda samples: (hold.wait(10), slow(samples))[1]
    statuses: list[int] = []

    def ask(i: int) -> None:
        statuses.append(client.post(PREDICT, content=file_of(40 + 8 * i, 56)).status_code)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
        time.sleep(0.15)
    refused = client.post(PREDICT, content=file_of())
    assert kind(refused) == "queue-full"
    assert int(refused.headers["retry-after"]) >= 1
    hold.set()
    for thread in threads:
        thread.join()
    assert statuses == [200, 200, 200]
    assert 'kind="queue-full"' in client.get("/metrics").text


def test_a_request_that_waits_too_long_is_told_so(start: Start) -> None:
    client = ready(start({"streets": pw.build("unet", 3, encoder="tiny")}, limits=Limits(seconds=0.3)))
    served = client.app.state.models["streets"]  # type: ignore[attr-defined]
    slow = served.predictor.annotations
    served.predictor.annotations = lambda samples: (time.sleep(0.8), slow(samples))[1]
    assert kind(client.post(PREDICT, content=file_of())) == "deadline"
    served.predictor.annotations = slow
    time.sleep(0.8)
    assert client.post(PREDICT, content=file_of()).status_code == 200


def test_a_model_that_breaks_is_a_500_and_the_server_goes_on(start: Start) -> None:
    client = ready(start({"streets": pw.build("unet", 3, encoder="tiny")}))
    served = client.app.state.models["streets"]  # type: ignore[attr-defined]
    right = served.predictor.annotations
    served.predictor.annotations = lambda samples: 1 / 0
    answer = client.post(PREDICT, content=file_of())
    assert kind(answer) == "internal"
    assert "ZeroDivision" not in answer.text
    served.predictor.annotations = right
    assert client.post(PREDICT, content=file_of()).status_code == 200


# --- who may use it -----------------------------------------------------------------------------------


def test_other_names_of_the_host_and_pages_from_elsewhere_are_refused(start: Start) -> None:
    client = ready(start({"streets": pw.build("unet", 3, encoder="tiny")}, origins=("https://good.example",)))
    assert kind(client.get("/v1/models", headers={"Host": "evil.example"})) == "wrong-host"
    assert client.get("/v1/models", headers={"Host": "localhost:8000"}).status_code == 200
    body, foreign = file_of(), {"Origin": "https://evil.example"}
    assert kind(client.post(PREDICT, content=body, headers=foreign)) == "wrong-origin"
    allowed = client.post(PREDICT, content=body, headers={"Origin": "https://good.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://good.example"
    own = client.post(PREDICT, content=body, headers={"Origin": "http://127.0.0.1"})
    assert own.status_code == 200
    assert "access-control-allow-origin" not in own.headers
    assert own.headers["content-security-policy"].startswith("default-src 'none'")


def test_a_token_is_wanted_everywhere_but_for_health_and_the_page(start: Start) -> None:
    token = "a-token-of-enough-letters"
    client = ready(start({"streets": pw.build("unet", 3, encoder="tiny")}, token=token, hosts=None))
    for path in ("/v1/models", "/metrics", "/openapi.json", "/v1/runs/streets"):
        assert kind(client.get(path)) == "unauthorized"
        assert kind(client.get(path, headers={"Authorization": "Bearer wrong"})) == "unauthorized"
        assert client.get(path, headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert client.get("/").status_code == 200
    assert client.get("/v1/health/live", headers={"Host": "anything.example"}).status_code == 200


def test_every_route_is_in_openapi_and_none_of_them_fails(semantic: TestClient) -> None:
    told = json.loads(semantic.get("/openapi.json").content)
    assert told["openapi"].startswith("3.1")
    for path, methods in told["paths"].items():
        for method in methods:
            place = path.format(model="streets", image="0" * 64, number=0)
            assert semantic.request(method, place, content=file_of()).status_code < 500, (method, path)
    page = semantic.get("/")
    assert 'src="/page/main.js"' in page.text
    modules = re.findall(r'from "./(\w+\.js)"', semantic.get("/page/main.js").text)
    assert "api.js" in modules
    for name in (*modules, "style.css", "icon.svg"):
        assert semantic.get(f"/page/{name}").status_code == 200


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is of glibc")
def test_memory_that_is_free_goes_back_to_the_system() -> None:
    def own() -> int:
        rows = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return next(int(row.split()[1]) for row in rows if row.startswith("Anonymous:"))

    blocks = [np.ones(100_000, np.uint8) for _ in range(1000)]
    last = np.ones(100_000, np.uint8)  # above them, so that the heap cannot shrink by itself
    blocks.clear()
    before = own()
    give_memory_back()
    assert own() < before - 50_000  # KiB
    assert last.all()
