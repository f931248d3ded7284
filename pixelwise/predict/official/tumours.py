"""BraTS."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...data.dataset import Pair
from ...metrics import surface_distances, volumetric_dice
from ...types import Annotation, ClassTable, LabelMap, Sample
from .kind import Rows


class Tumours:
    """BraTS: Dice and HD95 of the whole tumour, its core, and what enhances, which lie in each other.

    What neither side has scores a Dice of 1 and 0 mm; what one side has alone, 0 and 373.13 mm, the diagonal
    of a case.
    """

    def __init__(self, classes: ClassTable) -> None:
        self.regions = tumour_regions(classes)
        self.found: list[dict[str, tuple[float, float]]] = []

    def update(self, pair: Pair, sample: Sample, prediction: Annotation, sure: Callable[[], Tensor]) -> None:
        """Count a case; see `Official`."""
        assert isinstance(prediction, LabelMap)
        assert isinstance(sample.target, LabelMap)
        if not self.regions or not _is_brats(pair.image):
            return
        scores = {}
        for name, labels in self.regions.items():
            a, b = (torch.isin(one.labels, torch.tensor(labels)) for one in (prediction, sample.target))
            if not a.any() and not b.any():
                scores[name] = 1.0, 0.0
            elif not a.any() or not b.any():
                scores[name] = 0.0, _DIAGONAL
            else:
                distances = surface_distances(a, b, spacing=sample.spacing)
                scores[name] = volumetric_dice(a, b), distances.hausdorff(95.0)
        self.found.append(scores)

    def rows(self) -> Rows:
        """The three regions."""
        if not self.found:
            return {}
        return {
            name: {
                "Dice": float(np.mean([case[name][0] for case in self.found])),
                "HD95 mm": float(np.mean([case[name][1] for case in self.found])),
            }
            for name in self.regions
        }

    def remark(self) -> str:
        """Nothing."""
        return ""


_DIAGONAL = 373.1287  # mm, of 240 x 240 x 155 voxels of 1 mm: what the organisers take


def tumour_regions(classes: ClassTable) -> Mapping[str, Sequence[int]]:
    """The labels of the regions of BraTS: by the names of the classes, or else by their numbers.

    Labels are 1 necrosis and what does not enhance, 2 oedema, 4 (from 2023 on 3) what enhances; the copy
    in the Medical Segmentation Decathlon has another order, and names.

    >>> tumour_regions(ClassTable.of("background", "edema", "non-enhancing tumor", "enhancing tumour"))
    {'whole tumour': (1, 2, 3), 'tumour core': (2, 3), 'enhancing tumour': (3,)}
    """
    names = [name.lower() for name in classes.names]
    every = tuple(range(1, len(names)))
    swelling = {i for i, name in enumerate(names) if "edema" in name or "oedema" in name}
    enhancing = {i for i, name in enumerate(names) if name.startswith("enhanc")}
    if not (swelling and enhancing):
        if len(names) not in (4, 5):
            return {}
        swelling, enhancing = {2}, {len(names) - 1}
    core = tuple(i for i in every if i not in swelling)
    return {"whole tumour": every, "tumour core": core, "enhancing tumour": tuple(sorted(enhancing))}


def _is_brats(image: Path) -> bool:
    return "brats" in image.as_posix().lower() or "BrainTumour" in image.as_posix()
