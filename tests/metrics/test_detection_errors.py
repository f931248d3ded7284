"""Kinds of errors of detections and what they cost, on worked examples."""

import pytest
import torch

from pixelwise.metrics import BoxMetrics, InstanceMetrics
from pixelwise.metrics.coco.errors import DetectionErrors
from pixelwise.types import Boxes, ClassTable, MaskSet

CLASSES = ClassTable.of("cat", "dog")
THERE = Boxes.of(torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]), torch.tensor([0, 0, 1]))


def errors(found: list[tuple[list[float], int, float]], there: Boxes = THERE) -> DetectionErrors:
    """Of detections: a box, a class and a score each."""
    boxes = torch.tensor([box for box, _, _ in found]).reshape(-1, 4)
    labels = torch.tensor([label for _, label, _ in found], dtype=torch.int64)
    scores = torch.tensor([score for _, _, score in found])
    metrics = BoxMetrics(CLASSES)
    metrics.update(Boxes.of(boxes, labels, scores), there)
    computed = metrics.compute()
    assert computed.errors is not None
    assert computed.errors.ap50 == pytest.approx(computed.average_precision(0.5), nan_ok=True)
    return computed.errors


RIGHT = [([0.0, 0, 10, 10], 0, 0.9), ([20.0, 0, 30, 10], 0, 0.8), ([40.0, 0, 50, 10], 1, 0.7)]
HALF = 51 / 101  # AP of a class of two objects of which the surest detection finds one


def test_what_is_right_has_no_errors() -> None:
    found = errors(RIGHT)
    assert found.ap50 == 1
    assert not any(found.counts.values())
    assert not any(found.costs.values())
    assert found.confusion.tolist() == [[2, 0, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    "wrong, kind, cost, ap",
    [
        # A box beside its object (IoU 1 / 3) becomes right; the object itself is not counted as missed.
        (([25.0, 0, 35, 10], 0, 0.8), "localization", 1 - HALF, HALF),
        (([20.0, 0, 30, 10], 1, 0.2), "classification", 1 - HALF, HALF),
        # Neither class nor place: the object is missed too.
        (([25.0, 0, 35, 10], 1, 0.2), "both", 0.0, HALF),
        # Surer than what is right: half of all detections are right up to a recall of 1 / 2.
        (([60.0, 0, 70, 10], 0, 0.95), "background", HALF - HALF / 2, HALF / 2),
        (([1.0, 0, 10, 10], 0, 0.6), "duplicate", 0.0, HALF),
    ],
)
def test_an_error_is_of_one_kind_and_costs_what_its_correction_gives(wrong, kind, cost, ap) -> None:
    found = errors([RIGHT[0], wrong, RIGHT[2]])
    assert {name: count for name, count in found.counts.items() if count and name != "missed"} == {kind: 1}
    assert found.counts["missed"] == (kind not in ("localization", "classification"))
    assert found.ap50 == pytest.approx((ap + 1) / 2)
    assert found.costs[kind] == pytest.approx(cost / 2)


def test_missed_objects_cost_what_not_asking_for_them_gives() -> None:
    found = errors([RIGHT[0], RIGHT[2]])
    assert found.counts["missed"] == 1
    assert found.costs["missed"] == pytest.approx((1 - HALF) / 2)
    assert found.confusion.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert errors([]).counts["missed"] == 3


def test_of_two_wrong_places_of_one_object_only_the_surer_becomes_right() -> None:
    found = errors([RIGHT[0], ([25.0, 0, 35, 10], 0, 0.8), ([14.0, 0, 24, 10], 0, 0.7), RIGHT[2]])
    assert found.counts["localization"] == 2
    assert found.costs["localization"] == pytest.approx((1 - HALF) / 2)


def test_crowds_are_neither_found_nor_missed() -> None:
    crowd = Boxes.of(THERE.boxes, THERE.classes, is_crowd=torch.tensor([False, True, False]))
    found = errors([RIGHT[0], ([20.0, 0, 24, 10], 0, 0.95), RIGHT[2]], crowd)
    assert found.ap50 == 1
    assert not any(found.counts.values())


def test_without_objects_there_is_nothing_to_lose() -> None:
    nothing = Boxes.of(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    found = errors([RIGHT[0]], nothing)
    assert found.counts["background"] == 1
    assert found.confusion[2, 0] == 1
    assert found.ap50 != found.ap50


@pytest.mark.parametrize("seed", range(4))
def test_the_whole_agrees_with_the_scores_on_random_masks(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def some(count: int) -> MaskSet:
        corners = torch.randint(0, 20, (count, 2), generator=generator)
        y, x = torch.arange(32)[None, :, None], torch.arange(32)[None, None]
        top, left = corners[:, 0, None, None], corners[:, 1, None, None]
        masks = (y >= top) & (y < top + 9) & (x >= left) & (x < left + 9)
        scores = torch.rand(count, generator=generator)
        labels = torch.randint(0, 2, (count,), generator=generator)
        return MaskSet.of(masks, labels, scores, torch.rand(count, generator=generator) < 0.1)

    metrics = InstanceMetrics(CLASSES)
    for _ in range(5):
        there = some(6)
        found = some(12)
        metrics.update(MaskSet.of(found.masks, found.classes, found.scores), there)
    scores = metrics.compute()
    assert scores.errors is not None
    assert scores.errors.ap50 == pytest.approx(scores.average_precision(0.5))
    assert all(cost >= -1e-9 for cost in scores.errors.costs.values())
    assert scores.errors.confusion[:2].sum() == sum(scores.num_targets)
