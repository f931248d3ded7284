"""Prompts over HTTP: an image is looked at once, and forgotten when there is no room."""

import threading
import time
from typing import Any

import pytest
from starlette.testclient import TestClient

from pixelwise.rle import RleMasks
from pixelwise.serve import Limits
from tests.serve.conftest import Start, file_of, ready
from tests.serve.test_http import kind
from tests.tasks.test_promptable import NearAndAlike

IMAGES = "/v1/models/any/images"


@pytest.fixture
def client(start: Start) -> TestClient:
    return ready(start({"any": NearAndAlike()}))


def looked(client: TestClient) -> int:
    return client.app.state.models["any"].predictor.model.looked  # type: ignore[attr-defined]


def test_a_second_click_neither_decodes_nor_embeds(client: TestClient) -> None:
    before, body = looked(client), file_of(48, 64)
    told = client.post(IMAGES, content=body).json()
    assert (told["height"], told["width"]) == (48, 64)
    again = client.post(IMAGES, content=body)
    assert (again.status_code, again.json()) == (201, told)
    place = f"{IMAGES}/{told['image']}/segment"
    for point in ((20, 24), (50, 10)):
        found = client.post(place, json={"points": [point], "labels": [1]}).json()["masks"]
        mask = RleMasks.from_coco([one["rle"] for one in found]).decode()
        assert mask.shape == (1, 48, 64)
        assert mask[0, point[1], point[0]]
        assert found[0]["score"] == pytest.approx(0.9)
    assert looked(client) == before + 1
    every = client.post(place, json={"box": [10, 14, 30, 34], "multimask": True}).json()["masks"]
    assert [one["score"] for one in every] == pytest.approx([0.3, 0.9, 0.5])
    assert client.delete(f"{IMAGES}/{told['image']}").status_code == 204
    assert kind(client.post(place, json={"points": [[1, 1]]})) == "no-such-image"
    assert kind(client.delete(f"{IMAGES}/{told['image']}")) == "no-such-image"


def test_an_image_that_two_ask_for_at_once_is_embedded_once(client: TestClient) -> None:
    served = client.app.state.models["any"]  # type: ignore[attr-defined]
    before, slow = looked(client), served.predictor.embed
    served.predictor.embed = lambda image: (time.sleep(0.3), slow(image))[1]
    answers: list[Any] = []
    body = file_of(40, 40, seed=4)
    threads = [
        threading.Thread(target=lambda: answers.append(client.post(IMAGES, content=body).json()))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [answers[0]] * 3
    assert looked(client) == before + 1


def test_the_image_that_was_used_longest_ago_is_forgotten_first(start: Start) -> None:
    client = ready(start({"any": NearAndAlike()}, limits=Limits(embeddings=100_000)))
    first, second, third = (
        client.post(IMAGES, content=file_of(48, 64, seed=i)).json()["image"] for i in range(3)
    )
    served = client.app.state.models["any"]  # type: ignore[attr-defined]
    assert served.embeddings.bytes <= 100_000
    assert kind(client.post(f"{IMAGES}/{first}/segment", json={"points": [[1, 1]]})) == "no-such-image"
    for kept in (second, third):
        assert client.post(f"{IMAGES}/{kept}/segment", json={"points": [[1, 1]]}).status_code == 200


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ({}, "needs points or a box"),
        ({"points": [[65, 3]]}, "the point 65, 3 lies outside the image of 64 x 48 pixels"),
        ({"points": [[1, 2, 3]]}, "pairs x, y"),
        ({"points": [[1, 2]] * 65}, "at most 64"),
        ({"points": [[1, 2]], "labels": [2]}, "labels must be 1 or 0"),
        ({"points": [[1, None]]}, "pairs x, y"),
        ({"box": [5, 5, 5, 9]}, "x0 < x1"),
        ({"box": [100, 100, 120, 120]}, "the box lies outside"),
        ({"points": [[1, 2]], "mask": 1}, "no prompt 'mask'"),
    ],
)
def test_prompts_that_do_not_fit_are_told_in_a_sentence(
    client: TestClient, prompt: dict[str, Any], said: str
) -> None:
    image = client.post(IMAGES, content=file_of(48, 64)).json()["image"]
    answer = client.post(f"{IMAGES}/{image}/segment", json=prompt)
    assert kind(answer) == "bad-parameter"
    assert said in answer.json()["detail"]


def test_whole_images_are_not_predicted_by_a_model_of_prompts(client: TestClient) -> None:
    answer = client.post("/v1/models/any/predict", content=file_of())
    assert kind(answer) == "bad-parameter"
    assert "/v1/models/any/images" in answer.json()["detail"]
