"""Panoptic quality: panopticapi's numbers, the rules one by one, bad input."""

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, multiprocessing

from pixelwise.kernels.masks.panoptic import ids_of_colors, overlaps
from pixelwise.metrics.panoptic.panoptic_map import PanopticMap
from pixelwise.metrics.panoptic.quality import PanopticMetrics, PanopticScores, panoptic_quality
from pixelwise.types import ClassTable, LabelMap, MaskSet, voc_palette

CLASSES = ClassTable(("sky", "road", "car", "cat"), voc_palette(4), things=(2, 3))
LABEL_OF = {label: label for label in range(4)}
Table = list[dict[str, Any]]


def scene(seed: int) -> tuple[np.ndarray, Table, np.ndarray, Table]:
    """A prediction and a target with crowds, void, merged and missing segments, and sometimes nothing."""
    random = np.random.default_rng(seed)
    target = np.zeros((24, 32), np.int64)
    for number in random.choice(1 << 24, int(random.integers(0, 10)), replace=False) + 1:
        y, x, height, width = (int(random.integers(*span)) for span in ((24,), (32,), (4, 16), (4, 20)))
        target[y : y + height, x : x + width] = 0 if random.random() < 0.15 else number
    found, area = np.unique(target[target > 0], return_counts=True)
    known = [
        {
            "id": number,
            "category_id": int(random.integers(4)),
            "area": size,
            "iscrowd": int(random.random() < 0.2),
        }
        for number, size in zip(found.tolist(), area.tolist(), strict=True)
    ]
    class_of = {segment["id"]: segment["category_id"] for segment in known}
    prediction = np.roll(target, tuple(int(n) for n in random.integers(-2, 3, 2)), (0, 1))
    y, x = int(random.integers(20)), int(random.integers(28))
    prediction[y : y + 5, x : x + 6] = random.choice([0, 77, *found])
    claimed = [
        {
            "id": number,
            "category_id": class_of.get(number, 2) if random.random() < 0.85 else int(random.integers(4)),
        }
        for number in np.unique(prediction[prediction > 0]).tolist()
    ]
    return prediction, claimed, target, known


def maps(seed: int) -> tuple[PanopticMap, PanopticMap]:
    prediction, claimed, target, known = scene(seed)
    return PanopticMap.of_coco(prediction, claimed, LABEL_OF), PanopticMap.of_coco(target, known, LABEL_OF)


def rules(prediction: np.ndarray, claimed: Table, target: np.ndarray, known: Table) -> list[list[float]]:
    """Sum of IoU, TP, FP, FN per class by plain sets of pixels."""
    counts = [[0.0, 0, 0, 0] for _ in range(4)]

    def pixels(ids: np.ndarray, number: int) -> set[int]:
        return set(np.flatnonzero(ids == number).tolist())

    void, matched = pixels(target, 0), set()
    for one in known:
        there = pixels(target, one["id"])
        for other in claimed:
            here = pixels(prediction, other["id"])
            iou = len(here & there) / len((here | there) - (here & void))
            if iou > 0.5 and one["category_id"] == other["category_id"] and not one["iscrowd"]:
                counts[one["category_id"]][0] += iou
                counts[one["category_id"]][1] += 1
                matched |= {("t", one["id"]), ("p", other["id"])}
        if not one["iscrowd"] and ("t", one["id"]) not in matched:
            counts[one["category_id"]][3] += 1
    for other in claimed:
        here = pixels(prediction, other["id"])
        crowds = [one for one in known if one["iscrowd"] and one["category_id"] == other["category_id"]]
        excused = len(here & void) + (len(here & pixels(target, crowds[-1]["id"])) if crowds else 0)
        if ("p", other["id"]) not in matched and excused <= len(here) / 2:
            counts[other["category_id"]][2] += 1
    return counts


def square(ids: str, classes: dict[int, int], crowds: tuple[int, ...] = ()) -> PanopticMap:
    """A map of one row from digits."""
    numbers = torch.tensor(list(classes), dtype=torch.int64)
    crowd = torch.tensor([number in crowds for number in classes], dtype=torch.bool)
    id_map = torch.tensor([[int(digit) for digit in ids]])
    return PanopticMap.of(id_map, numbers, torch.tensor(list(classes.values()), dtype=torch.int64), crowd)


def counts(scores: PanopticScores, label: int) -> tuple[float, int, int, int]:
    return (
        scores.iou[label].item(),
        int(scores.true_positives[label]),
        int(scores.false_positives[label]),
        int(scores.false_negatives[label]),
    )


