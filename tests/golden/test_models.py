"""Frozen numbers: a model that computes something else than yesterday is found here.

Weights are a fixed formula of their position, so that the numbers depend on no random generator; the state
of EMANet, which is no weight, is drawn from a fixed seed. To freeze on purpose:
python -m tests.golden.test_models
"""

import json
import math
from pathlib import Path

import pytest
import torch

from pixelwise.registry import build
from pixelwise.types import DenseModel
from tests.contract.test_models import sizes, small_arguments

FROZEN = Path(__file__).with_name("models.json")
SIZE = (65, 97)
POINTS = ((0, 0, 0), (1, 20, 31), (2, 44, 50), (0, 64, 96))
WIDEST = 2_000_000  # larger models are covered by their families' small ones


def small(name: str) -> DenseModel:
    return build(name, 3, **small_arguments(name))


def names() -> list[str]:
    return [name for name, (_, parameters, _) in sizes().items() if parameters <= WIDEST]


def fill(model: DenseModel) -> None:
    """Give every weight a value between -1 and 1 over the root of its fan-in, the same on every machine."""
    for tensor in model.parameters():
        position = torch.arange(tensor.numel(), dtype=torch.float64)
        wave = torch.sin(12.9898 * (position + 1)) * 43758.5453
        value = 2 * (wave - wave.floor()) - 1
        fan_in = max(1, tensor[0].numel()) if tensor.ndim > 1 else 1
        with torch.no_grad():
            if tensor.ndim > 1:
                tensor.copy_((value * math.sqrt(3 / fan_in)).view_as(tensor))
            else:
                tensor.copy_(1 + 0.1 * value)


def numbers(name: str) -> list[float]:
    torch.manual_seed(0)
    model = small(name).eval()
    fill(model)
    rows, columns = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    image = torch.stack([torch.sin(0.1 * (c + 1) * rows + 0.07 * columns) for c in range(model.in_channels)])
    with torch.no_grad():
        logits = model(image[None] * 0.5 + 0.5).logits[0].double()
    picked = [logits[point].item() for point in POINTS]
    return [logits.mean().item(), logits.std().item(), *picked]


@pytest.mark.parametrize("name", names())
def test_the_numbers_are_the_frozen_ones(name: str) -> None:
    frozen = json.loads(FROZEN.read_text())
    assert name in frozen, f"freeze {name}: python -m tests.golden.test_models"
    assert numbers(name) == pytest.approx(frozen[name], rel=2e-3, abs=2e-3)


if __name__ == "__main__":
    lines = [f"  {json.dumps(n)}: {json.dumps([round(v, 6) for v in numbers(n)])}" for n in names()]
    FROZEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
