"""DAVIS' boundary accuracy F beside davis2017-evaluation, on masks of a video's size.

    PYTHONPATH=<clone of davisvideochallenge/davis2017-evaluation> python bench/metrics_davis.py

The tool is on no package index. Its dilation is OpenCV's, in C++.
"""

import numpy as np
import torch
from side_by_side import compare, peer
from torch import Tensor

from pixelwise.metrics.davis.frame import boundary_accuracy


def masks(random: np.random.Generator, height: int, width: int) -> tuple[Tensor, Tensor]:
    """An object with a wavy outline, and the same a few pixels off with another wave."""
    y, x = np.mgrid[:height, :width]
    angle = np.arctan2(y - height / 2, x - width / 2)
    distance = np.hypot(y - height / 2, x - width / 2)
    radius = height / 3 * (1 + 0.2 * np.sin(7 * angle))
    off = radius + random.normal(0, 4) + 6 * np.sin(random.integers(20, 60) * angle)
    return torch.from_numpy(distance < off), torch.from_numpy(distance < radius)


def main(rounds: int = 7) -> None:
    random = np.random.default_rng(0)
    official = peer("davis2017.metrics")
    for height, width, frames in ((480, 854, 10), (1080, 1920, 3)):
        pairs = [masks(random, height, width) for _ in range(frames)]
        arrays = [(prediction.numpy(), target.numpy()) for prediction, target in pairs]
        if official is not None:
            for (prediction, target), (one, other) in zip(pairs, arrays, strict=True):
                assert boundary_accuracy(prediction, target) == official.f_measure(one, other)
        compare(
            f"boundary F, {frames} x {height} x {width}",
            {
                "pixelwise": lambda pairs=pairs: [boundary_accuracy(p, t) for p, t in pairs],  # type: ignore[misc]
                "davis2017-evaluation": None
                if official is None
                else lambda arrays=arrays: [official.f_measure(p, t) for p, t in arrays],  # type: ignore[misc]
            },
            target="at least 12x davis2017-evaluation",
            rounds=rounds,
        )


if __name__ == "__main__":
    main()
