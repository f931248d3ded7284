"""How the learning rate goes over the steps, as a factor of the highest one."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

from ..wording import brief

Schedule = Literal["poly", "cosine", "step", "constant"]

POLY_POWER = 0.9  # DeepLab (Chen et al. 2017, Sec. 4.1), PSPNet (Sec. 5.1)


def factor(
    name: Schedule, total_steps: int, warmup_steps: int = 0, drops: Sequence[float] = ()
) -> Callable[[int], float]:
    """The factor for each optimiser step, counted from 0.

    It rises linearly to 1 over the warm-up, reached in its last step, and then falls:

        poly      (1 - t)^0.9
        cosine    (1 + cos(pi t)) / 2     (Loshchilov and Hutter 2017, Eq. 5, without restarts)
        step      0.1^n, n being the number of drops that are not after t
        constant  1

    with t from 0 in the first step after the warm-up to 1 in the first step that is not made any more.

    Args:
        name: "poly", "cosine", "step" or "constant".
        total_steps: number of optimiser steps of the training.
        warmup_steps: number of steps of the warm-up, among them.
        drops: of "step": where it falls to a tenth, as parts t of the training.

    Raises:
        ValueError: if the warm-up is longer than the training, or the name is unknown.

    >>> cosine = factor("cosine", 6, warmup_steps=2)
    >>> [round(cosine(step), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if warmup_steps > total_steps:
        raise ValueError(
            f"warmup_steps must be at most the number of steps {total_steps}, got {warmup_steps}"
        )
    falls: dict[str, Callable[[float], float]] = {
        "poly": lambda t: (1 - t) ** POLY_POWER,
        "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
        "step": lambda t: 0.1 ** sum(drop <= t for drop in drops),
        "constant": lambda t: 1.0,
    }
    if name not in falls:
        raise ValueError(f"schedule must be one of {', '.join(falls)}, got {brief(name)}")
    fall = falls[name]

    def at(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return fall(min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps)))

    return at
