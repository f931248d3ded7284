"""`pixelwise weights`: what it lists, shows, fetches and refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import pixelwise as pw
from pixelwise import models, weights as published
from pixelwise.files import sha256_of
from pixelwise.models import espnetv2
from pixelwise.weights import describe_weights

NAME, BOUND = "espnetv2_s_0_5_voc_256x256", "espnetv2_s_0_5_cityscapes_512x256"


def from_tests(state_dict: dict[str, torch.Tensor]) -> pw.models.PSPNet:
    model = models.pspnet(21, encoder="tiny", aux=False)
    model.load_state_dict(state_dict)
    return model


@pytest.fixture
def shop(tmp_path, monkeypatch) -> Path:
    """A folder from which NAME can be had, and a cache beside it."""
    torch.manual_seed(0)
    path = tmp_path / "shop" / "net.pth"
    path.parent.mkdir()
    torch.save(models.pspnet(21, encoder="tiny", aux=False).state_dict(), path)
    monkeypatch.setattr(espnetv2, "from_tests", from_tests, raising=False)
    entry = replace(
        describe_weights(NAME),
        url=path.as_uri(),
        checksum=sha256_of(path),
        builder="pspnet",
        arguments={"encoder": "tiny", "aux": False},
        converter="espnetv2.from_tests",
    )
    known = {NAME: entry, BOUND: describe_weights(BOUND)}
    monkeypatch.setattr(published, "_catalogue", lambda: known)
    monkeypatch.setenv("PIXELWISE_CACHE", str(tmp_path / "cache"))
    return path


def test_the_list_says_task_score_and_terms(pixelwise) -> None:
    shown = pixelwise("weights", "--task", "instance", "--model", "mask_rcnn_resnet50_fpn")
    assert shown.code == 0
    assert "2 published weights" in shown.out
    assert "mask_rcnn_resnet50_fpn_coco" in shown.out
    assert "box AP 0.379" in shown.out
    listed = json.loads(pixelwise("weights", "--noncommercial", "--model", "segformer", "--json").out)
    assert len(listed) == 25
    assert all(not entry["commercial"] and entry["note"] for entry in listed)
    assert "did you mean panoptic?" in pixelwise("weights", "--task", "panoptik").sentence


def test_one_is_shown_with_all_that_is_known(pixelwise) -> None:
    shown = " ".join(pixelwise("weights", "show", "mask_rcnn_resnet50_fpn_coco").out.split())
    assert "BSD-3-Clause, for commercial use" in shown
    assert "url https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth" in shown
    assert json.loads(pixelwise("weights", "show", "sam_vit_b", "--json").out)["task"] == "promptable"
    assert "there are no published weights 'sam_vit_x'" in pixelwise("weights", "show", "sam_vit_x").sentence


def test_fetched_weights_are_a_checkpoint_that_commands_take(pixelwise, shop, tmp_path, street) -> None:
    out = tmp_path / "net.safetensors"
    got = pixelwise("weights", "get", NAME, "--out", out)
    assert got.code == 0, got.err
    assert got.out.splitlines() == [str(tmp_path / "cache" / "net.pth"), f"checkpoint: {out}"]
    assert pw.load(out).notes["weights"] == NAME
    images = street / "images" / "val"
    assert pixelwise("predict", out, images, "--out", tmp_path / "masks").code == 0
    assert len(list((tmp_path / "masks").glob("*.png"))) == 1
    again = pixelwise("weights", "get", NAME, "--out", out)
    assert (again.code, "was written before" in again.sentence) == (2, True)
    assert json.loads(pixelwise("weights", "show", NAME, "--json").out)["file"] == got.out.split()[0]


def test_offline_and_terms_are_refused_in_one_sentence(pixelwise, shop) -> None:
    refused = pixelwise("weights", "get", NAME, "--offline")
    assert refused.code == 2
    assert "the network must not be used" in refused.sentence
    assert pixelwise("weights", "get", NAME).code == 0
    assert pixelwise("weights", "get", NAME, "--offline").code == 0
    refused = pixelwise("weights", "get", BOUND)
    assert refused.code == 2
    assert "--allow-noncommercial" in refused.sentence
    shop.unlink()
    missing = pixelwise("weights", "get", NAME, "--cache", shop.parent / "other")
    assert missing.code == 2
    assert f"cannot fetch {shop.as_uri()}" in missing.sentence


@pytest.mark.parametrize("command", [(), ("show",), ("get",), ("pack",), ("push",)])
def test_every_part_has_help_with_an_example(pixelwise, command) -> None:
    shown = " ".join(pixelwise("weights", *command, "--help").out.split())
    assert "Example: pixelwise weights" in shown


def test_a_checkpoint_is_packed_as_the_hub_has_it_and_predicts(pixelwise, weights, street, tmp_path) -> None:
    packed = pixelwise("weights", "pack", weights, tmp_path / "net", "--licence", "mit")
    assert packed.code == 0, packed.err
    assert [Path(line).name for line in packed.out.splitlines()] == [
        "model.safetensors",
        "config.json",
        "README.md",
    ]
    assert (
        pixelwise("predict", tmp_path / "net", street / "images/val", "--out", tmp_path / "masks").code == 0
    )
    again = pixelwise("weights", "pack", weights, tmp_path / "net")
    assert (again.code, "was written before" in again.sentence) == (2, True)


def test_pushing_without_a_network_is_refused_in_one_sentence(pixelwise, weights, monkeypatch) -> None:
    monkeypatch.setenv("PIXELWISE_OFFLINE", "1")
    pushed = pixelwise("weights", "push", weights, "me/net")
    assert pushed.code == 2
    assert "me/net cannot be published: the network must not be used" in pushed.sentence
    got = pixelwise("weights", "get", "me/net-that-is-nowhere")
    assert got.code == 2
    assert "cannot be had from the hub" in got.sentence
