"""Several images as one: mosaic, CutMix and ClassMix; pixels and annotations belong together.

- Mosaic: four images around a point (Bochkovskiy et al., "YOLOv4", 2020, Sec. 3.3).
- CutMix: a rectangle of another image, half as large as the image (French et al., "Semi-supervised semantic
  segmentation needs strong, varied perturbations", BMVC 2020, Sec. 3.2).
- ClassMix: the pixels of half of the classes of another image (Olsson et al., WACV 2021, Sec. 3.1).

Both papers mix images without labels; here labels are mixed as pixels are. Objects of which nothing is left
are dropped. All random numbers are PyTorch's.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional as F

from ..types import VOID, Annotation, Boxes, ClassMasks, Keypoints, LabelMap, MaskSet, PanopticMap, Sample
from .transforms import OnSample, ScaleAndCrop


def mosaic(sample: Sample, *others: Sample, ignore: int = 255) -> Sample:
    """Four images around a point in the middle half of `sample`, each through a window at a random place.

    Args:
        sample: gives the size; seen at the upper left.
        others: three, seen at the upper right, the lower left and the lower right.
        ignore: label of the pixels that no image covers.

    Raises:
        ValueError: if there are not three others, or annotations of different kinds.
    """
    if len(others) != 3:
        raise ValueError(f"a mosaic is made of four images, got {1 + len(others)}")
    height, width = sample.image.shape[-2:]
    if min(height, width) < 2:
        return sample
    row, column = (_between(max(1, side // 4), side - max(1, side // 4)) for side in (height, width))
    places = [(0, 0), (0, column), (row, 0), (row, column)]
    ends = [(row, column), (row, width), (height, column), (height, width)]
    parts = []
    for one, (top, left), (bottom, right) in zip((sample, *others), places, ends, strict=True):
        parts.append(_window(one, (bottom - top, right - left), ignore))
    images = [part.image for part in parts]
    image = torch.cat([torch.cat(images[:2], -1), torch.cat(images[2:], -1)], -2)
    if sample.target is None:
        return replace(sample, image=image)
    placed = [_placed(part, at, (height, width)) for part, at in zip(parts, places, strict=True)]
    return replace(sample, image=image, target=_joined(placed))


def cutmix(sample: Sample, other: Sample, *, ignore: int = 255) -> Sample:
    """`sample` with a rectangle of half its area from the same place of `other`.

    Args:
        sample: the image below.
        other: seen in the rectangle; through a window at a random place where it has another size.
        ignore: label of the pixels that `other` does not cover.

    Raises:
        ValueError: if the annotations are not of pixels, or of different kinds.
    """
    height, width = sample.image.shape[-2:]
    share = math.exp(math.log(0.5) * torch.rand(()).item())  # of the height, from 0.5 to 1
    high, wide = max(1, round(height * share)), max(1, round(width * 0.5 / share))
    top, left = _between(0, height - high), _between(0, width - wide)
    region = torch.zeros(height, width, dtype=torch.bool)
    region[top : top + high, left : left + wide] = True
    return over(sample, _window(other, (height, width), ignore), region)


def classmix(sample: Sample, other: Sample, *, ignore: int = 255) -> Sample:
    """`sample` with the pixels of half of the classes of `other`, rounded up, at their places.

    Args:
        sample: the image below.
        other: where pixels come from; through a window at a random place where it has another size.
        ignore: label that is no class; also of the pixels that `other` does not cover.

    Raises:
        ValueError: if the annotations are not labels.
    """
    other = _window(other, tuple(sample.image.shape[-2:]), ignore)
    if not isinstance(other.target, LabelMap):
        raise ValueError(f"ClassMix needs labels, {other.id} has {type(other.target).__name__}")
    present = other.target.labels.unique()
    present = present[present != ignore]
    chosen = present[torch.randperm(len(present))[: (len(present) + 1) // 2]]
    return over(sample, other, torch.isin(other.target.labels, chosen))


def over(below: Sample, above: Sample, region: Bool[Tensor, "*t H W"]) -> Sample:
    """`below`, and `above` in the region.

    Args:
        below: a sample.
        above: one of the same size.
        region: where `above` is seen.

    Raises:
        ValueError: if the annotations are not of pixels, or of different kinds.
    """
    image = torch.where(region, above.image, below.image)
    under, upper = below.target, above.target
    target: Annotation
    if isinstance(under, LabelMap) and isinstance(upper, LabelMap):
        target = replace(under, labels=torch.where(region, upper.labels, under.labels))
    elif isinstance(under, ClassMasks) and isinstance(upper, ClassMasks):
        target = ClassMasks(torch.where(region, upper.masks, under.masks))
    elif isinstance(under, MaskSet) and isinstance(upper, MaskSet):
        cut = [replace(under, masks=under.dense & ~region), replace(upper, masks=upper.dense & region)]
        target = _joined([one.take(one.dense.flatten(1).any(1)) for one in cut])
    elif isinstance(under, PanopticMap) and isinstance(upper, PanopticMap):
        maps = [torch.where(region, VOID, under.id_map), torch.where(region, upper.id_map, VOID)]
        target = _joined([replace(one, id_map=ids) for one, ids in zip((under, upper), maps, strict=True)])
    else:
        kinds = [type(one).__name__ for one in (under, upper)]
        raise ValueError(f"only annotations of pixels can be mixed, got {' and '.join(kinds)}")
    return replace(below, image=image, target=target)


def _window(sample: Sample, size: tuple[int, ...], ignore: int) -> Sample:
    """The sample in that size, cut and padded at random places; nothing is drawn where it has it."""
    if tuple(sample.image.shape[-2:]) == size:
        return sample
    return OnSample([ScaleAndCrop((size[0], size[1]), ignore=ignore)])(sample)


def _placed(part: Sample, place: tuple[int, int], size: tuple[int, int]) -> Annotation:
    """The annotation of a part in pixels of the whole; dense ones become as large, with 0 around."""
    (top, left), (height, width) = place, size
    down, right = height - top - part.image.shape[-2], width - left - part.image.shape[-1]
    padding, target = (left, right, top, down), part.target
    if isinstance(target, LabelMap):
        return replace(target, labels=F.pad(target.labels, padding))
    if isinstance(target, ClassMasks):
        return ClassMasks(F.pad(target.masks, padding))
    if isinstance(target, MaskSet):
        return replace(target, masks=F.pad(target.dense, padding))
    if isinstance(target, PanopticMap):
        return replace(target, id_map=F.pad(target.id_map, padding, value=VOID))
    shift = torch.tensor([left, top, left, top])
    if isinstance(target, Boxes):
        return replace(target, boxes=target.boxes + shift)
    if isinstance(target, Keypoints):
        return replace(target, points=target.points + shift[:2], boxes=target.boxes + shift)
    raise ValueError(f"{part.id} has no annotation, other images of the mosaic have one")


def _joined(targets: Sequence[Annotation]) -> Annotation:
    """Annotations of one size that do not overlap, as one."""
    kinds = {type(target) for target in targets}
    if len(kinds) > 1:
        raise ValueError(
            f"only annotations of one kind can be mixed, got {sorted(k.__name__ for k in kinds)}"
        )
    (kind,) = kinds
    if kind is LabelMap:  # each is 0 where another lies
        return LabelMap(torch.stack([one.labels for one in targets if isinstance(one, LabelMap)]).sum(0))
    if kind is ClassMasks:
        return ClassMasks(torch.stack([one.masks for one in targets if isinstance(one, ClassMasks)]).sum(0))
    if kind is PanopticMap:
        return _renumbered([target for target in targets if isinstance(target, PanopticMap)])
    fields = [vars(target) for target in targets]
    joined: dict[str, Any] = {name: torch.cat([field[name] for field in fields]) for name in fields[0]}
    return kind(**joined)


def _renumbered(targets: Sequence[PanopticMap]) -> PanopticMap:
    """Segments of several maps with ids 1, 2, ...; those that are not to be seen are dropped."""
    id_map = torch.full_like(targets[0].id_map, VOID)
    classes, crowds, number = [], [], 0
    for target in targets:
        for index, segment in enumerate(target.ids.tolist()):
            there = target.id_map == segment
            if there.any():
                number += 1
                id_map[there] = number
                classes.append(target.classes[index])
                crowds.append(target.is_crowd[index])
    ids = torch.arange(1, number + 1)
    if not number:
        return PanopticMap(id_map, ids, targets[0].classes[:0], targets[0].is_crowd[:0])
    return PanopticMap(id_map, ids, torch.stack(classes), torch.stack(crowds))


def _between(low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, ()).item())
