"""Bad input ends with exit code 2 and one sentence that names what is wrong; nothing is half-written."""

import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pixelwise.checkpoint import save
from pixelwise.registry import build
from pixelwise.types import ClassTable


def complains(outcome, *words: str) -> None:
    """One sentence on standard error with all of `words`, code 2, no traceback."""
    assert outcome.code == 2, (outcome.code, outcome.err)
    assert "Traceback" not in outcome.err
    assert outcome.err.startswith("Error: ")
    assert outcome.err.count("\n") == 1
    for word in words:
        assert word in outcome.sentence


@pytest.mark.parametrize("command", ["train", "check", "evaluate"])
def test_a_missing_data_folder(pixelwise, tmp_path, weights, command) -> None:
    model = [weights] if command == "evaluate" else []
    complains(pixelwise(command, *model, tmp_path / "nowhere"), "no data folder", "nowhere")


@pytest.mark.parametrize("command", ["train", "check", "evaluate"])
def test_an_empty_data_folder(pixelwise, tmp_path, weights, command) -> None:
    (tmp_path / "bare").mkdir()
    model = [weights] if command == "evaluate" else []
    complains(pixelwise(command, *model, tmp_path / "bare"), "empty", "bare")


@pytest.mark.parametrize("option", ["--model"])
def test_an_unknown_model_is_answered_with_a_near_one(pixelwise, street, tmp_path, option) -> None:
    shown = pixelwise("train", street, option, "unett", "--out", tmp_path / "run")
    complains(shown, "no model 'unett'", "did you mean unet")
    assert not (tmp_path / "run").exists()
    complains(pixelwise("info", "unett"), "did you mean unet")


def test_a_task_that_the_model_does_not_serve_is_told_before_the_data_are_opened(
    pixelwise, street, tmp_path
) -> None:
    shown = pixelwise("train", street, "--model", "unet", "--task", "instance", "--out", tmp_path / "run")
    complains(shown, "'unet' serves semantic, multilabel, volume_slices, not the task instance")
    assert not (tmp_path / "run").exists()


def test_an_unknown_argument_of_a_model(pixelwise) -> None:
    complains(pixelwise("info", "unet", "--set", "widht=4"), "no argument 'widht'", "did you mean 'width'")
    complains(pixelwise("info", "unet", "--set", "width"), "--set takes KEY=VALUE", "'width'")


@pytest.mark.parametrize("size", ["0x4", "axb", "4x4x4", "-3"])
def test_a_size_that_is_none(pixelwise, size) -> None:
    complains(pixelwise("info", "unet", f"--size={size}"), "--size takes HEIGHTxWIDTH", size)


def test_an_image_below_the_minimum_of_the_model(pixelwise, tmp_path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "small.png")
    masks, classes = build("maskformer", 2, encoder="tiny", width=8), ClassTable.of("sky", "road")
    save(masks, tmp_path / "masks.safetensors", classes, task="semantic")
    shown = pixelwise(
        "predict", tmp_path / "masks.safetensors", tmp_path / "small.png", "--out", tmp_path / "out"
    )
    complains(shown, "small.png", "at least 32 x 32", "16 x 16")
    assert not (tmp_path / "out").exists()
    complains(pixelwise("info", "unet", "--size", "16x16"), "at least 32 x 32")


@pytest.mark.parametrize("option", [("--loss", "dice"), ("--class-weights", "balanced")])
def test_a_loss_that_a_network_of_masks_would_not_use(pixelwise, street, tmp_path, option) -> None:
    network = ("--model", "maskformer", "--encoder", "tiny", "--set", "width=8", "--crop", "64x64")
    shown = pixelwise("train", street, *network, *option, "--epochs", 1, "--out", tmp_path / "run")
    complains(shown, "the loss is that of the network's paper", option[1])
    assert not (tmp_path / "run").exists()


def test_panoptic_segments_of_a_table_without_things(pixelwise, tmp_path) -> None:
    model = build("eomt", 2, encoder="tiny", num_queries=3)
    save(model, tmp_path / "masks.safetensors", ClassTable.of("sky", "road"), task="semantic")
    Image.new("RGB", (64, 64)).save(tmp_path / "image.png")
    asked = ("predict", tmp_path / "masks.safetensors", tmp_path / "image.png", "--out", tmp_path / "out")
    complains(pixelwise(*asked, "--task", "panoptic"), "panoptic needs classes that are things", "sky, road")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_size(pixelwise, tmp_path) -> None:
    """Weights of a ViT for images of 96 pixels under the name of one for 64."""
    for side in (64, 96):
        model = build("eomt", 2, encoder="tiny", num_queries=3, image_size=side)
        save(model, tmp_path / f"{side}.safetensors", ClassTable.of("sky", "road"))
    with safe_open(tmp_path / "64.safetensors", "pt") as file:
        told = file.metadata()
    save_file(load_file(tmp_path / "96.safetensors"), tmp_path / "mixed.safetensors", told)
    Image.new("RGB", (64, 64)).save(tmp_path / "image.png")
    shown = pixelwise("predict", tmp_path / "mixed.safetensors", tmp_path / "image.png")
    complains(shown, "mixed.safetensors", "pos_embed", "37", "17")