# panopticapi 7bb4655, pq_compute_single_core and pq_average, on scenes 0..39.
OFFICIAL: dict[str, Any] = {
    "All": (0.30190904106432814, 0.6855331787443544, 0.4404659158235348, 4),
    "Things": (0.3003180613700498, 0.6755839726325854, 0.44365828092243187, 2),
    "Stuff": (0.3035000207586065, 0.6954823848561235, 0.4372735507246377, 2),
    "counts": [
        (10.010749854319215, 14, 16, 25),
        (10.138668130341689, 15, 14, 20),
        (11.83585378117073, 17, 17, 21),
        (7.204353774806407, 11, 13, 18),
    ],
}


# --- numbers ----------------------------------------------------------------------------------------


def test_seeded_scenes_score_what_panopticapi_says() -> None:
    pairs = [maps(seed) for seed in range(40)]
    scores = panoptic_quality([p for p, _ in pairs], [t for _, t in pairs], CLASSES)
    assert tuple(scores.overall) == OFFICIAL["All"]
    assert tuple(scores.things) == OFFICIAL["Things"]
    assert tuple(scores.stuff) == OFFICIAL["Stuff"]
    assert [counts(scores, label) for label in range(4)] == OFFICIAL["counts"]


@pytest.mark.parametrize("seed", range(60))
def test_the_counts_are_those_of_the_rules_on_plain_sets(seed: int) -> None:
    prediction, target = maps(seed)
    scores = panoptic_quality(prediction, target, CLASSES)
    for label, expected in enumerate(rules(*scene(seed))):
        assert counts(scores, label) == pytest.approx(tuple(expected))


def test_a_perfect_prediction_scores_one_and_new_numbers_change_nothing() -> None:
    target = square("1122333", {1: 0, 2: 2, 3: 2})
    renamed = square("7788999", {9: 2, 7: 0, 8: 2})
    for prediction in (target, renamed):
        scores = panoptic_quality(prediction, target, CLASSES)
        assert tuple(scores.overall) == (1, 1, 1, 2)
        assert scores.true_positives.tolist() == [1, 0, 2, 0]


def test_an_iou_of_one_half_is_no_match() -> None:
    target = square("1100", {1: 0})
    half = panoptic_quality(square("1222", {1: 0, 2: 1}), target, CLASSES)
    assert counts(half, 0) == (0, 0, 1, 1)
    more = panoptic_quality(square("11122", {1: 0, 2: 1}), square("11133", {1: 0, 3: 1}), CLASSES)
    assert counts(more, 0) == (1, 1, 0, 0)


def test_void_under_a_prediction_is_not_in_the_union() -> None:
    scores = panoptic_quality(square("1111", {1: 0}), square("1100", {1: 0}), CLASSES)
    assert counts(scores, 0) == (1, 1, 0, 0)


def test_a_prediction_is_excused_if_more_than_half_of_it_is_void_or_crowd_of_its_class() -> None:
    target = square("001122", {1: 2, 2: 1}, crowds=(1,))
    for ids, label, wrong in (("770000", 2, 0), ("007700", 2, 0), ("007700", 3, 1), ("000770", 2, 1)):
        scores = panoptic_quality(square(ids, {7: label}), target, CLASSES)
        assert counts(scores, label) == (0, 0, wrong, 0)


def test_a_crowd_is_never_found_nor_missed() -> None:
    target = square("1111", {1: 2}, crowds=(1,))
    assert counts(panoptic_quality(square("5555", {5: 2}), target, CLASSES), 2) == (0, 0, 0, 0)
    assert counts(panoptic_quality(square("0000", {}), target, CLASSES), 2) == (0, 0, 0, 0)


def test_of_several_crowds_of_a_class_the_last_of_the_table_excuses() -> None:
    prediction = square("5500", {5: 2})
    for numbers, wrong in (((1, 2), 1), ((2, 1), 0)):
        target = square("1122", dict.fromkeys(numbers, 2), crowds=(1, 2))
        assert counts(panoptic_quality(prediction, target, CLASSES), 2) == (0, 0, wrong, 0)


def test_a_target_id_outside_its_table_is_neither_void_nor_a_segment() -> None:
    scores = panoptic_quality(square("1111", {1: 0}), square("1199", {1: 0}), CLASSES)
    assert counts(scores, 0) == (0, 0, 1, 1)


def test_the_areas_of_a_file_count_instead_of_those_of_its_map() -> None:
    table: Table = [{"id": 1, "category_id": 0, "area": 6}]
    target = PanopticMap.of_coco(np.array([[1, 1, 1, 0]]), table, LABEL_OF)
    scores = panoptic_quality(square("1113", {1: 0, 3: 1}), target, CLASSES)
    assert counts(scores, 0) == (0, 0, 1, 1)


