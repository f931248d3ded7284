"""From what a model returns to an annotation.

`semantic`, `confidence` and `probabilities` take scores of every pixel. `labels`, `boxes`, `instances`,
`panoptic` and `keypoints` go by the type of the output: what an output of one paper means is registered
beside its network.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import singledispatch
from math import log, prod
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Integer, UInt8
from torch import Tensor
from torch.nn import functional as F

from .heatmaps import Refine, quarter_offset
from .kernels.compiling import parallel_map
from .kernels.masks.components import label_components
from .kernels.pixels.argmax import argmax, argmax_of_pixels, resized_argmax
from .kernels.pixels.softmax import resized_confidence
from .layers import resize
from .merging import contest_pixels, in_rows
from .types import (
    Boxes,
    ClassTable,
    DenseLogits,
    Heatmaps,
    Keypoints,
    LabelMap,
    MaskLogits,
    MaskSet,
    PanopticMap,
)

# On an accelerator many small kernels cost more than memory, up to this many numbers (1 GiB of float32).
_AT_ONCE = 2**28
_CHUNK = 1 << 15  # pixels that are compared together on a CPU
_SURE = 0.2  # confidence above which a joint has a say in that of its object
_MEAN_BAND = 1 << 20  # numbers of a band of rows whose views are averaged (4 MiB of float32)
_FEW_SCORES = 1 << 19  # scores below which a second thread costs more than it saves


class Confidence(NamedTuple):
    """The most probable class of every pixel, and its probability in [0, 1]."""

    labels: Int64[Tensor, "b *grid"]
    probability: Float32[Tensor, "b *grid"]


def semantic(output: DenseLogits) -> LabelMap:
    """The class with the highest score at every pixel or voxel of the image: labels "b *grid", int64.

    The result is that of `output.logits.argmax(1)`: the first of equal scores, or the first NaN. The scores
    at image size are never held all at once. On a CPU, float32 scores are interpolated only where the classes
    of neighbours differ (see `kernels.argmax`). They are rounded in torch's own order, so that the labels are
    the same. Only where a processor cannot multiply and add at once (those before 2013), or `coarse` lies in
    channels-last memory (one coarse pixel always does), the last bit of a score may differ, and with it the
    label of a pixel whose two best scores are that close. Other types and devices, and scores that are not
    finite, take class after class.

    >>> scores = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # b k h w = 1 2 1 2
    >>> semantic(DenseLogits(scores, size=(1, 4))).labels
    tensor([[[0, 0, 1, 1]]])
    """
    coarse, size = output.coarse.detach(), output.size
    b, k = coarse.shape[:2]
    on_cpu, at_size = coarse.device.type == "cpu", tuple(coarse.shape[2:]) == tuple(size)
    if torch.compiler.is_compiling() or (not on_cpu and b * k * prod(size) <= _AT_ONCE):
        return LabelMap(output.logits.argmax(1))
    if len(size) != 2 and not at_size:  # only the two axes of images are resized class by class
        return LabelMap(torch.cat([output.logits.argmax(1) for output in _one_by_one(output)]))
    labels = torch.empty(b, *size, dtype=torch.long, device=coarse.device)
    for image, found in zip(coarse.split(1), labels, strict=True):
        if on_cpu and at_size:
            _highest(image[0], found)
        elif at_size:
            found.copy_(image[0].argmax(0))
        elif on_cpu and _is_rounded_otherwise(output):
            found.copy_(resize(image, (size[0], size[1]), align_corners=output.align_corners)[0].argmax(0))
        elif (
            not on_cpu
            or coarse.dtype != torch.float32
            or not resized_argmax(
                image[0].contiguous().numpy(), found.numpy(), output.align_corners, torch.get_num_threads()
            )
        ):
            _class_by_class(image, found, output.align_corners)
    return LabelMap(labels)


def confidence(output: DenseLogits) -> Confidence:
    """The labels of `semantic` and the softmax of each, without the probabilities of all other classes.

    The probabilities are those of `probabilities(output).amax(1)` to about 1e-6.

    >>> scores = torch.tensor([[[[0.0]], [[3.0]]]])  # b k h w = 1 2 1 1
    >>> found = confidence(DenseLogits(scores, size=(1, 2)))
    >>> found.labels, found.probability
    (tensor([[[1, 1]]]), tensor([[[0.9526, 0.9526]]]))
    """
    coarse, size = output.coarse.detach(), output.size
    if torch.compiler.is_compiling() or len(size) != 2:
        return _confidence(output.logits)
    fast = coarse.device.type == "cpu" and coarse.dtype == torch.float32 and not _is_rounded_otherwise(output)
    labels = torch.empty(len(coarse), *size, dtype=torch.long, device=coarse.device)
    probability = torch.empty(labels.shape, device=coarse.device)
    for i, image in enumerate(coarse.split(1)):
        if not fast or not resized_confidence(
            image[0].contiguous().numpy(),
            labels[i].numpy(),
            probability[i].numpy(),
            output.align_corners,
            torch.get_num_threads(),
        ):
            found = _confidence(resize(image, (size[0], size[1]), align_corners=output.align_corners))
            labels[i], probability[i] = found.labels[0], found.probability[0]
    return Confidence(labels, probability)


def probabilities(output: DenseLogits) -> Float[Tensor, "b k *grid"]:
    """Softmax over the classes at every pixel of the image, in [0, 1], float32."""
    return output.logits.float().softmax(1)


class Best(NamedTuple):
    """The most probable classes of every pixel, the best first, and their probabilities in [0, 1]."""

    labels: Int64[Tensor, "b count *grid"]
    probability: Float32[Tensor, "b count *grid"]


def best_classes(output: DenseLogits, count: int) -> Best:
    """The `count` most probable classes of every pixel; scores at image size are held in bands only.

    Raises:
        ValueError: if there are not so many classes.

    >>> scores = torch.tensor([[[[0.0]], [[3.0]], [[1.0]]]])  # b k h w = 1 3 1 1
    >>> best_classes(DenseLogits(scores, size=(1, 2)), 2).labels[0, :, 0].tolist()
    [[1, 1], [2, 2]]
    """
    b, k = output.coarse.shape[:2]
    if not 1 <= count <= k:
        raise ValueError(f"count must be 1 to {k}, the number of classes, got {count}")
    labels = torch.empty(b, count, *output.size, dtype=torch.long, device=output.coarse.device)
    probability = torch.empty(labels.shape, device=labels.device)
    for first, scores in scores_in_rows(output):
        rows = slice(first, first + scores.shape[2])
        found = scores.softmax(1).topk(count, dim=1)
        labels[:, :, rows], probability[:, :, rows] = found.indices, found.values
    return Best(labels, probability)


def probabilities_in_bytes(output: DenseLogits, exclusive: bool = True) -> UInt8[Tensor, "b k *grid"]:
    """255 times the probability of every class at every pixel, rounded: a quarter of the memory.

    Args:
        output: of a network.
        exclusive: whether probabilities are the softmax over the classes, or the sigmoid of each.

    >>> probabilities_in_bytes(DenseLogits(torch.zeros(1, 2, 1, 1), (1, 3))).tolist()
    [[[[128, 128, 128]], [[128, 128, 128]]]]
    """
    b, k = output.coarse.shape[:2]
    found = torch.empty(b, k, *output.size, dtype=torch.uint8, device=output.coarse.device)
    for first, scores in scores_in_rows(output):
        probable = scores.softmax(1) if exclusive else scores.sigmoid()
        found[:, :, first : first + scores.shape[2]] = probable.mul_(255).round_().byte()
    return found


def scores_in_rows(output: DenseLogits) -> Iterator[tuple[int, Float[Tensor, "b k _ *others"]]]:
    """Scores at the size of the image in bands of rows: the first row of each, and the band, float32."""
    yield from mean_in_rows([output], None)


def mean_in_rows(
    outputs: Sequence[DenseLogits], exclusive: bool | None = True
) -> Iterator[tuple[int, Float[Tensor, "b k _ *others"]]]:
    """The mean of several outputs for one image, in bands of rows: see `mean_scores`.

    Neither of them is ever held at the size of the image. Of volumes the band is the whole.

    Args:
        outputs: for images of one size.
        exclusive: as of `mean_scores`; None for the scores of a single output as they are.
    """
    first = outputs[0]
    b, k = first.coarse.shape[:2]
    if len(first.size) != 2:
        views: Iterable[Tensor] = (output.logits.float() for output in outputs)
        yield 0, next(iter(views)) if exclusive is None else mean_scores(views, exclusive)
        return
    height, width = first.size
    bands = [
        in_rows(
            output.coarse.flatten(0, 1),
            (height, width),
            align_corners=output.align_corners,
            most=None if output.coarse.is_cuda else _MEAN_BAND,
        )
        for output in outputs
    ]
    for parts in zip(*bands, strict=True):
        maps = (rows.unflatten(0, (b, k)) for _, rows in parts)
        yield parts[0][0], next(maps) if exclusive is None else mean_scores(maps, exclusive)


def mean_scores(
    views: Iterable[Float[Tensor, "b k *grid"]], exclusive: bool = True
) -> Float[Tensor, "b k *grid"]:
    """Scores whose probabilities are the means of those of several, one of them in memory at a time.

    Args:
        views: scores of the same pixels.
        exclusive: whether probabilities are the softmax over the classes, or the sigmoid of each.

    >>> views = [torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.4, 0.6]]).log()]
    >>> mean_scores(views).softmax(1)
    tensor([[0.6000, 0.4000]])
    """
    inside, outside, count = torch.empty(0), torch.empty(0), 0
    for scores in views:
        scores = scores.float()
        view = scores.log_softmax(1) if exclusive else F.logsigmoid(scores)
        inside = torch.logaddexp(inside, view) if count else view
        if not exclusive:
            outside = torch.logaddexp(outside, F.logsigmoid(-scores)) if count else F.logsigmoid(-scores)
        count += 1
    return inside - log(count) if exclusive else inside - outside


def component_sizes(labels: Integer[Tensor, "*grid"]) -> Int64[np.ndarray, " n"]:
    """The number of pixels or voxels of each connected region of equal labels, along faces.

    >>> component_sizes(torch.tensor([[1, 1, 0], [1, 0, 0]])).tolist()
    [3, 3]
    """
    numbers, _ = label_components(labels.cpu().numpy(), background=None)
    return np.bincount(numbers.ravel())[1:]


def without_small_components(labels: Int64[Tensor, "*grid"], least: int) -> Int64[Tensor, "*grid"]:
    """Regions of equal labels with fewer pixels take the label of most pixels around them.

    Holes are regions too. A region that has none but small neighbours stays.

    Args:
        labels: at least 0.
        least: fewest pixels, or voxels, of a region that stays.

    >>> without_small_components(torch.tensor([[1, 1, 1, 0], [1, 0, 1, 0]]), 2)
    tensor([[1, 1, 1, 0],
            [1, 1, 1, 0]])
    """
    array = labels.cpu().numpy()
    numbers, count = label_components(array, background=None)
    small = np.bincount(numbers.ravel(), minlength=count + 1) < least
    small[0] = False
    if not small.any():
        return labels
    place, k = np.cumsum(small) - 1, int(array.max()) + 1
    votes = np.zeros(int(small.sum()) * k, np.int64)
    for axis in range(array.ndim):
        before = tuple(slice(None, -1) if i == axis else slice(None) for i in range(array.ndim))
        after = tuple(slice(1, None) if i == axis else slice(None) for i in range(array.ndim))
        for inside, around in ((before, after), (after, before)):
            edge = small[numbers[inside]] & ~small[numbers[around]]
            asked = place[numbers[inside][edge]] * k + array[around][edge]
            votes += np.bincount(asked, minlength=len(votes))
    by_label = votes.reshape(-1, k)
    changes = small.copy()
    changes[small] = by_label.any(1)
    result, where = array.copy(), changes[numbers]
    result[where] = by_label.argmax(1)[place[numbers[where]]]
    return torch.from_numpy(result).to(labels.device)


def without_small_holes(scores: Float[Tensor, "n h w"], most: int) -> Float[Tensor, "n h w"]:
    """Scores of masks whose small holes are filled, as in the video predictor of SAM 2: they become 0.1.

    A hole is a connected region of scores of 0 or less, wherever it lies; regions may touch at corners.

    Args:
        scores: above 0 inside of a mask.
        most: cells of a hole that is filled; 0 fills none.

    >>> without_small_holes(torch.tensor([[[1.0, -1.0, 1.0, -1.0, -1.0]]]), 1)
    tensor([[[ 1.0000,  0.1000,  1.0000, -1.0000, -1.0000]]])
    """
    if most < 1:
        return scores
    holes = np.zeros(tuple(scores.shape), bool)
    for hole, outside in zip(holes, (scores <= 0).cpu().numpy(), strict=True):
        numbers, count = label_components(outside.view(np.uint8), connectivity=2)
        small = np.bincount(numbers.ravel(), minlength=count + 1) <= most
        small[0] = False
        hole[:] = small[numbers]
    return scores.masked_fill(torch.from_numpy(holes).to(scores.device), 0.1)


# --- by the type of the output --------------------------------------------------------------------


@singledispatch
def labels(output: object) -> LabelMap:
    """The class of every pixel: labels "b *grid", int64.

    Raises:
        ValueError: if the output does not tell it.
    """
    raise ValueError(f"{type(output).__name__} cannot be decoded to one class per pixel")


@singledispatch
def boxes(output: object) -> tuple[Boxes, ...]:
    """The objects that an output tells of, one set per image, best first.

    Raises:
        ValueError: if the output has no boxes.
    """
    raise ValueError(f"{type(output).__name__} cannot be decoded to boxes")


@singledispatch
def instances(output: object) -> tuple[MaskSet, ...]:
    """The instances that an output tells of, one set per image, best first.

    Raises:
        ValueError: if the output has no masks of instances.
    """
    raise ValueError(f"{type(output).__name__} cannot be decoded to instances")


class Thresholds(NamedTuple):
    """What becomes a segment of a panoptic map.

    Attributes:
        min_score: least score of what is drawn, in [0, 1].
        max_overlap: largest share of a mask, in [0, 1], that may belong to others.
        min_stuff_area: fewest pixels of a segment of stuff; smaller ones become void.
    """

    min_score: float
    max_overlap: float
    min_stuff_area: int


class Merging(NamedTuple):
    """Thresholds that differ from those of a network's paper, see `Thresholds`; None leaves the paper's."""

    min_score: float | None = None
    max_overlap: float | None = None
    min_stuff_area: int | None = None

    def over(self, paper: Thresholds) -> Thresholds:
        """The thresholds of the paper with what differs.

        >>> Merging(min_score=0.7).over(Thresholds(0.5, 0.5, 4096))
        Thresholds(min_score=0.7, max_overlap=0.5, min_stuff_area=4096)
        """
        return Thresholds(
            paper.min_score if self.min_score is None else self.min_score,
            paper.max_overlap if self.max_overlap is None else self.max_overlap,
            paper.min_stuff_area if self.min_stuff_area is None else self.min_stuff_area,
        )


PAPERS_OWN = Merging()


@singledispatch
def panoptic(output: object, classes: ClassTable, merging: Merging = PAPERS_OWN) -> tuple[PanopticMap, ...]:
    """The segments that an output tells of, one map per image.

    Args:
        output: of a model for panoptic segmentation.
        classes: say which labels are things.
        merging: thresholds that differ from those of the paper.

    Raises:
        ValueError: if the output does not tell things and stuff.
    """
    raise ValueError(f"{type(output).__name__} cannot be decoded to a panoptic map")


@singledispatch
def keypoints(output: object, refine: Refine = quarter_offset) -> tuple[Keypoints, ...]:
    """The joints that an output tells of, one set per image, in pixels of the image.

    Raises:
        ValueError: if the output has no joints.
    """
    raise ValueError(f"{type(output).__name__} cannot be decoded to keypoints")


@labels.register
def _(output: DenseLogits) -> LabelMap:
    return semantic(output)


@keypoints.register
def _(output: Heatmaps, refine: Refine = quarter_offset) -> tuple[Keypoints, ...]:
    """One object per crop, in pixels of the crop.

    The confidence of a joint is the value of its map, that of the object the mean over the joints that have
    more than 0.2 (HRNet's; without any it is 0).

    Args:
        output: of a network for crops of single objects.
        refine: how a joint is found between the cells: `heatmaps.quarter_offset`, `dark` or `highest`.
    """
    points, values = refine(output.coarse.detach().float())
    confidence = values.clamp(0, 1)
    sure = confidence > _SURE
    scores = (confidence * sure).sum(1) / sure.sum(1).clamp(min=1)
    height, width = output.size
    box = points.new_tensor([[0, 0, width, height]])
    area, crowd = points.new_tensor([height * width]), torch.zeros(1, dtype=torch.bool, device=points.device)
    return tuple(
        Keypoints(
            output.stride * points[i : i + 1], confidence[i : i + 1], scores[i : i + 1], area, box, crowd
        )
        for i in range(len(points))
    )


# --- mask classification --------------------------------------------------------------------------


@labels.register
def semantic_of_masks(output: MaskLogits) -> LabelMap:
    """The class with the largest sum over queries of its probability times that of the mask.

    "No object" is no class (MaskFormer, Cheng et al. 2021, Sec. 3.4). The masks are at the size of the image
    in some rows at a time only.
    """
    found = []
    for class_logits, mask_logits in zip(output.class_logits, output.mask_logits, strict=True):
        probabilities = class_logits.detach().float().softmax(-1)[:, :-1].T
        parts = [
            (probabilities @ rows.sigmoid().flatten(1)).argmax(0).view(rows.shape[1:])
            for _, rows in in_rows(mask_logits, output.size)
        ]
        found.append(torch.cat(parts))
    return LabelMap(torch.stack(found))


@instances.register
def instances_of_masks(output: MaskLogits, count: int = 100) -> tuple[MaskSet, ...]:
    """The most probable pairs of query and class; the mask is where its score is above 0.

    The score of an instance is the probability of its class times the mean probability of its mask's pixels
    (Mask2Former). A query may stand for several classes.

    Args:
        output: of a network that classifies masks.
        count: of instances per image at most; those without a pixel are left out.
    """
    found = []
    for class_logits, mask_logits in zip(output.class_logits, output.mask_logits, strict=True):
        probabilities = class_logits.detach().float().softmax(-1)[:, :-1]
        best, place = probabilities.flatten().topk(min(count, probabilities.numel()))
        query, label = place // probabilities.shape[1], place % probabilities.shape[1]
        used, number = query.unique(return_inverse=True)
        masks = torch.empty(len(used), *output.size, dtype=torch.bool, device=mask_logits.device)
        sums = mask_logits.new_zeros(len(used), dtype=torch.float32)
        for first, rows in in_rows(mask_logits[used], output.size):
            inside = rows > 0
            masks[:, first : first + rows.shape[1]] = inside
            sums += (rows.sigmoid() * inside).sum((1, 2))
        area = masks.sum((1, 2))
        sure = sums / area.clamp_min(1)
        scores, order = (best * sure[number]).sort(descending=True, stable=True)
        order = order[area[number[order]] > 0]
        found.append(MaskSet.of(masks[number[order]], label[order], scores[: len(order)]))
    return tuple(found)


@panoptic.register
def panoptic_of_masks(
    output: MaskLogits, classes: ClassTable, merging: Merging = PAPERS_OWN
) -> tuple[PanopticMap, ...]:
    """The rule of MaskFormer and Mask2Former, `merging.contest_pixels`.

    Only queries surer than `min_score` take part: 0.8 in the authors' code, and 0.2 for `max_overlap`.

    Args:
        output: of a network that classifies masks.
        classes: say which labels are things.
        merging: thresholds that differ from the authors'.
    """
    limits = merging.over(Thresholds(min_score=0.8, max_overlap=0.2, min_stuff_area=0))
    found = []
    for class_logits, mask_logits in zip(output.class_logits, output.mask_logits, strict=True):
        scores, label = class_logits.detach().float().softmax(-1).max(-1)
        sure = (label < class_logits.shape[-1] - 1) & (scores > limits.min_score)
        found.append(
            contest_pixels(
                mask_logits[sure],
                scores[sure],
                label[sure].tolist(),
                classes.things,
                output.size,
                max_overlap=limits.max_overlap,
                min_stuff_area=limits.min_stuff_area,
            )
        )
    return tuple(found)


def _confidence(logits: Float[Tensor, "b k *grid"]) -> Confidence:
    return Confidence(logits.argmax(1), logits.float().softmax(1).amax(1))


def _one_by_one(output: DenseLogits) -> list[DenseLogits]:
    return [
        DenseLogits(one, output.size, (), output.align_corners) for one in output.coarse.detach().split(1)
    ]


def _is_rounded_otherwise(output: DenseLogits) -> bool:
    """Whether torch multiplies the weights first: on small maps, and on three channels as if of colours."""
    same = tuple(output.coarse.shape[-2:]) == tuple(output.size)
    return not same and (sum(output.size) <= 128 or output.coarse.shape[1] == 3)


def _highest(scores: Float[Tensor, "k *grid"], found: Int64[Tensor, "*grid"]) -> None:
    """Fill `found` with the argmax of scores that are at image size already."""
    if scores.dtype == torch.float64:
        found.copy_(scores.argmax(0))
        return
    scores, k = scores.float(), len(scores)
    if scores.ndim != 3:  # rows of a volume are as good as those of an image
        scores, found = scores.reshape(k, -1, scores.shape[-1]), found.view(-1, found.shape[-1])
    _, height, width = scores.shape
    side_by_side = k > 1 and scores.stride(0) == 1 and scores.stride(2) == k
    # Inference mode is local to a thread: worker threads see NumPy arrays, never tensors.
    out = found.numpy()
    values = (scores.permute(1, 2, 0) if side_by_side else scores.contiguous()).flatten(1).numpy()

    def fill(start: int) -> None:
        part = out[start : start + step]
        if side_by_side:
            argmax_of_pixels(values[start : start + step], k, part)
        else:
            part.reshape(-1)[:] = argmax(values, start * width, start * width + part.size)

    threads = torch.get_num_threads() if scores.numel() > _FEW_SCORES else 1
    step = height if threads == 1 else max(-(-_CHUNK // width), -(-height // (4 * threads)))
    parallel_map(fill, range(0, height, step), threads)


def _class_by_class(
    image: Float[Tensor, "1 k _ _"], found: Int64[Tensor, "H W"], align_corners: bool
) -> None:
    """Resize one class after the other and compare it with the best so far: a k-th of the memory."""
    best: Tensor | None = None
    current = torch.zeros(found.shape, dtype=torch.int32, device=found.device)
    for number, scores in enumerate(image.split(1, dim=1)):
        fine = resize(scores, (found.shape[0], found.shape[1]), align_corners=align_corners)[0, 0]
        if best is None:
            best = fine.clone()
            continue
        current.masked_fill_((fine > best) | (fine.isnan() & ~best.isnan()), number)
        torch.maximum(best, fine, out=best)
    found.copy_(current)
