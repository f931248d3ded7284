"""From what a scanner measures to values in [0, 1], which is what models take.

CT measures in Hounsfield units, the same on every scanner: a window of them is cut out. MR has no unit: each
volume is scaled by its own percentiles, or by its own mean and standard deviation.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Shaped

Values = Shaped[np.ndarray, "*grid"]
Normalise = Callable[[Values], Float32[np.ndarray, "*grid"]]


def normaliser(name: str) -> Normalise:
    """The function that a setting names: "percentiles", "z-score", or "window:CENTRE,WIDTH".

    Raises:
        ValueError: if the text is none of these.

    >>> normaliser("window:40,400")(np.array([40.0]))
    array([0.5], dtype=float32)
    """
    if name == "percentiles":
        return scale_percentiles
    if name == "z-score":
        return scale_standard_deviations
    kind, _, numbers = name.partition(":")
    try:
        centre, width = (float(number) for number in numbers.split(","))
    except ValueError:
        kind, centre, width = "", 0.0, 1.0
    if kind != "window" or not math.isfinite(centre) or not 0 < width < math.inf:
        raise ValueError(
            "intensity is percentiles, z-score, or window:CENTRE,WIDTH in Hounsfield units such as "
            f"window:40,400, got {name!r:.80}"
        )
    return lambda voxels: scale_window(voxels, centre, width)


def scale_percentiles(voxels: Values, low: float = 0.5, high: float = 99.5) -> Float32[np.ndarray, "*grid"]:
    """The values between two percentiles of the volume become 0 to 1; what lies beyond is cut off.

    Args:
        voxels: of one channel.
        low: percentile that becomes 0.
        high: percentile that becomes 1.

    Raises:
        ValueError: if the percentiles are not in order, or a value is not finite.

    >>> scale_percentiles(np.arange(5.0), 25, 75)
    array([0. , 0. , 0.5, 1. , 1. ], dtype=float32)
    """
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles must be in 0..100 and in order, got {low} and {high}")
    bottom, top = np.percentile(_finite(voxels), (low, high))
    return _between(voxels, float(bottom), float(top))


def scale_window(voxels: Values, centre: float, width: float) -> Float32[np.ndarray, "*grid"]:
    """A window of Hounsfield units becomes 0 to 1; what lies beyond is cut off.

    Usual windows (centre, width): soft tissue (40, 400), lung (-600, 1500), bone (400, 1800), brain (40, 80).

    Raises:
        ValueError: if the width is not above 0, or a value is not finite.

    >>> scale_window(np.array([-1000.0, 40.0, 140.0, 3000.0]), 40, 400)
    array([0.  , 0.5 , 0.75, 1.  ], dtype=float32)
    """
    if not width > 0:
        raise ValueError(f"the width of a window must be above 0, got {width}")
    return _between(_finite(voxels), centre - width / 2, centre + width / 2)


def scale_standard_deviations(voxels: Values, limit: float = 3.0) -> Float32[np.ndarray, "*grid"]:
    """z-scores from -limit to limit become 0 to 1; what lies beyond is cut off.

    The mean becomes 0.5. A volume of one value becomes 0.5 everywhere.

    Raises:
        ValueError: if the limit is not above 0, or a value is not finite.

    >>> scale_standard_deviations(np.array([-1.0, 1.0]), 2)
    array([0.25, 0.75], dtype=float32)
    """
    if not limit > 0:
        raise ValueError(f"the limit must be above 0, got {limit}")
    mean, deviation = float(_finite(voxels).mean()), float(voxels.std())
    reach = limit * (deviation or 1.0)
    return _between(voxels, mean - reach, mean + reach)


def _between(voxels: Values, low: float, high: float) -> Float32[np.ndarray, "*grid"]:
    span = high - low if high > low else 1.0
    scaled = (voxels.astype(np.float32) - np.float32(low)) / np.float32(span)
    return np.clip(scaled, 0, 1, out=scaled)


def _finite(voxels: Values) -> Values:
    if not np.isfinite(voxels).all():
        raise ValueError("the volume holds values that are not finite")
    return voxels
