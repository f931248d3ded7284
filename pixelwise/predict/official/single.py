"""One object in an image: saliency, polyps, lesions of the skin."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from ...data.dataset import Pair
from ...metrics import SaliencyMetrics
from ...types import Annotation, ClassTable, LabelMap, Sample
from .kind import Rows


class Salient:
    """MAE, F-, S- and E-measure of probabilities."""

    def __init__(self, classes: ClassTable) -> None:
        self.metrics = SaliencyMetrics()

    def update(self, pair: Pair, sample: Sample, prediction: Annotation, sure: Callable[[], Tensor]) -> None:
        """Count an image; see `Official`."""
        assert isinstance(sample.target, LabelMap)
        self.metrics.update(sure().cpu().float().clamp(0, 1), sample.target.labels == 1, pair.id)

    def rows(self) -> Rows:
        """One row."""
        s = self.metrics.compute()
        return {
            "all images": {
                "MAE": s.mae,
                "max F": s.max_f,
                "mean F": s.mean_f,
                "adaptive F": s.adaptive_f,
                "S": s.s,
                "max E": s.max_e,
                "mean E": s.mean_e,
                "adaptive E": s.adaptive_e,
            }
        }

    def remark(self) -> str:
        """Nothing."""
        return ""


class PerImage:
    """Mean over the images of IoU and Dice of the second class, as polyps are scored."""

    def __init__(self, classes: ClassTable) -> None:
        self.ious: list[float] = []
        self.dices: list[float] = []

    def update(self, pair: Pair, sample: Sample, prediction: Annotation, sure: Callable[[], Tensor]) -> None:
        """Count an image; see `Official`."""
        assert isinstance(prediction, LabelMap)
        assert isinstance(sample.target, LabelMap)
        known = sample.target.labels <= 1
        claimed, true = (prediction.labels == 1) & known, sample.target.labels == 1
        both, either = int((claimed & true).sum()), int((claimed | true).sum())
        self.ious.append(both / either if either else 1.0)
        self.dices.append(2 * both / (both + either) if either else 1.0)

    def rows(self) -> Rows:
        """One row."""
        return {"mean of images": {"Dice": float(np.mean(self.dices)), "IoU": float(np.mean(self.ious))}}

    def remark(self) -> str:
        """Nothing."""
        return ""


class Lesions(PerImage):
    """ISIC 2018: the IoU of an image counts as 0 where it is below 0.65."""

    def rows(self) -> Rows:
        """One row."""
        counted_ious = [iou if iou >= 0.65 else 0.0 for iou in self.ious]
        return {
            "mean of images": {
                "threshold Jaccard": float(np.mean(counted_ious)),
                **super().rows()["mean of images"],
            }
        }
