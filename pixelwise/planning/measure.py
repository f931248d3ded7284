"""Measuring a data set: one pass over some of its images, in a share of the time."""

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from scipy import ndimage
from torch.nn import functional as F

from ..data import SegmentationData
from ..types import (
    Annotation,
    Boxes,
    ClassMasks,
    ClassTable,
    Keypoints,
    LabelMap,
    MaskSet,
    PanopticMap,
    Sample,
)
from .data_facts import ClassFacts, DataFacts

_CLOSELY = 24  # images whose regions are measured
_IN_ORDER = 300  # images, next to each other by name, whose thumbnails are compared
_AT_LEAST = 3  # images that are looked at, however little time there is
_WINDOW = 1024  # pixels: regions are measured in a square in the middle
_ORDERS = 200  # random orders that neighbours are compared with
_THUMBNAIL, _SAME, _MAP = 16, 0.98, 8
_FOLDS = 6
_MANY_NUMBERS = 10  # classes from which labels may be numbers of objects
_SIDES = re.compile(r"(^|[^a-z])(left|right|text|digits?|letters?|characters?|words?)([^a-z]|$)")


@dataclass
class _Seen:
    """What is kept of the images."""

    sizes: list[tuple[int, ...]] = field(default_factory=list)
    grey: list[bool] = field(default_factory=list)
    counts: list[np.ndarray] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)
    ignored: list[int] = field(default_factory=list)
    thickness: dict[int, list[float]] = field(default_factory=dict)
    areas: dict[int, list[float]] = field(default_factory=dict)
    regions: list[float] = field(default_factory=list)
    of_image: list[float] = field(default_factory=list)
    thumbnails: dict[int, np.ndarray] = field(default_factory=dict)
    maps: dict[int, np.ndarray] = field(default_factory=dict)
    sides: dict[int, np.ndarray] = field(default_factory=dict)
    shown: dict[int, tuple[int, ...]] = field(default_factory=dict)


def measure_data(
    train: SegmentationData,
    val: SegmentationData | None = None,
    *,
    mask_rule: str = "exact",
    seconds: float = 30.0,
    now: Callable[[], float] = time.monotonic,
) -> DataFacts:
    """What a data set is like.

    Args:
        train: the images to learn from; all that there are where the data name no validation part.
        val: the validation part that the data name.
        mask_rule: how the masks are read; only noted.
        seconds: that it may take; a few images are looked at in any case.
        now: the clock.

    Raises:
        ValueError: if a file cannot be read, or no pixel or object of the images that were looked at is
            labelled.
    """
    end, seen = now() + seconds, _Seen()
    closely = _spread(len(train), _CLOSELY)
    for done, index in enumerate(closely):
        if done >= _AT_LEAST and now() > end - seconds / 2:
            break
        _look(train, index, seen, closely=True)
    close = len(seen.sizes)
    for index in range(min(len(train), _IN_ORDER)):
        if now() > end:
            break
        if index not in seen.thumbnails:
            _look(train, index, seen, closely=False)
    found = _classes(train.classes, seen)
    known = sum(counts.sum() for counts in seen.counts)
    if not known:
        images = f"the {len(seen.counts)} images that were looked at" if len(seen.counts) > 1 else "the image"
        raise ValueError(f"nothing in {images} is labelled: there is nothing to learn from")
    neighbours, random_order, gap = _neighbours(seen.thumbnails)
    group_of, duplicates = _groups(train, seen.thumbnails)
    sizes = np.array(seen.sizes)
    quantiles = np.quantile(seen.of_image, [0.1, 0.9]) if seen.of_image else (1.0, 1.0)
    maps = [seen.maps[i] for i in sorted(seen.maps)]
    places = _places(maps)
    foreground = 1 if train.classes.exclusive else 0  # the first class that is no background
    empty = [counts[foreground:].sum() == 0 for counts in seen.counts]
    return DataFacts(
        train=len(train),
        size=tuple(int(x) for x in np.median(sizes, 0)),
        classes=found,
        val=len(val) if val is not None else 0,
        smallest=tuple(int(x) for x in sizes.min(0)),
        largest=tuple(int(x) for x in sizes.max(0)),
        channels=1 if seen.grey and all(seen.grey) else train.channels,
        exclusive=train.classes.exclusive,
        empty=float(np.mean(empty)) if seen.pixels and len(train.classes) > 1 else 0.0,
        ignored=sum(seen.ignored) / max(1, sum(seen.pixels)),
        spread=float(quantiles[1] / max(quantiles[0], 1e-6)),
        neighbours=neighbours,
        random_order=random_order,
        gap=gap,
        groups=len(set(group_of)),
        duplicates=duplicates,
        crossing=_crossing(val, seen.thumbnails, end + seconds / 3, now) if val is not None else 0,
        mirrored=max(_mirrored(maps) if sizes.shape[1] == 2 else 0.0, *places[:-1], 0.0) if maps else 1.0,
        sideways=places[-1] if places else 0.0,
        placed=_placed(maps) if train.classes.exclusive and sizes.shape[1] == 2 else math.nan,
        told_apart=_told_apart([seen.sides[i] for i in sorted(seen.sides)]),
        sides=any(_SIDES.search(name.lower().replace("_", " ")) for name in train.classes.names),
        numbered=_numbered(train.classes, seen),
        mask_rule=mask_rule,
        looked_at=close,
        names=tuple(pair.id for pair in train.pairs),
        group_of=tuple(group_of),
        shown=tuple(seen.shown.get(i, ()) for i in range(len(train))),
        val_names=tuple(pair.id for pair in val.pairs) if val is not None else (),
    )


