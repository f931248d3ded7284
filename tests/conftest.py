"""What every test may use."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # no test fetches anything; read when huggingface_hub is imported

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("PIXELWISE_TEST_DATA", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared_data() -> Callable[..., Path]:
    """`shared_data("data", "camvid")` is a folder of the test data; without it the test is skipped."""

    def path(*parts: str) -> Path:
        found = SHARED.joinpath(*parts)
        if not found.exists():
            pytest.skip(f"needs {'/'.join(parts)} in PIXELWISE_TEST_DATA (now {SHARED})")
        return found

    return path


@pytest.fixture(autouse=True)
def same_random_numbers() -> Iterator[None]:
    """Every test starts from the same seed and leaves the global generator as it found it."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)
