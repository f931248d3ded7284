"""Eyes: vessels inside the field of view (DRIVE and its kin), lesions of IDRiD."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ...data.dataset import Pair
from ...data.formats.mask import read_mask_pixels
from ...metrics import PixelPrecisionRecall
from ...types import Annotation, ClassMasks, ClassTable, LabelMap, Sample
from ...wording import counted
from .kind import Rows

_BINS = 10_000  # of probabilities


class Vessels:
    """DRIVE and its kin: Dice, sensitivity, specificity, accuracy and area under the ROC curve of vessels.

    Only what lies in the field of view counts, where a file tells it: `mask/21_training_mask.gif` in the
    folder above the images. Pixels of all images together, as papers count, and the mean of images, as the
    challenge of DRIVE counts its Dice. Areas are those of probabilities in steps of 0.0001.
    """

    def __init__(self, classes: ClassTable) -> None:
        self.counts: list[Int64[np.ndarray, "2 2"]] = []
        self.curves: list[Int64[np.ndarray, "2 t"]] = []
        self.whole, self.graded = 0, False

    def update(self, pair: Pair, sample: Sample, prediction: Annotation, sure: Callable[[], Tensor]) -> None:
        """Count an image; see `Official`."""
        assert isinstance(prediction, LabelMap)
        assert isinstance(sample.target, LabelMap)
        target = sample.target.labels.cpu().numpy()
        seen = _field_of_view(pair.image, target.shape)
        if seen is None:
            self.whole += 1
            seen = np.ones(target.shape, bool)
        seen &= target <= 1
        truth, found = target[seen] == 1, prediction.labels.cpu().numpy()[seen] == 1
        self.counts.append(np.bincount(2 * truth + found, minlength=4).reshape(2, 2))
        probabilities = sure().cpu().float().numpy()[seen]
        self.graded |= bool(((probabilities > 0) & (probabilities < 1)).any())
        place = np.clip(probabilities * _BINS, 0, _BINS - 1).astype(np.int64)
        sides = [np.bincount(place[side], minlength=_BINS) for side in (~truth, truth)]
        self.curves.append(np.stack(sides))

    def rows(self) -> Rows:
        """Pixels of all images together, and the mean of images."""
        each = [self._scores(*both) for both in zip(self.counts, self.curves, strict=True)]
        return {
            "all pixels": self._scores(np.sum(self.counts, 0), np.sum(self.curves, 0)),
            "mean of images": {name: float(np.nanmean([one[name] for one in each])) for name in each[0]},
        }

    def _scores(self, counts: Int64[np.ndarray, "2 2"], curves: Int64[np.ndarray, "2 t"]) -> dict[str, float]:
        (tn, fp), (fn, tp) = counts.tolist()
        scores = {
            "Dice": _share(2 * tp, 2 * tp + fp + fn),
            "sensitivity": _share(tp, tp + fn),
            "specificity": _share(tn, tn + fp),
            "accuracy": _share(tp + tn, tp + tn + fp + fn),
        }
        return {**scores, "AUC": _area(curves)} if self.graded else scores

    def remark(self) -> str:
        """What the numbers lack."""
        told = []
        if self.whole:
            told.append(
                f"{counted(self.whole, 'image')} of {len(self.counts)} have no mask of the field of view "
                "(mask/NAME_mask.gif): all their pixels count."
            )
        if not self.graded:
            told.append(
                "There is no AUC, since the predictions are labels: save grey maps, or score a model."
            )
        return " ".join(told)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _area(curves: Int64[np.ndarray, "2 t"]) -> float:
    """Area under the ROC curve: how often a vessel has more than another pixel, equals counting half."""
    others, vessels = curves
    below = np.concatenate([[0], others.cumsum()[:-1]])
    pairs = int(others.sum()) * int(vessels.sum())
    return float((vessels * (below + others / 2)).sum() / pairs) if pairs else float("nan")


def _field_of_view(image: Path, size: tuple[int, ...]) -> Bool[np.ndarray, "H W"] | None:
    """What the camera saw; None where no file tells.

    Raises:
        ValueError: if the file is damaged or has another size than the image.
    """
    folder = image.parent.parent / "mask"
    for suffix in (".gif", ".tif", ".png"):
        path = folder / f"{image.stem}_mask{suffix}"
        if path.is_file():
            pixels = read_mask_pixels(path)
            seen = (pixels.max(-1) if pixels.ndim == 3 else pixels) > 0
            if seen.shape != size:
                raise ValueError(f"{path} has {seen.shape} pixels, its image {size}")
            return np.array(seen)
    return None


class RetinaLesions:
    """IDRiD: area under precision and recall of each lesion, over the pixels of all images, and IoU.

    IoU is the mean over the images that have the lesion, in truth or in prediction; IDRiD asks for it of the
    optic disc. The means are those of the lesions, without the disc.
    """

    def __init__(self, classes: ClassTable) -> None:
        self.classes, self.curves = classes, PixelPrecisionRecall(classes)
        self.ious: list[list[float]] = []
        self.without = 0

    def update(self, pair: Pair, sample: Sample, prediction: Annotation, sure: Callable[[], Tensor]) -> None:
        """Count an image; see `Official`."""
        assert isinstance(prediction, ClassMasks)
        assert isinstance(sample.target, ClassMasks)
        target = sample.target.masks.cpu()
        if prediction.probabilities is None:
            self.without += 1
        else:
            self.curves.update(prediction.probabilities.cpu().float().clamp(0, 1), target)
        claimed, true = (prediction.masks.cpu() == 1) & (target <= 1), target == 1
        both = (claimed & true).flatten(1).sum(1)
        either = (claimed | true).flatten(1).sum(1)
        self.ious.append((both / either).tolist())  # nan for what is nowhere

    def rows(self) -> Rows:
        """The classes, then the mean of the lesions."""
        table = torch.tensor(self.ious, dtype=torch.float64).nanmean(0).tolist()
        rows = {name: {"IoU": iou} for name, iou in zip(self.classes.names, table, strict=True)}
        if not self.without:
            areas = self.curves.compute().average_precision.tolist()
            rows = {name: {"AUPR": area, **rows[name]} for name, area in zip(rows, areas, strict=True)}
        lesions = [row for name, row in rows.items() if name != "optic disc"]
        means = {name: _mean([row[name] for row in lesions]) for name in lesions[0]}
        return {**rows, "mean of lesions": means}

    def remark(self) -> str:
        """What is missing, and how the area is counted."""
        if self.without:
            return "The area under precision and recall (AUPR) needs probabilities: score a model, no masks."
        return "AUPR is step-wise, of probabilities in steps of 0.001; the challenge took 33 thresholds."


def _mean(values: list[float]) -> float:
    known: Float[np.ndarray, " n"] = np.array([value for value in values if not np.isnan(value)])
    return float(known.mean()) if len(known) else float("nan")
