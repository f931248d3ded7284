"""Nuclei of the Data Science Bowl 2018."""

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
