"""`pixelwise train`: options become settings; an interrupted run can be continued."""

import csv
import json
import os
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
from pixelwise.recipe import SETTINGS
from pixelwise.training import Recipe

SMALL = ("--encoder", "tiny", "--set", "width=4", "--crop", "32x32", "--batch-size", 2, "--workers", 0)
PARAMETERS = {p.name: p for p in typer.main.get_command(app).commands["train"].params}
NOT_IN_A_RECIPE = {
    "encoder", "pretrained", "in_channels", "set_", "resume", "config", "recipe", "help", "budget", "no_plan",
}  # fmt: skip


def test_options_and_settings_of_a_recipe_have_the_same_names() -> None:
    settings = {name for name, setting in SETTINGS.items() if setting.panel or name == "data"}
    assert set(PARAMETERS) - NOT_IN_A_RECIPE == settings


def test_the_help_tells_the_defaults_of_a_recipe() -> None:
    for field in fields(Recipe):
        if not SETTINGS[field.name].panel or field.default is MISSING:
            continue
        told = re.search(r"\(default ([^)]*)\)", PARAMETERS[field.name].help).group(1)
        if field.default is None or field.default == ():
            assert not told[0].isdigit() or field.name == "epochs"
        elif isinstance(field.default, bool):
            assert told.removeprefix("no-") in (
                "channels-last",
                "choose",
                "gradient-checkpointing",
                "group-shapes",
                "keep-head",
                "location-prior",
            )
        elif isinstance(field.default, tuple):
            assert told in ("x".join(map(str, field.default)), ",".join(map(str, field.default)))
        elif field.name == "workers":  # fewer where there are fewer cores
            assert told == "2, or 1 on a single core"
        else:
            assert told == (str(field.default) or "none"), field.name


def test_training_begins_with_the_weights_of_another_run_and_says_which(
    pixelwise, street, weights, tmp_path
) -> None:
    options = ("--model", "unet", *SMALL, "--epochs", 1, "--out", tmp_path / "run")
    shown = pixelwise("train", street, *options, "--init-from", weights)
    assert shown.code == 0, shown.err
    assert re.search(rf"(\d+) of \1 tensors begin as in {weights}\. Begin anew: none\.", shown.err)
    refused = pixelwise("train", street, *options, "--init-from", tmp_path / "nowhere")
    assert refused.code == 2
    assert refused.err.strip().endswith(f"there is no checkpoint {tmp_path / 'nowhere'}")


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
        (("--optimizer", "lion"), "optimizer must be one of adamw, adam, sgd, rmsprop"),
        (("--recipe", "pspnet_vok"), "there is no recipe 'pspnet_vok': did you mean 'pspnet_voc'?"),
        (("--recipe", "pspnet_voc", "--config", "a.json"), "give --recipe or --config, not both"),
        (("--drops", "0.5,2"), "drops must be numbers between 0 and 1, got (0.5, 2.0)"),
        (("--crop", "wide"), "--crop takes HEIGHTxWIDTH"),
        (("--crop", "8x8x8x8"), "--crop takes HEIGHTxWIDTH"),
        (("--crop", "32x32x32"), "crop must be a height and a width in pixels, got (32, 32, 32)"),
        (("--crop", "8x8"), "crop must be at least 32 x 32"),
        (("--scale", "big"), "--scale takes numbers with commas"),
        (("--scale", "1,2,3"), "scale must be two positive numbers"),
        (("--epochs", "1", "--steps", "1"), "give epochs or steps, not both"),
        (("--set", "widht=3"), "did you mean 'width'"),
        (("--encoder", "resnet19"), "no backbone 'resnet19'"),
        (("--freeze", "decodr"), "decodr"),
        (("--pretrained", "--encoder", "tiny"), "no pretrained weights are published for 'tiny'"),
        (("--pretrained", "--epochs", "1"), "pretrained=True needs an encoder"),
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


def test_an_option_that_says_no_is_heard(pixelwise, street, monkeypatch) -> None:
    asked = []

    def stop(recipe, **_):
        asked.append(recipe)
        raise ValueError("enough")

    monkeypatch.setattr("pixelwise.training.run", stop)
    pixelwise("train", street, "--epochs", 1, "--no-choose", "--channels-first", "--flip", 0)
    assert (asked[0].choose, asked[0].channels_last, asked[0].flip) == (False, False, 0)


