"""Scores where a pixel may have several classes."""

import math

import numpy as np
import pytest
import torch
import torchmetrics
from sklearn.metrics import jaccard_score, multilabel_confusion_matrix
from torch import Tensor

from pixelwise.metrics.pixels.multilabel import MultilabelMetrics, MultilabelScores, multilabel_matrices
from pixelwise.types import ClassTable, voc_palette

K = 4
CLASSES = ClassTable(tuple("abcd"), voc_palette(K), exclusive=False)


def maps() -> tuple[Tensor, Tensor]:
    prediction, target = (torch.rand(3, K, 9, 11) < 0.4).long(), (torch.rand(3, K, 9, 11) < 0.4).long()
    return prediction, target


def test_matrices_are_those_of_sklearn() -> None:
    prediction, target = maps()
    flat = [x.movedim(1, -1).reshape(-1, K).numpy() for x in (target, prediction)]
    np.testing.assert_array_equal(
        multilabel_matrices(prediction, target).numpy(), multilabel_confusion_matrix(*flat)
    )
    scores = MultilabelScores(multilabel_matrices(prediction, target), CLASSES)
    np.testing.assert_allclose(scores.iou.numpy(), jaccard_score(*flat, average=None))


def test_scores_are_those_of_torchmetrics_where_places_are_ignored() -> None:
    prediction, target = maps()
    target[torch.rand(target.shape) < 0.2] = 255
    scores = MultilabelScores(multilabel_matrices(prediction, target), CLASSES)
    options = {"num_labels": K, "ignore_index": 255, "average": "none"}
    classification = torchmetrics.functional.classification
    for mine, theirs in (
        (scores.iou, classification.multilabel_jaccard_index),
        (scores.dice, classification.multilabel_f1_score),
        (scores.precision, classification.multilabel_precision),
        (scores.recall, classification.multilabel_recall),
    ):
        torch.testing.assert_close(mine.float(), theirs(prediction, target, **options))
    assert scores.counted == (target != 255).sum()
    assert scores.mean_iou == pytest.approx(scores.iou.mean().item())


def test_scores_above_the_threshold_mean_yes() -> None:
    prediction, target = maps()
    logits = torch.where(prediction == 1, 1.5, -0.5)
    expected = multilabel_matrices(prediction, target)
    assert torch.equal(multilabel_matrices(logits, target), expected)
    assert torch.equal(multilabel_matrices(logits.sigmoid(), target, threshold=0.5), expected)
    assert torch.equal(multilabel_matrices(logits.bfloat16(), target.to(torch.uint8)), expected)
    assert multilabel_matrices(torch.zeros(1, 1, 1), torch.ones(1, 1, 1).long()).tolist() == [
        [[0, 0], [1, 0]]
    ]


@pytest.mark.parametrize(("absent", "expected"), [("exclude", math.nan), ("zero", 0), ("one", 1)])
def test_a_class_that_is_nowhere_scores_by_the_named_rule(absent: str, expected: float) -> None:
    target = torch.tensor([[[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]]])
    scores = MultilabelScores(multilabel_matrices(target, target), CLASSES, absent)
    assert scores.iou.tolist() == pytest.approx([1, expected, 1, 1], nan_ok=True)
    assert scores.mean_iou == pytest.approx(0.75 if absent == "zero" else 1)


def test_nothing_labelled_gives_nan_with_a_warning() -> None:
    nothing = torch.full((1, K, 3), 255)
    scores = MultilabelScores(multilabel_matrices(nothing, nothing), CLASSES, "one")
    with pytest.warns(UserWarning, match="no labelled pixel"):
        assert math.isnan(scores.mean_iou)


def test_batches_and_processes_add_up() -> None:
    prediction, target = maps()
    metrics = MultilabelMetrics(CLASSES)
    for i in range(3):
        metrics.update(prediction[i : i + 1], target[i : i + 1])
    assert torch.equal(metrics.compute().matrices, multilabel_matrices(prediction, target))
    metrics.distributed_available_fn = lambda: True
    metrics.dist_sync_fn = lambda counts, group=None: [counts, 10 * counts]
    metrics.update(prediction[:0], target[:0])
    assert torch.equal(metrics.compute().matrices, 11 * multilabel_matrices(prediction, target))
    rows = metrics.compute().rows()
    assert rows[2].name == "c"
    assert set(metrics.compute().as_dict()) == {"mean_accuracy", "mean_iou", "mean_dice"}


def test_wrong_labels_and_tables_are_refused() -> None:
    prediction, target = maps()
    target[0, 2, 3, 3] = 2
    with pytest.raises(ValueError, match="target holds the label 2 in class 2, outside the table of 2"):
        multilabel_matrices(prediction, target)
    with pytest.raises(ValueError, match="SegmentationMetrics"):
        MultilabelMetrics(ClassTable.of("a", "b"))
    with pytest.raises(ValueError, match=r"shape \(b, 4, ...\)"):
        MultilabelMetrics(CLASSES).update(prediction[:, :3], target[:, :3])
    with pytest.raises(ValueError, match="2 x 2 matrices"):
        MultilabelScores(torch.zeros(3, 2, 2, dtype=torch.long), CLASSES)
    with pytest.raises((ValueError, TypeError), match="target"):
        multilabel_matrices(prediction, target[..., 1:])