def test_classes_that_are_nowhere_have_no_part_in_the_means() -> None:
    target = square("1122", {1: 0, 2: 2})
    scores = panoptic_quality(square("1133", {1: 0, 3: 3}), target, CLASSES)
    assert scores.pq.tolist()[0] == 1
    assert scores.pq.isnan().tolist() == [False, True, False, False]
    assert tuple(scores.overall) == (1 / 3, 1 / 3, 1 / 3, 3)
    assert tuple(scores.stuff) == (1, 1, 1, 1)
    assert tuple(scores.things) == (0, 0, 0, 2)


def test_without_any_segment_the_score_is_nan_with_a_warning() -> None:
    scores = panoptic_quality(square("000", {}), square("000", {}), CLASSES)
    with pytest.warns(UserWarning, match="no segment"):
        assert np.isnan(scores.overall.pq)
    assert "no segment" in repr(scores)


# --- forms of input -----------------------------------------------------------------------------------


def test_any_integer_type_and_layout_counts_alike() -> None:
    prediction, target = square("1122333", {1: 0, 2: 2, 3: 2}), square("1222233", {1: 0, 2: 2, 3: 2})
    expected = counts(panoptic_quality(prediction, target, CLASSES), 2)
    for kind in (torch.uint8, torch.int16, torch.int32, torch.int64):
        other = PanopticMap(
            prediction.id_map.to(kind), prediction.ids, prediction.classes, prediction.is_crowd
        )
        assert counts(panoptic_quality(other, target, CLASSES), 2) == expected
    turned = [PanopticMap(m.id_map.T, m.ids, m.classes, m.is_crowd) for m in (prediction, target)]
    assert counts(panoptic_quality(turned[0], turned[1], CLASSES), 2) == expected


def test_arrays_may_be_flipped_or_read_only() -> None:
    ids = np.array([[1, 2, 2]])
    ids.flags.writeable = False
    assert PanopticMap.of_coco(ids, [], {}).id_map.tolist() == [[1, 2, 2]]
    assert PanopticMap.of_coco(ids[:, ::-1], [], {}).id_map.tolist() == [[2, 2, 1]]


def test_ids_may_be_coded_in_colours() -> None:
    ids = np.array([[1, 256, 65536], [(1 << 24) - 1, 0, 257]])
    pixels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    assert PanopticMap.of_coco(pixels, [], {}).id_map.tolist() == ids.tolist()
    written = np.zeros(ids.shape, np.int32)
    ids_of_colors(pixels, written)
    assert (written == ids).all()


def test_things_lie_over_stuff() -> None:
    stuff = LabelMap(torch.tensor([[0, 0, 1, 2, 255]]))
    masks = torch.zeros(3, 1, 5, dtype=torch.bool)
    masks[0, 0, 1] = masks[1, 0, 2] = True
    made = PanopticMap.of_things(stuff, MaskSet.of(masks, torch.tensor([2, 3, 2])), CLASSES)
    assert made.id_map.tolist() == [[1, 5, 6, 0, 0]]
    assert dict(zip(made.ids.tolist(), made.classes.tolist(), strict=True)) == {1: 0, 5: 2, 6: 3}
    assert tuple(panoptic_quality(made, made, CLASSES).overall) == (1, 1, 1, 3)
    with pytest.raises(ValueError, match="must not overlap"):
        PanopticMap.of_things(stuff, MaskSet.of(masks[[0, 0]], torch.tensor([2, 2])), CLASSES)
    with pytest.raises(ValueError, match="outside the table of 4"):
        PanopticMap.of_things(
            LabelMap(torch.tensor([[9]])), MaskSet.of(masks[:0, :, :1], torch.tensor([1])[:0]), CLASSES
        )


