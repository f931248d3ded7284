"""A network whose answer is known."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from pixelwise.layers import size_of
from pixelwise.types import ClassTable, DenseLogits, DenseModel


class Brightness(DenseModel):
    """Class of a pixel: dark (below 1/4), middle, bright (above 3/4), by the mean of its channels."""

    def __init__(self, in_channels: int = 3, minimum_size: int = 8) -> None:
        super().__init__()
        self.num_classes, self.in_channels, self.minimum_size = 3, in_channels, minimum_size
        self.levels = nn.Parameter(torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1))
        self.part = nn.BatchNorm2d(in_channels, affine=False)  # has a mode of its own

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        size = size_of(image, self.minimum_size)
        assert not self.part.training
        return DenseLogits(-10 * (self.part(image).mean(1, keepdim=True) - self.levels).abs(), size)


TABLE = ClassTable(("dark", "middle", "bright"), ((20, 20, 120), (0, 160, 0), (250, 220, 0)))


@pytest.fixture
def classes() -> ClassTable:
    return TABLE


@pytest.fixture
def brightness() -> type[Brightness]:
    return Brightness


@pytest.fixture
def model() -> Brightness:
    return Brightness()


@pytest.fixture
def two_threads() -> Iterator[None]:
    """As a user with two cores has it; the suite runs with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pixels() -> np.ndarray:
    """An RGB photograph of noise; grey, so that its classes are easily told."""
    grey = np.random.default_rng(0).integers(0, 256, (30, 41, 1), dtype=np.uint8)
    return grey.repeat(3, axis=2)


@pytest.fixture
def expected(pixels: np.ndarray) -> np.ndarray:
    return np.digitize(pixels[..., 0], [64, 192])


@pytest.fixture
def photograph(tmp_path: Path, pixels: np.ndarray) -> Path:
    path = tmp_path / "photograph.png"
    Image.fromarray(pixels).save(path)
    return path
