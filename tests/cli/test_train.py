"""`pixelwise train`: options become settings; an interrupted run can be continued."""

import csv
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import typer

from pixelwise.cli import app
from pixelwise.training import Recipe

SMALL = ("--encoder", "tiny", "--set", "width=4", "--crop", "32x32", "--batch-size", 2, "--workers", 0)
PARAMETERS = {p.name: p for p in typer.main.get_command(app).commands["train"].params}
NOT_IN_A_RECIPE = {"encoder", "pretrained", "in_channels", "set_", "resume", "config", "help"}


def test_options_and_settings_of_a_recipe_have_the_same_names() -> None:
    settings = {field.name for field in fields(Recipe)}
    assert set(PARAMETERS) - NOT_IN_A_RECIPE == settings - {"model_arguments"}


def test_the_help_tells_the_defaults_of_a_recipe() -> None:
    for field in fields(Recipe):
        if field.name in ("data", "model_arguments") or field.default is MISSING:
            continue
        told = re.search(r"\(default ([^)]*)\)", PARAMETERS[field.name].help).group(1)
        if field.default is None or field.default == ():
            assert not told[0].isdigit() or field.name == "epochs"
        elif isinstance(field.default, bool):
            assert told == "channels-last"
        elif isinstance(field.default, tuple):
            assert told in ("x".join(map(str, field.default)), ",".join(map(str, field.default)))
        else:
            assert told == str(field.default), field.name


def test_training_writes_a_run_and_prints_its_scores(pixelwise, street, tmp_path) -> None:
    run = tmp_path / "run"
    shown = pixelwise(
        "train", street, *SMALL, "--epochs", 1, "--lr", 0.01, "--scale", "0.8,1.2", "--class-weights", "1,2",
        "--loss", "cross_entropy+dice", "--freeze", "head", "--seed", 7, "--out", run,
    )  # fmt: skip
    assert shown.code == 0, shown.err
    assert "square" in shown.out
    assert str(run / "report.html") in shown.out
    for name in (
        "best.safetensors",
        "last.safetensors",
        "last.ckpt",
        "recipe.json",
        "report.html",
        "metrics.csv",
    ):
        assert (run / name).is_file(), name
    recipe = json.loads((run / "recipe.json").read_text())
    assert recipe["model_arguments"] == {"encoder": "tiny", "width": 4}
    expected = {
        "lr": 0.01, "scale": [0.8, 1.2], "class_weights": [1.0, 2.0], "freeze": ["head"], "seed": 7,
        "crop": [32, 32], "epochs": 1, "loss": "cross_entropy+dice",
    }  # fmt: skip
    assert {name: recipe[name] for name in expected} == expected
    # A run directory stands for its best weights.
    scores = json.loads(pixelwise("evaluate", run, street, "--report", tmp_path / "e.html", "--json").out)
    assert 0 <= scores["mean_iou"] <= 1
    assert "data:image/png;base64," in (tmp_path / "e.html").read_text()
    # Nothing is written over.
    again = pixelwise("train", street, *SMALL, "--epochs", 1, "--out", run)
    assert again.code == 2
    assert str(run) in again.err


@pytest.mark.parametrize(
    "options, words",
    [
        (("--lr", "-1"), "lr must be a number above 0"),
        (("--optimizer", "lion"), "optimizer must be one of adamw, sgd"),
        (("--crop", "wide"), "--crop takes HEIGHTxWIDTH"),
        (("--crop", "8x8"), "crop must be at least 32 x 32"),
        (("--scale", "big"), "--scale takes numbers with commas"),
        (("--scale", "1,2,3"), "scale must be two positive numbers"),
        (("--epochs", "1", "--steps", "1"), "give epochs or steps, not both"),
        (("--set", "widht=3"), "did you mean 'width'"),
        (("--encoder", "resnet19"), "no backbone 'resnet19'"),
        (("--freeze", "decodr"), "decodr"),
        (("--pretrained", "--encoder", "tiny"), "no pretrained weights are published for 'tiny'"),
        (("--pretrained",), "pretrained=True needs an encoder"),
        (("--in-channels", "-1"), "in_channels must be a whole number of at least 1, got -1"),
        (("--set", "width=-3"), "width must be a whole number of at least 1 or none, got -3"),
        (("--set", "width=abc"), "width must be a whole number of at least 1 or none, got 'abc'"),
        (("--set", "pretrained=7"), "pretrained must be true or false, got 7"),
        (("--set", "num_classes=3"), "not num_classes"),
        (
            ("--model", "segnet_basic", "--freeze", "encoder", "--encoder-lr-factor", "0.1"),
            "encoder_lr_factor",
        ),
        (("--classes", "nowhere.csv"), "nowhere.csv"),
        (("--format", "png"), "format must be auto"),
    ],
)
def test_a_setting_that_cannot_be_used(pixelwise, street, tmp_path, options, words) -> None:
    shown = pixelwise("train", street, "--workers", 0, *options, "--out", tmp_path / "run")
    assert shown.code == 2
    assert words in shown.sentence
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_resume_takes_no_other_settings(pixelwise, street, tmp_path) -> None:
    assert "leave out --lr" in pixelwise("train", "--resume", tmp_path, "--lr", 0.1).sentence
    assert "leave out DATA" in pixelwise("train", street, "--resume", tmp_path).sentence
    assert "no run directory" in pixelwise("train", "--resume", tmp_path).sentence
    assert "pixelwise train DATA" in pixelwise("train").sentence


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_can_be_continued(pixelwise, street, tmp_path) -> None:
    run = tmp_path / "run"
    command = ("train", street, *SMALL, "--epochs", 100, "--out", run)
    process = subprocess.Popen(
        [sys.executable, "-m", "pixelwise", *map(str, command)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(rows(run)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert f"pixelwise train --resume {run}" in " ".join(err.split())
    before = rows(run)
    assert 2 <= len(before) < 100
    continued = pixelwise("train", "--resume", run)
    assert continued.code == 0, continued.err
    after = rows(run)
    assert len(after) == 100
    assert after[: len(before)] == before


def rows(run: Path) -> list[dict[str, str]]:
    path = run / "metrics.csv"
    if not path.is_file():
        return []
    with path.open() as file:
        # An epoch that was cut off while it was written down is done again, in another time.
        return [{name: x for name, x in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def heed_ctrl_c() -> None:
    """Shells start background jobs deaf to SIGINT, and their children inherit it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
