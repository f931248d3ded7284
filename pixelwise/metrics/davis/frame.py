"""Region similarity J and boundary accuracy F of masks in one frame (Perazzi et al., CVPR 2016, Sec. 5.1)."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int64, Integer, UInt64
from torch import Tensor

from ...kernels.boundaries.boundary_f import boundary_bits, count_near, disk_reach
from ...kernels.masks.panoptic import overlaps

VOID = 255
TOLERANCE = 0.008


def region_similarity(
    prediction: Bool[Tensor, "H W"], target: Bool[Tensor, "H W"], void: Bool[Tensor, "H W"] | None = None
) -> float:
    """J of one mask: intersection over union, 1 if both are empty; void pixels do not count.

    Raises:
        ValueError: if the shapes differ.

    >>> region_similarity(torch.tensor([[True, True]]), torch.tensor([[False, True]]))
    0.5
    """
    check_shapes(prediction, target)
    counted = torch.ones_like(target) if void is None else ~void
    union = int(((prediction | target) & counted).sum())
    return int((prediction & target & counted).sum()) / union if union else 1.0


def boundary_accuracy(
    prediction: Bool[Tensor, "H W"],
    target: Bool[Tensor, "H W"],
    void: Bool[Tensor, "H W"] | None = None,
    *,
    tolerance: float = TOLERANCE,
) -> float:
    """F of one mask; 1 if neither has a boundary, 0 if one of them has none.

    Args:
        prediction: the mask.
        target: the true one.
        void: pixels that both masks are taken to lack.
        tolerance: how far a boundary pixel may be off, as a fraction of the diagonal in [0, 1); rounded up to
            whole pixels.

    Raises:
        ValueError: if the shapes differ, or the tolerance is no fraction.

    >>> square = torch.zeros(9, 9, dtype=torch.bool)
    >>> square[2:6, 2:6] = True
    >>> lower = square.roll(1, 0)
    >>> boundary_accuracy(square, lower), boundary_accuracy(square, lower, tolerance=0.0)
    (1.0, 0.5)
    """
    check_shapes(prediction, target)
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must be a fraction of the diagonal in [0, 1), got {tolerance}")
    masks = [mask if void is None else mask & ~void for mask in (prediction, target)]
    bits = [boundary_bits(mask.cpu().numpy()) for mask in masks]
    return _f_of_boundaries(bits[0], bits[1], _reach(tuple(target.shape), tolerance))


def frame_scores(
    claim: Integer[np.ndarray, "H W"],
    truth: Integer[np.ndarray, "H W"],
    void: Bool[np.ndarray, "H W"] | None,
    pairs: Sequence[tuple[int, int]],
) -> tuple[list[float], list[float]]:
    """J and F of each pair of numbers (prediction, object) in a frame.

    Areas of all pairs are counted in one pass, and each boundary is found once.
    """
    area: Counter[tuple[str, int]] = Counter()
    shared: Counter[tuple[int, int]] = Counter()
    for t, p, pixels in overlaps(truth, claim).tolist():
        if void is None or t != VOID:
            area["p", p] += pixels
            area["t", t] += pixels
            shared[p, t] += pixels
    boundaries = {}
    for side, ids, numbers in (("p", claim, {p for p, _ in pairs}), ("t", truth, {t for _, t in pairs})):
        for number in numbers:
            mask = ids == number
            boundaries[side, number] = boundary_bits(mask if void is None else mask & ~void)
    reach = _reach(truth.shape, TOLERANCE)
    j, f = [], []
    for p, t in pairs:
        union = area["p", p] + area["t", t] - shared[p, t]
        j.append(shared[p, t] / union if union else 1.0)
        f.append(_f_of_boundaries(boundaries["p", p], boundaries["t", t], reach))
    return j, f


def _f_of_boundaries(
    prediction: UInt64[np.ndarray, "h words"],
    target: UInt64[np.ndarray, "h words"],
    reach: Int64[np.ndarray, " rows"],
) -> float:
    claimed, right = count_near(prediction, target, reach)
    true, found = count_near(target, prediction, reach)
    if not claimed and not true:
        return 1.0
    if not claimed or not true:  # precision or recall is 0
        return 0.0
    precision, recall = right / claimed, found / true
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _reach(shape: tuple[int, ...], tolerance: float) -> Int64[np.ndarray, " rows"]:
    return disk_reach(math.ceil(tolerance * float(np.linalg.norm(shape))))


def check_shapes(prediction: Tensor, target: Tensor, place: str = "") -> None:
    """Refuse what differs in shape; `place` ends the message."""
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction and target must have one shape, got {tuple(prediction.shape)} and "
            f"{tuple(target.shape)}{place}"
        )