@pytest.mark.parametrize("suffix", [".json", ".toml"])
def test_a_config_gives_settings_that_options_override(
    pixelwise, street, tmp_path, monkeypatch, suffix
) -> None:
    config, taken = tmp_path / f"mine{suffix}", []
    if suffix == ".toml":
        config.write_text(
            'model = "pspnet"\nepochs = 7\nlr = 0.5\ncrop = [64, 96]\n'
            '[model_arguments]\nencoder = "resnet18"\noutput_stride = 16\n'
        )
    else:
        recipe = Recipe("elsewhere", model="pspnet", epochs=7, lr=0.5, crop=(64, 96))
        recipe.changed(model_arguments={"encoder": "resnet18", "output_stride": 16}).write(config)

    def stop(recipe: Recipe) -> None:
        taken.append(recipe)
        raise ValueError("enough")

    monkeypatch.setattr("pixelwise.training.run", stop)
    pixelwise("train", street, "--config", config, "--lr", 0.25, "--steps", 9, "--encoder", "tiny")
    (recipe,) = taken
    assert (recipe.data, recipe.model, recipe.lr, recipe.crop) == (str(street), "pspnet", 0.25, (64, 96))
    assert (recipe.epochs, recipe.steps) == (None, 9)
    assert recipe.model_arguments == {"encoder": "tiny", "output_stride": 16}


def test_a_recipe_of_a_paper_gives_settings_that_options_override(pixelwise, street, monkeypatch) -> None:
    taken = []

    def stop(recipe: Recipe) -> None:
        taken.append(recipe)
        raise ValueError("enough")

    monkeypatch.setattr("pixelwise.training.run", stop)
    pixelwise("train", street, "--recipe", "danet_cityscapes", "--batch-size", 2, "--steps", 9)
    (recipe,) = taken
    assert (recipe.data, recipe.model, recipe.optimizer) == (str(street), "danet_resnet101", "sgd")
    assert (recipe.lr, recipe.aux_weight, recipe.crop, recipe.color) == (0.01, 1.0, (768, 768), 0.0)
    assert (recipe.batch_size, recipe.epochs, recipe.steps) == (2, None, 9)


@pytest.mark.parametrize(
    "text, words",
    [
        ("[" * 100_000, "it is not JSON"),
        ('{"model_arguments": ' + '{"a": ' * 400 + "1" + "}" * 401, "has no argument 'a'"),
        ('{"model_arguments": [1]}', "model_arguments must be names with values"),
        ('{"freeze": 5}', "freeze must be names of parts"),
        ('{"freeze": {"a": 1}}', "freeze must be names of parts"),
        ('{"lr": 1e999}', "lr must be a number above 0"),
        ('{"lr": NaN}', "lr must be a number above 0"),
        ('{"batch_size": 1' + "0" * 400 + "}", "batch_size must be a whole number"),
        ('{"crop": [1e999, 3]}', "crop must be two or three numbers of at most 16384"),
        ('{"crop": ["a", "b"]}', "crop must be two or three positive numbers"),
        ('{"scale": [true, {}]}', "scale must be two positive numbers"),
        ('{"class_weights": {"a": 1}}', "class_weights must be"),
        ('{"optimizer": []}', "optimizer must be one of"),
        ('{"name": [1]}', "name must be text"),
        (
            '{"model": "unet", "model_arguments": {"width": -4}}',
            "width must be a whole number of at least 1 or none, got -4",
        ),
        (
            '{"model": "unet", "model_arguments": {"width": "abc"}}',
            "width must be a whole number of at least 1 or none, got 'abc'",
        ),
        ('{"model": "unet", "model_arguments": {"in_channels": -1}}', "in_channels"),
        ("\udcff", "it is not JSON"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_told_in_one_sentence(
    pixelwise, street, tmp_path, text, words
) -> None:
    (tmp_path / "recipe.json").write_bytes(text.encode(errors="surrogateescape"))
    shown = pixelwise("train", street, "--config", tmp_path / "recipe.json", "--out", tmp_path / "run")
    assert shown.code == 2, shown.err
    assert words in shown.sentence
    assert shown.err.count("\n") == 1
    assert len(shown.err) < 500
    assert not (tmp_path / "run").exists()


def test_an_enormous_crop_is_refused(pixelwise, street) -> None:
    shown = pixelwise("train", street, "--crop", "1000000x1000000")
    assert shown.code == 2
    assert "--crop takes at most 16384 pixels for a side, got '1000000x1000000'" in shown.sentence


def test_sigterm_ends_with_code_143_and_the_way_to_go_on(pixelwise, street, tmp_path, monkeypatch) -> None:
    from pixelwise.training import TrainingModule

    def signalled(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(TrainingModule, "training_step", signalled)
    shown = pixelwise("train", street, *SMALL, "--epochs", 2, "--out", tmp_path / "run")
    assert shown.code == 143
    assert f"All whole epochs are kept: pixelwise train --resume {tmp_path / 'run'}" in shown.sentence


def test_the_shell_completes_choices_and_imports_nothing_heavy(tmp_path) -> None:
    code = (
        "import sys; sys.argv = ['pixelwise']\n"
        "from pixelwise.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'timm', 'torchvision', 'lightning', 'torchmetrics', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    asked = {"_PIXELWISE_COMPLETE": "complete_bash", "COMP_CWORD": "3"}
    asked["COMP_WORDS"] = "pixelwise train --optimizer "
    ran = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["adamw", "adam", "sgd", "rmsprop"]
