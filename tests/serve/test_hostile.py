"""Requests that nobody should send: never a bug, never a hang, never a file of the machine."""

import random
import time
from typing import Any

import pytest
from starlette.testclient import TestClient

import pixelwise as pw
from tests.serve.conftest import Start, file_of, ready

SECONDS = 5.0


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
        "/v1/runs/..%2f..%2fetc",
        "/metrics", "/",
    )  # fmt: skip
    queries = (
        {}, {"output": "raw"}, {"output": "coco", "instances": "class"}, {"output": "../../etc/passwd"},
        {"threshold": "1e309"}, {"min_area": "-0"}, {"flip": "\x00"}, {"output": "geojson", "min_area": "3"},
        {"a" * 300: "b"},
    )  # fmt: skip
    bodies = (
        image, damaged(image, chance), damaged(image, chance), b"", chance.randbytes(200),
        b'{"inputs": "' + b"A" * 99 + b'"}', b'{"inputs": {"a": []}}', b"[" * 500,
        b'{"points": [[1e400, NaN]]}',
        b"--x\r\nContent-Disposition: form-data; name=image\r\n\r\nx", b"--x--",
    )  # fmt: skip
    headers = (
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


@pytest.mark.parametrize("count", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_hostile_requests_are_answered_in_time_and_never_by_a_bug(start: Start, count: int) -> None:
    client: TestClient = ready(start({"streets": pw.build("unet", 3, encoder="tiny")}))
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
