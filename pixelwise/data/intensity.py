"""From what a scanner measures to values in [0, 1], which is what models take.

CT measures in Hounsfield units, the same on every scanner: a window of them is cut out. MR has no unit: each
volume is scaled by its own percentiles, or by its own mean and standard deviation. Rasters of 16 bits and of
floating-point numbers hold reflectances, heights or counts of photons: they can be scaled in the same ways.
"""

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from jaxtyping import Float32, Shaped

Values = Shaped[np.ndarray, "*grid"]
Normalise = Callable[[Values], Float32[np.ndarray, "*grid"]]
Bounds = Callable[[Values], tuple[float, float]]
PERCENTILES = "percentiles"  # of volumes; of pictures, only where their type has no range of its own


def scaled(name: str) -> bool:
    """Whether a setting scales pictures of every type, those of 8 bits too."""
    return name != PERCENTILES


def normaliser(name: str) -> Normalise:
    """The function that a setting names; see `bounds_of`.

    Raises:
        ValueError: if the text is none of these.

    >>> normaliser("window:40,400")(np.array([40.0]))
    array([0.5], dtype=float32)
    """
    bounds = bounds_of(name)
    return lambda values: _between(values, *bounds(_finite(values)))


def bounds_of(name: str) -> Bounds:
    """The function that gives the values that become 0 and 1, by the name of a setting.

    "percentiles" takes the 0.5th and the 99.5th, "percentiles:LOW,HIGH" others, "min-max" the smallest and
    the largest value, "z-score" three standard deviations around the mean. "window:CENTRE,WIDTH" and
    "range:LOW,HIGH" are the same for all images.

    Raises:
        ValueError: if the text is none of these.

    >>> bounds_of("range:0,10000")(np.array([7]))
    (0.0, 10000.0)
    """
    plain: Mapping[str, Bounds] = {
        PERCENTILES: _percentiles,
        "min-max": lambda values: (float(values.min()), float(values.max())),
        "z-score": _standard_deviations,
    }
    if name in plain:
        return plain[name]
    kind, _, numbers = name.partition(":")
    try:
        one, two = (float(number) for number in numbers.split(","))
    except ValueError:
        kind, one, two = "", 0.0, 1.0
    if kind == "percentiles" and 0 <= one < two <= 100:
        return lambda values: _percentiles(values, one, two)
    if kind == "window" and math.isfinite(one) and 0 < two < math.inf:
        return lambda values: (one - two / 2, one + two / 2)
    if kind == "range" and -math.inf < one < two < math.inf:
        return lambda values: (one, two)
    raise ValueError(
        "intensity is percentiles, z-score, or window:CENTRE,WIDTH in Hounsfield units such as "
        "window:40,400, or min-max, percentiles:LOW,HIGH such as percentiles:2,98, or range:LOW,HIGH "
        f"such as range:0,10000, got {name!r:.80}"
    )


def limits_of_bands(
    name: str, bands: Iterable[Values]
) -> tuple[Float32[np.ndarray, "c"], Float32[np.ndarray, "c"]]:
    """The values of each band that become 0 and 1, by the name of a setting; see `bounds_of`.

    >>> limits_of_bands("min-max", np.array([[0.0, 4.0], [2.0, 3.0]]))
    (array([0., 2.], dtype=float32), array([4., 3.], dtype=float32))
    """
    bounds = bounds_of(name)
    low, high = np.array([bounds(band) for band in bands], np.float32).T
    return low, high


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
    return _between(voxels, *_percentiles(_finite(voxels), low, high))


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
    return _between(voxels, *_standard_deviations(_finite(voxels), limit))


def _percentiles(values: Values, low: float = 0.5, high: float = 99.5) -> tuple[float, float]:
    bottom, top = np.percentile(values, (low, high))
    return float(bottom), float(top)


def _standard_deviations(values: Values, limit: float = 3.0) -> tuple[float, float]:
    mean, deviation = float(values.mean()), float(values.std())
    reach = limit * (deviation or 1.0)
    return mean - reach, mean + reach


def _between(voxels: Values, low: float, high: float) -> Float32[np.ndarray, "*grid"]:
    span = high - low if high > low else 1.0
    scaled = (voxels.astype(np.float32) - np.float32(low)) / np.float32(span)
    return np.clip(scaled, 0, 1, out=scaled)


def _finite(voxels: Values) -> Values:
    if not np.isfinite(voxels).all():
        raise ValueError("the volume holds values that are not finite")
    return voxels.astype(np.uint8) if voxels.dtype == np.bool_ else voxels  # NumPy subtracts no booleans
