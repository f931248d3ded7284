"""A data set that a tiny network learns in seconds: bright boxes on noise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pixelwise.training import Recipe

NUM_TRAIN, NUM_VAL = 7, 3


@pytest.fixture(scope="session")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 40 x 48 pixels with two classes, in train and val."""
    root = tmp_path_factory.mktemp("boxes")
    random = np.random.default_rng(0)
    for part, count in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        for kind in ("images", "masks"):
            (root / part / kind).mkdir(parents=True)
        for i in range(count):
            mask = np.zeros((40, 48), np.uint8)
            y, x = random.integers(2, 20, 2)
            mask[y : y + 16, x : x + 20] = 1
            image = mask[..., None] * 130 + random.integers(0, 100, (40, 48, 3))
            Image.fromarray(image.astype(np.uint8)).save(root / part / "images" / f"{i}.png")
            Image.fromarray(mask).save(root / part / "masks" / f"{i}.png")
    (root / "classes.csv").write_text("name,r,g,b\nbackground,0,0,0\nbox,200,80,20\n")
    return root


@pytest.fixture
def tiny(boxes: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """`tiny(epochs=3)`: a recipe of a network with batch norm, dropout and an auxiliary head."""

    def recipe(**changes: Any) -> Recipe:
        settings = {
            "model": "pspnet",
            "model_arguments": {"encoder": "tiny"},
            "crop": (32, 32),
            "batch_size": 2,
            "lr": 0.01,
            "epochs": 4,
            "workers": 0,
            "accelerator": "cpu",
            "out": str(tmp_path / "run"),
        }
        return Recipe(str(boxes)).changed(**{**settings, **changes})

    return recipe
