"""What a score must beat: predictions that look at no image, or at hardly more than its brightness."""

import math
import warnings
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from jaxtyping import Int64
from skimage.filters import threshold_otsu
from torch import Tensor

from ..data import SegmentationData
from ..tasks import Settings, Task
from ..types import Annotation, ClassMasks, ClassTable, LabelMap, Sample

_MOST = 200  # annotations of the training part that are read
_MOST_IMAGES = 40  # images of it, to learn whether bright is class 1
_CELLS = {2: 32, 3: 16}  # along each axis, by the number of axes

Guess = Callable[[Sample], Annotation]


def baseline_scores(
    train: SegmentationData, data: SegmentationData, task: Task, settings: Settings | None = None
) -> dict[str, float]:
    """The primary score of trivial predictions of `data`, by what they predict.

    One class per pixel: the commonest class of the training part everywhere, the commonest at each place,
    and of two classes Otsu's threshold. Several classes per pixel: every class everywhere, and at each place
    those that are mostly there. Of other tasks there is none.

    Args:
        train: what the guesses are made from.
        data: what is scored; each of its images has an annotation.
        task: says by which score.
        settings: of the scores; None for the task's own.

    Raises:
        ValueError: if a file cannot be read.
    """
    guesses = _guesses(train, task)
    if not guesses:
        return {}
    settings = task.scoring if settings is None else settings
    scores = {name: task.metrics(data.classes, settings) for name in guesses}
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a guess may have nothing that counts
        for sample in data:
            assert sample.target is not None
            for name, guess in guesses.items():
                scores[name].update([guess(sample)], [sample.target], [sample.id])
        for name, metrics in scores.items():
            score = float(metrics.compute()[task.monitor])
            if not math.isnan(score):
                found[name] = score
    return found


def _guesses(train: SegmentationData, task: Task) -> dict[str, Guess]:
    step = -(-len(train) // _MOST)
    known = [i for i in range(0, len(train), max(1, step)) if train.pairs[i].mask is not None]
    if not known or task.annotation not in (LabelMap, ClassMasks):
        return {}
    targets = (train.target(i) for i in known)
    if task.annotation is ClassMasks:
        shares = _counts(targets, train.classes)
        there = (shares[..., 1::2] > shares[..., 0::2]).long().movedim(-1, 0)
        return {
            "every class everywhere": _everything,
            "what is mostly there at each place": partial(_masks_by_place, there),
        }
    counts = _counts(targets, train.classes)
    commonest = int(counts.flatten(0, -2).sum(0).argmax())
    places = torch.where(counts.sum(-1) > 0, counts.argmax(-1), commonest)
    guesses: dict[str, Guess] = {
        "commonest class": partial(_everywhere, commonest),
        "commonest class at each place": partial(_by_place, places),
    }
    if len(train.classes) == 2:
        looked_at = known[:: -(-len(known) // _MOST_IMAGES)]
        guesses["Otsu's threshold"] = partial(_otsu, _bright_class(train, looked_at))
    return guesses


def _counts(targets: Iterable[Annotation], classes: ClassTable) -> Int64[Tensor, "*cells n"]:
    """How often each class was at each place; of several classes per pixel, how often not and how often."""
    total: Tensor | None = None
    for target in targets:
        if isinstance(target, ClassMasks):
            columns, layers = 2 * len(classes), [(2 * k, mask) for k, mask in enumerate(target.masks)]
        else:
            assert isinstance(target, LabelMap)
            columns, layers = len(classes), [(0, target.labels)]
        grid = tuple(layers[0][1].shape)
        cells = (_CELLS[len(grid)],) * len(grid)
        if total is None:
            total = torch.zeros(math.prod(cells) * columns, dtype=torch.int64)
        place = torch.arange(math.prod(cells)).reshape(cells)[_cells_of(grid)]
        for first, labels in layers:
            known = labels != classes.ignore
            total += torch.bincount(
                place[known] * columns + first + labels[known].long(), minlength=len(total)
            )
    assert total is not None
    return total.reshape(*cells, columns)


def _cells_of(grid: tuple[int, ...]) -> tuple[Tensor, ...]:
    """For each axis, the cell of every pixel."""
    axes = [torch.arange(side) * _CELLS[len(grid)] // side for side in grid]
    return torch.meshgrid(*axes, indexing="ij")


def _everywhere(label: int, sample: Sample) -> LabelMap:
    return LabelMap(torch.full(sample.image.shape[1:], label), sample.spacing)


def _by_place(places: Int64[Tensor, "*cells"], sample: Sample) -> LabelMap:
    return LabelMap(places[_cells_of(tuple(sample.image.shape[1:]))], sample.spacing)


def _otsu(bright: int, sample: Sample) -> LabelMap:
    """Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 1979."""
    grey = sample.image.float().mean(0).numpy()
    above = torch.from_numpy(grey > threshold_otsu(grey)) if np.ptp(grey) > 0 else torch.zeros(grey.shape)
    return LabelMap((above.bool() == bool(bright)).long(), sample.spacing)


def _bright_class(train: SegmentationData, indices: list[int]) -> int:
    """Which of two classes lies above the threshold more often than not."""
    right = counted = 0
    for i in indices:
        sample = train[i]
        assert isinstance(sample.target, LabelMap)
        known = sample.target.labels != train.classes.ignore
        right += int((_otsu(1, sample).labels == sample.target.labels)[known].sum())
        counted += int(known.sum())
    return int(2 * right >= counted)


def _everything(sample: Sample) -> ClassMasks:
    assert isinstance(sample.target, ClassMasks)
    return ClassMasks(torch.ones_like(sample.target.masks))


def _masks_by_place(there: Int64[Tensor, "k *cells"], sample: Sample) -> ClassMasks:
    cells = _cells_of(tuple(sample.image.shape[1:]))
    return ClassMasks(torch.stack([mask[cells] for mask in there]))
