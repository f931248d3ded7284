"""Small files and folders for the tests of data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Draw = Callable[..., Path]


@pytest.fixture
def draw_image() -> Draw:
    """Write a picture of random colours; the same number gives the same picture."""

    def draw(path: Path, size: tuple[int, int] = (12, 16), number: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return draw


@pytest.fixture
def draw_mask() -> Draw:
    """Write a grey mask whose columns hold the given values in turn."""

    def draw(path: Path, size: tuple[int, int] = (12, 16), values: tuple[int, ...] = (0, 1, 2)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        row = np.resize(np.array(values, dtype=np.uint8), size[1])
        Image.fromarray(np.tile(row, (size[0], 1))).save(path)
        return path

    return draw


@pytest.fixture
def pair_folder(tmp_path: Path, draw_image: Draw, draw_mask: Draw) -> Callable[..., Path]:
    """A folder with images/ and masks/, without parts."""

    def make(count: int = 5, values: tuple[int, ...] = (0, 1, 2), name: str = "street") -> Path:
        root = tmp_path / name
        for i in range(count):
            draw_image(root / "images" / f"{i}.png", number=i)
            draw_mask(root / "masks" / f"{i}.png", values=values)
        return root

    return make
