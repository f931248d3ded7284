"""Nuclei of the Data Science Bowl 2018 and of MoNuSeg."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from ...data.dataset import Pair
from ...rle import RleMasks
from ...types import Annotation, ClassTable, MaskSet, Sample
from .kind import Rows


class Nuclei:
    """Data Science Bowl 2018: TP / (TP + FP + FN) at IoU 0.5 to 0.95, mean over thresholds, then images."""

    thresholds = tuple(0.5 + 0.05 * i for i in range(10))

    def __init__(self, classes: ClassTable) -> None:
        self.images: list[list[float]] = []

    def update(self, pair: Pair, sample: Sample, prediction: Annotation, sure: Callable[[], Tensor]) -> None:
        """Count an image; see `Official`. An IoU above the threshold is a hit."""
        assert isinstance(prediction, MaskSet)
        assert isinstance(sample.target, MaskSet)
        iou = _runs(prediction).iou(_runs(sample.target))
        n, m = iou.shape
        row = []
        for threshold in self.thresholds:
            hits = _matched(iou > threshold)
            row.append(hits / (n + m - hits) if n + m else 1.0)
        self.images.append(row)

    def rows(self) -> Rows:
        """One row."""
        table = np.array(self.images)
        columns = {"mean": float(table.mean())}
        columns |= {f"at {t:.2f}": float(table[:, i].mean()) for i, t in enumerate(self.thresholds)}
        return {"precision": columns}

    def remark(self) -> str:
        """Nothing."""
        return ""


class TouchingNuclei:
    """MoNuSeg: aggregated Jaccard index and panoptic quality, means over the images.

    AJI (Kumar et al., IEEE TMI 2017, Algorithm 1): every true nucleus is joined with the object found that
    has the highest IoU with it, which may be joined with several; the intersections of these pairs over their
    unions and the areas of the objects that are joined with none. PQ: the IoU of pairs above 0.5 over the
    number of pairs and half of what is left over on both sides.
    """

    def __init__(self, classes: ClassTable) -> None:
        self.images: list[tuple[float, float]] = []

    def update(self, pair: Pair, sample: Sample, prediction: Annotation, sure: Callable[[], Tensor]) -> None:
        """Count an image; see `Official`."""
        assert isinstance(prediction, MaskSet)
        assert isinstance(sample.target, MaskSet)
        found, true = _runs(prediction), _runs(sample.target)
        iou = found.iou(true)
        n, m = iou.shape
        if not n or not m:
            self.images.append((float(n == m), float(n == m)))
            return
        joined, best = iou.argmax(0), iou.max(0)
        areas = found.area[joined] * (best > 0) + true.area
        common = best * areas / (1 + best)  # of IoU and both areas
        alone = np.setdiff1d(np.arange(n), joined[best > 0])
        aji = common.sum() / (areas.sum() - common.sum() + found.area[alone].sum())
        self.images.append((float(aji), float(2 * iou[iou > 0.5].sum() / (n + m))))

    def rows(self) -> Rows:
        """One row."""
        aji, pq = np.array(self.images).mean(0).tolist()
        return {"nuclei": {"AJI": aji, "PQ": pq}}

    def remark(self) -> str:
        """Nothing."""
        return ""


def _runs(objects: MaskSet) -> RleMasks:
    masks = objects.masks
    return masks if isinstance(masks, RleMasks) else RleMasks.encode(objects.dense.cpu().numpy())


def _matched(hits: Bool[np.ndarray, "n m"]) -> int:
    """The largest number of pairs in which nobody is twice."""
    from scipy.optimize import linear_sum_assignment

    if not hits.size:
        return 0
    rows, columns = linear_sum_assignment(~hits)
    return int(hits[rows, columns].sum())