def _spread(count: int, most: int) -> list[int]:
    """Indices spread over all images; the first ones of the list alone are spread too."""
    chosen = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
    order = np.argsort(np.arange(len(chosen)) * 0.6180339887 % 1)
    return [int(i) for i in chosen[order]]


def _look(data: SegmentationData, index: int, seen: _Seen, *, closely: bool) -> None:
    """Note what an image is like."""
    sample = data[index]
    grid = tuple(sample.image.shape[1:])
    seen.sizes.append(grid)
    if len(sample.image) == 3:
        red, green, blue = sample.image
        seen.grey.append(bool((red == green).all() and (red == blue).all()))
    if len(grid) == 2:
        seen.thumbnails[index] = _thumbnail(sample)
        seen.sides[index] = _side_features(sample.image) - _side_features(sample.image.flip(-2))
    if sample.target is None:
        return
    masks = list(_masks(sample.target, data.classes))
    counts = _counts(sample.target, data.classes)
    seen.counts.append(counts)
    seen.shown[index] = tuple(int(i) for i in counts.nonzero()[0])
    seen.pixels.append(math.prod(grid))
    if isinstance(sample.target, LabelMap):
        seen.ignored.append(int((sample.target.labels == data.classes.ignore).sum()))
    if masks:
        seen.maps[index] = np.stack([_shrunk(mask) for _, mask in masks])
    if isinstance(sample.target, Boxes | MaskSet | Keypoints):
        _note_objects(sample.target, seen)
    elif closely and len(grid) == 2:
        _note_regions(masks, seen)


def _masks(target: Annotation, classes: ClassTable) -> Iterator[tuple[int, Bool[np.ndarray, "*grid"]]]:
    """A mask of every class, of annotations of pixels."""
    if isinstance(target, LabelMap):
        labels = target.labels.numpy()
        yield from ((label, labels == label) for label in range(len(classes)))
    elif isinstance(target, ClassMasks):
        yield from ((label, mask == 1) for label, mask in enumerate(target.masks.numpy()))
    elif isinstance(target, PanopticMap):
        of_segment = {int(i): int(c) for i, c in zip(target.ids, target.classes, strict=True)}
        ids = target.id_map.numpy()
        for label in range(len(classes)):
            yield label, np.isin(ids, [i for i, c in of_segment.items() if c == label])


