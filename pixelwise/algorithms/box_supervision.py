"""Masks for boxes (BoxSup, Dai, He and Sun, ICCV 2015): which region of the image does a box mean?

Regions are proposed once, from the image alone. Then, in turns, every box takes the region that fits the box
and what the network says best, and the network learns from these masks. With the box B, its class l, a region
S and the probabilities p of the network (Eq. 2, 3), a region costs

    1 - IoU(B, box around S) + weight * mean over S and the rest of B of -log p

Departures from the paper: proposals are those of several segmentations in this package instead of MCG; the
loss of a region is looked at within its box only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer
from scipy import ndimage

from .images import Image, colors_of
from .kmeans import kmeans
from .merging import merge_regions
from .superpixels import felzenszwalb, otsu

MIN_PROBABILITY = 1e-6


class Region(NamedTuple):
    """A proposed region.

    Attributes:
        box: left, top, right, bottom in pixels, right and bottom not included.
        mask: which pixels of the box belong to it.
    """

    box: tuple[int, int, int, int]
    mask: Bool[np.ndarray, "h w"]


def propose_regions(
    image: Image,
    *,
    scales: Sequence[float] = (20.0, 60.0, 200.0),
    clusters: Sequence[int] = (2, 3, 4),
    thresholds: Sequence[float] = (8.0, 16.0, 32.0),
    min_size: int = 12,
) -> list[Region]:
    """Regions that may be objects: the connected parts of several segmentations, holes filled.

    The segmentations are Felzenszwalb's at several scales, each merged further where regions have nearly the
    same colour; clusters of colours; and Otsu's threshold.

    Args:
        image: any number of channels.
        scales: of Felzenszwalb's segmentation.
        clusters: numbers of colours.
        thresholds: distances of Lab colours up to which regions are merged.
        min_size: pixels of a region; smaller ones are left out.

    Raises:
        ValueError: on an image that `colors_of` refuses.
    """
    colors = colors_of(image, "lab")
    labellings = [otsu(image).label_map.labels.numpy()]
    labellings += [kmeans(image, count, seed=0).label_map.labels.numpy() for count in clusters]
    for scale in scales:
        fine = felzenszwalb(image, scale=scale, min_size=min_size).label_map.labels.numpy()
        labellings.append(fine)
        labellings += [merge_regions(colors, fine, threshold=threshold) for threshold in thresholds]
    found: dict[tuple[object, ...], Region] = {}
    for labels in labellings:
        for region in _parts(labels, min_size):
            found.setdefault((region.box, region.mask.tobytes()), region)
    return list(found.values())


def _parts(labels: Integer[np.ndarray, "H W"], min_size: int) -> list[Region]:
    """The connected parts of each label."""
    regions = []
    for label in np.unique(labels):
        numbers, _ = ndimage.label(labels == label)
        for number, place in enumerate(ndimage.find_objects(numbers), 1):
            mask = ndimage.binary_fill_holes(numbers[place] == number)
            if mask.sum() >= min_size:
                rows, columns = place
                regions.append(Region((columns.start, rows.start, columns.stop, rows.stop), mask))
    return regions


def choose_regions(
    regions: Sequence[Region],
    boxes: Integer[np.ndarray, "n 4"],
    classes: Integer[np.ndarray, " n"],
    size: tuple[int, int],
    probabilities: Float[np.ndarray, "k H W"] | None = None,
    *,
    weight: float = 3.0,
    among: int = 1,
    random: np.random.Generator | None = None,
) -> Int64[np.ndarray, "H W"]:
    """Labels of an image of which boxes are known: in each box its region, 0 elsewhere.

    Smaller boxes lie above larger ones. A box that no region fits by at least half is filled.

    Args:
        regions: of the image, see `propose_regions`.
        boxes: left, top, right, bottom in pixels, right and bottom not included.
        classes: label of each, above 0; 0 is the background.
        size: height and width of the image.
        probabilities: what the network says of every pixel; None before there is one.
        weight: lambda, what the network counts against the box; 3 in the paper.
        among: a box takes one of so many best regions by lot; 5 in the paper's training, 1 for the best.
        random: for the lot.

    Raises:
        ValueError: if a box does not lie in the image, or there are not as many classes.
    """
    height, width = size
    if len(classes) != len(boxes):
        raise ValueError(f"{len(boxes)} boxes need as many classes, got {len(classes)}")
    labels = np.zeros(size, np.int64)
    around = np.array([region.box for region in regions], np.int64).reshape(-1, 4)
    cost = None if probabilities is None else -np.log(np.maximum(probabilities, MIN_PROBABILITY))
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for number in np.argsort(-areas, kind="stable"):
        left, top, right, bottom = (int(edge) for edge in boxes[number])
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(f"box {boxes[number].tolist()} does not lie in an image of {width} x {height}")
        window = (slice(top, bottom), slice(left, right))
        fits = _iou(around, boxes[number])
        costs = []
        for candidate in np.flatnonzero(fits >= 0.5).tolist():
            own = _within(regions[candidate], (left, top, right, bottom))
            total = 1 - fits[candidate]
            if cost is not None:
                inside, outside = cost[(int(classes[number]), *window)], cost[(0, *window)]
                total += weight * float(np.where(own, inside, outside).mean())
            costs.append((total, candidate, own))
        if not costs:
            labels[window] = classes[number]
            continue
        best = sorted(costs, key=lambda one: one[:2])[:among]
        chosen = best[0 if random is None else int(random.integers(len(best)))][2]
        labels[window][chosen] = classes[number]
    return labels


def _iou(boxes: Integer[np.ndarray, "r 4"], box: Integer[np.ndarray, " 4"]) -> Float[np.ndarray, " r"]:
    """Intersection over union of each of the boxes with `box`."""
    corner = np.maximum(boxes[:, :2], box[:2])
    extent = np.maximum(np.minimum(boxes[:, 2:], box[2:]) - corner, 0)
    both = extent[:, 0] * extent[:, 1]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return both / (areas + (box[2] - box[0]) * (box[3] - box[1]) - both)


def _within(region: Region, box: tuple[int, int, int, int]) -> Bool[np.ndarray, "h w"]:
    """The part of a region in a box, as a mask of the box."""
    left, top, right, bottom = box
    own_left, own_top, own_right, own_bottom = region.box
    mask = np.zeros((bottom - top, right - left), bool)
    x, y, z, w = max(left, own_left), max(top, own_top), min(right, own_right), min(bottom, own_bottom)
    if x < z and y < w:
        mask[y - top : w - top, x - left : z - left] = region.mask[
            y - own_top : w - own_top, x - own_left : z - own_left
        ]
    return mask
