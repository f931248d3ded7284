"""Masks of many kinds."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage


@pytest.fixture(scope="session")
def some_masks() -> Callable[..., np.ndarray]:
    """`some_masks(seed, n, height, width)`: noise, blobs, empty and full ones."""

    def make(seed: int, n: int, height: int, width: int) -> np.ndarray:
        random = np.random.default_rng(seed)
        noise = random.random((n, height, width))
        kind = random.integers(4)
        if kind == 0:
            return noise < random.random()
        if kind == 1:
            return np.broadcast_to(noise[:, :1, :1] < 0.5, noise.shape).copy()
        smooth = ndimage.uniform_filter(noise, (0, 9, 9), mode="constant")
        level = np.quantile(smooth, random.random()) if smooth.size else 0
        return smooth > level

    return make
