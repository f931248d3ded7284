"""What each command prints and writes, with good input."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import pixelwise as pw
from pixelwise import cli
from pixelwise.data.datasets import Tree
from pixelwise.data.datasets.volume_sets import VolumeSet
from pixelwise.tasks import TASKS

COMMANDS = [command.callback.__name__ for command in cli.app.registered_commands]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(pixelwise, command) -> None:
    shown = pixelwise(command, "--help")
    assert shown.code == 0
    assert f"Example: pixelwise {command}" in " ".join(shown.out.split())


@pytest.mark.parametrize("command", ["evaluate", "check"])
def test_the_help_names_every_layout_of_data(pixelwise, command) -> None:
    shown = " ".join(pixelwise(command, "--help").out.replace("│", " ").split())
    for task in TASKS.values():
        known = task.formats.items()
        layouts = [name for name, layout in known if not isinstance(layout, Tree | VolumeSet)]
        for layout in layouts:
            assert re.search(rf"\b{layout}\b", shown), layout
    assert "pixelwise datasets" in shown  # lists the data sets


def test_the_help_of_predict_names_every_format_of_predictions(pixelwise) -> None:
    shown = " ".join(pixelwise("predict", "--help").out.replace("│", " ").split())
    told = shown[shown.index("How predictions are saved") :]
    for words, name in {
        "One class per pixel": "semantic",
        "several": "multilabel",
        "instances": "instance",
        "boxes": "detection",
        "panoptic maps": "panoptic",
        "key points": "keypoints",
        "volumes": "volume",
    }.items():
        of_task = told.split(f"{words}: ")[1].split(";")[0]
        for written in (*TASKS[name].writers, *TASKS[name].collectors):
            assert re.search(rf"\b{re.escape(written.lstrip('.'))}\b", of_task), (name, written)


def test_the_version_is_printed(pixelwise) -> None:
    assert pixelwise("--version").out == f"pixelwise {pw.__version__}\n"


def test_python_dash_m_is_the_command() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pixelwise", "--version"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, f"pixelwise {pw.__version__}\n")


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys; sys.argv = ['pixelwise', '--help']\n"
        "from pixelwise.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'torchvision', 'lightning', 'torchmetrics', 'matplotlib', 'skimage'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_models_lists_every_model_with_its_size(pixelwise, monkeypatch) -> None:
    from pixelwise import registry

    some = ["pspnet", "unet", "unet_bilinear"]
    monkeypatch.setattr(registry, "list_models", lambda: some)
    found = json.loads(pixelwise("models", "--json", "--classes", 5).out)
    assert [row["name"] for row in found] == some
    by_name = {row["name"]: row for row in found}
    assert by_name["pspnet"]["encoder"] == "resnet50"
    assert by_name["pspnet"]["year"] == 2017
    assert by_name["unet"]["encoder"] is None
    counted = sum(p.numel() for p in pw.build("unet_bilinear", 5).parameters())
    assert by_name["unet_bilinear"]["parameters"] == counted
    table = pixelwise("models").out
    assert all(name in table for name in some)
    assert "Pyramid Scene Parsing Network" in table


def test_models_lists_the_recipes_of_papers(pixelwise) -> None:
    from pixelwise.paper_recipes import list_recipes

    found = {row["name"]: row for row in json.loads(pixelwise("models", "--recipes", "--json").out)}
    assert list(found) == list_recipes()
    assert found["bisenet_cityscapes"]["settings"]["aux_weight"] == 1
    assert "lr" in found["fcn32s_voc"]["uncertain"]
    table = pixelwise("models", "--recipes").out
    assert all(name in table for name in found)
    assert "sgd, lr 0.01 poly, 240 epochs, batch 8" in table


def test_info_shows_stages_operations_and_receptive_field(pixelwise) -> None:
    found = json.loads(
        pixelwise("info", "unet", "--classes", 3, "--size", "64x96", "--set", "width=4", "--json").out
    )
    stages = {stage["name"]: stage for stage in found["stages"]}
    assert stages["logits"]["shape"] == [3, 64, 96]
    assert found["parameters"] == sum(p.numel() for p in pw.build("unet", 3, width=4).parameters())
    assert sum(stage["parameters"] or 0 for stage in found["stages"]) == found["parameters"]
    # The first convolution alone: 3 -> 4 channels, 3 x 3, two operations per multiply-add.
    assert found["flops"] > 2 * 3 * 4 * 9 * 64 * 96
    shown = pixelwise("info", "pspnet", "--encoder", "tiny", "--size", 64).out
    assert "aux_head" in shown  # works in training only, and is counted
    assert "encoder.c4" in shown
    assert "all of 64" in shown
    assert "https://arxiv.org/abs/1612.01105" in shown


@pytest.mark.slow
def test_models_knows_the_size_of_each(pixelwise) -> None:
    found = {row["name"]: row["parameters"] for row in json.loads(pixelwise("models", "--json").out)}
    assert set(found) == set(pw.list_models())
    assert min(found.values()) > 10_000
    assert found["fcn8s_vgg16"] > 134e6  # the paper: 134 M


def test_check_reports_a_good_folder(pixelwise, street) -> None:
    shown = pixelwise("check", street)
    assert shown.code == 0
    assert "square" in shown.out
    found = json.loads(pixelwise("check", street, "--json").out)
    assert found["problems"] == []


def test_check_ends_with_code_1_where_there_are_problems(pixelwise, street) -> None:
    (street / "masks" / "train" / "1.png").unlink()
    shown = pixelwise("check", street)
    assert shown.code == 1
    assert "1.png" in shown.out


def test_predict_writes_masks_and_overlays(pixelwise, street, weights, tmp_path) -> None:
    out = tmp_path / "out"
    shown = pixelwise("predict", weights, street / "images" / "train", "--out", out, "--overlay")
    assert shown.code == 0, shown.err
    assert {path.name for path in out.glob("[!.]*")} == {
        f"{i}{kind}.png" for i in range(3) for kind in ("", "_overlay")
    }
    assert f"3 predictions and 3 overlays written to {out}" in shown.out
    with Image.open(out / "0.png") as mask:
        assert (mask.mode, mask.size) == ("P", (64, 48))


def test_predict_takes_files_and_writes_arrays(pixelwise, street, weights, tmp_path) -> None:
    out = tmp_path / "out"
    image = street / "images" / "val" / "3.png"
    shown = pixelwise(
        "predict",
        weights,
        image,
        "--out",
        out,
        "--format",
        "npy",
        "--flip",
        "--tile",
        32,
        "--tile-overlap",
        8,
    )
    assert shown.code == 0, shown.err
    assert np.load(out / "3.npy").shape == (48, 64)


def test_evaluate_scores_a_model_and_its_saved_predictions_alike(
    pixelwise, street, weights, tmp_path
) -> None:
    by_model = json.loads(pixelwise("evaluate", weights, street, "--json").out)
    pixelwise("predict", weights, street / "images" / "val", "--out", tmp_path / "out")
    by_files = json.loads(pixelwise("evaluate", tmp_path / "out", street, "--json").out)
    assert by_model == by_files
    assert by_model["classes"]["square"]["support"] > 0
    table = pixelwise("evaluate", weights, street).out
    assert "square" in table
    assert f"{by_model['mean_iou']:.3f}" in table