# --- bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prediction, target, message",
    [
        (
            square("19", {1: 0}),
            square("11", {1: 0}),
            "predicted segment 9 in image 17 is in the map, but not",
        ),
        (square("11", {1: 0, 4: 1}), square("11", {1: 0}), "segment 4 in image 17 is in the table, but not"),
        (
            square("11", {1: 8}),
            square("11", {1: 0}),
            "segment 1 in image 17 has the unknown label 8, expected 0..3",
        ),
        (
            square("11", {1: 0}),
            square("11", {1: -1}),
            "the target segment 1 in image 17 has the unknown label -1",
        ),
        (square("11", {1: 0}), square("11", {0: 1}), "target table in image 17 has a segment 0"),
        (square("11", {1: 0}), square("111", {1: 0}), "one shape, got .* in image 17"),
    ],
)
def test_a_table_that_does_not_fit_its_map_is_named(
    prediction: PanopticMap, target: PanopticMap, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        PanopticMetrics(CLASSES).update(prediction, target, ids=["17"])


def test_a_doubled_id_is_refused() -> None:
    twice = PanopticMap.of(torch.tensor([[3]]), torch.tensor([3, 3]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="segment 3 stands in the table twice"):
        panoptic_quality(twice, square("1", {1: 0}), CLASSES)


def test_an_unknown_category_is_named_with_image_and_segment() -> None:
    with pytest.raises(ValueError, match="segment 5 in image 17 has the unknown category 99"):
        PanopticMap.of_coco(np.array([[5]]), [{"id": 5, "category_id": 99}], LABEL_OF, "17")
    with pytest.raises(ValueError, match="needs an id and a category_id"):
        PanopticMap.of_coco(np.array([[5]]), [{"id": 5}], LABEL_OF)


def test_numbers_of_images_must_agree_and_scores_are_frozen() -> None:
    one = square("1", {1: 0})
    with pytest.raises(ValueError, match="2 targets need as many predictions, got 1"):
        PanopticMetrics(CLASSES).update([one], [one, one])
    scores = panoptic_quality(one, one, CLASSES)
    with pytest.raises(AttributeError, match="frozen"):
        scores.iou = scores.iou
    with pytest.raises(ValueError, match="4 classes need as many counts, got 1"):
        PanopticScores(scores.iou[:1], *[scores.true_positives[:1]] * 3, CLASSES)


# --- accumulation ---------------------------------------------------------------------------------------


def state(metrics: PanopticMetrics) -> list[Tensor]:
    return [metrics.iou, metrics.true_positives, metrics.false_positives, metrics.false_negatives]


def test_images_add_up_one_by_one_and_together() -> None:
    pairs = [maps(seed) for seed in range(12)]
    single, whole = PanopticMetrics(CLASSES), PanopticMetrics(CLASSES)
    for prediction, target in pairs:
        single.update(prediction, target)
    whole.update([p for p, _ in pairs], [t for _, t in pairs])
    assert all(torch.equal(a, b) for a, b in zip(state(single), state(whole), strict=True))
    single.reset()
    assert not any(x.any() for x in state(single))


def one_of_two(rank: int, port: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    metrics = PanopticMetrics(CLASSES)
    for seed in range(rank, 9, 2):
        metrics.update(*maps(seed))
    scores = metrics.compute()
    torch.save([scores.iou, scores.true_positives, scores.false_negatives], Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_score_what_one_scores(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(one_of_two, (port, str(tmp_path)), nprocs=2)
    pairs = [maps(seed) for seed in range(9)]
    scores = panoptic_quality([p for p, _ in pairs], [t for _, t in pairs], CLASSES)
    for rank in range(2):
        iou, found, missed = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.allclose(iou, scores.iou, rtol=1e-12)
        assert torch.equal(found, scores.true_positives)
        assert torch.equal(missed, scores.false_negatives)


# --- the kernel -----------------------------------------------------------------------------------------


def reference_overlaps(first: np.ndarray, second: np.ndarray) -> list[list[int]]:
    pairs, area = np.unique(np.stack([first.ravel(), second.ravel()]), axis=1, return_counts=True)
    return np.vstack([pairs, area]).T.tolist()


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 300),
    values=st.integers(1, 40),
    run=st.integers(1, 90),
    kinds=st.sampled_from([("i4", "i4"), ("i8", "i8"), ("u1", "i8"), ("i8", "i4")]),
    seed=st.integers(0, 1 << 30),
)
def test_overlaps_are_those_of_pixels(
    size: int, values: int, run: int, kinds: tuple[str, str], seed: int
) -> None:
    random = np.random.default_rng(seed)
    first, second = (
        np.repeat(random.integers(0, values, size), run)[: max(1, size)].astype(kind) for kind in kinds
    )
    assert sorted(overlaps(first, second).tolist()) == reference_overlaps(first, second)


def test_overlaps_of_noise_with_large_and_negative_ids_fill_many_tables() -> None:
    random = np.random.default_rng(0)
    first, second = random.integers(-(1 << 40), 1 << 40, (2, 90, 70))
    assert sorted(overlaps(first, second).tolist()) == reference_overlaps(first, second)


def test_overlaps_of_small_types_cross_their_pieces() -> None:
    random = np.random.default_rng(0)
    first, second = random.integers(0, 3, (2, 300, 333)).astype(np.uint8)
    assert sorted(overlaps(first, second).tolist()) == reference_overlaps(first, second)
    assert overlaps(first[:0], second[:0]).tolist() == []
