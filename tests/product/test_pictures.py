"""Style transfer and another background, on photographs of real size."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.mark.slow
def test_a_photograph_is_painted_by_random_filters_and_keeps_its_layout(
    pixelwise, place: Path, shared_data
) -> None:
    photo = shared_data("data", "skimage_images", "astronaut.png")
    style = shared_data("data", "sam_images", "groceries.jpg")
    done = pixelwise(
        "style", photo, style, "--weights", "random", "--size", 128, "--scales", 2, "--steps", 15,
        "--out", place / "painted.png", "--previews", place / "previews", "--preview-every", 10,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "random filters" in done.out
    assert len(list((place / "previews").glob("*.png"))) == 3
    painted = np.array(Image.open(place / "painted.png").convert("RGB")).astype(float)
    plain = np.array(Image.open(photo).convert("RGB").resize((128, 128))).astype(float)
    assert painted.shape == (128, 128, 3)
    assert abs(painted - plain).mean() > 8
    assert np.corrcoef(painted.mean(2).ravel(), plain.mean(2).ravel())[0, 1] > 0.5


@pytest.mark.slow
def test_the_astronaut_is_cut_out_by_the_published_weights(pixelwise, place: Path, shared_data) -> None:
    photo = shared_data("data", "skimage_images", "astronaut.png")
    weights = shared_data("weights", "sinet", "SINet.pth")
    done = pixelwise(
        "background", photo, "--replace", "transparent", "--model", weights, "--allow-noncommercial",
        "--out", place / "cut.png",
    )  # fmt: skip
    assert done.code == 0, done.err
    alpha = np.array(Image.open(place / "cut.png"))[..., 3]
    assert alpha.shape == (512, 512)
    assert alpha[120, 220] > 250
    assert alpha[60, 350] < 5
