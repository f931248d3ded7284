"""Scores of salient object detection: a map in [0, 1] against one mask.

MAE: mean absolute difference. F-measure with beta^2 = 0.3 (Achanta et al., CVPR 2009), E-measure (Fan et
al., IJCAI 2018): at each of 256 thresholds, means over images; the largest of them and their mean, and at the
threshold of each image that is twice its mean ("adaptive"). S-measure with alpha = 0.5 (Fan et al., ICCV
2017): half the likeness of the objects, half that of four regions around the object's centre.

As in the authors' programs, the sum of an E-measure is divided by one pixel less than there are, so that a
perfect map of n pixels scores n / (n - 1); a map is stretched to [0, 1] first; and an image without any
salient pixel has an F of 0.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from .rows import RowMetric

BETA2 = 0.3
_LEVELS = 256
_EPS = np.spacing(1)


class SaliencyScores(NamedTuple):
    """Means over the images, in [0, 1]; higher is better but for `mae`.

    Attributes:
        mae: mean absolute error.
        max_f: largest F-measure over thresholds.
        mean_f: its mean over thresholds.
        adaptive_f: at each image's own threshold.
        s: S-measure.
        max_e: largest E-measure over thresholds.
        mean_e: its mean over thresholds.
        adaptive_e: at each image's own threshold.
    """

    mae: float
    max_f: float
    mean_f: float
    adaptive_f: float
    s: float
    max_e: float
    mean_e: float
    adaptive_e: float


class SaliencyMetrics(RowMetric):
    """MAE, F-, S- and E-measure over everything seen by all processes, each image counting alike.

    >>> target = torch.zeros(8, 8, dtype=torch.bool)
    >>> target[2:6, 2:5] = True
    >>> metrics = SaliencyMetrics()
    >>> metrics.update(target.float(), target)
    >>> scores = metrics.compute()
    >>> round(scores.mae, 4), round(scores.max_f, 4), round(scores.s, 4)
    (0.0, 1.0, 1.0)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    single: list[Tensor]
    curves: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_rows("single", 4, dtype=torch.float64)  # MAE, S, adaptive F and E
        self.add_rows("curves", 2, _LEVELS, dtype=torch.float64)  # F and E at each threshold

    def update(self, saliency: Float[Tensor, "H W"], target: Bool[Tensor, "H W"], where: str = "") -> None:
        """Count one image.

        Args:
            saliency: how sure each pixel is of the object, in [0, 1].
            target: the pixels of the object.
            where: name of the image, for the message of an error.

        Raises:
            ValueError: if shapes or types differ, there is no pixel, or a value is outside [0, 1].
        """
        place = f" in {where}" if where else ""
        if saliency.shape != target.shape or saliency.ndim != 2 or not saliency.numel():
            raise ValueError(
                f"saliency and target must be maps (H, W) of one shape, got {tuple(saliency.shape)} and "
                f"{tuple(target.shape)}{place}"
            )
        if not saliency.is_floating_point() or target.dtype != torch.bool:
            raise ValueError(
                f"saliency must be floating point and target bool, got {saliency.dtype} and "
                f"{target.dtype}{place}"
            )
        values, truth = saliency.detach().cpu().numpy().astype(np.float64), target.cpu().numpy()
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"saliency must lie in [0, 1], got {values.min():g} to {values.max():g}{place}")
        values = _stretched(values)
        threshold = min(2 * values.mean(), 1.0)
        above = values >= threshold
        f, e = _curves(values, truth)
        own = [np.abs(values - truth).mean(), s_measure(values, truth), *_f_and_e(above, truth)]
        self.single.append(torch.tensor([own], dtype=torch.float64, device=self.device))
        self.curves.append(torch.from_numpy(np.stack([f, e])[None]).to(self.device))

    def compute(self) -> SaliencyScores:
        """Scores of everything seen by all processes; nan without any image."""
        mae, s, adaptive_f, adaptive_e = self.rows("single").mean(0).tolist()
        f, e = self.rows("curves").mean(0)
        return SaliencyScores(
            mae, float(f.max()), float(f.mean()), adaptive_f, s, float(e.max()), float(e.mean()), adaptive_e
        )


