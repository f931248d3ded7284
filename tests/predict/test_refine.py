"""Refinement after the network: what is given, and the dense CRF."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import pixelwise as pw
from pixelwise.algorithms.dense_crf import DenseCrf, dense_crf
from pixelwise.cli import app
from pixelwise.predict import Predictor, evaluate
from pixelwise.types import ClassTable

TABLE = ClassTable.of("dark", "bright")


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return pw.build("unet", 2, width=4).eval()


def inverted(probabilities: Tensor, images: Tensor) -> Tensor:
    assert probabilities.shape[-2:] == images.shape[-2:]
    return 1 - probabilities


@pytest.mark.parametrize("settings", [{}, {"tile": (32, 32), "overlap": 8}, {"flip": True}])
def test_what_refines_sees_probabilities_and_the_whole_image(model: torch.nn.Module, settings: dict) -> None:
    image = torch.rand(3, 50, 70)
    plain = Predictor(model, TABLE, **settings)(image, probabilities=True)
    refined = Predictor(model, TABLE, refine=inverted, **settings)
    found = refined(image, probabilities=True)
    assert torch.allclose(found.probabilities, 1 - plain.probabilities)
    assert refined(image).label_map.labels.equal(found.label_map.labels)
    assert refined.labels(image[None]).labels[0].equal(found.label_map.labels)


def test_the_dense_crf_after_a_network_is_that_of_its_function(model: torch.nn.Module) -> None:
    image = torch.rand(3, 40, 48)
    plain = Predictor(model, TABLE)(image, probabilities=True)
    refined = Predictor(model, TABLE, refine=DenseCrf())(image)
    expected = dense_crf(plain.probabilities, image).label_map.labels
    assert refined.label_map.labels.equal(expected)


def test_the_command_line_refines_too(model: torch.nn.Module, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
    mask = random.integers(0, 2, (40, 48), dtype=np.uint8)
    for name in "abcde":
        Image.fromarray(pixels).save(tmp_path / "data" / "images" / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"{name}.png")
    weights = tmp_path / "weights.safetensors"
    pw.save(model, weights, TABLE)
    image, out = tmp_path / "data" / "images" / "a.png", tmp_path / "out"
    command = ["predict", str(weights), str(image), "--crf", "--format", "npy", "--out", str(out)]
    assert CliRunner().invoke(app, command).exit_code == 0
    expected = Predictor(weights, refine=DenseCrf())(image).label_map.labels
    assert (np.load(out / "a.npy") == expected.numpy()).all()
    (tmp_path / "classes.csv").write_text("name,r,g,b\ndark,0,0,0\nbright,255,255,255\n")
    scored = evaluate(Predictor(weights, refine=DenseCrf()), tmp_path / "data")
    run = CliRunner().invoke(app, ["evaluate", str(weights), str(tmp_path / "data"), "--crf", "--json"])
    assert run.exit_code == 0
    assert f"{scored['mean_iou']:.6f}"[:7] in run.stdout
