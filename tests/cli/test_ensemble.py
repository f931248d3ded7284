"""Several models on the command line, and what evaluate says beside a score."""

import json

import pytest
import torch

import pixelwise as pw
from pixelwise.predict.averages import _gains
from pixelwise.predict.evaluation import scored
from pixelwise.tasks import get_task
from pixelwise.training import Recipe
from pixelwise.types import ClassTable, LabelMap, Sample

TABLE = ClassTable(("ground", "square"), ((0, 0, 0), (255, 0, 0)))


@pytest.fixture
def runs(tmp_path):
    """Two run directories of different weights."""
    folders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        folder = tmp_path / "runs" / f"run_{seed}"
        pw.save(pw.build("pspnet", 2, encoder="tiny"), folder / "best.safetensors", TABLE, task="semantic")
        folders.append(folder)
    return folders


def test_runs_with_commas_predict_as_the_file_of_their_ensemble(pixelwise, street, runs, tmp_path) -> None:
    together = f"{runs[0]},{runs[1]}"
    file = tmp_path / "both.safetensors"
    shown = pixelwise("ensemble", *runs, "--out", file)
    assert shown.code == 0, shown.err
    assert shown.out.strip() == f"outputs of 2 models averaged: {file}"
    images = street / "images" / "val"
    for source, out in ((together, "one"), (file, "two"), (runs[0].parent, "three")):
        done = pixelwise("predict", source, images, "--out", tmp_path / out, "--device", "cpu")
        assert done.code == 0, done.err
    written = [(tmp_path / out / "3.png").read_bytes() for out in ("one", "two", "three")]
    assert written[0] == written[1] == written[2]
    scores = [
        json.loads(pixelwise("evaluate", source, street, "--json", "--device", "cpu").out)
        for source in (together, file)
    ]
    assert scores[0] == scores[1]


def test_weights_are_averaged_on_request_and_files_of_users_are_kept(pixelwise, runs, tmp_path) -> None:
    file = tmp_path / "soup.safetensors"
    assert pixelwise("ensemble", *runs, "--out", file, "--average", "weights").code == 0
    assert pw.load(file).built_by.builder == "pspnet"
    mine = tmp_path / "mine.safetensors"
    mine.write_text("mine")
    shown = pixelwise("ensemble", *runs, "--out", mine)
    assert shown.code == 2
    assert mine.read_text() == "mine"
    shown = pixelwise("ensemble", runs[0], "--out", tmp_path / "one.safetensors")
    assert shown.code == 2
    assert shown.sentence == "Error: an ensemble needs at least two models, got 1"


def test_evaluate_shows_interval_trivial_predictions_and_warnings(pixelwise, street, runs) -> None:
    command = ("evaluate", runs[0], street, "--split", "val", "--device", "cpu")
    shown = pixelwise(*command)
    assert shown.code == 0, shown.err
    assert "over 1 image." in shown.out
    assert "Trivial: commonest class 0." in shown.out
    told = json.loads(pixelwise(*command, "--json").out)
    assert set(told["baselines"]) == {
        "commonest class",
        "commonest class at each place",
        "Otsu's threshold",
    }
    assert told["interval"] is None
    train = json.loads(pixelwise(*command[:3], "--split", "train", "--device", "cpu", "--json").out)
    assert train["interval"][0] <= train["mean_iou"] <= train["interval"][1]
    assert train["baselines"] == {}


def test_images_that_folds_have_learnt_from_are_warned_of(pixelwise, street, runs) -> None:
    Recipe(str(street), folds=5).write(runs[0] / "recipe.json")
    for source in (runs[0], runs[0] / "best.safetensors"):
        told = json.loads(pixelwise("evaluate", source, street, "--json", "--device", "cpu").out)
        assert told["warnings"] == [
            "the models of folds have learnt from most of the val images: the score is too high"
        ]
    train = pixelwise("train", street, "--folds", "1")
    assert train.code == 2
    assert train.sentence.startswith("Error: folds must be a whole number at least 2")


def test_what_was_chosen_is_left_out_with_plain(pixelwise, street, runs, tmp_path) -> None:
    found = pw.load(runs[0])
    file = runs[0] / "best.safetensors"
    image = street / "images" / "val" / "3.png"
    first = pw.Predictor(found)(image, probabilities=True).probabilities[1]
    threshold = float(first.median())
    pw.save(
        found.model, file, found.classes, task=found.task, decoding={"threshold": threshold, "flip": True}
    )
    outs = {}
    for name, more in (
        ("chosen", ()),
        ("plain", ("--plain",)),
        ("off", ("--no-flip", "--decoding", "threshold=null")),
    ):
        out = tmp_path / name
        done = pixelwise("predict", file, image, "--out", out, "--device", "cpu", *more)
        assert done.code == 0, done.err
        outs[name] = (out / "3.png").read_bytes()
    assert outs["plain"] == outs["off"] != outs["chosen"]


def test_evaluate_cuts_the_parts_as_the_training_did(pixelwise, street, runs) -> None:
    for kind in ("images", "masks"):  # no parts are named any more
        for file in sorted((street / kind).rglob("*.png")):
            file.rename(street / kind / file.name)
        for part in ("train", "val"):
            (street / kind / part).rmdir()
    command = ("evaluate", runs[0], street, "--split", "train", "--json", "--device", "cpu")
    assert "over 3 images" in pixelwise(*command[:5], *command[6:]).out  # 1 of 4 is for validation
    Recipe(str(street), val_fraction=0.5).write(runs[0] / "recipe.json")
    assert "over 2 images" in pixelwise(*command[:5], *command[6:]).out


def test_the_cheaper_average_is_taken_where_it_is_no_worse(pixelwise, street, runs, tmp_path) -> None:
    file = tmp_path / "best.safetensors"
    same = runs[0], runs[0]  # the mean of two equal models is the model, so that one is enough
    shown = pixelwise("ensemble", *same, "--out", file, "--average", "best", "--data", street)
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert [line.partition(":")[0] for line in lines[:4]] == [
        "model 1",
        "model 2",
        "averaged outputs",
        "averaged weights",
    ]
    assert len({line.partition(":")[2] for line in lines[:4]}) == 1
    assert lines[4] == f"weights of 2 models averaged: {file}"
    assert pw.load(file).built_by.builder == "pspnet"
    shown = pixelwise("ensemble", *runs, "--out", tmp_path / "no.safetensors", "--average", "best")
    assert shown.code == 2
    assert shown.sentence.startswith("Error: --average best needs --data")


def test_averaged_answers_are_taken_where_they_gain_on_every_image() -> None:
    task, classes = get_task("semantic"), TABLE

    def evaluation(right: list[int]):
        pairs = []
        for i, count in enumerate(right):
            found = torch.tensor([0] * count + [1] * (20 - count))
            target = LabelMap(torch.tensor([0] * 10 + [1] * 10))
            pairs.append((Sample(torch.zeros(3, 20), target, f"{i}"), LabelMap(found)))
        return scored(pairs, task, classes)

    assert _gains(evaluation([10, 10, 10]), evaluation([7, 7, 7]))
    assert not _gains(evaluation([10, 10, 10]), evaluation([10, 10, 10]))
    assert not _gains(evaluation([10, 10, 2, 10]), evaluation([2, 10, 10, 9]))