def _counts(target: Annotation, classes: ClassTable) -> Integer[np.ndarray, " k"]:
    """Pixels of each class; where objects are annotated, objects."""
    if isinstance(target, LabelMap):
        labels = target.labels[target.labels != classes.ignore].flatten()
        return torch.bincount(labels, minlength=len(classes)).numpy()
    if isinstance(target, ClassMasks):
        return (target.masks == 1).flatten(1).sum(1).numpy()
    if isinstance(target, Keypoints):
        return np.array([len(target)] + [0] * (len(classes) - 1))
    return torch.bincount(target.classes, minlength=len(classes)).numpy()


def _note_objects(target: Boxes | MaskSet | Keypoints, seen: _Seen) -> None:
    boxes = target.boxes.boxes if isinstance(target, MaskSet) else target.boxes
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).tolist()
    labels = [0] * len(areas) if isinstance(target, Keypoints) else target.classes.tolist()
    for label, area in zip(labels, areas, strict=True):
        seen.areas.setdefault(label, []).append(area)


def _note_regions(masks: Sequence[tuple[int, Bool[np.ndarray, "H W"]]], seen: _Seen) -> None:
    """Thickness and areas of the regions of each class, in the middle of the image."""
    of_image = []
    for label, mask in masks:
        mask = _middle(mask)
        if not mask.any():
            continue
        thick = thickness(mask)
        seen.thickness.setdefault(label, []).append(thick)
        of_image.append(thick)
        numbers, count = ndimage.label(mask)
        seen.regions.append(count)
        seen.areas.setdefault(label, []).extend(np.bincount(numbers.ravel())[1:].tolist())
    if of_image:
        seen.of_image.append(float(np.mean(of_image)))


def thickness(mask: Bool[np.ndarray, "H W"]) -> float:
    """Twice the median distance of the middle lines of a mask to its border, in pixels.

    Middle lines are where the distance to the border is the largest of 3 x 3 pixels.

    >>> stripe = np.zeros((40, 40), bool)
    >>> stripe[:, 10:15] = True
    >>> thickness(stripe)
    6.0
    """
    distance = ndimage.distance_transform_edt(mask)
    ridge = mask & (distance >= ndimage.maximum_filter(distance, 3))
    return float(2 * np.median(distance[ridge]))


