"""Scores of a confusion matrix, and the rule for classes that are absent."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from pixelwise.metrics import Scores, confusion_matrix
from pixelwise.types import ClassTable, voc_palette


def table(k: int) -> ClassTable:
    return ClassTable(tuple(f"class {i}" for i in range(k)), voc_palette(k))


def scores(prediction: list[int], target: list[int], k: int, absent: str = "exclude") -> Scores:
    return Scores(confusion_matrix(torch.tensor(prediction), torch.tensor(target), k), table(k), absent)


# --- the definitions, from sets of pixels -----------------------------------------------------------


def sets(prediction: np.ndarray, target: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
    valid = target != 255
    return [((prediction == c) & valid, (target == c) & valid) for c in range(k)]


def test_scores_are_those_of_sets_of_pixels() -> None:
    prediction, target = torch.randint(0, 4, (2, 12, 13)), torch.randint(0, 4, (2, 12, 13))
    target[:, :3] = 255
    ours = Scores(confusion_matrix(prediction, target, 4), table(4))
    pairs = sets(prediction.numpy(), target.numpy(), 4)
    iou = np.array([(p & t).sum() / (p | t).sum() for p, t in pairs])
    recall = np.array([(p & t).sum() / t.sum() for p, t in pairs])
    precision = np.array([(p & t).sum() / p.sum() for p, t in pairs])
    support = np.array([t.sum() for _, t in pairs])
    f1 = 2 * precision * recall / (precision + recall)
    for one, other in (
        (ours.iou, iou), (ours.accuracy, recall), (ours.recall, recall), (ours.precision, precision),
        (ours.dice, f1), (ours.f1, f1), (ours.support, support),
    ):  # fmt: skip
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-12)
    assert ours.mean_iou == pytest.approx(iou.mean())
    assert ours.mean_accuracy == pytest.approx(recall.mean())
    assert ours.mean_dice == pytest.approx(f1.mean())
    assert ours.pixel_accuracy == pytest.approx((prediction == target).sum().item() / support.sum())
    assert ours.frequency_weighted_iou == pytest.approx((support * iou).sum() / support.sum())


def test_a_worked_example_by_hand() -> None:
    # rows: 4 pixels of sky of which 3 found, 4 of road all found
    worked = Scores(torch.tensor([[3, 1], [0, 4]]), ClassTable.of("sky", "road"))
    assert worked.iou.tolist() == [3 / 4, 4 / 5]
    assert worked.dice.tolist() == [6 / 7, 8 / 9]
    assert worked.accuracy.tolist() == [3 / 4, 1.0]
    assert worked.precision.tolist() == [1.0, 4 / 5]
    assert worked.as_dict() == {
        "pixel_accuracy": 7 / 8,
        "mean_accuracy": 7 / 8,
        "mean_iou": pytest.approx(0.775),
        "frequency_weighted_iou": pytest.approx((4 * 0.75 + 4 * 0.8) / 8),
        "mean_dice": pytest.approx((6 / 7 + 8 / 9) / 2),
    }
    assert worked.rows() == [("sky", 3 / 4, 3 / 4, 6 / 7, 4), ("road", 4 / 5, 1.0, 8 / 9, 4)]
    assert worked.rows()[1].name == "road"


@pytest.mark.parametrize(
    ("matrix", "kappa"),
    [
        ([[20, 5], [10, 15]], 0.4),  # p_o = 0.7, p_e = 0.5
        ([[5, 0], [0, 5]], 1.0),
        ([[0, 5], [5, 0]], -1.0),
        ([[4, 4], [4, 4]], 0.0),
        ([[9, 1], [0, 0]], 0.0),  # one map holds one class: nothing beyond chance
        ([[2**40, 0], [0, 2**40]], 1.0),
    ],
)
def test_kappa_is_agreement_beyond_chance(matrix: list[list[int]], kappa: float) -> None:
    assert Scores(torch.tensor(matrix), table(2)).kappa == pytest.approx(kappa, abs=1e-15)


def test_kappa_of_one_and_the_same_class_is_nan() -> None:
    assert math.isnan(Scores(torch.tensor([[7, 0], [0, 0]]), table(2)).kappa)


def test_counts_beyond_2_to_the_31_and_2_to_the_53_stay_integers() -> None:
    huge = Scores(torch.tensor([[2**40, 1], [0, 2**40]]), table(2))
    assert huge.support.tolist() == [2**40 + 1, 2**40]
    assert huge.iou[0].item() == 2**40 / (2**40 + 1)
    added = torch.tensor([[2**54, 0], [0, 0]]) + torch.tensor([[1, 0], [0, 0]])
    assert Scores(added, table(2)).support[0] == 2**54 + 1


# --- absent classes --------------------------------------------------------------------------------------

TARGET = [0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize(("absent", "mean_iou"), [("exclude", 0.722), ("zero", 0.542), ("one", 0.792)])
def test_a_class_that_is_nowhere_scores_by_the_named_rule(absent: str, mean_iou: float) -> None:
    assert scores([0, 0, 1, 1, 2, 2], TARGET, 4, absent).mean_iou == pytest.approx(mean_iou, abs=5e-4)


@pytest.mark.parametrize("absent", ["exclude", "zero", "one"])
def test_a_class_that_is_predicted_but_not_there_counts_0_under_every_rule(absent: str) -> None:
    ours = scores([0, 0, 1, 2, 2, 3], TARGET, 4, absent)
    assert ours.iou[3] == 0
    assert ours.dice[3] == 0
    assert ours.precision[3] == 0
    assert ours.mean_iou == pytest.approx((1 + 1 + 2 / 3 + 0) / 4)  # 0.667


NAN = math.nan
RULES = {
    # support, predicted -> (iou, dice, accuracy, precision) under exclude, zero, one
    "absent": ([0], [0], [(NAN,) * 4, (0,) * 4, (1,) * 4]),
    "only predicted": ([0], [1], [(0, 0, NAN, 0), (0,) * 4, (0,) * 4]),
    "only in the target": ([1], [0], [(0, 0, 0, NAN), (0,) * 4, (0,) * 4]),
    "found": ([1], [1], [(1,) * 4] * 3),
}


@pytest.mark.parametrize("case", RULES)
@pytest.mark.parametrize(("column", "absent"), [(0, "exclude"), (1, "zero"), (2, "one")])
def test_the_table_of_rules_is_kept(case: str, column: int, absent: str) -> None:
    in_target, predicted, by_rule = RULES[case]
    # class 1 is looked at; one pixel of class 0 makes sure that something is counted
    ours = scores([0, *predicted], [0, *in_target], 2, absent)
    got = (ours.iou[1], ours.dice[1], ours.accuracy[1], ours.precision[1])
    torch.testing.assert_close(torch.stack(got), torch.tensor(by_rule[column]).double(), equal_nan=True)


def test_mean_accuracy_is_over_classes_with_support() -> None:
    assert scores([0, 0, 1, 2], [0, 0, 1, 1], 4).mean_accuracy == pytest.approx((1 + 1 / 2) / 2)


def test_frequency_weighted_iou_does_not_depend_on_the_rule() -> None:
    values = {
        scores([0, 0, 1, 3], [0, 0, 1, 1], 5, rule).frequency_weighted_iou
        for rule in ("exclude", "zero", "one")
    }
    assert values == {(2 * 1 + 2 * 0.5) / 4}


@pytest.mark.parametrize("absent", ["exclude", "zero", "one"])
@pytest.mark.parametrize(
    "name", ["pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou", "mean_dice", "kappa"]
)
def test_all_pixels_ignored_gives_nan_with_a_warning(absent: str, name: str) -> None:
    nothing = scores([0, 1], [255, 255], 3, absent)
    with pytest.warns(UserWarning, match="no labelled pixel was counted"):
        assert math.isnan(getattr(nothing, name))
    assert nothing.iou.isnan().all()
    assert "no pixel counted" in repr(nothing)


# --- the object ---------------------------------------------------------------------------------------------


def test_scores_are_frozen_and_can_be_copied_and_pickled() -> None:
    ours = scores([0, 0, 1], [0, 1, 1], 2)
    with pytest.raises(AttributeError, match="frozen"):
        ours.absent = "one"
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert other.as_dict() == ours.as_dict()
        assert other.classes == ours.classes


def test_the_representation_tells_the_score_and_the_rule() -> None:
    assert repr(scores([0, 0], [0, 0], 2)) == "Scores(mean IoU 1.0000, 2 classes, 2 pixels, absent='exclude')"


@pytest.mark.parametrize(
    ("matrix", "absent", "message"),
    [
        (torch.zeros(3, 3, dtype=torch.long), "exclude", "square matrix|matrix"),
        (torch.zeros(2, 3, dtype=torch.long), "exclude", "square matrix|matrix"),
        (torch.zeros(2, 2, dtype=torch.long), "skip", "absent"),
    ],
)
def test_what_cannot_be_scored_is_refused(matrix: Tensor, absent: str, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):  # TypeError where shapes are checked
        Scores(matrix, table(2), absent)
