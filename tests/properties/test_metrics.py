"""Identities that scores keep on any maps."""

import math

import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from pixelwise.metrics import Scores, confusion_matrix
from pixelwise.metrics.pixels.band import boundary_band
from pixelwise.metrics.pixels.confusion import confusion_from_logits
from pixelwise.metrics.pixels.multilabel import multilabel_matrices
from pixelwise.types import ClassTable, voc_palette

RULES = st.sampled_from(["exclude", "zero", "one"])


@st.composite
def pairs(draw: st.DrawFn, *, void: bool = True) -> tuple[int, Tensor, Tensor]:
    """k, and a prediction and a target of k classes, few pixels so that classes are absent."""
    k = draw(st.integers(1, 6))
    n = draw(st.integers(1, 20))
    label = st.integers(0, k - 1)
    prediction = draw(st.lists(label, min_size=n, max_size=n))
    target = draw(st.lists(label | st.just(255) if void else label, min_size=n, max_size=n))
    target[0] = target[0] if target[0] != 255 else 0  # at least one pixel counts
    return k, torch.tensor(prediction), torch.tensor(target)


def score(prediction: Tensor, target: Tensor, k: int, absent: str = "exclude") -> Scores:
    classes = ClassTable(tuple(str(i) for i in range(k)), voc_palette(k))
    return Scores(confusion_matrix(prediction, target, k), classes, absent)


def same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-12, atol=0, equal_nan=True)


@settings(deadline=None)
@given(pairs())
def test_a_perfect_prediction_scores_1(pair: tuple[int, Tensor, Tensor]) -> None:
    k, prediction, target = pair
    perfect = torch.where(target == 255, prediction, target)
    for absent in ("exclude", "one"):
        assert all(value == 1 for value in score(perfect, target, k, absent).as_dict().values())
    present = len(set(target.tolist()) - {255})
    assert math.isclose(score(perfect, target, k, "zero").mean_iou, present / k)


@settings(deadline=None)
@given(pairs(), RULES)
def test_scores_lie_in_0_to_1_and_iou_below_dice(pair: tuple[int, Tensor, Tensor], absent: str) -> None:
    k, prediction, target = pair
    scores = score(prediction, target, k, absent)
    assert all(0 <= value <= 1 for value in scores.as_dict().values())
    for per_class in (scores.iou, scores.dice, scores.accuracy, scores.precision):
        assert ((per_class >= 0) & (per_class <= 1) | per_class.isnan()).all()
    assert same(scores.dice, 2 * scores.iou / (1 + scores.iou))
    assert scores.mean_iou <= scores.mean_dice + 1e-12


@settings(deadline=None)
@given(pairs(), RULES, st.randoms(use_true_random=False))
def test_new_names_for_the_classes_change_no_score(
    pair: tuple[int, Tensor, Tensor], absent: str, random
) -> None:
    k, prediction, target = pair
    order = list(range(k))
    random.shuffle(order)
    renamed = torch.full((256,), 255)
    renamed[:k] = torch.tensor(order)
    before, after = (
        score(prediction, target, k, absent),
        score(renamed[prediction], renamed[target], k, absent),
    )
    assert all(math.isclose(value, after.as_dict()[name]) for name, value in before.as_dict().items())
    for name in ("iou", "dice", "accuracy", "precision"):
        assert same(getattr(before, name), getattr(after, name)[order])


@settings(deadline=None)
@given(pairs(void=False), RULES)
def test_prediction_and_target_may_change_places(pair: tuple[int, Tensor, Tensor], absent: str) -> None:
    k, prediction, target = pair
    one, other = score(prediction, target, k, absent), score(target, prediction, k, absent)
    assert same(one.iou, other.iou)
    assert same(one.dice, other.dice)
    assert same(one.precision, other.recall)
    assert one.pixel_accuracy == other.pixel_accuracy
    assert one.kappa == other.kappa or (math.isnan(one.kappa) and math.isnan(other.kappa))


@settings(deadline=None)
@given(pairs(), st.data())
def test_matrices_of_parts_add_up_in_any_order(pair: tuple[int, Tensor, Tensor], data: st.DataObject) -> None:
    k, prediction, target = pair
    order = torch.tensor(data.draw(st.permutations(range(len(target)))))
    cut = data.draw(st.integers(0, len(target)))
    parts = [confusion_matrix(prediction[where], target[where], k) for where in (order[:cut], order[cut:])]
    assert torch.equal(parts[0] + parts[1], confusion_matrix(prediction, target, k))


@settings(deadline=None)
@given(pairs())
def test_one_more_right_pixel_lowers_nothing(pair: tuple[int, Tensor, Tensor]) -> None:
    k, prediction, target = pair
    wrong = ((prediction != target) & (target != 255)).nonzero()
    if not len(wrong):
        return
    better = prediction.clone()
    better[wrong[0]] = target[wrong[0]]
    before, after = score(prediction, target, k, "zero"), score(better, target, k, "zero")
    assert after.mean_iou >= before.mean_iou - 1e-12
    assert after.pixel_accuracy > before.pixel_accuracy


@settings(deadline=None)
@given(pairs())
def test_the_rules_are_ordered(pair: tuple[int, Tensor, Tensor]) -> None:
    k, prediction, target = pair
    zero, exclude, one = (score(prediction, target, k, rule).mean_iou for rule in ("zero", "exclude", "one"))
    assert zero <= exclude + 1e-12
    assert exclude <= one + 1e-12


@settings(deadline=None)
@given(pairs())
def test_kappa_is_at_most_1_and_below_the_share_of_right_pixels(pair: tuple[int, Tensor, Tensor]) -> None:
    k, prediction, target = pair
    scores = score(prediction, target, k)
    assert math.isnan(scores.kappa) or -1 <= scores.kappa <= scores.pixel_accuracy + 1e-12
    perfect = score(torch.where(target == 255, prediction, target), target, k).kappa
    assert math.isnan(perfect) or perfect == 1


@settings(deadline=None)
@given(pairs(), st.integers(0, 2**32 - 1))
def test_scores_and_the_labels_they_stand_for_count_the_same(
    pair: tuple[int, Tensor, Tensor], seed: int
) -> None:
    k, _, target = pair
    logits = torch.randn(1, k, len(target), generator=torch.Generator().manual_seed(seed)).round()
    expected = confusion_matrix(logits.argmax(1)[0], target, k)
    assert torch.equal(confusion_from_logits(logits, target[None]), expected)


@settings(deadline=None)
@given(pairs(), st.integers(1, 30))
def test_a_class_of_its_own_for_every_label_counts_as_the_labels_do(
    pair: tuple[int, Tensor, Tensor], radius: int
) -> None:
    k, prediction, target = pair
    yes = torch.where(target == 255, 255, torch.arange(k)[:, None] == target)[None]  # 1 k n
    found = torch.nn.functional.one_hot(prediction, k).T[None]
    matrices, whole = multilabel_matrices(found, yes), score(prediction, target, k)
    assert torch.equal(matrices[:, 1, 1], whole.true_positives)
    assert torch.equal(matrices[:, 1].sum(1), whole.support)
    assert torch.equal(matrices[:, :, 1].sum(1), whole.predicted)
    band = boundary_band(target[None], radius)[0]
    assert (band <= boundary_band(target[None], radius + 1)[0]).all()
