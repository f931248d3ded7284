"""Networks go to the hub and come back; strangers see scores and settings, and no paths."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import pixelwise as pw
from pixelwise.checkpoint import Checkpoint

CLASSES = pw.ClassTable.of("sky", "road")


@pytest.fixture
def network() -> Checkpoint:
    torch.manual_seed(0)
    model = pw.build("pspnet", 2, encoder="tiny").eval()
    assert model.built_by is not None
    notes = {"data": "/home/somebody/streets", "epoch": "3"}
    return Checkpoint(model, CLASSES, model.built_by, notes, "semantic", {"flip": True})


@pytest.fixture
def run(network, tmp_path) -> Path:
    """A run directory, as far as a model card reads it."""
    path = tmp_path / "secret place" / "run"
    pw.save(network.model, path / "best.safetensors", CLASSES, task="semantic", notes=network.notes)
    pw.save(network.model, path / "last.safetensors", CLASSES, task="semantic", notes=network.notes)
    recipe = pw.training.Recipe("/home/somebody/streets", model="pspnet").changed(
        model_arguments={"encoder": "tiny"}, epochs=3, loss="focal", out=str(path)
    )
    recipe.write(path / "recipe.json")
    scores = {
        "values": {"mean_iou": 0.625, "pixel_accuracy": None},
        "classes": {"sky": {"IoU": 0.75}, "road": {"IoU": None}},
        "note": "The rule of the scores.",
        "remarks": ["Warning: no better than the commonest class."],
    }
    (path / "scores.json").write_text(json.dumps(scores))
    (path / "environment.json").write_text(json.dumps({"versions": {"torch": "2.8"}, "command": ["/home/x"]}))
    return path


def same(a: Checkpoint, b: Checkpoint) -> bool:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return torch.equal(a.model(image).logits, b.model(image).logits)


# --- the folder ------------------------------------------------------------------------------------


def test_a_folder_holds_weights_config_and_card_and_loads_again(network, tmp_path) -> None:
    files = pw.save_for_hub(network, tmp_path / "out")
    assert [file.name for file in files] == ["model.safetensors", "config.json", "README.md"]
    for again in (pw.from_hub(tmp_path / "out"), pw.load(tmp_path / "out")):
        assert same(network, again)
        assert again.classes == CLASSES
        assert again.task == "semantic"
        assert again.decoding == {"flip": True}
        assert again.notes == {"data": "streets", "epoch": "3"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["library_name"] == "pixelwise"
    assert config["id2label"] == {"0": "sky", "1": "road"}


def test_a_location_prior_stays_and_the_card_tells_its_size(network, tmp_path) -> None:
    prior = [[[0.25] * 4] * 4] * 2
    pw.save_for_hub(replace(network, decoding={"location_prior": prior}), tmp_path / "out")
    assert pw.from_hub(tmp_path / "out").decoding == {"location_prior": prior}
    assert "| location_prior | 2x4x4 numbers |" in (tmp_path / "out" / "README.md").read_text()


def test_the_card_tells_what_the_report_of_the_run_does(run, tmp_path) -> None:
    pw.save_for_hub(run, tmp_path / "out", name="me/street", licence="apache-2.0")
    _, front, page = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["license"] == "apache-2.0"
    assert (told["library_name"], told["pipeline_tag"]) == ("pixelwise", "image-segmentation")
    (result,) = told["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "mean_iou", "name": "mean IoU", "value": 0.625}]
    assert result["dataset"]["name"] == "streets"
    assert "Warning: no better than the commonest class." in page
    assert "| sky | 0.75 |\n| road |  |" in page
    assert "| loss | focal |" in page
    assert "pw.from_hub('me/street')" in page


def test_huggingface_hub_reads_the_card(run, tmp_path) -> None:
    from huggingface_hub import ModelCard

    pw.save_for_hub(run, tmp_path / "out", name="me/street", licence="apache-2.0")
    data = ModelCard.load(tmp_path / "out" / "README.md").data
    assert data.eval_results is not None
    assert [(r.metric_type, r.metric_value) for r in data.eval_results] == [("mean_iou", 0.625)]


def test_no_path_of_the_machine_is_told(run, tmp_path) -> None:
    for file in pw.save_for_hub(run, tmp_path / "out"):
        told = file.read_bytes()
        assert b"somebody" not in told
        assert b"secret place" not in told
        assert b"/home" not in told


def test_scores_of_the_best_weights_are_not_told_of_others(run, network, tmp_path) -> None:
    pw.save_for_hub(run / "last.safetensors", tmp_path / "last")
    pw.save_for_hub(network, tmp_path / "alone")
    for folder in ("last", "alone"):
        assert "0.625" not in (tmp_path / folder / "README.md").read_text()


def test_a_file_of_the_user_is_not_replaced(network, tmp_path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"README\.md exists, and pixelwise did not write it"):
        pw.save_for_hub(network, tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_terms_of_published_weights_go_into_the_card(network, tmp_path) -> None:
    network.notes["licence"] = "LicenseRef-NVIDIA-Source-Code-License"
    pw.save_for_hub(network, tmp_path / "out")
    front = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---\n")[1])
    assert (front["license"], front["license_name"]) == ("other", "nvidia-source-code-license")


def test_every_task_has_a_name_that_the_hub_knows() -> None:
    from pixelwise.tasks import TASKS

    names = {task.hub_name for task in TASKS.values()}
    assert names == {"image-segmentation", "object-detection", "keypoint-detection", "mask-generation"}


# --- the hub ---------------------------------------------------------------------------------------


def test_what_is_pushed_comes_back(hub, run, network, tmp_path) -> None:
    address = pw.push_to_hub(run, "me/street", licence="mit", private=True)
    assert address.startswith(f"{hub.address}/me/street/commit/")
    assert set(hub.files["me/street"]) == {"model.safetensors", "config.json", "README.md"}
    assert hub.made[0]["name"] == "street"
    assert hub.made[0].get("private", hub.made[0].get("visibility") == "private")
    assert same(network, pw.from_hub("me/street"))
    assert same(network, pw.from_hub("me/street", revision=hub.commit("me/street"), cache=tmp_path / "c"))
    before = len(hub.requests)
    assert same(network, pw.from_hub("me/street", offline=True))
    assert len(hub.requests) == before


def test_what_cannot_be_had_is_told_in_one_sentence(hub, monkeypatch, tmp_path) -> None:
    hub.files["me/empty"] = {"README.md": b"nothing"}
    for name, changes, expected in (
        ("me/nothing", {}, r"me/nothing cannot be had from the hub: .*"),
        ("me/empty", {}, r"me/empty holds neither model.safetensors nor pytorch_model.bin"),
        ("me/empty", {"revision": "nowhere"}, r"me/empty cannot be had from the hub: .*"),
        ("me/unseen", {"offline": True}, r"me/unseen cannot be had from the hub: .*"),
        ("justaname", {}, r"a repository on the hub is OWNER/NAME, got 'justaname'"),
    ):
        with pytest.raises(ValueError, match=expected) as error:
            pw.from_hub(name, **changes)
        assert "\n" not in str(error.value)


def test_nothing_is_pushed_offline(hub, network, monkeypatch) -> None:
    monkeypatch.setenv("PIXELWISE_OFFLINE", "1")
    with pytest.raises(ValueError, match="the network must not be used"):
        pw.push_to_hub(network, "me/street")
    assert hub.requests == []


def test_a_network_of_transformers_is_read_with_its_classes(hub, tmp_path) -> None:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    config = SegformerConfig(
        id2label={0: "wall", 1: "sky", 2: "tree"}, label2id={"wall": 0, "sky": 1, "tree": 2}
    )
    theirs = SegformerForSemanticSegmentation(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "README.md").write_text("---\nlicense: other\nlicense_name: nvidia\n---\n# Net\n")
    files = {path.name: path.read_bytes() for path in (tmp_path / "theirs").iterdir()}
    hub.files["nvidia/segformer"] = files
    found = pw.from_hub("nvidia/segformer")
    assert found.classes.names == ("wall", "sky", "tree")
    assert found.notes == {"source": "nvidia/segformer", "licence": "nvidia"}
    image = torch.rand(1, 3, 65, 97, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(found.model.encoder.normalize(image)).logits
        torch.testing.assert_close(found.model(image).coarse, expected, atol=1e-4, rtol=0)
    # Older repositories have a pickle only.
    del files["model.safetensors"]
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    files["pytorch_model.bin"] = (tmp_path / "pytorch_model.bin").read_bytes()
    again = pw.from_hub("nvidia/segformer")
    with torch.no_grad():
        torch.testing.assert_close(again.model(image).coarse, expected, atol=1e-4, rtol=0)


def test_a_network_that_cannot_be_read_is_named(hub) -> None:
    import safetensors.torch

    weights = safetensors.torch.save({"a": torch.zeros(1)})
    hub.files["me/other"] = {"model.safetensors": weights, "config.json": b'{"architectures": ["Bert"]}'}
    with pytest.raises(ValueError, match=r"config must name one of the networks .*, got 'Bert'"):
        pw.from_hub("me/other")
    hub.files["me/broken"] = {"model.safetensors": weights, "config.json": b"{"}
    with pytest.raises(ValueError, match=r"me/broken tells by no readable config.json"):
        pw.from_hub("me/broken")
