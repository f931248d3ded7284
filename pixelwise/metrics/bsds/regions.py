"""The region benchmark of BSDS500 (Arbelaez et al., TPAMI 2011, Sec. 2.3): covering, Rand index, information.

Covering of an annotator's regions R by a segmentation S (Eq. 10), Rand index, and variation of information:

    C  = sum over R of |R| max over S of |R and S| / |R or S|, over sum of |R|
    RI = share of the pairs of pixels that both keep together or both keep apart (mean over annotators)
    VI = H(S) + H(R) - 2 I(S, R) in bits (mean over annotators); 0 is best

Each at one scale for all images (ODS), at the best scale of each image (OIS), and covering with the best
scale of each region (best).
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Integer
from torch import Tensor

from ...kernels.masks.components import label_components
from ..checked import checked_labels
from ..rows import RowMetric


class RegionCounts(NamedTuple):
    """What one image tells, of each scale.

    Attributes:
        covered: sum of |R| times the best overlap, over all regions of all annotators.
        size: sum of |R|, the same for every scale.
        best_covered: the sum of |R| times the best overlap over all scales.
        rand_index: mean over annotators.
        variation: of information, mean over annotators.
    """

    covered: Float64[Tensor, " t"]
    size: float
    best_covered: float
    rand_index: Float64[Tensor, " t"]
    variation: Float64[Tensor, " t"]


def region_counts(
    segmentations: Integer[Tensor, "t h w"], annotations: Integer[Tensor, "a h w"]
) -> RegionCounts:
    """Compare the segmentations of one image, one per scale, with those of its annotators.

    Args:
        segmentations: labels of any values; pixels with one label are one region.
        annotations: likewise, one map per annotator.

    Raises:
        ValueError: if the sizes differ, or one of both is empty.

    >>> halves = torch.tensor([[[1, 1, 2, 2]]])
    >>> counts = region_counts(halves, torch.tensor([[[1, 1, 1, 2]]]))
    >>> float(counts.covered / counts.size), float(counts.rand_index)
    (0.625, 0.5)
    """
    segmentations = checked_labels(segmentations, "segmentations")
    annotations = checked_labels(annotations, "annotations")
    if segmentations.shape[1:] != annotations.shape[1:] or not segmentations.numel() or not len(annotations):
        raise ValueError(
            f"segmentations and at least one annotation of one size are expected, got "
            f"{tuple(segmentations.shape)} and {tuple(annotations.shape)}"
        )
    compact = [_compact(one) for one in segmentations]
    covered = np.zeros(len(compact))
    rand_index, variation = np.zeros(len(compact)), np.zeros(len(compact))
    size = best_covered = 0.0
    for drawn, regions in (_compact(one) for one in annotations):
        best = np.zeros(regions)
        for t, (labels, count) in enumerate(compact):
            joint = np.bincount(drawn * count + labels, minlength=regions * count).reshape(regions, count)
            sizes = joint.sum(1, keepdims=True)
            overlap = (joint / (sizes + joint.sum(0) - joint)).max(1)
            best = np.maximum(best, overlap)
            covered[t] += sizes[:, 0] @ overlap
            rand_index[t] += _rand_index(joint) / len(annotations)
            variation[t] += _variation_of_information(joint) / len(annotations)
        size += float(sizes.sum())
        best_covered += float(sizes[:, 0] @ best)
    totals = (torch.from_numpy(values) for values in (covered, rand_index, variation))
    covered_, rand_, variation_ = totals
    return RegionCounts(covered_, size, best_covered, rand_, variation_)


def regions_of_ucm(ucm2: Float64[Tensor, "H W"], threshold: float) -> Integer[Tensor, "h w"]:
    """The regions of an ultrametric contour map of double size at one scale.

    Args:
        ucm2: strength of the contour between pixels, of size 2 h + 1, 2 w + 1.
        threshold: contours up to it are open.

    Raises:
        ValueError: if the size of the map is even.
    """
    if ucm2.shape[0] % 2 == 0 or ucm2.shape[1] % 2 == 0:
        raise ValueError(f"a contour map of odd size 2 h + 1, 2 w + 1 is expected, got {tuple(ucm2.shape)}")
    below = (ucm2 <= threshold).cpu().numpy().astype(np.uint8)
    return torch.from_numpy(label_components(below, connectivity=2)[0][1::2, 1::2].copy())


class RegionScores:
    """Covering, Rand index and variation of information over images; see the top of this file.

    Args:
        values: per image and scale covered, size, best covered, Rand index, variation of information.
        thresholds: the scales.
    """

    values: Float64[Tensor, "n t 5"]
    thresholds: Float64[Tensor, " t"]

    def __init__(self, values: Float64[Tensor, "n t 5"], thresholds: Float64[Tensor, " t"]) -> None:
        self.values, self.thresholds = values.cpu(), thresholds.cpu()

    @property
    def covering(self) -> Float64[Tensor, " t"]:
        """Covering at each scale."""
        return self.values[..., 0].sum(0) / self.values[..., 1].sum(0)

    @property
    def rand_index(self) -> Float64[Tensor, " t"]:
        """Probabilistic Rand index at each scale, mean over images."""
        return self.values[..., 3].mean(0)

    @property
    def variation(self) -> Float64[Tensor, " t"]:
        """Variation of information in bits at each scale, mean over images."""
        return self.values[..., 4].mean(0)

    @property
    def covering_ods(self) -> float:
        """Covering at the best scale for all images."""
        return float(self.covering.max())

    @property
    def covering_ois(self) -> float:
        """Covering with the best scale of each image."""
        return float(self.values[..., 0].amax(1).sum() / self.values[:, 0, 1].sum())

    @property
    def covering_best(self) -> float:
        """Covering with the best scale of each annotated region."""
        return float(self.values[:, 0, 2].sum() / self.values[:, 0, 1].sum())

    @property
    def rand_index_ods(self) -> float:
        """Rand index at the best scale for all images."""
        return float(self.rand_index.max())

    @property
    def rand_index_ois(self) -> float:
        """Rand index with the best scale of each image."""
        return float(self.values[..., 3].amax(1).mean())

    @property
    def variation_ods(self) -> float:
        """Variation of information at the best scale for all images."""
        return float(self.variation.min())

    @property
    def variation_ois(self) -> float:
        """Variation of information with the best scale of each image."""
        return float(self.values[..., 4].amin(1).mean())

    def __repr__(self) -> str:
        if not len(self.values):
            return "RegionScores(0 images)"
        return (
            f"RegionScores(covering {self.covering_ods:.4f}, RI {self.rand_index_ods:.4f}, "
            f"VI {self.variation_ods:.4f}, {len(self.values)} images)"
        )


class RegionBenchmark(RowMetric):
    """Region scores of segmentations at several scales, accumulated over images.

    Args:
        thresholds: the scales, as many as each image has segmentations.

    >>> benchmark = RegionBenchmark((0.25, 0.75))
    >>> drawn = torch.tensor([[[1, 1, 2, 2]]])
    >>> benchmark.update(torch.cat([drawn, torch.ones_like(drawn)]), drawn)
    >>> benchmark.compute().covering.tolist()
    [1.0, 0.5]
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    values: list[Tensor]

    def __init__(self, thresholds: tuple[float, ...]) -> None:
        super().__init__()
        self.thresholds = torch.tensor(thresholds, dtype=torch.float64)
        self.add_rows("values", len(thresholds), 5, dtype=torch.float64)

    def update(self, segmentations: Integer[Tensor, "t h w"], annotations: Integer[Tensor, "a h w"]) -> None:
        """Compare one image.

        Raises:
            ValueError: as `region_counts`, or if there is not one segmentation per scale.
        """
        segmentations = checked_labels(segmentations, "segmentations")
        if len(segmentations) != len(self.thresholds):
            raise ValueError(
                f"segmentations: one segmentation for each of {len(self.thresholds)} scales is expected, got "
                f"{len(segmentations)}"
            )
        counts = region_counts(segmentations, annotations)
        whole = torch.ones(len(segmentations), dtype=torch.float64)
        columns = (
            counts.covered,
            whole * counts.size,
            whole * counts.best_covered,
            counts.rand_index,
            counts.variation,
        )
        self.values.append(torch.stack(columns, 1)[None].to(self.device))

    def compute(self) -> RegionScores:
        """Scores of everything seen by all processes."""
        return RegionScores(self.rows("values"), self.thresholds)


def _compact(labels: Tensor) -> tuple[np.ndarray, int]:
    """Labels renumbered 0, 1, ..., flat, and how many there are."""
    values, flat = np.unique(labels.detach().cpu().numpy(), return_inverse=True)
    return flat.reshape(-1), len(values)


def _rand_index(joint: Integer[np.ndarray, "r s"]) -> float:
    pixels = float(joint.sum())
    if pixels < 2:
        return 1.0
    squares = [float((sizes.astype(np.float64) ** 2).sum()) for sizes in (joint.sum(0), joint.sum(1), joint)]
    return 1 - (squares[0] / 2 + squares[1] / 2 - squares[2]) / (pixels * (pixels - 1) / 2)


def _variation_of_information(joint: Integer[np.ndarray, "r s"]) -> float:
    share = joint / joint.sum()
    one, other = share.sum(1), share.sum(0)
    i, j = share.nonzero()
    common = share[i, j]
    information = float(common @ np.log2(common / (one[i] * other[j])))
    return float(-(one @ np.log2(one)) - other @ np.log2(other)) - 2 * information
