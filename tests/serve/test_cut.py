"""Objects by clicks, without weights."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from starlette.testclient import TestClient

from pixelwise.rle import RleMasks
from pixelwise.serve import Limits
from pixelwise.serve.app import create_app
from pixelwise.serve.cut import CutServed
from pixelwise.serve.model_thread import ModelThread
from tests.serve.conftest import ready
from tests.serve.test_http import kind


def photo() -> tuple[bytes, np.ndarray]:
    """Two discs on noise, and the mask of the first."""
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(20, 60, (60, 90, 3), np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse([10, 15, 40, 45], fill=(200, 60, 40))
    draw.ellipse([60, 15, 80, 35], fill=(200, 60, 40))
    mask = Image.new("1", image.size)
    ImageDraw.Draw(mask).ellipse([10, 15, 40, 45], fill=1)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue(), np.asarray(mask)


@pytest.mark.parametrize("prompt", [{"points": [[25, 30]]}, {"box": [6, 11, 45, 50]}])
def test_what_is_clicked_or_boxed_is_cut_out_without_weights(prompt: dict[str, object]) -> None:
    thread = ModelThread(Limits())
    app = create_app([CutServed(thread, Limits())], thread, limits=Limits())
    with TestClient(app, base_url="http://127.0.0.1") as client:
        ready(client)
        assert client.get("/v1/models").json()["models"][0]["takes_prompts"] is True
        body, expected = photo()
        image = client.post("/v1/models/grabcut/images", content=body).json()["image"]
        path = f"/v1/models/grabcut/images/{image}/segment"
        answer = client.post(path, json=prompt).json()
        mask = RleMasks.from_coco([answer["masks"][0]["rle"]]).decode()[0]
        assert (mask & expected).sum() > 0.9 * (mask | expected).sum()
        assert kind(client.post(path, json={"box": [0, 0, 90, 60]})) == "bad-parameter"
        assert kind(client.post("/v1/predict", content=body)) == "bad-parameter"
        assert kind(client.post("/v1/labels", content=body)) in ("bad-parameter", "no-such-model")