def s_measure(saliency: Float64[np.ndarray, "H W"], target: Bool[np.ndarray, "H W"]) -> float:
    """How like a map is to a mask in structure, in [0, 1].

    >>> mask = np.zeros((6, 6), bool)
    >>> mask[1:4, 2:5] = True
    >>> round(s_measure(mask.astype(float), mask), 4), round(s_measure(np.zeros((6, 6)), mask), 4)
    (1.0, 0.375)
    """
    share = target.mean()
    if share == 0:
        return float(1 - saliency.mean())
    if share == 1:
        return float(saliency.mean())
    inside, outside = _likeness(saliency[target]), _likeness(1 - saliency[~target])
    objects = share * inside + (1 - share) * outside
    return float(max(0.5 * objects + 0.5 * _regions(saliency, target), 0.0))


def _likeness(values: Float64[np.ndarray, " n"]) -> float:
    """Of values that should all be 1: high where they are, and are alike."""
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    mean = values.mean()
    return float(2 * mean / (mean**2 + 1 + deviation + _EPS))


def _regions(saliency: Float64[np.ndarray, "H W"], target: Bool[np.ndarray, "H W"]) -> float:
    """Structural similarity of the four regions around the centre of the mask, weighted by their size."""
    rows, columns = np.nonzero(target)
    y, x = int(np.round(rows.mean())) + 1, int(np.round(columns.mean())) + 1
    found = 0.0
    for above in (slice(None, y), slice(y, None)):
        for left in (slice(None, x), slice(x, None)):
            part, truth = saliency[above, left], target[above, left]
            if part.size:
                found += part.size / saliency.size * _similarity(part, truth.astype(np.float64))
    return found


def _similarity(a: Float64[np.ndarray, "h w"], b: Float64[np.ndarray, "h w"]) -> float:
    """Means, deviations and correlation of two maps, 1 where they are equal."""
    degrees = max(a.size - 1, 1)
    mean_a, mean_b = a.mean(), b.mean()
    variances = (((a - mean_a) ** 2).sum() + ((b - mean_b) ** 2).sum()) / degrees
    covariance = ((a - mean_a) * (b - mean_b)).sum() / degrees
    above, below = 4 * mean_a * mean_b * covariance, (mean_a**2 + mean_b**2) * variances
    if above != 0:
        return float(above / (below + _EPS))
    return 1.0 if below == 0 else 0.0


def _stretched(values: Float64[np.ndarray, "H W"]) -> Float64[np.ndarray, "H W"]:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else values


def _curves(
    values: Float64[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"]
) -> tuple[Float64[np.ndarray, "256"], Float64[np.ndarray, "256"]]:
    """F and E at each threshold 0, 1/255, ..., 1."""
    levels = (values * (_LEVELS - 1)).astype(np.int64)
    counts = [np.bincount(levels[mask], minlength=_LEVELS) for mask in (truth, ~truth)]
    true, false = (count[::-1].cumsum()[::-1].astype(np.float64) for count in counts)
    return _f(true, false, truth), _e(true, false, truth)


def _f_and_e(above: Bool[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"]) -> tuple[float, float]:
    true = np.array([float((above & truth).sum())])
    false = np.array([float((above & ~truth).sum())])
    return float(_f(true, false, truth)[0]), float(_e(true, false, truth)[0])


def _f(
    true: Float64[np.ndarray, " t"], false: Float64[np.ndarray, " t"], truth: Bool[np.ndarray, "H W"]
) -> Float64[np.ndarray, " t"]:
    """F-measure of masks with so many right and wrong pixels."""
    precision = true / np.maximum(true + false, 1)
    recall = true / max(int(truth.sum()), 1)
    below = BETA2 * precision + recall
    return (1 + BETA2) * precision * recall / np.where(below == 0, 1, below)


def _e(
    true: Float64[np.ndarray, " t"], false: Float64[np.ndarray, " t"], truth: Bool[np.ndarray, "H W"]
) -> Float64[np.ndarray, " t"]:
    """E-measure of masks with so many right and wrong pixels.

    A pixel is worth (align + 1)^2 / 4, where align = 2ab / (a^2 + b^2) and a, b are what prediction and
    target have more than their means. There are four kinds of pixels, so they are counted, not looked at.
    """
    size, positives = truth.size, int(truth.sum())
    if positives == 0:
        worth = size - false
    elif positives == size:
        worth = true
    else:
        mean, share = (true + false) / size, positives / size
        missed, rejected = positives - true, size - positives - false
        worth = np.zeros_like(true)
        for count, in_prediction, in_target in (
            (true, 1, 1),
            (false, 1, 0),
            (missed, 0, 1),
            (rejected, 0, 0),
        ):
            a, b = in_prediction - mean, in_target - share
            align = 2 * a * b / (a**2 + b**2 + _EPS)
            worth = worth + count * (align + 1) ** 2 / 4
    return worth / (size - 1 + _EPS)
