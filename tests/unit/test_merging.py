"""Rules that make panoptic maps, against loops over pixels that say what the papers say."""

from collections.abc import Sequence

import pytest
import torch

from pixelwise.merging import (
    NOBODY,
    contest_pixels,
    find_centers,
    group_pixels,
    name_groups,
    panoptic_scores,
    paste_instances,
    segments_of,
    settle_segments,
    share_pixels,
    without_covered,
)
from pixelwise.types import MaskSet, PanopticMap

SEEDS = range(5)
STUFF, THINGS = (0, 2), (1, 3)
HEIGHT, WIDTH = 9, 11


def random_scene(seed: int, n: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Generator]:
    """Labels of pixels, masks that overlap, their classes."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (HEIGHT, WIDTH), generator=random)
    masks = torch.zeros(n, HEIGHT, WIDTH, dtype=torch.bool)
    for mask in masks:
        y, x = (int(torch.randint(0, side - 2, (), generator=random)) for side in (HEIGHT, WIDTH))
        h, w = (int(torch.randint(0, 6, (), generator=random)) for _ in range(2))
        mask[y : y + h, x : x + w] = True
    classes = torch.tensor(THINGS)[torch.randint(0, 2, (n,), generator=random)]
    return labels, masks, classes, random


def as_sets(found: PanopticMap) -> dict[frozenset[tuple[int, int]], int]:
    """The class of each segment by its pixels; asserts that ids are unique and have pixels."""
    ids = found.ids.tolist()
    assert len(set(ids)) == len(ids), "two segments with one id"
    assert set(found.id_map.unique().tolist()) - {0} == set(ids), "an id without a pixel or a row"
    assert 0 not in ids
    assert not found.is_crowd.any()
    return {
        frozenset(map(tuple, (found.id_map == number).nonzero().tolist())): label
        for number, label in zip(ids, found.classes.tolist(), strict=True)
    }


def pixels(mask: torch.Tensor) -> set[tuple[int, int]]:
    return set(map(tuple, mask.nonzero().tolist()))


def with_stuff(
    segments: list[tuple[set[tuple[int, int]], int]], labels: torch.Tensor, least: int
) -> dict[frozenset[tuple[int, int]], int]:
    taken = set().union(*(own for own, _ in segments)) if segments else set()
    for label in STUFF:
        free = pixels(labels == label) - taken
        if len(free) >= max(least, 1):
            segments.append((free, label))
    return {frozenset(own): label for own, label in segments if own}


@pytest.mark.parametrize("seed", SEEDS)
def test_instances_are_pasted_as_in_panoptic_fpn(seed: int) -> None:
    labels, masks, classes, _ = random_scene(seed)
    segments: list[tuple[set[tuple[int, int]], int]] = []
    for mask, label in zip(masks, classes.tolist(), strict=True):
        own = pixels(mask)
        free = own - set().union(*(before for before, _ in segments)) if segments else own
        if own and (len(own) - len(free)) / len(own) <= 0.5:
            segments.append((free, label))
    found = paste_instances(MaskSet.of(masks, classes), labels, STUFF, max_overlap=0.5, min_stuff_area=12)
    assert as_sets(found) == with_stuff(segments, labels, 12)


@pytest.mark.parametrize("seed", SEEDS)
def test_masks_covered_by_better_ones_of_their_class_are_removed_as_in_upsnet(seed: int) -> None:
    _, masks, classes, _ = random_scene(seed, 12)
    kept: list[int] = []
    for number, mask in enumerate(masks):
        same = [masks[other] for other in kept if classes[other] == classes[number]]
        covered = mask & (torch.stack(same).any(0) if same else torch.zeros_like(mask))
        if mask.any() and covered.sum() / mask.sum() <= 0.3:
            kept.append(number)
    assert without_covered(masks, classes, 0.3).tolist() == kept
    assert 0 < len(kept) < 12


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [0, 1, 4])
def test_the_panoptic_head_of_upsnet_pixel_by_pixel(seed: int, n: int) -> None:
    _, inside, classes, random = random_scene(seed, n)
    semantic = torch.randn(4, HEIGHT, WIDTH, generator=random)
    masks = torch.randn(n, HEIGHT, WIDTH, generator=random) * inside
    found = panoptic_scores(semantic, masks, inside, classes, THINGS)
    assert found.shape == (len(STUFF) + n + 1, HEIGHT, WIDTH)
    for y, x in [(0, 0), (4, 5), (8, 10), (3, 7)]:
        column = semantic[:, y, x].tolist()
        crops = [column[c] if inside[i, y, x] else 0.0 for i, c in enumerate(classes.tolist())]
        drawn = [crop + masks[i, y, x].item() for i, crop in enumerate(crops)]
        unknown = max(column[t] for t in THINGS) - (max(crops) if crops else 0.0)
        expected = [column[s] for s in STUFF] + drawn + [unknown]
        assert found[:, y, x].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_segments_settle_on_a_class_as_in_upsnet(seed: int) -> None:
    labels, _, classes, random = random_scene(seed, 4)
    blocks = torch.randint(0, len(STUFF) + 5, (HEIGHT // 3, WIDTH // 3 + 1), generator=random)
    winner = blocks.repeat_interleave(3, 0).repeat_interleave(3, 1)[:, :WIDTH].contiguous()
    labels[:, : WIDTH // 2] = 2  # so that some instances lie on stuff
    segments: list[tuple[set[tuple[int, int]], int]] = []
    named = torch.full_like(labels, NOBODY)
    for index, label in enumerate(STUFF):
        named[winner == index] = label
    for number, label in enumerate(classes.tolist()):
        own = winner == len(STUFF) + number
        votes = [int((labels[own] == c).sum()) for c in range(4)]
        most = votes.index(max(votes))
        if own.any() and most in STUFF and 2 * votes[most] >= sum(votes):
            named[own] = most
        else:
            segments.append((pixels(own), label))
    found = settle_segments(winner, labels, classes.tolist(), STUFF, min_stuff_area=10)
    assert as_sets(found) == with_stuff(segments, named, 10)


@pytest.mark.parametrize("seed", SEEDS)
def test_pixels_are_grouped_by_the_nearest_centre_as_in_panoptic_deeplab(seed: int) -> None:
    labels, _, _, random = random_scene(seed)
    heatmap = torch.rand(HEIGHT, WIDTH, generator=random)
    offsets = 4 * torch.randn(2, HEIGHT, WIDTH, generator=random)
    peaks = []
    for y in range(HEIGHT):
        for x in range(WIDTH):
            window = heatmap[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            if heatmap[y, x] == window.max() and heatmap[y, x] > 0.3:
                peaks.append((heatmap[y, x].item(), [y, x]))
    peaks.sort(reverse=True)
    centers = find_centers(heatmap, min_score=0.3, kernel=3, count=4)
    assert centers.places.tolist() == [place for _, place in peaks[:4]]
    groups = group_pixels(offsets, centers.places)
    members: dict[int, set[tuple[int, int]]] = {}
    for y in range(HEIGHT):
        for x in range(WIDTH):
            target = (y + offsets[0, y, x].item(), x + offsets[1, y, x].item())
            far = [(target[0] - cy) ** 2 + (target[1] - cx) ** 2 for cy, cx in centers.places.tolist()]
            assert groups[y, x] == far.index(min(far))
            if int(labels[y, x]) in THINGS:
                members.setdefault(int(groups[y, x]), set()).add((y, x))
    segments = []
    for own in members.values():
        votes = [sum(int(labels[y, x]) == c for y, x in own) for c in range(4)]
        segments.append((own, votes.index(max(votes))))
    found = name_groups(groups, labels, THINGS, STUFF, min_stuff_area=12)
    assert as_sets(found) == with_stuff(segments, labels, 12)


def test_without_centres_things_are_void() -> None:
    labels = torch.tensor([[1, 1, 0]])
    groups = group_pixels(torch.zeros(2, 1, 3), torch.zeros(0, 2).long())
    assert as_sets(name_groups(groups, labels, THINGS, STUFF, min_stuff_area=1)) == {frozenset({(0, 2)}): 0}


def united(owner: Sequence[Sequence[int | None]], classes: list[int]) -> dict[frozenset, int]:
    """Segments of pixels that know their query; those of one class of stuff are one."""
    members: dict[object, set[tuple[int, int]]] = {}
    for y, row in enumerate(owner):
        for x, query in enumerate(row):
            if query is not None:
                label = classes[query]
                key = query if label in THINGS else f"stuff {label}"
                members.setdefault(key, set()).add((y, x))
    return {
        frozenset(own): classes[key] if isinstance(key, int) else int(key.split()[1])
        for key, own in members.items()
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_queries_contest_pixels_as_in_maskformer(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    q = 6
    logits = 2 * torch.randn(q, HEIGHT, WIDTH, generator=random)
    scores = 0.5 + 0.5 * torch.rand(q, generator=random)
    classes = torch.randint(0, 4, (q,), generator=random).tolist()
    p = logits.sigmoid()
    best = (scores[:, None, None] * p).argmax(0)
    holds = [
        int((best == i).sum()) >= 0.3 * int((logits[i] >= 0).sum())
        and bool(((best == i) & (logits[i] >= 0)).any())
        for i in range(q)
    ]
    owner = [
        [int(i) if logits[i, y, x] >= 0 and holds[i] else None for x, i in enumerate(row.tolist())]
        for y, row in enumerate(best)
    ]
    found = contest_pixels(logits, scores, classes, THINGS, (HEIGHT, WIDTH), max_overlap=0.7)
    assert as_sets(found) == united(owner, classes)


@pytest.mark.parametrize("seed", SEEDS)
def test_queries_share_pixels_as_in_detr(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    q = 9
    logits = torch.nn.functional.interpolate(
        4 * torch.randn(1, q, 4, 4, generator=random), (HEIGHT, WIDTH), mode="bilinear"
    )[0]
    classes = torch.randint(0, 4, (q,), generator=random).tolist()
    left = list(range(q))
    while True:
        best = logits[left].argmax(0)
        owner = [[left[i] for i in row] for row in best.tolist()]
        sets = united(owner, classes)
        small = {own for own in sets if len(own) < 12}
        reached = {owner[y][x] for own in sets.keys() - small for y, x in own}
        stuff_left = {classes[i] for i in reached if classes[i] in STUFF}
        kept = [i for i in left if i in reached or classes[i] in stuff_left]
        if kept == left:
            break
        left = kept
    found = share_pixels(logits, classes, THINGS, (HEIGHT, WIDTH), min_area=12)
    assert as_sets(found) == sets
    assert (found.id_map > 0).all(), "nothing is void"
    assert len(left) < q, "the scene shows what is dropped"


def test_no_query_leaves_all_void() -> None:
    none = torch.zeros(0, 3, 4)
    assert not share_pixels(none, [], THINGS, (6, 8)).id_map.any()
    assert not contest_pixels(none, torch.zeros(0), [], THINGS, (6, 8)).id_map.any()
    assert segments_of(torch.full((6, 8), NOBODY), [3]).ids.tolist() == []
    assert not paste_instances(
        MaskSet.of(torch.zeros(0, 6, 8).bool(), torch.zeros(0).long()), torch.full((6, 8), NOBODY), STUFF
    ).id_map.any()