def test_a_truncated_jpeg(pixelwise, street, weights, tmp_path) -> None:
    whole = street / "images" / "train" / "0.png"
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    cut = street / "images" / "train" / "0.jpg"
    cut.write_bytes((tmp_path / "whole.jpg").read_bytes()[:700])
    whole.unlink()
    complains(pixelwise("predict", weights, cut, "--out", tmp_path / "out"), "0.jpg")
    assert not (tmp_path / "out").exists()
    checked = pixelwise("check", street)
    assert checked.code == 1
    assert "0.jpg" in checked.out
    complains(pixelwise("train", street, *TINY, "--out", tmp_path / "run"), "0.jpg")


def test_a_mask_with_a_value_outside_the_table(pixelwise, street, weights, tmp_path) -> None:
    path = street / "masks" / "val" / "3.png"
    labels = np.zeros((48, 64), np.uint8)
    labels[5, 6] = 37
    Image.fromarray(labels).save(path)
    checked = pixelwise("check", street)
    assert checked.code == 1
    assert "37" in checked.out
    assert "3.png" in checked.out
    complains(pixelwise("evaluate", weights, street), "37", "3.png")
    complains(pixelwise("train", street, *TINY, "--out", tmp_path / "run"), "37", "3.png")


def test_an_image_and_a_mask_of_different_size(pixelwise, street, weights, tmp_path) -> None:
    Image.new("L", (60, 48)).save(street / "masks" / "val" / "3.png")
    checked = pixelwise("check", street)
    assert checked.code == 1
    assert "3.png" in checked.out
    complains(pixelwise("evaluate", weights, street), "3.png", "48 x 60", "48 x 64")
    complains(pixelwise("train", street, *TINY, "--out", tmp_path / "run"), "3.png")


def _cut(path, _weights) -> None:
    path.write_bytes(_weights.read_bytes()[: _weights.stat().st_size // 2])


def _text(path, _weights) -> None:
    path.write_text("these are no weights")


def _pickled(path, _weights) -> None:
    path.write_bytes(pickle.dumps({"weight": [1.0]}))


def _torch_saved(path, _weights) -> None:
    torch.save({"weight": torch.zeros(1)}, path)


@pytest.mark.parametrize(
    "spoil, word", [(_cut, "whole"), (_text, "whole"), (_pickled, "pickle"), (_torch_saved, "pickle")]
)
def test_a_file_that_is_no_checkpoint(pixelwise, street, weights, tmp_path, spoil, word) -> None:
    bad = tmp_path / "bad.safetensors"
    spoil(bad, weights)
    complains(pixelwise("evaluate", bad, street), "bad.safetensors", word)
    image = street / "images" / "val" / "3.png"
    complains(pixelwise("predict", bad, image, "--out", tmp_path / "out"), "bad.safetensors", word)
    assert not (tmp_path / "out").exists()


def test_a_missing_checkpoint_and_a_missing_image(pixelwise, street, weights, tmp_path) -> None:
    complains(pixelwise("evaluate", tmp_path / "gone.safetensors", street), "gone.safetensors")
    complains(pixelwise("predict", weights, tmp_path / "gone.png"), "gone.png")


def test_what_cannot_be_served(pixelwise, weights, tmp_path) -> None:
    complains(pixelwise("serve", tmp_path / "gone.safetensors", "--port", "0"), "gone.safetensors")
    complains(pixelwise("serve", weights, "--host", "0.0.0.0", "--port", "0"), "give it a token")


def test_output_where_no_file_can_be(pixelwise, street, weights, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    image = street / "images" / "val" / "3.png"
    for source in (image, image.parent):
        complains(pixelwise("predict", weights, source, "--out", tmp_path / "file" / "out"), "file")
    complains(pixelwise("train", street, *TINY, "--out", tmp_path / "file" / "run"), "file")
    complains(pixelwise("demo", "--out", tmp_path / "file" / "demo"), "file")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_full_disk(pixelwise, street, weights, tmp_path, monkeypatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    image = street / "images" / "val" / "3.png"
    shown = pixelwise("predict", weights, image, "--out", tmp_path / "out")
    complains(shown, "No space left on device", "3.png")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_bug_is_not_called_bad_input(pixelwise, monkeypatch) -> None:
    from pixelwise import registry

    def broken() -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(registry, "list_models", broken)
    shown = pixelwise("models")
    assert shown.code == 70
    assert "KeyError" in shown.sentence
    assert "--debug" in shown.sentence
    assert "Traceback" not in shown.err
    with pytest.raises(KeyError):
        pixelwise("--debug", "models")


TINY = (
    "--set",
    "width=4",
    "--encoder",
    "tiny",
    "--steps",
    1,
    "--batch-size",
    2,
    "--crop",
    "none",
    "--workers",
    0,
)


def test_two_sources_that_would_be_written_to_one_place(pixelwise, street, weights, tmp_path) -> None:
    for one, other in (("images/train/0.png", "masks/train/0.png"), ("images/train", "masks/train")):
        shown = pixelwise("predict", weights, street / one, street / other, "--out", tmp_path / "out")
        complains(shown, "would both be written to", "images/train/0.png", "masks/train/0.png")
    assert not (tmp_path / "out").exists()
