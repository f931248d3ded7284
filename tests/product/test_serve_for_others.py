"""Servers as they run for other people: several processes, exported models, a command that asks them."""

import contextlib
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from huggingface_hub import InferenceClient
from PIL import Image

import pixelwise as pw
from pixelwise import export
from pixelwise.checkpoint import load, save
from pixelwise.predict import Predictor
from pixelwise.serve.client import Client
from tests.product.conftest import scene
from tests.product.test_serve import start, stop

CLASSES = pw.ClassTable.of("background", "disc", "road")


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    """A run directory whose labels depend on the image."""
    run = place / "runs" / "scenes"
    run.mkdir(parents=True)
    torch.manual_seed(0)
    model = pw.build("unet", 3, encoder="tiny").eval()
    image = torch.from_numpy(scene(480, 640, seed=3)[0]).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        model.head.bias -= model(image).logits.mean((0, 2, 3))
        assert len(model(image).logits.argmax(1).unique()) == 3
    save(model, run / "best.safetensors", CLASSES)
    return run


def children(process: int) -> list[int]:
    """The processes that serve for another."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            parent = int(status.read_text().partition("PPid:")[2].split()[0])
            words = (status.parent / "cmdline").read_bytes()
        except (OSError, ValueError, IndexError):
            continue
        if parent == process and b"spawn_main" in words:
            found.append(int(status.parent.name))
    return sorted(found)


def ended(outcome) -> str:
    assert outcome.code == 0, outcome.err or outcome.out
    return outcome.out


@pytest.mark.slow
def test_predict_writes_the_same_files_through_a_server(pixelwise: Callable, place: Path, run: Path) -> None:
    (place / "token").write_text("a-token-of-enough-letters\n")
    process, url = start(run, "--token-file", place / "token", "--timeout", 900)
    try:
        wait_until_ready(url)
        words = ["predict", run, "my_folder/images", "photos/large.jpg", "--overlay"]
        ended(pixelwise(*words, "--out", "found/here"))
        ended(pixelwise(*words, "--out", "found/there", "--server", url, "--token-file", "token"))
        written = []
        for name in ("here", "there"):
            files = [path for path in sorted((place / "found" / name).rglob("[!.]*")) if path.is_file()]
            written.append({path.relative_to(place / "found" / name).as_posix(): path for path in files})
        assert len(written[0]) == 14  # two of each of seven images
        assert list(written[0]) == list(written[1])
        for name in written[0]:
            if name.endswith(".png"):
                one, other = (np.asarray(Image.open(each[name])) for each in written)
                assert (one == other).mean() > 0.9999, name
        wrong = pixelwise(*words, "--server", url)
        assert wrong.code == 2
        assert "wants a token" in wrong.err
        tiled = pixelwise(*words, "--server", url, "--token-file", "token", "--tile", "512x512")
        assert tiled.code == 2
        assert "--tile is for models in this process" in tiled.err
    finally:
        assert stop(process) == 0
    gone = pixelwise(*words, "--server", url)
    assert gone.code == 2
    assert "does not answer" in gone.err
    assert len(gone.err.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_process_that_is_killed_is_replaced_while_the_others_answer(run: Path) -> None:
    process, url = start(run, "--workers", 2, "--timeout", 900)
    answers: list[np.ndarray] = []
    problems: list[str] = []
    enough = threading.Event()
    images = [Image.fromarray(scene(120, 160, seed=seed)[0]) for seed in range(4)]
    expected = [Predictor(run)(image).label_map.labels.numpy() for image in images]

    def ask(seed: int) -> None:
        with Client(url, timeout=300) as client:
            while not enough.is_set():
                try:
                    found = client.predict(images[seed]).label_map.labels.numpy()
                    assert (found == expected[seed]).mean() > 0.9999
                    answers.append(found)
                except (AssertionError, ValueError) as error:
                    problems.append(repr(error))
                    return

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    try:
        before = children(process.pid)
        assert len(before) == 2
        for thread in threads:
            thread.start()
        wait_for(lambda: len(answers) >= 8 or problems)
        os.kill(before[0], signal.SIGKILL)
        count = len(answers)
        wait_for(lambda: len(answers) >= count + 20 or problems)
        wait_for(lambda: len(children(process.pid)) == 2)
        assert set(children(process.pid)) != set(before)
        enough.set()
        for thread in threads:
            thread.join()
        assert problems == []
        told = httpx.get(f"{url}/metrics").text
        row = next(line for line in told.splitlines() if "/predict" in line and 'status="200"' in line)
        assert float(row.split()[-1]) >= len(answers)  # of all processes, the dead one too
    finally:
        enough.set()
        left = children(process.pid)
        assert stop(process) == 0
    assert not any(Path(f"/proc/{one}").exists() for one in left)


def wait_until_ready(url: str) -> None:
    def ready() -> bool:
        try:
            return httpx.get(f"{url}/v1/health/ready", timeout=60).status_code == 200
        except httpx.HTTPError:
            return False

    wait_for(ready)


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen")


@pytest.mark.slow
def test_processes_end_with_the_one_that_watches_them(run: Path) -> None:
    process, url = start(run, "--workers", 2, "--timeout", 900)
    wait_until_ready(url)
    left = children(process.pid)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(running(one) for one in left))


def running(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


@pytest.mark.slow
def test_runs_and_exported_models_are_served_side_by_side_and_outlive_their_files(
    run: Path, place: Path
) -> None:
    other = shutil.copytree(run, place / "runs" / "other")
    checkpoint = load(run)
    files = [place / "served.pt2", place / "served_onnx.onnx", place / "served_vino.xml"]
    for file in files:
        export.export(checkpoint, file)
    image = Image.fromarray(scene(120, 160, seed=1)[0])
    process, url = start(run, other, *files, "--timeout", 900)
    try:
        wait_until_ready(url)
        names = [one["name"] for one in httpx.get(f"{url}/v1/models").json()["models"]]
        assert names == ["scenes", "other", "served", "served_onnx", "served_vino", "grabcut"]
        expected = Predictor(run)(image).label_map.labels
        shutil.rmtree(other)
        for file in files:
            file.unlink()
        with pytest.raises(ValueError, match="answers clicks"):
            Client(url, model=names.pop())
        for name in names:
            with Client(url, model=name) as client:
                assert (client.predict(image).label_map.labels == expected).float().mean() > 0.999, name
        told = httpx.get(f"{url}/v1/runs/other")
        assert (told.status_code, told.json()["settings"]) == (200, None)
    finally:
        assert stop(process) == 0


@pytest.mark.slow
def test_who_has_a_port_is_told(pixelwise: Callable, run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for more in ([], ["--workers", "2"]):
            refused = pixelwise("serve", run, "--port", port, *more)
            assert refused.code == 2
            assert f"process {os.getpid()})" in refused.err
            assert len(refused.err.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_model_that_is_busy_after_the_drain_is_left_and_the_server_ends(run: Path, place: Path) -> None:
    Image.fromarray(scene(6000, 8000, seed=1)[0]).save(place / "busy.jpg")
    process, url = start(run, "--drain", 0.1, "--timeout", 900)
    try:
        wait_until_ready(url)
        with contextlib.suppress(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/predict", content=(place / "busy.jpg").read_bytes(), timeout=3)
    finally:
        code = stop(process)
    assert code in (0, 1)  # 0 where the machine was quick; never that of a crash


@pytest.mark.slow
def test_hugging_faces_own_client_reads_the_masks(
    run: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", False
    )  # it counts this machine as the hub
    image, path = Image.fromarray(scene(120, 160, seed=1)[0]), place / "asked.png"
    image.save(path)
    expected = Predictor(run)(image).label_map.labels.numpy()
    process, url = start(run, "--timeout", 900)
    try:
        wait_until_ready(url)
        asked = InferenceClient(model=f"{url}/v1/predict", token="none")
        for options in ({}, {"subtask": "semantic"}):  # the first is sent as a file, the second as JSON
            seen = np.full(expected.shape, -1)
            for one in asked.image_segmentation(str(path), **options):
                seen[np.asarray(one.mask) == 255] = CLASSES.names.index(one.label)
            assert (seen == expected).mean() > 0.999
    finally:
        assert stop(process) == 0
