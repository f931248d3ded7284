"""`pixelwise serve` as people start it: a process, a client, a browser."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import pixelwise as pw
from pixelwise.checkpoint import save
from pixelwise.predict import Predictor
from pixelwise.serve.client import Client
from tests.product.conftest import ROOT, THREADS, scene

CLASSES = pw.ClassTable.of("background", "disc", "road")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose labels depend on the image and of whose classes none fills it."""
    path = tmp_path_factory.mktemp("served") / "scenes.safetensors"
    torch.manual_seed(0)
    model = pw.build("unet", 3, encoder="resnet18").eval()
    image = torch.from_numpy(scene(480, 640, seed=3)[0]).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        model.head.bias -= model(image).logits.mean((0, 2, 3))
        shares = model(image).logits.argmax(1).unique(return_counts=True)[1] / image[0, 0].numel()
    assert len(shares) == 3
    assert shares.min() > 0.1
    save(model, path, CLASSES)
    return path


@pytest.fixture(scope="module")
def photo(weights: Path) -> Path:
    path = weights.parent / "photo.jpg"
    Image.fromarray(scene(480, 640, seed=3)[0]).save(path, quality=92)
    return path


def start(*words: object) -> tuple["subprocess.Popen[str]", str]:
    """A server in a process of its own, with the machine's own threads; and where it listens."""
    variables = {k: v for k, v in os.environ.items() if k.removesuffix("_NUM_THREADS") not in THREADS}
    process = subprocess.Popen(
        [sys.executable, "-m", "pixelwise", "serve", *map(str, words), "--port", "0", "--size", "64"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**variables, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://\S+", line)
    if found is None:
        process.kill()
        raise AssertionError(line + process.communicate()[1])
    return process, found[0]


@pytest.fixture(scope="module")
def server(weights: Path) -> Iterator[str]:
    process, url = start(weights)
    wait_until_ready(url)
    yield url
    assert stop(process) == 0


def stop(process: "subprocess.Popen[str]") -> int:
    """The exit code of a server that is told to stop."""
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=40)
    return process.returncode


def wait_until_ready(url: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(f"{url}/v1/health/ready").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError("the server did not get ready")


def test_a_client_gets_the_predictions_of_the_predictor(server: str, weights: Path, photo: Path) -> None:
    with Client(server) as client:
        found = client.predict(photo)
        expected = Predictor(weights)(photo)
        same = found.label_map.labels == expected.label_map.labels
        assert same.float().mean() > 0.9999
        assert found.classes.names == CLASSES.names
        with pytest.raises(ValueError, match="there is no option 'size'"):
            client.predict(photo, size=3)
    with pytest.raises(ValueError, match="has no model 'other'"):
        Client(server, model="other")


@pytest.mark.slow
def test_requests_under_way_are_answered_when_the_server_is_stopped(weights: Path, photo: Path) -> None:
    process, url = start(weights)
    wait_until_ready(url)
    answers: list[object] = []

    def ask() -> None:
        with Client(url) as client:
            answers.append(client.predict(photo).label_map.labels.shape)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert stop(process) == 0
    for thread in threads:
        thread.join()
    assert answers == [(480, 640)] * 3


@pytest.mark.slow
def test_what_cannot_be_served_is_told_before_a_model_is_loaded(
    server: str, weights: Path, pixelwise
) -> None:
    port = server.rpartition(":")[2]
    taken = pixelwise("serve", weights, "--port", port)
    assert taken.code == 2
    assert f"port {port}: it is taken by another program" in taken.err
    open_to_all = pixelwise("serve", weights, "--host", "0.0.0.0", "--port", "0")
    assert open_to_all.code == 2
    assert "give it a token" in open_to_all.err
    missing = pixelwise("serve", weights.with_name("none.safetensors"), "--port", "0")
    assert missing.code == 2
    assert "none.safetensors" in missing.err


# --- the page -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        if os.environ.get("PIXELWISE_BROWSER") == "required":
            raise AssertionError("no browser: apt-get install chromium")
        pytest.skip("no browser: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


def test_a_person_drops_a_photograph_and_sees_classes(
    browser, server: str, photo: Path, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    page = browser.new_page(viewport={"width": 1200, "height": 800})
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(server)
    expect(page.locator("#what")).to_contain_text("3 classes: background, disc, road")
    page.set_input_files("#file", str(photo))
    expect(page.locator("#status")).to_contain_text("Done in")
    items = page.locator("#legend li")
    assert items.count() >= 1

    def colours() -> np.ndarray:
        picture = tmp_path / "canvas.png"
        page.locator("#canvas").screenshot(path=str(picture))
        return np.asarray(Image.open(picture).convert("RGB")).astype(int)

    tinted = colours()
    page.locator("#stage").focus()
    page.keyboard.press("c")
    plain = colours()
    assert (abs(tinted - plain).max(2) > 8).mean() > 0.05
    page.keyboard.press("c")
    assert abs(colours() - tinted).max() < 3
    with page.expect_download() as saved:
        page.click("#save-labels")
    labels = np.asarray(Image.open(saved.value.path()))
    assert labels.shape == (480, 640)
    with Client(server) as client:
        assert np.array_equal(labels, client.predict(photo).label_map.labels.numpy())
    page.click("#view-run")
    expect(page.locator("#run-none")).to_be_visible()
    page.screenshot(path=str(tmp_path / "training.png"))
    page.click("#view-image")
    page.screenshot(path=str(tmp_path / "image.png"))
    assert wrong == []
    page.close()
