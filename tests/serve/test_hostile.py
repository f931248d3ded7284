"""Requests that nobody should send: never a bug, never a hang, never a file of the machine."""

import io
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

import pixelwise as pw
from pixelwise.data import LabelEncoding
from pixelwise.serve.collection import Collection, images_in
from pixelwise.serve.objects import ObjectCollection
from tests.serve.conftest import CLASSES, Start, file_of, ready

SECONDS = 60.0  # is a hang; on a fresh machine the first answer waits for kernels to be compiled
SIZE = (40, 56)


def damaged(body: bytes, chance: random.Random) -> bytes:
    """The body with bytes changed, cut out or put in."""
    content = bytearray(body)
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(content) + 1)
        kind = chance.randrange(4)
        if kind == 0 and place < len(content):
            content[place] = chance.randrange(256)
        elif kind == 1:
            del content[place : place + chance.randint(1, 200)]
        elif kind == 2:
            content[place:place] = chance.randbytes(chance.randint(1, 50))
        else:
            content[place:place] = content[: chance.randint(0, 100)]
    return bytes(content)


def hostile(chance: random.Random) -> dict[str, Any]:
    """Method, path, query, headers and body of a request."""
    image = file_of(
        40, 56, seed=chance.randrange(5), kind=chance.choice(("PNG", "JPEG", "WEBP", "TIFF", "BMP"))
    )
    paths = (
        "/v1/models/streets/predict", "/v1/predict", "/v1/models", "/v1/models/streets/images",
        "/v1/models/streets/images/../../x/segment", "/v1/runs/streets", "/page/%2e%2e%2fapp.py",
        "/page/app.py", "/v1/models/%00/predict", f"/v1/models/{'x' * 3000}/predict",
        "/v1/runs/..%2f..%2fetc", "/v1/images", "/v1/images/0", "/v1/images/0/labels", "/v1/images/1/labels",
        "/v1/images/..%2f0/labels", "/v1/images/-1", f"/v1/images/{'9' * 3000}/labels", "/v1/labels",
        "/v1/samples/..%2f0", "/v1/images/0/objects", "/v1/images/1/objects", "/v1/images/-1/objects",
        "/v1/objects", "/v1/reports/0", "/v1/reports/..%2f0", "/v1/runs/streets/pictures/..%2f0",
        "/metrics", "/",
    )  # fmt: skip
    queries: tuple[dict[str, str], ...] = (
        {}, {"output": "raw"}, {"output": "coco", "instances": "class"}, {"output": "../../etc/passwd"},
        {"threshold": "1e309"}, {"min_area": "-0"}, {"flip": "\x00"}, {"output": "geojson", "min_area": "3"},
        {"a" * 300: "b"}, {"of": "../x"}, {"score": "\x00"}, {"output": "yolo", "name": "../../x"},
        {"output": "coco", "model": "../x"},
    )  # fmt: skip
    bodies = (
        image, damaged(image, chance), damaged(image, chance), labels_file(SIZE), labels_file((40, 57)), b"",
        chance.randbytes(200),
        objects_file(chance), damaged(objects_file(chance), chance),
        b'{"inputs": "' + b"A" * 99 + b'"}', b'{"inputs": {"a": []}}', b"[" * 500,
        b'{"points": [[1e400, NaN]]}',
        b"--x\r\nContent-Disposition: form-data; name=image\r\n\r\nx", b"--x--",
    )  # fmt: skip
    headers: tuple[dict[str, str], ...] = (
        {}, {"Content-Type": "application/json"}, {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "multipart/form-data"}, {"Content-Type": "image/png; charset=\xff"},
        {"Content-Length": "99999999999"}, {"Origin": "null"}, {"Host": "a" * 500}, {"X-Request-Id": "a\tb"},
        {"Authorization": "Bearer \xe4"}, {"Expect": "100-continue"},
    )  # fmt: skip
    return {
        "method": chance.choice(("POST", "POST", "POST", "POST", "GET", "DELETE", "PUT", "OPTIONS", "PATCH")),
        "url": paths[0] if chance.random() < 0.6 else chance.choice(paths),
        "params": chance.choice(queries),
        "headers": {k: v.encode("latin-1") for k, v in chance.choice(headers).items()},
        "content": chance.choice(bodies),
    }


def labels_file(size: tuple[int, int]) -> bytes:
    """Labels as the page sends them."""
    file = io.BytesIO()
    Image.new("L", size[::-1], 1).save(file, "PNG")
    return file.getvalue()


def objects_file(chance: random.Random) -> bytes:
    """Objects as the page sends them, some of them wrong."""
    counts = chance.choice(
        ("0", "PPPPPPPP", "o0", [0, 2240], [5, 3, 2232], [-1, 2241], [2**70], [], None, "\u00ff")
    )
    rle = {"size": chance.choice((list(SIZE), [56, 40], [2**40, 2**40], [1.5], "x")), "counts": counts}
    one = {
        "label": chance.choice((0, 2, 3, -1, 1.0, None, [])),
        "rle": rle,
        "crowd": chance.choice((False, 1)),
    }
    told = {
        "height": chance.choice((SIZE[0], 2**70)),
        "width": SIZE[1],
        "objects": [one] * chance.randint(0, 3),
    }
    return json.dumps(told).encode()


@pytest.mark.parametrize("made", [Collection, ObjectCollection])
@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_hostile_requests_are_answered_in_time_and_never_by_a_bug(
    start: Start, count: int, made: type[Collection], tmp_path: Path
) -> None:
    (tmp_path / "labels").mkdir()
    paths = [tmp_path / "a.png", tmp_path / "damaged.png"]
    for path, body in zip(paths, (file_of(*SIZE), file_of(*SIZE)[:300]), strict=True):
        path.write_bytes(body)
    encoding = LabelEncoding.of(CLASSES)
    images = made(images_in(tmp_path, paths, encoding), encoding, tmp_path / "labels")
    model = pw.build("unet", 3, encoder="tiny")
    client: TestClient = ready(start({"streets": model}, collection=images))
    chance = random.Random(count)
    for _ in range(count):
        request = hostile(chance)
        began = time.monotonic()
        answer = client.request(**request)
        assert answer.status_code < 500, (request, answer.text)
        assert time.monotonic() - began < SECONDS, request
        assert b"create_app" not in answer.content, request
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json", request
    assert client.post("/v1/predict", content=file_of()).status_code == 200
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    allowed = {"labels/instances.json", "labels/a.png", "labels/classes.csv", "labels/.pixelwise.sha256"}
    assert written <= {"a.png", "damaged.png", *allowed}
