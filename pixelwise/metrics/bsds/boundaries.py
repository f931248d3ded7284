"""The boundary benchmark of BSDS500 (Arbelaez et al., TPAMI 2011; Martin et al., TPAMI 2004).

A predicted map is cut at every threshold and thinned; its pixels are then matched one to one with those of
each annotator, at most 0.0075 of the image's diagonal apart:

    recall    = matched pixels of all annotators / all their pixels
    precision = predicted pixels that match some annotator / predicted pixels
    F         = 2 precision recall / (precision + recall)

summed over images before dividing. ODS is the best F at one threshold for all images, OIS that with the best
threshold of each image, AP the area under the curve.

The official tool restricts the assignment to edges that it draws with a generator seeded by the clock. It
loses up to some matches in a thousand by that and never gives the same figures twice: four official runs on
equal maps have ODS 0.70453 to 0.70463. Here the assignment is the exact optimum (0.70474 on these maps, the
same every time); all else is computed as there.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer
from torch import Tensor

from ...kernels.boundaries.bsds import match_boundaries
from ...kernels.boundaries.thinning import thin
from ..rows import RowMetric


class OperatingPoint(NamedTuple):
    """One point of the curve; `threshold` lies between two of those measured where F is larger there."""

    threshold: float
    recall: float
    precision: float
    f: float


class Annotations(NamedTuple):
    """What the annotators of one image drew."""

    segmentations: Int64[Tensor, "a h w"]
    boundaries: Bool[Tensor, "a h w"]


def read_annotations(path: str | Path) -> Annotations:
    """Read a `groundTruth` file of BSDS500 (MATLAB 5).

    Raises:
        ValueError: if the file holds no cell `groundTruth` with Segmentation and Boundaries.
    """
    from scipy.io import loadmat

    try:
        cells = loadmat(path)["groundTruth"].ravel()
        segmentations = [cell["Segmentation"][0, 0].astype(np.int64) for cell in cells]
        boundaries = [cell["Boundaries"][0, 0].astype(bool) for cell in cells]
    except (KeyError, IndexError, ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"a MATLAB 5 file with groundTruth is expected, got {path} ({type(error).__name__})"
        ) from error
    return Annotations(torch.from_numpy(np.stack(segmentations)), torch.from_numpy(np.stack(boundaries)))


def boundaries_of(segmentation: Integer[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """True where the label changes inside the square of a pixel and those to the right, below and diagonal.

    As the benchmark's `seg2bdry` with "imageSize" draws the boundaries of a segmentation.

    >>> boundaries_of(torch.tensor([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 3, 3]])).int().tolist()
    [[0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]
    """
    labels = segmentation
    down = torch.zeros(labels.shape, dtype=torch.bool, device=labels.device)
    right = torch.zeros_like(down)
    down[:-1] = labels[:-1] != labels[1:]
    right[:, :-1] = labels[:, :-1] != labels[:, 1:]
    edges = down | right
    edges[:-1] |= right[1:]
    edges[:, :-1] |= down[:, 1:]
    return edges


def boundary_counts(
    maps: Bool[Tensor, "t h w"],
    annotations: Bool[Tensor, "a h w"],
    *,
    max_distance: float = 0.0075,
    thinned: bool = True,
) -> Int64[Tensor, "t 4"]:
    """Matched and all pixels of the annotators, matched and all pixels of the prediction, of each map.

    Args:
        maps: predicted boundaries of one image, one map per threshold.
        annotations: boundaries of the same image, one map per annotator.
        max_distance: how far partners may be apart, as a fraction of the image's diagonal.
        thinned: whether the maps are thinned first.

    Raises:
        ValueError: if the sizes differ, there is no annotator, or the distance is negative.
    """
    if annotations.dtype != torch.bool:
        raise ValueError(f"annotations must be masks (bool), got {annotations.dtype}")
    if maps.shape[1:] != annotations.shape[1:] or not len(annotations):
        raise ValueError(
            f"maps and annotations, at least one of each and of one size, are expected, got "
            f"{tuple(maps.shape)} and {tuple(annotations.shape)}"
        )
    reach = max_distance * float(np.hypot(*maps.shape[1:]))
    drawn = annotations.detach().cpu().numpy()
    counts, known = torch.zeros(len(maps), 4, dtype=torch.long), None
    for t, predicted in enumerate(maps.detach().cpu().numpy()):
        if known is not None and np.array_equal(predicted, known):
            counts[t] = counts[t - 1]
            continue
        known = predicted
        lines = thin(predicted) if thinned else predicted
        accepted, found = np.zeros(lines.shape, bool), 0
        for one in drawn:
            matched, matched_annotation = match_boundaries(lines, one, reach)
            accepted |= matched
            found += int(matched_annotation.sum())
        counts[t] = torch.tensor([found, int(drawn.sum()), int(accepted.sum()), int(lines.sum())])
    return counts


class BoundaryScores:
    """What the counts of all images and thresholds tell.

    Args:
        counts: of each image and threshold, as `boundary_counts` gives them.
        thresholds: rising.

    >>> counts = torch.tensor([[[8, 10, 5, 10], [4, 10, 4, 4]]])
    >>> scores = BoundaryScores(counts, torch.tensor([0.25, 0.75]).double())
    >>> round(scores.ods.threshold, 2), round(scores.ods.f, 4), round(scores.ois.f, 4)
    (0.46, 0.6687, 0.6154)
    """

    counts: Int64[Tensor, "n t 4"]
    thresholds: Float64[Tensor, " t"]

    def __init__(self, counts: Int64[Tensor, "n t 4"], thresholds: Float64[Tensor, " t"]) -> None:
        self.counts, self.thresholds = counts.cpu(), thresholds.cpu()

    @property
    def curve(self) -> Float64[Tensor, "t 3"]:
        """Recall, precision and F of all images at each threshold."""
        return _curve(self.counts.sum(0))

    @property
    def ods(self) -> OperatingPoint:
        """Optimal data set scale: the best F at one threshold, looked for between the thresholds, too."""
        return _best_between(self.thresholds, self.curve)

    @property
    def images(self) -> list[OperatingPoint]:
        """The best point of each image, looked for as for ODS."""
        return [_best_between(self.thresholds, _curve(counts)) for counts in self.counts]

    @property
    def ois(self) -> OperatingPoint:
        """Optimal image scale: each image at its best threshold; `threshold` is nan."""
        best = [counts[int(_curve(counts)[:, 2].argmax())] for counts in self.counts]
        total = torch.stack(best).sum(0) if best else torch.zeros(4, dtype=torch.long)
        recall, precision, f = _curve(total[None])[0].tolist()
        return OperatingPoint(float("nan"), recall, precision, f)

    @property
    def average_precision(self) -> float:
        """Area under the curve of precision over recall, by a hundred steps of recall (0 beyond its ends).

        Of several thresholds with one recall the highest counts.
        """
        recall, precision, _ = (column.numpy()[::-1] for column in self.curve.T)
        levels, first = np.unique(recall, return_index=True)
        if len(levels) < 2:
            return 0.0
        steps = np.linspace(0, 1, 101)
        return float(np.interp(steps, levels, precision[first], left=0, right=0).sum() * 0.01)

    def __repr__(self) -> str:
        return (
            f"BoundaryScores(ODS {self.ods.f:.4f}, OIS {self.ois.f:.4f}, AP {self.average_precision:.4f}, "
            f"{len(self.counts)} images)"
        )


class BoundaryBenchmark(RowMetric):
    """Boundary F of probability maps, accumulated over images.

    Args:
        num_thresholds: n; the thresholds are 1 / (n + 1), ..., n / (n + 1).
        max_distance: how far partners may be apart, as a fraction of the image's diagonal.

    Raises:
        ValueError: if there is no threshold, or the distance is negative.

    >>> benchmark = BoundaryBenchmark(num_thresholds=5)
    >>> drawn = torch.zeros(2, 30, 40, dtype=torch.bool)
    >>> drawn[:, 15], drawn[1, 16] = True, False
    >>> benchmark.update(0.7 * drawn[0].float(), drawn)
    >>> benchmark.compute().ods.f
    1.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    counts: list[Tensor]

    def __init__(self, num_thresholds: int = 99, max_distance: float = 0.0075) -> None:
        super().__init__()
        if num_thresholds < 1:
            raise ValueError(f"at least one threshold is expected, got {num_thresholds}")
        if not max_distance >= 0:
            raise ValueError(f"a distance of at least 0 is expected, got {max_distance}")
        self.max_distance = max_distance
        self.thresholds = benchmark_thresholds(num_thresholds)
        self.add_rows("counts", num_thresholds, 4, dtype=torch.int64)

    def update(self, probability: Float[Tensor, "h w"], annotations: Bool[Tensor, "a h w"]) -> None:
        """Match one image.

        Args:
            probability: of a boundary, in [0, 1].
            annotations: boundaries, one map per annotator.

        Raises:
            ValueError: as `boundary_counts`.
        """
        if not probability.is_floating_point() or probability.ndim != 2 or not probability.numel():
            raise ValueError(
                f"probability must be one map (h, w) of numbers in [0, 1], got {probability.dtype} of shape "
                f"{tuple(probability.shape)}"
            )
        maps = probability.detach().cpu().double()[None] >= self.thresholds[:, None, None]
        counts = boundary_counts(maps, annotations, max_distance=self.max_distance)
        self.counts.append(counts[None].to(self.device))

    def compute(self) -> BoundaryScores:
        """Scores of everything seen by all processes."""
        return BoundaryScores(self.rows("counts"), self.thresholds)


def benchmark_thresholds(count: int) -> Float64[Tensor, " t"]:
    """Where the benchmark cuts values of [0, 1].

    >>> benchmark_thresholds(3).tolist()
    [0.25, 0.5, 0.75]
    """
    return torch.from_numpy(np.linspace(1 / (count + 1), 1 - 1 / (count + 1), count))


def _curve(counts: Int64[Tensor, "t 4"]) -> Float64[Tensor, "t 3"]:
    found, drawn, accepted, predicted = counts.double().T
    recall, precision = found / drawn.clamp_min(1), accepted / predicted.clamp_min(1)
    return torch.stack([recall, precision, _f(recall, precision)], 1)


def _f(recall: Float64[Tensor, " n"], precision: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    both = recall + precision
    return 2 * precision * recall / torch.where(both == 0, 1.0, both)


def _best_between(thresholds: Float64[Tensor, " t"], curve: Float64[Tensor, "t 3"]) -> OperatingPoint:
    """The best F on the lines between neighbouring points, at a hundred places of each."""
    points = torch.cat([thresholds[:, None], curve[:, :2]], 1)
    share = torch.from_numpy(np.linspace(0, 1, 100))[:, None]
    between = [points[i] * share + points[i - 1] * (1 - share) for i in range(1, len(points))]
    places = torch.cat([points[:1], *between])
    f = _f(places[:, 1], places[:, 2])
    best = int(f.argmax())
    threshold, recall, precision = places[best].tolist()
    return OperatingPoint(threshold, recall, precision, float(f[best]))
