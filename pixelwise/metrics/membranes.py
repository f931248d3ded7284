"""Scores of membranes between cells (ISBI 2012): V-Rand and V-Info after the borders were thinned.

Regions are the cells between membranes, S those of the prediction and T those of the truth, and p_ij the
share of the pixels in S_i and T_j, with the sums s_i and t_j (Arganda-Carreras et al., Frontiers in
Neuroanatomy 2015, Crowdsourcing the creation of image segmentation algorithms for connectomics):

    V-Rand = sum p_ij^2 / (1/2 sum s_i^2 + 1/2 sum t_j^2)
    V-Info = I(S; T) / (1/2 H(S) + 1/2 H(T))

Pixels that are membrane in the truth do not count. Membranes of the prediction are thinned to a line of one
pixel by a watershed first, so that their width does not count either; each pixel of that line is a region of
its own (Fiji, trainableSegmentation.metrics.RandError). Both are 1 at best.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64
from skimage.segmentation import watershed
from torch import Tensor

from ..kernels.masks.components import label_components


class MembraneScores(NamedTuple):
    """V-Rand and V-Info of one slice; nan where the truth has no cell."""

    v_rand: float
    v_info: float


def membrane_scores(cells: Bool[Tensor, "h w"], truth: Bool[Tensor, "h w"]) -> MembraneScores:
    """Compare the cells of a slice.

    Args:
        cells: True inside the predicted cells, False on membranes.
        truth: likewise.

    Raises:
        ValueError: if the sizes differ.

    >>> import torch
    >>> truth = torch.tensor([[True, True, False, True, True]])
    >>> membrane_scores(torch.ones(1, 5, dtype=torch.bool), truth)  # one region instead of two
    MembraneScores(v_rand=0.6666666666666666, v_info=0.0)
    """
    if cells.shape != truth.shape or cells.ndim != 2:
        raise ValueError(
            f"cells and truth of one size are expected, got {tuple(cells.shape)} and {tuple(truth.shape)}"
        )
    wanted, found = _regions(truth), _thinned(_regions(cells))
    inside = wanted > 0
    count = int(inside.sum())
    if not count:
        return MembraneScores(float("nan"), float("nan"))
    one, other = found[inside], wanted[inside]
    alone = one == 0
    one[alone] = one.max() + 1 + np.arange(alone.sum())
    joint = np.unique(one * (other.max() + 1) + other, return_counts=True)[1] / count
    own, true = (np.unique(regions, return_counts=True)[1] / count for regions in (one, other))
    v_rand = (joint**2).sum() / ((own**2).sum() / 2 + (true**2).sum() / 2)
    entropies = _entropy(own) + _entropy(true)
    shared = entropies - _entropy(joint)
    return MembraneScores(float(v_rand), float(2 * shared / entropies) if entropies else 1.0)


def _regions(cells: Bool[Tensor, "h w"]) -> Int64[np.ndarray, "h w"]:
    """Neighbours along the sides, not the corners, are one region; 0 is membrane."""
    return label_components(cells.cpu().numpy().astype(np.uint8), connectivity=1)[0].astype(np.int64)


def _thinned(regions: Int64[np.ndarray, "h w"]) -> Int64[np.ndarray, "h w"]:
    """The regions grown until lines of one pixel are left between them."""
    grown = watershed(np.zeros(regions.shape, np.uint8), regions, connectivity=1, watershed_line=True)
    return np.asarray(grown, np.int64)


def _entropy(shares: np.ndarray) -> float:
    return float(-(shares * np.log2(shares)).sum()) + 0.0
