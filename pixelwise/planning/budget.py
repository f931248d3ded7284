"""Budgets of time as people write them."""

import math
import re

from ..wording import brief

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def read_budget(text: str) -> float | None:
    """Seconds of "90s", "20m", "1.5h", "1h30m" or "2d"; None of "none". A bare number is seconds.

    Raises:
        ValueError: if it is none of them, or no time at all.

    >>> read_budget("1h30m"), read_budget("none")
    (5400.0, None)
    """
    plain = text.strip().lower().replace(" ", "")
    if plain == "none":
        return None
    seconds = 0.0
    if re.fullmatch(r"\d+(\.\d+)?", plain):
        seconds = float(plain)
    elif re.fullmatch(r"(\d+(\.\d+)?(s|min|m|h|d))+", plain):
        for number, _, unit in re.findall(r"(\d+(\.\d+)?)(s|min|m|h|d)", plain):
            seconds += float(number) * _UNITS[unit]
    if not 0 < seconds < math.inf:
        raise ValueError(f"a budget is a time such as 90s, 20m or 2h, or none, got {brief(text)}")
    return seconds


def told_seconds(seconds: float) -> str:
    """A time as people write it.

    >>> told_seconds(42.4), told_seconds(1200), told_seconds(5400)
    ('42 s', '20 min', '1.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"
