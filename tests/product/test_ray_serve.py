"""The Ray Serve deployment of `deploy/` as people start it: a cluster of this machine with two replicas."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
import torch
from PIL import Image

import pixelwise as pw
from pixelwise.checkpoint import save
from pixelwise.predict import Predictor
from pixelwise.serve.client import Client
from tests.product.conftest import ROOT, scene

pytestmark = pytest.mark.slow
TOKEN = "a-token-of-sixteen-or-more"
_COUNT = re.compile(
    r'^pixelwise_requests_total\{route="/v1/models/\{model\}/predict",status="200"\} ([0-9.]+)$', re.MULTILINE
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ray") / "scenes.safetensors"
    torch.manual_seed(0)
    save(pw.build("unet", 3, encoder="tiny").eval(), path, pw.ClassTable.of("background", "disc", "road"))
    return path


@pytest.fixture(scope="module")
def cluster(checkpoint: Path) -> Iterator[str]:
    """Its address. It is started here, and gone afterwards."""
    if find_spec("smart_open") is None or find_spec("opencensus") is None:  # of `ray[serve]` alone
        pytest.skip("pip install 'ray[serve]'")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    process = subprocess.Popen(
        [
            sys.executable, ROOT / "deploy" / "ray_serve.py", checkpoint, "--replicas", "2",
            "--port", str(port), "--size", "64",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PIXELWISE_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "replicas answer on" in line:
            break
    else:
        raise AssertionError(said)
    yield f"http://127.0.0.1:{port}"
    mine = replicas()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 0
    for _ in range(100):
        if not set(mine) & set(replicas()):
            return
        time.sleep(0.1)
    raise AssertionError("replicas are left behind")


def replicas() -> list[int]:
    """Processes that are replicas."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if file.read_bytes().startswith(b"ray::ServeReplica:pixelwise"):
                found.append(int(file.parent.name))
        except OSError:
            continue
    return found


def counts(url: str) -> set[float]:
    """Answers of the replicas, as they tell them when they happen to be asked."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    texts = (httpx.get(f"{url}/metrics", headers=headers).text for _ in range(40))
    return {float(found[1]) for text in texts if (found := _COUNT.search(text))}


def test_two_replicas_answer_as_one_server(cluster: str, checkpoint: Path, tmp_path: Path) -> None:
    assert httpx.get(f"{cluster}/v1/health/ready").status_code == 200
    assert httpx.get(f"{cluster}/v1/models").status_code == 401
    photo = tmp_path / "photo.png"
    Image.fromarray(scene(240, 320, seed=3)[0]).save(photo)
    expected = Predictor(checkpoint)(photo).label_map.labels
    with Client(cluster, token=TOKEN) as client:
        for _ in range(30):
            assert (client.predict(photo).label_map.labels == expected).float().mean() > 0.9999
    told = counts(cluster)
    assert sum(told) * (2 if len(told) == 1 else 1) == 30
    assert 0 not in told
    broken = httpx.post(
        f"{cluster}/v1/predict", content=b"no image", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    assert broken.status_code == 415
    assert broken.headers["content-type"] == "application/problem+json"
    mine = replicas()
    assert len(mine) == 2
    os.kill(mine[0], signal.SIGKILL)
    answered = 0
    for _ in range(200):  # the other one answers, and a new one takes the place
        answer = httpx.post(
            f"{cluster}/v1/predict",
            content=photo.read_bytes(),
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=60,
        )
        answered += answer.status_code == 200
        if answered > 20 and len(replicas()) == 2:
            break
        time.sleep(0.2)
    assert answered > 20
    assert len(replicas()) == 2
