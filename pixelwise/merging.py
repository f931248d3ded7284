"""How things and stuff become one panoptic map: the rules of the papers, side by side.

    paste_instances                     Panoptic FPN: surer instances over others, stuff on what they leave
    panoptic_scores, settle_segments    UPSNet: instances compete with stuff, and with "unknown", for pixels
    find_centers, group_pixels,         Panoptic-DeepLab: each pixel of a thing points at its centre, and a
        name_groups                     group takes the class of most of its pixels
    contest_pixels                      MaskFormer, Mask2Former: class and mask together win a pixel
    share_pixels                        DETR: the masks alone share all pixels

All of them end in `segments_of`, which numbers segments: no two have one id, and each has a pixel. Labels in
`labels` maps are those of the class table; labels that a rule does not know are void.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from .layers import resize
from .types import VOID, MaskSet, PanopticMap

NOBODY = -1  # the owner of a pixel that is void
# On an accelerator many small kernels cost more than memory, up to this many numbers (1 GiB of float32).
_AT_ONCE = 2**28
_BAND = 1 << 22  # numbers of a band of rows on a CPU (16 MiB of float32)


def segments_of(owner: Int64[Tensor, "H W"], classes: Sequence[int]) -> PanopticMap:
    """A panoptic map of pixels that know their owner; ids are 1, 2, ... in the order of the owners.

    Args:
        owner: number of the segment of each pixel; NOBODY (-1) where it is void.
        classes: label of each segment; those without a pixel are left out.

    >>> found = segments_of(torch.tensor([[2, 2, -1, 0]]), [7, 5, 9])
    >>> found.id_map.tolist(), found.ids.tolist(), found.classes.tolist()
    ([[2, 2, 0, 1]], [1, 2], [7, 9])
    """
    areas = (owner + 1).flatten().bincount(minlength=len(classes) + 1)[1:]
    left = areas.nonzero()[:, 0]
    ids = torch.arange(1, len(left) + 1, device=owner.device)
    id_of = owner.new_full((len(classes) + 1,), VOID)  # the last is that of nobody
    id_of[left] = ids
    labels = torch.tensor(classes, dtype=torch.int64, device=owner.device)[left]
    return PanopticMap.of(id_of[owner], ids, labels, torch.zeros_like(ids, dtype=torch.bool))


def _over_stuff(
    owner: Int64[Tensor, "H W"],
    classes: Sequence[int],
    labels: Int64[Tensor, "H W"],
    stuff: Sequence[int],
    min_stuff_area: int,
) -> PanopticMap:
    """Things that have their pixels; each class of stuff takes what is free if that is large enough."""
    found = list(classes)
    for label in stuff:
        free = (labels == label) & (owner == NOBODY)
        if int(free.sum()) >= min_stuff_area:
            owner = torch.where(free, len(found), owner)
            found.append(label)
    return segments_of(owner, found)


# --- Panoptic FPN ---------------------------------------------------------------------------------


def paste_instances(
    instances: MaskSet,
    labels: Int64[Tensor, "H W"],
    stuff: Sequence[int],
    *,
    max_overlap: float = 0.5,
    min_stuff_area: int = 4096,
) -> PanopticMap:
    """Instances, best first, each on what the better ones leave it; then stuff on what is free.

    Kirillov et al. 2019, Panoptic Segmentation, Sec. 6, with the thresholds of panopticapi.

    Args:
        instances: best first; those that are not sure enough are not among them.
        labels: a class for every pixel; those that are no stuff are not looked at.
        stuff: labels of stuff.
        max_overlap: an instance that loses a larger share of its mask is dropped.
        min_stuff_area: fewest pixels of a segment of stuff.

    >>> car = MaskSet.of(torch.tensor([[[False, True, True]]]), torch.tensor([4]))
    >>> paste_instances(car, torch.tensor([[0, 0, 0]]), [0], min_stuff_area=1).id_map
    tensor([[2, 1, 1]])
    """
    owner, classes = torch.full_like(labels, NOBODY), list[int]()
    for mask, label in zip(instances.dense.to(labels.device), instances.classes.tolist(), strict=True):
        area, free = int(mask.sum()), mask & (owner == NOBODY)
        if area and 1 - int(free.sum()) / area <= max_overlap:
            owner = torch.where(free, len(classes), owner)
            classes.append(label)
    return _over_stuff(owner, classes, labels, stuff, min_stuff_area)


# --- UPSNet ---------------------------------------------------------------------------------------


def without_covered(
    masks: Bool[Tensor, "n h w"], classes: Int64[Tensor, " n"], max_overlap: float = 0.3
) -> Int64[Tensor, " kept"]:
    """Numbers of the masks of which no more than a share is covered by better ones of their class.

    Xiong et al. 2019, UPSNet, Sec. 3.4, "Panoptic Segmentation Inference". Masks are given best first; those
    without a pixel are dropped.
    """
    covered: dict[int, Tensor] = {}
    kept = []
    for number, (mask, label) in enumerate(zip(masks, classes.tolist(), strict=True)):
        before = covered.get(label, torch.zeros_like(mask))
        area = int(mask.sum())
        if area and int((mask & before).sum()) <= max_overlap * area:
            covered[label] = before | mask
            kept.append(number)
    return torch.tensor(kept, dtype=torch.int64, device=masks.device)


def panoptic_scores(
    semantic: Float[Tensor, "k h w"],
    masks: Float[Tensor, "n h w"],
    inside: Bool[Tensor, "n h w"],
    classes: Int64[Tensor, " n"],
    things: Sequence[int],
) -> Float[Tensor, "_ h w"]:
    """Scores of each class of stuff, of each instance, and of "unknown", for every pixel.

    UPSNet's panoptic head, which has no parameters (Xiong et al. 2019, Sec. 3.3, Fig. 4): an instance has,
    within its box, the semantic score of its class plus the score of its mask; outside it has 0. Unknown is
    what the things of the semantic head have beyond all that the instances take of them.

    Args:
        semantic: a score per class of the table.
        masks: score of each instance's mask, 0 outside of its box.
        inside: the boxes.
        classes: labels of the instances.
        things: labels of things; the others are stuff.

    Returns:
        Scores of stuff in the order of labels, of the n instances, and of unknown.
    """
    stuff = [label for label in range(len(semantic)) if label not in set(things)]
    taken = torch.where(inside, semantic[classes], 0.0)
    unknown = semantic[list(things)].amax(0)
    if len(taken):
        unknown = unknown - taken.amax(0)
    return torch.cat([semantic[stuff], taken + masks, unknown[None]])


def settle_segments(
    winner: Int64[Tensor, "H W"],
    labels: Int64[Tensor, "H W"],
    classes: Sequence[int],
    stuff: Sequence[int],
    *,
    min_stuff_area: int = 4096,
) -> PanopticMap:
    """What UPSNet makes of the best of its `panoptic_scores`.

    An instance most of whose pixels the semantic head gives to one class of stuff, at least half of them,
    becomes that stuff; any other keeps its class. Unknown pixels, and stuff that is too small, are void.

    Args:
        winner: index of the highest of the panoptic scores.
        labels: index of the highest score of the semantic head.
        classes: labels of the instances.
        stuff: labels of stuff in their order.
        min_stuff_area: fewest pixels of a segment of stuff.
    """
    named = torch.tensor([*stuff, *[NOBODY] * (len(classes) + 1)], device=winner.device)[winner]
    owner, kept = torch.full_like(winner, NOBODY), list[int]()
    for number, label in enumerate(classes):
        mine = winner == len(stuff) + number
        votes = labels[mine].bincount()
        if not len(votes):
            continue
        most = int(votes.argmax())
        if most in stuff and 2 * int(votes[most]) >= int(votes.sum()):
            named = torch.where(mine, most, named)
        else:
            owner = torch.where(mine, len(kept), owner)
            kept.append(label)
    return _over_stuff(owner, kept, named, stuff, min_stuff_area)


# --- Panoptic-DeepLab -----------------------------------------------------------------------------


class Centers(NamedTuple):
    """Centres of things, surest first.

    Attributes:
        places: row and column of each.
        scores: its value in the heatmap.
    """

    places: Int64[Tensor, "n 2"]
    scores: Float[Tensor, " n"]


def find_centers(
    heatmap: Float[Tensor, "h w"], *, min_score: float = 0.1, kernel: int = 7, count: int = 200
) -> Centers:
    """Places that are the maximum of the window around them (Cheng et al. 2020, Sec. 3.2).

    Args:
        heatmap: probability of each pixel to be a centre.
        min_score: a centre has more.
        kernel: side of the window, odd.
        count: most centres.

    >>> find_centers(torch.tensor([[0.0, 0.9, 0.8, 0.0, 0.3]]), kernel=3).places.tolist()
    [[0, 1], [0, 4]]
    """
    highest = F.max_pool2d(heatmap[None, None], kernel, 1, kernel // 2)[0, 0]
    places = ((heatmap == highest) & (heatmap > min_score)).nonzero()
    scores = heatmap[places[:, 0], places[:, 1]]
    order = scores.argsort(descending=True, stable=True)[:count]
    return Centers(places[order], scores[order])


def group_pixels(offsets: Float[Tensor, "2 h w"], centers: Int64[Tensor, "n 2"]) -> Int64[Tensor, "h w"]:
    """The centre nearest to where each pixel points; NOBODY without centres (Cheng et al. 2020, Eq. 1).

    Args:
        offsets: rows and columns from the pixel to its centre.
        centers: row and column of each.

    >>> group_pixels(torch.zeros(2, 1, 5), torch.tensor([[0, 0], [0, 3]])).tolist()
    [[0, 0, 1, 1, 1]]
    """
    rows, columns = (torch.arange(n, device=offsets.device) for n in offsets.shape[1:])
    down, along = rows[:, None] + offsets[0], columns + offsets[1]
    owner = torch.full_like(down, NOBODY, dtype=torch.int64)
    least = torch.full_like(down, torch.inf)
    for number, (y, x) in enumerate(centers.tolist()):  # one after the other: n h w would be large
        distance = (down - y) ** 2 + (along - x) ** 2
        owner = torch.where(distance < least, number, owner)
        least = torch.minimum(distance, least)
    return owner


def name_groups(
    groups: Int64[Tensor, "H W"],
    labels: Int64[Tensor, "H W"],
    things: Sequence[int],
    stuff: Sequence[int],
    *,
    min_stuff_area: int = 2048,
) -> PanopticMap:
    """Each group is a thing of the class that most of its pixels have (Cheng et al. 2020, Sec. 3.2).

    Args:
        groups: of `group_pixels`; only those pixels count that have the label of a thing.
        labels: a class for every pixel.
        things: labels of things.
        stuff: labels of stuff.
        min_stuff_area: fewest pixels of a segment of stuff.
    """
    is_thing = torch.isin(labels, torch.tensor(list(things), dtype=torch.int64, device=labels.device))
    owner = torch.where(is_thing, groups, NOBODY)
    count, k = int(groups.max()) + 1 if groups.numel() else 0, max([*things, *stuff]) + 1
    mine = owner != NOBODY
    votes = (owner[mine] * k + labels[mine]).bincount(minlength=count * k).view(count, k)
    return _over_stuff(owner, votes.argmax(1).tolist() if count else [], labels, stuff, min_stuff_area)


# --- networks that classify masks -----------------------------------------------------------------


def contest_pixels(
    mask_logits: Float[Tensor, "q h w"],
    scores: Float[Tensor, " q"],
    classes: Sequence[int],
    things: Sequence[int],
    size: tuple[int, int],
    *,
    max_overlap: float = 0.2,
    min_stuff_area: int = 0,
) -> PanopticMap:
    """Each pixel goes to the query with the largest product of the probabilities of its class and its mask.

    A query gets the pixels that it wins and where its mask has a probability of at least 0.5. One that loses
    more than `max_overlap` of its own mask is dropped. Queries of one class of stuff make one segment
    (Cheng et al. 2021, MaskFormer, Sec. 3.4 and the authors' code).

    Args:
        mask_logits: of queries that are sure enough, at any resolution.
        scores: probability of the class of each.
        classes: label of each.
        things: labels of things.
        size: height and width of the image.
        max_overlap: see above.
        min_stuff_area: fewest pixels of a segment of stuff.
    """
    q = len(mask_logits)
    owner = torch.full(size, q, dtype=torch.int64, device=mask_logits.device)  # q is nobody here
    counts = torch.zeros(3, q, dtype=torch.int64, device=mask_logits.device)
    for first, rows in in_rows(mask_logits, size) if q else ():
        inside = rows >= 0  # a probability of a half
        best = (scores[:, None, None] * rows.sigmoid()).argmax(0)
        kept = torch.where(inside.gather(0, best[None])[0], best, q)
        owner[first : first + rows.shape[1]] = kept
        own = kept.flatten().bincount(minlength=q + 1)[:q]
        counts += torch.stack([own, best.flatten().bincount(minlength=q), inside.sum((1, 2))])
    areas, won, whole = counts.tolist()
    holds = [
        bool(area) and mine >= (1 - max_overlap) * all_of_it
        for area, mine, all_of_it in zip(areas, won, whole, strict=True)
    ]
    segment = _segments_of_queries(classes, things, holds)
    sums = [0] * (q + 1)
    for number, area in zip(segment, areas, strict=True):
        sums[number] += area
    small = [s != NOBODY and classes[s] not in things and sums[s] < min_stuff_area for s in segment]
    segment = [NOBODY if too_small else s for s, too_small in zip(segment, small, strict=True)]
    return segments_of(torch.tensor([*segment, NOBODY], device=owner.device)[owner], classes)


def share_pixels(
    mask_logits: Float[Tensor, "q h w"],
    classes: Sequence[int],
    things: Sequence[int],
    size: tuple[int, int],
    *,
    min_area: int = 5,
) -> PanopticMap:
    """Each pixel goes to the query with the highest mask score; nothing is void unless there is no query.

    Queries of one class of stuff make one segment. As long as a segment is smaller than `min_area`, its
    queries are dropped and the pixels are shared anew (Carion et al. 2020, DETR, Sec. 4.4). The authors' code
    no longer unites stuff once it has dropped something; here it always does.

    Args:
        mask_logits: of queries that are sure enough, at any resolution.
        classes: label of each.
        things: labels of things.
        size: height and width of the image.
        min_area: fewest pixels of a segment.
    """
    left = list(range(len(mask_logits)))
    while left:
        owner = torch.cat([rows.argmax(0) for _, rows in in_rows(mask_logits[left], size)])
        labels = [classes[query] for query in left]
        segment = _segments_of_queries(labels, things, [True] * len(left))
        owner = torch.tensor(segment, device=owner.device)[owner]
        areas = owner.flatten().bincount(minlength=len(left)).tolist()
        large = [query for query, own in zip(left, segment, strict=True) if areas[own] >= min_area]
        if len(large) == len(left):
            return segments_of(owner, labels)
        left = large
    return segments_of(torch.full(size, NOBODY, dtype=torch.int64, device=mask_logits.device), [])


def _segments_of_queries(classes: Sequence[int], things: Sequence[int], holds: Sequence[bool]) -> list[int]:
    """The query whose segment each one joins: itself, or the first of its class of stuff that holds."""
    first: dict[int, int] = {}
    segment = []
    for query, label in enumerate(classes):
        if not holds[query]:
            segment.append(NOBODY)
        elif label in things:
            segment.append(query)
        else:
            segment.append(first.setdefault(label, query))
    return segment


def in_rows(
    mask_logits: Float[Tensor, "q h w"],
    size: tuple[int, int],
    *,
    align_corners: bool = False,
    most: int | None = None,
) -> Iterator[tuple[int, Float[Tensor, "q _ W"]]]:
    """Scores at the size of the image, bilinear, in bands of rows: the first row of each, and the band.

    Args:
        mask_logits: scores at any size.
        size: height and width of the image.
        align_corners: as of `torch.nn.functional.interpolate`.
        most: numbers of a band; None for what suits the device.
    """
    logits = mask_logits.detach().float()
    (q, h, _), (height, width) = logits.shape, size
    if most is None:
        most = _BAND if logits.device.type == "cpu" else _AT_ONCE
    rows = height if torch.compiler.is_compiling() else max(1, most // max(q * width, 1))
    if rows >= height:
        yield 0, resize(logits[None], size, align_corners=align_corners)[0]
        return
    for first in range(0, height, rows):
        y = torch.arange(first, min(first + rows, height), device=logits.device)
        if align_corners:
            place = y * ((h - 1) / max(height - 1, 1))
        else:
            place = ((y + 0.5) * (h / height) - 0.5).clamp_min(0)
        upper = place.long().clamp(max=h - 1)
        lower = (upper + 1).clamp(max=h - 1)
        band = torch.lerp(logits[:, upper], logits[:, lower], (place - upper)[:, None])
        yield first, resize(band[None], (len(y), width), align_corners=align_corners)[0]
