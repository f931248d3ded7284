"""Non-maximum suppression beyond the greedy one: Soft-NMS, Fast NMS, Matrix NMS, NMS of masks.

The greedy rule for boxes is `non_maximum_suppression` in `boxes.py`. All functions here take the classes of
the objects and then compare only objects of one class; without classes all are compared with all. Of equal
scores the first counts as higher.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor

from ..rle import RleMasks
from .boxes import box_iou

Decay = Literal["linear", "gaussian"]


class Rescored(NamedTuple):
    """Objects after suppression, best first.

    Attributes:
        kept: their numbers.
        scores: what suppression left of their scores.
    """

    kept: Int64[Tensor, " kept"]
    scores: Float[Tensor, " kept"]


def soft_nms(
    boxes: Float[Tensor, "n 4"],
    scores: Float[Tensor, " n"],
    classes: Integer[Tensor, " n"] | None = None,
    *,
    decay: Decay = "gaussian",
    threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 0.001,
) -> Rescored:
    """Boxes that overlap a better one lose score instead of being dropped: Soft-NMS.

    Again and again the best remaining box M is taken, and each other one b has its score multiplied by
    1 - iou(M, b) where that IoU is at least `threshold` ("linear"), or by exp(-iou(M, b)² / sigma)
    ("gaussian"): Bodla et al. 2017, Soft-NMS -- Improving Object Detection With One Line of Code, Sec. 3,
    Algorithm 1 and the two equations after it.

    Args:
        boxes: x1 y1 x2 y2.
        scores: at least 0.
        classes: only boxes of one class are compared; all without it.
        decay: how scores fall with overlap.
        threshold: IoU from which the linear rule acts; the paper's 0.3.
        sigma: width of the Gaussian; the paper's 0.5.
        min_score: boxes that fall below it are dropped.

    Raises:
        ValueError: if there is no such decay, or `sigma` is not positive.

    >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0], [20.0, 0.0, 30.0, 10.0]])
    >>> soft_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), decay="linear")
    Rescored(kept=tensor([0, 2, 1]), scores=tensor([0.9000, 0.7000, 0.4000]))
    """
    _check(decay, sigma)
    iou = _of_one_class(box_iou(boxes, boxes), classes)
    factors = _decayed(iou, decay, sigma)
    if decay == "linear":
        factors = torch.where(iou >= threshold, factors, 1.0)
    left = scores.clone()
    kept, found = [], []
    for _ in range(len(scores)):
        best = int(left.argmax())
        score = left[best].clone()
        if score < min_score:
            break
        kept.append(best)
        found.append(score)
        left = left * factors[best]
        left[best] = -1
    index = torch.tensor(kept, dtype=torch.int64, device=boxes.device)
    return Rescored(index, torch.stack(found) if found else scores[:0])


def fast_nms(
    boxes: Float[Tensor, "n 4"],
    scores: Float[Tensor, " n"],
    classes: Integer[Tensor, " n"] | None = None,
    *,
    threshold: float = 0.5,
) -> Int64[Tensor, " kept"]:
    """Boxes that no better box overlaps by more than `threshold`, best first: Fast NMS.

    A box is dropped even where the better one is dropped itself, so one matrix of IoUs decides on all: that
    of boxes in order of score, above its diagonal, must have no column with a larger maximum (Bolya et al.
    2019, YOLACT, Sec. 5, Eq. 2). It keeps no box that the greedy rule drops.

    Args:
        boxes: x1 y1 x2 y2.
        scores: decide which of two boxes is better.
        classes: only boxes of one class are compared; all without it.
        threshold: largest IoU with a better box.

    >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [3.0, 0.0, 13.0, 10.0], [6.0, 0.0, 16.0, 10.0]])
    >>> fast_nms(boxes, torch.tensor([0.9, 0.8, 0.7]))  # the greedy rule would keep the last
    tensor([0])
    """
    order = scores.argsort(descending=True, stable=True)
    chosen = boxes[order]
    iou = _of_one_class(box_iou(chosen, chosen), None if classes is None else classes[order])
    return order[~(_with_better(iou) > threshold).any(0)]


def matrix_nms(
    masks: Bool[Tensor, "n h w"] | RleMasks,
    scores: Float[Tensor, " n"],
    classes: Integer[Tensor, " n"] | None = None,
    *,
    decay: Decay = "gaussian",
    sigma: float = 0.5,
) -> Float[Tensor, " n"]:
    """What is left of the score of each mask: Matrix NMS.

    The score of mask j is multiplied by min_i f(iou_ij) / f(iou_i), where i goes over the masks with higher
    scores, iou_i is the largest IoU of mask i with one above it, and f(x) = 1 - x ("linear") or
    exp(-x² / sigma) ("gaussian"): Wang et al. 2020, SOLOv2, Sec. 3.3, Eq. 4 and 5. It is Soft-NMS in
    one step: how likely mask i is itself suppressed is judged by its worst overlap.

    Args:
        masks: of one image, at any resolution.
        scores: in [0, 1].
        classes: only masks of one class are compared; all without it.
        decay: how scores fall with overlap.
        sigma: width of the Gaussian. The authors' code has exp(-2 x²), which is sigma = 0.5.

    Raises:
        ValueError: if there is no such decay, or `sigma` is not positive.

    >>> masks = torch.tensor([[[1, 1, 1, 1]], [[1, 1, 0, 0]]]).bool()
    >>> matrix_nms(masks, torch.tensor([0.8, 0.6]), decay="linear")
    tensor([0.8000, 0.3000])
    """
    _check(decay, sigma)
    if not len(scores):
        return scores.clone()
    order = scores.argsort(descending=True, stable=True)
    if isinstance(masks, RleMasks):
        chosen = masks[order.cpu().numpy()]
        iou = torch.from_numpy(chosen.iou(chosen)).to(scores)
    else:
        iou = mask_iou(masks[order]).to(scores.dtype)
    iou = _with_better(_of_one_class(iou, None if classes is None else classes[order]))
    of_better = iou.amax(0)[:, None]  # how much the mask of each row is itself overlapped
    if decay == "linear":
        ratio = (1 - iou) / (1 - of_better).clamp_min(torch.finfo(iou.dtype).tiny)
    else:
        ratio = ((of_better**2 - iou**2) / sigma).exp()
    below = torch.ones_like(iou).triu(diagonal=1) > 0
    factor = torch.where(below, ratio, 1.0).amin(0)
    return torch.empty_like(scores).scatter(0, order, scores[order] * factor)


def mask_nms(
    masks: RleMasks,
    scores: Float[Tensor, " n"],
    classes: Integer[Tensor, " n"] | None = None,
    *,
    threshold: float = 0.5,
) -> Int64[Tensor, " kept"]:
    """Masks that remain when each drops all worse ones whose IoU with it is above `threshold`, best first.

    The greedy rule of boxes (Felzenszwalb et al. 2010, Object Detection with Discriminatively Trained Part
    Based Models, Sec. 5) on masks, which tell objects apart whose boxes overlap. Run lengths are compared;
    no mask is drawn.

    Args:
        masks: of one image.
        scores: decide which of two masks is better.
        classes: only masks of one class are compared; all without it.
        threshold: largest IoU with a better mask that is kept.

    >>> masks = RleMasks.encode(np.array([[[1, 1, 0]], [[1, 1, 1]], [[0, 0, 1]]], bool))
    >>> mask_nms(masks, torch.tensor([0.5, 0.7, 0.6]))
    tensor([1, 2])
    """
    order = scores.argsort(descending=True, stable=True).cpu().numpy()
    groups = np.zeros(len(order), np.int64) if classes is None else classes.cpu().numpy()[order]
    found = []
    for group in np.unique(groups):
        places = np.flatnonzero(groups == group)
        found.append(places[masks[order[places]].non_maximum_suppression(threshold)])
    places = np.sort(np.concatenate(found)) if found else np.zeros(0, np.int64)
    return torch.from_numpy(order[places]).to(scores.device)


def mask_iou(masks: Bool[Tensor, "n h w"]) -> Float[Tensor, "n n"]:
    """Intersection over union of each mask with each other; 0 where both are empty.

    >>> mask_iou(torch.tensor([[[1, 1, 1, 1]], [[1, 1, 0, 0]]]).bool())
    tensor([[1.0000, 0.5000],
            [0.5000, 1.0000]])
    """
    inside = masks.flatten(1).float()
    shared, area = inside @ inside.T, inside.sum(1)
    return shared / (area[:, None] + area - shared).clamp_min(1)


def _check(decay: str, sigma: float) -> None:
    if decay not in ("linear", "gaussian"):
        raise ValueError(f"decay must be linear or gaussian, got {decay!r}")
    if not sigma > 0:
        raise ValueError(f"sigma must be above 0, got {sigma}")


def _decayed(iou: Float[Tensor, "n n"], decay: Decay, sigma: float) -> Float[Tensor, "n n"]:
    return 1 - iou if decay == "linear" else (-(iou**2) / sigma).exp()


def _of_one_class(iou: Float[Tensor, "n n"], classes: Integer[Tensor, " n"] | None) -> Float[Tensor, "n n"]:
    """0 between objects of different classes, and where boxes have no area."""
    iou = iou.nan_to_num(0.0)
    return iou if classes is None else torch.where(classes[:, None] == classes, iou, 0.0)


def _with_better(iou: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Of objects in falling order of score: the IoU of each (column) with those before it, 0 elsewhere."""
    return iou.triu(diagonal=1)
