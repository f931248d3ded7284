"""A network that takes bright things for people, and a picture of a bright disc."""

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pixelwise.predict import Predictor
from pixelwise.types import ClassTable, DenseLogits, DenseModel

PORTRAIT = ClassTable.of("background", "person")


class BrightIsNear(DenseModel):
    def __init__(self) -> None:
        super().__init__()
        self.num_classes, self.minimum_size = 2, 8
        self.slope = nn.Parameter(torch.tensor(20.0))

    def forward(self, image: Float[Tensor, "b c H W"]) -> DenseLogits:
        score = self.slope * (image.mean(1, keepdim=True) - 0.5)
        return DenseLogits(torch.cat([-score, score], 1), (image.shape[-2], image.shape[-1]))


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(BrightIsNear(), PORTRAIT)


def disc(height: int, width: int, x: float) -> Float[Tensor, "3 H W"]:
    """Yellow in front of dark blue."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    inside = (rows - height / 2) ** 2 + (columns - x) ** 2 < (height / 4) ** 2
    near, far = torch.tensor([1.0, 0.95, 0.6]), torch.tensor([0.0, 0.05, 0.3])
    return torch.where(inside, near.view(3, 1, 1), far.view(3, 1, 1))


@pytest.fixture
def picture() -> Float[Tensor, "3 H W"]:
    return disc(90, 120, 60)
