"""ISBI 2012: membranes between the cells of a stack of slices."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from ...data.dataset import Pair
from ...metrics import membrane_scores
from ...types import Annotation, ClassTable, LabelMap, Sample
from .kind import Rows


class Membranes:
    """V-Rand and V-Info after thinning, of each slice and then their mean."""

    def __init__(self, classes: ClassTable) -> None:
        self.classes = classes
        self.found: list[tuple[float, float]] = []

    def update(self, pair: Pair, sample: Sample, prediction: Annotation, sure: Callable[[], Tensor]) -> None:
        """Count a stack; see `Official`."""
        assert isinstance(prediction, LabelMap)
        assert isinstance(sample.target, LabelMap)
        slices = zip(prediction.labels.cpu() == 1, sample.target.labels.cpu() == 1, strict=True)
        self.found += [membrane_scores(cells, truth) for cells, truth in slices]

    def rows(self) -> Rows:
        """One row."""
        if not self.found:
            return {}
        v_rand, v_info = np.nanmean(self.found, 0).tolist()
        return {"cells": {"V-Rand": v_rand, "V-Info": v_info}}

    def remark(self) -> str:
        """Of which cells."""
        return (
            "Of the labels; the challenge takes the best of the thresholds 0, 0.1, ..., 1 of probabilities."
        )
