"""What is told of trainings, and the reports that lead to the page."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

import pixelwise as pw
from pixelwise.serve import Limits
from pixelwise.serve.app import create_app
from pixelwise.serve.model_thread import ModelThread
from pixelwise.serve.served import Served
from tests.serve.conftest import predictor_of, ready
from tests.serve.test_http import kind

REPORT = b"<!doctype html><html><head><title>Streets &amp; skies</title></head><body>fine</body></html>"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory whose training is under way."""
    run = tmp_path / "run"
    (run / "pictures").mkdir(parents=True)
    (run / "recipe.json").write_text('{"epochs": 3, "model": "unet"}')
    (run / "metrics.csv").write_text("epoch,train_loss,val_loss\n1,0.5,nan\n2,0.25,\n")
    for name in ("latest_1", "latest_2", "curves", "confusion"):
        Image.new("RGB", (8, 8)).save(run / "pictures" / f"{name}.png")
    return run


@pytest.fixture
def watching(run: Path) -> Callable[..., TestClient]:
    def watching(*reports: Path) -> TestClient:
        limits = Limits()
        thread = ModelThread(limits)
        model = predictor_of(pw.build("unet", 3, encoder="tiny"))
        served = Served("streets", model, "0" * 64, thread, limits, run)
        app = create_app([served], thread, limits=limits, size=32, drain=5.0, reports=reports)
        return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)

    return watching


def test_history_and_latest_pictures_are_told(watching: Callable[..., TestClient], run: Path) -> None:
    with watching() as client:
        told = client.get("/v1/runs/streets").json()
        assert told["settings"] == {"epochs": 3, "model": "unet"}
        assert told["history"] == [
            {"epoch": 1, "train_loss": 0.5, "val_loss": None},
            {"epoch": 2, "train_loss": 0.25, "val_loss": None},
        ]
        assert [one["kind"] for one in told["pictures"]] == ["latest", "latest"]
        assert told["under_way"] is True
        for name in ("recipe.json", "metrics.csv"):
            os.utime(run / name, (1e9, 1e9))
        assert client.get("/v1/runs/streets").json()["under_way"] is False
        (run / "metrics.csv").touch()
        assert client.get("/v1/runs/streets").json()["under_way"] is True
        (run / "scores.json").write_text("{}")
        assert client.get("/v1/runs/streets").json()["under_way"] is False
        got = client.get("/v1/runs/streets/pictures/1")
        assert got.content == (run / "pictures" / "latest_2.png").read_bytes()
        for number in ("2", "-1", "x", "1" * 12):
            assert kind(client.get(f"/v1/runs/streets/pictures/{number}")) == "not-found"


def test_a_run_that_vanishes_while_it_is_served_takes_nothing_down(
    watching: Callable[..., TestClient], run: Path
) -> None:
    from tests.serve.conftest import file_of

    with watching() as client:
        ready(client)
        assert client.get("/v1/runs/streets").json()["gone"] is False
        shutil.rmtree(run)
        told = client.get("/v1/runs/streets").json()
        nothing = {"settings": None, "history": [], "pictures": [], "under_way": False, "gone": True}
        assert told == nothing
        assert kind(client.get("/v1/runs/streets/pictures/0")) == "not-found"
        assert client.get("/v1/reports").json() == {"reports": []}
        assert client.post("/v1/predict", content=file_of()).status_code == 200


def test_reports_are_shown_in_a_box_of_their_own(
    watching: Callable[..., TestClient], run: Path, tmp_path: Path
) -> None:
    (tmp_path / "e.html").write_bytes(REPORT)
    with watching(tmp_path / "e.html") as client:
        listed = client.get("/v1/reports").json()["reports"]
        assert listed == [{"number": 1, "title": "Streets & skies"}]
        assert kind(client.get("/v1/reports/0")) == "not-found"  # the training has not ended
        (run / "report.html").write_bytes(REPORT.replace(b"Streets &amp; skies", b"first"))
        assert [one["title"] for one in client.get("/v1/reports").json()["reports"]] == [
            "first",
            "Streets & skies",
        ]
        answer = client.get("/v1/reports/1")
        assert answer.content == REPORT
        policies = answer.headers.get_list("content-security-policy")
        assert len(policies) == 1
        assert policies[0].startswith("sandbox allow-scripts; default-src 'none'")
        assert answer.headers.get_list("cross-origin-opener-policy") == ["unsafe-none"]
        assert "script-src 'self'" in client.get("/").headers["content-security-policy"]
        for number in ("2", "-1", "../e.html", "1" * 12):
            assert kind(client.get(f"/v1/reports/{number}")) == "not-found"
        (tmp_path / "e.html").unlink()
        assert kind(client.get("/v1/reports/1")) == "not-found"
