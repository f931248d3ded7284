"""Cityscapes' iIoU and instance AP: the official numbers, the rules one by one, bad input."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pixelwise.metrics.cityscapes.instances import CityscapesInstanceMetrics, CityscapesInstanceScores
from pixelwise.metrics.cityscapes.pixels import (
    COUNTED,
    LABELS,
    THINGS,
    CityscapesMetrics,
    CityscapesScores,
    label_of,
)
from pixelwise.types import MaskSet

ROAD, PERSON, RIDER, CAR, CARAVAN = 7, 24, 25, 26, 29
Prediction = list[tuple[np.ndarray, int, float]]


def scene(seed: int) -> tuple[np.ndarray, np.ndarray, Prediction]:
    """Instance map, predicted ids and predicted masks, with groups, small objects, ignored ids and ties."""
    random = np.random.default_rng(seed)
    instances = np.full((70, 100), random.choice([7, 8, 11, 4, 9]), np.int64)
    instances[35:] = random.choice([7, 21, 1, 16])
    for number in range(int(random.integers(2, 9))):
        label, y, x = int(random.integers(24, 34)), int(random.integers(70)), int(random.integers(100))
        value = label if random.random() < 0.2 else 1000 * label + number
        instances[y : y + random.integers(3, 40), x : x + random.integers(3, 40)] = value
    ids = np.roll(label_of(instances), (2, 1), (0, 1))
    ids[random.random(ids.shape) < 0.05] = random.integers(34)
    masks: Prediction = []
    for value in np.unique(instances[instances >= 24]).tolist():
        for _ in range(int(random.integers(1, 3))):
            mask = np.roll(instances == value, tuple(int(n) for n in random.integers(-2, 3, 2)), (0, 1))
            if random.random() < 0.3:
                mask[:, : random.integers(100)] = False
            label = (
                int(label_of(np.array([value]))[0]) if random.random() < 0.9 else int(random.integers(20, 34))
            )
            masks.append((mask, label, int(random.integers(1, 10)) / 10))
    return instances, ids, masks


def mask_set(masks: Prediction, shape: tuple[int, ...] = (1, 1)) -> MaskSet:
    stacked = np.stack([mask for mask, _, _ in masks]) if masks else np.zeros((0, *shape), bool)
    labels = torch.tensor([label for _, label, _ in masks], dtype=torch.int64)
    return MaskSet.of(
        torch.from_numpy(stacked), labels, torch.tensor([score for *_, score in masks], dtype=torch.float64)
    )


def pixel_scores(prediction: list[list[int]], instances: list[list[int]]) -> CityscapesScores:
    metrics = CityscapesMetrics()
    metrics.update(torch.tensor(prediction), torch.tensor(instances))
    scores: CityscapesScores = metrics.compute()
    return scores


def instance_scores(masks: Prediction, instances: np.ndarray) -> CityscapesInstanceScores:
    metrics = CityscapesInstanceMetrics()
    metrics.update(mask_set(masks, instances.shape), torch.from_numpy(instances))
    scores: CityscapesInstanceScores = metrics.compute()
    return scores


def boxes(*spans: tuple[int, int], label: int = CAR, width: int = 60) -> Prediction:
    """Masks of 20 rows from one column to another, with falling scores."""
    masks = []
    for i, (start, stop) in enumerate(spans):
        mask = np.zeros((20, width), bool)
        mask[:, start:stop] = True
        masks.append((mask, label, 0.9 - 0.1 * i))
    return masks


def row(*values: tuple[int, int], width: int = 60) -> np.ndarray:
    """An instance map of 20 rows: values with their numbers of columns, then road."""
    instances = np.full((20, width), ROAD)
    start = 0
    for value, columns in values:
        instances[:, start : start + columns] = value
        start += columns
    return instances


# cityscapesScripts 2.3.0 on scenes 0..15.
OFFICIAL: dict[str, Any] = {
    "means": [0.6800442986219677, 0.5968417016378997, 0.663852673816849, 0.6687595140381395],
    "iiou": {
        "person": 0.6527256129539002,
        "rider": 0.7309391557519415,
        "car": 0.4887179556925462,
        "truck": 0.6244881678515762,
        "bus": 0.4925988349858903,
        "train": 0.6376094677254853,
        "motorcycle": 0.666686655779459,
        "bicycle": 0.48096776236239913,
    },
    "category_iou": {
        "flat": 0.8367924528301887,
        "construction": 0.8100566012899829,
        "object": 0.0,
        "nature": 0.8559303104757651,
        "sky": np.nan,
        "human": 0.7143767254194097,
        "vehicle": 0.7659599528857479,
    },
    "category_iiou": {"human": 0.7136592337108777, "vehicle": 0.6238597943654013},
    "ap": [0.3492020502645503, 0.6347321428571429],
    "class_ap": {
        "person": 0.6,
        "rider": 0.6222222222222222,
        "car": 0.0,
        "truck": 0.2333333333333333,
        "bus": 0.2225,
        "train": 0.4656666666666666,
        "motorcycle": 0.15767195767195769,
        "bicycle": 0.49222222222222217,
    },
    "class_ap50": {
        "person": 1.0,
        "rider": 1.0,
        "car": 0.0,
        "truck": 0.3333333333333333,
        "bus": 0.725,
        "train": 0.9183333333333333,
        "motorcycle": 0.3373015873015873,
        "bicycle": 0.7638888888888888,
    },
}


# --- pixels -------------------------------------------------------------------------------------------


def test_seeded_scenes_score_pixels_as_cityscapes_scripts() -> None:
    metrics = CityscapesMetrics()
    for seed in range(16):
        instances, ids, _ = scene(seed)
        metrics.update(torch.from_numpy(ids), torch.from_numpy(instances))
    scores = metrics.compute()
    means = [scores.mean_iou, scores.mean_iiou, scores.mean_category_iou, scores.mean_category_iiou]
    assert means == OFFICIAL["means"]
    assert scores.iiou == pytest.approx(OFFICIAL["iiou"], rel=0, nan_ok=True)
    assert scores.category_iou == pytest.approx(OFFICIAL["category_iou"], rel=0, nan_ok=True)
    assert scores.category_iiou == pytest.approx(OFFICIAL["category_iiou"], rel=0, nan_ok=True)


@pytest.mark.parametrize("seed", range(6))
def test_weighted_pixels_are_those_of_a_plain_loop(seed: int) -> None:
    instances, ids, _ = scene(seed)
    metrics = CityscapesMetrics()
    metrics.update(torch.from_numpy(ids), torch.from_numpy(instances))
    scores = metrics.compute()
    for place, label in enumerate(THINGS):
        found = missed = 0.0
        for value in np.unique(instances[instances // 1000 == label]):
            hits = ids[instances == value] == label
            found += LABELS[label].mean_size * hits.mean()
            missed += LABELS[label].mean_size * (1 - hits.mean())
        assert scores.true_positives[place].item() == pytest.approx(found)
        assert scores.false_negatives[place].item() == pytest.approx(missed, abs=1e-9)


def test_a_perfect_prediction_scores_one_in_everything() -> None:
    scores = pixel_scores([[ROAD, CAR, PERSON]], [[ROAD, 26000, 24001]])
    assert scores.mean_iou == scores.mean_iiou == scores.mean_category_iou == scores.mean_category_iiou == 1
    assert set(scores.iou) == {LABELS[label].name for label in COUNTED}
    assert len(COUNTED) == 19


def test_small_objects_count_as_much_as_large_ones() -> None:
    scores = pixel_scores([[CAR] * 9 + [ROAD]], [[26000] * 9 + [26001]])
    assert scores.iou["car"] == 0.9
    assert scores.iiou["car"] == 0.5


def test_ignored_pixels_do_not_count_but_a_prediction_of_an_ignored_id_is_a_miss() -> None:
    assert pixel_scores([[CAR, CAR]], [[26000, 1]]).iou["car"] == 1
    assert pixel_scores([[CAR, CARAVAN]], [[26000, 26000]]).iou["car"] == 0.5


def test_a_class_taken_for_another_of_its_category_is_right_for_the_category() -> None:
    scores = pixel_scores([[RIDER, PERSON]], [[24000, 24000]])
    assert scores.iou["person"] == 0.5
    assert scores.category_iou["human"] == scores.category_iiou["human"] == 1


def test_a_group_has_pixels_but_no_objects() -> None:
    scores = pixel_scores([[CAR, ROAD]], [[CAR, ROAD]])
    assert scores.iou["car"] == 1
    assert np.isnan(scores.iiou["car"])


def test_nothing_that_counts_is_nan_with_a_warning() -> None:
    scores = pixel_scores([[CAR]], [[1]])
    with pytest.warns(UserWarning, match="nothing that counts"):
        assert np.isnan(scores.mean_iou)
    assert "no pixel counted" in repr(scores)


@pytest.mark.parametrize(
    "prediction, instances, message",
    [
        ([[34]], [[7]], "the prediction holds the id 34 in ulm, expected 0..33"),
        ([[7]], [[99]], "the instance_map holds the id 99 in ulm"),
        ([[7]], [[-1]], "the instance_map holds the id -1 in ulm"),
        ([[7]], [[7001]], "the object 7001 in ulm, but road is no thing"),
    ],
)
def test_ids_that_cityscapes_does_not_have_are_named(
    prediction: list[list[int]], instances: list[list[int]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        CityscapesMetrics().update(torch.tensor(prediction), torch.tensor(instances), "ulm")


# --- instances ----------------------------------------------------------------------------------------


def test_seeded_scenes_score_instances_as_cityscapes_scripts() -> None:
    metrics = CityscapesInstanceMetrics()
    for seed in range(16):
        instances, _, masks = scene(seed)
        metrics.update(mask_set(masks, instances.shape), torch.from_numpy(instances))
    scores = metrics.compute()
    assert [scores.mean_ap, scores.mean_ap50] == OFFICIAL["ap"]
    assert scores.class_ap == pytest.approx(OFFICIAL["class_ap"], rel=0, nan_ok=True)
    assert scores.class_ap50 == pytest.approx(OFFICIAL["class_ap50"], rel=0, nan_ok=True)


def test_perfect_masks_score_one_and_none_score_zero() -> None:
    instances = row((26000, 20), (26001, 20))
    assert instance_scores(boxes((0, 20), (20, 40)), instances).mean_ap == 1
    nothing = instance_scores([], instances)
    assert nothing.mean_ap == 0
    assert np.isnan(nothing.class_ap["person"])


def test_of_two_predictions_on_one_object_the_surest_is_right() -> None:
    instances = row((26000, 20), (26001, 20))
    doubled = instance_scores(boxes((0, 20), (0, 20), (20, 40)), instances)
    # Recall 1/2 at precision 1, then 1/2 at 1/2, then 1 at 2/3; half the neighbours' distance each.
    assert doubled.mean_ap50 == pytest.approx(1 * 0.25 + 0.5 * 0.25 + 2 / 3 * 0.25 + 1 * 0.25)


def test_an_overlap_of_exactly_the_threshold_is_no_match() -> None:
    instances = row((26000, 20))
    assert instance_scores(boxes((0, 10)), instances).ap[2, 0] == 0
    assert instance_scores(boxes((0, 11)), instances).ap[2, :2].tolist() == [1, 0]


def test_void_groups_and_small_objects_excuse_a_prediction() -> None:
    target = (26000, 20)
    for other, wrong in (((1, 20), False), ((26, 20), False), ((24, 20), True), ((29000, 20), True)):
        scores = instance_scores(boxes((20, 40), (0, 20)), row(target, other))
        assert (scores.mean_ap50 < 1) == wrong, other
    small = row(target, (26001, 4))
    assert instance_scores(boxes((20, 24), (0, 20)), small).mean_ap50 == 1


def test_small_objects_and_groups_need_not_be_found() -> None:
    assert instance_scores(boxes((0, 20)), row((26000, 20), (26001, 4), (26, 10))).mean_ap == 1


def test_where_every_prediction_is_ignored_the_score_is_zero() -> None:
    assert instance_scores(boxes((20, 40)), row((26000, 20), (1, 20))).mean_ap == 0


def test_empty_masks_and_other_classes_are_not_looked_at() -> None:
    instances = row((26000, 20))
    others = [*boxes((0, 20)), *boxes((0, 20), label=ROAD), *boxes((0, 20), label=CARAVAN), *boxes((5, 5))]
    assert instance_scores(others, instances).mean_ap == 1


def test_without_targets_the_score_is_nan_with_a_warning() -> None:
    scores = instance_scores(boxes((0, 20)), row())
    with pytest.warns(UserWarning, match="no target"):
        assert np.isnan(scores.mean_ap)
    assert "no target" in repr(scores)


def test_bad_instances_are_told() -> None:
    metrics = CityscapesInstanceMetrics()
    with pytest.raises(ValueError, match="prediction holds the id 40 in ulm"):
        metrics.update(mask_set(boxes((0, 20), label=40)), torch.from_numpy(row()), "ulm")
    with pytest.raises(ValueError, match="instance_map holds the id 99 in ulm"):
        metrics.update(mask_set(boxes((0, 20))), torch.from_numpy(row((99, 3))), "ulm")
    with pytest.raises(AttributeError, match="frozen"):
        metrics.compute().ap = np.zeros((8, 10))


@pytest.mark.compile
def test_other_shapes_are_told() -> None:
    target = torch.zeros(3, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"one shape, got \(20, 60\) and \(3, 3\) in ulm"):
        CityscapesInstanceMetrics().update(mask_set(boxes((0, 20))), target, "ulm")
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3\) and \(3, 3\) in ulm"):
        CityscapesMetrics().update(target[:2], target, "ulm")


def test_states_of_two_processes_add_up() -> None:
    whole, parts = CityscapesInstanceMetrics(), [CityscapesInstanceMetrics() for _ in range(2)]
    pixels, pieces = CityscapesMetrics(), [CityscapesMetrics() for _ in range(2)]
    for seed in range(6):
        instances, ids, masks = scene(seed)
        for metrics in (whole, parts[seed % 2]):
            metrics.update(mask_set(masks, instances.shape), torch.from_numpy(instances))
        for counter in (pixels, pieces[seed % 2]):
            counter.update(torch.from_numpy(ids), torch.from_numpy(instances))

    def gathered(states: list[Tensor]) -> Any:
        """What torchmetrics asks of every process, from a list in the order in which it asks."""
        queue = iter(states)
        return lambda mine, group=None: [mine, next(queue)]

    other = parts[1]
    parts[0].dist_sync_fn = gathered([torch.cat(other.predictions), other.targets, other.false_negatives])
    parts[0].distributed_available_fn = lambda: True
    assert np.array_equal(parts[0].compute().ap, whole.compute().ap, equal_nan=True)
    pieces[0].dist_sync_fn = gathered([pieces[1].matrix, pieces[1].true_positives, pieces[1].false_negatives])
    pieces[0].distributed_available_fn = lambda: True
    assert pieces[0].compute().mean_iiou == pytest.approx(pixels.compute().mean_iiou)
