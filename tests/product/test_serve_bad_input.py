"""What may go wrong around a server: its folders, its disk, its port, another server."""

import io
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import pixelwise as pw
from pixelwise.checkpoint import save
from tests.product.conftest import Outcome, scene
from tests.product.test_serve import start, stop, wait_until_ready

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are set on Linux only"),
]
TABLE = "name,r,g,b,id\nbackground,0,0,0,0\ndisc,230,126,34,1\n"
SIZE = (240, 320)


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    street = tmp_path_factory.mktemp("street")
    (street / "images").mkdir()
    for number in range(2):
        Image.fromarray(scene(*SIZE, seed=number)[0]).save(street / "images" / f"{number}.png")
    (street / "classes.csv").write_text(TABLE)
    (street / "run").mkdir()
    torch.manual_seed(0)
    model = pw.build("unet", 2, encoder="tiny")
    save(model, street / "run" / "best.safetensors", pw.ClassTable.of("background", "disc"))
    (street / "run" / "recipe.json").write_text('{"epochs": 1}')
    return street


@pytest.fixture(scope="module")
def server(street: Path) -> Iterator[tuple[int, str]]:
    """Process and address of a server that saves labels."""
    process, url = start(
        street / "run", "--images", street / "images", "--classes", street / "classes.csv",
        "--save-to", street / "masks",
    )  # fmt: skip
    wait_until_ready(url)
    yield process.pid, url
    assert stop(process) == 0


def noise(seed: int) -> bytes:
    """Labels that do not become small."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 2, SIZE, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_a_full_disk_is_told_and_nothing_is_lost(server: tuple[int, str], street: Path) -> None:
    process, url = server
    first = httpx.put(f"{url}/v1/images/0/labels", content=noise(0))
    assert first.status_code == 200, first.text
    before = (street / "masks" / "0.png").read_bytes()
    files = {path.name for path in (street / "masks").iterdir()}
    old = resource.prlimit(process, resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    try:
        for number in range(2):
            answer = httpx.put(f"{url}/v1/images/{number}/labels", content=noise(1))
            assert answer.json()["type"] == "urn:pixelwise:cannot-save"
            assert "cannot write" in answer.json()["detail"]
    finally:
        resource.prlimit(process, resource.RLIMIT_FSIZE, old)
    assert (street / "masks" / "0.png").read_bytes() == before
    assert {path.name for path in (street / "masks").iterdir()} == files
    assert httpx.put(f"{url}/v1/images/0/labels", content=noise(1)).status_code == 200
    assert (street / "masks" / "0.png").read_bytes() != before


def test_two_servers_cannot_save_to_one_folder(
    server: tuple[int, str], street: Path, pixelwise: Callable[..., Outcome]
) -> None:
    process, _ = server
    more = ("--images", street / "images", "--classes", street / "classes.csv", "--port", "0")
    second = pixelwise("serve", *more, "--save-to", street / "masks")
    assert second.code == 2
    assert f"another process ({process}) is working in {street / 'masks'}" in " ".join(second.err.split())


def test_a_taken_port_is_told_with_who_has_it(
    server: tuple[int, str], street: Path, pixelwise: Callable[..., Outcome]
) -> None:
    process, url = server
    port = url.rpartition(":")[2]
    second = pixelwise("serve", street / "run", "--port", port)
    assert second.code == 2
    assert f"port {port}: it is taken by another program, " in " ".join(second.err.split())
    assert f"(process {process})" in " ".join(second.err.split())


def test_a_run_and_images_that_vanish_take_nothing_down(server: tuple[int, str], street: Path) -> None:
    _, url = server
    body = (street / "images" / "1.png").read_bytes()
    shutil.rmtree(street / "run")
    assert httpx.get(f"{url}/v1/runs/run").json()["gone"] is True
    assert httpx.post(f"{url}/v1/models/run/predict", content=body, timeout=60).status_code == 200
    shutil.rmtree(street / "images")
    gone = httpx.get(f"{url}/v1/images/1")
    assert gone.json()["type"] == "urn:pixelwise:no-such-image"
    assert httpx.put(f"{url}/v1/images/1/labels", content=noise(2)).status_code == 404
    shutil.rmtree(street / "masks")
    assert httpx.get(f"{url}/v1/images/0/labels").json()["type"] == "urn:pixelwise:no-labels"
    assert httpx.get(f"{url}/v1/health/ready").status_code == 200
