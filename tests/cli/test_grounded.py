"""`pixelwise grounded`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pixelwise import grounded
from pixelwise.checkpoint import save
from pixelwise.registry import build
from pixelwise.types import Boxes, ClassTable


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small SAM and a detector, untrained, and two pictures."""
    monkeypatch.chdir(tmp_path)
    model = build("sam", image_size=64, patch=8, width=16, depth=2)
    save(model.eval(), tmp_path / "sam.safetensors", ClassTable.of("object"))
    detector = build("fcos", 2, encoder="tiny").eval()
    save(detector, tmp_path / "boxes.safetensors", ClassTable.of("dog", "ball"), task="detection")
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        Image.fromarray(random.integers(0, 256, (64, 80, 3), np.uint8)).save(
            tmp_path / "photos" / f"{name}.png"
        )
    return tmp_path


class Two:
    """Finds the first phrase on the left, the last one on the right."""

    def __call__(self, image: Tensor, phrases: tuple[str, ...]) -> Boxes:
        boxes = torch.tensor([[2.0, 2, 30, 40], [40.0, 10, 70, 60]])
        return Boxes.of(boxes, torch.tensor([0, len(phrases) - 1]), torch.tensor([0.8, 0.5]))


def test_what_is_named_is_written_as_instances(pixelwise, place: Path, monkeypatch) -> None:
    asked: list[object] = []

    def load(name: str, **options: object) -> Two:
        asked.append((name, options["min_score"]))
        return Two()

    monkeypatch.setattr(grounded.GroundingDino, "load", load)
    done = pixelwise(
        "grounded", "photos", "--text", "dog, red ball", "--model", "sam.safetensors", "--overlay",
        "--min-score", 0.2,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "2 images segmented" in done.out
    assert asked == [("IDEA-Research/grounding-dino-tiny", 0.2)]
    for name in ("a", "b"):
        told = json.dumps(json.loads((place / "grounded" / f"{name}.json").read_text()))
        assert "red ball" in told
        assert (place / "grounded" / f"{name}_overlay.png").exists()


def test_boxes_may_come_from_a_detector(pixelwise, place: Path) -> None:
    done = pixelwise(
        "grounded", "photos/a.png", "--boxes-from", "boxes.safetensors", "--model", "sam.safetensors",
        "--min-score", 0, "--format", "png", "--out", "found",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert (place / "found" / "a.png").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        (("--model", "sam.safetensors"), "say what to look for"),
        (("--text", "dog"), "--model names"),
        (("--text", " , ", "--model", "sam.safetensors"), "a text prompt names"),
        (("--text", "cow", "--model", "sam.safetensors", "--boxes-from", "boxes.safetensors"), "not 'cow'"),
        (("--clipseg", "x", "--text", "dog", "--model", "sam.safetensors"), "--clipseg takes --text alone"),
        (
            ("--text", "dog", "--model", "sam.safetensors", "--grounding-dino", "nowhere"),
            "cannot load nowhere",
        ),
        (("--text", "dog", "--model", "sam.safetensors", "--format", "coco"), "one file each"),
    ],
)
def test_what_does_not_fit_is_told_in_a_sentence(pixelwise, place: Path, options, words) -> None:
    done = pixelwise("grounded", "photos/a.png", *options)
    assert done.code == 2
    assert words in done.sentence


def test_text_without_the_extra_is_told_in_a_sentence(pixelwise, place: Path, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    done = pixelwise("grounded", "photos/a.png", "--text", "dog", "--model", "sam.safetensors")
    assert done.code == 2
    assert done.sentence == "Error: text prompts need transformers: pip install pixelwise[text]"
