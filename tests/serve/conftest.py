"""A server in this process, with a tiny model."""

import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import pixelwise as pw
from pixelwise.predict import Predictor
from pixelwise.serve import Limits
from pixelwise.serve.app import create_app
from pixelwise.serve.model_thread import ModelThread
from pixelwise.serve.served import Served
from pixelwise.types import Model

CLASSES = pw.ClassTable.of("background", "road", "sky & sea")


def file_of(height: int = 40, width: int = 56, *, seed: int = 0, kind: str = "PNG") -> bytes:
    """An image file of smooth noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


def ready(client: TestClient) -> TestClient:
    """The client, once the models are warmed up."""
    for _ in range(6000):  # a busy machine takes long
        if client.get("/v1/health/ready").status_code == 200:
            return client
        time.sleep(0.05)
    raise AssertionError("the server did not get ready")


Start = Callable[..., TestClient]


def predictor_of(model: Model) -> Predictor:
    """With the usual classes."""
    return Predictor(model, CLASSES if model.num_classes else pw.ClassTable.of("object"))


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a server for models, or predictors, by name, with limits and options of the application."""
    opened = []

    def start(models: dict[str, Any], *, limits: Limits | None = None, **options: object) -> TestClient:
        limits = limits or Limits()
        thread = ModelThread(limits)
        served = [
            Served(
                name,
                model if isinstance(model, Predictor) else predictor_of(model),
                "0" * 64,
                thread,
                limits,
            )
            for name, model in models.items()
        ]
        app = create_app(served, thread, limits=limits, **{"size": 32, "drain": 5.0, **options})
        client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        client.__enter__()
        opened.append(client)
        return client

    yield start
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def semantic(start: Start) -> TestClient:
    """A server of one model with a class per pixel."""
    return ready(start({"streets": pw.build("unet", 3, encoder="tiny")}))