def _middle(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "h w"]:
    top, left = (max(0, (side - _WINDOW) // 2) for side in mask.shape)
    return mask[top : top + _WINDOW, left : left + _WINDOW]


def _classes(classes: ClassTable, seen: _Seen) -> tuple[ClassFacts, ...]:
    counts = np.array(seen.counts).reshape(len(seen.counts), len(classes))
    shares = counts.sum(0) / max(1, counts.sum())
    found = []
    for label, name in enumerate(classes.names):
        thick, areas = seen.thickness.get(label), seen.areas.get(label)
        small, median = np.quantile(areas, [0.01, 0.5]) if areas else (math.nan, math.nan)
        found.append(
            ClassFacts(
                name,
                float(shares[label]),
                float((counts[:, label] > 0).mean()) if len(counts) else 0.0,
                float(np.median(thick)) if thick else math.nan,
                float(small),
                float(median),
            )
        )
    return tuple(found)


# --- images beside each other -----------------------------------------------------------------------


def _thumbnail(sample: Sample) -> Float[np.ndarray, " n"]:
    """A tiny grey image, without its mean and of length 1."""
    small = F.adaptive_avg_pool2d(sample.image.mean(0, keepdim=True), _THUMBNAIL).flatten()
    small = small - small.mean()
    plain: np.ndarray = (small / small.norm().clamp(min=1e-6)).numpy()
    return plain


def _neighbours(thumbnails: dict[int, np.ndarray]) -> tuple[float, float, int]:
    """Mean correlation of neighbours, the largest in random orders, and the correlation length."""
    order = [i for i in sorted(thumbnails) if i + 1 in thumbnails or i - 1 in thumbnails]
    if len(order) < 4:
        return 0.0, 1.0, 1
    stack = np.stack([thumbnails[i] for i in order])
    likeness = stack @ stack.T
    beside = np.array([likeness[i, i + 1] for i in range(len(order) - 1) if order[i + 1] == order[i] + 1])
    random = np.random.default_rng(0)
    orders = [random.permutation(len(order)) for _ in range(_ORDERS)]
    chance = [float(likeness[o[:-1], o[1:]].mean()) for o in orders]
    base, top, gap = float(np.mean(chance)), float(beside.mean()), 1
    while gap < len(order) // 4 and np.diag(likeness, gap).mean() > (base + top) / 2:
        gap += 1
    return top, max(chance), gap


def _groups(data: SegmentationData, thumbnails: dict[int, np.ndarray]) -> tuple[list[int], int]:
    """The group of each image: near-duplicates, and images whose names differ in their last number only.

    Names tell groups where there are at least ten and none holds more than a fifth of the images: else the
    number is just that of the image.
    """
    group = list(range(len(data)))
    stems = [re.sub(r"\d+(?=\D*$)", "", PurePosixPath(pair.id).stem) for pair in data.pairs]
    sizes = {stem: stems.count(stem) for stem in set(stems)} if len(stems) <= 5000 else {}
    if len(sizes) >= 10 and max(sizes.values()) <= len(stems) / 5:
        first = {stem: stems.index(stem) for stem in sizes}
        group = [first[stem] for stem in stems]
    order = sorted(thumbnails)
    duplicates: set[int] = set()
    if len(order) > 1:
        stack = np.stack([thumbnails[i] for i in order])
        for a, b in np.argwhere(np.triu(stack @ stack.T > _SAME, 1)):
            one, other = order[a], order[b]
            if np.any(stack[a]):  # flat images are alike, not the same
                duplicates |= {other}
                group = [group[one] if g == group[other] else g for g in group]
    return group, len(duplicates)


def _crossing(
    val: SegmentationData, thumbnails: dict[int, np.ndarray], end: float, now: Callable[[], float]
) -> int:
    """Validation images that are almost the same as a training image that was looked at."""
    if not thumbnails:
        return 0
    stack, found = np.stack(list(thumbnails.values())), 0
    for index in _spread(len(val), _CLOSELY):
        if now() > end:
            break
        found += bool((stack @ _thumbnail(val[index]) > _SAME).any())
    return found


# --- orientation ------------------------------------------------------------------------------------


def _shrunk(mask: Bool[np.ndarray, "*grid"]) -> Float[np.ndarray, "*cells"]:
    pool = F.adaptive_avg_pool2d if mask.ndim == 2 else F.adaptive_avg_pool3d
    plain: np.ndarray = pool(torch.from_numpy(mask).float()[None], _MAP)[0].numpy()
    return plain


def _mirrored(maps: Sequence[Float[np.ndarray, "k 8 8"]]) -> float:
    """Half the distance between the mean map of classes and its upside-down mirror image."""
    if not maps:
        return 1.0
    shares = np.mean([one / np.maximum(one.sum(0, keepdims=True), 1e-6) for one in maps], 0)
    return float(0.5 * np.abs(shares - shares[:, ::-1]).sum(0).mean())


def _places(maps: Sequence[Float[np.ndarray, "k *cells"]]) -> tuple[float, ...]:
    """Along each axis, by how much structures lie elsewhere in the mirror.

    How much farther one half of the images is from the mirror images of the other half than from that half
    itself, of the mean maps of each structure (class 0 is none) as shares of its pixels or voxels. What lies
    anywhere is as far from both, however few images there are.
    """
    half = len(maps) // 2
    if half < 2 or len(maps[0]) < 2:
        return ()
    means = (np.mean(some, 0)[1:] for some in (maps[:half], maps[half:]))
    axes = tuple(range(1, maps[0].ndim))
    one, other = (mean / np.maximum(mean.sum(axes, keepdims=True), 1e-6) for mean in means)

    def apart(mirror: Float[np.ndarray, "k *cells"]) -> float:
        return float(0.5 * np.abs(one - mirror).sum(axes).mean())

    return tuple(max(0.0, apart(np.flip(other, axis)) - apart(other)) for axis in axes)


def _placed(maps: Sequence[Float[np.ndarray, "k h w"]]) -> float:
    """What the place tells: mean IoU of the commonest class at each place less that of the commonest of all.

    A fifth of the images at a time, neighbours in order, is left out of what is counted.
    """
    parts = min(5, len(maps))
    if parts < 2:
        return math.nan
    stack = np.stack(maps)
    part = np.arange(len(stack)) * parts // len(stack)
    classes = np.arange(stack.shape[1])[:, None, None]
    guesses = []
    for left_out in range(parts):
        known = stack[part != left_out].sum(0)
        guesses.append((known.sum((1, 2)).argmax() == classes, known.argmax(0) == classes))
    scores = []
    for kind in (0, 1):
        guess = np.stack([np.broadcast_to(guesses[i][kind], stack.shape[1:]) for i in part])
        inside = (stack * guess).sum((0, 2, 3))
        either = (stack + guess * stack.sum(1, keepdims=True)).sum((0, 2, 3)) - inside
        scores.append(float(np.mean(inside[either > 0] / either[either > 0])))
    return scores[1] - scores[0]


def _side_features(image: Float[torch.Tensor, "c H W"]) -> Float[np.ndarray, " n"]:
    """Histograms of signed gradients and colours on a 4 x 4 grid."""
    grey = F.adaptive_avg_pool2d(image.mean(0, keepdim=True), 128)[0].numpy()
    down, right = np.gradient(grey)
    strength = np.hypot(down, right)
    direction = ((np.arctan2(down, right) + np.pi) / (2 * np.pi) * 8).astype(int) % 8
    cells = np.arange(128) // 32
    cell = cells[:, None] * 4 + cells[None]
    histogram = np.bincount((cell * 8 + direction).ravel(), weights=strength.ravel(), minlength=128)
    colours = F.adaptive_avg_pool2d(image, 4).numpy()
    colours = (colours - colours.mean((1, 2), keepdims=True)) / (colours.std() + 1e-3)
    return np.concatenate([histogram / (strength.mean() * 1024 + 1e-6), colours.ravel()])


def _told_apart(features: Sequence[Float[np.ndarray, " n"]]) -> float:
    """Share of the images that ridge regression tells from their mirror image, cross-validated in blocks.

    Args:
        features: of each image, minus those of its mirror image.
    """
    count = len(features)
    if count < 2 * _FOLDS:
        return math.nan
    rows = np.stack(features)
    rows = rows / (rows.std(0) + 1e-6)
    block, right = np.arange(count) * _FOLDS // count, 0
    for fold in range(_FOLDS):
        known, new = rows[block != fold], rows[block == fold]
        gram = known @ known.T + 0.1 * rows.shape[1] * np.eye(len(known))
        right += int((new @ (known.T @ np.linalg.solve(gram, np.ones(len(known)))) > 0).sum())
    return right / count


def _numbered(classes: ClassTable, seen: _Seen) -> bool:
    """Whether labels look like numbers of objects: many, each in one piece, other ones in other images."""
    if len(classes) < _MANY_NUMBERS or not classes.exclusive or not seen.regions:
        return False
    counts = np.array(seen.counts)[:, 1:] > 0
    last = [int(row.nonzero()[0].max()) + 1 if row.any() else 0 for row in counts]
    in_a_row = np.mean([row[:end].mean() if end else 1.0 for row, end in zip(counts, last, strict=True)])
    pieces = float(np.mean([count for count in seen.regions if count]))
    return bool(in_a_row > 0.9 and pieces < 1.5 and len(set(last)) > 1 and max(last) >= _MANY_NUMBERS)
