"""How the learning rate goes over the steps, as a factor of the highest one."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

from ..wording import brief

Schedule = Literal["poly", "cosine", "linear", "step", "constant"]

POLY_POWER = 0.9  # DeepLab (Chen et al. 2017, Sec. 4.1), PSPNet (Sec. 5.1)


def factor(
    name: Schedule,
    total_steps: int,
    warmup_steps: int = 0,
    drops: Sequence[float] = (),
    replans: Sequence[tuple[int, int]] = (),
) -> Callable[[int], float]:
    """The factor for each optimiser step, counted from 0.

    It rises linearly to 1 over the warm-up, reached in its last step, and then falls:

        poly      (1 - t)^0.9
        cosine    (1 + cos(pi t)) / 2     (Loshchilov and Hutter 2017, Eq. 5, without restarts)
        linear    1 - t                   (Li, Yumer and Ramanan, Budgeted Training, 2020, Sec. 3)
        step      0.1^n, n being the number of drops that are not after t
        constant  1

    with t from 0 in the first step after the warm-up to 1 in the first step that is not made any more. Where
    the length of the training changes on the way, what is left of t is spread evenly over what is left of the
    steps: the factor does not jump, and t is 1 at the new end.

    Args:
        name: "poly", "cosine", "linear", "step" or "constant".
        total_steps: number of optimiser steps of the training.
        warmup_steps: number of steps of the warm-up, among them.
        drops: of "step": where it falls to a tenth, as parts t of the training.
        replans: after which step the number of steps changed, and to how many, in order; looked at anew in
            every call, so a list may grow while the training goes on.

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
        "linear": lambda t: 1 - t,
        "step": lambda t: 0.1 ** sum(drop <= t for drop in drops),
        "constant": lambda t: 1.0,
    }
    if name not in falls:
        raise ValueError(f"schedule must be one of {', '.join(falls)}, got {brief(name)}")
    fall = falls[name]

    def at(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return fall(min(1.0, fallen(step)))

    def fallen(step: int) -> float:
        """T at a step."""
        t, start, end = 0.0, warmup_steps, total_steps
        for replanned, new_end in replans:
            if replanned >= step:
                break
            if replanned > start:
                t += (1 - t) * (replanned - start) / max(1, end - start)
                start = replanned
            end = new_end
        return t + (1 - t) * (step - start) / max(1, end - start)

    return at
